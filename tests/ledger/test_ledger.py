"""What a ledger holds, and what of it survives a power cut."""

from __future__ import annotations

import itertools
import json
import random
import shutil
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from lepton_pipe.ledger.journal import Place, Unit
from lepton_pipe.ledger.ledger import Counts, Ledger, Quarantined, Row, StageRecord
from tests.ledger.ledgers import key, keys_of, row

ROOT = Path(__file__).parents[2]
PLACES = st.builds(Place, st.sampled_from(["a.log", "b.log"]), st.integers(0, 2**60), st.just(99))
UNITS = st.builds(
    Unit, st.just(3), st.integers(0, 2**63), st.integers(0, 2**40), st.just(2**32 - 1)
)
ROWS = st.builds(
    Row,
    st.integers(0, 30),
    st.binary(min_size=16, max_size=16),
    st.lists(UNITS, max_size=3).map(tuple),
    st.none() | PLACES,
    st.integers(1, 5),
    st.just(False),
)


# -- what is stored -------------------------------------------------------------------------


def test_facts_come_back(ledger, path):
    facts = {"plan": {"b": [1, None, 2.5], "a": "é"}, "state": "running", "holder": []}
    for name, value in facts.items():
        ledger.set_fact(name, value)
    ledger.set_fact("state", "done", durable=True)
    assert ledger.facts() == {**facts, "state": "done"}
    assert ledger.get_fact("plan") == facts["plan"]
    assert ledger.get_fact("other") is None
    assert ledger.get_fact("other", 3) == 3
    with pytest.raises(ValueError, match="JSON"):
        ledger.set_fact("bad", float("nan"))


def test_rows_come_back_in_the_order_of_blocks(ledger):
    rows = [row(b) for b in (7, 3, 99, 0)]
    ledger.record(0, rows)
    assert list(ledger.rows(0)) == sorted(rows)
    assert list(ledger.rows(0, [99, 4, 3])) == [row(99), row(3)]
    assert list(ledger.rows(0, np.array([7]))) == [row(7)]
    assert ledger.counts(0) == Counts(4, 0)


def test_a_row_takes_the_place_of_one_of_the_same_block(ledger):
    ledger.record(0, [row(1), row(2)])
    ledger.record(0, [Row(1, key(9), (), None, 3)])
    assert list(ledger.rows(0)) == [Row(1, key(9), (), None, 3), row(2)]


def test_rows_of_stages_are_apart(ledger):
    ledger.begin_stage(1, "label", 5, b"")
    ledger.record(0, [row(1)])
    ledger.record(1, [row(2)])
    assert [list(ledger.rows(s)) for s in (0, 1)] == [[row(1)], [row(2)]]
    assert ledger.stages() == [
        StageRecord(0, "smooth", 100, b"recipe"),
        StageRecord(1, "label", 5, b""),
    ]


def test_a_stage_of_fewer_blocks_drops_the_rows_beyond(ledger):
    ledger.record(0, [row(1), row(50)])
    ledger.begin_stage(0, "smooth", 50, b"other")
    assert list(ledger.rows(0)) == [row(1)]
    assert ledger.done(0).known.size == 50


@pytest.mark.parametrize("bad", [row(100), row(1)._replace(block=-1), row(1)._replace(key=b"k")])
def test_rows_that_cannot_be_are_refused_with_all_of_their_batch(ledger, bad):
    with pytest.raises(ValueError, match="block"):
        ledger.record(0, [row(2), bad])
    assert list(ledger.rows(0)) == []


def test_a_stage_that_was_not_begun_is_refused(ledger):
    with pytest.raises(ValueError, match="stage 7"):
        ledger.record(7, [row(1)])
    with pytest.raises(ValueError, match="stage 7"):
        ledger.done(7)


def test_what_is_done_is_known_by_key(ledger):
    rows = [row(b) for b in range(0, 100, 7)]
    ledger.record(0, rows[:5])
    ledger.mark_durable()
    ledger.record(0, rows[5:])
    done = ledger.done(0)
    assert np.flatnonzero(done.known).tolist() == [r.block for r in rows]
    assert np.flatnonzero(done.durable).tolist() == [r.block for r in rows[:5]]
    keys = keys_of(rows, 100)
    assert done.keys.tobytes() == keys.tobytes()
    assert np.array_equal(done.same(keys), done.known)
    keys[14] = np.void(key(1, 1))
    keys[15] = np.void(bytes(16))
    assert np.flatnonzero(done.same(keys) != done.known).tolist() == [14]


