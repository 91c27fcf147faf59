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
from lepton_pipe.run.hidden import HiddenFolder
from lepton_pipe.run.published import Spoilt
from lepton_pipe.run.remote_look import clean_any, verify_any
from lepton_pipe.run.remote_repair import remote_copy
from lepton_pipe.run.verify import Verified
from lepton_pipe.store.durable import write_whole
from lepton_pipe.store.open import MARKER
from lepton_pipe.store.output import Output, RemoteOutput, local_of, output_at


@dataclass(frozen=True)
class _HowMade:
    """What the ledger tells of a result: what it was asked for, its record, stages and gaps."""

    asked: dict[str, Any]
    record: str
    stages: int
    lacking: bool


@dataclass(frozen=True)
class _Given:
    """What a repair was given, see `repair`."""

    pipeline: Pipeline | None
    images: Mapping[str, Any]
    say: Callable[[str], None]
    progress: bool | None


def repair(
    out: str | Path,
    *,
    pipeline: Pipeline | None = None,
    images: Mapping[str, Any] | None = None,
    staging: str | Path | None = None,
    say: Callable[[str], None] = print,
    progress: bool | None = None,
) -> Verified:
    """Verify a result, and make again what is missing or damaged; files of others stay.

    The blocks that wrote damaged files are run again, with the pipeline, inputs and parameters of
    the run that made the result. It has the bytes again that it had, or is left as it is. What a
    killed writer of ours left in it is removed.

    Parameters
    ----------
    out
        The result, or its URL. There each damaged object is replaced in one act.
    pipeline
        The pipeline; by default it is found by its name, or in its file, which is run. A file that
        a result at a URL names is not: others may have written that.
    images
        Inputs that cannot be found again, such as arrays; those of others may be left out.
    staging
        Where blocks of a result at a URL are made again; by default in the current folder.
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
    place = output_at(out, staging)
    found = verify_any(place)
    if found.whole and not found.leftover:
        _clear(place)
        return found
    if not found.whole:
        say(str(found))
    given = _Given(pipeline, images or {}, say, progress)
    if isinstance(place, RemoteOutput):
        _repair_remote(place, found, given)
    elif not found.whole:
        _make_again(place, Spoilt(frozenset((*found.missing, *found.changed))), given)
    else:
        _remove_leftovers(place, found)
    for name in found.leftover:
        say(f"removed {name}, which a killed writer left and is part of nothing")
    return verify_any(place)


def _clear(out: Output) -> None:
    """Remove what a repair left that was killed when all was done."""
    hidden = HiddenFolder(local_of(out))
    if hidden.is_there() and (isinstance(out, RemoteOutput) or hidden.staged() is None):
        clean_any(out)


def _repair_remote(out: RemoteOutput, found: Verified, given: _Given) -> None:
    with remote_copy(out, (*found.missing, *found.changed)) as copy:
        if not found.whole:
            _make_again(copy.path, copy.spoilt, given, out)
            copy.send()
        copy.remove(found.leftover)


def _remove_leftovers(out: Path, found: Verified) -> None:
    with OutputLock(out):
        for name in found.leftover:
            (out / name).unlink(missing_ok=True)


def _make_again(
    out: Path, spoilt: Spoilt, given: _Given, remote: RemoteOutput | None = None
) -> None:
    """Make again what is spoilt of a result here, or of the copy of one at a URL."""
    made = _how_made(out)
    if spoilt.names == {MARKER}:
        given.say(f"{MARKER} is written again, from what {KNOWN}/ has of it; nothing is run")
        _write_record(out, made)
        return
    if remote is not None and given.pipeline is None:
        _refuse_file(remote, made.asked)
    chosen = _swept(given.pipeline or _pipeline(made.asked), made.asked)
    given.say(f"to repair {remote or out}, this is run: {_as_command(made.asked, given.pipeline)}")
    if MARKER in spoilt.names:
        _write_record(out, made)
    plan = _plan(out, chosen, made, given.images, spoilt)
    _refuse_changed(remote or out, plan, made)
    given.say(str(plan.changes))
    plan.run(progress=given.progress)


def _write_record(out: Path, made: _HowMade) -> None:
    with OutputLock(out):
        write_whole(out / MARKER, [made.record.encode()])


def _how_made(out: Path) -> _HowMade:
    with Ledger.open(out / KNOWN / LEDGER, readonly=True) as ledger:
        asked, record = ledger.get_fact(ASKED), ledger.get_fact(RECORD)
        stages, lacking = len(ledger.stages()), bool(ledger.quarantined())
    if asked is None or record is None:
        raise RefusedError(
            f"{out} was made by an earlier version, which did not note how: it cannot be repaired. "
            "Run it again with --update, which makes anew what is missing or has another size"
        )
    return _HowMade(asked, record, stages, lacking)


def _refuse_file(out: RemoteOutput, asked: Mapping[str, Any]) -> None:
    """Raise if a result at a URL, which others may have written, names a file to be run."""
    from lepton_pipe.catalogue import shipped_pipelines

    name = asked["pipeline"]
    if name is not None and name not in shipped_pipelines():
        raise RefusedError(
            f"{out} says that it was made by {name}, but what lies at a URL may have been written "
            f"by others, so that file is not run unasked: say --pipeline {shlex.quote(name)} if "
            "it is yours"
        )


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


def _as_command(asked: Mapping[str, Any], pipeline: Pipeline | None) -> str:
    name = pipeline.name if pipeline is not None else str(asked["pipeline"])
    places = (f"{n}={'an array' if i is None else i['at']}" for n, i in asked["images"].items())
    parameters = {**asked["parameters"], **dict(asked.get("swept", ()))}
    flags = (f"{n}={v}" for n, v in parameters.items())
    return " ".join([shlex.quote(name), *map(shlex.quote, (*places, *flags))])


def _plan(
    out: Path, pipeline: Pipeline, made: _HowMade, images: Mapping[str, Any], spoilt: Spoilt
) -> Plan:
    parameters = {n: from_plain(v) for n, v in made.asked["parameters"].items()}
    try:
        opened = {n: _image(n, i, images) for n, i in made.asked["images"].items()}
        return pipeline.plan(
            out=out,
            update=True,
            spoilt=spoilt,
            **made.asked["options"],
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


def _refuse_changed(out: Output, plan: Plan, made: _HowMade) -> None:
    """Raise if what would be computed is something else than what was published."""
    changes = plan.changes
    assert changes is not None
    other = [s for s in changes.stages if s.rekeyed or s.is_new]
    unlike = plan.spec.digest != made.asked["digest"] or len(changes.stages) != made.stages
    if unlike or (other and not made.lacking):
        why = "".join(f"\n  {s}" for s in other)
        raise RefusedError(
            f"{out} cannot be repaired: its pipeline, inputs, or the libraries that made it are "
            f"not what they were, and what they make now would not fit the rest{why}\n  Bring "
            "them back, or run the command with --update to have the result as they make it now"
        )
