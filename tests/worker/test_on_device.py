"""A worker's GPU, on the stand-in: memory bounded as planned, faults survived, copies in order."""

from __future__ import annotations

import dataclasses
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial, reduce
from itertools import count
from types import SimpleNamespace

import numpy as np
import pytest

import lepton_pipe as lp
from lepton_pipe.cuda import compiled
from lepton_pipe.device import lanes as lanes_module
from lepton_pipe.device.busy import Busy
from lepton_pipe.device.lanes import Lane, Lanes, lanes_of
from lepton_pipe.device.memory import free_bytes
from lepton_pipe.errors import DeviceLostError, DeviceMemoryError, DeviceRefusedError
from lepton_pipe.kernels import astype, clip, gaussian, median, project, sobel
from lepton_pipe.plan.on_device import POOL_SLACK
from lepton_pipe.worker import Stats
from tests.fake_device import fake_cupy
from tests.fake_memory import DEVICE, CUDARuntimeError
from tests.kernels.test_blocks_on_device import Run, background, objects, picture


@pytest.fixture(autouse=True)
def gpu():
    with fake_cupy() as traffic:
        yield traffic


@pytest.fixture
def small_buffers(monkeypatch):
    """Buffers far smaller than an image, so that each is used again and again."""
    monkeypatch.setattr(lanes_module, "STAGE_BYTES", 1000)


@lp.pipeline
def smoothed(raw: lp.Image):
    """Filter, and write two results of different depth."""
    smooth = gaussian(raw, sigma=0.8)
    return {"smooth": smooth, "small": astype(clip(smooth, 0, 200), "uint8", cast="clip")}


# -- lanes --------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", ["bool", "uint8", "uint16", "float64"])
@pytest.mark.parametrize("shape", [(), (3,), (7, 501), (5, 20, 30)])
def test_what_goes_through_a_lane_comes_back_the_same(shape, dtype, small_buffers):
    image = np.random.default_rng(1).integers(0, 2 if dtype == "bool" else 99, shape).astype(dtype)
    lane = Lane()
    with lane.entered():
        there = lane.take_in(image)
        back = lane.bring_back(there)
        part = lane.bring_back(there[..., ::2]) if shape else back
    np.testing.assert_array_equal(back, image)
    assert back.dtype == image.dtype
    if shape:
        np.testing.assert_array_equal(part, image[..., ::2])


def test_an_array_may_be_changed_as_soon_as_it_was_taken_in(small_buffers):
    image = np.arange(5000, dtype=np.uint16)
    lane = Lane()
    with lane.entered():
        there = lane.take_in(image)
        image[:] = 7
        back = lane.bring_back(there)
    np.testing.assert_array_equal(back, np.arange(5000))


def test_a_buffer_that_is_filled_too_early_would_spoil_the_image(small_buffers, monkeypatch):
    # The stand-in copies as late as a device may: without waiting, the order shows.
    monkeypatch.setattr("tests.fake_memory.Event.synchronize", lambda self: None)
    image = np.arange(5000, dtype=np.uint16)
    lane = Lane()
    with lane.entered():
        back = lane.bring_back(lane.take_in(image))
    assert (back != image).any()


def test_an_array_of_another_lane_cannot_be_used_before_its_copy_has_ended():
    one, other = Lane(), Lane()
    with one.stream:
        there = one.take_in(np.arange(10))
    with other.stream, pytest.raises(AssertionError, match="another stream"):
        there + there
    one.stream.synchronize()
    with other.stream:
        assert (there + there).get().tolist() == list(range(0, 20, 2))


def slowly():
    """A host that takes a second for everything."""
    seconds = count()
    return Busy(lambda: float(next(seconds)))


def test_a_lane_tells_how_long_it_copied_and_computed():
    lane = Lane(slowly())
    with lane.entered():
        there = lane.take_in(np.zeros(10**6, np.uint8))
        there = there + there  # of no step: not counted
        with lane.kernels():
            there = there + there
        lane.bring_back(there)
    busy = lane.busy.take()
    assert busy["copy_in"] == pytest.approx(5e-5)
    assert busy["copy_out"] == pytest.approx(5e-5)
    assert busy["kernels"] == pytest.approx(2e-5)
    assert lane.busy.take() == {}


def test_kernels_begin_with_the_first_launch_of_ours():
    lane = Lane(slowly())
    with fake_compiled() as launch, lane.entered():
        there = lane.take_in(np.zeros(10**6, np.uint8))
        with lane.kernels():
            there + there  # before it, as a compiler is
            for _ in range(2):
                launch((1,), (1,), (there,))
        launch((1,), (1,), (there,))
    assert lane.busy.take()["kernels"] == pytest.approx(2e-5)


