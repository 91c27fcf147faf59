"""Which blocks of which stages read each chunk of an array that is kept."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from lepton_pipe.cache.uses import AxisUse, Use
from lepton_pipe.geometry import Region
from lepton_pipe.plan.model import InputInfo, Plan, Read, Stage
from lepton_pipe.plan.traffic import followed_axes, read_chunks, region_of, row
from lepton_pipe.spec import Spec

_NO_INPUTS: Mapping[str, InputInfo] = {}


def uses_of(plan: Plan, array: str, first: int) -> tuple[Use, ...]:
    """Return the uses of an array, of one scale level, by the stages from `first` on."""
    return tuple(
        _use(plan, stage, read)
        for stage in plan.stages[first:]
        for read in stage.reads
        if read.array == array
    )


def _use(plan: Plan, stage: Stage, read: Read) -> Use:
    grid = plan.spec.image_type(read.step).grid
    chunks = read_chunks(read, plan.arrays, _NO_INPUTS)
    written = _written_with(plan, read)
    axes: list[AxisUse | None] = []
    for axis, along in enumerate(followed_axes(stage, grid)):
        if along < 0:
            axes.append(None)
            continue
        length = -(-grid.shape[along] // chunks[along])
        ranges = _ranges(plan.spec, stage, read.step, axis, along)
        use = _axis_use(along, [_chunk_range(r, chunks[along]) for r in ranges], length)
        axes.append(_with_neighbours(use, -(-written[along] // chunks[along])))
    return Use(stage.index, stage.blocks, tuple(axes))


def _written_with(plan: Plan, read: Read) -> tuple[int, ...]:
    """Return the blocks in which an array is written."""
    return next(s.block for s in plan.stages for w in s.writes if w.array == read.array)


def _ranges(
    spec: Spec, stage: Stage, image: str, axis: int, along: int
) -> Sequence[tuple[int, int]]:
    """Return what the blocks along one axis of a stage read along an axis of an image."""
    regions: list[Region] = [region_of(spec, stage, block, image) for block in row(stage, axis)]
    return [(r.start[along], r.stop[along]) for r in regions]


def _chunk_range(span: tuple[int, int], chunk: int) -> range:
    return range(span[0] // chunk, -(-span[1] // chunk))


def _axis_use(along: int, touched: Sequence[range], length: int) -> AxisUse:
    """Turn the chunks that each place touches into the places that touch each chunk."""
    first, last = [len(touched) - 1] * length, [0] * length
    for place, chunks in enumerate(touched):
        for chunk in chunks:
            first[chunk], last[chunk] = min(first[chunk], place), max(last[chunk], place)
    return AxisUse(along, tuple(first), tuple(last))


def _with_neighbours(use: AxisUse, together: int) -> AxisUse:
    """Have chunks that one block wrote be of use until the last of them is read.

    Where one is lost that block is run again, and whether it has to be is seen by all of them.
    """
    last = use.last
    longest = [
        max(last[i // together * together : (i // together + 1) * together])
        for i in range(len(last))
    ]
    return AxisUse(use.axis, use.first, tuple(longest))
