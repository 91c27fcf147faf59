"""Turn the blocks of a stage into tasks of a Dask client.

    program  ------------+-----------+----------- ...
                         |           |
                   (name, 0)   (name, 1)  ...  (name, 15)     one task for each block
                         \\          |          /
                        (name-fold, 0)                        partials folded where they are

The program is a task too, sent once: a worker that is lost takes nothing along that cannot be made
again. Blocks so short that they are not worth a task each are sent a group to a task. Keys carry
the pipeline's own words, so the dashboard reads like the pipeline.
"""

from __future__ import annotations

import copy
import pickle
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from functools import reduce
from types import MappingProxyType
from typing import Any

from distributed import Client, Future, get_worker

from lepton_pipe.errors import DeviceLostError
from lepton_pipe.merge.fold import FAN
from lepton_pipe.spec.sent import sent
from lepton_pipe.worker import BlockResult, Combine, Program, run_block
from lepton_pipe.worker.running import leave, noted

Key = str | tuple[str, int] | tuple[str, int, int]
# Folds go before blocks, so that what they fold is let go soon.
_FOLD_PRIORITY = 1
_NONE: Mapping[int, int] = MappingProxyType({})


def _numbered(name: str, number: int, attempt: int) -> Key:
    return (name, number, attempt) if attempt else (name, number)


@dataclass(frozen=True)
class StageGraph:
    """Names and sends the tasks of one stage.

    Parameters
    ----------
    program
        What every block of the stage runs.
    parts
        Gives the block's own parts of values that have one for each block.
    token
        Makes the keys of this run differ from those of any other on the same scheduler.
    """

    name: str
    token: str
    blocks: int
    program: bytes
    parts: Callable[[int], Mapping[str, Any]]

    @classmethod
    def of(
        cls, program: Program, parts: Callable[[int], Mapping[str, Any]], token: str
    ) -> StageGraph:
        """Return the builder for a program; kernels of the user's own files go along as code."""
        stage = program.stage
        name, run = stage.name, f"{token}{stage.index:02d}"
        return cls(name, run, len(stage.blocks), sent(program), parts)

    @property
    def groups(self) -> int:
        """Number of groups of blocks, each `FAN` long but the last."""
        return -(-self.blocks // FAN)

    def program_key(self, attempt: int = 0) -> str:
        """Return the key of the program; each attempt at sending it has its own."""
        return f"program-{self.token}" + (f"-{attempt}" if attempt else "")

    def members(self, group: int) -> range:
        """Return the numbers of the blocks of a group."""
        return range(group * FAN, min(self.blocks, (group + 1) * FAN))

    def block_key(self, index: int, attempt: int = 0) -> Key:
        """Return the key of a block's task; each attempt has its own."""
        return _numbered(f"{self.name}-{self.token}", index, attempt)

    def fold_key(self, group: int, attempt: int = 0) -> Key:
        """Return the key of the task that folds a group."""
        return _numbered(f"fold:{self.name}-{self.token}", group, attempt)

    def whole_key(self, group: int) -> Key:
        """Return the key of the task that runs a whole group and folds it."""
        return (f"{FAN}x:{self.name}-{self.token}", group)

    def send_program(self, client: Client, attempt: int = 0) -> Future[Program]:
        """Send what all tasks need; hold the future as long as tasks are sent."""
        return client.submit(load_program, self.program, key=self.program_key(attempt))

    def send_blocks(
        self,
        client: Client,
        program: Future[Program],
        indices: Sequence[int],
        *,
        attempts: Mapping[int, int] = _NONE,
        workers: Collection[str] = (),
    ) -> list[Future[BlockResult]]:
        """Send a task for each of some blocks.

        Parameters
        ----------
        attempts
            How often those were sent before that are sent once more.
        workers
            Addresses of those that may run them; by default all.
        """
        keys = [self.block_key(i, attempts.get(i, 0)) for i in indices]
        parts = [dict(self.parts(i)) for i in indices]
        return self._send(client, run_one, program, list(indices), parts, keys, workers)

    def send_wholes(
        self, client: Client, program: Future[Program], groups: Sequence[int]
    ) -> list[Future[BlockResult]]:
        """Send a task for each of some groups, which runs its blocks one after the other."""
        keys = [self.whole_key(g) for g in groups]
        parts = [[dict(self.parts(i)) for i in self.members(g)] for g in groups]
        firsts = [self.members(g)[0] for g in groups]
        return self._send(client, run_group, program, firsts, parts, keys)

    def send_fold(
        self,
        client: Client,
        program: Future[Program],
        group: int,
        results: Sequence[Future[BlockResult]],
        attempt: int = 0,
    ) -> Future[BlockResult]:
        """Send the task that folds a group."""
        key = self.fold_key(group, attempt)
        return client.submit(fold_group, program, list(results), key=key, priority=_FOLD_PRIORITY)

    def _send(
        self,
        client: Client,
        run: Callable[..., BlockResult],
        program: Future[Program],
        first: list[int],
        parts: list[Any],
        keys: list[Key],
        workers: Collection[str] = (),
    ) -> list[Future[BlockResult]]:
        # Not "pure": the keys are unique, and nothing need be hashed to find that out. No timeout:
        # what is sent later has a later place in the scheduler's order.
        programs = [program] * len(keys)
        where = sorted(workers) or None
        return client.map(
            run, programs, first, parts, key=keys, pure=False, fifo_timeout="0s", workers=where
        )


def load_program(sent: bytes) -> Program:
    """Unpack the program on a worker; it comes from the driver through the scheduler alone."""
    program: Program = pickle.loads(sent)  # noqa: S301
    return program


def run_one(program: Program, index: int, parts: Mapping[str, Any]) -> BlockResult:
    """Run a block, and note as long as it runs that it does.

    A process that has lost its device leaves: another takes its place, and runs the block again.
    """
    worker = get_worker().address if program.notes else ""
    with noted(program.notes, worker, index):
        try:
            return run_block(program, index, parts)
        except DeviceLostError as error:
            if program.notes is None:
                raise
            leave(program.notes, worker, str(error))


def run_group(program: Program, first: int, parts: Sequence[Mapping[str, Any]]) -> BlockResult:
    """Run a group of blocks, the first of them number `first`, and fold them left to right."""
    results = (run_one(program, first + i, part) for i, part in enumerate(parts))
    return reduce(Combine(program.spec, program.stage.reduces), results)


def fold_group(program: Program, results: list[BlockResult]) -> BlockResult:
    """Fold the results of a group from left to right.

    Folding may change what it folds, and Dask may need the results again: it works on copies.
    """
    return reduce(Combine(program.spec, program.stage.reduces), map(copy.deepcopy, results))
