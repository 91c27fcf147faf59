"""What a run could not read or compute, as its list says it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

QUARANTINE = "quarantine.json"
"""File of a result that lists what is not in it."""

_SHOWN = 10


@dataclass(frozen=True)
class Quarantined:
    """One thing that a run could not read or compute.

    Attributes
    ----------
    kind
        ``input``: a file, or a chunk of one, that cannot be read; ``kernel``: a kernel raised on a
        block; ``process``: a block ended the process that computed it; ``block``: a block could
        not be read or written for another reason.
    image
        The input that was read, or the step of the pipeline that failed.
    path
        The file or address; empty where none is to blame.
    region
        Start and stop along each axis of what is missing, in voxels of the image.
    error, traceback
        What was raised.
    attempts
        How often it was tried.
    stage, blocks
        The stage that met it first, and the numbers of its blocks that did.
    """

    kind: str
    image: str
    path: str
    region: tuple[tuple[int, int], ...]
    error: str
    traceback: str = ""
    attempts: int = 1
    stage: str = ""
    blocks: tuple[int, ...] = ()

    def again(self, stage: str, block: int) -> Quarantined:
        """Return the same, met by one more block."""
        if stage != self.stage or block in self.blocks:
            return self
        return replace(self, blocks=(*self.blocks, block))

    def to_json(self, *, with_traceback: bool = True) -> dict[str, Any]:
        """Return it as plain data."""
        found = asdict(self)
        found["region"] = self.where
        if not with_traceback:
            del found["traceback"]
        return {n: list(v) if isinstance(v, tuple) else v for n, v in found.items() if v != ""}

    @property
    def where(self) -> str:
        """The region as text, such as ``[0:1, 0:512, 0:512]``."""
        return "[" + ", ".join(f"{a}:{b}" for a, b in self.region) + "]"

    def __str__(self) -> str:
        what = self.path or self.image
        first = self.error.partition("\n")[0].removeprefix(f"{what}: ")
        return f"{what} {self.where}: {first or self.kind}"


def quarantine_lines(found: Sequence[Quarantined], where: str) -> list[str]:
    """Return a few lines on what was quarantined; the others are in the file `where`."""
    lines = [f"    {q}" for q in found[:_SHOWN]]
    more = len(found) - _SHOWN
    return [*lines, f"    ... and {more} more, see {where}"] if more > 0 else lines
