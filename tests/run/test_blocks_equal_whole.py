"""Five whole pipelines through planner, worker, store and publishing, against the whole array."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.ndimage as ndi
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

import lepton_pipe as lp
from lepton_pipe.check import compare, run_in_blocks
from lepton_pipe.kernels import astype, gaussian, label, mean, where
from lepton_pipe.spec import evaluate
from lepton_pipe.store import open_source
from tests.run.five import FIVE, bind, cases, picture, segment

# An example takes tenths of a second: a failure is reported as it was found, not shrunk.
EXAMPLES = settings(
    max_examples=12,
    deadline=None,
    phases=[Phase.explicit, Phase.reuse, Phase.generate],
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
# Sums of floats are taken in another order: these outputs may differ by roundings.
ROUNDED = {"flat", "smooth", "above", "mean", "chained", "level"}


def assert_blocks_equal_whole(pipeline, image, tiling):
    spec, sources = bind(pipeline, image)
    whole = evaluate(spec, {"raw": image})
    made = run_in_blocks(spec, sources, tiling)
    assert made.keys() == whole.keys()
    for name, expected in whole.items():
        verdict, detail = compare(expected, made[name])
        rounded = name in ROUNDED or (name == "table" and image.dtype == np.float32)
        allowed = ("equal", "equal within tolerance") if rounded else ("equal",)
        assert verdict in allowed, f"{pipeline.name}.{name}: {verdict}{detail}"
    return made


@pytest.mark.parametrize("pipeline", FIVE, ids=lambda p: p.name)
@given(case=cases())
@EXAMPLES
def test_blocks_equal_the_whole(pipeline, case, fast_disk):
    assert_blocks_equal_whole(pipeline, case.image, case.tiling)


@given(case=cases(), smooth=st.sampled_from([0.0, 0.6, 1.2]))
@EXAMPLES
def test_label_numbers_do_not_depend_on_blocks_and_objects_are_scipys(case, smooth, fast_disk):
    spec, sources = bind(segment_by(smooth), case.image)
    one = run_in_blocks(spec, sources, dict.fromkeys(case.tiling, 257))
    made = run_in_blocks(spec, sources, case.tiling)
    np.testing.assert_array_equal(made["objects"], one["objects"])
    assert_same_objects(made["objects"], ndi_label(made["mask"]))


def segment_by(sigma: float):
    """Return a pipeline that labels every object, single voxels too."""

    @lp.pipeline
    def objects(raw: lp.Image):
        image = astype(raw, "float32")
        smooth = gaussian(image, sigma=sigma) if sigma else image
        mask = smooth > mean(smooth)
        return {"mask": mask, "objects": label(mask)}

    return objects


def ndi_label(mask):
    """Label as SciPy does: neighbours along the spatial axes, times and channels apart."""
    spatial = min(3, mask.ndim)
    structure = np.zeros((3,) * mask.ndim, bool)
    structure[(1,) * (mask.ndim - spatial)] = ndi.generate_binary_structure(spatial, 1)
    return ndi.label(mask, structure)[0]


def assert_same_objects(ours, theirs):
    """Assert that two labellings are equal up to numbering."""
    pairs = np.unique(np.stack([ours.ravel(), theirs.ravel().astype(np.int64)]), axis=1)
    assert len(np.unique(pairs[0])) == len(np.unique(pairs[1])) == pairs.shape[1]
    np.testing.assert_array_equal(ours == 0, theirs == 0)
    numbers = np.unique(ours[ours > 0])
    np.testing.assert_array_equal(numbers, np.arange(1, len(numbers) + 1))


@pytest.mark.parametrize("shape", [(1, 1), (1, 257), (257, 1), (1, 1, 257), (1, 1, 1, 1, 1)])
@pytest.mark.parametrize("pipeline", FIVE, ids=lambda p: p.name)
def test_thin_images_equal_the_whole(pipeline, shape, fast_disk):
    tiling = dict.fromkeys("tczyx", 100)
    assert_blocks_equal_whole(pipeline, picture(shape, "uint16", 3), tiling)


def test_an_image_without_any_object(fast_disk):
    made = assert_blocks_equal_whole(segment, np.zeros((20, 30), np.uint16), {"y": 7, "x": 11})
    assert not made["objects"].any()
    assert [len(column) for column in made["table"].values()] == [0] * len(made["table"])


def test_two_images_and_a_value_are_used_together(fast_disk):
    @lp.pipeline
    def masked(raw: lp.Image, where_: lp.Image):
        inside = where(where_, raw, 0)
        return {"inside": inside, "share": mean(astype(where_, "float32"))}

    image, mask = picture((31, 45), "uint16", 1), picture((31, 45), "bool", 2)
    sources = {"raw": open_source(image), "where_": open_source(mask)}
    spec = masked.bind({n: s.type for n, s in sources.items()}, {})
    made = run_in_blocks(spec, sources, {"y": 8, "x": 13})
    np.testing.assert_array_equal(made["inside"], np.where(mask, image, 0))
    assert made["share"] == pytest.approx(mask.mean())
