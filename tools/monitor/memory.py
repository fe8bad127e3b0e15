"""What the monitor remembers of one node: two windows of looks, and how figures went.

Looks come in; changes over a short window (rates) and a longer one (quantiles, which need many
values) come out, and for each trend one value a second. All of it is bounded. No clock of its own.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from typing import Final

import msgspec

from pipeline.topology import Topology
from tools.monitor.figures import TRENDS, trend_values
from tools.monitor.observed import Observation
from tools.monitor.rates import Change, Window

RATE_S: Final = 2.0
"""Rates are means of so long: shorter ones flicker with the pace of blocks."""

QUANTILE_S: Final = 30.0
QUANTILE_EVERY_S: Final = 1.0

TREND_EVERY_S: Final = 1.0
TREND_VALUES: Final = 300
"""Five minutes, as many columns as the widest terminals have."""


class Memory:
    """One node over time."""

    def __init__(self) -> None:
        self._rates = Window(RATE_S)
        self._quantiles = Window(QUANTILE_S, QUANTILE_EVERY_S)
        self._trends: dict[str, deque[float | None]] = {
            name: deque(maxlen=TREND_VALUES) for name in TRENDS
        }
        self._trend_at_s: float | None = None
        self._table: tuple[object, Topology] | None = None
        self.last: Observation | None = None

    def observe(self, look: Observation) -> None:
        """Take in the next look."""
        self.last = look
        self._rates.observe(look)
        self._quantiles.observe(look)
        if self._trend_at_s is None:
            self._trend_at_s = look.at_s
        elif look.at_s - self._trend_at_s >= TREND_EVERY_S:
            self._trend_at_s = look.at_s
            change, topology = self.recent(), self.topology()
            values = trend_values(topology, change) if change and topology else {}
            for name, trend in self._trends.items():
                trend.append(values.get(name))

    def recent(self) -> Change | None:
        """For rates; None while nobody is there."""
        return self._rates.change()

    def lately(self) -> Change | None:
        """For quantiles; None while nobody is there."""
        return self._quantiles.change()

    def trend(self, name: str) -> Sequence[float | None]:
        """One value a second, the latest last."""
        return tuple(self._trends[name])

    def topology(self) -> Topology | None:
        """The node's table; None while nobody is there. Raises nothing: a table that cannot be read
        is none.
        """
        told = self.last.status.get("topology") if self.last is not None else None
        if told is None:
            return None
        if self._table is None or self._table[0] is not told:
            try:
                self._table = told, msgspec.convert(told, Topology)
            except msgspec.ValidationError:
                return None
        return self._table[1]
