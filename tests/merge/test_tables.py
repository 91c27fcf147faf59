from __future__ import annotations

import functools
import tracemalloc

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from lepton_pipe.merge import tables


def table(labels, values):
    """A table of single voxels."""
    values = np.asarray(values, float)
    return {
        "label": np.asarray(labels, np.int64),
        "count": np.ones(len(labels), np.int64),
        "total:value": values,
        "rest:value": np.full(len(labels), 2.0**-60),
        "min:value": values,
        "max:value": values,
        "value.0": (values * 2**31).astype(np.int64),
        "value.1": np.zeros(len(labels), np.int64),
    }


@given(
    st.lists(st.lists(st.tuples(st.integers(1, 9), st.integers(0, 100))), min_size=1, max_size=9)
)
@settings(max_examples=100, deadline=None)
def test_fold_equals_statistics_of_all_rows(parts):
    pile = [tables.group(table([k for k, _ in p], [v for _, v in p])) for p in parts]
    result = tables.fold(pile)
    rows = [row for p in parts for row in p]
    labels = sorted({k for k, _ in rows})
    assert result["label"].tolist() == labels
    for i, label in enumerate(labels):
        values = np.array([v for k, v in rows if k == label], float)
        assert result["count"][i] == values.size
        assert result["total:value"][i] == values.sum()
        assert result["rest:value"][i] == values.size * 2.0**-60
        assert result["min:value"][i] == values.min()
        assert result["max:value"][i] == values.max()
        limbs = [int(result[f"value.{j}"][i]) for j in (0, 1)]
        assert limbs[0] + (limbs[1] << 32) == int(values.sum()) * 2**31
        assert len(pile) == 1 or 0 <= limbs[0] < 2**32


def test_piles_keep_their_work_small(monkeypatch):
    moved = []
    plain = tables.fold
    monkeypatch.setattr(
        tables, "fold", lambda pile: moved.append(sum(t["label"].size for t in pile)) or plain(pile)
    )
    n, rows = 2000, 50
    parts = [[table(np.arange(i * rows, (i + 1) * rows), np.ones(rows))] for i in range(n)]
    pile = functools.reduce(tables.pile_up, parts)
    total = n * rows
    assert tables.fold(pile)["label"].tolist() == list(range(total))
    assert sum(moved) < 6 * total


def test_a_fold_takes_its_tables_instead_of_copying_them():
    rows, parts = 20_000, 3
    tracemalloc.start()
    try:
        columns = ("label", *(f"value{i}" for i in range(20)))
        pile = [{n: np.arange(i, i + rows) for n in columns} for i in range(parts)]
        before, _ = tracemalloc.get_traced_memory()
        tables.fold(pile)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 1.3 * before  # a few columns, not a second table
