"""Announces pending transactions again that were not final after a while.

A transaction is relayed once, when it is admitted. Peers that were not there, were behind or had no
room for it lack it, and so do all of them what came back from a file or was an orphan before its
parent came. What waits in the mempool for long is therefore handed to ``net`` for every peer again,
a few times, with pauses that grow; whoever knows it drops it after a hash. Pure; the mempool
numbers what it admits, and kept here is only how far each time has come and when.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Final, Protocol

import numpy as np

from node.peer_frames import Batch

_S: Final = 1_000_000_000
PAUSES_NS: Final = (2 * _S, 6 * _S, 24 * _S, 96 * _S, 384 * _S)
"""From admission to the first time, from that to the second, and so on. The first is several paces:
under a load that the network can carry, next to nothing waits for so long."""

AT_ONCE: Final = 100  # transactions in one turn, of which there are two a second
AT_ONCE_BYTES: Final = 64 * 1024  # of them, and the one that exceeds it
MARK_NS: Final = _S  # how exactly pauses are kept; bounds what is kept to one mark a second


class Waiting(Protocol):
    """The mempool, as far as it is announced again."""

    @property
    def next_number(self) -> int: ...
    def numbered(
        self, first: int, end: int, at_most: int, most_bytes: int, /
    ) -> tuple[list[bytes], int]: ...


class _Time:
    """One of the times that everything is announced again; `done`: all numbers below it were."""

    __slots__ = ("_marks", "_pause_ns", "_ripe", "done")

    def __init__(self, pause_ns: int) -> None:
        self.done = 0
        self._pause_ns = pause_ns
        self._ripe = 0
        self._marks: deque[tuple[int, int]] = deque()  # when, and what had come up to this by then

    def mark(self, reached: int, now_ns: int) -> None:
        """Take note how far the time before this one has come."""
        marks = self._marks
        if not marks or (reached > marks[-1][1] and now_ns - marks[-1][0] >= MARK_NS):
            marks.append((now_ns, reached))

    def ripe(self, now_ns: int) -> int:
        """Up to which number the pause is over."""
        marks = self._marks
        while marks and now_ns - marks[0][0] >= self._pause_ns:
            self._ripe = marks.popleft()[1]
        return self._ripe


class AnnounceAgain:
    """`send` takes a TRANSACTIONS frame for every peer."""

    def __init__(self, pool: Waiting, send: Callable[[bytes], None]) -> None:
        self._pool = pool
        self._send = send
        self._times = [_Time(pause_ns) for pause_ns in PAUSES_NS]

    def turn(self, now_ns: int, *, heard: bool) -> int:
        """Announce some of what is due, if there is anybody to hear it; returns how many."""
        reached = self._pool.next_number
        batch, count = Batch(), 0
        for time in self._times:
            time.mark(reached, now_ns)
            ripe = time.ripe(now_ns)
            left_bytes = AT_ONCE_BYTES - batch.size_bytes
            if heard and time.done < ripe and count < AT_ONCE and left_bytes > 0:
                at_most = AT_ONCE - count
                raws, time.done = self._pool.numbered(time.done, ripe, at_most, left_bytes)
                if raws:
                    batch.add(memoryview(b"".join(raws)), np.array([*map(len, raws)], np.uint32))
                    count += len(raws)
            reached = time.done
        for body, _ in batch.bodies():
            self._send(body)
        return count
