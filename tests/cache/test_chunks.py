"""The cache of decoded chunks: bytes, counts, threads, failures."""

from __future__ import annotations

import subprocess
import sys
import threading
import weakref
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lepton_pipe.cache import chunks
from lepton_pipe.cache.chunks import ChunkCache, memory_of
from tests.command import PATIENCE


def _array(size, value=1):
    return np.full(size, value, "uint8")


def test_what_was_decoded_is_not_decoded_again():
    cache, calls = ChunkCache(100), []

    def decode():
        calls.append(1)
        return _array(40)

    first, second = cache.get("a", decode), cache.get("a", decode)
    assert first is second
    assert len(calls) == 1
    seen = cache.snapshot()
    assert (seen.hits, seen.misses, seen.decoded_bytes, seen.held_bytes) == (1, 1, 40, 40)


def test_what_is_kept_outlives_what_is_dropped_until_its_group_is_let_go_of():
    cache = ChunkCache(50)
    cache.retain(frozenset({"a"}))
    cache.keep(("a", 0), _array(40))
    cache.keep(("b", 0), _array(40))
    for key in "xyz":
        cache.get(key, lambda: _array(50))
    assert not cache.get(("a", 0), pytest.fail).flags.writeable
    assert cache.get(("b", 0), lambda: _array(1, 7))[0] == 7  # of another group: not kept
    cache.retain(frozenset())
    assert cache.get(("a", 0), lambda: _array(1, 9))[0] == 9


def test_what_is_kept_can_be_found_without_a_budget():
    cache = ChunkCache(0)
    cache.retain(frozenset({"a"}))
    assert not cache.enabled()
    cache.keep(("a", 0), _array(40))
    assert cache.enabled()
    cache.get(("a", 0), pytest.fail)
    cache.clear()
    assert not cache.enabled()


def test_nobody_can_write_to_what_is_held():
    cache = ChunkCache(100)
    assert not cache.get("a", lambda: _array(4)).flags.writeable
    assert not ChunkCache(0).get("a", lambda: _array(4)).flags.writeable


def test_the_least_recently_used_goes_first():
    cache = ChunkCache(100)
    for key in "ab":
        cache.get(key, lambda: _array(50))
    cache.get("a", pytest.fail)
    cache.get("c", lambda: _array(50))
    cache.get("a", pytest.fail)
    assert cache.snapshot().evictions == 1
    with pytest.raises(KeyError):
        cache.get("b", lambda: {}["decoded again"])


def test_without_a_budget_everything_passes_through():
    cache = ChunkCache()
    for _ in range(3):
        cache.get("a", lambda: _array(10))
    seen = cache.snapshot()
    assert (seen.hits, seen.misses, seen.entries, seen.held_bytes) == (0, 3, 0, 0)


def test_what_is_larger_than_the_budget_passes_through_and_drops_nothing():
    cache = ChunkCache(100)
    cache.get("small", lambda: _array(60))
    assert cache.get("large", lambda: _array(101)).size == 101
    cache.get("small", pytest.fail)
    assert cache.snapshot().entries == 1


def test_resize_drops_at_once():
    cache = ChunkCache(100)
    for key in "abcd":
        cache.get(key, lambda: _array(25))
    cache.resize(60)
    assert cache.snapshot().held_bytes == 50
    cache.get("d", pytest.fail)
    cache.resize(0)
    assert cache.snapshot().entries == 0
    cache.resize(30)
    assert cache.get("d", lambda: _array(25, 7))[0] == 7


def test_clear_keeps_the_counts():
    cache = ChunkCache(100)
    cache.get("a", lambda: _array(25))
    cache.clear()
    seen = cache.snapshot()
    assert (seen.held_bytes, seen.entries, seen.misses, seen.budget) == (0, 0, 1, 100)


def test_a_failure_is_not_held():
    cache = ChunkCache(100)
    with pytest.raises(ZeroDivisionError):
        cache.get("a", lambda: 1 / 0)
    assert cache.get("a", lambda: _array(5)).size == 5
    assert cache.snapshot().misses == 1


