"""What stays in memory between stages: where there is room, and stored as well if it is dear."""

from __future__ import annotations

from dataclasses import replace
from itertools import product
from math import prod

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import lepton_pipe as lp
from lepton_pipe.cache import neighbours
from lepton_pipe.cache.records import RecordStore, room_for
from lepton_pipe.cache.uses import Held
from lepton_pipe.errors import MemoryRefusedError
from lepton_pipe.geometry import Grid, Layout
from lepton_pipe.kernels import gaussian, label, maximum, mean, opening
from lepton_pipe.ledger.keys_reads import read_regions
from lepton_pipe.plan import InputInfo, Resources, holding, make_plan
from lepton_pipe.plan.fit import Fitter
from lepton_pipe.plan.holding import worst_bytes
from lepton_pipe.plan.keeping import beside_again, with_gaps
from lepton_pipe.plan.memory import ALLOCATOR_SLACK, HELD_SLACK
from lepton_pipe.plan.model import StoredArray
from lepton_pipe.plan.on_device import Devices
from lepton_pipe.plan.planner import baseline
from lepton_pipe.plan.uses import uses_of
from lepton_pipe.spec import Definition, ImageType
from lepton_pipe.store.held import shared
from lepton_pipe.store.ome import create_scratch
from lepton_pipe.store.target import ArrayTarget
from tests.plan.pipelines import GIB, MIB, random_specs, small_shapes

SHAPE = (128, 512, 512)
HERE = Resources(2 * GIB, workers=0, threads=2)


@lp.kernel(cost=20_000.0)
def dear(image):
    return image


def grown(raw: lp.Image):
    return maximum(label(gaussian(raw, 1) > 3), 5)


def dearly_grown(raw: lp.Image):
    return maximum(label(dear(raw) > 3), 5)


def flattened(raw: lp.Image):
    ridges = opening(raw, 9)
    return ridges - mean(ridges)


def plan_of(fn, resources=HERE, shape=SHAPE, **options):
    definition = Definition(fn)
    type_ = ImageType(Grid.of(shape), np.dtype("uint16"))
    spec = definition.bind({"raw": type_}, {})
    inputs = {"raw": InputInfo(type_, (32, 64, 64), "memory")}
    return make_plan(spec, inputs, resources, **options)


def places(plan):
    return {a.name: a.place for a in plan.arrays.values() if not a.output}


def choices(plan):
    return {d.step: d.choice for d in plan.decisions}


def test_labels_for_a_later_stage_stay_in_memory_and_the_plan_says_why():
    plan = plan_of(grown, keep="auto")
    assert set(places(plan).values()) == {"memory"}
    assert choices(plan)["label_apply"] == "keep"
    (reason,) = (d.reason for d in plan.decisions if d.step == "label_apply")
    assert "must be final first" in reason
    assert "128 MiB, some 3" in reason
    assert "KiB when packed" in reason
    assert "after a kill takes" in reason
    assert plan.to_json()["arrays"]["scratch/label_apply"]["place"] == "memory"
    assert any(s["held_bytes"] for s in plan.to_json()["stages"])


def test_what_is_dear_to_make_again_is_stored_as_well():
    plan = plan_of(dearly_grown, keep="auto")
    # Labels are made from a mask that a kill would take along, were it not stored.
    assert places(plan)["scratch/greater"] == "both"
    assert choices(plan)["greater"] == "keep and store"
    assert plan_of(dearly_grown, keep="memory").arrays["scratch/greater"].place == "memory"


def test_what_a_kill_takes_along_is_counted_where_it_is_needed_to_make_something_again():

    plan = plan_of(dearly_grown, keep="memory")
    writer = next(
        i for i, s in enumerate(plan.stages) if any(w.step == "label_apply" for w in s.writes)
    )
    alone = plan.stages[writer].estimate.core_seconds
    again = holding._seconds_again(plan.stages, plan.arrays, writer)
    assert again > alone + plan.stages[0].estimate.core_seconds / 4


