"""Build a plan from a bound pipeline: levels, stages, layouts, block shapes, estimates."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import NamedTuple

from lepton_pipe.cache import neighbours
from lepton_pipe.errors import DeviceRefusedError, MemoryRefusedError, RefusedError
from lepton_pipe.geometry import Grid, Layout
from lepton_pipe.kernels.resample import downsample
from lepton_pipe.plan.counted import with_counts
from lepton_pipe.plan.fit import Fitter, written_beside_outputs
from lepton_pipe.plan.holding import Holding, Keep
from lepton_pipe.plan.keeping import keep_between_stages, with_gaps, with_room_to_share
from lepton_pipe.plan.layout import choose_layout, pyramid, scale_factors
from lepton_pipe.plan.levels import Levels, assign_levels
from lepton_pipe.plan.memory import ALLOCATOR_SLACK, table_bytes, with_tables
from lepton_pipe.plan.model import (
    SCRATCH,
    InputInfo,
    Plan,
    Read,
    Resources,
    Stage,
    StoredArray,
    Sweep,
    Write,
    chunk_hint,
    level_step,
)
from lepton_pipe.plan.on_device import Devices, direct_bytes
from lepton_pipe.plan.parts import Parts, first_parts, halved, part_of_steps, parted
from lepton_pipe.plan.rates import NOMINAL, Rates
from lepton_pipe.plan.scaling import scale_stages
from lepton_pipe.plan.stages import Draft, choose_kept, closure, draft_stages, stage_name
from lepton_pipe.plan.wanted import refuse_chunks, refuse_unknown_axes
from lepton_pipe.spec import Image, ImageType, Ref, Spec, Step

MIB = 2**20
# Resident bytes of processes before they hold a single block, measured. In those that compute, the
# loops of a first run are compiled, which takes 110 MiB; later runs find them compiled.
DRIVER_BYTES = 130 * MIB
WORKER_BYTES = 340 * MIB
ALONE_BYTES = 355 * MIB
# Host memory of CuPy and of a CUDA context; taken from the literature, not measured here.
CONTEXT_BYTES = 500 * MIB
# Time of kernels on a GPU as a share of that on a core; nominal, nothing is learned of GPUs.
TIME_ON_DEVICE = 1 / 30
# What OME-Zarr can hold.
_STORABLE = {"b1", "i1", "i2", "i4", "i8", "u1", "u2", "u4", "u8", "f2", "f4", "f8"}


class _Wanted(NamedTuple):
    """What was asked for: chunk lengths of outputs by axis name, and scale levels at most.

    ``keep`` says where what lies between stages is kept.
    """

    chunks: Mapping[str, int] | None
    levels: int | None
    keep: Keep


def baseline(resources: Resources) -> int:
    """Return the bytes that the processes of a run hold before any block."""
    more = CONTEXT_BYTES if resources.device == "gpu" else 0
    if resources.in_process:
        return ALONE_BYTES + more
    return DRIVER_BYTES + more + resources.workers * (WORKER_BYTES + more)


def make_plan(
    spec: Spec,
    inputs: Mapping[str, InputInfo],
    resources: Resources,
    tiling: Mapping[str, int] | None = None,
    rates: Rates = NOMINAL,
    chunks: Mapping[str, int] | None = None,
    levels: int | None = None,
    keep: Keep = "disk",
    parts: Parts = (),
) -> Plan:
    """Plan a run.

    Parameters
    ----------
    spec
        The pipeline, bound to the types of its images.
    inputs
        Storage chunk and place of each input image.
    resources
        Memory, workers and threads that may be used.
    tiling
        Length of chunks and blocks by axis name, for checking that results do not depend on it.
    rates
        What things cost on the machine that the plan is for.
    chunks
        Chunk length of output images by axis name, where the planner shall not choose it.
    levels
        Scale levels of output images at most, the full resolution among them.
    keep
        Whether what stages need of earlier ones stays in memory, where all processes are on this
        machine: "memory" and "disk" as they say, "auto" where there is room for it.
    parts
        Variants of a sweep that were in the same stages in an earlier plan.

    Raises
    ------
    MemoryRefusedError, DeviceRefusedError
        When no block shape fits the memory of the host, or of a device; names what is enough.
    RefusedError
        When an output has a dtype that cannot be stored, or its chunks would make too many files.
    UsageError
        When `chunks` names an axis that no output has.
    """
    _refuse_dtypes(spec)
    refuse_unknown_axes(chunks or {}, _output_grids(spec))
    costed = rates.apply(spec)
    if resources.device == "gpu":
        steps = tuple(replace(s, cost=s.cost * TIME_ON_DEVICE) for s in costed.steps)
        costed = replace(costed, steps=steps)

    def make(**given: int) -> Plan:
        here = replace(resources, **given)  # type: ignore[arg-type]  # numbers, as they are there
        wanted = _Wanted(chunks, levels, keep)
        return _plan_in_parts(
            lambda some: _plan(costed, inputs, here, tiling, rates, wanted, some),
            first_parts(spec, parts),
        )

    try:
        return make()
    except DeviceRefusedError as error:
        enough = _enough(lambda n: make(device_memory=n), resources.device_memory, MIB)
        raise DeviceRefusedError(
            f"{error}; let it use {enough // MIB} MiB (--device-memory {enough // MIB}MiB), store "
            "the input in smaller chunks, or compute on the cores (--device cpu)"
        ) from None
    except MemoryRefusedError as error:
        enough = _enough(
            lambda n: make(memory=n), resources.memory, max(resources.memory, baseline(resources))
        )
        ways = [f"give the run at least {enough // MIB} MiB", *_less(resources), error.remedy]
        raise MemoryRefusedError(f"{error}; {_any_of(ways)}") from None


def _plan_in_parts(make: Callable[[Parts], Plan], parts: Parts) -> Plan:
    """Return a plan with as few parts as fit the memory."""
    while True:
        try:
            return make(parts)
        except (MemoryRefusedError, DeviceRefusedError):
            parts = halved(parts)
            if not parts:
                raise


def _enough(make: Callable[[int], Plan], refused: int, hint: int) -> int:
    """Return memory, in whole MiB, that a plan was made with; a few percent less was refused.

    Parameters
    ----------
    make
        Makes a plan with so many bytes.
    refused
        Bytes that are too little.
    hint
        Bytes from which on it is worth a try.
    """

    def fits(memory: int) -> bool:
        try:
            make(memory)
        except (MemoryRefusedError, DeviceRefusedError):
            return False
        return True

    too_little = max(refused, MIB)
    enough = 2 * max(too_little, hint)
    while not fits(enough):
        too_little, enough = max(too_little, enough), 2 * enough
    while enough > 1.03 * too_little:
        middle = (too_little + enough) // 2
        if fits(middle):
            enough = middle
        else:
            too_little = middle
    return -(-enough // MIB) * MIB


def _plan(
    spec: Spec,
    inputs: Mapping[str, InputInfo],
    resources: Resources,
    tiling: Mapping[str, int] | None,
    rates: Rates,
    wanted: _Wanted,
    parts: Parts,
) -> Plan:
    _refuse_tiny_memory(resources)
    levels = assign_levels(spec)
    stored, decisions = choose_kept(spec, levels, rates)
    part_of = part_of_steps(spec, parts)
    drafts = parted(draft_stages(spec, levels, stored), part_of)
    skeletons = [_skeleton(spec, levels, stored, draft) for draft in drafts]
    beside = written_beside_outputs(spec, skeletons, levels)
    arrays = _stored_arrays(spec, stored, inputs, tiling, wanted, beside)
    full = with_scale_levels(spec, wanted.levels)
    left = resources.memory - baseline(resources)
    tables = table_bytes(spec, left)
    budget = int((left - tables) / ALLOCATOR_SLACK)
    processes = resources.processes if resources.device == "gpu" else 0
    room = direct_bytes(inputs.values()) if resources.direct else 0
    devices = Devices(full, resources.device_memory, processes, room)
    fitter = Fitter(full, arrays, inputs, budget, resources.slots, devices, rates, tiling)
    stages = fitter.fit(skeletons, levels)
    stages += scale_stages(fitter, stages, part_of)
    if wanted.keep != "disk" and (resources.processes == 1 or neighbours.AVAILABLE):
        holding = Holding(fitter, wanted.keep, resources.processes)
        stages, arrays, decisions = holding.choose(stages, decisions)
    if resources.processes == 1 and (wanted.keep != "disk" or resources.in_process):
        stages = keep_between_stages(stages, arrays, budget)
    elif resources.workers > 1:
        stages = with_room_to_share(stages, budget, resources.workers)
    stages = [replace(s, index=i) for i, s in enumerate(with_counts(full, stages))]
    worst = max((with_gaps(s) + t for s, t in with_tables(full, stages, tables)), default=0)
    return Plan(
        pipeline=spec,
        spec=full,
        inputs=dict(inputs),
        arrays=arrays,
        stages=tuple(stages),
        decisions=tuple(decisions),
        resources=resources,
        parts=parts,
        peak_bytes=baseline(resources) + worst,
    )


def _refuse_dtypes(spec: Spec) -> None:
    for name, step in spec.outputs.items():
        type_ = spec[step].type
        if isinstance(type_, ImageType) and type_.dtype.str[1:] not in _STORABLE:
            raise RefusedError(
                f"output {name!r} has dtype {type_.dtype}, which OME-Zarr cannot hold: its values "
                "would be lost; use astype, abs or another result that is real-valued"
            )


def _refuse_tiny_memory(resources: Resources) -> None:
    if resources.memory <= baseline(resources):
        error = MemoryRefusedError(
            f"memory {resources.memory // MIB} MiB is less than the processes of a run hold "
            f"before any block: {baseline(resources) // MIB} MiB"
        )
        error.remedy = ""  # no block is too large
        raise error


def _less(resources: Resources) -> Iterator[str]:
    """Yield what has the processes of a run take less memory."""
    if resources.workers > 1:
        yield "start fewer --workers"
    saved = (baseline(resources) - baseline(replace(resources, serial=True))) // MIB
    if saved:
        yield f"run in one process (serial; saves {saved} MiB)"


def _any_of(ways: Sequence[str]) -> str:
    *others, last = [way for way in ways if way]
    return ", or ".join([", ".join(others), last] if others else [last])


def with_scale_levels(spec: Spec, most: int | None) -> Spec:
    """Add the steps that make the scale levels of every output image: ``labels@1`` and so on.

    Parameters
    ----------
    most
        Levels of an image at most, the full resolution among them.
    """
    extra: list[Step] = []
    for source in dict.fromkeys(spec.outputs.values()):
        type_ = spec[source].type
        if not isinstance(type_, ImageType):
            continue
        method = "mean" if type_.kind == "image" else "nearest"
        for level, factors in enumerate(scale_factors(type_.grid, most), start=1):
            made = downsample(Image(type_, None), factors, method)
            call, type_ = made.call, made.type
            args = {**call.args, "image": Ref(level_step(source, level - 1))}
            name = level_step(source, level)
            cost = call.cost
            extra.append(
                Step(name, downsample, args, type_, call.depth, call.scratch, cost, declared=cost)
            )
    return replace(spec, steps=spec.steps + tuple(extra))


def _stored_arrays(
    spec: Spec,
    stored: set[str],
    inputs: Mapping[str, InputInfo],
    tiling: Mapping[str, int] | None,
    wanted: _Wanted,
    beside: Collection[str],
) -> dict[str, StoredArray]:
    """Decide where each stored step goes: outputs under their own name, the rest in scratch.

    Chunks that are wanted are those of outputs. Scratch has them where it is written in the same
    blocks, which could not be whole chunks of both otherwise.
    """
    arrays: dict[str, StoredArray] = {}
    chunks = wanted.chunks
    for name, step in spec.outputs.items():
        type_ = spec[step].type
        if isinstance(type_, ImageType):
            hint = chunk_hint(inputs, type_.grid)
            levels = pyramid(type_.grid, hint, tiling, chunks, wanted.levels)
            if chunks:
                refuse_chunks(name, type_.dtype.itemsize, levels[0])
            arrays[name] = StoredArray(name, step, type_, levels, output=True)
    for step in sorted(stored - set(spec.outputs.values())):
        type_ = spec.image_type(step)
        # Scratch is read by blocks alone: one chunk for each unit of writing is enough.
        same = chunks if step in beside else None
        unit = choose_layout(type_.grid, chunk_hint(inputs, type_.grid), tiling, same).unit
        levels = (Layout(type_.grid, unit),)
        arrays[SCRATCH + step] = StoredArray(SCRATCH + step, step, type_, levels, output=False)
    return arrays


def _output_grids(spec: Spec) -> list[Grid]:
    types = [spec[step].type for step in spec.outputs.values()]
    return [t.grid for t in types if isinstance(t, ImageType)]


def _skeleton(spec: Spec, levels: Levels, stored: set[str], draft: Draft) -> Stage:
    """Return a stage as one block; its shape is chosen later."""
    reads, steps = closure(spec, levels, draft, stored)
    values = [v for s in steps for v in spec.value_inputs(spec[s])]
    unit_factors = (1,) * draft.grid.ndim
    return Stage(
        index=0,
        name=stage_name(spec, steps, reads),
        grid=draft.grid,
        block=draft.grid.shape,
        reads=tuple(Read(s, _array_name(spec, s)) for s in reads),
        steps=tuple(steps),
        reduces=tuple(draft.reduces),
        writes=tuple(
            Write(s, name, 0, unit_factors) for s in draft.writes for name in _names(spec, s)
        ),
        values=tuple(dict.fromkeys(values)),
        sweep=_sweep(spec, draft),
    )


def _names(spec: Spec, step: str) -> list[str]:
    names = [n for n, s in spec.outputs.items() if s == step]
    return names or [SCRATCH + step]


def _array_name(spec: Spec, step: str) -> str | None:
    """Return the stored array that holds a step's result; None for an input image."""
    if spec[step].kernel is None:
        return None
    return _names(spec, step)[0]


def _sweep(spec: Spec, draft: Draft) -> Sweep | None:
    if draft.sweep is None:
        return None
    step = spec[draft.sweep]
    (source,) = spec.image_inputs(step)
    assert step.kernel is not None and step.kernel.sweep is not None
    axis = spec.image_type(source).grid.axis(step.args[step.kernel.sweep])
    return Sweep(draft.sweep, axis, 1)
