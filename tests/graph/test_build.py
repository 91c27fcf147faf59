"""The graphs sent to a scheduler: one task a block, one fold a group, nothing twice."""

from __future__ import annotations

import pickle

import numpy as np
import pytest

from lepton_pipe.graph import StageGraph
from lepton_pipe.graph.build import fold_group, load_program
from lepton_pipe.merge.fold import FAN, TreeFold
from lepton_pipe.plan import InputInfo, Resources, make_plan
from lepton_pipe.worker import Combine, Program
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
            pass

    return Program(
        spec=plan.spec,
        stage=stage,
        sources={r.step: sources[r.step] for r in stage.reads},
        targets={(w.array, w.level): Nowhere() for w in stage.writes},
        values={},
    )


@pytest.fixture(scope="module")
def graph(first):
    return StageGraph("name", "run00", 40, b"", lambda index: {"part": index})


def test_every_block_has_one_task_and_every_group_one_fold(graph):
    assert graph.groups == 3
    tasks = graph.graph(range(40), {})
    blocks = [k for k in tasks if k[0] == "name-run00"]
    folds = [k for k in tasks if k[0] == "fold:name-run00"]
    assert len(tasks) == 1 + 40 + 3
    assert sorted(index for _, index in blocks) == list(range(40))
    assert sorted(group for _, group in folds) == [0, 1, 2]
    assert [len(graph.members(g)) for g in range(3)] == [FAN, FAN, 8]


@pytest.mark.parametrize("at_once", [1, 3, 16, 17, 39])
def test_sent_in_portions_every_fold_sees_all_blocks_of_its_group(graph, at_once):
    earlier, folded = {}, {}
    for start in range(0, 40, at_once):
        indices = range(start, min(40, start + at_once))
        for key, task in graph.graph(indices, earlier).items():
            if key[0].startswith("fold:"):
                folded[key[1]] = task[2]
        earlier |= {graph.block_key(i): f"future {i}" for i in indices}
    assert sorted(folded) == [0, 1, 2]
    for group, members in folded.items():
        for index, member in zip(graph.members(group), members, strict=True):
            assert member in (graph.block_key(index), f"future {index}")


def test_a_block_is_sent_its_own_part_alone(graph):
    tasks = graph.graph([4, 5], {})
    assert tasks[graph.block_key(4)][2:] == (4, {"part": 4})
    assert tasks[graph.block_key(5)][2:] == (5, {"part": 5})


def test_keys_of_two_runs_and_of_two_stages_differ(first):
    a = StageGraph.of(first, lambda _: {}, "aaaa")
    b = StageGraph.of(first, lambda _: {}, "bbbb")
    keys = set(a.graph(range(40), {}))
    assert keys.isdisjoint(b.graph(range(40), {}))
    assert "astype" in a.name or "gaussian" in a.name


def test_tasks_run_by_hand_give_the_fold_of_the_serial_executor(first):
    graph = StageGraph.of(first, lambda _: {}, "aaaa")
    tasks = graph.graph(range(40), {})
    sent = pickle.loads(pickle.dumps(tasks[graph.program_key]))  # noqa: S301
    program = sent[0](sent[1])
    assert sent[0] is load_program
    results = {}
    for i in range(40):
        run, _, index, parts = tasks[graph.block_key(i)]
        results[i] = run(program, index, parts)
    folds = [fold_group(program, [results[i] for i in graph.members(g)]) for g in range(3)]
    outer = TreeFold(Combine(program.spec, program.stage.reduces), 3)
    for g in (2, 0, 1):
        outer.add(g, folds[g])
    total = outer.result()
    assert total.stats.blocks == 40
    assert set(total.partials) == set(first.stage.reduces)