@pytest.mark.parametrize("resources", [Resources(4 * GIB, 2, 2), Resources(4 * GIB, 4, 1)])
@pytest.mark.parametrize("keep", ["auto", "memory"])
def test_of_what_is_small_any_of_several_processes_may_come_to_keep_all(resources, keep):
    plan = plan_of(grown, resources, keep=keep, shape=(40, 240, 320))
    assert set(places(plan).values()) == {"memory"}
    assert choices(plan)["label_apply"] == "keep"
    labels = plan.arrays["scratch/label_apply"]
    assert labels.nbytes <= holding._SMALL_BYTES
    assert plan.stages[-1].held_bytes == resources.workers * holding.worst_bytes(labels)


@pytest.mark.parametrize("keep", ["auto", "memory"])
def test_where_processes_cannot_share_memory_they_share_files(monkeypatch, keep):
    monkeypatch.setattr(neighbours, "AVAILABLE", False)
    plan = plan_of(grown, Resources(4 * GIB, 2, 2), keep=keep)
    assert set(places(plan).values()) == {"disk"}
    assert choices(plan)["label_apply"] == "store"


def test_disk_means_disk():
    assert set(places(plan_of(grown, keep="disk")).values()) == {"disk"}
    assert all(s.held_bytes == 0 for s in plan_of(grown, keep="disk").stages)


def test_what_is_kept_is_part_of_the_peak_from_its_writer_to_its_last_reader():
    plan, stored = plan_of(flattened, keep="auto"), plan_of(flattened, keep="disk")
    assert places(plan) == {"scratch/opening": "memory"}
    packed = plan.arrays["scratch/opening"].nbytes / 1.25
    assert [s.held_bytes >= packed for s in plan.stages[:2]] == [True, True]
    assert plan.peak_bytes > stored.peak_bytes
    assert [s.block for s in plan.stages] == [s.block for s in stored.stages]
    assert [s.slots for s in plan.stages] == [s.slots for s in stored.stages]


def test_kernels_come_first_then_what_is_kept_then_decoded_chunks():
    enough = next(m for m in range(400, 4000, 20) if _fits(m))
    for more in (0, 40, 200, 2000):
        memory = (enough + more) * MIB
        plan = plan_of(flattened, Resources(memory, 0, 2), keep="memory")
        stored = plan_of(flattened, Resources(memory, 0, 2), keep="disk")
        assert plan.peak_bytes <= memory
        for stage, other in zip(plan.stages, stored.stages, strict=True):
            assert stage.slots == other.slots
            assert stage.estimate.task_bytes == other.estimate.task_bytes
            assert stage.cache_bytes <= other.cache_bytes


def _fits(memory):
    try:
        plan_of(flattened, Resources(memory * MIB, 0, 2))
    except MemoryRefusedError:
        return False
    return True


def test_nothing_is_kept_where_chunks_would_be_decoded_again_for_it():
    def three(raw: lp.Image):
        # Each block reads far beyond itself: what is decoded is worth more than what is kept.
        ridges = maximum(opening(raw, 9), 41)
        return ridges - mean(ridges)

    with pytest.raises(MemoryRefusedError) as caught:
        plan_of(three, Resources(200 * MIB, 0, 2))
    least = int(str(caught.value).partition("at least ")[2].partition(" MiB")[0])
    kept = []
    for memory in (least, least + 150, 3000):
        resources = Resources(memory * MIB, 0, 2)
        plan, stored = (plan_of(three, resources, keep=keep) for keep in ("auto", "disk"))
        assert plan.seconds <= stored.seconds + 0.2
        kept.append(set(places(plan).values()))
    assert kept[0] == {"disk"}
    assert kept[-1] == {"memory"}


class Disk:
    """Notes which files are written."""

    def __init__(self):
        self.written = []

    def write(self, file, group, pieces):
        self.written.append(file)

    def remove(self, file):
        pass


