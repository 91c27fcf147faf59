"""What the plan of an earlier run was made with.

Memory that is free and rates that were learned change from day to day, and with them the blocks of
a plan. What was done before fits the same blocks alone, so a run that goes on plans with what the
one before it did.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Protocol

from lepton_pipe.errors import LeptonError
from lepton_pipe.ledger import IN_FLIGHT, KNOWN, LEDGER
from lepton_pipe.ledger.ledger import Ledger
from lepton_pipe.plan import Parts, Plan, Rates, Resources
from lepton_pipe.run.hidden import HiddenFolder
from lepton_pipe.run.layouts import PLANNED_WITH
from lepton_pipe.run.machine import free_memory


@dataclass(frozen=True)
class Earlier:
    """What a plan was made with.

    Attributes
    ----------
    options
        What the user had asked for, as plain data.
    resources
        What came of that on the machine as it was.
    rates
        What things cost, as far as that was known.
    parts
        Variants of a sweep that were in the same stages.
    """

    options: dict[str, Any]
    resources: Resources
    rates: Rates
    parts: Parts = ()


def planned_with(options: Mapping[str, Any], plan: Plan, rates: Rates) -> dict[str, Any]:
    """Return what a plan was made with as plain data, see `Earlier`."""
    return {
        "options": dict(options),
        "resources": asdict(plan.resources),
        "rates": asdict(rates),
        **({"parts": [list(part) for part in plan.parts]} if plan.parts else {}),
    }


class Asked(Protocol):
    """What a user asked for, see `lepton_pipe.options.RunOptions`."""

    @property
    def memory(self) -> str | int | None:
        """Memory of the run."""
        ...

    @property
    def update(self) -> bool:
        """Whether a result is brought up to date."""
        ...

    def planning(self) -> dict[str, Any]:
        """Return what decides how a plan is made."""
        ...


def earlier_run(out: Path, options: Asked) -> Earlier | None:
    """Return what the plan of a run was made with that a new one takes over from.

    That is one that was stopped and can go on, or else the one that is to be updated. None where
    other things are asked for now, or less memory is free than it took by itself.
    """
    found = stopped_run(out)
    if found is None and options.update:
        found = published_run(out)
    if found is None or found.options != options.planning():
        return None
    is_there = options.memory is not None or found.resources.memory <= free_memory()
    return found if is_there else None


def stopped_run(out: Path) -> Earlier | None:
    """Return what the plan of a run was made with that was stopped and can go on; else None."""
    staged = HiddenFolder(out).staged()
    return None if staged is None else _noted(staged / KNOWN / LEDGER)


def published_run(out: Path) -> Earlier | None:
    """Return what the plan of the run was made with that published `out`; else None."""
    return _noted(out / KNOWN / LEDGER) if out.is_dir() else None


def died(out: Path) -> bool:
    """Tell whether the process of a run that was stopped ended in the middle of its blocks."""
    staged = HiddenFolder(out).staged()
    if staged is not None:
        with suppress(LeptonError), Ledger.open(staged / KNOWN / LEDGER, readonly=True) as ledger:
            return bool(ledger.get_fact(IN_FLIGHT, False))
    return False


def death_notes(plan: Plan) -> list[str]:
    """Return what is to be known of a run that goes on after one that died."""
    ended = "the process of the earlier run ended in the middle of its blocks"
    if plan.resources.in_process:
        return [
            f"{ended}; if a kernel of your own ends it, so will it this one: with --workers 1 it "
            "has a process of its own"
        ]
    return [f"{ended}; where a kernel of your own ends it, that is a worker, which is replaced"]


def _noted(path: Path) -> Earlier | None:
    # A ledger that cannot be read is told of when the run opens it; here it is of no use.
    with suppress(LeptonError, TypeError, KeyError), Ledger.open(path, readonly=True) as ledger:
        found = ledger.get_fact(PLANNED_WITH)
        if found is not None:
            return Earlier(
                dict(found["options"]),
                Resources(**found["resources"]),
                Rates(**found["rates"]),
                found.get("parts", ()),
            )
    return None
