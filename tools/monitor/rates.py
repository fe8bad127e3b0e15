"""From counters to rates: what changed between two looks at a node.

Observations come in, with their times; rates, shares of the time and quantiles come out. Counters
may begin anew when their writer was restarted, and histograms with them: then what they hold is
what was added. Holds the observations of a window and no more; no clock of its own.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from tools.monitor.observed import Key, Observation

if TYPE_CHECKING:
    from pipeline.metrics import StageSnapshot

WINDOW_LOOKS: Final = 64
"""Looks kept in a window, at most, however quickly they come."""

TIME_METRICS: Final = ("busy_ns", "backpressure_ns", "housekeeping_ns", "idle_ns")
MS_OF: Final[Mapping[str, float]] = {"ns": 1e-6, "us": 1e-3, "ms": 1.0, "s": 1e3}


@dataclass(frozen=True, slots=True)
class Shares:
    """Where a stage's time went, in percent; the four sum to 100."""

    busy: float
    backpressure: float
    housekeeping: float
    idle: float

    def whole(self) -> tuple[int, int, int, int]:
        """The four as whole numbers that sum to 100: the largest remainders are rounded up."""
        exact = (self.busy, self.backpressure, self.housekeeping, self.idle)
        floors = [int(each) for each in exact]
        missing = 100 - sum(floors)
        by_rest = sorted(range(4), key=lambda n: (floors[n] - exact[n], n))
        for number in by_rest[:missing]:
            floors[number] += 1
        busy, backpressure, housekeeping, idle = floors
        return busy, backpressure, housekeeping, idle


@dataclass(frozen=True, slots=True)
class Quantiles:
    """Of a histogram, in ms: upper bounds of the buckets that hold the median and the 99th
    percentile; None where that lies above ``above_ms``, the last bound.
    """

    count: int
    p50_ms: float | None
    p99_ms: float | None
    above_ms: float


class Change:
    """What happened between two looks at one life of a node."""

    def __init__(self, first: Observation, last: Observation) -> None:
        self._first = first
        self._last = last
        self.span_s = last.at_s - first.at_s

    def per_s(self, key: Key, name: str) -> float | None:
        """How fast a counter of a stage grew; None if that cannot be said."""
        added = self._added(key, name)
        return None if added is None or self.span_s <= 0 else added / self.span_s

    def sum_per_s(self, keys: Iterable[Key], name: str) -> float | None:
        """How fast a counter grew over several instances; None if of none that can be said."""
        known = [each for key in keys if (each := self.per_s(key, name)) is not None]
        return sum(known) if known else None

    def shares(self, key: Key) -> Shares | None:
        """Where a stage's time went; None if it did not account for any."""
        return shares_of([self._times(key)])

    def mean_shares(self, keys: Iterable[Key]) -> Shares | None:
        """The same over several instances."""
        return shares_of([self._times(key) for key in keys])

    def busy_us_per_item(self, key: Key) -> float | None:
        """Work on an item that was taken in, on average."""
        items = self._added(key, "items_in")
        spent = self._times(key)
        return spent[0] / items / 1_000 if items and spent else None

    def quantiles(self, key: Key, name: str) -> Quantiles | None:
        """Of the values that a histogram took in meanwhile; None if there were none."""
        last = self._last.snapshots.get(key)
        if last is None or not isinstance(histogram := last.values.get(name), Mapping):
            return None
        first = self._first.snapshots.get(key)
        before = first.values.get(name) if first is not None else None
        buckets = _grown(before, histogram)
        unit = next(metric.unit for metric in last.metrics.metrics if metric.name == name)
        return _quantiles(histogram["bounds"], buckets, MS_OF.get(unit, 1.0))

    def _added(self, key: Key, name: str) -> int | None:
        last = self._last.snapshots.get(key)
        first = self._first.snapshots.get(key)
        if last is None or first is None or first is last or name not in last.values:
            return None
        return _growth(first, last, name)

    def _times(self, key: Key) -> tuple[int, ...]:
        found = [self._added(key, name) for name in TIME_METRICS]
        return tuple(each or 0 for each in found)


class Window:
    """The looks of the last ``span_s`` seconds; a new life, or nobody there, empties it.

    Looks that come within ``every_s`` of the one before replace it, but for the first.
    """

    def __init__(self, span_s: float, every_s: float = 0.0) -> None:
        self._span_s = span_s
        self._every_s = every_s
        self._looks: deque[Observation] = deque(maxlen=WINDOW_LOOKS)

    def observe(self, look: Observation) -> None:
        """Take in the next look."""
        looks = self._looks
        if look.absent is not None or (looks and looks[-1].life != look.life):
            looks.clear()
        if look.absent is not None:
            return
        if len(looks) > 1 and look.at_s - looks[-2].at_s < self._every_s:
            looks.pop()
        looks.append(look)
        while len(looks) > 2 and look.at_s - looks[1].at_s >= self._span_s:
            looks.popleft()

    def change(self) -> Change | None:
        """From the first to the last of the window; None while nobody is there."""
        return Change(self._looks[0], self._looks[-1]) if self._looks else None


def shares_of(times: Sequence[Sequence[int]]) -> Shares | None:
    """Percentages of times in the order of ``TIME_METRICS``, summed over instances."""
    totals = [sum(each[number] for each in times) for number in range(len(TIME_METRICS))]
    whole = sum(totals)
    if whole <= 0:
        return None
    busy, backpressure, housekeeping, idle = (100 * each / whole for each in totals)
    return Shares(busy, backpressure, housekeeping, idle)


def _growth(first: StageSnapshot, last: StageSnapshot, name: str) -> int:
    before, now = first.values.get(name, 0), int(last.values[name])
    return now - int(before) if now >= before else now


def _grown(before: Any, now: Mapping[str, Any]) -> list[int]:
    """What the buckets took in; all that they hold if they began anew."""
    buckets: list[int] = now["buckets"]
    if not isinstance(before, Mapping) or before["bounds"] != now["bounds"]:
        return buckets
    grown = [new - old for new, old in zip(buckets, before["buckets"], strict=True)]
    return buckets if min(grown) < 0 else grown


def _quantiles(bounds: Sequence[int], buckets: Sequence[int], ms: float) -> Quantiles | None:
    count = sum(buckets)
    if not count:
        return None

    def at(share: float) -> float | None:
        rank = max(1, -int(-share * count // 1))
        seen = 0
        for bound, held in zip(bounds, buckets, strict=False):
            seen += held
            if seen >= rank:
                return bound * ms
        return None

    return Quantiles(count, at(0.5), at(0.99), bounds[-1] * ms)
