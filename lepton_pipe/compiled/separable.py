"""Separable filters: 1-D correlations along any axes of an image, in one pass over memory."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from lepton_pipe.compiled.strip_rows import ADD, MAXIMUM, MINIMUM, MULTIPLY, SUBTRACT
from lepton_pipe.compiled.strip_taps import PITCH, as_taps
from lepton_pipe.compiled.strips import (
    Before,
    Buffers,
    Images,
    Load,
    Store,
    Taps,
    filter_volume,
)

Array = np.ndarray[Any, np.dtype[Any]]
Weights = Sequence[Sequence[float] | Array | None]
Inner = Sequence[slice]
Ranges = list[tuple[int, int]]
Operations = Sequence[tuple[str, Any]]
Tally = tuple[Array, Inner]
_Counted = tuple[Array, Ranges] | None

# Bytes of buffers that are used again and again: they should stay in a core's own cache.
_IN_CACHE = 640 * 1024
_BEYOND_CACHE = 4 * _IN_CACHE
# Taps along the last axis: wider ones would leave too few columns of a row of `PITCH` floats.
_WIDEST = 401
_CODES = {
    "add": ADD,
    "subtract": SUBTRACT,
    "multiply": MULTIPLY,
    "maximum": MAXIMUM,
    "minimum": MINIMUM,
}
_INTEGERS = (np.dtype(np.uint8), np.dtype(np.uint16), np.dtype(np.int16))


def fits(block: Array, weights: Weights) -> bool:
    """Tell whether `separable` can filter a block.

    It cannot where the result is neither float32 nor float64, or where more than 401 weights lie
    along the last axis. The answer is the same for all blocks of an image.
    """
    last = weights[-1] if len(weights) else None
    return _float(block) in (np.float32, np.float64) and (last is None or len(last) <= _WIDEST)


def separable(
    block: Array,
    weights: Weights,
    *,
    before: Operations = (),
    out_dtype: Any = None,
    out: Array | None = None,
    inner: Inner | None = None,
    tally: Tally | None = None,
) -> Array:
    """Correlate an array with 1-D weights along several axes.

    Beyond its edges the array is mirrored (``d c b a | a b c d | d c b a``).

    Parameters
    ----------
    block
        Array of 1 or more axes, of a dtype that `fits`.
    weights
        For each axis its weights, or None to leave the axis alone. Voxel ``i`` is made of voxels
        ``i - n // 2`` to ``i + (n - 1) // 2``, as `scipy.ndimage.correlate1d` does it.
    before
        Filter what these operations make of the block, one after the other, in the result's float
        dtype: each the name of a ufunc (add, subtract, multiply, maximum, minimum) and its second
        operand, a number or an array that broadcasts to the last two axes (any others have
        length 1). The bits are NumPy's, but for the sign of zero.
    out_dtype
        uint8, uint16 or int16: round to the nearest integer, halves to the even one; take the
        nearest value that the dtype has, and 0 for NaN.
    out
        Where to put the result: an array of its shape and dtype that does not overlap `block`.
    inner
        The voxels that are wanted, a slice of step 1 for each axis; all by default. They are
        those of the whole result, bit for bit, and little else is computed.
    tally
        Counts to add to, int64 ``(3,)``, and the part of the block to count in: with `out_dtype`,
        voxels of the result that are NaN, infinite, or else beyond what the dtype has.

    Returns
    -------
    array
        float32 (float64 for inputs that float32 cannot hold), or of `out_dtype`; of the shape of
        `block`, or of what is wanted of it.

    Raises
    ------
    ValueError
        When the block does not fit, or `before`, `out`, `out_dtype` or `inner` is not as said
        above.

    Notes
    -----
    Sums are made in the result's dtype. Where the absolute weights of each axis sum to 1, a
    float32 result differs from one summed in double precision by at most about 4e-7 of the
    largest magnitude in `block` (measured; root mean square below 1e-7), for 401 taps on each of
    three axes by 5e-7.

    Every voxel is made by the same operations in the same order wherever it lies in a block, so
    that blocks overlapping by the reach of the weights give the same bits as the whole array. A
    weight of zero still spreads NaN, and turns infinity into NaN, as in SciPy.
    """
    if len(weights) != block.ndim or block.ndim == 0 or not fits(block, weights):
        raise ValueError(
            f"an array of {block.dtype} with {block.ndim} axes cannot be filtered with "
            f"{len(weights)} sets of weights here; use scipy.ndimage.correlate1d"
        )
    kind = _float(block)
    wanted = _ranges(block.shape, inner)
    shape = tuple(stop - start for start, stop in wanted)
    out = _result(shape, np.dtype(out_dtype or kind), kind, out)
    if block.size == 0 or out.size == 0:
        return out
    taps = [as_taps([1.0] if w is None else w, kind) for w in weights]
    outer = [axis for axis in range(block.ndim - 3) if taps[axis].size > 1]
    if not outer:
        _filter_inner(block, taps, out, wanted, before, _counted(tally, block.shape))
        return out
    # Along these axes all is made first, in place: a plane is overwritten when the window along
    # the axis has passed it.
    made = [(0, n) if i in outer else wanted[i] for i, n in enumerate(block.shape)]
    direct = out.dtype == kind and out.flags.c_contiguous and made == wanted
    floats = out if direct else np.empty([stop - start for start, stop in made], kind)
    _filter_inner(block, taps, floats, made, before)
    for axis in outer:
        _filter_axis(floats, axis, taps[axis])
    if not direct:
        kept = [wanted[i] if i in outer else (0, n) for i, n in enumerate(floats.shape)]
        at = [start for start, _ in made]
        counted = _counted(tally, block.shape, at)
        _filter_inner(floats, [np.ones(1, kind)] * block.ndim, out, kept, (), counted)
    return out


def _ranges(shape: tuple[int, ...], inner: Inner | None) -> Ranges:
    """Return where the voxels that are wanted begin and end along each axis."""
    if inner is None:
        return [(0, n) for n in shape]
    if len(inner) != len(shape) or any(s.step not in (None, 1) for s in inner):
        raise ValueError(
            f"inner={tuple(inner)} is no part of an array with {len(shape)} axes; give a slice "
            "without a step for each"
        )
    found = [s.indices(n)[:2] for s, n in zip(inner, shape, strict=True)]
    return [(start, max(start, stop)) for start, stop in found]


def _float(block: Array) -> np.dtype[Any]:
    return np.promote_types(block.dtype, np.float32)


def _result(
    shape: tuple[int, ...], dtype: np.dtype[Any], kind: np.dtype[Any], out: Array | None
) -> Array:
    if dtype not in (kind, *_INTEGERS):
        raise ValueError(
            f"out_dtype={dtype} cannot be stored: there are {kind}, uint8, uint16 and int16; "
            "leave it out and convert the result"
        )
    if out is None:
        return np.empty(shape, dtype)
    if out.shape != shape or out.dtype != dtype or not _is_plain(out):
        raise ValueError(
            f"out of shape {out.shape} and dtype {out.dtype} cannot take a result of shape "
            f"{shape} and dtype {dtype}; it must have both, and rows that are contiguous"
        )
    return out


def _is_plain(array: Array) -> bool:
    """Tell whether elements lie a whole number of elements apart, and in a row side by side."""
    steps = [s for n, s in zip(array.shape, array.strides, strict=True) if n > 1]
    side_by_side = array.shape[-1] == 1 or array.strides[-1] == array.itemsize
    regular = all(s >= 0 and s % array.itemsize == 0 for s in steps)
    return side_by_side and regular and array.flags.aligned and array.dtype.isnative


def _readable(block: Array, kind: np.dtype[Any]) -> Array:
    """Return the array itself if the loops can read it, else a copy that they can."""
    if block.dtype == np.bool_:
        block = block.view(np.uint8)
    if block.dtype not in (*_INTEGERS, kind):
        return block.astype(kind, order="C")
    return block if _is_plain(block) else np.array(block, block.dtype.newbyteorder("="), order="C")


# -- parts of an array ----------------------------------------------------------------------


def _filter_inner(
    block: Array,
    taps: list[Array],
    out: Array,
    wanted: Ranges,
    before: Operations,
    counted: _Counted = None,
) -> None:
    """Filter along the last three axes, and put what is wanted into `out`."""
    if block.ndim < 3:
        extra = (None,) * (3 - block.ndim)
        one = [np.ones(1, taps[0].dtype)] * len(extra)
        block, out, taps = block[extra], out[extra], one + taps
        wanted = [(0, 1)] * len(extra) + wanted
        counted = counted and (counted[0], [(0, 1)] * len(extra) + counted[1])
    inner = Taps(*taps[-3:])
    operations = _before(before, block.shape, inner.x.dtype)
    block = block[tuple(slice(*w) for w in wanted[:-3])]
    block = _readable(block, inner.x.dtype)
    part = wanted[-3:]
    work = _Work.of(tuple(b - a for a, b in part), inner)
    load, store = _load(block, inner.x.dtype, operations), _store(out, inner.x.dtype)
    begin = part[0][0] * store.plane + part[1][0] * store.row + part[2][0]
    for index in np.ndindex(block.shape[:-3]):
        here = load._replace(start=_element(block, index))
        there = store._replace(start=_element(out, index) - begin)
        if counted is not None:
            there = _counting(
                there, counted, [i + w[0] for i, w in zip(index, wanted, strict=False)]
            )
        filter_volume(here, there, inner, work.buffers, work.tile, (*part[0], *part[1], *part[2]))


def _filter_axis(block: Array, axis: int, taps: Array) -> None:
    """Filter a contiguous array in place along one axis before the last three."""
    before, rest = math.prod(block.shape[:axis]), math.prod(block.shape[axis + 1 :])
    one = np.ones(1, taps.dtype)
    volumes = block.reshape(before, block.shape[axis], 1, rest)
    every = _ranges(volumes.shape, None)
    _filter_inner(volumes, [one, taps, one, one], volumes, every, ())


def _counted(tally: Tally | None, shape: tuple[int, ...], at: Sequence[int] = ()) -> _Counted:
    """Return counts, and where to count from and to, in an array that begins `at` of the block."""
    if tally is None:
        return None
    at = at or [0] * len(shape)
    ranges = [s.indices(n)[:2] for s, n in zip(tally[1], shape, strict=True)]
    return tally[0], [(a - o, b - o) for (a, b), o in zip(ranges, at, strict=True)]


def _counting(store: Store, counted: tuple[Array, Ranges], index: Sequence[int]) -> Store:
    """Have a volume counted, if it is at an index of leading axes where that is wanted."""
    lost, ranges = counted
    if not all(a <= i < b for i, (a, b) in zip(index, ranges, strict=False)):
        return store
    z, y, x = ranges[-3:]
    return store._replace(lost=lost, box=(*z, *y, *x))


class _Work(NamedTuple):
    """How many planes, rows and columns are done at a time, and buffers for that."""

    tile: tuple[int, int, int]
    buffers: Buffers

    @classmethod
    def of(cls, shape: tuple[int, ...], taps: Taps) -> _Work:
        depth, height, width = shape
        columns = math.ceil(width / math.ceil(width / (PITCH - taps.x.size + 1)))
        planes = 1 if taps.z.size == 1 else max(8, taps.z.size // 8 * 4)
        planes = min(planes, math.ceil(depth / 4) * 4)
        slots = planes + taps.z.size - 1
        most = _rows_at_once(shape, taps, planes, slots, columns)
        rows = min(most, math.ceil(height / 4) * 4)
        counts = (rows + taps.y.size - 1, rows, rows * slots, planes)
        read, across, window, result = (np.empty((n + 3) * PITCH, taps.x.dtype) for n in counts)
        return cls((planes, rows, columns), Buffers(read, across, window, slots, result))


def _rows_at_once(shape: tuple[int, ...], taps: Taps, planes: int, slots: int, columns: int) -> int:
    """Return how many rows of all windows of planes, and rows read, fit the cache."""
    whole, used = PITCH * taps.x.itemsize, (columns + taps.x.size - 1) * taps.x.itemsize
    # Far more rows are read than made where taps along y are many: better to leave the cache then.
    wanted = min(_BEYOND_CACHE, (taps.y.size // 4 * (slots + 6)) * used)
    cache = max(_IN_CACHE, wanted)
    # Small arrays get small buffers: a byte for a voxel will do.
    room = min(cache // used, min(2 * cache, math.prod(shape) * taps.x.itemsize // 4) // whole)
    return max(4, int(room - taps.y.size - planes) // (slots + 2) // 4 * 4)


def _before(operations: Operations, shape: tuple[int, ...], kind: np.dtype[Any]) -> Before:
    """Return operations as the loops take them: their operands one behind the other."""
    if not {name for name, _ in operations} <= _CODES.keys():
        raise ValueError(
            f"{[name for name, _ in operations]} cannot all be done before a filter: there are "
            f"{', '.join(_CODES)}; do the others on the block first"
        )
    planes = [_operand(value, shape) for _, value in operations]
    ends = np.cumsum([0, *(plane.size for plane in planes)])
    operands = np.empty(ends[-1], kind)
    for plane, start, stop in zip(planes, ends[:-1], ends[1:], strict=True):
        operands[start:stop].reshape(plane.shape)[...] = plane
    codes = np.array([_CODES[name] for name, _ in operations], np.int64)
    rows = np.array([shape[-1] if len(p) > 1 else 0 for p in planes], np.int64)
    return Before(codes, ends[:-1].astype(np.int64), rows, operands)


def _operand(value: Any, shape: tuple[int, ...]) -> Array:
    """Return an operand as rows: one where all are the same."""
    plane = np.asarray(value)
    if plane.ndim:
        plane = plane.reshape(plane.shape[-2:])
    rows = shape[-2] if plane.ndim > 1 and plane.shape[0] > 1 else 1
    return np.broadcast_to(plane, (rows, shape[-1]))


def _load(block: Array, kind: np.dtype[Any], before: Before) -> Load:
    images, index = _images(block, kind, writeable=False)
    plane, row = (s // block.itemsize for s in block.strides[-3:-1])
    return Load(images, index, 0, plane, row, block.shape[-3:], before)


def _store(out: Array, kind: np.dtype[Any]) -> Store:
    images, index = _images(out, kind, writeable=True)
    plane, row = (s // out.itemsize for s in out.strides[-3:-1])
    rounded = out.dtype != kind
    info = np.iinfo(out.dtype if rounded else np.int16)
    low, high = kind.type(info.min), kind.type(info.max)
    nothing = np.empty(0, np.int64)
    return Store(images, index, 0, plane, row, rounded, low, high, nothing, (0,) * 6)


def _element(array: Array, index: tuple[int, ...]) -> int:
    """Return which element from the first one on the voxel at an index of leading axes is."""
    steps = array.strides[: len(index)]
    return sum(i * s for i, s in zip(index, steps, strict=True)) // array.itemsize


def _images(array: Array, kind: np.dtype[Any], *, writeable: bool) -> tuple[Images, int]:
    """Return the elements of an array and which of the dtypes they have.

    The views are read-only or not by what they are for, whatever the array is: Numba compiles
    anew for each.
    """
    dtypes = (*_INTEGERS, kind)
    views = [np.empty(0, dtype) for dtype in dtypes]
    for view in views:
        view.flags.writeable = writeable
    index = dtypes.index(array.dtype)
    last = _element(array, tuple(n - 1 for n in array.shape))
    views[index] = np.lib.stride_tricks.as_strided(
        array, (1 + last,), (array.itemsize,), writeable=writeable
    )
    return Images(*views), index
