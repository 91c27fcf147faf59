from __future__ import annotations

import pickle
import tracemalloc

import numpy as np
import pytest
import scipy.ndimage as ndi
from hypothesis import given, settings
from hypothesis import strategies as st

from lepton_pipe.errors import SpecError
from lepton_pipe.geometry import Grid, Region
from lepton_pipe.kernels.labels import label, label_apply, label_join, local_labels
from lepton_pipe.spec import Definition, Image, ImageType, Node, Place, evaluate, rules
from tests.kernels.reduced import blocks_of, in_blocks, shapes


def expected(mask: np.ndarray, connectivity: int = 1, min_size: int = 0) -> np.ndarray:
    """Labels of SciPy on the whole array, numbered in the order of the objects' first voxels."""
    spatial = min(3, mask.ndim)
    structure = ndi.generate_binary_structure(spatial, connectivity)
    full = np.zeros((3,) * mask.ndim, bool)
    full[(1,) * (mask.ndim - spatial)] = structure
    labels, count = ndi.label(mask, full)
    size = np.bincount(labels.ravel(), minlength=count + 1)
    values, first = np.unique(labels, return_index=True)
    kept = [v for _, v in sorted(zip(first, values, strict=True)) if v and size[v] >= min_size]
    lut = np.zeros(count + 1, np.int32)
    lut[kept] = np.arange(1, len(kept) + 1)
    return lut[labels]


def label_in_blocks(mask, block, connectivity=1, min_size=0):
    joined = in_blocks(
        label_join, {"mask": mask, "connectivity": connectivity, "min_size": min_size}, block
    )
    return in_blocks(
        label_apply, {"mask": mask, "connectivity": connectivity, "table": joined}, block
    )


@st.composite
def labellings(draw):
    shape = draw(shapes(min_dims=1))
    connectivity = draw(st.integers(1, min(3, len(shape))))
    # Thresholds of percolation lie at 0.59, 0.41 (plane) and 0.31, 0.14, 0.10 (volume).
    density = draw(st.sampled_from([0.02, 0.1, 0.14, 0.31, 0.41, 0.59, 0.75, 0.98]))
    mask = np.random.default_rng(draw(st.integers(0, 2**32))).random(shape) < density
    return mask, draw(blocks_of(shape)), connectivity, draw(st.sampled_from([0, 1, 2, 7]))


@given(labellings())
@settings(max_examples=150, deadline=None)
def test_blocks_equal_scipy_on_the_whole(case):
    mask, block, connectivity, min_size = case
    result = label_in_blocks(mask, block, connectivity, min_size)
    np.testing.assert_array_equal(result, expected(mask, connectivity, min_size), strict=True)
    np.testing.assert_array_equal(result, label(mask, connectivity, min_size), strict=True)


def snake(n: int) -> np.ndarray:
    mask = np.zeros((n, n), bool)
    mask[::2] = True
    mask[1::4, -1] = mask[3::4, 0] = True
    return mask


def spiral(n: int) -> np.ndarray:
    mask = np.zeros((n, n), bool)
    a, b = 0, n - 1
    mask[0, :] = True
    while a < b:
        mask[a, a : b + 1] = mask[a : b + 1, b] = mask[b, a : b + 1] = True
        mask[a + 2 : b + 1, a] = True
        if a + 2 <= b:
            mask[a + 2, a : a + 3] = True
        a, b = a + 2, b - 2
    return mask


def comb(n: int) -> np.ndarray:
    mask = np.zeros((n, n), bool)
    mask[:, ::2] = True
    mask[-1] = True
    return mask


def checkerboard(n: int) -> np.ndarray:
    return np.indices((n, n)).sum(0) % 2 == 0


def diagonal_volume(n: int) -> np.ndarray:
    z, y, x = np.indices((n, n, n))
    return (z + y - x) % 5 == 0


def antidiagonals(n: int) -> np.ndarray:
    z, y, x = np.indices((n, n, n))
    return ((z + y == n - 1) & (x % 3 == 0)) | ((y + x == n) & (z % 4 == 0))


@pytest.mark.parametrize("block", [1, 2, 3, 5, 8])
@pytest.mark.parametrize("shape", [snake, spiral, comb, checkerboard])
def test_objects_that_cross_many_blocks(shape, block):
    mask = shape(19)
    for connectivity in (1, 2):
        result = label_in_blocks(mask, (block, block), connectivity)
        np.testing.assert_array_equal(result, expected(mask, connectivity))