@contextmanager
def fake_compiled():
    """Yield a kernel of ours that takes as long as one pass over its array."""
    cupy = sys.modules["cupy"]

    def run(grid, block, arguments):
        arguments[0]._voxels  # noqa: B018  (work on the current stream)

    cupy.RawModule = lambda code, options: SimpleNamespace(get_function=lambda name: run)
    try:
        yield compiled("some source", "some kernel")
    finally:
        del cupy.RawModule
        compiled.cache_clear()


def test_a_lane_keeps_no_more_marks_than_it_has_work_under_way(small_buffers):
    lane = Lane()
    with lane.entered():
        for _ in range(20):
            lane.bring_back(lane.take_in(np.arange(5000)))
            assert len(lane._marks) <= 12


def test_what_lanes_did_at_the_same_time_is_counted_once():
    run = Run(smoothed, "gpu", raw=picture(), slots=8)
    stage, program = next(run.stages())
    started = time.perf_counter()
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(partial(run.block, stage, program), range(len(stage.blocks))))
    wall = time.perf_counter() - started
    stats = reduce(Stats.add, (result.stats for result in run.results), Stats())
    for seconds in (stats.copy_in_seconds, stats.kernel_seconds, stats.copy_out_seconds):
        assert 0 < seconds <= wall
    assert stats.core_seconds >= stats.read_core_seconds + stats.write_core_seconds


def test_lanes_are_lent_to_no_more_than_there_are_and_all_to_who_is_alone():
    lanes, inside, most = Lanes(2, 0), [], []
    lock, entered = threading.Lock(), count()

    def one(i):
        with lanes.alone() if i % 5 == 0 else lanes.one():
            with lock:
                inside.append(i)
                next(entered)
                most.append((len(inside), any(j % 5 == 0 for j in inside)))
            threading.Event().wait(0.002)
            with lock:
                inside.remove(i)

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(one, range(40)))
    assert next(entered) == 40
    assert max(n for n, _ in most) == 2
    assert {n for n, alone in most if alone} == {1}


def test_a_lane_is_free_again_after_an_error():
    lanes = Lanes(1, 0)
    for lend in (lanes.one, lanes.alone):
        with pytest.raises(ZeroDivisionError), lend():
            raise ZeroDivisionError
    with lanes.one() as lane:
        assert lane.take_in(np.zeros(3)).shape == (3,)


# -- memory as planned --------------------------------------------------------------------------


@pytest.mark.parametrize("pipeline", [objects, background, smoothed], ids=lambda p: p.name)
@pytest.mark.parametrize("dtype", ["uint16", "float32"])
def test_a_block_takes_no_more_of_the_device_than_is_planned(pipeline, dtype):
    run = Run(pipeline, "gpu", raw=picture(dtype))
    for stage, program in run.stages():
        for index in range(len(stage.blocks)):
            DEVICE.most = DEVICE.used
            run.block(stage, program, index)
            assert DEVICE.most <= stage.estimate.device_bytes, stage.name
    assert DEVICE.used == 0, "arrays stay behind"


def test_no_more_blocks_lie_on_the_device_than_are_planned(small_buffers):
    image = picture()
    golden = Run(smoothed, "cpu", raw=image).all()
    run = Run(smoothed, "gpu", raw=image, slots=8)
    for stage, program in run.stages():
        assert stage.slots == 8
        assert stage.lanes == 8  # all fit; hold it to fewer
        narrow = dataclasses.replace(program, lanes=2)
        with ThreadPoolExecutor(8) as pool:
            list(pool.map(partial(run.block, stage, narrow), range(len(stage.blocks))))
        assert DEVICE.most <= 2 * stage.estimate.device_bytes
    for name, expected in golden.items():
        np.testing.assert_allclose(run.arrays[name, 0].array, expected, rtol=1e-6)


