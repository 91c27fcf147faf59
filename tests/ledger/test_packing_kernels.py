"""Partials of all kernels that ship: packed and unpacked they give the same bits."""

from __future__ import annotations

import importlib
import pkgutil
from typing import Any, NamedTuple

import numpy as np
import pytest

import lepton_pipe as lp
from lepton_pipe import kernels
from lepton_pipe.errors import DamagedError
from lepton_pipe.geometry import Grid, Region
from lepton_pipe.ledger.packing import by_name, classes_in, known_classes, pack, unpack
from lepton_pipe.merge.labels import JoinedLabels
from lepton_pipe.spec import Kernel, Place
from tests.kernels.blockwise import describe
from tests.kernels.reduced import fold, image, in_blocks
from tests.ledger import partials_elsewhere

SHAPE, BLOCK = (9, 40, 37), (4, 16, 20)
GRID = Grid.of(SHAPE, "zyx")


def modules() -> dict[str, Kernel]:
    """Return the shipped kernels that have partials, by name."""
    found: dict[str, Kernel] = {}
    for module in pkgutil.iter_modules(kernels.__path__):
        space = vars(importlib.import_module(f"lepton_pipe.kernels.{module.name}"))
        found |= {k.name: k for k in space.values() if isinstance(k, Kernel) and k.combine}
    return found


KERNELS = modules()


def volume(dtype: str) -> np.ndarray:
    return image(SHAPE, dtype, 3)


def odd() -> np.ndarray:
    """Return floats among which there are NaN, infinities and zeros of either sign."""
    array = volume("float32")
    array[0, :3, :5] = np.array([np.nan, np.inf, -np.inf, 0.0, -0.0], "f4")
    return array


def objects() -> np.ndarray:
    return volume("uint8") % 4 * (volume("int16") > 0)


STATE = np.array([200 << 8, 100 << 8, 3, 4], np.uint64)
CASES = [
    ("integer_counts", {"image": volume("uint16")}),
    ("integer_counts", {"image": volume("int8")}),
    ("integer_counts", {"image": volume("bool")}),
    ("range_counts", {"image": volume("int32"), "low": -(2**31), "high": 2**31 - 1, "most": 1000}),
    ("flat_level", {"flat": odd()}),
    ("histogram_counts", {"image": volume("float32"), "bins": 50, "low": -10.0, "high": 10.0}),
    ("label_join", {"mask": volume("uint8") > 160}),
    ("label_join", {"mask": volume("uint8") > 90, "connectivity": 3, "min_size": 5}),
    ("label_join", {"mask": np.zeros(SHAPE, bool)}),
    ("peaks_above", {"image": odd(), "threshold": 0.0}),
    ("peaks_above", {"image": volume("uint8"), "threshold": 255}),
    ("quantile_digits", {"image": odd(), "q": (0.1, 0.9)}),
    ("quantile_digits", {"image": volume("float32"), "q": (0.1, 0.9), "level": 1, "state": STATE}),
    ("moments", {"image": odd()}),
    ("moments", {"image": volume("float64") * 1e300}),
    ("moments", {"image": volume("float64") * 1e-320}),
    ("moments", {"image": volume("uint64")}),
    ("moments", {"image": volume("int32")}),
    ("regionprops", {"labels": objects()}),
    ("regionprops", {"labels": objects(), "intensity": volume("uint16")}),
    ("regionprops", {"labels": objects(), "intensity": odd()}),
    ("regionprops", {"labels": np.zeros(SHAPE, np.int32)}),
    ("fit_shading", {"image": volume("uint16")}),
    ("fit_shading", {"image": odd()}),
]


def stored(kernel: Kernel, seen: list[Any]) -> Any:
    """Return a function that packs and unpacks partials."""
    args = {"image": np.zeros((3, 3), np.uint8)}
    classes = known_classes(describe(lambda i: lp.kernels.mean(i), *args.values()))

    def again(partials: list[Any]) -> list[Any]:
        seen.extend(partials)
        return [unpack(pack(p), classes) for p in partials]

    assert kernel.combine is not None
    return again


def bits(value: Any) -> bytes:
    if isinstance(value, JoinedLabels):
        return pack(([value.part(i) for i in range(len(value))], value.count))
    return pack(value)


def test_every_kernel_with_partials_has_a_case():
    assert {name for name, _ in CASES} | {"project"} == KERNELS.keys()


@pytest.mark.parametrize(("name", "args"), CASES, ids=[f"{i}-{c[0]}" for i, c in enumerate(CASES)])
def test_partials_give_the_same_bits_when_they_were_stored(name, args):
    kernel = KERNELS[name]
    args = {n: p.default for n, p in kernel.signature.parameters.items()} | args
    seen: list[Any] = []
    expected = in_blocks(kernel, args, BLOCK, grid=GRID)
    result = in_blocks(kernel, args, BLOCK, grid=GRID, order=stored(kernel, seen))
    assert bits(result) == bits(expected)
    assert len(seen) == 18


@pytest.mark.parametrize("how", ["max", "min", "mean", "sum"])
def test_partials_of_projections_give_the_same_bits(how):
    kernel, array = KERNELS["project"], odd()
    partials = [
        kernel.run({"image": part, "axis": "z", "how": how}, Place(region, region, GRID))
        for start in range(0, 9, 3)
        for region in [Region((start, 0, 0), (start + 3, 40, 37))]
        for part in [array[region.slices]]
    ]
    stored = [unpack(pack(p), by_name(classes_in(p))) for p in partials]
    ends = [
        kernel.finish(fold(kernel.combine, p), {"axis": "z", "keepdims": False}, GRID)
        for p in (partials, stored)
    ]
    assert bits(ends[0]) == bits(ends[1])


# -- kernels of users -----------------------------------------------------------------------


class Here(NamedTuple):
    total: int


def add(a: Any, b: Any) -> Any:
    return a


@lp.kernel(combine=add)
def with_own_class(image: Any) -> Any:
    return Here(int(image.sum()))


@lp.kernel(combine=add)
def with_imported_module(image: Any) -> Any:
    return partials_elsewhere.Elsewhere(image.sum())


IMAGE = np.ones((4, 4), np.uint8)


@pytest.mark.parametrize("kernel", [with_own_class, with_imported_module])
def test_classes_that_a_users_kernel_can_name_are_known(kernel):
    partial = kernel.run({"image": IMAGE}, None)
    assert unpack(pack(partial), known_classes(describe(kernel, IMAGE))) == partial
    with pytest.raises(DamagedError, match="none of the classes"):
        unpack(pack(partial), known_classes(describe(kernels.mean, IMAGE)))


def test_classes_that_a_kernel_holds_on_to_are_known():
    class Inner(NamedTuple):
        total: int

    @lp.kernel(combine=add)
    def inner(image: Any) -> Any:
        return Inner(int(image.sum()))

    partial = inner.run({"image": IMAGE}, None)
    assert unpack(pack(partial), known_classes(describe(inner, IMAGE))) == partial
