"""Read regions chunk by chunk, through the cache of decoded chunks."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Hashable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from itertools import islice, product
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lepton_pipe.cache import chunks as cache
from lepton_pipe.geometry import Region
from lepton_pipe.store.source import Source

Index = tuple[int, ...]


@dataclass(frozen=True)
class ChunkedSource(Source):
    """A source whose data is stored in chunks, each of which is decoded whole.

    A region is pasted together from its chunks; a chunk that the process's cache holds is not
    decoded again. What is handed out may be a chunk of the cache itself, and is read-only then.
    """

    @abstractmethod
    def _chunk(self, index: Index) -> NDArray[Any]:
        """Decode one chunk, in canonical axis order; it may reach beyond the array's far edge."""

    @abstractmethod
    def _stamp(self, index: Index) -> Hashable:
        """Return what changes when the stored chunk does, found without decoding it."""

    def _chunk_into(self, index: Index, out: NDArray[Any]) -> bool:  # noqa: ARG002
        """Decode one whole chunk into `out`, C-contiguous; False, and nothing done, if unable."""
        return False

    def _at_a_time(self) -> int:
        """Return how many chunks are fetched at the same time: more than one where each waits."""
        return 1

    def _read(self, region: Region) -> NDArray[Any]:
        indices = list(touched(region, self.chunks))
        if len(indices) == 1:
            only = self.held(indices[0])
            if self._covers(indices[0], only.shape) == region:
                return only
        out = np.empty(region.shape, self.type.dtype)
        if not cache.enabled():
            indices = [i for i in indices if not self._in_place(out, region, i)]
        # A chunk is let go of before the next is decoded.
        for index, chunk in self._each(indices):
            self.paste(out, region, index, chunk)
            del chunk
        return out

    def _in_place(self, out: NDArray[Any], region: Region, index: Index) -> bool:
        """Decode a chunk where it belongs in `out`, if its place is whole and in one piece."""
        place = place_in(out, region, self._covers(index, self.chunks))
        return place is not None and self._chunk_into(index, place)

    def _each(self, indices: Iterable[Index]) -> Iterator[tuple[Index, NDArray[Any]]]:
        width = self._at_a_time()
        if width == 1:
            yield from cache.each(indices, self._key, self._chunk)
            return
        rest = iter(indices)
        with ThreadPoolExecutor(width) as pool:
            while batch := list(islice(rest, width)):
                yield from zip(batch, pool.map(self.held, batch), strict=True)

    def held(self, index: Index) -> NDArray[Any]:
        """Return a chunk from the process's cache, or decode it; read-only."""
        return cache.get(self._key(index), partial(self._chunk, index))

    def keep(self, region: Region, array: NDArray[Any]) -> None:
        """Have the process's cache keep the chunks that were just written with `array`.

        Parameters
        ----------
        region
            Whole chunks, or up to the array's far edge; what `array` covers.
        """
        for index in touched(region, self.chunks):
            chunk = array[self.region_of(index).inside(region)]
            cache.keep(self._key(index), np.ascontiguousarray(chunk))

    def _key(self, index: Index) -> Hashable:
        """Return what a chunk is held under.

        The stamp is older than the bytes, so that what changes meanwhile is never found under it.
        """
        return self.uri, self._stamp(index), index

    def paste(self, out: NDArray[Any], region: Region, index: Index, chunk: NDArray[Any]) -> None:
        """Copy into `out`, which covers `region`, what a chunk has of it."""
        covers = self._covers(index, chunk.shape)
        common = covers.intersect(region)
        out[common.inside(region)] = chunk[common.inside(covers)]

    def region_of(self, index: Index) -> Region:
        """Return what a chunk covers of the grid."""
        return self._covers(index, self.chunks).intersect(self.type.grid.region)

    def _covers(self, index: Index, shape: tuple[int, ...]) -> Region:
        start = tuple(i * c for i, c in zip(index, self.chunks, strict=True))
        return Region.whole(shape).shift(start)


def place_in(out: NDArray[Any], region: Region, chunk: Region) -> NDArray[Any] | None:
    """Return the place of a chunk in `out`, which covers `region`; None if not in one piece."""
    if not region.contains(chunk):
        return None
    place: NDArray[Any] = out[chunk.inside(region)]
    return place if place.flags.c_contiguous else None


def touched(region: Region, chunks: tuple[int, ...]) -> Iterator[Index]:
    """Return the positions of the chunks that a region has voxels of, in C order."""
    return product(
        *(
            range(start // c, -(-stop // c))
            for start, stop, c in zip(region.start, region.stop, chunks, strict=True)
        )
    )
