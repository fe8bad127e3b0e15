"""Rates out of counters: shares that sum to 100, restarts, lives, windows, quantiles."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from monitor_world import NS, World, remembered

from tools.monitor.memory import QUANTILE_S, RATE_S, TREND_VALUES, Memory
from tools.monitor.rates import WINDOW_LOOKS, Change, Shares, Window, shares_of

TIME = st.integers(0, 2**62)


@given(st.lists(st.tuples(TIME, TIME, TIME, TIME), min_size=1, max_size=4))
def test_shares_sum_to_a_hundred_and_so_do_their_whole_numbers(
    times: list[tuple[int, int, int, int]],
) -> None:
    shares = shares_of(times)
    if not any(map(any, times)):
        assert shares is None
        return
    assert shares is not None
    exact = (shares.busy, shares.backpressure, shares.housekeeping, shares.idle)
    assert sum(exact) == pytest.approx(100)
    assert sum(shares.whole()) == 100
    assert all(abs(rounded - each) < 1 for rounded, each in zip(shares.whole(), exact, strict=True))
    assert all(rounded >= 0 for rounded in shares.whole())


def test_shares_name_the_right_counters() -> None:
    world = World()
    first = world.look()
    for name, part in (("busy", 5), ("backpressure", 3), ("housekeeping", 1), ("idle", 1)):
        world.add("gate", f"{name}_ns", part * NS)
    world.now_s += 10
    change = Change(first, world.look())
    assert change.shares(("gate", 0)) == Shares(50, 30, 10, 10)
    assert change.shares(("vault", 0)) is None  # it accounted for nothing: dead, or hung
    assert change.mean_shares([("gate", 0), ("vault", 0)]) == Shares(50, 30, 10, 10)


def test_rates_are_per_second_of_the_time_between() -> None:
    world = World()
    first = world.look()
    world.add("mill", "items_in", 300, 0)
    world.add("mill", "items_in", 100, 1)
    world.add("mill", "busy_ns", 3_000_000, 0)
    world.now_s += 4
    change = Change(first, world.look())
    assert change.per_s(("mill", 0), "items_in") == 75
    assert change.sum_per_s([("mill", 0), ("mill", 1)], "items_in") == 100
    assert change.busy_us_per_item(("mill", 0)) == 10
    assert change.busy_us_per_item(("gate", 0)) is None  # nothing came
    assert change.per_s(("mill", 0), "no_such") is None
    assert change.per_s(("nobody", 0), "items_in") is None
    assert change.sum_per_s([("nobody", 0)], "items_in") is None
    look = world.look()
    assert Change(look, look).per_s(("mill", 0), "items_in") is None  # one look tells no rate


def test_a_counter_that_began_anew_counts_what_it_holds() -> None:
    world = World()
    world.add("gate", "items_in", 1_000)
    first = world.look()
    world.values["gate", 0]["items_in"] = 40
    world.now_s += 1
    assert Change(first, world.look()).per_s(("gate", 0), "items_in") == 40


def test_quantiles_are_of_what_came_meanwhile() -> None:
    world = World()
    world.observe("vault", "final_ms", 5, times=1_000)
    first = world.look()
    world.observe("vault", "final_ms", 50, times=98)
    world.observe("vault", "final_ms", 900)
    world.observe("vault", "final_ms", 5_000)
    world.now_s += 1
    found = Change(first, world.look()).quantiles(("vault", 0), "final_ms")
    assert found is not None
    assert (found.count, found.p50_ms, found.p99_ms, found.above_ms) == (100, 100, 1_000, 1_000)
    world.observe("vault", "final_ms", 5_000, times=200)
    found = Change(first, world.look()).quantiles(("vault", 0), "final_ms")
    assert found is not None
    assert (found.p50_ms, found.p99_ms) == (None, None)  # above the last bound: not flattered


def test_quantiles_are_in_ms_whatever_the_unit() -> None:
    world = World()
    first = world.look()
    world.observe("mill", "wait_us", 650)
    world.observe("gate", "loop_gap", 1_900_000)
    change = Change(first, world.look())
    waited, late = (
        change.quantiles(("mill", 0), "wait_us"),
        change.quantiles(("gate", 0), "loop_gap"),
    )
    assert waited is not None
    assert waited.p50_ms == pytest.approx(0.7)
    assert late is not None
    assert late.p99_ms == pytest.approx(2.0)
    assert change.quantiles(("gate", 0), "items_in") is None  # no histogram
    assert change.quantiles(("mill", 1), "wait_us") is None  # no values


def test_a_histogram_that_began_anew_counts_as_a_whole() -> None:
    world = World()
    world.observe("vault", "final_ms", 5, times=100)
    first = world.look()
    world.values["vault", 0]["final_ms"]["buckets"] = [0, 3, 0, 0]
    found = Change(first, world.look()).quantiles(("vault", 0), "final_ms")
    assert found is not None
    assert (found.count, found.p50_ms) == (3, 100)


def test_a_window_spans_its_seconds_and_is_bounded() -> None:
    world, window = World(), Window(2.0)
    assert window.change() is None
    for _ in range(40):
        world.now_s += 0.25
        world.add("gate", "items_in", 1)
        window.observe(world.look())
    change = window.change()
    assert change is not None
    assert change.span_s == pytest.approx(2.0)
    assert change.per_s(("gate", 0), "items_in") == pytest.approx(4)
    world.now_s += 60  # a slow interval: the two last looks are the window
    window.observe(world.look())
    change = window.change()
    assert change is not None
    assert change.span_s == pytest.approx(60)
    for _ in range(3 * WINDOW_LOOKS):
        world.now_s += 0.001
        window.observe(world.look())
    assert len(window._looks) == WINDOW_LOOKS


def test_looks_that_come_too_quickly_replace_the_last() -> None:
    world, window = World(), Window(30.0, every_s=1.0)
    for _ in range(101):
        window.observe(world.look())
        world.now_s += 0.1
    change = window.change()
    assert change is not None
    assert change.span_s == pytest.approx(10.0)
    assert len(window._looks) <= 12


@pytest.mark.parametrize("gone", [False, True])
def test_another_life_begins_from_nothing(gone: bool) -> None:
    world, window = World(), Window(2.0)
    world.add("gate", "items_in", 1_000)
    window.observe(world.look())
    world.now_s += 1
    if gone:
        window.observe(world.absent("stopped"))
        assert window.change() is None
    else:
        world.life += 1
    window.observe(world.look())
    change = window.change()
    assert change is not None
    assert change.per_s(("gate", 0), "items_in") is None
    assert change.span_s == 0


def test_trends_have_one_value_a_second_however_often_one_looks() -> None:
    world, memory = World(), Memory()
    for _ in range(81):
        memory.observe(world.look())
        world.add("vault", "items_out", 25)
        world.now_s += 0.25
    trend = memory.trend("final")
    assert len(trend) == 20
    assert trend[-1] == pytest.approx(100)
    memory.observe(world.absent("stopped"))
    world.now_s += 1
    memory.observe(world.absent("stopped"))
    assert memory.trend("final")[-1] is None
    for _ in range(2 * TREND_VALUES):
        world.now_s += 1
        memory.observe(world.look())
    assert len(memory.trend("final")) == TREND_VALUES


def test_the_windows_of_the_memory() -> None:
    world = World()
    memory = Memory()
    for _ in range(200):
        memory.observe(world.look())
        world.now_s += 0.25
    recent, lately = memory.recent(), memory.lately()
    assert recent is not None
    assert lately is not None
    assert recent.span_s == pytest.approx(RATE_S)
    assert QUANTILE_S <= lately.span_s <= QUANTILE_S + 2
    assert remembered(world.absent("no")).recent() is None


def test_a_table_that_cannot_be_read_is_none() -> None:
    world = World()
    look = world.look()
    look.status["topology"]["stages"] = 7  # type: ignore[index]
    assert remembered(look).topology() is None
    assert remembered(world.look()).topology() == world.topology
