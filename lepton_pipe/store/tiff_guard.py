"""Look at what a TIFF file claims before memory is taken for it, or another file is opened.

Its directory says how large pixels are when decoded, its OME-XML how many planes there are and in
which files; and a JPEG tile has a header of its own. None of that need be true.
"""

from __future__ import annotations

import html
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

from lepton_pipe.errors import InputError
from lepton_pipe.store.inside import inside

MOST = {1: 1, 5: 2048, 7: 4096, 8: 1040, 32773: 128, 32946: 1040}
"""Bytes that one stored byte can stand for, by compression: none, LZW, JPEG, Deflate, PackBits."""

_MOST_ELSE = 40_000
_MOST_PLANES = 10_000_000
_JPEG = (6, 7)
_COUNTS = re.compile(r'\b(?:PlaneCount|NumPlanes|Size[TCZ]|IFD|First[TCZ])\s*=\s*"\s*(\d+)')
_FILE_NAME = re.compile(r"""\bFileName\s*=\s*(?:"([^"]*)"|'([^']*)')""")
# Markers that begin a frame of JPEG: all of C0 to CF but DHT, JPG and DAC.
_FRAMES = {*range(0xC0, 0xD0)} - {0xC4, 0xC8, 0xCC}


def check_description(tiff: Any, where: str) -> tuple[Path, ...]:
    """Refuse metadata that would take memory or lead elsewhere; before `tiff.series` is asked for.

    Returns
    -------
    tuple
        Further files that the image is in, according to OME-XML.

    Raises
    ------
    InputError
        When it defines entities, tells of too many planes, or names a file outside its folder.
    """
    text = tiff.pages.first.description if len(tiff.pages) else ""
    if "<!ENTITY" in text:
        raise InputError(
            f"{where}: its description defines XML entities, which can grow beyond all memory and "
            "which no microscope writes; the file is not read: export it again"
        )
    if not tiff.is_ome:
        return ()
    told = max((int(n) for n in _COUNTS.findall(text)), default=0)
    if told > _MOST_PLANES:
        raise InputError(
            f"{where}: its OME-XML tells of {told} planes, more than can be held in memory as a "
            "list; the file is damaged or not meant to be read: export it again"
        )
    return _companions(text, where)


def _companions(text: str, where: str) -> tuple[Path, ...]:
    names = {html.unescape(a or b) for a, b in _FILE_NAME.findall(text)}
    own = Path(where)
    return tuple(
        inside(own.parent, name, f"{where}: its OME-XML") for name in sorted(names - {own.name, ""})
    )


def check_possible(page: Any, where: str, number: int) -> None:
    """Raise `InputError` when so few stored bytes cannot hold the pixels that a page claims."""
    stored = sum(page.databytecounts)
    compression = int(page.keyframe.compression)
    most = MOST.get(compression, _MOST_ELSE)
    if 0 in page.databytecounts or page.nbytes <= most * stored + _MOST_ELSE:
        return
    raise InputError(
        f"{where}: page {number} claims {page.nbytes} bytes of pixels, but stores {stored} bytes, "
        "which cannot hold them; the file is damaged: copy it again from its origin"
    )


def guard_jpeg(page: Any) -> None:
    """Make a page refuse JPEG strips or tiles whose own header claims more pixels than they have.

    The decoder takes memory by that header.
    """
    if int(page.compression) not in _JPEG or "decode" in page.__dict__:
        return
    decode: Callable[..., Any] = page.decode
    widest = max(page.imagewidth, page.tilewidth), max(page.imagelength, page.tilelength)

    def guarded(data: Any, *args: Any, **kwargs: Any) -> Any:
        size = None if data is None else jpeg_size(data)
        if size is not None and (size[0] > widest[0] or size[1] > widest[1]):
            raise ValueError(f"a JPEG of {size[0]} x {size[1]} pixels is in a page of {widest}")
        return decode(data, *args, **kwargs)

    page.decode = guarded


def jpeg_size(data: bytes) -> tuple[int, int] | None:
    """Return width and height that the header of a JPEG tells; None where there is none."""
    at = 2
    while at + 9 <= len(data) and data[at] == 0xFF:
        marker = data[at + 1]
        if marker == 0xFF or marker == 0x01 or 0xD0 <= marker <= 0xD8:
            at += 1 if marker == 0xFF else 2
            continue
        if marker in _FRAMES:
            height, width = data[at + 5 : at + 7], data[at + 7 : at + 9]
            return int.from_bytes(width, "big"), int.from_bytes(height, "big")
        at += 2 + int.from_bytes(data[at + 2 : at + 4], "big")
    return None
