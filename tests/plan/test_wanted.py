from __future__ import annotations

import numpy as np
import pytest

import lepton_pipe as lp
from lepton_pipe.errors import RefusedError, UsageError
from lepton_pipe.geometry import Grid
from lepton_pipe.kernels import gaussian, label, project
from lepton_pipe.plan import InputInfo, Resources, make_plan, parse_chunks
from lepton_pipe.spec import ImageType

MIB, GIB = 2**20, 2**30
VOLUME = Grid.of((512, 1448, 1448))


@lp.pipeline
def convert(raw: lp.Image) -> lp.Node:
    """Change nothing."""
    return {"image": raw}


@lp.pipeline
def flat_and_deep(raw: lp.Image) -> lp.Node:
    """Return an image with an axis z and one without."""
    return {"smooth": gaussian(raw), "flat": project(raw, "z")}


@lp.pipeline
def objects(raw: lp.Image) -> lp.Node:
    """Label what is bright, over an image that has to be stored on the way."""
    return {"labels": label(gaussian(raw, sigma=4) > 100)}


def plan_of(pipeline, chunks, grid=VOLUME, memory=4 * GIB):
    type_ = ImageType(grid, np.dtype("u2"), "image")
    spec = pipeline.bind({"raw": type_}, {})
    inputs = {"raw": InputInfo(type_, (64, 256, 256), "")}
    workers = 0 if memory < 2**30 else 1  # its processes would leave nothing
    return make_plan(spec, inputs, Resources(memory, workers, 2), chunks=chunks)


# -- reading the wish -----------------------------------------------------------------------


def test_chunks_are_given_as_text_or_as_a_mapping():
    wanted = {"z": 1, "y": 1024, "x": 512}
    assert parse_chunks("z=1,y=1024,x=512") == parse_chunks(" z = 1, y=1024 ,x=512") == wanted
    assert parse_chunks(wanted) == wanted
    assert parse_chunks(None) == parse_chunks({}) == {}


@pytest.mark.parametrize("text", ["", "z", "z=", "=3", "z=1.5", "z=-1", "1,1024", "z=1,", "z:1"])
def test_text_that_is_not_understood(text):
    with pytest.raises(UsageError, match="is not understood; write it as z=1,y=1024,x=1024"):
        parse_chunks(text)


def test_an_axis_given_twice():
    with pytest.raises(UsageError, match="gives z twice"):
        parse_chunks("z=1,y=2,z=3")


@pytest.mark.parametrize("chunks", ["z=0", {"z": 0}, {"z": -1}, {"z": 1.0}, {"z": "1"}])
def test_lengths_that_are_none(chunks):
    with pytest.raises(UsageError, match=r"chunks: z=.* must be a whole number of voxels"):
        parse_chunks(chunks)


# -- layouts --------------------------------------------------------------------------------


def test_axes_that_are_not_named_are_chosen_as_ever():
    (image,) = plan_of(convert, {"z": 16}).arrays.values()
    assert image.levels[0].chunks == (16, 256, 256)
    (image,) = plan_of(convert, {}).arrays.values()
    assert image.levels[0].chunks == (64, 256, 256)


def test_chunks_are_cut_to_the_image_and_axes_of_other_outputs_ignored():
    arrays = plan_of(flat_and_deep, {"z": 1, "y": 2000, "x": 500}).arrays
    assert arrays["smooth"].levels[0].chunks == (1, 1448, 500)
    assert arrays["flat"].levels[0].chunks == (1448, 500)


def test_an_axis_that_no_output_has():
    with pytest.raises(UsageError, match="no output image has an axis 'c'; there are z, y, x"):
        plan_of(convert, {"z": 1, "c": 2})


def test_small_chunks_are_put_into_shards():
    (image,) = plan_of(convert, {"z": 1}).arrays.values()
    assert image.levels[0].chunks == (1, 256, 256)
    assert image.levels[0].shards == (16, 256, 256)


