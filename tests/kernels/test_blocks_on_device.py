"""A worker with a GPU: what it copies, what it returns, and that its results are the same."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from itertools import chain
from typing import Any

import numpy as np
import pytest
import scipy.ndimage as ndi

import lepton_pipe as lp
from lepton_pipe.check import compare
from lepton_pipe.geometry import Grid
from lepton_pipe.kernels import (
    astype,
    clip,
    find_peaks,
    flatfield,
    gaussian,
    label,
    mean,
    otsu,
    project,
    quantile,
    regionprops,
    where,
)
from lepton_pipe.merge.labels import Fragments
from lepton_pipe.plan import InputInfo, Resources, make_plan
from lepton_pipe.spec import ImageType, PerBlock, TableType, as_value, evaluate
from lepton_pipe.spec.evaluate import compute_step
from lepton_pipe.worker import Combine, Program, run_block
from tests.fake_device import fake_cupy, ndarray

SHAPE = (9, 30, 34)
TILING = {"z": 5, "y": 16, "x": 20}
SIGMA = 0.8


@pytest.fixture
def gpu():
    with fake_cupy() as traffic:
        yield traffic


@dataclass
class Source:
    """An image in memory that tells how often it is read."""

    array: np.ndarray
    reads: list[tuple[int, ...]] = field(default_factory=list)

    def read(self, region):
        self.reads.append(region.shape)
        return self.array[region.slices].copy()


@dataclass
class Target:
    """Takes blocks in, and holds them to be host arrays."""

    array: np.ndarray
    writes: list[tuple[int, ...]] = field(default_factory=list)

    def write(self, region, array):
        assert type(array) is np.ndarray
        self.writes.append(region.shape)
        self.array[region.slices] = array
        return []


def picture(dtype: str = "uint16", seed: int = 1) -> np.ndarray:
    blobs = ndi.gaussian_filter(np.random.default_rng(seed).normal(size=SHAPE), 1.4)
    return (20_000 * (blobs / np.abs(blobs).max() + 1)).astype(dtype)


class Run:
    """Runs a plan's stages block after block, in memory; the least of what an executor does."""

    def __init__(
        self,
        pipeline: Any,
        device: str,
        memory: int = 2**32,
        slots: int = 0,
        **images: np.ndarray,
    ) -> None:
        self.sources = {n: Source(a) for n, a in images.items()}
        types = {n: ImageType(Grid.of(a.shape), a.dtype) for n, a in images.items()}
        bound = pipeline.bind(types, {})
        inputs = {n: InputInfo(t, t.grid.shape, n) for n, t in types.items()}
        resources = Resources(
            2**34, 0, max(1, slots), device, serial=not slots, device_memory=memory
        )
        self.plan = make_plan(bound, inputs, resources, TILING)
        self.spec = self.plan.spec  # with the steps that make scale levels
        self.device = device
        self.values: dict[str, Any] = {}
        self.arrays = {
            (name, level): Target(np.zeros(layout.grid.shape, array.type.dtype))
            for name, array in self.plan.arrays.items()
            for level, layout in enumerate(array.levels)
        }
        self.results: list[Any] = []

    def stages(self):
        """Yield each stage and its program; what it reduces is finished before the next one."""
        for stage in self.plan.stages:
            yield stage, self._program(stage)
            self._finish(stage)

    def all(self) -> dict[str, Any]:
        for stage, program in self.stages():
            for index in range(len(stage.blocks)):
                self.block(stage, program, index)
        return {n: self._output(n, i) for n, i in self.spec.outputs.items()}

    def block(self, stage, program, index):
        parts = {v: self.values[v] for v in stage.values}
        parts = {v: p.part(index) for v, p in parts.items() if isinstance(p, PerBlock)}
        result = run_block(program, index, parts)
        assert_on_host(result.partials)
        self.results.append(result)
        return result

    def _program(self, stage) -> Program:
        self.results = []
        reads = {
            r.step: self.sources[r.step]
            if r.array is None
            else Source(self.arrays[r.array, r.level].array)
            for r in stage.reads
        }
        targets = {(w.array, w.level): self.arrays[w.array, w.level] for w in stage.writes}
        shared = {v: self.values[v] for v in stage.values}
        shared = {v: a for v, a in shared.items() if not isinstance(a, PerBlock)}
        limit = self.plan.resources.device_memory
        return Program(
            self.spec,
            stage,
            reads,
            targets,
            shared,
            self.device,
            lanes=stage.lanes,
            device_bytes=limit,
        )

    def _finish(self, stage) -> None:
        fold = self.results[0]
        for result in self.results[1:]:
            fold = Combine(self.spec, stage.reduces)(fold, result)
        for step_id in stage.reduces:
            step = self.spec[step_id]
            args = {n: self.values.get(getattr(a, "id", None), a) for n, a in step.args.items()}
            made = step.kernel.finish(fold.partials[step_id], args, stage.grid)
            self.values[step_id] = as_value(made)
        for step in self.spec.steps:
            of_values = step.kernel and not self.spec.image_inputs(step)
            if of_values and all(i in self.values for i in step.inputs):
                self.values.setdefault(step.id, compute_step(self.spec, step, self.values))

    def _output(self, name: str, step_id: str) -> Any:
        if isinstance(self.spec[step_id].type, ImageType):
            return self.arrays[name, 0].array
        return self.values[step_id]


