"""See that a repaired result has the bytes that it had when it was made."""

from __future__ import annotations

from pathlib import Path

from lepton_pipe.errors import RunError
from lepton_pipe.ledger.ledger import Ledger
from lepton_pipe.plan import Plan, Stage
from lepton_pipe.run.books import RECORD
from lepton_pipe.run.published import Published, copy_or_link
from lepton_pipe.store.durable import size_and_crc, write_whole
from lepton_pipe.store.open import MARKER


def restore(published: Published, staging: Path, ledger: Ledger, plan: Plan) -> None:
    """Take over the files that are whole, and compare all others with what they were.

    Parameters
    ----------
    published
        The version that is repaired.
    ledger
        That of the run.

    Raises
    ------
    RunError
        When something was computed with other bytes; nothing is published.
    """
    for stage in plan.stages:
        _refuse_others(stage, published.ledger, ledger, plan)
    for name, known in published.ledger.files().items():
        if name == MARKER:
            text = published.ledger.get_fact(RECORD, "")
            write_whole(staging / MARKER, [text.encode()])
        elif not published.is_spoilt(published.out / name):
            copy_or_link(published.out / name, staging / name)
        if not (staging / name).is_file() or size_and_crc(staging / name) != known:
            raise _others(name)


def _refuse_others(stage: Stage, was: Ledger, now: Ledger, plan: Plan) -> None:
    kept = {i for i, w in enumerate(stage.writes) if plan.arrays[w.array].output}
    for old, new in zip(was.rows(stage.index), now.rows(stage.index), strict=True):
        then = sorted(u for u in old.units if u.target in kept)
        if sorted(u for u in new.units if u.target in kept) != then:
            raise _others(f"block {old.block} of stage {stage.name}")


def _others(what: str) -> RunError:
    return RunError(
        f"{what} came out with other bytes than when the result was made, so it cannot be "
        "repaired, and nothing was published: a kernel gives another result every time, or a "
        "library that it uses is another; make the result anew with --overwrite"
    )