@pytest.mark.parametrize("shape", [diagonal_volume, antidiagonals])
def test_volumes_that_touch_at_edges_and_corners_of_blocks(shape):
    mask = shape(12)
    for connectivity in (1, 2, 3):
        for block in ((3, 3, 3), (4, 1, 5), (1, 1, 1)):
            result = label_in_blocks(mask, block, connectivity)
            np.testing.assert_array_equal(result, expected(mask, connectivity))


def test_a_snake_is_one_object_and_a_checkerboard_is_many():
    assert label_in_blocks(snake(19), (4, 3)).max() == 1
    assert label_in_blocks(checkerboard(18), (5, 5)).max() == 162
    assert label_in_blocks(checkerboard(18), (5, 5), connectivity=2).max() == 1


def test_objects_are_not_joined_along_time_and_channels():
    mask = np.ones((2, 3, 4, 5, 6), bool)
    result = label_in_blocks(mask, (2, 2, 3, 3, 3), 3)
    np.testing.assert_array_equal(result[..., 0, 0, 0], [[1, 2, 3], [4, 5, 6]])


def test_anything_but_zero_is_foreground():
    values = np.array([[0, 3, 0], [0, 7, 255]], np.uint8)
    np.testing.assert_array_equal(label(values), expected(values != 0))
    np.testing.assert_array_equal(label(values.astype("f4") - 3), expected(values != 3))


@pytest.mark.parametrize("reverse", [False, True])
def test_the_order_of_combining_does_not_matter(reverse):
    mask = np.random.default_rng(1).random((30, 31)) < 0.6
    joined = in_blocks(
        label_join, {"mask": mask}, (7, 4), order=lambda p: p[::-1] if reverse else list(p)
    )
    assert joined.count == expected(mask).max()
    assert joined.summary() == {"count": joined.count}
    again = pickle.loads(pickle.dumps(joined))  # noqa: S301
    result = in_blocks(label_apply, {"mask": mask, "table": again}, (7, 4))
    np.testing.assert_array_equal(result, expected(mask))


def test_partials_forget_the_planes_between_their_blocks():
    mask = np.random.default_rng(1).random((16, 16)) < 0.6
    grid = Grid.of(mask.shape)
    parts = []
    for y in (0, 8):
        for x in (0, 8):
            write = Grid.of((8, 8)).region.shift((y, x))
            read = write.grow(((0, 1), (0, 1)), mask.shape)
            parts.append(
                label_join.run(
                    {"mask": mask[read.slices], "connectivity": 1, "min_size": 0},
                    Place(read, write, grid),
                )
            )
    assert len(parts[0].above) == 2
    assert not parts[0].below
    left = label_join.combine(parts[0], parts[1])
    assert sorted(axis for axis, _ in left.above) == [0, 0]
    whole = label_join.combine(left, label_join.combine(parts[2], parts[3]))
    assert not whole.above
    assert not whole.below


def test_a_missing_block_is_refused():
    mask = np.ones((8, 8), bool)
    with pytest.raises(ValueError, match="cannot be joined"):
        in_blocks(label_join, {"mask": mask}, (4, 4), order=lambda p: p[:-1])


def test_a_mask_that_depends_on_the_blocks_is_refused():
    mask = np.ones((8, 8), bool)
    grid = Grid.of(mask.shape)

    def part(x, block):
        write = Grid.of((8, 4)).region.shift((0, x))
        place = Place(write.grow(((0, 1), (0, 1)), mask.shape), write, grid)
        return label_join.run({"mask": block, "connectivity": 1, "min_size": 0}, place)

    left, right = part(0, mask[:, :5]), part(4, np.zeros((8, 4), bool))
    with pytest.raises(ValueError, match="depends on where blocks are cut"):
        label_join.combine(left, right)


def test_another_mask_the_second_time_is_refused():
    joined = label_join(np.eye(5, dtype=bool))
    with pytest.raises(ValueError, match="must be the same both times"):
        label_apply(np.ones((5, 5), bool), table=joined)


@pytest.mark.parametrize("shape", [(0, 4), (1,), (1, 1), (3, 1, 1, 1, 1)])
def test_small_and_empty_images(shape):
    assert label(np.zeros(shape, bool)).shape == shape
    assert label(np.ones(shape, bool)).max(initial=0) == (
        shape[0] if len(shape) != 2 else int(shape[0] > 0)
    )


