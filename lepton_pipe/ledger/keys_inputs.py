"""The stamps of the inputs of a run, each unit of storage asked for once."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import numpy as np
from numpy.typing import NDArray

from lepton_pipe.ledger.keys_reads import Box, Range
from lepton_pipe.store.source import Source
from lepton_pipe.store.stamps import STAMP_BYTES

# Asked for at a time, so that lists of names stay short.
_BATCH = 1 << 16


class InputStamps:
    """The stamps of the images that a run reads, as they were when first asked for.

    Parameters
    ----------
    sources
        The input images by name, as the user gave them: a copy that was made for workers has
        other stamps each time.
    """

    def __init__(self, sources: Mapping[str, Source]) -> None:
        self._tables = {name: StampTable(source) for name, source in sources.items()}

    def __getitem__(self, name: str) -> StampTable:
        return self._tables[name]


class StampTable:
    """The stamps of the units of one source, found when they are first needed.

    Attributes
    ----------
    form
        What changes when the same files would be understood as other voxels.
    """

    def __init__(self, source: Source) -> None:
        self.form = source.form_stamp()
        self._source = source
        self._unit = source.stamp_unit
        counts = [-(-n // u) for n, u in zip(source.type.grid.shape, self._unit, strict=True)]
        self._stamps: NDArray[np.void] = np.empty(counts, f"V{STAMP_BYTES}")
        self._known = np.zeros(counts, bool)

    def box(self, ranges: Iterable[Range]) -> Box:
        """Return the places of the units that hold a part of the image."""
        return tuple(
            slice(start // u, -(-stop // u))
            for (start, stop), u in zip(ranges, self._unit, strict=True)
        )

    def find(self, box: Box) -> NDArray[np.void]:
        """Return the table of all stamps, in which those in `box` are known."""
        offset = [s.start for s in box]
        missing = np.argwhere(~self._known[box]) + offset
        for start in range(0, len(missing), _BATCH):
            places = missing[start : start + _BATCH]
            stamps = self._source.unit_stamps([tuple(p) for p in places.tolist()])
            at = tuple(places.T)
            self._stamps[at] = np.frombuffer(b"".join(stamps), self._stamps.dtype)
            self._known[at] = True
        return self._stamps
