"""Content keys of blocks: equal keys mean that a block was made in the same way of the same.

A key is a digest of the stage's recipe, the block's place and read regions, the stamps of the
input chunks in them, the values it needs, and the keys of the blocks that wrote what else it
reads. So whatever changes a bit of a block changes its key, and those of the blocks after it.
"""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lepton_pipe.geometry import Blocks
from lepton_pipe.ledger.keys_inputs import InputStamps, StampTable
from lepton_pipe.ledger.keys_reads import (
    Box,
    Producer,
    Producers,
    Range,
    Ranges,
    positions,
    producers,
)
from lepton_pipe.ledger.keys_recipe import KEY_BYTES, Target, library_versions, recipe
from lepton_pipe.ledger.keys_values import value_digest
from lepton_pipe.plan import Plan, Stage
from lepton_pipe.spec import PerBlock

__all__ = [
    "KEY_BYTES",
    "BlockKeys",
    "InputStamps",
    "Producers",
    "library_versions",
    "producers",
    "recipe",
    "value_digest",
]

Keys = NDArray[np.void]
"""Keys of the blocks of a stage, ``(blocks,)`` of `KEY_BYTES` each, by block number."""


@dataclass(frozen=True, slots=True)
class _Part:
    """One image that blocks read: what of it, and the stamps or keys that stand for it."""

    step: str
    table: NDArray[np.void]
    box: Callable[[list[Range]], Box]


class BlockKeys:
    """The keys of all blocks of a plan, stage after stage.

    Parameters
    ----------
    stamps
        Of the input images, by the names that the plan was made with.
    copies
        The targets that take over the chunks of an input as they are stored.
    """

    def __init__(self, plan: Plan, stamps: InputStamps, copies: Collection[Target] = ()) -> None:
        self._plan, self._stamps, self._copies = plan, stamps, copies
        self._keys: dict[int, Keys] = {}

    def recipe(self, stage: Stage) -> bytes:
        """Return the recipe of a stage."""
        return recipe(self._plan, stage, self._copies)

    def stage(self, stage: Stage, values: Mapping[str, Any]) -> Keys:
        """Return the keys of the blocks of a stage, and remember them for the stages after it.

        The input chunks that the stage reads are looked at now, those that no stage looked at
        before; about 5 microseconds each for local files, unless these are known by their bytes.

        Parameters
        ----------
        stage
            One for which the keys of all stages that wrote what it reads are known.
        values
            The values that the stage needs, by step id; others are passed over.

        Returns
        -------
        array
            One key for each block, by number: ``keys[i].tobytes()``.
        """
        ranges = Ranges(self._plan.spec, stage)
        parts = [self._part(stage, step, ranges) for step in ranges.steps]
        own = [values[v] for v in stage.values if isinstance(values[v], PerBlock)]
        base = self._base(stage, values)
        digests = _digests(stage.blocks, ranges, parts, base, own)
        keys = np.frombuffer(b"".join(digests), f"V{KEY_BYTES}")
        self._keys[stage.index] = keys
        return keys

    def correct(self, stage: Stage, keys: Mapping[int, bytes]) -> None:
        """Note the keys of blocks, by number, that became something else than was planned."""
        known = self._keys[stage.index].copy()
        for block, key in keys.items():
            known[block] = np.void(key)
        self._keys[stage.index] = known

    def _part(self, stage: Stage, step: str, ranges: Ranges) -> _Part:
        read = next(r for r in stage.reads if r.step == step)
        if read.array is None:
            table: StampTable = self._stamps[step]
            return _Part(step, table.find(table.box(ranges.hull(step))), table.box)
        producer = Producer.of(self._plan, read)
        keys = self._keys[producer.stage.index]
        return _Part(step, _by_place(keys, producer.stage.blocks), producer.box)

    def _base(self, stage: Stage, values: Mapping[str, Any]) -> hashlib.blake2b:
        """Return the state of a digest that all blocks of a stage begin with."""
        state = hashlib.blake2b(self.recipe(stage), digest_size=KEY_BYTES)
        for read in stage.reads:
            state.update(b"array" if read.array else self._stamps[read.step].form)
        for name in stage.values:
            if not isinstance(values[name], PerBlock):
                state.update(value_digest(values[name]))
        return state


def _by_place(keys: Keys, blocks: Blocks) -> NDArray[np.void]:
    """Return the keys of blocks by their places along each axis."""
    order = blocks.order or tuple(range(len(blocks.shape)))
    turned = keys.reshape([blocks.counts[axis] for axis in order])
    return turned.transpose([order.index(axis) for axis in range(len(order))])


def _digests(
    blocks: Blocks,
    ranges: Ranges,
    parts: list[_Part],
    base: hashlib.blake2b,
    own: list[PerBlock],
) -> Iterator[bytes]:
    c_order = Blocks(blocks.shape, blocks.block).index
    for place in positions(blocks):
        state = base.copy()
        numbers = list(place)
        for part in parts:
            wanted = ranges.of(part.step, place)
            state.update(part.table[part.box(wanted)].tobytes())
            for pair in wanted:
                numbers += pair
        state.update(struct.pack(f"<{len(numbers)}q", *numbers))
        for value in own:
            state.update(value_digest(value.part(c_order(place))))
        yield state.digest()
