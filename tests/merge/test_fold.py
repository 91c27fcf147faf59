from __future__ import annotations

import functools
import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lepton_pipe.graph import StageGraph
from lepton_pipe.merge.fold import FAN, TreeFold

modest = settings(max_examples=60, deadline=None)
# Around the lengths at which another level of the tree begins.
counts = st.integers(1, 3 * FAN) | st.sampled_from(
    [FAN * FAN + d for d in (-FAN - 1, -FAN, -1, 0, 1, FAN, FAN + 1)] + [FAN**3 - 1, FAN**3 + 1]
)


def pair(a, b):
    """Not associative and not commutative: the result shows the whole tree."""
    return (a, b)


def tree(count):
    """The tree as the module describes it: runs of FAN from the left, level upon level."""
    items = list(range(count))
    while len(items) > 1:
        runs = [items[i : i + FAN] for i in range(0, len(items), FAN)]
        items = [functools.reduce(pair, run) for run in runs]
    return items[0]


def folded(count, order):
    fold = TreeFold(pair, count)
    for index in order:
        fold.add(index, index)
    return fold.result()


@modest
@given(counts)
def test_the_tree_depends_on_the_number_of_items_alone(count):
    assert repr(folded(count, range(count))) == repr(tree(count))


@modest
@given(counts, st.randoms(use_true_random=False))
def test_items_may_arrive_in_any_order(count, rng):
    order = rng.sample(range(count), count)
    assert repr(folded(count, order)) == repr(folded(count, range(count)))


def groups_of(count):
    """How graph.build cuts blocks into groups, without a program."""
    return StageGraph("stage", "token", count, b"", lambda _: {})


@modest
@given(counts)
def test_groups_folded_on_workers_give_the_same_tree(count):
    graph = groups_of(count)
    fold = TreeFold(pair, graph.groups)
    for group in reversed(range(graph.groups)):
        fold.add(group, functools.reduce(pair, graph.members(group)))
    assert repr(fold.result()) == repr(folded(count, range(count)))


def test_sums_of_floats_are_the_same_for_any_order():
    rng = random.Random(1)  # noqa: S311
    numbers = [rng.uniform(-1, 1) * 10 ** rng.randint(-9, 9) for _ in range(1000)]
    sums = set()
    for _ in range(5):
        fold = TreeFold(float.__add__, len(numbers))
        for index in rng.sample(range(len(numbers)), len(numbers)):
            fold.add(index, numbers[index])
        sums.add(fold.result())
    assert len(sums) == 1


def test_combine_may_change_its_first_item():
    fold = TreeFold(lambda a, b: a.extend(b) or a, 600)
    for index in range(600):
        fold.add(index, [index])
    assert fold.result() == list(range(600))


def test_items_are_folded_as_they_come_so_that_few_are_held():
    alive = [0]

    def combine(a, b):
        alive[0] -= 1
        return a + b

    fold, most = TreeFold(combine, 4096), 0
    for index in range(4096):
        alive[0] += 1
        fold.add(index, 1)
        most = max(most, alive[0])
    assert fold.result() == 4096
    assert most <= 3 * FAN


@pytest.mark.parametrize(("count", "given_"), [(0, 0), (1, 0), (5, 4), (17, 16), (300, 299)])
def test_a_missing_item_is_never_passed_over(count, given_):
    fold = TreeFold(pair, count)
    for index in range(given_):
        fold.add(index, index)
    with pytest.raises(ValueError, match=f"{given_} of {count} partials arrived"):
        fold.result()


def test_a_gap_is_a_missing_item():
    fold = TreeFold(pair, 3)
    fold.add(0, 0)
    fold.add(2, 2)
    with pytest.raises(ValueError, match="1 of 3 partials arrived; none may be missing"):
        fold.result()
