"""Make again what is damaged in a published result, and nothing else."""

from __future__ import annotations

import shlex
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lepton_pipe.api import Pipeline, Plan, open_image
from lepton_pipe.errors import LeptonError, RefusedError, UsageError
from lepton_pipe.ledger import KNOWN, LEDGER
from lepton_pipe.ledger.ledger import Ledger
from lepton_pipe.ledger.lock import OutputLock
from lepton_pipe.run.asked import ASKED, from_plain
from lepton_pipe.run.books import RECORD
from lepton_pipe.run.verify import Verified, verify
from lepton_pipe.store.durable import write_whole
from lepton_pipe.store.open import MARKER


@dataclass(frozen=True)
class _Told:
    """What the ledger tells of a result: what it was asked for, its record, stages and gaps."""

    asked: dict[str, Any]
    record: str
    stages: int
    lacking: bool


def repair(
    out: str | Path,
    *,
    pipeline: Pipeline | None = None,
    images: Mapping[str, Any] | None = None,
    say: Callable[[str], None] = print,
    progress: bool | None = None,
) -> Verified:
    """Verify a result, and make again what is missing or damaged; remove what is extra.

    The blocks that wrote damaged files are run again, with the pipeline, inputs and parameters of
    the run that made the result. It has the bytes again that it had, or is left as it is.

    Parameters
    ----------
    pipeline
        The pipeline; by default it is found by its name, or in its file, which is run.
    images
        Inputs that cannot be found again, such as arrays; those of others may be left out.
    say
        Is told what will be run, before it is.
    progress
        Show progress on stderr; by default where it is a terminal.

    Returns
    -------
    Verified
        What was found after the repair.

    Raises
    ------
    RefusedError
        When there is no result of ours, or pipeline, inputs or parameters are not what they were.
    RunError
        When it failed, or came out with other bytes; the result is what it was.
    """
    out = Path(out).expanduser().absolute()
    found = verify(out)
    if not found.whole:
        say(str(found))
        _make_again(out, found, pipeline, images or {}, say, progress)
    elif found.extra:
        _remove_extra(out, found)
    return verify(out) if found.extra or not found.whole else found


def _remove_extra(out: Path, found: Verified) -> None:
    with OutputLock(out):
        for name in found.extra:
            (out / name).unlink(missing_ok=True)


def _make_again(
    out: Path,
    found: Verified,
    pipeline: Pipeline | None,
    images: Mapping[str, Any],
    say: Callable[[str], None],
    progress: bool | None,
) -> None:
    told = _told(out)
    spoilt = {*found.missing, *found.changed}
    chosen = _swept(pipeline or _pipeline(told.asked), told.asked)
    say(f"to repair {out}, this is run: {_in_words(told.asked, pipeline)}")
    if MARKER in spoilt:
        with OutputLock(out):
            write_whole(out / MARKER, [told.record.encode()])
    plan = _plan(out, chosen, told, images, spoilt)
    _refuse_changed(out, plan, told)
    say(str(plan.changes))
    plan.run(progress=progress)


def _told(out: Path) -> _Told:
    with Ledger.open(out / KNOWN / LEDGER, readonly=True) as ledger:
        asked, record = ledger.get_fact(ASKED), ledger.get_fact(RECORD)
        stages, lacking = len(ledger.stages()), bool(ledger.quarantined())
    if asked is None or record is None:
        raise RefusedError(
            f"{out} was made by an earlier version, which did not note how: it cannot be repaired. "
            "Run it again with --update, which makes anew what is missing or has another size"
        )
    return _Told(asked, record, stages, lacking)


def _pipeline(asked: Mapping[str, Any]) -> Pipeline:
    from lepton_pipe.catalogue import find_pipeline

    if asked["pipeline"] is None:
        raise RefusedError(
            "the result was made from a Python script or notebook, where its pipeline cannot be "
            "found again by name: call lepton_pipe.repair.repair(out, pipeline=...) there, or "
            "remove the damaged files and run it again with update=True"
        )
    try:
        return find_pipeline(asked["pipeline"])
    except UsageError as error:
        raise RefusedError(
            f"the pipeline that made the result cannot be found again: {error}; bring it back, or "
            "make the result anew with --overwrite"
        ) from error


def _swept(pipeline: Pipeline, asked: Mapping[str, Any]) -> Pipeline:
    """Have a pipeline sweep over what it did, where it is not handed in so."""
    values = {n: from_plain(v) for n, v in asked.get("swept", ())}
    return pipeline.sweep(**values) if values and not pipeline.swept else pipeline


def _in_words(asked: Mapping[str, Any], pipeline: Pipeline | None) -> str:
    name = pipeline.name if pipeline is not None else str(asked["pipeline"])
    places = (f"{n}={'an array' if i is None else i['at']}" for n, i in asked["images"].items())
    parameters = {**asked["parameters"], **dict(asked.get("swept", ()))}
    flags = (f"{n}={v}" for n, v in parameters.items())
    return " ".join([shlex.quote(name), *map(shlex.quote, (*places, *flags))])


def _plan(
    out: Path, pipeline: Pipeline, told: _Told, images: Mapping[str, Any], spoilt: set[str]
) -> Plan:
    parameters = {n: from_plain(v) for n, v in told.asked["parameters"].items()}
    try:
        opened = {n: _image(n, i, images) for n, i in told.asked["images"].items()}
        return pipeline.plan(
            out=out,
            update=True,
            spoilt=spoilt,
            **told.asked["options"],
            **opened,
            **parameters,
        )
    except RefusedError:
        raise
    except LeptonError as error:
        raise RefusedError(
            f"what {out} was made from cannot be had again: {error}; correct that, or make the "
            "result anew with --overwrite"
        ) from error


def _image(name: str, opened: Mapping[str, Any] | None, images: Mapping[str, Any]) -> Any:
    if name in images:
        return images[name]
    if opened is None:
        raise RefusedError(
            f"input {name} was an array, or an address with a password or signature, and is not "
            f"noted with the result: hand it in, lepton_pipe.repair.repair(out, images={{{name!r}: "
            "...}), or remove the damaged files and run the same command with --update"
        )
    how = {n: from_plain(v) for n, v in opened.items() if n != "at"}
    return open_image(opened["at"], **how)


def _refuse_changed(out: Path, plan: Plan, told: _Told) -> None:
    """Raise if what would be computed is something else than what was published."""
    changes = plan.changes
    assert changes is not None
    other = [s for s in changes.stages if s.other or s.another]
    unlike = plan.spec.digest != told.asked["digest"] or len(changes.stages) != told.stages
    if unlike or (other and not told.lacking):
        why = "".join(f"\n  {s}" for s in other)
        raise RefusedError(
            f"{out} cannot be repaired: its pipeline, inputs, or the libraries that made it are "
            f"not what they were, and what they make now would not fit the rest{why}\n  Bring "
            "them back, or run the command with --update to have the result as they make it now"
        )
