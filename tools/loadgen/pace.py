"""When transactions are due: the open loop's timetable. Pure; times count from its start."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

NS_PER_S = 1_000_000_000


@dataclass(frozen=True, slots=True)
class Timetable:
    """Transaction ``i`` is due ``i / rate_per_s`` seconds after the start, come what may."""

    rate_per_s: float

    def due(self, elapsed_ns: int) -> int:
        """Return how many transactions are due by now; the first one is at once."""
        return int(elapsed_ns * self.rate_per_s / NS_PER_S) + 1

    def due_ns(self, index: int) -> int:
        """Return when a transaction is due."""
        return int(index * NS_PER_S / self.rate_per_s)

    def intended_ns(self, count: int) -> npt.NDArray[np.int64]:
        """Return when each of the first ``count`` transactions is due, i64[count]."""
        return (np.arange(count) * (NS_PER_S / self.rate_per_s)).astype(np.int64)
