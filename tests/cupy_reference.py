"""What of CuPy the stand-in offers, with the signatures of CuPy's reference.

Cut down to what CuPy 13 to 15 have in common. A function that is missing here is not missing in
CuPy: add it, with the reference's signature, when a kernel needs it. ``tests.fake_device`` gives
these functions NumPy's and SciPy's bodies.
"""

from __future__ import annotations

import ast
import inspect
from inspect import Parameter

import numpy as np

# https://docs.cupy.dev/en/stable/reference/ufunc.html
_UFUNCS = """
absolute add arccos arccosh arcsin arcsinh arctan arctan2 arctanh bitwise_and bitwise_or bitwise_xor
cbrt ceil conjugate copysign cos cosh deg2rad degrees divide divmod equal exp exp2 expm1 fabs
float_power floor floor_divide fmax fmin fmod frexp gcd greater greater_equal heaviside hypot invert
isfinite isinf isnan lcm ldexp left_shift less less_equal log log10 log1p log2 logaddexp logaddexp2
logical_and logical_not logical_or logical_xor maximum minimum modf multiply negative nextafter
not_equal positive power rad2deg radians reciprocal remainder right_shift rint sign signbit sin sinh
sqrt square subtract tan tanh trunc
"""
UFUNCS = tuple(_UFUNCS.split())

# The dtypes that cupy.add.at takes in every version: int64 came late.
ADDED_AT = tuple(map(np.dtype, ("i4", "u4", "u8", "f2", "f4", "f8")))

# The same of cupy.minimum.at.
LEAST_AT = tuple(map(np.dtype, ("i4", "u4", "u8", "f4", "f8")))

# https://docs.cupy.dev/en/stable/reference/routines.html
ROUTINES = """
all(a, axis=None, out=None, keepdims=False)
any(a, axis=None, out=None, keepdims=False)
argmax(a, axis=None, dtype=None, out=None, keepdims=False)
argsort(a, axis=-1, kind=None)
bincount(x, weights=None, minlength=None)
clip(a, a_min, a_max, out=None)
concatenate(tup, axis=0, out=None)
cumsum(a, axis=None, dtype=None, out=None)
flatnonzero(a)
flip(a, axis=None)
max(a, axis=None, out=None, keepdims=False)
mean(a, axis=None, dtype=None, out=None, keepdims=False)
min(a, axis=None, out=None, keepdims=False)
moveaxis(a, source, destination)
nonzero(a)
pad(array, pad_width, mode='constant', **kwargs)
sort(a, axis=-1, kind=None)
stack(tup, axis=0, out=None)
sum(a, axis=None, dtype=None, out=None, keepdims=False)
take(a, indices, axis=None, out=None)
where(condition, x=None, y=None)
"""

# https://docs.cupy.dev/en/stable/reference/scipy_ndimage.html
FILTERS = """
convolve1d(input, weights, axis=-1, output=None, mode='reflect', cval=0.0, origin=0)
correlate1d(input, weights, axis=-1, output=None, mode='reflect', cval=0.0, origin=0)
gaussian_filter(input, sigma, order=0, output=None, mode='reflect', cval=0.0, truncate=4.0)
label(input, structure=None, output=None)
laplace(input, output=None, mode='reflect', cval=0.0)
maximum_filter(input, size=None, footprint=None, output=None, mode='reflect', cval=0.0, origin=0)
median_filter(input, size=None, footprint=None, output=None, mode='reflect', cval=0.0, origin=0)
minimum_filter(input, size=None, footprint=None, output=None, mode='reflect', cval=0.0, origin=0)
uniform_filter(input, size=3, output=None, mode='reflect', cval=0.0, origin=0)
"""


def signatures(table: str) -> dict[str, inspect.Signature]:
    """Return the signatures of a table, by name."""
    calls = [ast.parse(f"def {line}: ...").body[0] for line in table.split("\n") if line]
    return {call.name: _signature(call.args) for call in calls if isinstance(call, ast.FunctionDef)}


def _signature(args: ast.arguments) -> inspect.Signature:
    required = len(args.args) - len(args.defaults)
    defaults = [Parameter.empty] * required + [ast.literal_eval(d) for d in args.defaults]
    found = [
        Parameter(a.arg, Parameter.POSITIONAL_OR_KEYWORD, default=d)
        for a, d in zip(args.args, defaults, strict=True)
    ]
    if args.kwarg:
        found.append(Parameter(args.kwarg.arg, Parameter.VAR_KEYWORD))
    return inspect.Signature(found)
