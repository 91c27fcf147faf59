"""The version of an output that is published: which of its blocks are those that are wanted now."""

from __future__ import annotations

import errno
import os
import shutil
import stat
from collections import defaultdict
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from lepton_pipe.errors import LeptonError, RefusedError
from lepton_pipe.ledger import JOURNAL, KNOWN, LEDGER
from lepton_pipe.ledger.journal import Journal, Unit
from lepton_pipe.ledger.ledger import Ledger, Row
from lepton_pipe.ledger.rows import Done
from lepton_pipe.run.units import StageFiles
from lepton_pipe.store.durable import size_and_crc, write_whole
from lepton_pipe.store.open import MARKER

_PIECE = 1 << 20
# What a system says that has no hard links, or will not make this one.
_NO_LINKS = {
    *(errno.EPERM, errno.EXDEV, errno.EOPNOTSUPP, errno.ENOTSUP),
    *(errno.EMLINK, errno.EACCES, errno.ENOSYS),
}


@dataclass(frozen=True)
class Spoilt:
    """What of a published version is damaged, and is to be made again as it was.

    Attributes
    ----------
    names
        Files, relative to it.
    bring
        For a version of which the chunks lie elsewhere: has one that is not damaged, by its name,
        written to a path. None where all of it is here.
    """

    names: frozenset[str]
    bring: Callable[[str, Path], None] | None = None


class Found(NamedTuple):
    """A block that was published for the key that a block has now.

    Attributes
    ----------
    block
        Its number now.
    row
        What the ledger of that version knows of it, with the number it had then.
    stage
        The number of its stage then.
    """

    block: int
    row: Row
    stage: int


class Published:
    """A published version, as its ledger tells.

    Its blocks are found by their recipes and keys alone: stages may have other numbers now, and
    blocks another order.

    Parameters
    ----------
    out
        The output.
    ledger
        That of the output, open.
    spoilt
        What is known to be damaged.
    """

    def __init__(self, out: Path, ledger: Ledger, spoilt: Spoilt | None = None) -> None:
        self.out, self.ledger = out, ledger
        spoilt = spoilt or Spoilt(frozenset())
        self._spoilt = frozenset(out / name for name in spoilt.names)
        self._bring = spoilt.bring
        self._written = ledger.path.stat().st_mtime_ns
        self._stages: dict[bytes, list[int]] = defaultdict(list)
        for record in ledger.stages():
            self._stages[record.recipe].append(record.stage)

    @classmethod
    def open(cls, out: Path, spoilt: Spoilt | None = None) -> Published:
        """Open what is published at `out`.

        Raises
        ------
        RefusedError
            When that is not ours, or its ledger is not there, cannot be believed, or belongs to
            another user.
        """
        refuse_without_ledger(out)
        try:
            return cls(out, Ledger.open(out / KNOWN / LEDGER, readonly=True), spoilt)
        except RefusedError:
            raise
        except (LeptonError, OSError) as error:
            raise RefusedError(
                f"{out / KNOWN / LEDGER} says what the result was made from, but cannot be "
                f"believed ({error}); make the result anew with --overwrite"
            ) from error

    def close(self) -> None:
        """Close the ledger."""
        self.ledger.close()

    @property
    def elsewhere(self) -> bool:
        """Whether the chunks are not in `out`, but have to be brought."""
        return self._bring is not None

    def is_spoilt(self, file: Path) -> bool:
        """Tell whether a file of `out` is known to be damaged."""
        return file in self._spoilt

    def has(self, recipe: bytes) -> bool:
        """Tell whether a stage of this recipe was published."""
        return recipe in self._stages

    def blocks(
        self, recipe: bytes, keys: NDArray[np.void], wanted: NDArray[np.bool_]
    ) -> Iterator[Found]:
        """Yield the blocks that were published for the keys they have now.

        Parameters
        ----------
        recipe
            Of their stage.
        keys
            Of all blocks of the stage, by the numbers they have now.
        wanted
            Which of these to look for, ``(blocks,)``.
        """
        for stage in self._stages.get(recipe, ()):
            now = _numbers_now(self.ledger.done(stage), keys)
            for row in self.ledger.rows(stage, skip_damaged=True):
                number = now[row.block]
                if number >= 0 and wanted[number]:
                    yield Found(int(number), row, stage)

    def partial(self, found: Found) -> bytes | None:
        """Return what a block contributed to reductions, packed; None where it did not.

        Raises
        ------
        DamagedError
            When that cannot be read any more.
        """
        if found.row.place is None:
            return None
        journal = Journal(self.out / KNOWN / JOURNAL / f"{found.stage:03d}")
        return journal.partial(found.row.place, found.row.block)

    def holds(self, files: StageFiles, row: Row) -> bool:
        """Tell whether the published files of a block are what was published, see `_is_whole`."""
        units = ((files.file(u), u) for u in row.units if u.target in files.published)
        return all(file is not None and self._is_whole(file, unit) for file, unit in units)

    def link(self, files: StageFiles, new: StageFiles, row: Row) -> bool:
        """Have the published files of a block in another folder, too; tell whether that was done.

        What lies elsewhere is brought when it is needed, and not before; see `bring`.

        Parameters
        ----------
        files, new
            The files of its stage in the output, and in the other folder.

        Raises
        ------
        OSError
            When the system refuses.
        """
        for unit in row.units:
            if unit.target not in files.published:
                continue
            here, there = files.file(unit), new.file(unit)
            if here is None or there is None or not self._is_whole(here, unit):
                return False
            if not self.elsewhere and not _link(here, there) and not _copy(here, there, unit):
                return False
        return True

    def bring(self, files: StageFiles, new: StageFiles, row: Row, targets: Collection[int]) -> None:
        """Bring those of a block's published files that lie elsewhere, lack, and are not damaged.

        Parameters
        ----------
        files, new
            As for `link`.
        targets
            Numbers of the arrays whose files are needed.
        """
        assert self._bring is not None
        for unit in row.units:
            if unit.target in files.published and unit.target in targets:
                here, there = files.file(unit), new.file(unit)
                assert here is not None and there is not None
                if not (here in self._spoilt or there.exists()):
                    self._bring(here.relative_to(self.out).as_posix(), there)

    def _is_whole(self, file: Path, unit: Unit) -> bool:
        """Tell whether a file is what was published, without reading it unless it is suspicious.

        Its size must be the same. It is read and compared if it was written to after the ledger
        was, which comes last. What a disk changes by itself shows in `verify` alone, as does what
        lies elsewhere.
        """
        if file in self._spoilt or self.elsewhere:
            return file not in self._spoilt
        try:
            status = os.lstat(file)
            if not stat.S_ISREG(status.st_mode):
                return False
            if status.st_size != unit.size:
                return False
            if status.st_mtime_ns < self._written:
                return True
            return size_and_crc(file) == (unit.size, unit.crc)
        except OSError:
            return False