def test_the_plan_has_as_many_lanes_as_the_device_has_room_for():
    image = picture()
    wide = Run(smoothed, "gpu", raw=image, slots=8).plan.stages[0]
    each = int(wide.estimate.device_bytes * POOL_SLACK) + 1
    for lanes in (1, 3):
        plan = Run(smoothed, "gpu", raw=image, slots=8, memory=lanes * each).plan
        assert [s.lanes for s in plan.stages] == [lanes]
        assert plan.device_peak_bytes <= lanes * each
        assert plan.to_json()["stages"][0]["device_lanes"] == lanes
        assert "on each GPU" in _text(plan)
    with pytest.raises(DeviceRefusedError, match="--device-memory") as refused:
        Run(smoothed, "gpu", raw=image, slots=8, memory=each // 2)
    enough = int(str(refused.value).split("--device-memory ")[1].split("MiB")[0])
    assert Run(smoothed, "gpu", raw=image, memory=enough * 2**20).plan.stages


def _text(plan):
    from lepton_pipe.report.plan_text import plan_text

    return plan_text(plan, "out")


def test_the_pool_of_the_process_is_limited():
    run = Run(smoothed, "gpu", raw=picture(), memory=2**25)
    run.all()
    assert DEVICE.limit == 2**25
    DEVICE.free = 2**30
    assert free_bytes() == 2**30


# -- faults -------------------------------------------------------------------------------------


@pytest.mark.parametrize("pipeline", [objects, background, smoothed], ids=lambda p: p.name)
def test_a_block_for_which_there_is_no_room_runs_again_alone(pipeline):
    image = picture()
    golden = Run(pipeline, "gpu", raw=image).all()
    for at in range(1, 40, 6):
        run = Run(pipeline, "gpu", raw=image)
        DEVICE.failing.extend([False] * at + [True])
        made = run.all()
        assert not DEVICE.failing, "nothing failed"
        for name, expected in golden.items():
            _assert_same(made[name], expected)


def _assert_same(got, expected):
    if isinstance(expected, dict):
        assert list(got) == list(expected)
        for column in expected:
            np.testing.assert_array_equal(got[column], expected[column])
    else:
        np.testing.assert_array_equal(got, expected)


@lp.pipeline
def filtered(raw: lp.Image):
    """Write filters of one image, whose halves are those of the whole."""
    return {"median": median(raw, size=3), "edges": sobel(raw)}


def test_what_does_not_fit_as_a_whole_is_computed_in_halves():
    image = picture()
    run = Run(filtered, "gpu", raw=image)
    golden = run.all()
    need = DEVICE.most
    DEVICE.most = 0
    halves = Run(filtered, "gpu", raw=image)
    for stage, program in halves.stages():
        for index in range(len(stage.blocks)):
            # Less than was planned: another program has taken some of the device.
            lanes_of(program.lanes, program.device_bytes)
            DEVICE.limit = int(0.9 * need)
            halves.block(stage, program, index)
    assert 0 < DEVICE.most <= 0.9 * need
    assert DEVICE.freed_pool > 0
    for name, expected in golden.items():
        np.testing.assert_array_equal(halves.arrays[name, 0].array, expected)


def test_a_block_that_never_fits_ends_with_a_clear_error():
    run = Run(filtered, "gpu", raw=picture())
    stage, program = next(run.stages())
    lanes_of(program.lanes, program.device_bytes)
    DEVICE.limit = 1000
    with pytest.raises(DeviceMemoryError, match="not even alone and in halves") as error:
        run.block(stage, program, 0)
    for word in ("block [0:5, 0:16, 0:20]", "--device-memory", "--device cpu", "limit set to"):
        assert word in str(error.value)
    assert DEVICE.used == 0


def test_a_sweep_for_which_there_is_no_room_runs_again():
    @lp.pipeline
    def top(raw: lp.Image):
        return project(gaussian(raw, sigma=0.8), "z", "max")

    image = picture()
    golden = Run(top, "gpu", raw=image).all()
    run = Run(top, "gpu", raw=image)
    DEVICE.failing.extend([False] * 5 + [True])
    np.testing.assert_array_equal(run.all()["top"], golden["top"])


@pytest.mark.parametrize("at", [1, 2, 5, 11])
def test_a_lost_context_is_told_as_that_and_not_blamed_on_a_kernel(at):
    run = Run(objects, "gpu", raw=picture())
    stage, program = next(run.stages())
    DEVICE.lose_at = at
    with pytest.raises(DeviceLostError, match="cudaErrorIllegalAddress"):
        run.block(stage, program, 0)
    with pytest.raises(DeviceLostError):  # nothing can run there any more
        run.block(stage, program, 1)


def test_a_kernel_s_own_cuda_error_that_loses_nothing_is_its_own():
    from lepton_pipe.device.faults import fault_of

    assert fault_of(CUDARuntimeError("cudaErrorInvalidValue: invalid argument")) is None
    assert fault_of(MemoryError("the host's")) is None
    assert isinstance(
        fault_of(MemoryError("std::bad_alloc: out_of_memory: RMM failure")), DeviceMemoryError
    )
    assert isinstance(fault_of(CUDARuntimeError("cudaErrorMemoryAllocation")), DeviceMemoryError)
    assert isinstance(fault_of(CUDARuntimeError("cudaErrorECCUncorrectable")), DeviceLostError)
