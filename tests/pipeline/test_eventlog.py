"""The supervisor's log: a broken one does not end it, and the last events can be asked for."""

from __future__ import annotations

import json
from typing import Any

from pipeline.eventlog import EVENTS_KEPT, MAX_FACT_CHARACTERS, QuietLog


class Kept:
    """A log whose pipe breaks when it is told to."""

    def __init__(self) -> None:
        self.lines: list[tuple[str, str, dict[str, Any]]] = []
        self.broken = False

    def info(self, event: str, **values: Any) -> None:
        self._write("info", event, values)

    def warning(self, event: str, **values: Any) -> None:
        self._write("warning", event, values)

    def error(self, event: str, **values: Any) -> None:
        self._write("error", event, values)

    def _write(self, level: str, event: str, values: dict[str, Any]) -> None:
        if self.broken:
            raise BrokenPipeError
        self.lines.append((level, event, values))


def test_events_are_passed_on_and_kept_with_their_time() -> None:
    inner = Kept()
    log = QuietLog(inner, unix_clock=lambda: 12.3456)
    log.info("one", number=3)
    log.warning("two")
    inner.broken = True
    log.error("three", why=None)
    assert inner.lines == [("info", "one", {"number": 3}), ("warning", "two", {})]
    assert log.recent() == [
        {"unix_s": 12.346, "level": "info", "event": "one", "facts": {"number": 3}},
        {"unix_s": 12.346, "level": "warning", "event": "two", "facts": {}},
        {"unix_s": 12.346, "level": "error", "event": "three", "facts": {"why": None}},
    ]


def test_what_is_kept_is_bounded_and_json() -> None:
    log = QuietLog(Kept(), lambda: 1.5)
    for number in range(3 * EVENTS_KEPT):
        log.info("event", number=number, text="x" * 10_000, names=["a", "b"], thing=object())
    recent = log.recent()
    assert [each["facts"]["number"] for each in recent] == list(
        range(2 * EVENTS_KEPT, 3 * EVENTS_KEPT)
    )
    assert recent[0]["facts"]["text"] == "x" * MAX_FACT_CHARACTERS
    assert recent[0]["facts"]["names"] == "a, b"
    assert json.loads(json.dumps(recent)) == recent
    recent.clear()
    assert len(log.recent()) == EVENTS_KEPT
