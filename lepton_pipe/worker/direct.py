"""Read a region of an image straight to the device, as far as its chunks are stored for that.

Chunks that hold voxels as they lie in memory are read into the region, or, where their place in it
is not in one piece, beside it and pasted::

    file    [chunk][chunk][chunk]
    device  [    region    ][ one chunk, on its way in ]

All others (missing, damaged, refused by kvikio) are read as ever, by way of the host: what is
wrong with them is told there. So are those of which less than half is wanted, where blocks overlap:
the host's cache holds them for the next block.
"""

from __future__ import annotations

import importlib
from functools import partial
from typing import Any

from lepton_pipe.device.direct import DirectFiles
from lepton_pipe.device.faults import fault_of
from lepton_pipe.device.lanes import Lane
from lepton_pipe.geometry import Region
from lepton_pipe.store.chunked import place_in, touched
from lepton_pipe.store.source import stamp_of
from lepton_pipe.store.zarr_source import ZarrSource
from lepton_pipe.worker.faults import tried


def is_direct(source: Any) -> bool:
    """Tell whether chunks of a source may be read straight to a device."""
    return isinstance(source, ZarrSource) and source.is_plain


def read_direct(lane: Lane, source: ZarrSource, region: Region) -> tuple[Any, int]:
    """Return the voxels of a region on the device, and how many bytes of chunks came straight.

    Raises
    ------
    LeptonError
        As `Source.read`.
    """
    cupy = importlib.import_module("cupy")
    made, straight = cupy.empty(region.shape, source.type.dtype), 0
    chunk = cupy.empty(source.chunks, source.type.dtype)
    with DirectFiles() as files:
        for index in touched(region, source.chunks):
            start = tuple(i * n for i, n in zip(index, source.chunks, strict=True))
            covers = Region.whole(source.chunks).shift(start)
            part = covers.intersect(region)
            place = place_in(made, region, covers)
            target = chunk if place is None else place
            worth = 2 * part.size >= source.region_of(index).size
            if not (worth and _read_chunk(lane, files, source, index, target)):
                made[part.inside(region)] = lane.take_in(tried(partial(source.read, part)))
                continue
            straight += chunk.nbytes
            if place is None:
                made[part.inside(region)] = chunk[part.inside(covers)]
    return made, straight


def _read_chunk(
    lane: Lane, files: DirectFiles, source: ZarrSource, index: tuple[int, ...], target: Any
) -> bool:
    """Fill an array of the device with a chunk; False where it has to be read in another way."""
    extent = source.extent(index)
    if extent is None:
        return False
    # What the memory held before may still be in use by the stream.
    lane.stream.synchronize()
    try:
        same = stamp_of(files.status(extent.path)) == extent.stamp
        return same and files.read(target, extent.offset)
    except Exception as error:
        # Whatever else it is, the other way goes round it or tells it.
        if (fault := fault_of(error)) is not None:
            raise fault from error
        return False
