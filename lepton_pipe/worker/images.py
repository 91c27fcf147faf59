"""The images that the task of a block holds: how they are read, and how they are written."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

from lepton_pipe.errors import LeptonError, WriteError
from lepton_pipe.geometry import Region
from lepton_pipe.kernels.finite import count_not_finite
from lepton_pipe.ledger.journal import Unit
from lepton_pipe.plan.counted import is_watched
from lepton_pipe.plan.model import Write
from lepton_pipe.plan.regions import region_bytes, written_region
from lepton_pipe.store import copy_block
from lepton_pipe.store.writers import Written
from lepton_pipe.worker.faults import tried
from lepton_pipe.worker.program import BlockResult, Program, Stats


class BlockImages:
    """What the task of a block holds, reads and writes, and what it has measured so far.

    Attributes
    ----------
    held
        Images by their step, each with the region that it covers.
    units
        What was written, as the journal of the stage notes it.
    """

    def __init__(self, program: Program, index: int) -> None:
        self.program = program
        self.spec, self.stage, self.index = program.spec, program.stage, index
        self.block = program.stage.blocks.region(index)
        self.where = f"block {self.block}"
        self.held: dict[str, tuple[Region, Any]] = {}
        self.result = BlockResult()
        self.units: list[Unit] = []

    @contextmanager
    def _timed(self, what: str, core: str = "") -> Iterator[Stats]:
        stats, start, core_start = self.result.stats, time.perf_counter(), time.thread_time()
        try:
            yield stats
        finally:
            setattr(stats, what, time.perf_counter() - start + getattr(stats, what))
            if core:
                setattr(stats, core, time.thread_time() - core_start + getattr(stats, core))

    def _read(self, image: str, region: Region) -> None:
        with self._timed("read_seconds", "read_core_seconds") as stats:
            source = self.program.sources[image]
            copies = [w for w in self.stage.writes if w.step == image and self._is_copy(w)]
            try:
                arrays = [tried(partial(self._copy, source, w, region)) for w in copies]
                array = arrays[0] if arrays else tried(partial(source.read, region))
            except WriteError:  # of a copy: what was to be read is no part of that
                raise
            except LeptonError as error:
                array = self._unread(image, region, error)
            stats.bytes_read += array.nbytes
            self.held[image] = region, array
        for write in copies:
            self._watch(write, region, array)

    def _unread(self, image: str, region: Region, error: LeptonError) -> Any:
        """Return what stands for a region that cannot be read; here, raise where that happened."""
        error.args = (f"{error}\n  {image} {region}, read for {self.where}",)
        raise error

    def _is_copy(self, write: Write) -> bool:
        return (write.array, write.level) in self.program.copies

    def _copy(self, source: Any, write: Write, region: Region) -> Any:
        """Copy the block's chunks as they are stored, and return the voxels of `region`."""
        block = written_region(write, self.block)
        target: Any = self.program.targets[write.array, write.level]
        type_ = self.spec.image_type(write.step)
        self.result.stats.bytes_written += region_bytes(type_, block)
        array, written = copy_block(source, target, block, region)
        self._wrote(write, written)
        return array

    def _wrote(self, write: Write, written: Iterable[Written]) -> None:
        target = self.stage.writes.index(write)
        self.units += (Unit(target, *unit) for unit in written)

    def _watch(self, write: Write, covers: Region, array: Any) -> None:
        """Count what is not finite of what a write stores.

        Parameters
        ----------
        array
            The voxels of `covers`, which holds the region that is written.
        """
        if is_watched(self.spec, write):
            number = self.stage.writes.index(write)
            for part in self._known_parts(write.step, written_region(write, self.block)):
                self.result.count_not_finite(number, count_not_finite(array[part.inside(covers)]))

    def _known_parts(self, step_id: str, region: Region) -> list[Region]:  # noqa: ARG002
        """Return the parts of a region of which something is known: here, all of it."""
        return [region]

    def _write(self, step_id: str) -> None:
        for write in self.stage.writes:
            if write.step != step_id or self._is_copy(write):
                continue
            with self._timed("write_seconds", "write_core_seconds") as stats:
                region = written_region(write, self.block)
                block = self._voxels_of(write, region)
                written = self.program.targets[write.array, write.level].write(region, block)
                self._wrote(write, written)
                stats.bytes_written += block.nbytes
                kept = self.program.kept.get((write.array, write.level))
                if kept is not None:
                    kept.keep(region, block)
            self._watch(write, region, block)

    def _voxels_of(self, write: Write, region: Region) -> Any:
        """Return the voxels of a result that are written, in host memory."""
        covers, array = self.held[write.step]
        return array[region.inside(covers)]
