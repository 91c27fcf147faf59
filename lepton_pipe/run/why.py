"""Why a stage is not what it was, told from the record of the result: for people, and no more."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lepton_pipe.plan import Plan, Stage
from lepton_pipe.plan.stages import alike
from lepton_pipe.run.results import library_versions

_SHOWN = 30


@dataclass(frozen=True)
class Record:
    """The record of a published result; whatever somebody may have made of the file.

    Attributes
    ----------
    data
        What is in the file; nothing where it cannot be read.
    """

    data: Mapping[str, Any]

    @classmethod
    def of(cls, path: Path) -> Record:
        """Read a record."""
        try:
            data = json.loads(path.read_bytes())
        except (OSError, ValueError, RecursionError):
            data = {}
        return cls(data if isinstance(data, dict) else {})

    def is_of(self, record: Mapping[str, Any]) -> bool:
        """Tell whether a run that makes such a record would make the same of it."""
        plain = json.loads(json.dumps(record, default=str))
        return all(self.data.get(name) == value for name, value in plain.items())

    @property
    def measured(self) -> Mapping[str, Any]:
        """What was measured and published."""
        return self._mapping(self.data, "measured")

    @property
    def versions(self) -> Mapping[str, Any]:
        """Versions of libraries."""
        return self._mapping(self.data, "versions")

    def steps(self) -> dict[str, Mapping[str, Any]]:
        """Return the steps of the pipeline, by id."""
        steps = self._mapping(self.data, "pipeline").get("steps")
        known = steps if isinstance(steps, list) else []
        return {str(s.get("id")): s for s in known if isinstance(s, dict)}

    @staticmethod
    def _mapping(data: Mapping[str, Any], name: str) -> Mapping[str, Any]:
        found = data.get(name)
        return found if isinstance(found, dict) else {}


def why_another_recipe(plan: Plan, stage: Stage, record: Record) -> list[str]:
    """Return what is another in a stage than when the result was made."""
    now = {s["id"]: s for s in plan.pipeline.to_json()["steps"]}
    then = record.steps()
    ids = [s for s in (*(r.step for r in stage.reads), *stage.steps) if s in now]
    reasons = [f"{steps} is new" for steps in alike(s for s in ids if s not in then)]
    known = [s for s in ids if s in then]
    reasons += [r for step in known for r in _why_another_step(now[step], then[step])]
    if reasons:
        return reasons
    was = record.versions
    reasons = [
        f"{name} is {version}, was {was[name]}"
        for name, version in library_versions().items()
        if name in was and was[name] != version
    ]
    return reasons or ["blocks are laid out, or stored, in another way"]


def _why_another_step(now: Mapping[str, Any], then: Mapping[str, Any]) -> Iterator[str]:
    name = now["id"]
    if now.get("code") != then.get("code"):
        yield f"the code of {name} has changed"
    elif now.get("args") != then.get("args"):
        yield from _why_other_args(name, now.get("args", {}), then.get("args"))
    elif now.get("type") != then.get("type"):
        yield f"{name} is of another type or size"


def _why_other_args(name: str, now: Mapping[str, Any], then: Any) -> Iterator[str]:
    known = then if isinstance(then, dict) else {}
    for arg, value in now.items():
        was = known.get(arg)
        if value == was:
            continue
        if isinstance(value, dict) or isinstance(was, dict):
            yield f"{arg} of {name} has changed"
        else:
            yield f"{arg} of {name} is {_short(value)}, was {_short(was)}"


def _short(value: Any) -> str:
    text = str(value)
    return text if len(text) <= _SHOWN else text[:_SHOWN] + "..."
