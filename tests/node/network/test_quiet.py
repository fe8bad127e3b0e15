"""Repeated events are said once a minute, with their number."""

from __future__ import annotations

from meeting import Log

from node.network.quiet import MAX_KEYS, REPEAT_NS, SparingLog


def test_an_event_is_said_once_and_then_counted() -> None:
    log = Log()
    quiet = SparingLog(log)
    for now_ns in range(100):
        quiet.once(now_ns, "a", "refused", why="x")
    quiet.once(5, "b", "refused", why="y")
    quiet.once(5, "a", "other", warn=False)
    quiet.once(REPEAT_NS, "a", "refused", why="x")
    quiet.once(2 * REPEAT_NS, "a", "refused", why="x")
    assert log.lines == [
        ("refused", {"why": "x"}),
        ("refused", {"why": "y"}),
        ("other", {}),
        ("refused", {"why": "x", "repeated": 99}),
        ("refused", {"why": "x"}),
    ]


def test_it_remembers_a_bounded_number() -> None:
    log = Log()
    quiet = SparingLog(log)
    for number in range(10_000):
        quiet.once(0, str(number), "refused")
    assert len(quiet._said) == MAX_KEYS
