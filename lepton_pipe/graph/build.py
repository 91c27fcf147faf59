"""Turn groups of blocks into Dask graphs: one task for each block, one that folds the group.

    program  ------------+-----------+----------- ...
                         |           |
                   (name, 0)   (name, 1)  ...  (name, 15)     one task for each block
                         \\          |          /
                        (name-fold, 0)                        partials folded where they are

Keys carry the pipeline's own words, so the dashboard reads like the pipeline.
"""

from __future__ import annotations

import copy
import pickle
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import reduce
from typing import Any

import cloudpickle

from lepton_pipe.merge.fold import FAN
from lepton_pipe.worker import BlockResult, Combine, Program, run_block

Key = str | tuple[str, int]
Graph = dict[Key, tuple[Any, ...]]


@dataclass(frozen=True)
class StageGraph:
    """Builds the graphs of one stage.

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
        sent = cloudpickle.dumps(program)
        return cls(stage.name, f"{token}{stage.index:02d}", len(stage.blocks), sent, parts)

    @property
    def groups(self) -> int:
        """Number of groups of blocks, each `FAN` long but the last."""
        return -(-self.blocks // FAN)

    @property
    def program_key(self) -> str:
        """Key of the program."""
        return f"program-{self.token}"

    def members(self, group: int) -> range:
        """Return the numbers of the blocks of a group."""
        return range(group * FAN, min(self.blocks, (group + 1) * FAN))

    def block_key(self, index: int) -> Key:
        """Return the key of a block's task."""
        return (f"{self.name}-{self.token}", index)

    def fold_key(self, group: int) -> Key:
        """Return the key of the task that folds a group."""
        return (f"fold:{self.name}-{self.token}", group)

    def graph(self, indices: Sequence[int], earlier: Mapping[Key, Any]) -> Graph:
        """Return the tasks of some blocks, and the fold of each group whose last block is there.

        Blocks of such a group that were sent before are in `earlier`, as futures.
        """
        tasks: Graph = {self.program_key: (load_program, self.program)}
        for index in indices:
            parts = dict(self.parts(index))
            tasks[self.block_key(index)] = (run_block, self.program_key, index, parts)
        for group in self.folds(indices):
            keys = [self.block_key(index) for index in self.members(group)]
            members = [key if key in tasks else earlier[key] for key in keys]
            tasks[self.fold_key(group)] = (fold_group, self.program_key, members)
        return tasks

    def folds(self, indices: Sequence[int]) -> list[int]:
        """Return the groups whose last block is among `indices`."""
        return [i // FAN for i in indices if i == self.members(i // FAN)[-1]]


def load_program(sent: bytes) -> Program:
    """Unpack the program on a worker; it comes from the driver through the scheduler alone."""
    program: Program = pickle.loads(sent)  # noqa: S301
    return program


def fold_group(program: Program, results: list[BlockResult]) -> BlockResult:
    """Fold the results of a group from left to right.

    Folding may change what it folds, and Dask may need the results again: it works on copies.
    """
    results = copy.deepcopy(results)
    return reduce(Combine(program.spec, program.stage.reduces), results)
