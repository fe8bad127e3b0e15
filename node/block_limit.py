"""How large an own block may be, so that everybody can fetch, judge and store it in time.

Fed with every block that is decided, whoever proposed it; asked when one is built. A proposal that
takes longer than the others wait for it costs a round, and under overload each failed round would
make the next block larger still. Pure; a policy of this node, never part of what makes a block
valid.
"""

from __future__ import annotations

from typing import Final

TARGET_MS: Final = 500  # from the beginning of a round to the commit; others wait 1,000 for it
LEAST: Final = 500  # transactions
TELLING: Final = 200  # smaller blocks say nothing: their time is that of the messages
WEIGHT: Final = 0.3  # of the last block in the mean


class BlockLimit:
    """Limits blocks to what is decided in `TARGET_MS` at the pace seen lately, `most` at first."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._per_ms: float | None = None

    @property
    def transactions(self) -> int:
        """How many transactions the next own block may have."""
        if self._per_ms is None:
            return self._most
        return max(min(LEAST, self._most), min(self._most, int(self._per_ms * TARGET_MS)))

    def decided(self, transactions: int, took_ms: float) -> None:
        """A block was decided, so long after its height's first round began."""
        if transactions < min(TELLING, self.transactions // 2):
            return
        per_ms = transactions / max(1.0, took_ms)
        before = per_ms if self._per_ms is None else self._per_ms
        self._per_ms = before + WEIGHT * (per_ms - before)
