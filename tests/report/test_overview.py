"""The picture of a result: as large as it should be, and with the objects on it."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

import lepton_pipe as lp
from lepton_pipe.kernels import label
from lepton_pipe.report.overview import write_overview
from tests.kernels.blockwise import DTYPES


@lp.pipeline
def bright(raw: lp.Image, *, above: float = 0.5):
    return {"image": raw, "objects": label(raw > above)}


def overview(folder, image, **parameters):
    out = folder / "o"
    bright.plan(raw=image, out=out, serial=True, **parameters).run(progress=False)
    write_overview(folder / "o.png", out / "image", out / "objects")
    return np.asarray(Image.open(folder / "o.png"))


def square(shape, dtype="uint16"):
    image = np.zeros(shape, dtype)
    image[..., shape[-2] // 4 : shape[-2] // 2, shape[-1] // 4 : shape[-1] // 2] = 1
    return image


@pytest.mark.parametrize(
    ("shape", "pixels"),
    [
        ((300, 450), (600, 2 * 900 + 24)),  # small images are magnified by whole numbers
        ((40, 60), (600, 2 * 900 + 15 * 12)),
        ((5, 300, 450), (600, 2 * 900 + 24)),  # the middle plane
        ((2, 5, 300, 450), (600, 2 * 900 + 24)),
        ((2000, 1500), (1000, 2 * 750 + 12)),  # a coarser level that fits the screen
    ],
)
def test_the_picture_has_two_panels_of_the_right_shape(tmp_path, shape, pixels):
    picture = overview(tmp_path, square(shape))
    assert picture.shape == (*pixels, 3)


@pytest.mark.parametrize("dtype", DTYPES)
def test_the_left_panel_is_the_image_and_the_right_has_a_coloured_ring(tmp_path, dtype):
    picture = overview(tmp_path, square((300, 450), dtype))[::2, ::2]
    left, right = picture[:, :450], picture[:, 462:]
    assert (left == left[..., :1]).all()  # grey
    assert left[100, 150, 0] == 255
    assert left[20, 20, 0] == 0
    coloured = (right != right[..., :1]).any(axis=-1)
    rows, columns = np.nonzero(coloured)
    assert (rows.min(), rows.max()) == (73, 151)  # two pixels around the square
    assert (columns.min(), columns.max()) == (110, 226)
    assert not coloured[80:145, 120:220].any()
    assert (picture[:, 450:462] == 255).all()


def test_an_image_of_one_value_and_one_with_nan_are_drawn(tmp_path):
    flat = overview(tmp_path, np.full((50, 50), 7, np.uint8), above=9)
    assert (flat[:, : flat.shape[1] // 3] == 0).all()
    image = square((50, 60), "float32")
    image[0, 0] = np.nan
    (tmp_path / "nan").mkdir()
    picture = overview(tmp_path / "nan", image)
    assert picture[: 50 * 15, : 60 * 15].max() == 255
