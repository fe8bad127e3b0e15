"""A queue that serves its sources fairly, whatever each of them sends.

The intake offers items with their source and weight, and takes as much as it has room for. Each
source has a FIFO of its own; they are served by deficit round robin: a visit gives a source a
quantum of weight to spend, what it cannot spend on its next item is kept for the next visit, and a
source that has nothing left starts from nothing when it comes back. So a source that floods fills
its own FIFO and delays the others by at most a quantum and an item each round. The module is pure;
it owns the queued items, and they die with its process.

Over any interval in which two sources always have something queued, what they are served differs by
less than a quantum and two of the heaviest items; by less than a quantum and one item if both begin
the interval. (M. Shreedhar, G. Varghese: Efficient fair queueing using deficit round robin, 1995.)
"""

from __future__ import annotations

from collections import deque
from typing import Any

# The weight that a tray holds (``pipeline.topology.TrayDims``): a source fills one tray in a visit.
QUANTUM = 256
MAX_SOURCES = 4096


class _Source:
    """One source with something queued."""

    __slots__ = ("deficit", "items", "key", "weight")

    def __init__(self, key: bytes) -> None:
        self.key = key
        self.items: deque[tuple[int, Any]] = deque()
        self.weight = 0
        self.deficit = 0


class FairQueue:
    """A bounded queue of weighted items, FIFO for each source and fair between sources.

    At most ``max_weight_total`` is queued, ``max_weight_per_source`` of it by one source, and at
    most ``max_sources`` have something queued at once. ``quantum`` is the weight that a source may
    spend in a visit. Every operation costs O(1) an item where no item is heavier than the quantum,
    and weight / quantum visits for one that is. Raises ValueError for bounds below 1.
    """

    def __init__(
        self,
        max_weight_total: int,
        max_weight_per_source: int,
        *,
        max_sources: int = MAX_SOURCES,
        quantum: int = QUANTUM,
    ) -> None:
        if min(max_weight_total, max_weight_per_source, max_sources, quantum) < 1:
            raise ValueError("every bound of a fair queue must be at least 1")
        self.max_weight_total = max_weight_total
        self.max_weight_per_source = max_weight_per_source
        self.max_sources = max_sources
        self.quantum = quantum
        self._pending_weight = 0
        self._by_key: dict[bytes, _Source] = {}
        self._ring: deque[_Source] = deque()  # those of _by_key in the order of their visits
        self._visiting = False  # whether the first of the ring has had its quantum of this visit

    @property
    def pending_weight(self) -> int:
        """Weight of everything queued."""
        return self._pending_weight

    @property
    def sources(self) -> int:
        """Number of sources that have something queued."""
        return len(self._ring)

    def offer(self, source: bytes, weight: int, item: Any) -> bool:
        """Queue an item, or return False and leave the queue as it is.

        False: the item would bring its source over its share or the whole over its total, or too
        many sources have something queued. An item heavier than a whole share is never taken.
        Raises ValueError for a weight below 1.
        """
        if weight < 1:
            raise ValueError(f"weight {weight}: an item weighs at least 1")
        if self._pending_weight + weight > self.max_weight_total:
            return False
        queued = self._by_key.get(source)
        if queued is None:
            if weight > self.max_weight_per_source or len(self._ring) >= self.max_sources:
                return False
            queued = self._by_key[source] = _Source(source)
            self._ring.append(queued)
        elif queued.weight + weight > self.max_weight_per_source:
            return False
        queued.items.append((weight, item))
        queued.weight += weight
        self._pending_weight += weight
        return True

    def take(self, budget: int) -> list[tuple[bytes, int, Any]]:
        """Remove and return the next (source, weight, item)s, until they weigh ``budget`` or more.

        The last one may exceed the budget, so a budget of 1 is one item and whatever is queued
        comes out in time. How the budget is portioned does not change the order.
        """
        taken: list[tuple[bytes, int, Any]] = []
        ring = self._ring
        left = budget
        while ring and left > 0:
            source = ring[0]
            items = source.items
            deficit = source.deficit
            if not self._visiting:
                self._visiting = True
                deficit += self.quantum
            while items and left > 0 and items[0][0] <= deficit:
                weight, item = items.popleft()
                taken.append((source.key, weight, item))
                deficit -= weight
                left -= weight
                source.weight -= weight
            source.deficit = deficit
            if not items:
                ring.popleft()
                del self._by_key[source.key]
                self._visiting = False
            elif items[0][0] > deficit:
                ring.rotate(-1)
                self._visiting = False
        self._pending_weight -= budget - left
        return taken
