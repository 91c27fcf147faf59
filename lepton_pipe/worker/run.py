"""Run the task of one block, and note that it is done."""

from __future__ import annotations

import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lepton_pipe.cache import chunks
from lepton_pipe.errors import DamagedError, DeviceMemoryError, LeptonError
from lepton_pipe.ledger.journal import Receipt, append
from lepton_pipe.ledger.packing import NotPlainError, pack
from lepton_pipe.plan.regions import block_regions
from lepton_pipe.store.held import shared as records
from lepton_pipe.worker.block import Task
from lepton_pipe.worker.on_device import task_on_device, without_room
from lepton_pipe.worker.program import CONTENT_KEY, BlockResult, Program
from lepton_pipe.worker.tolerant import TolerantTask


def run_block(program: Program, index: int, parts: Mapping[str, Any]) -> BlockResult:
    """Run the task of block `index`.

    Where the program says to go on past what cannot be read or computed, the result tells what
    it lacks; else that is raised.

    Parameters
    ----------
    parts
        The block's own parts of values that have one for each block.

    Raises
    ------
    KernelError
        When a kernel raised or broke its declaration; names kernel, block and the user's line.
    DamagedError, RunError
        When something cannot be read, or what was computed not be written.
    DeviceMemoryError
        When the GPU has no room for the block, not even for it alone.
    DeviceLostError
        When nothing can be computed on the GPU in this process any more.
    """
    started = time.thread_time()
    chunks.join(program.neighbours)
    records.join(program.neighbours)
    chunks.resize(program.cache_bytes)
    chunks.retain(frozenset(k.uri for k in program.kept.values()))
    if program.held is not None:
        records.retain(program.held)
    values = {**program.values, **parts}
    try:
        task = _run_on_device(program, index, values) if program.device == "gpu" else None
        if task is None:
            kind = Task if program.on_error == "fail" else TolerantTask
            task = kind(program, index, values)
            _run(task)
    except LeptonError as error:
        # What a kernel raised may not survive being pickled; the message holds all of it.
        error.__context__ = None
        if isinstance(error, DamagedError):
            error.block = index
        raise
    result = _ended(task, index, parts)
    result.stats.core_seconds += time.thread_time() - started
    return result


def _run(task: Task) -> None:
    stage = task.program.stage
    if stage.sweep is not None:
        task.sweep()
    else:
        task.run(stage.steps, block_regions(task.program.spec, stage, task.block))


def _run_on_device(program: Program, index: int, values: Mapping[str, Any]) -> Task:
    """Run a block on the GPU; if that has no room, once more by itself, in halves if it can be."""
    tolerates = program.on_error != "fail"
    task = task_on_device(program, index, values, tolerates=tolerates)
    try:
        _run(task)
    except DeviceMemoryError:
        # All that the first attempt holds on the device goes with it.
        task = task_on_device(program, index, values, tolerates=tolerates, alone=True)
    else:
        return task
    try:
        _run(task)
    except DeviceMemoryError as error:
        raise DeviceMemoryError(without_room(task, error)) from None
    return task


def give_up(
    program: Program, index: int, parts: Mapping[str, Any], error: BaseException
) -> BlockResult:
    """Write the fill value wherever block `index` writes, since it cannot be run at all.

    Parameters
    ----------
    error
        Why.
    """
    task = TolerantTask(program, index, {**program.values, **parts})
    task.give_up(error)
    return _ended(task, index, parts)


def _ended(task: Task, index: int, parts: Mapping[str, Any]) -> BlockResult:
    program, lack = task.program, task.result.lack
    task.result.stats.blocks = 1
    if program.held is not None:
        records.ended(program.stage.index, index)
    task.result.stats.count({"decoded": chunks.take(), **records.take()})
    if program.journal is None:
        return task.result
    key = parts[CONTENT_KEY]
    if lack is not None:
        key = lack.keys[index] = lack.marked(key, program.on_error)
    _note(program.journal, index, key, task)
    return task.result


def _note(journal: Path, index: int, key: bytes, task: Task) -> None:
    """Note that a block is done, now that all it wrote is written.

    A partial that is not plain data cannot be stored: the block then counts as done for this run
    alone.
    """
    contributed = task.result.contributed()
    try:
        partial = pack(contributed) if contributed else None
    except NotPlainError:
        partial, key = None, b""
    receipt = Receipt(index, tuple(task.units), partial, key)
    append(journal, receipt, elsewhere=task.program.elsewhere)
