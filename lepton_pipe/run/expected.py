"""The files of a result, as its ledger tells them: names, bytes and checksums."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import chain
from pathlib import Path
from typing import NamedTuple

from lepton_pipe.ledger.ledger import Ledger
from lepton_pipe.run.books import ARRAYS
from lepton_pipe.run.units import ArrayFiles


class Expected(NamedTuple):
    """A file of a result, by its name relative to it, with its size in bytes and its sum."""

    name: str
    size: int
    crc: int


def expected_files(ledger: Ledger) -> Iterator[Expected]:
    """Yield every file of a result but those of the ledger itself: first all that are no chunks."""
    return chain(expected_others(ledger), expected_chunks(ledger))


def expected_others(ledger: Ledger) -> Iterator[Expected]:
    """Yield metadata, tables, values and the record."""
    for name, (size, crc) in ledger.files().items():
        yield Expected(name, size, crc)


def expected_chunks(ledger: Ledger) -> Iterator[Expected]:
    """Yield the chunks and shards of all images."""
    arrays = ledger.get_fact(ARRAYS, {})
    for stage in ledger.stages():
        files = [
            None if path is None else ArrayFiles(Path(path), tuple(counts))
            for path, counts in arrays[str(stage.stage)]
        ]
        for row in ledger.rows(stage.stage):
            for unit in row.units:
                array = files[unit.target]
                if array is not None:
                    yield Expected(array.file(unit.unit).as_posix(), unit.size, unit.crc)
