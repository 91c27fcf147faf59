"""Names of units that OME-Zarr knows, and that a user may give to an input."""

from __future__ import annotations

from difflib import get_close_matches

from lepton_pipe.errors import UsageError

_PREFIXES = (
    *("yocto", "zepto", "atto", "femto", "pico", "nano", "micro", "milli", "centi", "deci", ""),
    *("hecto", "kilo", "mega", "giga", "tera", "peta", "exa", "zetta", "yotta"),
)
# https://ngff.openmicroscopy.org/0.5/#axes-md, and the angles of UDUNITS-2: for the sky and for
# maps, of which that list does not think.
_ANGLES = ("degree", "arcminute", "arcsecond", "radian")
_LENGTHS = (
    *(f"{p}meter" for p in _PREFIXES),
    *("angstrom", "inch", "foot", "yard", "mile", "parsec"),
)
_TIMES = (*(f"{p}second" for p in _PREFIXES), "minute", "hour", "day")
_SUCH_LENGTHS = "nanometer, micrometer, millimeter, meter"
_SUCH_TIMES = "millisecond, second, minute, hour"


def checked_unit(name: str, axis: str) -> str:
    """Return the name of a unit that a user gave to an axis, in lower case.

    Raises
    ------
    UsageError
        When OME-Zarr knows no such unit for the axis; with the names that may be meant.
    """
    known, such = (_TIMES, _SUCH_TIMES) if axis == "t" else (_LENGTHS + _ANGLES, _SUCH_LENGTHS)
    if name.lower() in known:
        return name.lower()
    close = get_close_matches(name.lower(), known, n=1)
    meant = f"did you mean {close[0]!r}?" if close else f"give one such as {such}"
    raise UsageError(
        f"unit {name!r} is none that OME-Zarr knows for axis {axis}, so programs that open the "
        f"result would not know the size of a voxel; {meant}"
    )
