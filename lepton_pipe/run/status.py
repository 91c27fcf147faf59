"""Where a run stands: while it runs, after it was stopped, and when it is published."""

from __future__ import annotations

import json
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple

from lepton_pipe.errors import LeptonError, RefusedError
from lepton_pipe.ledger import IN_FLIGHT, KNOWN, LEDGER
from lepton_pipe.ledger.holder import Holder
from lepton_pipe.ledger.ledger import Ledger
from lepton_pipe.ledger.lock import holder
from lepton_pipe.report.plan_text import be, count
from lepton_pipe.run.hidden import HiddenFolder
from lepton_pipe.store.open import MARKER
from lepton_pipe.store.output import Output, clean_command

_LEDGER = Path(KNOWN, LEDGER)
"""The ledger's place, in staging and in an output."""

_DIED = (
    "its process ended in the middle of its blocks: it was killed, or a kernel ended it; with "
    "--workers 1 kernels have a process of their own"
)
_SHOWN = 10
_FIRST = ("path", "region", "error")

State = Literal["running", "stopped", "complete", "nothing"]


class StageProgress(NamedTuple):
    """How many blocks of a stage are done."""

    name: str
    blocks: int
    done: int


@dataclass(frozen=True)
class Status:
    """Where a run stands.

    Attributes
    ----------
    out
        The output.
    state
        ``running``; ``stopped`` with something to go on from; ``complete``: there is a result
        and no run on it; or ``nothing``.
    holder
        The process that writes the output now.
    stages
        How far the run is that goes on or was stopped.
    quarantined
        What failed again and again: of that run, or, where there is none, of the result.
    published
        Whether there is a result, whatever runs besides.
    digest
        The result's pipeline and parameters.
    notes
        What else is to be known.
    """

    out: Output
    state: State
    holder: Holder | None = None
    stages: tuple[StageProgress, ...] = ()
    quarantined: tuple[Any, ...] = ()
    published: bool = False
    digest: str | None = None
    notes: tuple[str, ...] = ()

    def to_json(self) -> dict[str, Any]:
        """Return the status as plain data."""
        return {
            "out": str(self.out),
            "state": self.state,
            "holder": self.holder._asdict() if self.holder else None,
            "stages": [s._asdict() for s in self.stages],
            "quarantined": list(self.quarantined),
            "published": self.published,
            "digest": self.digest,
            "notes": list(self.notes),
        }

    def __str__(self) -> str:
        lines = [f"{self.out}: {self._headline()}"]
        if self.state in ("running", "stopped"):
            lines += [f"  {s.name}: {s.done} of {count(s.blocks, 'block')}" for s in self.stages]
            if self.published:
                lines.append("  the result of an earlier run is there, and is not touched")
        lines += _quarantine_lines(self.quarantined, ended=self.state != "complete")
        return "\n".join([*lines, *(f"  note: {n}" for n in self.notes)])

    def _headline(self) -> str:
        if self.state == "running":
            return f"running: {self.holder}"
        if self.state == "stopped":
            return (
                f"stopped: {self._how_far()}; type the same command again to go on, or "
                f"{clean_command(self.out)} to give it up"
            )
        if self.state == "complete":
            number = len(self.quarantined)
            return f"complete, but for {number} quarantined" if number else "complete"
        return "nothing is there: no result, and no run that was stopped; is it another path?"

    def _how_far(self) -> str:
        if not self.stages:
            return "no block is known to be done"
        stage = next((s for s in self.stages if s.done < s.blocks), self.stages[-1])
        of = f"{count(stage.blocks, 'block')} of stage {stage.name}"
        return f"{stage.done} of {of} {be(stage.done)} done"


def _quarantine_lines(quarantined: Sequence[Any], *, ended: bool) -> list[str]:
    """Return lines of what failed; `ended` of a run, so that it may be what ended it."""
    lines = [f"  {_word(item, ended=ended)}: {_one_line(item)}" for item in quarantined[:_SHOWN]]
    more = len(quarantined) - _SHOWN
    return [*lines, f"  and {more} more, listed in {MARKER}"] if more > 0 else lines


def _word(item: Any, *, ended: bool) -> str:
    kind = item.get("kind") if isinstance(item, Mapping) else None
    return "failed" if ended and kind in ("block", "process") else "quarantined"


def _one_line(item: Any) -> str:
    if not isinstance(item, Mapping):
        return str(item)
    first = [n for n in _FIRST if n in item]
    rest = [n for n in item if n not in (*_FIRST, "traceback")]
    return ", ".join(f"{n} {item[n]}" for n in (*first, *rest))


def run_status(out: Path) -> Status:
    """Look at an output and what lies beside it; changes nothing and waits for nobody."""
    found = _looked_at(out)
    # A run may have begun or ended between the looks at its lock and at its files.
    return found if found.holder == holder(out) else _looked_at(out)


def _looked_at(out: Path) -> Status:
    writer, hidden = holder(out), HiddenFolder(out)
    notes = _notes(hidden, running=writer is not None)
    staged, record = hidden.staged(), _record(out)
    published = record is not None
    digest = (record or {}).get("digest")
    if writer is None and staged is None:
        state: State = "complete" if published else "nothing"
        lacking = (record or {}).get("quarantined")
        quarantined = tuple(lacking) if isinstance(lacking, list) else ()
        return Status(out, state, None, (), quarantined, published, digest, notes)
    known = _known(staged, stopped=writer is None)
    notes = (*notes, *known.notes)
    state = "stopped" if writer is None else "running"
    return Status(out, state, writer, known.stages, known.quarantined, published, digest, notes)


def _notes(hidden: HiddenFolder, *, running: bool) -> tuple[str, ...]:
    out = hidden.out
    if not hidden.is_there():
        foreign = out.exists() and not (out / MARKER).is_file()
        return (f"what is at {out} was not made by lepton_pipe",) if foreign else ()
    try:
        hidden.check()
    except RefusedError as error:
        return (str(error),)
    old = hidden.out_of_place()
    if old is not None:
        return (f"the old version is whole, in {old}; the next run or clean puts it back",)
    if not running and hidden.staged() is None:
        return (
            f"a killed run left files in {hidden.path}; the next run removes them, or "
            f"lepton-pipe clean {shlex.quote(str(out))}",
        )
    return ()


def _record(out: Path) -> Mapping[str, Any] | None:
    """Return the record of a published result; an empty one where it cannot be read."""
    path = out / MARKER
    if not path.is_file():
        return None
    try:
        data = json.loads(path.read_bytes())
    except (OSError, ValueError, RecursionError):
        return {}
    return data if isinstance(data, dict) else {}


class _Known(NamedTuple):
    """What the ledger of a run tells."""

    stages: tuple[StageProgress, ...] = ()
    quarantined: tuple[Any, ...] = ()
    notes: tuple[str, ...] = ()


def _known(staged: Path | None, *, stopped: bool) -> _Known:
    """Read the ledger of a run, which may write it meanwhile; a note where it cannot be read."""
    if staged is None or not (staged / _LEDGER).is_file():
        return _Known()
    try:
        with Ledger.open(staged / _LEDGER, readonly=True) as ledger:
            stages = tuple(
                StageProgress(s.name, s.blocks, ledger.counts(s.stage).recorded)
                for s in ledger.stages()
            )
            notes = (_DIED,) if stopped and ledger.get_fact(IN_FLIGHT, False) else ()
            return _Known(stages, tuple(q.report for q in ledger.quarantined()), notes)
    except (LeptonError, OSError) as error:
        return _Known(notes=(f"how far it is cannot be read: {error}",))
