"""Bind small pipelines without files."""

from __future__ import annotations

import numpy as np
import pytest

from lepton_pipe.errors import SpecError
from lepton_pipe.geometry import Grid
from lepton_pipe.spec import Definition, ImageType


def image_type(shape=(12, 16), dtype="uint8", axes=None, kind="image"):
    return ImageType(Grid.of(shape, axes), np.dtype(dtype), kind)


def bind(fn, *types, **parameters):
    """Bind a pipeline to types of its images, in order; by default to small uint8 planes."""
    definition = fn if isinstance(fn, Definition) else Definition(fn)
    found = list(types) or [image_type() for _ in definition.images]
    return definition.bind(dict(zip(definition.images, found, strict=True)), parameters)


def problems(fn, *types, **parameters):
    """The problems that binding a pipeline tells of."""
    with pytest.raises(SpecError) as caught:
        bind(fn, *types, **parameters)
    assert caught.value.pipeline.startswith(fn.__name__)
    return caught.value.problems