def assert_on_host(held: Any) -> None:
    """Hold partials to carry nothing that lies on the device: they travel to the driver."""
    assert not isinstance(held, ndarray)
    if isinstance(held, dict):
        held = list(held.values())
    if dataclasses.is_dataclass(held):
        held = [getattr(held, f.name) for f in dataclasses.fields(held)]
    if isinstance(held, (list, tuple)):
        for part in held:
            assert_on_host(part)


# -- pipelines ----------------------------------------------------------------------------------


@lp.pipeline
def objects(raw: lp.Image):
    """Smooth, threshold, label, measure."""
    smooth = gaussian(raw, sigma=SIGMA)
    mask = smooth > otsu(raw) * 1.15
    found = label(mask, min_size=3)
    return {"mask": mask, "objects": found, "table": regionprops(found, raw)}


@lp.pipeline
def background(raw: lp.Image):
    """Correct shading; project; find peaks above a quantile."""
    flat = flatfield(astype(raw, "float32"))
    bright = where(raw > quantile(raw, 0.5), raw, 0)
    return {
        "flat": clip(flat, 0, 1e5),
        "top": project(bright, "z", "max"),
        "sum": project(bright, "y", "sum"),
        "peaks": find_peaks(raw, 2, threshold=mean(raw)),
    }


@lp.pipeline
def both_images(raw: lp.Image, other: lp.Image):
    """Use one image twice, another once."""
    smooth = gaussian(raw, sigma=SIGMA)
    return {"difference": smooth - other, "brighter": raw > other}


# -- copies -------------------------------------------------------------------------------------


def test_a_block_copies_each_image_once_each_way(gpu):
    run = Run(both_images, "gpu", raw=picture(), other=picture("float32", 2))
    for stage, program in run.stages():
        for index in range(len(stage.blocks)):
            before = {n: len(s.reads) for n, s in run.sources.items()}
            written = {n: len(t.writes) for n, t in run.arrays.items()}
            gpu.clear()
            run.block(stage, program, index)
            read = [s.reads[before[n] :] for n, s in run.sources.items()]
            wrote = [t.writes[written[n] :] for n, t in run.arrays.items()]
            assert [len(r) for r in read] == [1, 1]
            assert images(gpu.to_device) == sorted(chain(*read))
            assert images(gpu.to_host) == sorted(chain(*wrote))
    assert all(run.arrays[n, 0].writes for n in ("difference", "brighter"))


def test_a_reduction_brings_no_image_back(gpu):
    @lp.pipeline
    def level(raw: lp.Image):
        return {"level": mean(gaussian(raw, sigma=SIGMA))}

    run = Run(level, "gpu", raw=picture())
    run.all()
    assert images(gpu.to_device) == sorted(run.sources["raw"].reads)
    assert images(gpu.to_host) == []


def test_nothing_touches_the_device_on_a_cpu(gpu):
    Run(objects, "cpu", raw=picture()).all()
    assert gpu.to_device == gpu.to_host == []


def images(shapes):
    """Return the copies that are images, in order: weights and counts have one axis or none."""
    return sorted(s for s in shapes if len(s) == len(SHAPE))


# -- results ------------------------------------------------------------------------------------


@pytest.mark.parametrize("pipeline", [objects, background], ids=lambda p: p.name)
@pytest.mark.parametrize("dtype", ["uint16", "float32"])
def test_the_results_are_those_of_the_cpu_and_of_the_whole(pipeline, dtype, gpu):
    image = picture(dtype)
    run = Run(pipeline, "gpu", raw=image)
    made, on_cpu = run.all(), Run(pipeline, "cpu", raw=image).all()
    whole = evaluate(run.spec, {"raw": image})
    assert gpu.to_device
    for name, got in made.items():
        assert compare(on_cpu[name], got)[0] in allowed(name), name
        assert compare(whole[name], got)[0] in allowed(name), name


def allowed(name: str) -> tuple[str, ...]:
    """Return the verdicts that an output may get: floats are rounded, the others exact."""
    rounded = name in ("flat", "sum", "table")
    return ("equal", "equal within tolerance") if rounded else ("equal",)


def test_the_pipelines_have_something_to_find_in_several_blocks():
    run = Run(objects, "cpu", raw=picture())
    made = run.all()
    assert min(len(stage.blocks) for stage in run.plan.stages) > 4
    assert any(isinstance(run.spec[i].type, TableType) for i in run.spec.outputs.values())
    assert len(made["table"]["label"]) == made["objects"].max() > 3


def test_partials_of_labels_are_made_of_host_arrays(gpu):
    run = Run(objects, "gpu", raw=picture())
    found = []
    for stage, program in run.stages():
        for index in range(len(stage.blocks)):
            partials = run.block(stage, program, index).partials.values()
            found += [p for p in partials if isinstance(p, Fragments)]
    assert found
    assert all(type(b.size) is np.ndarray for p in found for b in p.blocks)
