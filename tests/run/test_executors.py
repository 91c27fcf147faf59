"""Blocks that are done are not run again, and take part in the fold at their place."""

from __future__ import annotations

import operator
from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import lepton_pipe as lp
from lepton_pipe.errors import KernelError
from lepton_pipe.plan import InputInfo, Resources, make_plan
from lepton_pipe.run.executors import SerialExecutor, ThreadExecutor, Work
from lepton_pipe.run.on_dask import DaskExecutor
from lepton_pipe.store import open_source
from lepton_pipe.worker import BlockResult, Program


def _start(place):
    return place.write.start[-1]


@lp.kernel(combine=operator.add, scratch=0.0)
def places(block, place):
    """Return where blocks start: a fold that shows order, and whether any is missing."""
    return [_start(place)]


@lp.kernel(combine=operator.add, scratch=0.0)
def places_but_some(block, place):
    """Return where blocks start; fail in every seventh."""
    if _start(place) % 7 == 3:
        raise ArithmeticError(f"no result at {_start(place)}")
    return [_start(place)]


@lp.pipeline
def where_it_can(raw: lp.Image):
    """List the blocks that can be computed."""
    return places_but_some(raw)


@lp.pipeline
def where(raw: lp.Image):
    """List the blocks."""
    return places(raw)


class Known:
    """Blocks that are done, and how often the result of each was asked for."""

    def __init__(self, done):
        self.done, self.asked = done, Counter()

    def __contains__(self, index):
        return index in self.done

    def result(self, index):
        self.asked[index] += 1
        return BlockResult({"places": [f"known {index}"]})


def work(blocks: int, done, pipeline=where) -> Work:
    source = open_source(np.zeros((1, blocks), np.uint8))
    spec = pipeline.bind({"raw": source.type}, {})
    inputs = {"raw": InputInfo(source.type, source.chunks, source.uri)}
    plan = make_plan(spec, inputs, Resources(2**33, 0, 2), {"y": 1, "x": 1})
    (stage,) = plan.stages
    program = Program(plan.spec, replace(stage, slots=2), {"raw": source}, {}, {})
    ticks: list[int] = []
    made = Work(program, lambda index: {}, lambda: ticks.append(1), Known(done))
    made.__dict__["ticks"] = ticks
    return made


def check(executor, blocks, done):
    todo = work(blocks, done)
    result = executor.run(todo)
    expected = [f"known {i}" if i in done else i for i in range(blocks)]
    assert result.partials["places"] == expected
    assert result.stats.blocks == blocks - len(done)
    assert len(todo.__dict__["ticks"]) == blocks - len(done)
    assert todo.done.asked == Counter(done)


some = st.integers(1, 70).flatmap(
    lambda n: st.tuples(st.just(n), st.frozensets(st.integers(0, n - 1)))
)


@pytest.mark.parametrize(
    "executor", [SerialExecutor(), ThreadExecutor()], ids=["serial", "threads"]
)
@given(case=some)
def test_done_blocks_are_not_run(executor, case):
    check(executor, *case)


DONE = {
    "none": (70, range(0)),
    "all": (70, range(70)),
    "the first": (70, range(50)),
    "the last": (70, range(30, 70)),
    "every other": (70, range(0, 70, 2)),
    "whole groups": (70, [*range(16, 32), *range(64, 70)]),
    "all but one": (33, [i for i in range(33) if i != 20]),
    "many": (3000, [i for i in range(3000) if i % 700]),
}


@pytest.mark.parametrize("case", DONE)
def test_done_blocks_are_not_run_on_dask(case, cluster):
    blocks, done = DONE[case]
    check(DaskExecutor(cluster, 2, f"t{abs(hash(case))}"), blocks, frozenset(done))


def stands_in(index, error):
    assert f"no result at {index}" in str(error), error
    return BlockResult({"places_but_some": [f"instead of {index}"]})


def check_failed(executor, blocks, done):
    todo = replace(work(blocks, done, where_it_can), failed=stands_in)
    todo = replace(todo, done=_KnownToo(done))
    result = executor.run(todo)
    expected = [
        f"known {i}" if i in done else f"instead of {i}" if i % 7 == 3 else i for i in range(blocks)
    ]
    assert result.partials["places_but_some"] == expected


class _KnownToo(Known):
    def result(self, index):
        return BlockResult({"places_but_some": super().result(index).partials["places"]})


EXECUTORS = {"serial": SerialExecutor, "threads": ThreadExecutor}


@pytest.mark.parametrize("executor", EXECUTORS)
def test_what_is_given_in_place_of_blocks_that_failed_takes_part_in_the_fold(executor):
    check_failed(EXECUTORS[executor](), 70, frozenset({0, 3, 20}))


@pytest.mark.parametrize("done", [frozenset(), frozenset({0, 3, 20, *range(32, 48)})])
def test_what_is_given_in_place_of_blocks_takes_part_in_the_fold_on_dask(done, cluster):
    check_failed(DaskExecutor(cluster, 2, f"f{len(done)}"), 70, done)


@pytest.mark.parametrize("executor", EXECUTORS)
def test_by_default_a_block_that_fails_ends_the_stage(executor):
    with pytest.raises(KernelError, match="no result at 3"):
        EXECUTORS[executor]().run(work(70, frozenset(), where_it_can))