def test_many_small_frames_share_files():
    film = Grid.of((200_000, 32, 32), "tyx")
    (image,) = plan_of(convert, {"t": 1}, film).arrays.values()
    assert image.levels[0].chunks == (1, 32, 32)
    assert image.levels[0].shards == (1024, 32, 32)
    (image,) = plan_of(convert, {"t": 64}, film).arrays.values()
    assert image.levels[0].chunks == (64, 32, 32)


def test_a_chunk_that_no_codec_takes_is_refused():
    with pytest.raises(RefusedError, match=r"a chunk of 600 x 1448 x 1448 voxels is 2,516,\d+,\d+"):
        plan_of(convert, {"z": 600, "y": 1448, "x": 1448}, Grid.of((900, 1448, 1448)))


# -- planes from bricks ---------------------------------------------------------------------


@pytest.mark.parametrize(
    ("memory", "decoded"), [(512 * MIB, 9), (1 * GIB, 1), (4 * GIB, 1)], ids=["512M", "1G", "4G"]
)
def test_planes_from_bricks_decode_each_brick_as_seldom_as_the_memory_allows(memory, decoded):
    plan = plan_of(convert, {"z": 1, "y": 1448, "x": 1448}, memory=memory)
    copy = plan.stages[0]
    assert copy.block[1:] == (1448, 1448)
    # Bricks at the upper edges reach beyond the image.
    bricks = 512 * 1536 * 1536 * 2
    assert copy.estimate.bytes_decoded <= decoded * bricks
    assert plan.peak_bytes <= memory


def test_levels_of_planes_are_planes_as_well():
    (image,) = plan_of(convert, {"z": 1, "y": 1448, "x": 1448}).arrays.values()
    assert [level.chunks for level in image.levels] == [
        (1, 1448, 1448),
        (1, 724, 724),
        (1, 362, 362),
        (1, 181, 181),
    ]


def test_scratch_has_the_chunks_of_an_output_that_shares_its_blocks():
    arrays = plan_of(objects, {"z": 1, "y": 1448, "x": 1448}).arrays
    scratch = [a for a in arrays.values() if not a.output]
    assert scratch and all(a.levels[0].chunks == (1, 1448, 1448) for a in scratch)


@pytest.mark.parametrize("most", [1, 2, 3, 99])
def test_there_are_as_many_scale_levels_as_wanted_at_most(tmp_path, most):
    image = np.zeros((1, 3000, 20), np.uint8)
    every = flat.plan(raw=image, out=tmp_path / "o").data.arrays["flat"].levels
    plan = flat.plan(raw=image, out=tmp_path / "o", levels=most).data
    assert plan.arrays["flat"].levels == every[:most]
    assert {w.level for s in plan.stages for w in s.writes} == set(range(min(most, len(every))))


def test_taking_chunks_over_costs_less_than_encoding_them():
    type_ = ImageType(VOLUME, np.dtype("u2"), "image")
    spec = convert.bind({"raw": type_}, {})

    def seconds(*, copied, chunks=(64, 256, 256)):
        inputs = {"raw": InputInfo(type_, chunks, "", copied)}
        return make_plan(spec, inputs, Resources(4 * GIB, 1, 2), chunks={"z": 64}).seconds

    assert seconds(copied=True) < 0.7 * seconds(copied=False)
    other = (32, 256, 256)  # not those of the output: encoded all the same
    assert seconds(copied=True, chunks=other) == seconds(copied=False, chunks=other)


@pytest.mark.parametrize("levels", [0, -1, True, 1.5])
def test_levels_that_make_no_sense_are_refused(tmp_path, levels):
    with pytest.raises(UsageError, match="levels="):
        flat.plan(raw=np.zeros((4, 4), np.uint8), out=tmp_path / "o", levels=levels)


@lp.pipeline
def flat(raw: lp.Image):
    """Add one."""
    return raw + 1
