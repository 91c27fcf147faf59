"""A picture of the result: the input beside the objects that were found in it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from lepton_pipe.geometry import Region
from lepton_pipe.store.open import open_source
from lepton_pipe.store.source import Source

MAX_PIXELS = 900
_GAP = 12


def write_overview(path: Path, image: Path, labels: Path) -> None:
    """Write a PNG with an image on the left and, on the right, its objects outlined in colour.

    Parameters
    ----------
    image, labels
        OME-Zarr images of the same grid. The finest scale level that fits the picture is shown;
        of a volume, the middle plane.
    """
    from PIL import Image

    level = _level(labels)
    grey = _stretch(_plane(open_source(image, level=level)))
    found = _plane(open_source(labels, level=level))
    left = np.repeat(grey[..., None], 3, axis=2)
    right = _outlined(left, found)
    gap = np.full((left.shape[0], _GAP, 3), 255, np.uint8)
    picture = Image.fromarray(np.concatenate([left, gap, right], axis=1))
    factor = max(1, MAX_PIXELS // max(grey.shape))
    if factor > 1:
        size = (picture.width * factor, picture.height * factor)
        picture = picture.resize(size, Image.Resampling.NEAREST)
    picture.save(path)


def _level(labels: Path) -> int:
    level = 0
    while (labels / str(level + 1)).is_dir():
        if max(open_source(labels, level=level).type.grid.shape[-2:]) <= MAX_PIXELS * 1.5:
            break
        level += 1
    return level


def _plane(source: Source) -> np.ndarray[Any, Any]:
    shape = source.type.grid.shape
    middle = tuple(n // 2 for n in shape[:-2])
    region = Region((*middle, 0, 0), (*(m + 1 for m in middle), *shape[-2:]))
    return source.read(region).reshape(shape[-2:])


def _stretch(plane: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    plane = plane.astype(np.float64)
    finite = plane[np.isfinite(plane)]
    low, high = np.percentile(finite, (1, 99.7)) if finite.size else (0.0, 0.0)
    scaled = (np.nan_to_num(plane, nan=low) - low) / max(float(high - low), 1e-12)
    grey: np.ndarray[Any, Any] = (255 * np.clip(scaled, 0, 1) ** 0.7).astype(np.uint8)
    return grey


def _outlined(picture: np.ndarray[Any, Any], labels: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """Return the picture with a ring around each object, in a colour of its own."""
    from scipy.ndimage import grey_dilation

    around = grey_dilation(labels, size=(5, 5))
    ring = (labels == 0) & (around > 0)
    out = picture.copy()
    out[ring] = _colours(around[ring])
    return out


def _colours(labels: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """Return a bright colour for each label, neighbours far apart on the colour circle."""
    hue = (labels.astype(np.float64) * 0.618033988749895) % 1.0
    phase = (hue[:, None] + np.array([0.0, 1 / 3, 2 / 3])) * 2 * np.pi
    colours: np.ndarray[Any, Any] = (140 + 115 * np.cos(phase)).astype(np.uint8)
    return colours
