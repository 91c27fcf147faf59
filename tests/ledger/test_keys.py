"""Keys change with all that changes a bit of a block, and with nothing else."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from dataclasses import replace
from itertools import permutations, product
from pathlib import Path

import numpy as np
import pytest
import zarr
from hypothesis import assume, given, settings
from hypothesis import strategies as st

import lepton_pipe as lp
from lepton_pipe.geometry import Grid, Region
from lepton_pipe.kernels.filters import gaussian
from lepton_pipe.kernels.labels import label
from lepton_pipe.kernels.ranks import maximum
from lepton_pipe.kernels.reductions import mean
from lepton_pipe.kernels.resample import crop
from lepton_pipe.ledger.keys import KEY_BYTES, BlockKeys, InputStamps
from lepton_pipe.ledger.keys_reads import read_regions
from lepton_pipe.plan import Resources, make_plan
from lepton_pipe.plan.regions import written_region
from lepton_pipe.spec import ImageType
from lepton_pipe.store import open_source
from lepton_pipe.store.source import Source
from tests.ledger.keys_cases import (
    GIB,
    Parts,
    SetSource,
    changed,
    keys_of,
    planned,
    sources_of,
    tilings,
    values_of,
)
from tests.plan.pipelines import long_shapes, random_specs, small_shapes

PLANE = ImageType(Grid.of((40, 48)), np.dtype("u2"))
TILES = {"y": 8, "x": 8}


def in_any_order(plan, random):
    """The plan with the blocks of each stage in another order."""
    orders = [random.sample(range(s.grid.ndim), s.grid.ndim) for s in plan.stages]
    stages = zip(plan.stages, orders, strict=True)
    return replace(plan, stages=tuple(replace(s, order=tuple(order)) for s, order in stages))


plans = st.builds(
    lambda case, tiling, random: in_any_order(
        make_plan(*case, Resources(4 * GIB, 1, 4), tiling), random
    ),
    random_specs(small_shapes, most=6) | random_specs(long_shapes, most=3),
    tilings,
    st.randoms(use_true_random=False),
)


def meet(a, b):
    return 0 not in a.intersect(b).shape


def after(plan, touched):
    """Blocks that `touched` names, and all that read what such a block wrote."""
    found = set()
    for stage in plan.stages:
        for number, block in enumerate(stage.blocks):
            regions = read_regions(plan.spec, stage, block)
            if touched(stage, number, regions) or any(
                meet(regions[read.step], region)
                for read in stage.reads
                if read.array is not None and read.step in regions
                for region in written(plan, read, found)
            ):
                found.add((stage.index, number))
    return found


def written(plan, read, found):
    for index, number in found:
        for write in plan.stages[index].writes:
            if (write.array, write.level) == (read.array, read.level):
                yield written_region(write, plan.stages[index].blocks.region(number))


@settings(max_examples=40)
@given(plans)
def test_no_two_blocks_have_one_key_and_each_keeps_its_own(plan):
    keys = keys_of(plan)
    assert len(set(keys.values())) == plan.tasks
    assert all(len(key) == KEY_BYTES for key in keys.values())
    assert keys_of(plan) == keys


@settings(max_examples=60)
@given(plans, st.data())
def test_an_input_chunk_changes_what_depends_on_it(plan, data):
    assume(plan.tasks < 400)
    info = plan.inputs["raw"]
    shape = info.type.grid.shape
    unit = tuple(
        data.draw(st.integers(0, -(-n // c) - 1)) for n, c in zip(shape, info.chunks, strict=True)
    )
    start = tuple(i * c for i, c in zip(unit, info.chunks, strict=True))
    chunk = Region.whole(info.chunks).shift(start).intersect(info.type.grid.region)

    def touched(stage, number, regions):
        reads = {r.step for r in stage.reads if r.array is None}
        return any(meet(regions[step], chunk) for step in reads & regions.keys())

    before = keys_of(plan)
    assert changed(before, keys_of(plan, sources_of(plan, raw={unit: 1}))) == after(plan, touched)


@pytest.mark.parametrize("order", list(permutations(range(3))))
def test_blocks_that_wrote_what_is_read_in_any_order(order):
    def pipeline(raw: lp.Image):
        return {"out": maximum(label(raw > 3, 1), 3)}

    type_ = ImageType(Grid.of((8, 20, 40)), np.dtype("u2"))
    plan = planned(pipeline, {"raw": type_}, (4, 5, 8), None, {"z": 4, "y": 5, "x": 8})
    plan = replace(plan, stages=tuple(replace(s, order=order) for s in plan.stages))
    number = 17  # its part of the labels changes what it writes, and those beside it read
    name = next(v for s in plan.stages for v in s.values if plan.spec.is_per_block(v))
    apply = next(s for s in plan.stages if name in s.values)
    part = apply.blocks.in_c_order(number)
    other = values_of(plan, **{name: Parts(changed=part)})
    wanted = after(plan, lambda stage, n, _: (stage.index, n) == (apply.index, number))
    assert {index for index, _ in wanted} > {apply.index}
    assert changed(keys_of(plan), keys_of(plan, values=other)) == wanted


@settings(max_examples=40)
@given(plans, st.data())
def test_a_value_changes_what_needs_it(plan, data):
    values = values_of(plan)
    assume(values and plan.tasks < 400)
    name = data.draw(st.sampled_from(sorted(values)))
    if not isinstance(values[name], Parts):
        wanted = after(plan, lambda stage, number, regions: name in stage.values)
        other = {name: 2.5}
    else:
        part = data.draw(st.integers(0, max(len(s.blocks) for s in plan.stages) - 1))
        wanted = after(
            plan,
            lambda stage, number, regions: (
                name in stage.values and stage.blocks.in_c_order(number) == part
            ),
        )
        other = {name: Parts(changed=part)}
    assert changed(keys_of(plan), keys_of(plan, values=values_of(plan, **other))) == wanted


@settings(max_examples=30)
@given(plans, st.integers(1, 8), st.integers(1, 64))
def test_memory_cores_and_names_of_stages_change_nothing(plan, threads, gib):
    stages = tuple(
        replace(s, name=f"other {s.name}", slots=threads, cache_bytes=gib, considered=())
        for s in plan.stages
    )
    resources = Resources(gib * GIB, 0, threads)
    assert keys_of(replace(plan, stages=stages, resources=resources)) == keys_of(plan)


def two_stages(raw: lp.Image, *, sigma: float = 1.0, offset: float = 0.0) -> dict[str, lp.Node]:
    smooth = gaussian(raw, sigma)
    return {"out": smooth - mean(smooth) + offset}


def test_other_resources_with_the_same_blocks():
    few, many = (
        planned(two_stages, {"raw": PLANE}, (8, 8), resources, TILES)
        for resources in (Resources(GIB, 0, 1), Resources(16 * GIB, 4, 4))
    )
    assert [s.slots for s in few.stages] != [s.slots for s in many.stages]
    assert keys_of(few) == keys_of(many)


def test_blocks_of_another_shape_have_other_keys():
    one, other = (
        planned(two_stages, {"raw": PLANE}, (8, 8), None, tiles)
        for tiles in (TILES, {"y": 8, "x": 16})
    )
    assert not set(keys_of(one).values()) & set(keys_of(other).values())


def test_a_parameter_changes_the_stages_it_reaches():
    plan = planned(two_stages, {"raw": PLANE}, (8, 8), None, TILES)
    other = planned(two_stages, {"raw": PLANE}, (8, 8), None, TILES, offset=1.0)
    first, last = 0, len(plan.stages) - 1
    stages = {index for index, _ in changed(keys_of(plan), keys_of(other))}
    assert first not in stages
    assert last in stages
    both = planned(two_stages, {"raw": PLANE}, (8, 8), None, TILES, sigma=1.5)
    assert len(changed(keys_of(plan), keys_of(both))) == plan.tasks


def test_chunks_are_asked_for_once_and_only_those_that_are_read():
    def pipeline(raw: lp.Image):
        return two_stages(crop(raw, y=(10, 30)))

    plan = planned(pipeline, {"raw": PLANE}, (8, 8), None, TILES)
    assert sum(any(r.array is None for r in s.reads) for s in plan.stages) > 1
    sources = sources_of(plan)
    keys_of(plan, sources)
    asked = sources["raw"].asked
    assert sorted(asked) == sorted(set(asked)) == list(product(range(1, 4), range(6)))


def test_files_understood_in_another_way():
    plan = planned(two_stages, {"raw": PLANE}, (8, 8), None, TILES)
    sources = sources_of(plan)
    other = {"raw": replace(sources["raw"], written="otherwise")}
    assert changed(keys_of(plan), keys_of(plan, other)) == keys_of(plan).keys()


def test_inputs_exchanged():
    def pipeline(a: lp.Image, b: lp.Image):
        return {"out": a - b}

    plan = planned(pipeline, {"a": PLANE, "b": PLANE}, (8, 8), None, TILES)
    sources = {n: SetSource(n, PLANE, (8, 8), {}) for n in "ab"}
    exchanged = {"a": sources["b"], "b": sources["a"]}
    before, after_ = keys_of(plan, sources), keys_of(plan, exchanged)
    assert changed(before, after_) == before.keys()


def test_what_cannot_tell_is_done_again():
    class Mute(SetSource):
        def unit_stamps(self, units):
            return Source.unit_stamps(self, units)

    plan = planned(two_stages, {"raw": PLANE}, (8, 8), None, TILES)
    mute = {"raw": Mute("raw", PLANE, (8, 8))}
    before = keys_of(plan, mute)
    assert changed(before, keys_of(plan, mute)) == before.keys()


def test_an_array_of_the_plan_that_nobody_writes():
    long = ImageType(Grid.of((40, 600)), np.dtype("u2"))
    plan = planned(two_stages, {"raw": long}, (8, 8), None, TILES)
    stages = [s for s in plan.stages if any(r.array for r in s.reads)]
    assert stages
    broken = replace(plan, stages=(stages[0],))
    with pytest.raises(ValueError, match="no stage of the plan writes level"):
        keys_of(broken)


def test_parts_of_blocks_that_are_run_out_of_order():
    def pipeline(raw: lp.Image):
        return {"out": label(raw > 3, 1)}

    type_ = ImageType(Grid.of((8, 80)), np.dtype("u2"))
    plan = planned(pipeline, {"raw": type_}, (4, 8), None, {"y": 4, "x": 8})
    stage = plan.stages[-1]
    assert stage.blocks.order != (0, 1)
    (name,) = (v for v in stage.values if plan.spec.is_per_block(v))
    other = values_of(plan, **{name: Parts(changed=1)})
    found = changed(keys_of(plan), keys_of(plan, values=other))
    assert found == {(stage.index, stage.blocks.index((0, 1)))}


# -- code, files and processes ----------------------------------------------------------------

OWN = '''"""Of a user."""
import numpy as np
import lepton_pipe as lp
from lepton_pipe.kernels import gaussian
from lepton_pipe.kernels.reductions import mean

WEIGHT = 2

@lp.kernel(depth=1)
def edges(block):
    return block * WEIGHT

def pipeline(raw: lp.Image):
    smooth = gaussian(raw, 1.0)
    return {"out": edges(smooth - mean(smooth))}
'''


def own_plan(folder, text, type_=PLANE):
    """Plan a pipeline of a user's file, as it is now."""
    path = folder / f"own{len(list(folder.iterdir()))}" / "own.py"
    path.parent.mkdir()
    path.write_text(text)
    found = importlib.util.spec_from_file_location("own", path)
    module = importlib.util.module_from_spec(found)
    sys.modules["own"] = module
    try:
        found.loader.exec_module(module)
        return planned(module.pipeline, {"raw": type_}, (8, 8), None, TILES)
    finally:
        del sys.modules["own"]