@pytest.mark.parametrize("missing", [[], [0], [9_999], [4095, 4096], list(range(4000, 9000))])
def test_ranges_of_which_all_is_done_are_known_like_others(path, missing):
    rows = [Row(b, key(b)) for b in range(10_000) if b not in missing]
    random.Random(0).shuffle(rows)  # noqa: S311
    with Ledger.open(path) as ledger:
        ledger.begin_stage(0, "a", 10_000, b"")
        ledger.record(0, rows[:9000])
        ledger.mark_durable()
        ledger.record(0, rows[9000:])
        for durable in ({r.block for r in rows[:9000]}, {r.block for r in rows}):
            done = ledger.done(0)
            assert done.keys.tobytes() == keys_of(rows, 10_000).tobytes()
            assert np.flatnonzero(~done.known).tolist() == missing
            assert set(np.flatnonzero(done.durable)) == durable
            ledger.mark_durable()


def test_a_stage_of_which_nothing_is_done_is_empty(ledger):
    done = ledger.done(0)
    assert not done.known.any() and not done.durable.any() and done.keys.shape == (100,)


def test_how_far_a_journal_was_read_is_stored_with_its_rows(ledger):
    assert ledger.journal_read(0) == {}
    ledger.record(0, [row(1)], {"a.log": 10, "b.log": 0})
    ledger.record(0, [row(2)._replace(place=Place("c.log", 5, 6))], {"a.log": 30})
    assert ledger.journal_read(0) == {"a.log": 30, "b.log": 0, "c.log": 0}
    ledger.begin_stage(1, "other", 3, b"")
    ledger.record(1, [row(1)], {"a.log": 7})
    assert ledger.journal_read(0)["a.log"] == 30
    assert ledger.journal_read(1) == {"a.log": 7}
    assert [r.place for r in ledger.rows(0)] == [Place("a.log", 10, 10), Place("c.log", 5, 6)]


def test_what_is_forgotten_is_gone(ledger):
    ledger.record(0, [row(b) for b in range(10)])
    ledger.quarantine(0, 3, {"error": "x"})
    ledger.quarantine(0, 4, {"error": "y"})
    ledger.forget(0, iter([3, 5]))
    assert [r.block for r in ledger.rows(0)] == [0, 1, 2, 4, 6, 7, 8, 9]
    assert [q.block for q in ledger.quarantined()] == [4]
    ledger.forget(0)
    assert list(ledger.rows(0)) == []
    assert ledger.quarantined() == []


def test_a_block_that_is_done_after_all_is_not_given_up(ledger):
    report = {"path": "a.tif", "error": "cut off", "region": [[0, 1]]}
    ledger.quarantine(0, 3, report)
    ledger.quarantine(0, 1, report)
    assert ledger.quarantined() == [Quarantined(0, 1, report), Quarantined(0, 3, report)]
    ledger.record(0, [row(2), row(3)])
    assert [q.block for q in ledger.quarantined()] == [1]


def test_files_that_are_no_chunks_are_noted(ledger):
    ledger.set_file("zarr.json", 10, 2**32 - 1)
    ledger.set_file("nuclei.parquet", 5, 6)
    ledger.set_file("zarr.json", 11, 3)
    assert ledger.files() == {"nuclei.parquet": (5, 6), "zarr.json": (11, 3)}


# -- recorded and durable -------------------------------------------------------------------


def test_rows_recorded_while_files_are_synced_are_not_durable(ledger):
    ledger.record(0, [row(1)])
    before = ledger.cut()
    ledger.record(0, [row(2)])
    ledger.mark_durable(before)
    assert [r.durable for r in ledger.rows(0)] == [True, False]
    ledger.mark_durable(before - 1)
    assert ledger.counts(0) == Counts(2, 1)
    ledger.mark_durable()
    assert ledger.counts(0) == Counts(2, 2)


def test_a_row_that_is_recorded_again_is_not_durable(ledger):
    ledger.record(0, [row(1)])
    ledger.mark_durable()
    ledger.record(0, [row(1)])
    assert [r.durable for r in ledger.rows(0)] == [False]


