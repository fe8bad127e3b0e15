"""Events that come again and again: how many are written, and that the rest is counted."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from node.log_repeats import MAX_EVENTS, WINDOW_S, WRITTEN, Repeated, Repeats


def test_a_flood_is_some_lines_and_a_count() -> None:
    repeats = Repeats()
    written = [repeats.admit(n / 1_000, "info", "refused", {"n": n}) for n in range(5_000)]
    assert written == [True] * WRITTEN + [False] * (5_000 - WRITTEN)
    assert repeats.ended(WINDOW_S - 0.001) == []
    (told,) = repeats.ended(WINDOW_S)
    assert told == Repeated("info", "refused", 5_000 - WRITTEN, 4.999, {"n": 4_999})
    assert repeats.ended(100.0) == []
    assert repeats.admit(100.0, "info", "refused", {})


def test_events_are_told_apart_by_level_and_name() -> None:
    repeats = Repeats(written=1)
    for level in ("info", "error"):
        for event in ("a", "b"):
            assert repeats.admit(0.0, level, event, {})
    assert not repeats.admit(0.0, "info", "a", {})
    assert [(each.level, each.event, each.times) for each in repeats.close()] == [("info", "a", 1)]
    assert repeats.close() == []


def test_the_table_is_bounded_and_what_it_forgets_is_told() -> None:
    repeats = Repeats(written=1)
    for number in range(3 * MAX_EVENTS):
        assert repeats.admit(0.0, "info", f"event {number}", {})
        assert not repeats.admit(0.0, "info", f"event {number}", {})
        assert len(repeats._windows) <= MAX_EVENTS
    told = repeats.ended(0.0)
    assert [each.event for each in told] == [f"event {n}" for n in range(2 * MAX_EVENTS)]
    assert len(repeats.close()) == MAX_EVENTS


@given(
    events=st.lists(st.tuples(st.floats(0, 8), st.sampled_from("abc")), max_size=200),
    look_every=st.integers(1, 50),
)
def test_nothing_is_lost(events: list[tuple[float, str]], look_every: int) -> None:
    repeats = Repeats(window_s=5.0, written=2)
    now_s = 0.0
    written = counted = 0
    for number, (pause_s, event) in enumerate(events):
        now_s += pause_s
        written += repeats.admit(now_s, "info", event, {})
        if number % look_every == 0:
            counted += sum(each.times for each in repeats.ended(now_s))
    counted += sum(each.times for each in repeats.close())
    assert written + counted == len(events)