def test_the_code_of_a_kernel(tmp_path):
    plan = own_plan(tmp_path, OWN)
    before = keys_of(plan)
    assert keys_of(own_plan(tmp_path, OWN)) == before
    assert keys_of(own_plan(tmp_path, OWN.replace("Of a user", "Mine"))) == before
    users = {s.index for s in plan.stages if "edges" in s.steps}
    assert users
    assert users != {s.index for s in plan.stages}
    for old, new in (("WEIGHT = 2", "WEIGHT = 3"), ("block *", "block +")):
        again = keys_of(own_plan(tmp_path, OWN.replace(old, new)))
        assert {index for index, _ in changed(before, again)} >= users
        assert {index for index, _ in changed(before, again)} == {
            index for index, _ in after(plan, lambda s, *_: s.index in users)
        }


WINDOW = """
import lepton_pipe as lp
from lepton_pipe.geometry import Region

@lp.kernel(grid=lambda grid: grid, needs=lambda region: Region((0, 0), (40, 8)), version="mine")
def first_columns(image):
    return image

def pipeline(raw: lp.Image):
    return {"out": first_columns(raw)}
"""


def test_another_read_region_of_the_same_chunks(tmp_path):
    """A name that a user gave the code promises nothing of what is read."""
    before = keys_of(own_plan(tmp_path, WINDOW))
    narrower = keys_of(own_plan(tmp_path, WINDOW.replace("(40, 8)", "(40, 7)")))
    assert changed(before, narrower) == before.keys()


