"""An update for which nothing has changed."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from lepton_pipe.report.casts import CastReport
from lepton_pipe.report.report import Report
from lepton_pipe.run.hidden import HiddenFolder
from lepton_pipe.run.publish import Staging
from lepton_pipe.run.why import Record
from lepton_pipe.spec import NotFinite
from lepton_pipe.store.open import MARKER


def leave_as_is(out: Path) -> Report:
    """Return the report of a result that is what a run would make, and do nothing to it.

    What a run for something else has left beside it when it was stopped is removed.

    Raises
    ------
    LockedError
        When another run writes the output.
    """
    if HiddenFolder(out).is_there():
        Staging(out, overwrite=True, resume=True).discard()
    measured = Record.of(out / MARKER).measured
    values = {
        n: np.asarray(v) if isinstance(v, list) else v
        for n, v in dict(measured.get("values", {})).items()
    }
    outputs = dict(measured.get("outputs", {}))
    casts = [CastReport.from_json(s, c) for s, c in dict(measured.get("casts", {})).items()]
    not_finite = {n: NotFinite(**f) for n, f in dict(measured.get("not_finite", {})).items()}
    return Report(
        out,
        outputs=outputs,
        values=values,
        casts=casts,
        not_finite=not_finite,
        unchanged=True,
    )
