"""The order of fees: which pool entry pays best, which worst, and which is oldest.

The pool tells it of every entry that comes and goes; block selection, eviction and expiry ask it.
It keeps one row per entry in flat columns, in order of arrival, so that a tray is appended in one
step and a question about 100,000 entries is a few NumPy calls. Rows of departed entries are marked
dead and swept when they outnumber the live ones. A sequence number names an entry for ever; a row
is only where it lies.

Rates rank by (rate, arrival): of equal rates the earlier entry is the better one. The pool gives a
child a rate no higher than its parents', so the better half of any cut contains the parents of all
it contains.
"""

from __future__ import annotations

from array import array
from bisect import bisect_left
from collections.abc import Sequence
from heapq import heapify, heappop, heappush
from itertools import compress

import numpy as np
import numpy.typing as npt

_SWEEP_ROWS = 4096  # below this, dead rows are not worth a sweep
_LOOKED_AT = 16_384  # rows in one call of `numbered`: some microseconds

# One entry as eviction sees it: (rate, -sequence, txid). The smallest is the worst.
Candidate = tuple[int, int, bytes]


class FeeOrder:
    """Columns over the entries of one pool; rates are units per 1,000 bytes, times milliseconds."""

    __slots__ = (
        "_admitted_ms",
        "_alive",
        "_heap",
        "_heaped",
        "_ids",
        "_live_count",
        "_next_sequence",
        "_rates",
        "_sequences",
    )

    def __init__(self) -> None:
        self._ids: list[bytes] = []
        self._sequences = array("q")
        self._rates = array("q")
        self._admitted_ms = array("q")
        self._alive = bytearray()
        self._live_count = 0
        self._next_sequence = 0
        # The heap exists only while the pool is at its limits; rows from _heaped on are not in it
        # yet.
        self._heap: list[Candidate] | None = None
        self._heaped = 0

    def __len__(self) -> int:
        return self._live_count

    @property
    def row_count(self) -> int:
        """Rows held, dead ones included; stays below twice the live ones and a constant."""
        return len(self._ids)

    def append(self, txid: bytes, rate: int, admitted_ms: int) -> int:
        """Add one entry; return its sequence number."""
        sequence = self._next_sequence
        self._next_sequence = sequence + 1
        self._ids.append(txid)
        self._sequences.append(sequence)
        self._rates.append(rate)
        self._admitted_ms.append(admitted_ms)
        self._alive.append(1)
        self._live_count += 1
        return sequence

    def extend(
        self, txids: Sequence[bytes], rates: npt.NDArray[np.int64], admitted_ms: int
    ) -> range:
        """Add entries of one arrival time; return their sequence numbers."""
        count = len(txids)
        first = self._next_sequence
        sequences = range(first, first + count)
        self._next_sequence = first + count
        self._ids.extend(txids)
        self._sequences.frombytes(np.arange(first, first + count, dtype=np.int64).tobytes())
        self._rates.frombytes(rates.tobytes())
        self._admitted_ms.frombytes(np.full(count, admitted_ms, dtype=np.int64).tobytes())
        self._alive.extend(b"\1" * count)
        self._live_count += count
        return sequences

    def _row(self, sequence: int) -> int:
        return bisect_left(self._sequences, sequence)

    def rate(self, sequence: int) -> int:
        """Return the rate of a live entry."""
        return self._rates[self._row(sequence)]

    def admitted_ms(self, sequence: int) -> int:
        """Return the arrival time of a live entry."""
        return self._admitted_ms[self._row(sequence)]

    def raise_rate(self, sequence: int, rate: int) -> None:
        """Give a live entry a higher rate (its parents left it by becoming final)."""
        row = self._row(sequence)
        self._rates[row] = rate
        if self._heap is not None and sequence < self._heaped:
            heappush(self._heap, (rate, -sequence, self._ids[row]))

    def discard(self, sequence: int) -> None:
        """Remove one live entry."""
        self._alive[self._row(sequence)] = 0
        self._live_count -= 1
        self._sweep()

    def discard_many(self, sequences: Sequence[int]) -> None:
        """Remove live entries, each named once."""
        rows = np.searchsorted(
            np.frombuffer(self._sequences, dtype=np.int64), np.asarray(sequences, dtype=np.int64)
        )
        np.frombuffer(self._alive, dtype=np.uint8)[rows] = 0
        self._live_count -= len(sequences)
        self._sweep()

    def _sweep(self) -> None:
        if len(self._ids) <= 2 * self._live_count + _SWEEP_ROWS:
            return
        alive = np.frombuffer(self._alive, dtype=np.uint8).astype(bool)
        self._ids = list(compress(self._ids, self._alive))
        for name in ("_sequences", "_rates", "_admitted_ms"):
            kept = np.frombuffer(getattr(self, name), dtype=np.int64)[alive]
            setattr(self, name, array("q", kept.tobytes()))
        self._alive = bytearray(b"\1" * len(self._ids))

    def _live_rows(self) -> npt.NDArray[np.intp]:
        return np.flatnonzero(np.frombuffer(self._alive, dtype=np.uint8))

    def arrival_ms(self, sequence: int) -> int:
        """Return the arrival time of a live entry."""
        return self._admitted_ms[self._row(sequence)]

    def arrivals_ms(self) -> list[int]:
        """Return the arrival times of the live entries, in order of arrival in the pool."""
        times: list[int] = np.frombuffer(self._admitted_ms, dtype=np.int64)[
            self._live_rows()
        ].tolist()
        return times

    @property
    def next_sequence(self) -> int:
        """The number of the next entry."""
        return self._next_sequence

    def numbered(self, first: int, end: int, at_most: int) -> tuple[list[tuple[int, bytes]], int]:
        """Return number and id of live entries numbered from ``first`` to below ``end``, ascending,
        and the number that was looked up to: a call looks at some thousands, and finds ``at_most``.
        """
        start, stop = self._row(first), self._row(end)
        if stop - start > _LOOKED_AT:
            stop = start + _LOOKED_AT
            end = self._sequences[stop]
        alive = np.frombuffer(self._alive, np.uint8, stop)[start:]
        rows: list[int] = (np.flatnonzero(alive)[: at_most + 1] + start).tolist()
        if len(rows) > at_most:
            end = self._sequences[rows.pop()]
        return [(self._sequences[row], self._ids[row]) for row in rows], end

    def arrived_until(self, time_ms: int, at_most: int) -> list[bytes]:
        """Return ids of entries that arrived at ``time_ms`` or before, in pool order."""
        old = np.frombuffer(self._admitted_ms, dtype=np.int64) <= time_ms
        old &= np.frombuffer(self._alive, dtype=np.uint8).astype(bool)
        return [self._ids[row] for row in np.flatnonzero(old)[:at_most].tolist()]

    def best(self, count: int) -> list[bytes]:
        """Return the ids of the ``count`` best entries, best first (so parents before children)."""
        rows = self._live_rows()
        rates = np.frombuffer(self._rates, dtype=np.int64)[rows]
        if count < len(rows):
            # Without a full sort: all above the rate at the cut, and the earliest of those at it.
            threshold = np.partition(rates, len(rates) - count)[len(rates) - count]
            above = rates > threshold
            at_cut = np.flatnonzero(rates == threshold)[: count - int(np.count_nonzero(above))]
            above[at_cut] = True
            rows = rows[above]
            rates = rates[above]
        ids = self._ids
        return [ids[row] for row in rows[np.argsort(-rates, kind="stable")].tolist()]

    def pop_worst(self, below: int) -> Candidate | None:
        """Take the worst entry out of the eviction order (not out of the pool).

        None, and nothing is taken, when its rate is not below ``below`` or there is no entry left.
        What is popped and stays in the pool must come back through ``push``.
        """
        heap = self._complete_heap()
        while heap:
            candidate = heap[0]
            if candidate[0] >= below:
                return None
            heappop(heap)
            row = self._row(-candidate[1])
            # Dead entries and outdated rates are dropped here, not searched for when they arise.
            if (
                row < len(self._ids)
                and self._sequences[row] == -candidate[1]
                and self._alive[row]
                and self._rates[row] == candidate[0]
            ):
                return candidate
        return None

    def has_worse(self, below: int) -> bool:
        """Whether an entry that eviction could take has a rate below ``below``."""
        candidate = self.pop_worst(below)
        if candidate is None:
            return False
        self.push((candidate,))
        return True

    def push(self, candidates: Sequence[Candidate]) -> None:
        """Put popped entries back into the eviction order."""
        if self._heap is not None:
            for candidate in candidates:
                heappush(self._heap, candidate)

    def forget_worst(self) -> None:
        """Free the eviction order; it is built again when the pool is full again."""
        self._heap = None

    def _complete_heap(self) -> list[Candidate]:
        heap = self._heap
        if heap is not None and len(heap) <= 2 * self._live_count + _SWEEP_ROWS:
            if self._heaped == self._next_sequence:
                return heap
            for row in range(self._row(self._heaped), len(self._ids)):
                if self._alive[row]:
                    heappush(heap, (self._rates[row], -self._sequences[row], self._ids[row]))
        else:
            rows = self._live_rows()
            rates = np.frombuffer(self._rates, dtype=np.int64)[rows]
            sequences = np.frombuffer(self._sequences, dtype=np.int64)[rows]
            ids = self._ids
            heap = list(
                zip(
                    rates.tolist(),
                    (-sequences).tolist(),
                    [ids[row] for row in rows.tolist()],
                    strict=True,
                )
            )
            heapify(heap)
            self._heap = heap
        self._heaped = self._next_sequence
        return heap
