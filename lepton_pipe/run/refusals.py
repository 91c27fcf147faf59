"""What can be refused before a run starts, by looking at the places it would write to."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path

from lepton_pipe.errors import RefusedError, UsageError
from lepton_pipe.plan import Plan
from lepton_pipe.report.plan_text import size
from lepton_pipe.run.publish import refuse_output
from lepton_pipe.store.open import MARKER
from lepton_pipe.store.source import Source
from lepton_pipe.store.urls import is_url

# How small results become when compressed: low guesses, so that no run that would fit is refused.
_COMPRESSED = {"image": 0.3, "mask": 0.005, "labels": 0.005}


def local_output(out: str | Path) -> Path:
    """Return `out` as an absolute path; raise `UsageError` when it is a URL."""
    if is_url(str(out)):
        raise UsageError(
            f"out={out}: results are published by a rename, which only a file system has; name a "
            "local path and copy the result afterwards"
        )
    return Path(out).expanduser().absolute()


def refuse_places(out: Path, sources: Mapping[str, Source], *, overwrite: bool) -> None:
    """Raise if the output cannot be made where it should be.

    Raises
    ------
    OutputExistsError
        When something is there already.
    RefusedError
        When the output lies in an input, or an input in the output.
    """
    refuse_output(out, overwrite=overwrite)
    resolved = out.resolve()
    for name, source in sources.items():
        for path in source.paths():
            place = path.resolve()
            if place == resolved or place in resolved.parents or resolved in place.parents:
                raise RefusedError(
                    f"output {out} and input {name} ({path}) lie inside each other: publishing "
                    "would destroy or change the input; choose an out= elsewhere"
                )
    for above in resolved.parents:
        if (above / MARKER).is_file():
            raise RefusedError(
                f"output {out} would lie inside {above}, the result of another run, and be lost "
                "when that is overwritten; choose an out= elsewhere"
            )
    parent = next((p for p in resolved.parents if p.exists()), None)
    if parent is not None and not parent.is_dir():
        raise UsageError(f"out={out}: {parent} is a file, so nothing can be made in it")


def refuse_space(out: Path, plan: Plan) -> None:
    """Raise if the disk is so full that the results cannot fit.

    Raises
    ------
    RefusedError
        When less is free than the results need even if they compress well.
    """
    parent = next(p for p in out.parents if p.exists())
    free = shutil.disk_usage(parent).free
    need = sum(int(a.nbytes * _COMPRESSED[a.type.kind]) for a in plan.arrays.values())
    if free < need:
        raise RefusedError(
            f"{parent} has {size(free)} free, but the results need at least "
            f"{size(need)}, compressed; make room, or choose an out= on another disk"
        )