def test_one_value_shown_many_times_takes_little():
    fill = np.broadcast_to(np.uint16(3), (100, 100))
    assert memory_of(fill) == 2
    cache = ChunkCache(10)
    cache.get("fill", lambda: fill)
    assert cache.snapshot().held_bytes == 2
    assert memory_of(np.empty((0, 3))) == 0


def test_threads_that_want_the_same_decode_it_once():
    cache, started, go, calls = ChunkCache(1000), threading.Event(), threading.Event(), []

    def decode():
        calls.append(1)
        started.set()
        assert go.wait(PATIENCE)
        return _array(10)

    with ThreadPoolExecutor(5) as pool:
        first = pool.submit(cache.get, "a", decode)
        assert started.wait(PATIENCE)
        others = [pool.submit(cache.get, "a", decode) for _ in range(4)]
        go.set()
        assert all(other.result(PATIENCE) is first.result(PATIENCE) for other in others)
    assert len(calls) == 1
    assert cache.snapshot().hits == 4


def test_other_keys_do_not_wait():
    cache, go = ChunkCache(1000), threading.Event()

    def slow():
        assert go.wait(PATIENCE)
        return _array(10)

    with ThreadPoolExecutor(1) as pool:
        held_up = pool.submit(cache.get, "slow", slow)
        assert cache.get("quick", lambda: _array(3)).size == 3
        go.set()
        assert held_up.result(PATIENCE).size == 10


def test_those_who_waited_for_a_failure_try_for_themselves():
    cache, started, go, calls = ChunkCache(1000), threading.Event(), threading.Event(), []

    def decode():
        calls.append(1)
        if len(calls) == 1:
            started.set()
            assert go.wait(PATIENCE)
            raise OSError("the first reader met a bad disk")
        return _array(10)

    with ThreadPoolExecutor(4) as pool:
        first = pool.submit(cache.get, "a", decode)
        assert started.wait(PATIENCE)
        others = [pool.submit(cache.get, "a", decode) for _ in range(3)]
        go.set()
        with pytest.raises(OSError, match="bad disk"):
            first.result(PATIENCE)
        assert all(other.result(PATIENCE).size == 10 for other in others)


def _each(cache, keys, decode):
    return dict(cache.each(keys, lambda key: key, decode))


def test_of_several_those_held_come_first_and_are_not_pushed_out():
    cache = ChunkCache(100)
    for key in "abcd":
        cache.get(key, lambda: _array(25))
    order = [key for key, _ in cache.each("eafb", str, lambda _: _array(25))]
    assert order == ["a", "b", "e", "f"]
    assert cache.snapshot().misses == 6
    for key in "abef":
        cache.get(key, pytest.fail)


def test_several_pass_through_where_nothing_can_be_held():
    cache, asked = ChunkCache(), []
    made = dict(cache.each("aab", asked.append, lambda key: _array(3, ord(key))))
    assert {key: array[0] for key, array in made.items()} == {"a": ord("a"), "b": ord("b")}
    assert (cache.snapshot().misses, asked) == (3, [])


def test_what_others_decode_is_waited_for_last():
    cache, started, go, order = ChunkCache(1000), threading.Event(), threading.Event(), []

    def slow():
        started.set()
        assert go.wait(PATIENCE)
        return _array(10)

    with ThreadPoolExecutor(1) as pool:
        first = pool.submit(cache.get, "a", slow)
        assert started.wait(PATIENCE)
        for key, array in cache.each("abc", str, lambda _: _array(10, 2)):
            order.append(key)
            if key == "c":
                go.set()
            if key == "a":
                assert array is first.result(PATIENCE)
    assert order == ["b", "c", "a"]
    assert (cache.snapshot().misses, cache.snapshot().hits) == (3, 1)


def test_of_several_one_that_failed_elsewhere_is_tried_again():
    cache, started, go = ChunkCache(1000), threading.Event(), threading.Event()

    def fails():
        started.set()
        assert go.wait(PATIENCE)
        raise OSError("the first reader met a bad disk")

    with ThreadPoolExecutor(2) as pool:
        first = pool.submit(cache.get, "a", fails)
        assert started.wait(PATIENCE)
        other = pool.submit(_each, cache, "ab", lambda key: _array(10, ord(key)))
        go.set()
        with pytest.raises(OSError, match="bad disk"):
            first.result(PATIENCE)
        assert {key: array[0] for key, array in other.result(PATIENCE).items()} == {
            "a": 97,
            "b": 98,
        }


