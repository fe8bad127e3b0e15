"""Orphans: verified transactions whose parent this node has not seen yet.

Admission puts them here and takes them back when a parent arrives in the mempool or in a block. The
pool is keyed by exact bytes, not by transaction id: signatures were verified against each
transaction's own witness keys, and only the parent tells whether those keys own what is spent, so
several witness sets of one id may wait side by side and a bad one never displaces the good one.
Bounded by count and by bytes; the oldest leaves first. It holds bytes and arrival times, nothing
else; a restart forgets it.
"""

from __future__ import annotations

from collections import OrderedDict, deque
from collections.abc import Iterable
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Orphan:
    """One waiting transaction: its id[32], its bytes, and when it arrived."""

    txid: bytes
    raw: bytes
    arrived_ms: int


class OrphanPool:
    """Orphans in order of age, each waiting for one missing parent at a time.

    Waiting for one parent keeps the work bounded: an orphan is judged again once for each parent
    that it turned out to lack, never for each arrival.
    """

    __slots__ = (
        "_awaited",
        "_held",
        "_max_bytes",
        "_max_count",
        "_ready",
        "_size_bytes",
        "_waiting",
    )

    def __init__(self, max_count: int, max_bytes: int) -> None:
        self._max_count = max_count
        self._max_bytes = max_bytes
        self._held: OrderedDict[bytes, Orphan] = OrderedDict()  # by bytes, oldest first
        self._awaited: dict[bytes, bytes] = {}  # bytes -> the parent's id; absent when ready
        self._waiting: dict[bytes, dict[bytes, None]] = {}  # parent's id -> bytes of those waiting
        self._ready: deque[bytes] = deque()  # bytes; may name some that left meanwhile
        self._size_bytes = 0

    def __len__(self) -> int:
        return len(self._held)

    def __contains__(self, raw: object) -> bool:
        return raw in self._held

    @property
    def size_bytes(self) -> int:
        """Bytes of all held transactions together."""
        return self._size_bytes

    @property
    def has_ready(self) -> bool:
        """Whether some orphan's parent has arrived and it was not judged again yet."""
        return bool(self._ready)

    def add(self, orphan: Orphan, parent: bytes) -> int | None:
        """Hold ``orphan`` until ``parent`` arrives; return how many older ones left to make room.

        Returns None, and changes nothing, when the orphan alone exceeds the limits. An orphan that
        is already held keeps its age and stays as it is.
        """
        size_bytes = len(orphan.raw)
        if self._max_count == 0 or size_bytes > self._max_bytes:
            return None
        if orphan.raw in self._held:
            return 0
        evicted = 0
        while len(self._held) >= self._max_count or self._size_bytes + size_bytes > self._max_bytes:
            self.remove(next(iter(self._held)))
            evicted += 1
        self._held[orphan.raw] = orphan
        self._size_bytes += size_bytes
        self.wait_again(orphan.raw, parent)
        return evicted

    def wait_again(self, raw: bytes, parent: bytes) -> None:
        """Let a held orphan wait for a missing parent."""
        self._awaited[raw] = parent
        self._waiting.setdefault(parent, {})[raw] = None

    def remove(self, raw: bytes) -> None:
        """Drop a held orphan."""
        del self._held[raw]
        self._size_bytes -= len(raw)
        parent = self._awaited.pop(raw, None)
        if parent is not None:
            waiting = self._waiting[parent]
            del waiting[raw]
            if not waiting:
                del self._waiting[parent]

    def arrived(self, parents: Iterable[bytes]) -> None:
        """Make everything that waits for one of ``parents`` ready to be judged again."""
        waiting = self._waiting
        if not waiting or waiting.keys().isdisjoint(parents := list(parents)):
            return
        for parent in parents:
            for raw in waiting.pop(parent, ()):
                del self._awaited[raw]
                self._ready.append(raw)

    def next_ready(self) -> Orphan | None:
        """Return the next ready orphan or None; the caller removes it or lets it wait again."""
        while self._ready:
            orphan = self._held.get(self._ready.popleft())
            if orphan is not None and orphan.raw not in self._awaited:
                return orphan
        return None

    def expire(self, until_ms: int, at_most: int) -> int:
        """Drop up to ``at_most`` orphans that arrived by ``until_ms``; return how many."""
        old: list[bytes] = []
        for raw, orphan in self._held.items():
            if orphan.arrived_ms > until_ms or len(old) == at_most:
                break
            old.append(raw)
        for raw in old:
            self.remove(raw)
        return len(old)
