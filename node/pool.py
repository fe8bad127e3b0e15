"""The pool: transactions that wait for a block, and which output each of them spends.

``node.admission`` puts judged transactions in; blocks, eviction, replacement and expiry take them
out. Kept per transaction is one tuple: its bytes, fee, outpoints, parents in the pool, ancestor
count and its number in the order of fees. No two entries spend one outpoint. Entries lie in order
of arrival, and a parent always arrives before its child, so that order is topological. What leaves
takes its descendants along, except into a block. Bounded by count and by bytes, which admission
asks for before it inserts.

Children are found through ``spent`` by those who know an outpoint, and through ``_children`` by
walks over families: a row there exists only for a parent whose child waits too, so plain payments
never pay for it.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import chain, repeat
from operator import itemgetter
from typing import Final

import numpy as np
import numpy.typing as npt

from node.fee_order import Candidate, FeeOrder
from node.mempool_journal import Journal
from node.params import (
    ID_BYTES,
    INPUT_BYTES,
    MIN_TX_BYTES,
    OUTPOINT_BYTES,
    OUTPUT_BYTES,
    TX_HEADER_BYTES,
)
from node.policy import PolicyLimits, fee_rate

# raw bytes, fee, outpoints, ids of parents that were in the pool, ancestors with itself, order
# number. A plain tuple: C code makes 70,000 a second of them, and the cyclic collector lets go of a
# tuple that holds only bytes, integers and such tuples.
Entry = tuple[bytes, int, tuple[bytes, ...], tuple[bytes, ...], int, int]
RAW: Final = 0
FEE: Final = 1
OUTPOINTS: Final = 2
PARENTS: Final = 3
ANCESTORS: Final = 4
SEQUENCE: Final = 5

_EXPIRE_AT_ONCE = 5_000  # entries per call of expire(): a few milliseconds
_SELECT_MISSES = 1_000  # entries that a full block may pass over while it looks for one that fits

_RAW = itemgetter(RAW)
_FEE = itemgetter(FEE)
_OUTPOINTS = itemgetter(OUTPOINTS)
_SEQUENCE = itemgetter(SEQUENCE)


@dataclass(frozen=True, slots=True)
class Selection:
    """Transactions for a block, parents before children, with the sum of their fees in units."""

    txids: list[bytes]
    transactions: list[bytes]
    fees: int


@dataclass(slots=True)
class Counters:
    """Everything that ever entered the pool, and how it left (transactions).

    ``admitted == finalised + evicted + replaced + expired + conflicted + lost_at_restart +
    pending`` at every moment, where pending is what the pool holds. ``finalised`` counts what left
    into a block, not the block's other transactions.

    ``orphaned == adopted + orphans_evicted + orphans_expired + orphans_rejected + orphans held``;
    an adopted orphan counts as admitted too.
    """

    admitted: int = 0
    finalised: int = 0
    evicted: int = 0
    replaced: int = 0
    expired: int = 0
    conflicted: int = 0
    lost_at_restart: int = 0
    orphaned: int = 0
    adopted: int = 0
    orphans_evicted: int = 0
    orphans_expired: int = 0
    orphans_rejected: int = 0

    @property
    def pending(self) -> int:
        """What the pool must hold for the books to balance."""
        return self.admitted - (
            self.finalised
            + self.evicted
            + self.replaced
            + self.expired
            + self.conflicted
            + self.lost_at_restart
        )


class Pool:
    """The entries with their indexes; changes either happen whole or not at all."""

    __slots__ = (
        "_children",
        "_order",
        "_pinned",
        "_set_aside",
        "counters",
        "entries",
        "fees",
        "journal",
        "limits",
        "size_bytes",
        "spent",
    )

    def __init__(self, limits: PolicyLimits, counters: Counters) -> None:
        self.limits = limits
        self.counters = counters
        self.journal = Journal()
        self.entries: dict[bytes, Entry] = {}  # by txid, in order of arrival
        self.spent: dict[bytes, bytes] = {}  # outpoint -> txid of the entry that spends it
        self.size_bytes = 0
        self.fees = 0
        self._children: dict[bytes, set[bytes]] = {}  # txid -> txids of entries that spend it
        self._order = FeeOrder()
        self._pinned: dict[bytes, int] = {}  # txid -> how many live proposals name it
        # Entries that eviction came across and may not take while something is pinned.
        self._set_aside: list[Candidate] = []

    # -- coming in ------------------------------------------------------------------------------

    def has_room(self, count: int, size_bytes: int) -> bool:
        """Whether ``count`` more transactions of ``size_bytes`` together fit without eviction."""
        limits = self.limits
        return (
            len(self.entries) + count <= limits.max_count
            and self.size_bytes + size_bytes <= limits.max_bytes
        )

    def insert(
        self,
        txid: bytes,
        raw: bytes,
        fee: int,
        rate: int,
        outpoints: tuple[bytes, ...],
        parents: tuple[bytes, ...],
        ancestors: int,
        admitted_ms: int,
    ) -> None:
        """Add one judged transaction for which there is room."""
        sequence = self._order.append(txid, rate, admitted_ms)
        self.entries[txid] = (raw, fee, outpoints, parents, ancestors, sequence)
        for outpoint in outpoints:
            self.spent[outpoint] = txid
        for parent in parents:
            self._children.setdefault(parent, set()).add(txid)
        self.size_bytes += len(raw)
        self.fees += fee
        self.counters.admitted += 1
        self.journal.added((txid,), (raw,))

    def insert_plain(
        self,
        txids: Sequence[bytes],
        raws: Sequence[bytes],
        fees: Sequence[int],
        rates: npt.NDArray[np.int64],
        outpoints: Iterable[tuple[bytes, ...]],
        spenders: dict[bytes, bytes],
        admitted_ms: int,
    ) -> None:
        """Add judged transactions without parents in the pool, for all of which there is room.

        ``spenders`` maps every one of their outpoints to the txid that spends it.
        """
        sequences = self._order.extend(txids, rates, admitted_ms)
        self.entries.update(
            zip(
                txids,
                zip(raws, fees, outpoints, repeat(()), repeat(1), sequences, strict=False),
                strict=True,
            )
        )
        self.spent.update(spenders)
        self.size_bytes += sum(map(len, raws))
        self.fees += sum(fees)
        self.counters.admitted += len(txids)
        self.journal.added(txids, raws)

    def rate(self, txid: bytes) -> int:
        """Fee rate that an entry ranks by: the lowest of its own and its pending ancestors'."""
        return self._order.rate(self.entries[txid][SEQUENCE])

    def output(self, outpoint: bytes) -> bytes | None:
        """Return the 40-byte output of an entry, or None; the entry's id must be in the pool."""
        raw = self.entries[outpoint[:ID_BYTES]][RAW]
        index = outpoint[ID_BYTES]
        if index >= raw[2]:
            return None
        start = TX_HEADER_BYTES + INPUT_BYTES * raw[1] + OUTPUT_BYTES * index
        return raw[start : start + OUTPUT_BYTES]

    def admitted_ms(self, txid: bytes) -> int:
        """When an entry arrived, ms since 1970."""
        return self._order.admitted_ms(self.entries[txid][SEQUENCE])

    def children(self, txid: bytes) -> tuple[bytes, ...]:
        """Return the ids of the entries that spend an entry's outputs, ascending."""
        return tuple(sorted(self._children.get(txid, ())))

    def could_evict(self, rate: int) -> bool:
        """Whether there is an entry that ranks below a rate."""
        return self._order.has_worse(rate)

    def ancestor_count(self, parents: Collection[bytes], limit: int) -> int:
        """Count the distinct entries among ``parents`` and their ancestors; stops above ``limit``.

        A stored count is exact or too high (ancestors become final), so the walk is made only when
        the sum of the stored ones is over the limit.
        """
        entries = self.entries
        bound = sum(entries[parent][ANCESTORS] for parent in parents)
        if bound <= limit:
            return bound
        seen = set(parents)
        walk = list(seen)
        while walk and len(seen) <= limit:
            for parent in entries[walk.pop()][PARENTS]:
                if parent in entries and parent not in seen:
                    seen.add(parent)
                    walk.append(parent)
        return len(seen)

    # -- families and pins ----------------------------------------------------------------------

    def family(self, roots: Iterable[bytes], limit: int | None = None) -> dict[bytes, None] | None:
        """Return ``roots`` and all their descendants, None when more than ``limit``."""
        found = dict.fromkeys(roots)
        children = self._children
        if children:
            walk = list(found)
            while walk and (limit is None or len(found) <= limit):
                for child in children.get(walk.pop(), ()):
                    if child not in found:
                        found[child] = None
                        walk.append(child)
        return None if limit is not None and len(found) > limit else found

    def pin(self, txids: Iterable[bytes]) -> None:
        """Protect transactions of a live proposal, held or still to come; one pin per proposal."""
        pinned = self._pinned
        for txid in txids:
            pinned[txid] = pinned.get(txid, 0) + 1

    def unpin(self, txids: Iterable[bytes]) -> None:
        """Take back one pin each; txids that are not pinned (any more) are ignored."""
        pinned = self._pinned
        for txid in txids:
            count = pinned.pop(txid, 0)
            if count > 1:
                pinned[txid] = count - 1
        self._restore_set_aside()

    def any_pinned(self, txids: Iterable[bytes]) -> bool:
        """Whether one of ``txids`` is pinned."""
        return bool(self._pinned) and not self._pinned.keys().isdisjoint(txids)

    @property
    def pinned_count(self) -> int:
        """Distinct txids that are pinned."""
        return len(self._pinned)

    # -- going out ------------------------------------------------------------------------------

    def remove(self, txids: Collection[bytes]) -> int:
        """Take out entries that are closed under descendants; return how many there were."""
        entries, spent, children = self.entries, self.spent, self._children
        for txid in txids:
            raw, fee, outpoints, parents, _, sequence = entries.pop(txid)
            for outpoint in outpoints:
                del spent[outpoint]
            for parent in parents:
                siblings = children.get(parent)
                if siblings is not None:
                    siblings.discard(txid)
                    if not siblings:
                        del children[parent]
            self._order.discard(sequence)
            self.size_bytes -= len(raw)
            self.fees -= fee
        self.journal.removed(txids)
        return len(txids)

    def victims(
        self, count: int, size_bytes: int, rate: int, leaving: Collection[bytes]
    ) -> list[bytes] | None:
        """Choose entries to evict so that ``count`` entries and ``size_bytes`` bytes become free.

        Only entries of a rate below ``rate``, lowest first, descendants before their ancestors,
        nothing pinned and nothing that a pinned entry descends from; those in ``leaving`` are
        passed over. None when that does not make enough room. The chosen ones must then be removed.
        """
        chosen: dict[bytes, Candidate] = {}
        passed: list[Candidate] = []
        while count > 0 or size_bytes > 0:
            candidate = self._order.pop_worst(rate)
            if candidate is None:
                self._order.push([*chosen.values(), *passed])
                return None
            txid = candidate[2]
            if txid in chosen:  # set aside, and since then in a rebuilt order as well
                continue
            if txid in leaving:
                passed.append(candidate)
            elif txid in self._pinned or any(
                child not in chosen and child not in leaving
                for child in self._children.get(txid, ())
            ):
                self._set_aside.append(candidate)
            else:
                chosen[txid] = candidate
                count -= 1
                size_bytes -= len(self.entries[txid][RAW])
        return list(chosen)

    def _restore_set_aside(self) -> None:
        if self._set_aside:
            self._order.push(self._set_aside)
            self._set_aside.clear()

    def expire(self, until_ms: int) -> int:
        """Drop entries admitted at ``until_ms`` or before, with descendants; return how many.

        Pinned entries and their ancestors stay. The work of one call is bounded; the next call goes
        on.
        """
        old = self._order.arrived_until(until_ms, _EXPIRE_AT_ONCE + len(self._pinned))
        gone: dict[bytes, None] = {}
        for txid in old:
            if txid not in gone:
                family = self.family((txid,))
                assert family is not None
                if not self.any_pinned(family):
                    gone.update(family)
                    if len(gone) >= _EXPIRE_AT_ONCE:
                        break
        self.remove(gone)
        self.counters.expired += len(gone)
        return len(gone)

    def committed(self, block_txids: Sequence[bytes], transactions: Sequence[bytes]) -> None:
        """Take out a block's transactions, then what conflicts with the block, with descendants."""
        entries, spent = self.entries, self.spent
        count_before = len(entries)
        taken: list[Entry | None] = list(map(entries.pop, block_txids, repeat(None)))
        known_count = count_before - len(entries)
        conflicting: dict[bytes, None] = {}
        if known_count == len(taken):
            known: list[Entry] = taken  # type: ignore[assignment]
        else:
            known = [entry for entry in taken if entry is not None]
            for entry, raw in zip(taken, transactions, strict=True):
                if entry is None:
                    for outpoint in raw_outpoints(raw):
                        spender = spent.get(outpoint)
                        if spender is not None:
                            conflicting[spender] = None
        if known:
            outpoints = chain.from_iterable(map(_OUTPOINTS, known))
            deque(map(spent.__delitem__, outpoints), maxlen=0)
            self._order.discard_many(list(map(_SEQUENCE, known)))
            self.size_bytes -= sum(map(len, map(_RAW, known)))
            self.fees -= sum(map(_FEE, known))
            self.counters.finalised += known_count
            self.journal.left_into_block(known_count)
        if self._pinned:
            deque(map(self._pinned.pop, block_txids, repeat(None)), maxlen=0)
        if self._children and known:
            self._release_children(block_txids)
        if conflicting:
            # A block's transaction spends what one of these spends; those in the block are gone
            # already.
            family = self.family(txid for txid in conflicting if txid in entries)
            assert family is not None
            self.counters.conflicted += self.remove(family)
            for txid in family:
                self._pinned.pop(txid, None)
        if self._has_ample_room():
            self._order.forget_worst()
            self._set_aside.clear()
        else:
            self._restore_set_aside()

    def _has_ample_room(self) -> bool:
        return (
            2 * len(self.entries) < self.limits.max_count
            and 2 * self.size_bytes < self.limits.max_bytes
        )

    def _release_children(self, block_txids: Iterable[bytes]) -> None:
        """Let the children of final transactions rank without them."""
        entries = self.entries
        freed: list[bytes] = []
        for txid in block_txids:
            freed.extend(child for child in self._children.pop(txid, ()) if child in entries)
        while freed:
            txid = freed.pop()
            raw, fee, _, parents, _, sequence = entries[txid]
            rate = min([fee_rate(fee, len(raw)), *(self.rate(p) for p in parents if p in entries)])
            if rate > self._order.rate(sequence):
                self._order.raise_rate(sequence, rate)
                freed.extend(self._children.get(txid, ()))

    # -- looking --------------------------------------------------------------------------------

    def select(self, max_bytes: int, max_count: int) -> Selection:
        """Choose transactions for a block of at most ``max_bytes`` and ``max_count``.

        Everything, in order of arrival, where everything fits; else the best fee rates first, where
        a child ranks no better than its parents. Either order has parents before children.
        """
        entries = self.entries
        if len(entries) <= max_count and self.size_bytes <= max_bytes:
            return Selection(list(entries), list(map(_RAW, entries.values())), self.fees)
        # All that could fit if every transaction were as small as can be, and then some to pass
        # over.
        candidates = min(max_count, max_bytes // MIN_TX_BYTES) + _SELECT_MISSES
        txids: list[bytes] = []
        raws: list[bytes] = []
        skipped: set[bytes] = set()
        room_bytes, fees = max_bytes, 0
        for txid in self._order.best(candidates):
            if len(txids) == max_count or len(skipped) == _SELECT_MISSES:
                break
            raw, fee, _, parents, _, _ = entries[txid]
            if len(raw) > room_bytes or (parents and not skipped.isdisjoint(parents)):
                skipped.add(txid)
                continue
            txids.append(txid)
            raws.append(raw)
            room_bytes -= len(raw)
            fees += fee
        return Selection(txids, raws, fees)

    @property
    def next_number(self) -> int:
        """The number that the next entry gets; they ascend with the order of arrival."""
        return self._order.next_sequence

    def numbered(
        self, first: int, end: int, at_most: int, most_bytes: int
    ) -> tuple[list[bytes], int]:
        """Return the bytes of entries numbered from ``first`` to below ``end``, in order, and up to
        which number these are all; ``most_bytes`` may be exceeded by the last of them.
        """
        found, reached = self._order.numbered(first, end, at_most)
        raws: list[bytes] = []
        size_bytes = 0
        for number, txid in found:
            if size_bytes >= most_bytes:
                return raws, number
            raws.append(self.entries[txid][RAW])
            size_bytes += len(raws[-1])
        return raws, reached

    def arrivals_of_ms(self, txids: Iterable[bytes]) -> list[int]:
        """Return the arrival times of those entries that are in the pool."""
        entries, order = self.entries, self._order
        return [order.arrival_ms(entries[txid][SEQUENCE]) for txid in txids if txid in entries]

    def records(self) -> Iterator[tuple[bytes, bytes, int]]:
        """Yield txid, raw bytes and arrival time in ms of every entry, parents before children."""
        for (txid, entry), admitted_ms in zip(
            self.entries.items(), self._order.arrivals_ms(), strict=True
        ):
            yield txid, entry[RAW], admitted_ms


def raw_outpoints(raw: bytes) -> list[bytes]:
    """Return the outpoints[33] that a canonical transaction spends."""
    end = TX_HEADER_BYTES + INPUT_BYTES * raw[1]
    return [raw[at : at + OUTPOINT_BYTES] for at in range(TX_HEADER_BYTES, end, INPUT_BYTES)]