def test_blocks_that_read_the_same(tmp_path):
    keys = keys_of(own_plan(tmp_path, WINDOW))
    assert len(keys) == len(set(keys.values())) == 30


def test_files_of_a_zarr_array(tmp_path):
    root = tmp_path / "raw.zarr"
    raw = np.arange(40 * 48, dtype="u2").reshape(40, 48)
    array = zarr.create_array(root, data=raw, chunks=(8, 8))
    plan = planned(two_stages, {"raw": PLANE}, (8, 8), None, TILES)
    before = keys_of(plan, {"raw": open_source(root)})
    assert keys_of(plan, {"raw": open_source(root)}) == before
    array[:8, :8] = 7
    found = changed(before, keys_of(plan, {"raw": open_source(root)}))
    first = {number for index, number in found if index == 0}
    near = {(0, 0), (0, 1), (1, 0), (1, 1)}  # gaussian reaches into the blocks beside it
    assert {plan.stages[0].blocks.position(n) for n in first} == near


def test_another_process_makes_the_same_keys(tmp_path):
    zarr.create_array(tmp_path / "raw.zarr", data=np.ones((40, 48), "u2"), chunks=(8, 8))
    (tmp_path / "own.py").write_text(OWN)
    script = (
        "import sys, own; from lepton_pipe.store import open_source\n"
        "from tests.ledger.keys_cases import keys_of, planned\n"
        "source = open_source(sys.argv[1])\n"
        "plan = planned(own.pipeline, {'raw': source.type}, (8, 8), None, {'y': 8, 'x': 8})\n"
        "print(b''.join(keys_of(plan, {'raw': source}).values()).hex())"
    )
    told = {
        subprocess.run(
            [sys.executable, "-c", script, str(tmp_path / "raw.zarr")],
            env={
                **os.environ,
                "PYTHONHASHSEED": seed,
                "PYTHONPATH": f"{tmp_path}{os.pathsep}{Path(__file__).parents[2]}",
            },
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for seed in ("1", "2")
    }
    assert len(told) == 1
    assert len(told.pop().strip()) > 2 * KEY_BYTES


def test_stages_must_come_in_order():
    long = ImageType(Grid.of((40, 600)), np.dtype("u2"))
    plan = planned(two_stages, {"raw": long}, (8, 8), None, TILES)
    reader = next(s for s in plan.stages if any(r.array for r in s.reads))
    with pytest.raises(KeyError):
        BlockKeys(plan, InputStamps(sources_of(plan))).stage(reader, values_of(plan))
