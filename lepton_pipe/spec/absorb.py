"""What lets a filter do the steps next to it in its own pass over memory.

An image that is corrected, filtered and rounded costs three passes as three steps, and two images
that nobody wants. A kernel says here what it is, and a filter that it can do such a step itself;
the worker then calls the filter alone, with the same bits as a result.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import numpy as np

from lepton_pipe.spec.types import Place

Operation = tuple[Literal["add", "subtract", "multiply", "maximum", "minimum"], Any]
"""A ufunc of NumPy that is applied to each voxel, and its second operand.

That is a number, or an array that broadcasts to the last two axes.
"""


@dataclass(frozen=True, slots=True)
class Around:
    """What a filter does besides.

    Attributes
    ----------
    before
        Done to each voxel first, one after the other, in the float dtype of the filter's result.
    dtype
        Round the result to this dtype, see `Rounding`. None leaves it as it is.
    tally
        Count what the rounding loses; None does not.
    """

    before: tuple[Operation, ...] = ()
    dtype: np.dtype[Any] | None = None
    tally: Tally | None = None


class Tally(NamedTuple):
    """Where a filter counts what its rounding loses.

    Attributes
    ----------
    lost
        Counts to add to, int64 ``(3,)``: those of a `lepton_pipe.spec.losses.Lost`.
    box
        The part of the filter's image to count in.
    """

    lost: np.ndarray[Any, np.dtype[np.int64]]
    box: tuple[slice, ...]


def _always() -> bool:
    return True


@dataclass(frozen=True, slots=True)
class Voxelwise:
    """A kernel that does some operations to each voxel, in the float dtype of its result.

    Its image is its first parameter.

    Attributes
    ----------
    operations
        Returns them; called as the kernel is, and reads of the image the dtype alone. Where all
        other images are the same for every plane, operands broadcast to the last two axes.
    applies
        A rule that tells whether it does just this.
    """

    operations: Callable[..., Sequence[Operation]]
    applies: Callable[..., bool] = _always

    def __call__(self, args: Mapping[str, Any], place: Place) -> Sequence[Operation]:
        """Return what is done to each voxel of an array."""
        return self.operations(**args, place=place)


@dataclass(frozen=True, slots=True)
class Rounding:
    """A kernel that rounds floats: halves to even, to what the dtype has, and NaN to 0.

    Attributes
    ----------
    applies
        A rule that tells whether it does just this.
    """

    applies: Callable[..., bool]


@dataclass(frozen=True, slots=True)
class Absorbing:
    """A filter of one image that can do both, before itself and after.

    Attributes
    ----------
    applies
        A rule that tells whether it can for an image of a type; the result's float dtype is that
        of the image.
    run
        Called as the kernel is, with `around` besides: an `Around`. Returns the voxels that the
        block owns, and no others; the same bits as one step after the other.
    """

    applies: Callable[..., bool]
    run: Callable[..., Any]

    def __call__(self, args: Mapping[str, Any], place: Place, around: Around) -> Any:
        """Filter an array."""
        return self.run(**args, place=place, around=around)


Absorb = Voxelwise | Rounding | Absorbing
"""What a kernel may say of itself; one that is several of these says so by a tuple."""