def chunk_counts(level):
    return tuple(-(-n // u) for n, u in zip(level.grid.shape, level.unit, strict=True))


def worst_chunk(array):
    """Return a chunk as it is kept where packing does not make it smaller."""
    (level,) = array.levels
    voxels = prod(level.unit)
    raw = -(-voxels // 8) if array.type.dtype == bool else voxels * array.type.dtype.itemsize
    return bytes(raw + 16), bytes(4)  # a header, a checksum


@settings(max_examples=40, deadline=None)
@given(
    random_specs(small_shapes),
    st.fixed_dictionaries({}, optional={a: st.integers(3, 12) for a in "zyx"}),
    st.sampled_from(["auto", "memory"]),
)
def test_the_room_for_small_images_holds_them_however_badly_they_pack(case, tiling, keep):
    spec, inputs = case
    plan = make_plan(spec, inputs, Resources(2 * GIB, 0, 2), tiling, keep=keep)
    disk = Disk()
    records = RecordStore(disk)
    for stage in plan.stages:
        kept = [n for n, a in plan.arrays.items() if a.place != "disk"]
        uses = {n: uses_of(plan, n, stage.index) for n in kept}
        uses = {n: found for n, found in uses.items() if found}
        records.retain(Held("run", stage.index, stage.held_bytes, uses))
        for name in {w.array for w in stage.writes}.intersection(kept):
            (level,) = plan.arrays[name].levels
            for index in np.ndindex(*chunk_counts(level)):
                records.put(f"run/{name}/{index}", name, index, worst_chunk(plan.arrays[name]))
    records.clear()  # waits for what is spilled ahead
    assert disk.written == []


@pytest.mark.parametrize("dtype", ["bool", "uint8", "uint16", "int32", "float32", "int64"])
def test_chunks_of_noise_are_kept_in_what_they_are_thought_to_take_at_worst(tmp_path, dtype):
    random = np.random.default_rng(0)
    data = random.integers(0, 256, (20, 70, 100 * np.dtype(dtype).itemsize), np.uint8)
    data = data > 127 if dtype == "bool" else data.view(dtype)
    type_ = ImageType(Grid.of(data.shape), data.dtype)
    array = StoredArray("scratch/a", "a", type_, (Layout(type_.grid, (16, 32, 64)),), output=False)
    create_scratch(tmp_path / "a", type_, (16, 32, 64))
    target = ArrayTarget(tmp_path / "a", None, "memory")
    shared.retain(Held(str(tmp_path), 0, 2 * worst_bytes(array)))
    written = target.write(type_.grid.region, data)
    most = shared.held_bytes
    shared.clear(str(tmp_path))
    shared.take()  # or the next run of this process counts them as its own
    chunk = sum(map(len, worst_chunk(array)))
    assert len(written) == np.prod(chunk_counts(array.levels[0]))
    assert max(w.size for w in written) == chunk
    assert most <= room_for(len(written), len(written) * chunk) == worst_bytes(array)


@settings(max_examples=30, deadline=None)
@given(
    random_specs(small_shapes),
    st.fixed_dictionaries({}, optional={a: st.integers(3, 12) for a in "zyx"}),
)
def test_uses_are_those_of_the_blocks_that_read_a_chunk(case, tiling):
    spec, inputs = case
    plan = make_plan(spec, inputs, Resources(4 * GIB, 0, 1), tiling)
    for array in [a for a in plan.arrays.values() if not a.output]:
        (level,) = array.levels
        for use in uses_of(plan, array.name, 0):
            stage = plan.stages[use.stage]
            read = next(r for r in stage.reads if r.array == array.name)
            readers = _readers(plan, stage, read, level)
            block = next(s.block for s in plan.stages for w in s.writes if w.array == array.name)
            for chunk, numbers in readers.items():
                first, last = use.span(chunk)
                assert first == min(numbers)
                beside = _beside(chunk, block, level)
                assert max(numbers) <= last <= max(n for c in beside for n in readers.get(c, [0]))


def _beside(chunk, block, level):
    """Return the chunks that are written by the same block as one."""
    per = [-(-b // u) for b, u in zip(block, level.unit, strict=True)]
    return list(
        product(*(range(i // n * n, i // n * n + n) for i, n in zip(chunk, per, strict=True)))
    )


def _readers(plan, stage, read, level):
    """Return the numbers of the blocks that read each chunk, found block by block."""
    found = {}
    for number in range(len(stage.blocks)):
        region = read_regions(plan.spec, stage, stage.blocks.region(number))[read.step]
        spans = zip(region.start, region.stop, level.unit, strict=True)
        for chunk in product(*(range(a // u, -(-b // u)) for a, b, u in spans)):
            found.setdefault(chunk, []).append(number)
    return found


@given(random_specs(small_shapes), st.sampled_from(["auto", "memory"]))
@settings(max_examples=20, deadline=None)
def test_the_peak_is_no_more_than_was_given_and_stored_bytes_are_the_same(case, keep):
    spec, inputs = case
    resources = Resources(2 * GIB, 0, 2)
    plan = make_plan(spec, inputs, resources, keep=keep)
    stored = make_plan(spec, inputs, resources)
    worst = max(map(with_gaps, plan.stages), default=0)
    assert baseline(resources) + worst <= plan.peak_bytes <= resources.memory
    found = {n: replace(a, place="disk") for n, a in plan.arrays.items()}
    assert found == stored.arrays


@given(random_specs(small_shapes), st.sampled_from([380, 500, 2048]), st.sampled_from([0, 1]))
@settings(max_examples=20, deadline=None)
def test_blocks_that_run_again_for_a_later_stage_take_no_more_than_any(case, mib, workers):
    spec, inputs = case
    try:
        plan = make_plan(
            spec, inputs, Resources((mib + workers * 200) * MIB, workers, 2), keep="auto"
        )
    except MemoryRefusedError:
        return
    most = max(map(with_gaps, plan.stages), default=0)
    for n, stage in enumerate(plan.stages):
        for now in plan.stages[n + 1 :]:
            held, cache = beside_again(plan, stage, now)
            assert 0 <= held <= now.held_bytes
            assert 0 <= cache <= stage.cache_bytes
            assert with_gaps(replace(stage, held_bytes=held, cache_bytes=cache)) <= most
            if with_gaps(replace(stage, held_bytes=now.held_bytes)) < most:
                assert (held, cache) == (now.held_bytes, stage.cache_bytes)


def test_the_gaps_of_what_stays_are_fewer_than_those_of_what_comes_and_goes():
    (*_, stage) = plan_of(flattened, keep="memory").stages
    assert stage.held_bytes > 0
    came = stage.slots * stage.estimate.task_bytes + stage.cache_bytes + stage.kept_bytes
    assert with_gaps(stage) == int(ALLOCATOR_SLACK * came + HELD_SLACK * stage.held_bytes)


@given(random_specs(small_shapes), st.sampled_from([400, 500, 2048]))
@settings(max_examples=20, deadline=None)
def test_what_is_held_changes_what_a_finished_stage_takes_as_if_it_was_finished_with_it(case, mib):
    spec, inputs = case
    resources = Resources(mib * MIB, 0, 2)
    try:
        plan = make_plan(spec, inputs, resources, keep="auto")
    except MemoryRefusedError:
        return
    budget = int((mib * MIB - baseline(resources)) / ALLOCATOR_SLACK)
    fitter = Fitter(plan.spec, plan.arrays, plan.inputs, budget, 2, Devices(plan.spec, 0, 0))
    for planned in plan.stages:
        stage = fitter.finish(planned, planned.slots)
        room = budget - stage.slots * stage.estimate.task_bytes
        for held in {0, room // 2, room}:
            found = fitter.holding(stage, held)
            again = fitter.finish(replace(planned, held_bytes=held), planned.slots)
            seconds = pytest.approx(again.estimate.core_seconds)
            assert found.estimate.core_seconds == seconds
            same = replace(again.estimate, core_seconds=found.estimate.core_seconds)
            assert found == replace(again, estimate=same)
