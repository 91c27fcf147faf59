"""The tasks sent to a scheduler: one for a block, one fold for a group, nothing twice."""

from __future__ import annotations

import pickle
from dataclasses import dataclass

import numpy as np
import pytest

from lepton_pipe.graph import StageGraph
from lepton_pipe.graph.build import fold_group, load_program, run_group, run_one
from lepton_pipe.merge.fold import FAN, TreeFold
from lepton_pipe.plan import InputInfo, Resources, make_plan
from lepton_pipe.worker import Combine, Program, run_block
from tests.run.five import bind, segment


@pytest.fixture(scope="module")
def first():
    """The first stage of a pipeline over 40 blocks, which reduces, with its sources."""
    image = np.random.default_rng(0).integers(0, 255, (40, 30)).astype(np.uint8)
    spec, sources = bind(segment, image)
    inputs = {n: InputInfo(s.type, s.chunks, s.uri) for n, s in sources.items()}
    plan = make_plan(spec, inputs, Resources(2**33, 1, 1), {"y": 5, "x": 6})
    stage = next(s for s in plan.stages if s.reduces and not s.values)
    assert len(stage.blocks) == 40

    class Nowhere:
        def write(self, region, array):
            return []

    return Program(
        spec=plan.spec,
        stage=stage,
        sources={r.step: sources[r.step] for r in stage.reads},
        targets={(w.array, w.level): Nowhere() for w in stage.writes},
        values={},
    )


@pytest.fixture(scope="module")
def graph():
    return StageGraph("name", "run00", 40, b"", lambda index: {"part": index})


@dataclass(frozen=True)
class Sent:
    """What a client was asked to run, in place of a future."""

    key: object
    run: object
    args: tuple
    options: dict


class Recorder:
    """A client that notes what it is sent."""

    def submit(self, run, *args, key, **options):
        return Sent(key, run, args, options)

    def map(self, run, *columns, key, **options):
        return [Sent(k, run, args, options) for k, *args in zip(key, *columns, strict=True)]


def test_every_block_has_one_task_and_every_group_one_fold(graph):
    assert graph.groups == 3
    sent = graph.send_blocks(Recorder(), "program", range(40))
    assert [s.key for s in sent] == [("name-run00", i) for i in range(40)]
    assert [len(graph.members(g)) for g in range(3)] == [FAN, FAN, 8]
    fold = graph.send_fold(Recorder(), "program", 2, sent[32:])
    assert (fold.key, fold.run) == (("fold:name-run00", 2), fold_group)
    assert fold.args == ("program", sent[32:])
    assert fold.options["priority"] > 0  # before the blocks that wait


def test_a_block_is_sent_its_own_part_alone(graph):
    sent = graph.send_blocks(Recorder(), "program", [4, 5])
    assert [s.run for s in sent] == [run_one, run_one]
    assert [s.args for s in sent] == [["program", 4, {"part": 4}], ["program", 5, {"part": 5}]]


def test_a_whole_group_is_one_task_with_the_parts_of_its_blocks(graph):
    first, last = graph.send_wholes(Recorder(), "program", [0, 2])
    assert first.args == ["program", 0, [{"part": i} for i in range(FAN)]]
    assert last.args == ["program", 32, [{"part": i} for i in range(32, 40)]]
    assert first.run is run_group


def test_nothing_is_hashed_and_later_blocks_come_later(graph):
    for sent in graph.send_blocks(Recorder(), "program", [0]):
        assert sent.options == {"pure": False, "fifo_timeout": "0s", "workers": None}


def test_the_program_is_sent_once_and_as_a_task_that_can_run_again(first):
    graph = StageGraph.of(first, lambda _: {}, "aaaa")
    sent = graph.send_program(Recorder())
    assert (sent.key, sent.run) == (graph.program_key(), load_program)
    block = graph.send_blocks(Recorder(), sent, [7])[0]
    assert block.args[0] is sent
    assert len(pickle.dumps(block.args[1:])) < 100


def test_keys_of_two_runs_and_of_two_stages_differ(first):
    def keys(token):
        graph = StageGraph.of(first, lambda _: {}, token)
        return {
            graph.program_key(),
            *(k for i in range(40) for k in (graph.block_key(i),)),
            *(k for g in range(3) for k in (graph.fold_key(g), graph.whole_key(g))),
        }

    assert len(keys("aaaa")) == 1 + 40 + 3 + 3
    assert keys("aaaa").isdisjoint(keys("bbbb"))
    name = StageGraph.of(first, lambda _: {}, "aaaa").name
    assert "astype" in name or "gaussian" in name


def test_a_block_that_is_sent_once_more_has_another_key_and_its_own_workers(graph):
    sent = graph.send_blocks(Recorder(), "program", [4, 5], attempts={5: 2}, workers={"b", "a"})
    assert [s.key for s in sent] == [("name-run00", 4), ("name-run00", 5, 2)]
    assert all(s.options["workers"] == ["a", "b"] for s in sent)
    assert graph.send_fold(Recorder(), "program", 0, sent, 1).key == ("fold:name-run00", 0, 1)
    assert graph.program_key(1) != graph.program_key()


def test_tasks_run_by_hand_give_the_fold_of_the_serial_executor(first):
    graph = StageGraph.of(first, lambda _: {}, "aaaa")
    loaded = pickle.loads(pickle.dumps(graph.send_program(Recorder()).args))  # noqa: S301
    program = load_program(*loaded)
    results = [run_block(program, i, {}) for i in range(40)]
    singly = [fold_group(program, [results[i] for i in graph.members(g)]) for g in range(3)]
    wholes = graph.send_wholes(Recorder(), program, range(3))
    for one, whole in zip(singly, wholes, strict=True):
        assert_same(one.partials, whole.run(*whole.args).partials)
    outer = TreeFold(Combine(program.spec, program.stage.reduces), 3)
    for g in (2, 0, 1):
        outer.add(g, singly[g])
    total = outer.result()
    assert total.stats.blocks == 40
    assert set(total.partials) == set(first.stage.reduces)


def test_folding_a_group_twice_gives_the_same_twice(first):
    results = [run_block(first, i, {}) for i in range(FAN)]
    assert_same(fold_group(first, results).partials, fold_group(first, results).partials)


def assert_same(a, b):
    assert pickle.dumps(a) == pickle.dumps(b)