def test_rows_of_a_later_run_are_not_durable_by_the_mark_of_an_earlier_one(path):
    with Ledger.open(path) as first:
        first.begin_stage(0, "a", 10, b"")
        first.record(0, [row(1)])
        first.mark_durable()
        first.record(0, [row(2)])
    with Ledger.open(path) as second:
        second.record(0, [row(3)])
        assert [r.durable for r in second.rows(0)] == [True, False, False]


def _commits(ledger: Ledger, act: Callable[[], Any]) -> list[str]:
    """Return how each transaction of `act` is committed."""
    seen: list[str] = []
    ledger._tables._connection.set_trace_callback(seen.append)
    act()
    ledger._tables._connection.set_trace_callback(None)
    modes = [s.rpartition("=")[2] for s in seen if s.startswith(("PRAGMA sync", "COMMIT"))]
    return [mode for mode, end in itertools.pairwise(modes) if end == "COMMIT"]


def test_marks_are_synced_and_rows_are_not(ledger):
    assert _commits(ledger, lambda: ledger.record(0, [row(1)])) == ["NORMAL"]
    assert _commits(ledger, lambda: ledger.mark_durable(0)) == ["FULL"]
    assert _commits(ledger, lambda: ledger.forget(0, [1])) == ["FULL"]
    assert _commits(ledger, lambda: ledger.set_fact("a", 1)) == ["NORMAL"]
    assert _commits(ledger, lambda: ledger.set_fact("a", 1, durable=True)) == ["FULL"]


class Model(RuleBasedStateMachine):
    """Any order of recording, marking, forgetting and opening again, against a dict."""

    def __init__(self) -> None:
        super().__init__()
        self.folder = Path(tempfile.mkdtemp())
        self.ledger = self.open()
        self.ledger.begin_stage(2, "stage", 31, b"r")
        self.rows: dict[int, Row] = {}

    def open(self) -> Ledger:
        return Ledger.open(self.folder / "ledger.sqlite")

    @rule(rows=st.lists(ROWS, max_size=6))
    def record(self, rows):
        self.ledger.record(2, rows)
        self.rows |= {r.block: r for r in rows}

    @rule()
    def mark(self):
        self.ledger.mark_durable()
        self.rows = {b: r._replace(durable=True) for b, r in self.rows.items()}

    @rule(rows=st.lists(ROWS, max_size=3))
    def mark_what_came_before(self, rows):
        before = self.ledger.cut()
        durable = {b: r._replace(durable=True) for b, r in self.rows.items()}
        self.ledger.record(2, rows)
        self.ledger.mark_durable(before)
        self.rows = durable | {r.block: r for r in rows}

    @rule(blocks=st.lists(st.integers(0, 30), max_size=4))
    def forget(self, blocks):
        self.ledger.forget(2, blocks)
        self.rows = {b: r for b, r in self.rows.items() if b not in blocks}

    @rule()
    def close_and_open(self):
        self.ledger.close()
        self.ledger = self.open()

    @rule()
    def crash_and_open(self):
        other = Path(tempfile.mkdtemp())
        for file in self.folder.iterdir():  # as a kill would leave it
            shutil.copy(file, other)
        self.ledger.close()
        shutil.rmtree(self.folder)
        self.folder = other
        self.ledger = self.open()

    @invariant()
    def knows_what_the_model_knows(self):
        assert {r.block: r for r in self.ledger.rows(2)} == self.rows
        done = self.ledger.done(2)
        assert set(np.flatnonzero(done.known)) == self.rows.keys()
        assert done.same(keys_of(list(self.rows.values()), 31)).sum() == len(self.rows)
        durables = {b for b, r in self.rows.items() if r.durable}
        assert set(np.flatnonzero(done.durable)) == durables

    def teardown(self):
        self.ledger.close()
        shutil.rmtree(self.folder)


TestModel = Model.TestCase
TestModel.settings = settings(max_examples=15, stateful_step_count=10, deadline=None)


def test_the_rows_of_a_batch_are_all_there_or_none(ledger):
    def rows() -> Iterator[Row]:
        yield row(1)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        ledger.record(0, rows())
    ledger.record(0, [row(2)])
    assert list(ledger.rows(0)) == [row(2)]


def test_json_is_stored_alike_whatever_its_order(ledger):
    ledger.set_fact("a", {"x": 1, "y": 2})
    first = ledger._tables.fetch("SELECT * FROM facts")
    ledger.set_fact("a", json.loads('{"y": 2, "x": 1}'))
    assert ledger._tables.fetch("SELECT * FROM facts") == first