def test_on_nodes_it_describes_an_image_of_labels():
    def objects(raw: Image, *, connectivity: int = 1) -> dict[str, Node]:
        labels = label(raw > 0, connectivity)
        assert labels.kind == "labels"
        return {"labels": labels}

    mask = np.random.default_rng(0).random((9, 8, 7)) < 0.4
    definition = Definition(objects)
    type_ = ImageType(Grid.of(mask.shape), np.dtype("u1"))
    spec = definition.bind({"raw": type_}, {"connectivity": 2})
    assert spec["label_join"].depth == ((0, 1),) * 3
    result = evaluate(spec, {"raw": mask.astype("u1")})["labels"]
    np.testing.assert_array_equal(result, expected(mask, 2))
    with pytest.raises(SpecError, match=r"connectivity=4 has no meaning with 3") as caught:
        definition.bind({"raw": type_}, {"connectivity": 4})
    assert len(caught.value.problems) == 1


@pytest.mark.parametrize(("voxels", "dtype"), [(2**31 - 1, "int32"), (2**31, "int64")])
@pytest.mark.parametrize("compiled", [True, False])
def test_labels_are_as_wide_as_the_image_may_need(voxels, dtype, compiled, monkeypatch):
    if not compiled:
        monkeypatch.setattr("lepton_pipe.kernels.labels.loops", lambda *_: None)
    grid = Grid.of((voxels,))
    raw = Image(ImageType(grid, np.dtype("u1")), None)
    assert label(raw > 0).type.dtype == dtype
    last = Region((voxels - 5,), (voxels,))
    table = np.array([0, 5, voxels, 7])
    args = {"mask": np.array([1, 0, 1, 0, 1]), "connectivity": 1, "table": table}
    result = label_apply.run(args, Place(last, last, grid))
    np.testing.assert_array_equal(result, np.array([5, 0, voxels, 0, 7], dtype), strict=True)


def test_parameters_without_meaning_are_refused():
    with pytest.raises(ValueError, match="connectivity=0"):
        label(np.ones((3, 3), bool), 0)
    with pytest.raises(ValueError, match="min_size=-1"):
        label(np.ones((3, 3), bool), min_size=-1)


@given(shapes(), st.integers(0, 2**32))
@settings(max_examples=30, deadline=None)
def test_local_numbers_do_not_depend_on_how_the_array_lies_in_memory(shape, seed):
    mask = np.random.default_rng(seed).random(shape) < 0.4
    spatial = min(3, len(shape))
    a, count = local_labels(mask, spatial, 1)
    b, _ = local_labels(np.asfortranarray(mask), spatial, 1)
    c, _ = local_labels(np.repeat(mask, 2, -1)[..., ::2], spatial, 1)
    np.testing.assert_array_equal(a, b)
    np.testing.assert_array_equal(a, c)
    assert set(np.unique(a)) - {0} == set(range(1, count + 1))


SHAPE = (64, 128, 128)


@pytest.mark.parametrize("dtype", ["bool", "uint16"])
@pytest.mark.parametrize("density", [0.05, 0.5, None])
def test_scratch_is_honest(density, dtype):
    """Held for a checkerboard too, which has the most runs and objects that a mask can have."""
    if density is None:
        mask = (np.indices(SHAPE).sum(axis=0) % 2).astype(dtype)
    else:
        mask = (np.random.default_rng(0).random(SHAPE) < density).astype(dtype)
    grid = Grid.of(tuple(2 * n for n in SHAPE))
    write = Region((0, 0, 0), tuple(n - 1 for n in SHAPE))
    place = Place(Region.whole(SHAPE), write, grid)
    join = {"mask": mask, "connectivity": 1, "min_size": 0}
    assert peak(label_join, join, place) <= declared(label_join, mask)
    table = label_join(mask).part(0)
    apply = {"mask": mask, "connectivity": 1, "table": table}
    place = Place.whole(Grid.of(SHAPE))
    assert peak(label_apply, apply, place) <= declared(label_apply, mask) + 4 * mask.size


def declared(kernel, mask) -> float:
    type_ = ImageType(Grid.of(mask.shape), mask.dtype)
    return rules.resolve_number(kernel.scratch, {"mask": type_}) * mask.size


def peak(kernel, args, place) -> int:
    kernel.run(args, place)
    tracemalloc.start()
    kernel.run(args, place)
    most = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    return most
