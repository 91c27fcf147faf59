"""One block's task: reads once, computes each kernel once, writes what it owns, frees the rest."""

from __future__ import annotations

import numpy as np
import pytest

import lepton_pipe as lp
from lepton_pipe.device import ndimage
from lepton_pipe.errors import KernelError
from lepton_pipe.kernels import gaussian, project, sum_of
from lepton_pipe.plan import InputInfo, Resources, make_plan
from lepton_pipe.store import open_source
from lepton_pipe.worker import Program, Stats, run_block
from tests.run.five import bind

IMAGE = np.arange(24 * 20, dtype=np.uint16).reshape(24, 20)


class Recorder:
    """A source or target that notes every region."""

    def __init__(self, array):
        self.array, self.regions = array, []

    def read(self, region):
        self.regions.append(region)
        return np.ascontiguousarray(self.array[region.slices])

    def write(self, region, array):
        self.regions.append(region)
        self.array[region.slices] = array
        return []


def programs(pipeline, tiling, image=IMAGE):
    """Yield each stage with sources and targets that record, in order, as a run would."""
    spec, sources = bind(pipeline, image)
    inputs = {n: InputInfo(s.type, s.chunks, s.uri) for n, s in sources.items()}
    plan = make_plan(spec, inputs, Resources(2**33, serial=True), tiling)
    stored = {"raw": image}
    for stage in plan.stages:
        targets = {}
        for write in stage.writes:
            level = plan.arrays[write.array].levels[write.level]
            made = np.full(level.grid.shape, 99, plan.arrays[write.array].type.dtype)
            stored[write.step] = made
            targets[write.array, write.level] = Recorder(made)
        read = {r.step: Recorder(stored[r.step]) for r in stage.reads}
        yield Program(plan.spec, stage, read, targets, {}), stored


def piped(fn):
    def one(raw: lp.Image):
        return {"out": fn(raw)}

    return lp.pipeline(one)


def test_a_chain_reads_once_with_all_depths_and_writes_each_voxel_once():
    chain = piped(lambda raw: gaussian(gaussian(raw, sigma=0.5), sigma=0.5))
    ((program, _),) = programs(chain, {"y": 7, "x": 6})
    stage = program.stage
    results = [run_block(program, i, {}) for i in range(len(stage.blocks))]
    source = program.sources["raw"]
    assert len(source.regions) == len(stage.blocks) == 4 * 4
    for region, (_, block) in zip(source.regions, enumerate(blocks_of(stage)), strict=True):
        assert region == block.grow(((4, 4), (4, 4)), IMAGE.shape)
    (target,) = program.targets.values()
    assert target.regions == list(blocks_of(stage))
    expected = gaussian(gaussian(IMAGE, sigma=0.5), sigma=0.5)
    np.testing.assert_array_equal(target.array, expected)
    total = Stats()
    for result in results:
        total.add(result.stats)
    assert total.blocks == 16
    assert total.bytes_written == expected.nbytes
    assert total.bytes_read == sum(r.size for r in source.regions) * 2
    assert min(total.read_seconds, total.compute_seconds, total.write_seconds) > 0


def blocks_of(stage):
    return [stage.blocks.region(i) for i in range(len(stage.blocks))]


def test_every_kernel_runs_once_a_block_however_often_its_result_is_used():
    calls = []

    @lp.kernel(depth=1)
    def counted(block):
        calls.append(block.shape)
        return ndimage(block).minimum_filter(block, size=3)

    @lp.pipeline
    def used(raw: lp.Image):
        one = counted(raw)
        return {"a": one + one, "b": one * 2, "s": sum_of(one)}

    for program, _ in programs(used, {"y": 12, "x": 10}):
        for index in range(len(program.stage.blocks)):
            run_block(program, index, {})
    assert len(calls) == 4


def test_an_input_cannot_be_changed_by_a_kernel():
    @lp.kernel
    def rude(block):
        block[...] = 0
        return block

    ((program, _),) = programs(piped(rude), {"y": 12, "x": 10})
    with pytest.raises(KernelError, match="read-only") as caught:
        run_block(program, 0, {})
    assert "rude failed on block" in str(caught.value)
    assert "block[...] = 0" in str(caught.value)


