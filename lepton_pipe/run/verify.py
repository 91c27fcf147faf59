"""Compare a published result, byte for byte, with what was written when it was made."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

from lepton_pipe.errors import RefusedError
from lepton_pipe.ledger import KNOWN, LEDGER
from lepton_pipe.ledger.ledger import Ledger
from lepton_pipe.run.expected import Expected, expected_files
from lepton_pipe.run.own_files import OwnFiles, names_in
from lepton_pipe.store.durable import size_and_crc
from lepton_pipe.store.open import MARKER
from lepton_pipe.store.output import Output
from lepton_pipe.store.source import file_stamp

_SHOWN = 20
_AT_ONCE = 1024
_THREADS = 4
# How often a result is looked through that is replaced while that is done.
_TIMES = 3


@dataclass(frozen=True)
class Verified:
    """What was found.

    Attributes
    ----------
    out
        The result.
    files, size
        Files that were compared, and their bytes.
    missing, changed
        Files that are not there, and that hold other bytes; relative to `out`.
    leftover
        Files that a killed writer of ours left. They are part of nothing.
    extra
        Files that lepton_pipe did not write.
    """

    out: Output
    files: int
    size: int
    missing: tuple[str, ...]
    changed: tuple[str, ...]
    leftover: tuple[str, ...]
    extra: tuple[str, ...]

    @property
    def whole(self) -> bool:
        """Whether everything is there as it was published; what is there besides does no harm."""
        return not (self.missing or self.changed)

    def to_json(self) -> dict[str, Any]:
        """Return what was found as plain data."""
        return {
            "out": str(self.out),
            "files": self.files,
            "bytes": self.size,
            "missing": list(self.missing),
            "changed": list(self.changed),
            "leftover": list(self.leftover),
            "extra": list(self.extra),
        }

    def __str__(self) -> str:
        verdict = "whole" if self.whole else "damaged"
        lines = [f"{self.out}: {verdict}; {self.files} files, {self.size} bytes were compared"]
        for word in ("missing", "changed", "leftover", "extra"):
            found = getattr(self, word)
            lines += [f"  {word}: {name}" for name in found[:_SHOWN]]
            if len(found) > _SHOWN:
                lines.append(f"  and {len(found) - _SHOWN} more {word}")
        return "\n".join(lines)


def verify(out: Path) -> Verified:
    """Read every file of a published result, and compare it with the ledger.

    Raises
    ------
    RefusedError
        When there is no result of ours, or it has no ledger.
    DamagedError
        When the ledger itself is damaged.
    """
    ledger_path = out / KNOWN / LEDGER
    if not (out / MARKER).is_file() and not ledger_path.is_file():
        raise RefusedError(f"{out} is no result of lepton_pipe: it has no {MARKER}")
    if not ledger_path.is_file():
        raise RefusedError(
            f"{out} has no {KNOWN}/{LEDGER}, which says what its files must hold: it was made by "
            "an earlier version, or the folder was removed; make the result anew to verify it"
        )
    for _ in range(_TIMES):
        version = file_stamp(ledger_path)
        with Ledger.open(ledger_path, readonly=True, foreign=True) as ledger:
            expected, own = expected_files(ledger), OwnFiles.of_ledger(ledger)
            found = compare(
                out, expected, lambda file: _found(out / file.name), lambda: names_in(out), own
            )
        # A new version may have taken its place meanwhile, and what is there is that one's.
        if file_stamp(ledger_path) == version:
            break
    return found


def compare(
    out: Output,
    expected: Iterator[Expected],
    found: Callable[[Expected], tuple[int, int] | None],
    names: Callable[[], Iterable[str]],
    own: OwnFiles,
    threads: int = _THREADS,
) -> Verified:
    """Compare what is expected with what is there.

    Parameters
    ----------
    found
        Reads a file: its bytes and their crc32c, None where it is missing.
    names
        All that is there, but for what is known of it.
    own
        Tells which of them are ours.
    threads
        How many files are read at the same time.
    """
    missing, changed, known, size = [], [], set(), 0
    with ThreadPoolExecutor(threads) as pool:
        while some := tuple(islice(expected, _AT_ONCE)):
            for file, there in zip(some, pool.map(found, some), strict=True):
                known.add(file.name)
                size += file.size
                if there is None:
                    missing.append(file.name)
                elif there != (file.size, file.crc):
                    changed.append(file.name)
    besides = sorted(name for name in names() if name not in known)
    return Verified(
        out,
        len(known),
        size,
        tuple(sorted(missing)),
        tuple(sorted(changed)),
        tuple(name for name in besides if name in own),
        tuple(name for name in besides if name not in own),
    )


def _found(path: Path) -> tuple[int, int] | None:
    try:
        if path.is_symlink():
            return -1, 0  # nothing of ours is a link: what it leads to is not ours
        return size_and_crc(path)
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError:
        return -1, 0  # it is there, and cannot be read
