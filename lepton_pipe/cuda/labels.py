"""Connected components of a mask, by union-find on the device.

The image of labels is all that it takes: four bytes for each voxel. Components come in the order of
their first voxels in C order, without being sorted, for the first voxel of each is its root. The
form to compare with is `lepton_pipe.kernels.labels.local_labels`.

Everywhere here an image has the shape ``(outer, z, y, x)``, with 1 for axes that it lacks; nothing
is joined along `outer`.
"""

from __future__ import annotations

import importlib
from collections.abc import Sequence
from math import prod
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from lepton_pipe.cuda import THREADS, compiled
from lepton_pipe.cuda.pieces import MOST_VOXELS, blocks_for, pieces_in, source, stored_type


class Split(NamedTuple):
    """A block's components, and which of them fall apart in a box.

    Attributes
    ----------
    labels
        On the device: 1, 2, ... in the order of components' first voxels, 0 elsewhere; int32.
    size, first
        For each label, 0 among them, its voxels in the box and the smallest of their indices in
        the flattened box; anything where there are none.
    own
        For each component of the box by itself, numbered from 1, its label; 0 for 0.
    """

    labels: Any
    size: NDArray[np.int32]
    first: NDArray[np.int64]
    own: NDArray[np.int32]


def fits(mask: Any) -> bool:
    """Tell whether indices of the mask's voxels fit the 32 bits that are used here."""
    return bool(0 < mask.size <= MOST_VOXELS)


def padded(shape: Sequence[int], spatial: int) -> tuple[int, int, int, int]:
    """Return a shape whose last `spatial` axes are z, y, x as ``(outer, z, y, x)``."""
    outer, inner = shape[: len(shape) - spatial], shape[len(shape) - spatial :]
    z, y, x = (*(1,) * (3 - spatial), *inner)
    return (prod(outer), z, y, x)


def code(dtype: np.dtype[Any]) -> str:
    """Return the source for masks of a dtype."""
    return source("labels", mask=stored_type(dtype))


class Components:
    """The connected components of a mask.

    Parameters
    ----------
    mask
        Foreground where not zero; an array of the device that `fits`.
    spatial
        The last `spatial` axes are spatial.
    connectivity
        Along how many of them at once a step may go.
    """

    def __init__(self, mask: Any, spatial: int, connectivity: int) -> None:
        self._xp = importlib.import_module("cupy")
        mask = mask if stored_type(mask.dtype) else mask != 0
        self._mask = self._xp.ascontiguousarray(mask)
        self._connectivity = np.int32(connectivity)
        self.shape = padded(mask.shape, spatial)
        self._links = self._xp.empty(mask.shape, np.int32)
        self._pieces = pieces_in(self.shape)
        self._code = code(self._mask.dtype)
        self._run("link_runs", self._mask, self._links)

    def _run(
        self, name: str, *arrays: Any, stop: Sequence[int] | None = None, more: Sequence[Any] = ()
    ) -> None:
        extents = map(np.int32, (*self.shape[1:], *(self.shape[1:] if stop is None else stop)))
        given = (*arrays, np.uint32(self._pieces), *extents, *more)
        compiled(self._code, name)((blocks_for(self._pieces),), (THREADS,), given)

    def unite(self, stop: Sequence[int] | None = None) -> Any:
        """Join what touches in a box; return the first voxels of its components, in order.

        Parameters
        ----------
        stop
            Where the box ends along z, y, x; it begins where the image does, and is all of it by
            default. Boxes may be joined one after the other, from small to large.

        Returns
        -------
        array of int32
            Their indices in the flattened image, on the device.
        """
        self._run("unite", self._mask, self._links, stop=stop, more=[self._connectivity])
        counts = self._xp.empty(blocks_for(self._pieces), np.int32)
        self._run("flatten", self._links, counts, stop=stop)
        ends = self._xp.cumsum(counts, dtype=np.int32)
        roots = self._xp.empty(int(ends[-1]), np.int32)
        if roots.size:
            self._run("list_roots", self._links, ends, roots, stop=stop)
        return roots

    def roots_of(self, voxels: Any) -> Any:
        """Return the first voxels of the components that some voxels are in."""
        return self._links.reshape(-1)[voxels]

    def number(self, roots: Any, numbers: Any) -> None:
        """Give components their numbers: int32, 0 to 2**31 - 2, on the device.

        They stand, as ``~number``, at the first voxels until all is painted.
        """
        self._links.reshape(-1)[roots] = ~numbers

    def numbers_at(self, roots: Any) -> Any:
        """Return the numbers that were given to components, by their first voxels."""
        return ~self._links.reshape(-1)[roots]

    def painted(self) -> Any:
        """Return the numbers as an image of the mask's shape, which takes no other memory."""
        self._run("paint", self._links)
        return self._links

    def painted_and_counted(self, most: int, stop: Sequence[int]) -> tuple[Any, Any]:
        """Return the same, and the voxels in a box of each number, 0 to `most`; 0 for 0."""
        sizes = self._xp.zeros(most + 1, np.int32)
        self._run("paint_and_count", self._links, sizes, stop=stop)
        return self._links, sizes


def painted(found: Components, roots: Any, table: NDArray[Any], dtype: Any) -> Any:
    """Return an image that has ``table[k]`` where component `k` is, counted from 1, else 0.

    Parameters
    ----------
    roots
        First voxels of all components, in order.
    dtype
        Of the image; int32 or int64, and the table's numbers must fit it.
    """
    xp = importlib.import_module("cupy")
    if dtype == np.int32 and table.max(initial=0) < MOST_VOXELS:
        found.number(roots, xp.asarray(table[1:], np.int32))
        return found.painted()
    found.number(roots, xp.arange(1, roots.size + 1, dtype=np.int32))
    return xp.take(xp.asarray(table, dtype), found.painted())


def split_components(mask: Any, spatial: int, connectivity: int, stop: Sequence[int]) -> Split:
    """Label a block, and say which of the components fall apart in a box; see `Split`.

    Parameters
    ----------
    stop
        Where the box ends along the spatial axes; it begins where the mask does.
    """
    xp = importlib.import_module("cupy")
    found = Components(mask, spatial, connectivity)
    box = padded((*mask.shape[: mask.ndim - spatial], *stop), spatial)[1:]
    own_roots = roots = found.unite(box)
    if box != found.shape[1:]:
        roots = found.unite()
    joined = found.roots_of(own_roots)
    found.number(roots, xp.arange(1, roots.size + 1, dtype=np.int32))
    own = np.concatenate([[0], xp.asnumpy(found.numbers_at(joined))]).astype(np.int32)
    labels, size = found.painted_and_counted(roots.size, box)
    whole = found.shape[0] * prod(box)
    first = np.full(roots.size + 1, whole)
    at = np.unravel_index(xp.asnumpy(own_roots), found.shape)
    np.minimum.at(first, own[1:], np.ravel_multi_index(at, (found.shape[0], *box)))
    return Split(labels, xp.asnumpy(size), first, own)
