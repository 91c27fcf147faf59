"""Random pipelines, bound to types alone."""

from __future__ import annotations

import numpy as np
from hypothesis import strategies as st

import lepton_pipe as lp
from lepton_pipe.geometry import Grid
from lepton_pipe.kernels.filters import gaussian
from lepton_pipe.kernels.labels import label
from lepton_pipe.kernels.projection import project
from lepton_pipe.kernels.ranks import maximum
from lepton_pipe.kernels.reductions import maximum_of, mean
from lepton_pipe.kernels.regions import regionprops
from lepton_pipe.kernels.resample import crop, downsample
from lepton_pipe.plan import InputInfo
from lepton_pipe.spec import Definition, ImageType

MIB = 2**20
GIB = 2**30


@lp.kernel(depth={"y": (3, 0), "x": (0, 2)})
def lean(image):
    """The sum of a voxel and the last but two above it: looks to one side only."""
    out = image.copy()
    out[..., 3:, :] += image[..., :-3, :]
    out[..., :-2] += image[..., 2:]
    return out


FRACTIONS = ("do_gaussian", "do_normalise", "do_subtract_mean")
"""Steps whose results are not whole numbers: a last bit there can move a threshold."""


class Builder:
    """Makes one node after another, each from nodes that are there."""

    def __init__(self, draw, raw, whole_numbers):
        self.draw = draw
        self.whole_numbers = whole_numbers
        self.nodes = [raw]
        self.others = []

    def pick(self):
        return self.nodes[self.draw(st.integers(0, len(self.nodes) - 1))]

    def fitting(self, image):
        """An image on the same grid."""
        fits = [n for n in self.nodes if (n.shape, n.axes) == (image.shape, image.axes)]
        return fits[self.draw(st.integers(0, len(fits) - 1))]

    def step(self):
        left_out = FRACTIONS if self.whole_numbers else ()
        steps = [n for n in dir(self) if n.startswith("do_") and n not in left_out]
        made = getattr(self, self.draw(st.sampled_from(steps)))(self.pick())
        if made is not None:
            self.nodes.append(made)

    def do_gaussian(self, image):
        return gaussian(image, self.draw(st.sampled_from([0.5, 1.0, 2.0])), truncate=2)

    def do_maximum(self, image):
        return maximum(image, self.draw(st.sampled_from([3, 4, 5])))

    def do_lean(self, image):
        if image.axes[-2:] != ("y", "x") or image.dtype == bool or image.kind == "labels":
            return None
        return lean(image)

    def do_add(self, image):
        return image + self.fitting(image)

    def do_offset(self, image):
        return image + 1

    def do_subtract_mean(self, image):
        return image - mean(self.fitting(image))

    def do_normalise(self, image):
        return image / (maximum_of(image) + mean(image))

    def do_label(self, image):
        if not image.grid.spatial:
            return None
        return label(image > mean(image), 1)

    def do_measure(self, image):
        if not image.grid.spatial:
            return None
        labels = label(image > mean(image), 1)
        self.others.append(regionprops(labels, image, properties=["label", "area"]))
        return labels

    def do_project(self, image):
        if image.ndim == 1:
            return None
        axis = self.draw(st.sampled_from(image.axes))
        how = self.draw(st.sampled_from(["max", "min"]))
        return project(image, axis, how, keepdims=self.draw(st.booleans()))

    def do_downsample(self, image):
        return downsample(image, self.draw(st.integers(2, 3)), "nearest")

    def do_crop(self, image):
        ranges = {}
        for axis, n in zip(image.axes, image.shape, strict=True):
            if n > 2 and self.draw(st.booleans()):
                start = self.draw(st.integers(0, n // 2))
                ranges[axis] = (start, self.draw(st.integers(start + 1, n)))
        return crop(image, **ranges)


@st.composite
def random_specs(draw, shapes, most=7, *, whole_numbers=False):
    """A pipeline of a few kernels, and what is known of its input."""
    shape = draw(shapes)
    dtype = draw(st.sampled_from(["uint8", "uint16", "float32"]))
    type_ = ImageType(Grid.of(shape), np.dtype(dtype))

    def pipeline(raw: lp.Image):
        builder = Builder(draw, raw, whole_numbers)
        for _ in range(draw(st.integers(1, most))):
            builder.step()
        images = builder.nodes[-1:] + [n for n in builder.nodes[:-1] if draw(st.booleans())]
        outputs = {f"image{i}": n for i, n in enumerate(images)}
        return outputs | {f"table{i}": t for i, t in enumerate(builder.others)}

    spec = Definition(pipeline).bind({"raw": type_}, {})
    chunks = tuple(draw(st.integers(1, n)) for n in shape)
    return spec, {"raw": InputInfo(type_, chunks, "memory")}


small_shapes = st.lists(st.integers(1, 23), min_size=1, max_size=3).map(tuple)
long_shapes = st.sampled_from([(300, 9), (7, 520), (3, 300, 40), (1025,), (257, 258)])
large_shapes = st.sampled_from(
    [
        (300,),
        (10**7,),
        (1000, 1200),
        (40_000, 30_000),
        (700, 10, 2000),
        (129, 513, 1025),
        (3, 60, 700, 701),
        (4, 2, 30, 400, 300),
    ]
)
