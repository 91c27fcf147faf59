"""Lay out the arrays of a run, and keep those that an earlier run left as they must be."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from lepton_pipe.ledger.ledger import Ledger
from lepton_pipe.plan import Plan, StoredArray
from lepton_pipe.store.durable import size_and_crc
from lepton_pipe.store.ome import create_image, create_scratch

PLANNED_WITH = "planned with"
"""Fact of a ledger: what the plan was made with, so that the next run makes the same."""
_LAYOUT = "layout of "

Codecs = Mapping[tuple[str, int], Sequence[Any]]


def lay_out(plan: Plan, folder: Path, ledger: Ledger, copies: Codecs) -> None:
    """Make every array of a plan, without voxels, that is not there as it must be.

    Parameters
    ----------
    copies
        Codecs of levels that take over the chunks of an input, by name of array and level.
    """
    for name, array in plan.arrays.items():
        codecs = {level: codecs for (of, level), codecs in copies.items() if of == name}
        digest, path = _digest(array, codecs), folder / name
        if ledger.get_fact(_LAYOUT + name) == [digest, _described(array, path)]:
            continue
        # First forgotten, then removed: a kill in between must not leave half an array believed.
        ledger.set_fact(_LAYOUT + name, None, durable=True)
        shutil.rmtree(path, ignore_errors=True)
        _create(array, path, codecs)
        ledger.set_fact(_LAYOUT + name, [digest, _described(array, path)])


def _described(array: StoredArray, path: Path) -> list[list[int] | None]:
    """Return size and crc32c of the files that describe an array; None for one that is not there.

    After a power cut they may be empty where the ledger has long been told that they were made.
    """
    levels = [path / str(level) for level in range(len(array.levels))] if array.output else []
    files = (folder / "zarr.json" for folder in (path, *levels))
    return [list(size_and_crc(file)) if file.is_file() else None for file in files]


def _create(array: StoredArray, path: Path, codecs: Mapping[int, Sequence[Any]]) -> None:
    if array.output:
        # The folder that it lies in is no part of what it is: that of a variant says the values.
        name = array.name.rpartition("/")[2]
        create_image(path, name, array.type, array.levels, codecs=codecs)
    else:
        path.parent.mkdir(exist_ok=True)
        create_scratch(path, array.type, array.levels[0].chunks)


def _digest(array: StoredArray, codecs: Mapping[int, Sequence[Any]]) -> str:
    facts = {
        "name": array.name,
        "type": array.type.to_json(),
        "output": array.output,
        "levels": [[level.grid.shape, level.chunks, level.shards] for level in array.levels],
        "codecs": {level: [c.to_dict() for c in of] for level, of in codecs.items()},
    }
    text = json.dumps(facts, sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()
