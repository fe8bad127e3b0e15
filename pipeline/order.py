"""The order in which judged trays are admitted: pure, so time is an argument.

Fed by the sink with the trays that arrive and with what the intake says about numbers that will
not; asked by it for the tray whose turn it is.
"""

from __future__ import annotations

from pipeline.descriptor import Descriptor

GAP_MS = 50  # how long a missing number holds up those behind it: a worker's restart takes longer
NS_PER_MS = 1_000_000


class Order:
    """Puts the trays of one priority into sequence; pure, time is an argument.

    `waiting` is bounded by the number of trays, since each waiting number is a tray in flight.
    """

    def __init__(self, gap_ms: int = GAP_MS) -> None:
        self._gap_ns = gap_ms * NS_PER_MS
        self._next = 0
        self._waiting: dict[int, Descriptor] = {}
        self._passed: set[int] = set()  # numbers at or above `_next` that will never come
        self._since_ns: int | None = None
        self.gaps_skipped = 0

    def start(self, sequence: int) -> None:
        """The lowest number that may still come."""
        self._next = max(self._next, sequence)
        self._passed = {number for number in self._passed if number >= self._next}

    def skip(self, sequence: int) -> None:
        """This number will never come."""
        if sequence >= self._next:
            self._passed.add(sequence)

    def put(self, descriptor: Descriptor) -> None:
        """A judged tray arrived; an attempt of one that waits already replaces it."""
        self._waiting[descriptor.sequence] = descriptor

    def find(self, sequence: int) -> Descriptor | None:
        """The tray of this number that waits for its turn, if any."""
        return self._waiting.get(sequence)

    def take(self, now_ns: int) -> Descriptor | None:
        """The tray to admit now: the next in order, a late one, or the first behind a stale gap."""
        while self._next in self._passed:
            self._passed.discard(self._next)
            self._next += 1
        if not self._waiting:
            self._since_ns = None
            return None
        lowest = min(self._waiting)
        if lowest > self._next:
            if self._since_ns is None:
                self._since_ns = now_ns
            if now_ns - self._since_ns < self._gap_ns:
                return None
            self.gaps_skipped += 1
            self._next = lowest
            self._passed = {number for number in self._passed if number > lowest}
        self._since_ns = None
        if lowest == self._next:
            self._next += 1
        return self._waiting.pop(lowest)

    def deadline_ns(self) -> int | None:
        """When `take` would skip a gap."""
        return None if self._since_ns is None else self._since_ns + self._gap_ns
