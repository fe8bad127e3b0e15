"""Events that come again and again: a few are written, the rest is counted.

``node.logs`` asks before it writes an event, and writes what this gives back: for each event that
was held back one line at the end of its window, with how often and with the facts of the last one.
So a flood costs the log a few lines in a window, whatever causes it, and its size is still told.
Pure: the clock is an argument. What is in the table when a process is killed is lost with it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final

WINDOW_S: Final = 10.0
"""So long after its first one an event is counted: what an operator waits for without worry."""

WRITTEN: Final = 20
"""Of one event in a window: more than any event of a healthy node comes in ten seconds, and few
enough that a hundred floods at once are 200 lines a second.
"""

MAX_EVENTS: Final = 256
"""Different events that are counted at once; the whole node has about a hundred."""

MAX_NAME_CHARACTERS: Final = 200  # of an event in the table

assert WRITTEN > 0 < MAX_EVENTS


@dataclass(frozen=True, slots=True)
class Repeated:
    """So many more of an event were not written; ``facts`` are those of the last one."""

    level: str
    event: str
    times: int
    within_s: float
    facts: Mapping[str, Any]


@dataclass(slots=True)
class _Window:
    began_s: float
    written: int = 0
    held_back: int = 0
    last_s: float = 0.0
    facts: Mapping[str, Any] = field(default_factory=dict)


class Repeats:
    """What came in the current windows, by level and event. Times are seconds of one clock."""

    def __init__(self, window_s: float = WINDOW_S, written: int = WRITTEN) -> None:
        self._window_s = window_s
        self._written = written
        self._windows: dict[tuple[str, str], _Window] = {}  # the oldest first
        self._over: list[Repeated] = []

    def admit(self, now_s: float, level: str, event: str, facts: Mapping[str, Any]) -> bool:
        """Whether to write an event; if not, it is counted."""
        key = level, event[:MAX_NAME_CHARACTERS]
        window = self._windows.get(key)
        if window is not None and now_s - window.began_s >= self._window_s:
            self._end(key)
            window = None
        if window is None:
            if len(self._windows) >= MAX_EVENTS:
                self._end(next(iter(self._windows)))
            window = self._windows[key] = _Window(now_s)
        if window.written < self._written:
            window.written += 1
            return True
        window.held_back += 1
        window.last_s = now_s
        window.facts = facts
        return False

    def ended(self, now_s: float) -> list[Repeated]:
        """What was held back in windows that are over; each is told once."""
        while self._windows:
            key, window = next(iter(self._windows.items()))
            if now_s - window.began_s < self._window_s:
                break
            self._end(key)
        return self._take()

    def close(self) -> list[Repeated]:
        """What was held back in all windows, which are over now."""
        for key in list(self._windows):
            self._end(key)
        return self._take()

    def _end(self, key: tuple[str, str]) -> None:
        window = self._windows.pop(key)
        if window.held_back:
            within_s = round(window.last_s - window.began_s, 3)
            self._over.append(Repeated(*key, window.held_back, within_s, window.facts))

    def _take(self) -> list[Repeated]:
        over, self._over = self._over, []
        return over