def refuse_without_ledger(out: Path) -> None:
    """Raise if `out` is there, and is no result whose ledger says what it was made from.

    Raises
    ------
    RefusedError
        When it is no result of ours, or one without a ledger.
    """
    if out.is_symlink():
        raise RefusedError(
            f"output {out} is a symbolic link, which --update does not follow; name the folder it "
            "leads to"
        )
    if not (out / MARKER).is_file():
        raise RefusedError(
            f"output {out} was not made by lepton_pipe (it has no {MARKER}), so --update does not "
            "touch it; choose another out="
        )
    if not (out / KNOWN / LEDGER).is_file():
        raise RefusedError(
            f"output {out} has no {KNOWN}/{LEDGER}, which says what it was made from, so --update "
            "cannot tell what has changed; make it anew with --overwrite"
        )


def copy_or_link(here: Path, there: Path) -> None:
    """Have a file at another place, too, in place of what is there."""
    if not _link(here, there):
        there.unlink(missing_ok=True)
        shutil.copyfile(here, there)


def _link(here: Path, there: Path) -> bool:
    """Make a hard link, in place of what is there; tell whether the system can.

    Nothing of ours writes into a chunk that is there: each is written aside and renamed.
    """
    try:
        _linked(here, there)
    except OSError as error:
        if error.errno not in _NO_LINKS:
            raise
        return False
    return True


def _linked(here: Path, there: Path) -> None:
    try:
        os.link(here, there, follow_symlinks=False)
    except FileNotFoundError:
        there.parent.mkdir(parents=True, exist_ok=True)
        os.link(here, there, follow_symlinks=False)
    except FileExistsError:
        there.unlink()  # a rename does nothing where both are the same file
        os.link(here, there, follow_symlinks=False)


def _copy(here: Path, there: Path, unit: Unit) -> bool:
    with here.open("rb", buffering=0) as file:
        written = write_whole(there, iter(lambda: file.read(_PIECE), b""))
    if written == (unit.size, unit.crc):
        return True
    there.unlink()
    return False


def _numbers_now(then: Done, keys: NDArray[np.void]) -> NDArray[np.int64]:
    """Return, for each block as it was, the number of the block that has its key now; else -1."""
    if not (len(keys) and len(then.keys)):
        return np.full(len(then.keys), -1, np.int64)
    old, new = _words(then.keys), _words(keys)
    order = np.argsort(new[:, 0], kind="stable")
    at = np.searchsorted(new[order, 0], old[:, 0])
    candidates = order[np.minimum(at, len(new) - 1)]
    same = (new[candidates] == old).all(axis=1) & then.known
    return np.where(same, candidates, -1)


def _words(keys: NDArray[np.void]) -> NDArray[np.uint64]:
    return np.ascontiguousarray(keys).view(np.uint64).reshape(len(keys), -1)
