"""What NumPy's element-wise functions are in CUDA C++, for operands of one dtype."""

from __future__ import annotations

from typing import Any

import numpy as np

C_TYPES = {
    "b1": "bool",
    "i1": "signed char",
    "u1": "unsigned char",
    "i2": "short",
    "u2": "unsigned short",
    "i4": "int",
    "u4": "unsigned int",
    "i8": "long long",
    "u8": "unsigned long long",
    "f4": "float",
    "f8": "double",
}
"""Names of the dtypes that there are; half floats are not among them."""

_ARITHMETIC = {"add": "+", "subtract": "-", "multiply": "*"}
_OF_BOOLS = {
    **dict.fromkeys(("add", "maximum", "fmax"), "||"),
    **dict.fromkeys(("multiply", "minimum", "fmin"), "&&"),
}
_COMPARISONS = {
    "equal": "==",
    "not_equal": "!=",
    "less": "<",
    "less_equal": "<=",
    "greater": ">",
    "greater_equal": ">=",
}
_LOGIC = {"logical_and": "&&", "logical_or": "||"}
_BITS = {"bitwise_and": "&", "bitwise_or": "|", "bitwise_xor": "^"}
# NaN wins, as in NumPy; of fmax and fmin, it loses.
_EXTREMES = {
    "maximum": "({a} >= {b} || {a} != {a}) ? {a} : {b}",
    "minimum": "({a} <= {b} || {a} != {a}) ? {a} : {b}",
    "fmax": "({a} >= {b} || {b} != {b}) ? {a} : {b}",
    "fmin": "({a} <= {b} || {b} != {b}) ? {a} : {b}",
}
_TESTS = {
    "isnan": "{a} != {a}",
    "isfinite": "{a} - {a} == 0",
    "isinf": "{a} == {a} && {a} - {a} != 0",
    "logical_not": "!{a}",
}
# Of floats, by the same name; their last bits are CUDA's.
_FUNCTIONS = frozenset(
    ("sqrt", "exp", "exp2", "expm1", "log", "log2", "log10", "log1p", "sin", "cos", "tan", "tanh")
)
_ROUNDINGS = frozenset(["floor", "ceil", "trunc", "rint"])


def c_type(dtype: np.dtype[Any]) -> str | None:
    """Return the C++ type of a dtype; None where there is none."""
    return C_TYPES.get(dtype.str[1:]) if dtype.isnative else None


def expression(name: str, dtype: np.dtype[Any], args: list[str]) -> str | None:
    """Return a ufunc of operands that all have `dtype`, in C++; None where it is not known.

    The value is still to be converted to the dtype of the result: small integers are ints to C++.
    """
    a, b = (*args, "", "")[:2]
    kind = dtype.kind
    if kind == "b":
        return _of_bools(name, a, b)
    for table in (_COMPARISONS, _LOGIC):
        if name in table:
            return f"{a} {table[name]} {b}"
    if name == "logical_xor":
        return f"!{a} != !{b}"
    if name in _EXTREMES:
        return _EXTREMES[name].format(a=a, b=b)
    if name in _TESTS:
        return _tested(name, kind, a)
    return _of_floats(name, a, b) if kind == "f" else _of_integers(name, dtype, a, b)


def _of_bools(name: str, a: str, b: str) -> str | None:
    operator = {**_OF_BOOLS, **_COMPARISONS, **_LOGIC, **_BITS}.get(name)
    if name in ("logical_xor", "bitwise_xor"):
        operator = "!="
    if name in ("logical_not", "invert"):
        return f"!{a}"
    if name in ("absolute", "positive"):
        return a
    if name in ("isnan", "isinf", "isfinite"):
        return "true" if name == "isfinite" else "false"
    return f"{a} {operator} {b}" if operator and b else None


def _tested(name: str, kind: str, a: str) -> str:
    if kind == "f" or name == "logical_not":
        return _TESTS[name].format(a=a)
    return "true" if name == "isfinite" else "false"


def _of_floats(name: str, a: str, b: str) -> str | None:
    if name in _ARITHMETIC:
        return f"{a} {_ARITHMETIC[name]} {b}"
    if name in _FUNCTIONS or name in _ROUNDINGS:
        return f"{name}({a})"
    found = {
        "divide": f"{a} / {b}",
        "fmod": f"fmod({a}, {b})",
        "negative": f"-{a}",
        "positive": a,
        "absolute": f"fabs({a})",
        "fabs": f"fabs({a})",
        "square": f"{a} * {a}",
        "reciprocal": f"1 / {a}",
    }
    return found.get(name)


def _of_integers(name: str, dtype: np.dtype[Any], a: str, b: str) -> str | None:
    """Return arithmetic in unsigned numbers, which wrap; signed ones may do anything in C++."""
    wide = "unsigned long long" if dtype.itemsize == 8 else "unsigned int"
    if name in _ARITHMETIC:
        return f"({wide}){a} {_ARITHMETIC[name]} ({wide}){b}"
    if name in _BITS:
        return f"{a} {_BITS[name]} {b}"
    if name in _ROUNDINGS or name == "positive":
        return a
    negative = f"0 - ({wide}){a}"
    found = {
        "negative": negative,
        "invert": f"~{a}",
        "square": f"({wide}){a} * ({wide}){a}",
        "absolute": f"{a} < 0 ? ({wide})({negative}) : ({wide}){a}" if dtype.kind == "i" else a,
    }
    return found.get(name)
