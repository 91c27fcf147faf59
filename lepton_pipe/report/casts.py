"""What conversions lost that clip or wrap on request."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from lepton_pipe.spec import Lost

_DONE = {"clip": "clipped", "wrap": "wrapped"}


@dataclass(frozen=True, slots=True)
class CastReport:
    """What a step lost.

    Attributes
    ----------
    step
        Its id.
    dtype
        What was converted to.
    cast
        ``clip`` or ``wrap``.
    lost
        Voxels of its whole image that were NaN, infinite or out of range before; None where the
        blocks lie on another grid than the image, and nothing is counted.
    """

    step: str
    dtype: str
    cast: str
    lost: Lost | None

    @classmethod
    def from_json(cls, step: str, data: Mapping[str, Any]) -> CastReport:
        """Return what `to_json` told of a step."""
        lost = None if data["nan"] is None else Lost(*(data[n] for n in Lost._fields))
        return cls(step, data["dtype"], data["cast"], lost)

    def to_json(self) -> dict[str, Any]:
        """Return the report as plain data; counts that are not known are None."""
        lost = self.lost or (None,) * len(Lost._fields)
        counts = dict(zip(Lost._fields, lost, strict=True))
        return {"dtype": self.dtype, "cast": self.cast, **counts}

    @property
    def is_worth_telling(self) -> bool:
        """Whether something was lost, or may have been."""
        return self.lost is None or any(self.lost)

    def __str__(self) -> str:
        done = f"{self.step}: {_DONE[self.cast]} to {self.dtype}"
        if self.lost is None:
            return f"{done}; not counted, as a later step of its stage has another grid"
        return (
            f"{done}: {self.lost.out_of_range} voxels out of range, {self.lost.infinite} infinite, "
            f"{self.lost.nan} NaN"
        )
