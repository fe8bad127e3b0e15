"""The mempool: verified transactions from the moment they are admitted until a block or policy ends
it.

Trays with verdicts come in from the verifiers, blocks from consensus; verdict codes, selections for
blocks and counts go out. This is the one door to its parts: ``node.admission`` judges,
``node.pool`` keeps, ``node.orphans`` waits, ``node.mempool_file`` saves and reloads. No clock, no
file and no socket in here: times are arguments, the chain's state comes through ``OutputView``. All
of it dies with its process; what was not saved is counted as lost at restart.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from node.admission import Admission, OutputView, TransactionPosition
from node.mempool_journal import Journal
from node.newcomers import parse
from node.orphans import OrphanPool
from node.params import ID_BYTES
from node.policy import PolicyLimits
from node.pool import ANCESTORS, FEE, PARENTS, RAW, Counters, Pool, Selection
from node.verdict import Verdict
from node.verification.columns import VerdictColumns

__all__ = [
    "TOTALS",
    "Counters",
    "Held",
    "Mempool",
    "OutputView",
    "PolicyLimits",
    "Reloaded",
    "Selection",
    "TransactionPosition",
]

_EXPIRED_ORPHANS_AT_ONCE = 5_000
_RELOADED_AT_ONCE = 256  # transactions per fetch from the store

# The counters that outlive the process; orphans do not.
TOTALS = (  # in the order of Counters
    "admitted",
    "finalised",
    "evicted",
    "replaced",
    "expired",
    "conflicted",
    "lost_at_restart",
)


@dataclass(frozen=True, slots=True)
class Reloaded:
    """What became of saved transactions: pending again, final, expired or rejected."""

    admitted_count: int = 0
    final_count: int = 0
    expired_count: int = 0
    rejected_count: int = 0


class Held(NamedTuple):
    """One pending transaction; ``parents`` and ``children`` are pending, too."""

    raw: bytes
    fee: int  # units
    admitted_ms: int
    ancestors: int  # with itself; exact or too high
    parents: tuple[bytes, ...]
    children: tuple[bytes, ...]
    pinned: bool  # in a live proposal


class Mempool:
    """Bounded pool of transactions that wait for a block, with a bounded pool of orphans beside it.

    ``view``: the chain's state, up to date whenever a method is called. ``min_fee``: units, the
    genesis minimum of every transaction. Not thread-safe; one stage owns it.
    """

    __slots__ = ("_admission", "_orphans", "_pool", "limits")

    def __init__(self, view: OutputView, limits: PolicyLimits, min_fee: int) -> None:
        self.limits = limits
        self._pool = Pool(limits, Counters())
        self._orphans = OrphanPool(limits.max_orphans, limits.max_orphan_bytes)
        self._admission = Admission(self._pool, self._orphans, view, limits, min_fee)

    def __len__(self) -> int:
        return len(self._pool.entries)

    def __contains__(self, txid: object) -> bool:
        return txid in self._pool.entries

    @property
    def counters(self) -> Counters:
        """How many came in and how each left; see ``Counters`` for the equations that hold."""
        return self._pool.counters

    @property
    def journal(self) -> Journal:
        """What comes in and leaves, numbered, for those who want to be told."""
        return self._pool.journal

    @property
    def verdict_counts(self) -> Sequence[int]:
        """Items of all trays by verdict code (256 numbers)."""
        return self._admission.verdict_counts

    @property
    def size_bytes(self) -> int:
        """Bytes of the pending transactions."""
        return self._pool.size_bytes

    @property
    def fees(self) -> int:
        """Fees of the pending transactions together, units."""
        return self._pool.fees

    @property
    def orphan_count(self) -> int:
        """Transactions that wait for a parent."""
        return len(self._orphans)

    @property
    def orphan_bytes(self) -> int:
        """Bytes of the transactions that wait for a parent."""
        return self._orphans.size_bytes

    def transactions(self, txids: Iterable[bytes]) -> list[bytes | None]:
        """Return the raw bytes of each pending transaction, None for those not pending."""
        get = self._pool.entries.get
        return [None if (entry := get(txid)) is None else entry[RAW] for txid in txids]

    def arrivals_ms(self, txids: Iterable[bytes]) -> list[int]:
        """Return when those that are pending were admitted, ms of Unix time."""
        return self._pool.arrivals_of_ms(txids)

    def spender(self, outpoint: bytes) -> bytes | None:
        """Return the txid of the pending transaction that spends ``outpoint``[33], if one does."""
        return self._pool.spent.get(outpoint)

    def output(self, outpoint: bytes) -> bytes | None:
        """Return the output[40] of a pending transaction at ``outpoint``[33], if it is one's."""
        return self._pool.output(outpoint) if outpoint[:ID_BYTES] in self._pool.entries else None

    def ids(self, start: int, count: int) -> list[bytes]:
        """Return ids of pending transactions in order of arrival, from a place on."""
        return list(islice(self._pool.entries, start, start + count))

    @property
    def next_number(self) -> int:
        """The number that the next admitted transaction gets."""
        return self._pool.next_number

    def numbered(
        self, first: int, end: int, at_most: int, most_bytes: int
    ) -> tuple[list[bytes], int]:
        """Return what is pending of the transactions admitted under these numbers, in order, and up
        to which number that is; the last one may exceed ``most_bytes``, and work is bounded.
        """
        return self._pool.numbered(first, end, at_most, most_bytes)

    def held(self, txid: bytes) -> Held | None:
        """Return what is known of a pending transaction."""
        pool = self._pool
        entry = pool.entries.get(txid)
        if entry is None:
            return None
        return Held(
            entry[RAW],
            entry[FEE],
            pool.admitted_ms(txid),
            entry[ANCESTORS],
            tuple(each for each in entry[PARENTS] if each in pool.entries),
            pool.children(txid),
            pool.any_pinned((txid,)),
        )

    def try_out(self, txid: bytes, raw: bytes, now_ms: int) -> tuple[Verdict, int]:
        """Say what would be answered to a transaction whose encoding and signatures are good, and
        its fee in units where that is known; nothing changes.
        """
        return self._admission.try_out(parse(txid, raw, now_ms))

    def admit(
        self,
        columns: VerdictColumns,
        n_items: int,
        payload: memoryview,
        offsets: npt.NDArray[np.uint32],
        now_ms: int,
        codes_out: npt.NDArray[np.uint8],
        *,
        one_by_one: bool = False,
    ) -> None:
        """Judge the ``n_items`` transactions of a tray in order and keep the admissible ones.

        ``payload[offsets[i]:offsets[i + 1]]`` are the bytes of item i; ``columns`` is what the
        verifier found; ``codes_out`` u8[>= n_items] receives one ``Verdict`` each. Items that the
        verifier rejected keep its code. Nothing of the tray is referred to afterwards. Judging a
        tray again is harmless. ``one_by_one`` forgoes the fast path (for comparison; the outcome is
        the same).
        """
        self._admission.judge_tray(
            columns, n_items, payload, offsets, now_ms, codes_out, one_by_one=one_by_one
        )

    def select(self, max_bytes: int, max_count: int) -> Selection:
        """Choose what goes into a block: parents before children, within both limits.

        Everything in order of arrival if it fits, else the best fee rates first; a transaction
        ranks by the lowest fee rate among itself and its pending ancestors.
        """
        return self._pool.select(max_bytes, max_count)

    def committed(self, block_txids: Sequence[bytes], transactions: Sequence[bytes]) -> None:
        """Take note of a block that the view has already applied.

        Its transactions leave as finalised, whatever spends what they spend leaves as conflicted
        (with descendants, pinned or not), and orphans that waited for them are judged again.
        ``transactions`` are the raw bytes in the same order; the pool need not have seen them
        before.
        """
        self._pool.committed(block_txids, transactions)
        self._admission.committed(block_txids)
        self._orphans.arrived(block_txids)
        self.adopt_ready()

    def adopt_ready(self) -> None:
        """Go on with orphans whose parents arrived; a call's work is bounded, call again later."""
        if self._orphans.has_ready:
            self._admission.adopt()

    @property
    def has_ready_orphans(self) -> bool:
        """Whether ``adopt_ready`` has something left to do."""
        return self._orphans.has_ready

    def pin(self, txids: Iterable[bytes]) -> None:
        """Protect a live proposal's transactions from replacement, eviction and expiry.

        Held or still to come. Pins count: a transaction in two proposals needs two ``unpin``; a
        block that contains it takes all its pins away.
        """
        self._pool.pin(txids)

    def unpin(self, txids: Iterable[bytes]) -> None:
        """Take back one pin of each."""
        self._pool.unpin(txids)

    @property
    def pinned_count(self) -> int:
        """Distinct txids that are pinned, held or not."""
        return self._pool.pinned_count

    def expire(self, now_ms: int) -> int:
        """Drop what was admitted ``expiry_ms`` ago or earlier, with descendants, and such orphans.

        Returns how many pending transactions left. At most some thousands a call: call it
        regularly.
        """
        until_ms = now_ms - self.limits.expiry_ms
        orphan_count = self._orphans.expire(until_ms, _EXPIRED_ORPHANS_AT_ONCE)
        self.counters.orphans_expired += orphan_count
        return self._pool.expire(until_ms)

    # -- across restarts ------------------------------------------------------------------------

    def records(self) -> Iterator[tuple[bytes, bytes, int]]:
        """Yield (txid, raw bytes, arrival time in ms) of everything pending, parents before
        children.
        """
        return self._pool.records()

    def resume(self, totals: Counters) -> None:
        """Go on from the totals of an earlier life whose pending transactions are gone.

        For a pool that never admitted anything (``ValueError`` otherwise): what those totals show
        as pending is counted as lost at restart, so the equation holds. Orphans are not carried
        over.
        """
        if self.counters != Counters():
            raise ValueError("totals can be resumed only before anything was admitted")
        for name in TOTALS:
            setattr(self.counters, name, getattr(totals, name))
        self.counters.lost_at_restart += self.counters.pending

    def reload(
        self, records: Sequence[tuple[bytes, bytes, int]], totals: Counters, now_ms: int
    ) -> Reloaded:
        """Take back what an earlier life saved.

        ``records`` as from ``records()``; their signatures were verified before they were saved,
        all other checks are made again. A pool that never admitted anything goes on from ``totals``
        too; else (after ``resume``) the records count as newly admitted.
        """
        counters = self.counters
        carries_on = counters == Counters() and totals.pending >= len(records)
        if carries_on:
            self.resume(totals)
        until_ms = now_ms - self.limits.expiry_ms
        verdicts: list[Verdict] = []
        for start in range(0, len(records), _RELOADED_AT_ONCE):
            chunk = records[start : start + _RELOADED_AT_ONCE]
            batch = [parse(*record) for record in chunk if record[2] > until_ms]
            if batch:
                verdicts.extend(self._admission.offer(batch))
        admitted_count = verdicts.count(Verdict.ADMITTED)
        final_count = verdicts.count(Verdict.FINAL)
        expired_count = len(records) - len(verdicts)
        if carries_on:
            counters.admitted -= admitted_count  # they were admitted once, in the earlier life
            counters.lost_at_restart -= admitted_count + final_count + expired_count
            counters.finalised += final_count
            counters.expired += expired_count
        return Reloaded(
            admitted_count, final_count, expired_count, len(verdicts) - admitted_count - final_count
        )
