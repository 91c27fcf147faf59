"""What went wrong in blocks, where it shows, and what stands there instead.

Where something cannot be read or computed, boxes of voxels are *bad*. A box goes on from step to
step, grown by what each looks at::

    raw    . . . . # # . . .      unreadable
    smooth . . # # # # # # .      depth 2: these depend on it
    mask   . . # # # # # # .

With ``fill`` the fill value stands in what could not be read, and everything is computed from
that. With ``skip`` it stands in all of the bad boxes of every image. Either way no statistic counts
a bad voxel.
"""

from __future__ import annotations

import hashlib
import time
import traceback
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple, TypeVar

import numpy as np
from numpy.typing import NDArray

from lepton_pipe.errors import LeptonError, without_secrets
from lepton_pipe.geometry import Region
from lepton_pipe.plan.regions import input_regions
from lepton_pipe.spec import Spec, Step
from lepton_pipe.store.chunked import touched
from lepton_pipe.store.source import Source

T = TypeVar("T")
OnError = Literal["fail", "skip", "fill"]

# What a disk or a server could not do is tried again after so many seconds each time.
PAUSES = (0.1, 0.5)
_LASTING = (FileNotFoundError, NotADirectoryError, IsADirectoryError, PermissionError)
_KEY_BYTES = 16
# Characters of a traceback that are kept: its end, which says what happened.
_TRACEBACK = 4000


class Fault(NamedTuple):
    """One thing that could not be read or computed.

    Attributes
    ----------
    kind
        ``input``: a stored chunk or file; ``kernel``: a step raised; ``process``: the block ended
        the process that ran it; ``block``: what ended a run that goes past nothing.
    step
        The image that was read, or the step that raised.
    path
        File or address; empty where none is to blame.
    region
        What is bad of the step's image.
    """

    kind: Literal["input", "kernel", "process", "block"]
    step: str
    path: str
    region: Region
    error: str
    traceback: str
    attempts: int
    stage: str
    block: int

    @classmethod
    def of(cls, error: BaseException, **known: Any) -> Fault:
        """Return the fault that an error stands for."""
        lines = "".join(traceback.format_exception(error))[-_TRACEBACK:]
        text = str(error) or type(error).__name__
        attempts = 1 + len(PAUSES) if is_passing(error) else 1
        return cls(error=text, traceback=without_secrets(lines), attempts=attempts, **known)

    @property
    def shown(self) -> tuple[str, str, Region]:
        """What is the same for one fault that several blocks met."""
        return self.kind, self.step, self.region


@dataclass
class Lack:
    """What the results of blocks lack, and why.

    Attributes
    ----------
    faults
        What went wrong, in the order of blocks.
    bad
        Boxes of written images, by step, that hold the fill value or depend on it.
    left_out
        Voxels that a reduction did not count, by step.
    keys
        Keys of the blocks by number: those of blocks that are whole are others.
    """

    faults: list[Fault] = field(default_factory=list)
    bad: dict[str, list[Region]] = field(default_factory=dict)
    left_out: dict[str, int] = field(default_factory=dict)
    keys: dict[int, bytes] = field(default_factory=dict)

    def add(self, other: Lack) -> Lack:
        """Add what other blocks lack."""
        self.faults += other.faults
        for step, boxes in other.bad.items():
            self.bad.setdefault(step, []).extend(boxes)
        for step, voxels in other.left_out.items():
            self.left_out[step] = self.left_out.get(step, 0) + voxels
        self.keys |= other.keys
        return self

    def marked(self, key: bytes, on_error: OnError) -> bytes:
        """Return the content key of a block that lacks this, which is that of no whole block."""
        state = hashlib.blake2b(key, digest_size=_KEY_BYTES)
        boxes = sorted((s, b.start, b.stop) for s, found in self.bad.items() for b in found)
        faults = sorted((f.kind, f.step, f.region.start, f.region.stop) for f in self.faults)
        state.update(repr((on_error, boxes, faults, sorted(self.left_out.items()))).encode())
        return state.digest()


def is_passing(error: BaseException | None) -> bool:
    """Tell whether the system said no in a way that may be over soon."""
    while error is not None:
        if isinstance(error, OSError):
            return not isinstance(error, _LASTING)
        error = error.__cause__
    return False


def tried(read: Callable[[], T]) -> T:
    """Return what `read` does; where the system could not, try again after a short while."""
    for pause in PAUSES:
        try:
            return read()
        except LeptonError as error:
            if not is_passing(error):
                raise
        time.sleep(pause)
    return read()