def test_what_a_kernel_made_cannot_be_changed_by_the_next_one():
    @lp.kernel
    def made(block):
        return block + 1

    @lp.kernel
    def rude(block):
        block += 1
        return block

    @lp.pipeline
    def both(raw: lp.Image):
        one = made(raw)
        return {"changed": rude(one), "kept": one * 1}

    ((program, _),) = programs(both, {"y": 12, "x": 10})
    with pytest.raises(KernelError, match="read-only"):
        run_block(program, 0, {})
    with pytest.raises(ValueError, match="read-only"):
        both(IMAGE)
    np.testing.assert_array_equal(piped(made)(IMAGE)["out"], IMAGE + 1)


@pytest.mark.parametrize(
    ("made", "told"),
    [
        (lambda block: block.astype(float), "returned float64"),
        (lambda block: block[1:], "of shape (11, 10)"),
        (lambda block: None, "returned NoneType"),
        (lambda block: 3, "returned int"),
        (lambda block: block[None], "(1, 12, 10)"),
    ],
)
def test_a_kernel_is_held_to_its_declaration(made, told):
    kernel = lp.kernel(lambda block: made(block))
    kernel.name = "fickle"
    ((program, _),) = programs(piped(kernel), {"y": 12, "x": 10})
    with pytest.raises(KernelError) as caught:
        run_block(program, 0, {})
    assert told in str(caught.value)
    assert "declares uint16 of shape (12, 10)" in str(caught.value)


@pytest.mark.parametrize("alone", [True, False])
def test_a_kernel_may_return_what_the_block_owns_alone(alone):
    @lp.kernel(depth=(0, 2))
    def shifted(block, *, place):
        made = np.concatenate([block[:, 2:], block[:, -2:]], axis=1)
        return made[place.inner] if alone else made

    chain = piped(lambda raw: shifted(shifted(raw)) + 1)
    ((program, _),) = programs(chain, {"y": 7, "x": 6})
    for i in range(len(program.stage.blocks)):
        run_block(program, i, {})
    (target,) = program.targets.values()
    np.testing.assert_array_equal(target.array, chain(IMAGE)["out"])


def test_another_part_of_what_was_read_is_refused():
    @lp.kernel(depth=1)
    def fickle(block):
        return block[1:]

    ((program, _),) = programs(piped(fickle), {"y": 12, "x": 10})
    told = r"fickle returned uint16 of shape \(12, 11\), but .* \(13, 11\) or \(12, 10\)"
    with pytest.raises(KernelError, match=told):
        run_block(program, 0, {})


def test_a_sweep_reads_every_slab_once_and_writes_its_block():
    volume = np.random.default_rng(0).integers(0, 9, (11, 8, 9)).astype(np.uint8)
    swept = piped(lambda raw: project(raw, "z", "sum"))
    ((program, _),) = programs(swept, {"z": 3, "y": 4, "x": 5}, volume)
    for index in range(len(program.stage.blocks)):
        run_block(program, index, {})
    seen = np.zeros(volume.shape, int)
    for region in program.sources["raw"].regions:
        seen[region.slices] += 1
    assert (seen == 1).all()
    (target,) = program.targets.values()
    np.testing.assert_array_equal(target.array, volume.sum(axis=0))


def test_a_source_that_fails_says_so_and_is_not_blamed_on_a_kernel(tmp_path):
    np.save(tmp_path / "raw.npy", IMAGE)
    source = open_source(tmp_path / "raw.npy")
    ((program, _),) = programs(piped(lambda raw: raw + 1), {"y": 12, "x": 10})
    broken = Program(program.spec, program.stage, {"raw": source}, program.targets, {})
    (tmp_path / "raw.npy").write_bytes(b"\x93NUMPY torn")
    with pytest.raises(Exception, match=r"raw\.npy"):
        run_block(broken, 0, {})
