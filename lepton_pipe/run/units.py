"""The files that the blocks of a stage write, and whether they are still what was written."""

from __future__ import annotations

import os
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from lepton_pipe.geometry import Layout
from lepton_pipe.ledger.journal import Unit
from lepton_pipe.plan import Plan, Stage, StoredArray
from lepton_pipe.store.durable import size_and_crc


def array_path(folder: Path, array: StoredArray, level: int) -> Path:
    """Return where a scale level lies in the folder of a run; scratch has no levels."""
    return folder / array.name / str(level) if array.output else folder / array.name


@dataclass(frozen=True)
class ArrayFiles:
    """The units of one array: zarr v3 with the usual keys, as all arrays of ours are."""

    path: Path
    counts: tuple[int, ...]

    @classmethod
    def of(cls, path: Path, layout: Layout) -> ArrayFiles:
        """Return the files of an array of a layout."""
        shape = zip(layout.grid.shape, layout.unit, strict=True)
        return cls(path, tuple(-(-n // u) for n, u in shape))

    def file(self, unit: int) -> Path:
        """Return the file of a unit, by its number in C order."""
        position = np.unravel_index(unit, self.counts)
        return self.path.joinpath("c", *(str(i) for i in position))

    def __len__(self) -> int:
        return int(np.prod(self.counts))


@dataclass(frozen=True)
class StageFiles:
    """The files of a stage, by the number of the array among its writes.

    Attributes
    ----------
    published
        Numbers of the arrays that are published; the others are scratch.
    held
        Numbers of those that are kept in memory.
    """

    targets: tuple[ArrayFiles, ...]
    published: tuple[int, ...]
    held: tuple[int, ...] = ()

    @classmethod
    def of(cls, folder: Path, plan: Plan, stage: Stage) -> StageFiles:
        """Return the files that a stage writes in the folder of a run."""
        arrays = [(plan.arrays[w.array], w.level) for w in stage.writes]
        targets = tuple(
            ArrayFiles.of(array_path(folder, array, level), array.levels[level])
            for array, level in arrays
        )
        return cls(
            targets,
            tuple(i for i, (array, _) in enumerate(arrays) if array.output),
            tuple(i for i, (array, _) in enumerate(arrays) if array.place != "disk"),
        )

    def hold(
        self,
        units: Iterable[Unit],
        targets: Collection[int],
        *,
        whole: bool,
        held: Mapping[str, tuple[int, int]] | None = None,
    ) -> bool:
        """Tell whether those of a block's files are there that lie in some arrays.

        Parameters
        ----------
        targets
            Numbers of the arrays.
        whole
            Read them too, and compare their bytes by the checksum; else the size is enough.
        held
            Size and sum of files that are kept in memory instead, see `names`.
        """
        kept = held or {}
        return all(self._holds(unit, kept, whole=whole) for unit in units if unit.target in targets)

    def names(self, units: Iterable[Unit]) -> list[str]:
        """Return the absolute paths of those of a block's files that may be kept in memory."""
        files = (self.file(unit) for unit in units if unit.target in self.held)
        return [str(file.absolute()) for file in files if file is not None]

    def remove_scratch(self, units: Iterable[Unit]) -> None:
        """Remove those of a block's files that are not published."""
        for unit in units:
            file = self.file(unit)
            if file is not None and unit.target not in self.published:
                file.unlink(missing_ok=True)

    def file(self, unit: Unit) -> Path | None:
        """Return the file of a unit; None where the stage has none such."""
        if unit.target >= len(self.targets) or unit.unit >= len(self.targets[unit.target]):
            return None
        return self.targets[unit.target].file(unit.unit)

    def _holds(self, unit: Unit, held: Mapping[str, tuple[int, int]], *, whole: bool) -> bool:
        file = self.file(unit)
        if file is None:
            return False
        if unit.target in self.held and (found := held.get(str(file.absolute()))) is not None:
            return found == (unit.size, unit.crc)
        try:
            if whole:
                return size_and_crc(file) == (unit.size, unit.crc)
            return os.stat(file).st_size == unit.size  # noqa: PTH116  a third of Path.stat's time
        except OSError:
            return False
