"""For how long a device was busy: the union of what its lanes did, however they tell of it."""

from __future__ import annotations

from itertools import count, pairwise

from hypothesis import given
from hypothesis import strategies as st

from lepton_pipe.device.busy import Busy, union

KINDS = ("copy_in", "kernels", "copy_out")
WALL = 60

# What a lane does: from a time on, work (or nothing) of some length after the other; and after how
# many of them it tells.
LANE = st.tuples(
    st.integers(0, WALL // 2),
    st.lists(st.tuples(st.sampled_from((*KINDS, None)), st.integers(0, 9)), max_size=12),
    st.integers(1, 5),
)


def told(lane):
    """Return when a lane tells of what: (time, spans)."""
    start, works, portion = lane
    time, spans, reports = start, [], []
    for number, (doing, length) in enumerate(works, start=1):
        if doing is not None:
            spans.append((doing, time, time + length))
        time += length
        if number % portion == 0 or number == len(works):
            reports.append((time, spans))
            spans = []
    return reports


def run(lanes):
    """Have lanes work, and tell as time goes by; return what was counted in all, and Busy."""
    now = 0
    busy, counted = Busy(lambda: now), dict.fromkeys(KINDS, 0)
    events = []
    for number, lane in enumerate(lanes):
        reports = told(lane)
        events.append((lane[0], 0, number, None))
        events += [(time, 1, number, spans) for time, spans in reports]
        events.append((max([lane[0], *(t for t, _ in reports)]), 2, number, None))
    for now, what, number, spans in sorted(events, key=lambda e: e[:3]):
        if what == 0:
            assert busy.enter(number) == now
        elif what == 1:
            busy.add(number, spans, now)
        else:
            busy.leave(number)
            for doing, seconds in busy.take().items():
                counted[doing] += seconds
    return counted, busy


@given(st.lists(LANE, max_size=6))
def test_what_is_counted_is_the_union_of_what_lanes_did(lanes):
    counted, busy = run(lanes)
    done = [span for lane in lanes for _, spans in told(lane) for span in spans]
    for kind in KINDS:
        ticks = {t for doing, a, b in done if doing == kind for t in range(a, b)}
        assert counted[kind] == len(ticks)
    assert not any(busy._open.values()), "spans are kept though nobody can add to them"


@given(st.lists(LANE, min_size=1, max_size=6), st.integers(1, 9))
def test_a_device_is_never_busy_for_longer_than_it_was_there(lanes, fast):
    """Its clock goes ahead of the host's by a factor."""
    now = 0.0
    busy = Busy(lambda: now)
    for number, lane in enumerate(lanes):
        begun = busy.enter(number)
        for time, spans in told((begun, *lane[1:])):
            now = max(now, begun + (time - begun) / fast)
            busy.add(number, spans, time)
    for number in range(len(lanes)):
        busy.leave(number)
    assert all(seconds <= now + 1e-9 for seconds in busy.take().values())


@given(st.lists(st.tuples(st.integers(0, 40), st.integers(0, 9)), max_size=20))
def test_a_union_is_in_order_and_covers_the_same(parts):
    spans = [(a, a + n) for a, n in parts]
    merged = union(spans)
    assert {t for a, b in merged for t in range(a, b)} == {t for a, b in spans for t in range(a, b)}
    assert all(b < c for (_, b), (c, _) in pairwise(merged))


def test_what_cannot_change_any_more_is_forgotten_while_another_lane_goes_on():
    clock = count()
    busy = Busy(lambda: next(clock) * 10.0)
    first, second = busy.enter("first"), busy.enter("second")
    for turn in range(1000):
        start = second + 10.0 * turn
        busy.add("second", [("kernels", start, start + 1.0)], start + 1.0)
        busy.add("first", [], max(first, start))
        assert len(busy._open["kernels"]) <= 1
    assert busy.take()["kernels"] >= 999.0