def fill_of(dtype: np.dtype[Any]) -> Any:
    """Return what stands for a voxel that is not known: NaN where there is such, else 0."""
    return dtype.type(np.nan if dtype.kind in "fc" else 0)


def read_around(
    source: Source, region: Region
) -> tuple[NDArray[Any], list[tuple[Region, LeptonError | MemoryError]]]:
    """Read a region chunk by chunk, with the fill value in place of those that cannot be.

    Returns
    -------
    tuple
        The voxels, and each chunk that cannot be read (cut at the edge of the image, not of
        `region`) with the reason.
    """
    array = np.full(region.shape, fill_of(source.type.dtype), source.type.dtype)
    failed: list[tuple[Region, LeptonError | MemoryError]] = []
    for index in touched(region, source.chunks):
        start = tuple(i * c for i, c in zip(index, source.chunks, strict=True))
        chunk = Region.whole(source.chunks).shift(start).intersect(source.type.grid.region)
        part = chunk.intersect(region)
        try:
            array[part.inside(region)] = tried(lambda part=part: source.read(part))  # type: ignore[misc]
        except (LeptonError, MemoryError) as error:
            failed.append((chunk, error))
    return array, failed


def reached(
    spec: Spec, step: Step, region: Region, bad: Mapping[str, Sequence[Region]]
) -> list[Region]:
    """Return the boxes of `region` of a step's result that depend on bad voxels of its images."""
    found: dict[Region, None] = {}
    for image in spec.image_inputs(step):
        for box in bad.get(image, ()):
            reach = _reach(spec, step, region, image, box)
            if reach.size:
                found[reach] = None
    return list(found)


def _reach(spec: Spec, step: Step, region: Region, image: str, box: Region) -> Region:
    if step.kernel is not None and step.kernel.role == "resample":
        return _reach_resampled(spec, step, region, image, box)
    lead, shape = region.ndim - box.ndim, spec.image_type(image).grid.shape
    start, stop = list(region.start), list(region.stop)
    for i, n in enumerate(shape):
        if n > 1:  # else it is the same voxel all along the axis
            low, high = step.depth[lead + i]
            start[lead + i] = max(start[lead + i], box.start[i] - high)
            stop[lead + i] = min(stop[lead + i], box.stop[i] + low)
    return Region(tuple(start), tuple(stop))


def _reach_resampled(spec: Spec, step: Step, region: Region, image: str, box: Region) -> Region:
    """Look along each axis where what a slice of the result needs holds some of the box."""
    start, stop = list(region.start), list(region.stop)
    for axis in range(region.ndim):
        hit = []
        for i in range(region.start[axis], region.stop[axis]):
            ends = (*region.start[:axis], i, *region.start[axis + 1 :])
            beyond = (*region.stop[:axis], i + 1, *region.stop[axis + 1 :])
            needed = input_regions(spec, step, Region(ends, beyond))[image]
            if needed.intersect(box).size:
                hit.append(i)
        start[axis], stop[axis] = (hit[0], hit[-1] + 1) if hit else (0, 0)
    return Region(tuple(start), tuple(stop))


def without(region: Region, boxes: Iterable[Region]) -> list[Region]:
    """Cut a region into boxes that hold all its voxels but those of `boxes`."""
    parts = [region]
    for box in boxes:
        parts = [rest for part in parts for rest in _minus(part, box)]
    return parts


def _minus(region: Region, box: Region) -> list[Region]:
    common = region.intersect(box)
    if not common.size:
        return [region]
    parts = []
    start, stop = list(region.start), list(region.stop)
    for axis in range(region.ndim):
        for a, b in ((start[axis], common.start[axis]), (common.stop[axis], stop[axis])):
            if a < b:
                low, high = (
                    (*start[:axis], a, *start[axis + 1 :]),
                    (*stop[:axis], b, *stop[axis + 1 :]),
                )
                parts.append(Region(low, high))
        start[axis], stop[axis] = common.start[axis], common.stop[axis]
    return parts


def merged(ranges: Iterable[tuple[int, int]], start: int, stop: int) -> list[tuple[int, int]]:
    """Return what is left of ``start .. stop`` without some ranges, as ranges in order."""
    left = []
    for a, b in sorted(ranges):
        if start < min(a, stop):
            left.append((start, min(a, stop)))
        start = max(start, b)
    return [*left, (start, stop)] if start < stop else left
