"""Which files of a result are ours, and what becomes of the others when it is replaced."""

from __future__ import annotations

import json
import os
import re
import shutil
import stat
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lepton_pipe.errors import LeptonError, OutputExistsError
from lepton_pipe.ledger import KNOWN, LEDGER
from lepton_pipe.ledger.ledger import Ledger
from lepton_pipe.report.quarantine import QUARANTINE
from lepton_pipe.run.books import ARRAYS
from lepton_pipe.run.published import copy_or_link
from lepton_pipe.store.open import MARKER

_CHUNK = re.compile(r"(.+?)/c(?:/\d+)+")
_PARTIAL = re.compile(r"\.[0-9a-f]{32}\.partial\Z")


@dataclass(frozen=True)
class OwnFiles:
    """The files that lepton_pipe writes in a result.

    Attributes
    ----------
    names
        Files that are no chunks, relative to the result.
    arrays
        Folders of arrays: the scale levels of images.
    """

    names: frozenset[str]
    arrays: frozenset[str]

    @classmethod
    def of(cls, out: Path) -> OwnFiles:
        """Return those of a published result, as its ledger tells; without one, its record."""
        if not (out / KNOWN / LEDGER).is_file():
            return cls._of_record(out)
        try:
            with Ledger.open(out / KNOWN / LEDGER, readonly=True) as ledger:
                return cls.of_ledger(ledger)
        except (LeptonError, OSError):
            return cls._of_record(out)

    @classmethod
    def of_ledger(cls, ledger: Ledger) -> OwnFiles:
        """Return those of the result that a ledger belongs to."""
        stages = ledger.get_fact(ARRAYS, {}).values()
        arrays = {path for stage in stages for path, _ in stage if path is not None}
        return cls(frozenset((*ledger.files(), MARKER)), frozenset(arrays))

    @classmethod
    def _of_record(cls, out: Path) -> OwnFiles:
        names, arrays = {MARKER, "values.json", QUARANTINE}, set()
        for output in _outputs(out):
            path = str(output.get("path"))
            names |= {path, f"{path}/zarr.json"}
            arrays |= {f"{path}/{level}" for level in range(int(output.get("levels", 0)))}
        names |= {f"{array}/zarr.json" for array in arrays}
        return cls(frozenset(names), frozenset(arrays))

    def __contains__(self, name: object) -> bool:
        """Tell whether a file is ours: also a chunk, or half a file, that a killed writer left."""
        whole = _PARTIAL.sub("", str(name))
        if whole in self.names:
            return True
        chunk = _CHUNK.fullmatch(whole)
        return chunk is not None and chunk[1] in self.arrays


def names_in(out: Path) -> Iterator[str]:
    """Yield the files in a result, relative to it, but for what is known of its blocks.

    Links to folders are not followed; their names end with a slash.
    """
    for folder, folders, names in os.walk(out):
        here = Path(folder)
        if here == out and KNOWN in folders:
            folders.remove(KNOWN)
        inside = "" if here == out else f"{here.relative_to(out).as_posix()}/"
        links = [f"{n}/" for n in folders if (here / n).is_symlink()]
        yield from (f"{inside}{name}" for name in (*names, *links))


def carry_over(old: Path, new: Path) -> list[str]:
    """Have what others put into a result in the version that replaces it, too; return its names.

    Files are shared by hard links, or copied where there are none; `old` stays as it is.

    Raises
    ------
    OutputExistsError
        When one cannot be carried over: it is neither file nor link, or the new version has
        something else in its place.
    """
    carried, folders = [], []
    own = OwnFiles.of(old)
    for name in (n for n in names_in(old) if n not in own):
        here, there = old / name, new / name
        if _is_carried(here, there):
            continue
        _refuse_in_the_way(here, there, new)
        folders += [f for f in there.relative_to(new).parents if not (new / f).exists()]
        there.parent.mkdir(parents=True, exist_ok=True)
        if here.is_symlink():
            there.symlink_to(here.readlink())
        else:
            copy_or_link(here, there)
        carried.append(name)
    for folder in folders:
        shutil.copystat(old / folder, new / folder)
    return carried


def _is_carried(here: Path, there: Path) -> bool:
    """Tell whether a run that was stopped while it published has carried a file over."""
    if not os.path.lexists(there):
        return False
    if here.is_symlink():
        return there.is_symlink() and there.readlink() == here.readlink()
    return os.path.samestat(here.lstat(), there.lstat())


def _refuse_in_the_way(here: Path, there: Path, new: Path) -> None:
    mode = here.lstat().st_mode
    above = [p for p in there.parents if p.is_relative_to(new) and os.path.lexists(p)]
    if not (stat.S_ISREG(mode) or stat.S_ISLNK(mode)):
        why = "it is neither a file nor a link"
    elif os.path.lexists(there) or not all(p.is_dir() and not p.is_symlink() for p in above):
        why = "the new version has something else in its place"
    else:
        return
    raise OutputExistsError(
        f"{here} is none of the files that lepton_pipe is known to have written there, and cannot "
        f"be kept when the result is replaced: {why}. Nothing was published; move it away, then "
        "type the same command again"
    )


def _outputs(out: Path) -> list[dict[str, Any]]:
    """Return what the record of a result tells of its outputs; nothing where it cannot be read."""
    try:
        outputs = json.loads((out / MARKER).read_bytes())["measured"]["outputs"].values()
        return [o for o in outputs if isinstance(o, dict)]
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return []