def test_a_failure_ends_several_and_blocks_nobody():
    cache = ChunkCache(1000)
    with pytest.raises(ZeroDivisionError):
        _each(cache, "abc", lambda key: _array(10 // (key != "b")))
    assert len(_each(cache, "abc", lambda _: _array(10))) == 3
    assert cache.snapshot().misses == 3


@pytest.mark.parametrize("budget", [0, 100])
def test_of_several_each_is_let_go_before_the_next_is_decoded(budget):
    made, alive = [], []

    def decode(_):
        alive.append(sum(ref() is not None for ref in made))
        array = _array(200)
        array.flags.writeable = False
        made.append(weakref.ref(array))
        return array

    for _, array in ChunkCache(budget).each(range(4), int, decode):
        assert array.size == 200
        del array
    assert alive == [0] * 4


def test_threads_that_want_the_same_several_share_the_work():
    cache, together = ChunkCache(10_000), threading.Barrier(2, timeout=PATIENCE)

    def decode(key):
        # Each chunk is there only once the other thread decodes one as well.
        together.wait()
        return _array(10, key)

    with ThreadPoolExecutor(2) as pool:
        both = [pool.submit(_each, cache, range(20), decode) for _ in range(2)]
        for found in both:
            assert {key: array[0] for key, array in found.result(PATIENCE).items()} == {
                key: key for key in range(20)
            }
    seen = cache.snapshot()
    assert (seen.misses, seen.hits) == (20, 20)


@settings(max_examples=60, deadline=None)
@given(
    budget=st.integers(0, 60),
    steps=st.lists(st.tuples(st.integers(0, 8), st.integers(0, 40)), max_size=40),
)
def test_the_budget_holds_whatever_comes(budget, steps):
    """A key stands for a size here, so that a wrong array would show."""
    cache = ChunkCache(budget)
    for key, new_budget in steps:
        size = key * 5
        assert cache.get(key, lambda size=size: _array(size)).size == size
        if new_budget % 7 == 0:
            cache.resize(new_budget)
        seen = cache.snapshot()
        assert seen.held_bytes <= seen.budget or seen.entries == 0
    seen = cache.snapshot()
    assert seen.hits + seen.misses == len(steps)


def test_many_threads_and_a_small_budget():
    cache = ChunkCache(300)
    keys = [int(k) for k in np.random.default_rng(0).integers(0, 20, 2000)]
    with ThreadPoolExecutor(8) as pool:
        made = pool.map(lambda k: cache.get(k, lambda: _array(50, k)), keys)
        assert all((array == key).all() for key, array in zip(keys, made, strict=True))
    seen = cache.snapshot()
    assert seen.held_bytes <= 300
    assert seen.hits + seen.misses == 2000


def test_many_threads_that_want_several_with_a_small_budget():
    cache = ChunkCache(300)
    wanted = np.random.default_rng(0).integers(0, 20, (100, 12))
    with ThreadPoolExecutor(6) as pool:
        made = pool.map(lambda keys: _each(cache, keys, lambda k: _array(50, k)), wanted.tolist())
        for keys, found in zip(wanted, made, strict=True):
            assert {key: array[0] for key, array in found.items()} == {k: k for k in keys}
    seen = cache.snapshot()
    assert seen.held_bytes <= 300
    assert seen.hits + seen.misses == wanted.size


def test_the_process_has_one_that_starts_empty():
    code = "from lepton_pipe.cache import chunks; print(chunks.snapshot().budget, chunks.enabled())"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["0", "False"]


def test_that_of_the_process_is_asked_by_functions():
    chunks.resize(10)
    try:
        chunks.get("a", lambda: _array(10))
        chunks.get("a", pytest.fail)
    finally:
        chunks.resize(0)
    assert chunks.snapshot().entries == 0
