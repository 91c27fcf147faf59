"""Programs do on rows what sorting does on windows."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from numpy.lib.stride_tricks import sliding_window_view

from lepton_pipe.networks import (
    BOTH,
    COPY,
    LARGER,
    SMALLER,
    build,
    extreme_program,
    median_program,
)

CELLS = hnp.arrays(bool, st.tuples(*[st.integers(1, 4)] * 3)).filter(lambda cells: cells.any())
TILES = st.tuples(st.sampled_from([1, 2, 3, 4]), st.sampled_from([1, 2, 3, 4]))


def followed(program, source):
    """Follow a program on a small array, one row at a time, and hold it to what it promises."""
    width = source.shape[2] - program.window[2] + 1
    slots = np.full((program.slots, width), -1)
    result = np.full((*program.tile, width), -1)
    for (what, low, high), arguments in zip(program.steps, program.arguments, strict=True):
        rows = []
        for from_source, *at in arguments:
            z, y, x = at
            rows.append(source[z, y, x : x + width] if from_source else slots[x].copy())
            assert not (rows[-1] == -1).any(), "a slot is read before it is written"
            if what in (BOTH, SMALLER, LARGER) and not from_source:
                used = {BOTH: {low, high}, SMALLER: {low}, LARGER: {high}}[int(what)]
                assert x not in used, "a step overwrites its argument"
        if what in (BOTH, SMALLER):
            slots[low] = np.minimum(*rows)
        if what in (BOTH, LARGER):
            slots[high] = np.maximum(*rows)
        if what == COPY:
            result[low, high] = rows[0]
    return result


def random_source(program, seed):
    shape = [t + w - 1 for t, w in zip((*program.tile, 20), program.window, strict=True)]
    return np.random.default_rng(seed).integers(0, 30, shape)


@given(CELLS, TILES, st.sampled_from(["median", "smallest", "largest"]), st.integers(0, 99))
@settings(max_examples=150, deadline=None)
def test_a_program_finds_the_rank(cells, tile, what, seed):
    program = build(what, cells, tile)
    source = random_source(program, seed)
    windows = np.sort(sliding_window_view(source, cells.shape)[..., cells], axis=-1)
    rank = {"median": cells.sum() // 2, "smallest": 0, "largest": -1}[what]
    np.testing.assert_array_equal(followed(program, source), windows[..., rank])


@pytest.mark.parametrize(
    ("shape", "most"), [((1, 3, 3), 13), ((1, 5, 5), 45), ((3, 3, 3), 67), ((5, 5, 5), 400)]
)
def test_neighbours_share_work(shape, most):
    program = median_program(np.ones(shape, bool))
    assert len(program.steps) / np.prod(program.tile) < most + 1
    alone = build("median", np.ones(shape, bool), (1, 1))
    assert len(alone.steps) > 1.5 * len(program.steps) / np.prod(program.tile)


def test_programs_are_written_once():
    cells = np.ones((1, 3, 3), bool)
    assert median_program(cells) is median_program(cells.copy())
    smallest = extreme_program(cells, largest=False)
    assert smallest is not extreme_program(cells, largest=True)
