"""Admission: judges verified transactions against chain, mempool and policy, and inserts the good
ones.

Trays come from the verifiers (bytes and ``VerdictColumns``), outputs from the chain's store, one
multi-get a tray; verdict codes go into the tray's admission slot. Judged in two steps. What only
the chain decides (owners, sums, fees) is computed for the whole tray in arrays. What the mempool
decides happens in the order of the tray: runs of transactions that touch nothing held are inserted
together, every other one by itself. Both ways give the same verdicts and the same pool. Orphans
whose parent arrived are judged when the tray is done, within a budget, so that no transaction can
buy a long stall.

Order of the checks: known or final, inputs found, owners, sums, minimum fee, relay fee, conflict
and replacement, ancestors, room. A rejected transaction leaves no trace. Owns nothing but the
rules; when the store fails, the pool holds a whole number of transactions and judging the same tray
again is harmless.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple, Protocol

import numpy as np
import numpy.typing as npt

from node.newcomers import Newcomer, TrayItems, parse
from node.orphans import Orphan, OrphanPool
from node.params import (
    ID_BYTES,
    KEY_BYTES,
    MAX_AMOUNT,
    OUTPUT_BYTES,
)
from node.policy import RATE_BYTES, PolicyLimits, fee_rate, relay_fee
from node.pool import FEE, RAW, Pool
from node.verdict import Verdict
from node.verification.columns import VerdictColumns

_ADOPTED_INPUTS = 2_048  # inputs of orphans judged per call: some milliseconds of the store's time
_RECENTLY_FINAL = (
    16_384  # ids in a generation, of which there are two; asking the store costs 60 us
)
_FEW_ITEMS = 4  # up to so many a tray is judged without arrays, whose cost is per tray
_U64 = struct.Struct("<Q")
_NO_OUTPUT = bytes(OUTPUT_BYTES)
_MISSING = 255  # stands in the codes of chain facts for "an input was not in the store"

_ADMITTED = int(Verdict.ADMITTED)
_KNOWN = int(Verdict.KNOWN)
_FINAL = int(Verdict.FINAL)

assert _MISSING not in Verdict.__members__.values()
assert OUTPUT_BYTES % 8 == 0
assert KEY_BYTES == OUTPUT_BYTES - 8

Codes = npt.NDArray[np.uint8]


class TransactionPosition(Protocol):
    """Where a final transaction is: block height, position in it, number of its outputs."""

    @property
    def height(self) -> int: ...
    @property
    def position(self) -> int: ...
    @property
    def n_outputs(self) -> int: ...


class OutputView(Protocol):
    """The chain's state as the mempool reads it, with every block that it was told of applied.

    ``get_outputs``: the 40-byte output of each outpoint[33], None where there is none (any more).
    ``find_transaction``: the position of a final transaction, None if the id is not final. It must
    know the ids of genesis allocations and rewards as well: else a spent one of their outputs looks
    like an output whose transaction has yet to arrive, and its double spend waits as an orphan.
    """

    def get_outputs(self, outpoints: list[bytes], /) -> list[bytes | None]: ...
    def find_transaction(self, txid: bytes, /) -> TransactionPosition | None: ...


class _Funding(NamedTuple):
    """What a newcomer's inputs bring: its fee, and the entries of the pool that it spends from."""

    fee: int
    parents: tuple[bytes, ...]


class _Place(NamedTuple):
    """Where a good transaction would stand in the pool, what it would replace, and by how much the
    pool would then be over its limits.
    """

    rate: int
    ancestors: int
    leaving: dict[bytes, None]
    count_over: int
    bytes_over: int


class _ChainFacts(NamedTuple):
    """What the chain alone says about each transaction of a tray.

    ``codes``: None when all are good, else ``Verdict`` or ``_MISSING``; ``fees``: units,
    meaningless for ``_MISSING``; ``outputs``: what the store holds per input, None too where it was
    not asked.
    """

    codes: Codes | None
    fees: npt.NDArray[np.int64]
    outputs: list[bytes | None]


class Admission:
    """The rules of one mempool, applied to trays, to orphans and to what a file brings back."""

    __slots__ = (
        "_final",
        "_final_before",
        "_limits",
        "_min_fee",
        "_orphans",
        "_pool",
        "_view",
        "verdict_counts",
    )

    def __init__(
        self,
        pool: Pool,
        orphans: OrphanPool,
        view: OutputView,
        limits: PolicyLimits,
        min_fee: int,
    ) -> None:
        self._pool = pool
        self._orphans = orphans
        self._view = view
        self._limits = limits
        self._min_fee = min_fee
        self._final: set[bytes] = set()
        self._final_before: set[bytes] = set()
        self.verdict_counts = [0] * 256  # by code, over all items of all trays

    # -- a tray ---------------------------------------------------------------------------------

    def judge_tray(
        self,
        columns: VerdictColumns,
        n_items: int,
        payload: memoryview,
        offsets: npt.NDArray[np.uint32],
        now_ms: int,
        codes_out: Codes,
        *,
        one_by_one: bool = False,
    ) -> None:
        """Judge items 0..``n_items`` of a tray in order; write a ``Verdict`` for each to
        ``codes_out``.

        ``payload[offsets[i]:offsets[i + 1]]`` are the bytes of item i; what is kept is copied.
        ``one_by_one`` inserts nothing in runs: slower, with the same outcome.
        """
        answers = codes_out[:n_items]
        if n_items <= _FEW_ITEMS and not one_by_one:
            self._judge_few(columns, payload, offsets, now_ms, answers)
        else:
            self._judge_many(columns, payload, offsets, now_ms, answers, one_by_one)
        if self._orphans.has_ready:
            self.adopt()

    def _judge_many(
        self,
        columns: VerdictColumns,
        payload: memoryview,
        offsets: npt.NDArray[np.uint32],
        now_ms: int,
        answers: Codes,
        one_by_one: bool,
    ) -> None:
        n_items = len(answers)
        codes = columns.codes[:n_items]
        rejected_count = int(np.count_nonzero(codes))
        if rejected_count:
            answers[:] = codes
        if rejected_count < n_items:
            passing = np.flatnonzero(codes == 0) if rejected_count else None
            tray = TrayItems(columns, n_items, passing, payload, offsets)
            verdicts = self._judge(tray, now_ms, one_by_one)
            where = slice(None) if passing is None else passing
            if verdicts is None:
                self._orphans.arrived(tray.ids)
                answers[where] = _ADMITTED
            else:
                answers[where] = np.frombuffer(verdicts, dtype=np.uint8)
                rejected_count = n_items
                self._orphans.arrived(
                    [txid for txid, code in zip(tray.ids, verdicts, strict=True) if not code]
                )
        if rejected_count:  # of verifiers or here
            tally = np.bincount(answers, minlength=256)
            for code in np.flatnonzero(tally).tolist():
                self.verdict_counts[code] += int(tally[code])
        else:
            self.verdict_counts[_ADMITTED] += n_items

    def _judge_few(
        self,
        columns: VerdictColumns,
        payload: memoryview,
        offsets: npt.NDArray[np.uint32],
        now_ms: int,
        answers: Codes,
    ) -> None:
        """Judge a tray too small to be worth arrays: on an idle node this is the latency."""
        bounds = offsets[: len(answers) + 1].tolist()
        for index, code in enumerate(columns.codes[: len(answers)].tolist()):
            if not code:
                txid = columns.txids[index].tobytes()
                raw = bytes(payload[bounds[index] : bounds[index + 1]])
                code = self._judge_one(txid, raw, now_ms)
            answers[index] = code
            self.verdict_counts[code] += 1

    def _judge_one(self, txid: bytes, raw: bytes, now_ms: int) -> int:
        if txid in self._pool.entries:
            return _KNOWN
        newcomer = parse(txid, raw, now_ms)
        outputs = self._view.get_outputs(list(newcomer.outpoints))
        verdict = self._judge_newcomer(newcomer, outputs)
        if verdict is Verdict.ADMITTED:
            self._orphans.arrived((txid,))
        return verdict

    def _judge(self, tray: TrayItems, now_ms: int, one_by_one: bool) -> bytearray | None:
        """Judge the passing transactions in order; None means that all were admitted."""
        pool = self._pool
        entries, spent = pool.entries, pool.spent
        any_known = not entries.keys().isdisjoint(tray.ids)
        facts = self._chain_facts(tray, any_known)
        spenders = dict(zip(tray.outpoints, tray.spender_ids, strict=True))
        any_rival = len(spenders) < len(tray.outpoints) or not spent.keys().isdisjoint(spenders)
        size_bytes = int(tray.sizes.sum())
        roomy = pool.has_room(tray.count, size_bytes) and not one_by_one
        rates = _fee_rates(facts.fees, tray.sizes)
        fees: list[int] = facts.fees.tolist()
        outpoints = tray.grouped()
        if roomy and facts.codes is None and not any_known and not any_rival:
            pool.insert_plain(tray.ids, tray.raws, fees, rates, outpoints, spenders, now_ms)
            return None

        known = {i for i, txid in enumerate(tray.ids) if txid in entries} if any_known else set()
        single: Sequence[int]
        single = self._entangled(tray, facts, known, any_rival) if roomy else range(tray.count)
        codes = facts.codes.tobytes() if facts.codes is not None else bytes(tray.count)
        verdicts = bytearray(tray.count)
        done = 0
        for index in single:
            if done < index:
                self._insert_run(tray, done, index, fees, rates, outpoints, now_ms)
            done = index + 1
            if tray.ids[index] in entries:
                verdicts[index] = _KNOWN
            elif codes[index] == _MISSING and self._is_recently_final(tray.ids[index]):
                verdicts[index] = _FINAL
            elif codes[index] == _MISSING:
                newcomer = tray.newcomer(index, now_ms)
                if index in known:  # it was, when the tray's outputs were fetched
                    outputs = self._view.get_outputs(list(newcomer.outpoints))
                else:
                    outputs = facts.outputs[slice(*tray.span(index))]
                verdicts[index] = self._judge_newcomer(newcomer, outputs)
            elif codes[index]:
                verdicts[index] = codes[index]
            else:
                verdicts[index] = self._settle(
                    tray.ids[index], tray.raws[index], outpoints[index], fees[index], (), now_ms
                )
        if done < tray.count:
            self._insert_run(tray, done, tray.count, fees, rates, outpoints, now_ms)
        return verdicts

    def _chain_facts(self, tray: TrayItems, any_known: bool) -> _ChainFacts:
        """Fetch what the tray spends, and check owners, sums and fees where all of it is there."""
        outputs: list[bytes | None]
        if any_known:
            entries = self._pool.entries
            asked = [txid not in entries for txid in tray.spender_ids]
            wanted = [o for o, ask in zip(tray.outpoints, asked, strict=True) if ask]
            found = iter(self._view.get_outputs(wanted) if wanted else ())
            outputs = [next(found) if ask else None for ask in asked]
        else:
            outputs = self._view.get_outputs(tray.outpoints)
        missing: list[int] = []
        try:
            records = b"".join(outputs)  # type: ignore[arg-type]
        except TypeError:  # a None among them; asking the join is cheaper than looking
            missing = [at for at, output in enumerate(outputs) if output is None]
            records = b"".join([_NO_OUTPUT if output is None else output for output in outputs])
        words = np.frombuffer(records, dtype=np.int64).reshape(-1, OUTPUT_BYTES // 8)
        owned = (words[:, 1:] == tray.owners.view(np.int64)).all(axis=1)
        values = words[:, 0]
        if tray.uniform == 1:
            sums = values
        elif tray.uniform:
            sums = values.reshape(-1, tray.uniform).sum(axis=1)
            owned = owned.reshape(-1, tray.uniform).all(axis=1)
        else:
            starts = [0, *tray.ends[:-1]]
            sums = np.add.reduceat(values, starts)
            owned = np.logical_and.reduceat(owned, starts)
        fees = sums - tray.output_sums.view(np.int64)
        relay_fees = relay_fee(tray.sizes, self._limits.relay_fee_per_kb)
        good = owned & (fees >= np.maximum(relay_fees, self._min_fee))
        if not missing and good.all():
            return _ChainFacts(None, fees, outputs)
        codes = np.zeros(tray.count, dtype=np.uint8)
        codes[fees < relay_fees] = Verdict.FEE_BELOW_RELAY
        codes[fees < self._min_fee] = Verdict.FEE_BELOW_MINIMUM
        codes[fees < 0] = Verdict.INPUTS_BELOW_OUTPUTS
        codes[~owned] = Verdict.WRONG_OWNER
        codes[tray.belonging(missing)] = _MISSING
        return _ChainFacts(codes, fees, outputs)

    def _entangled(
        self, tray: TrayItems, facts: _ChainFacts, known: set[int], any_rival: bool
    ) -> list[int]:
        """Return which transactions of a tray must be judged by themselves, in order.

        The others are good, spend only what the store holds, and share no outpoint with the pool or
        with an earlier one of the tray: whatever becomes of these, they stay admissible.
        """
        entangled = set(known)
        if facts.codes is not None:
            entangled.update(np.flatnonzero(facts.codes).tolist())
        if any_rival:
            seen = set(self._pool.spent.keys() & tray.outpoints)
            contested = []
            for at, outpoint in enumerate(tray.outpoints):
                if outpoint in seen:
                    contested.append(at)
                else:
                    seen.add(outpoint)
            entangled.update(tray.belonging(contested))
        return sorted(entangled)

    def _insert_run(
        self,
        tray: TrayItems,
        start: int,
        end: int,
        fees: list[int],
        rates: npt.NDArray[np.int64],
        outpoints: list[tuple[bytes, ...]],
        now_ms: int,
    ) -> None:
        first_input, last_input = tray.span(start)[0], tray.span(end - 1)[1]
        self._pool.insert_plain(
            tray.ids[start:end],
            tray.raws[start:end],
            fees[start:end],
            rates[start:end],
            outpoints[start:end],
            dict(
                zip(
                    tray.outpoints[first_input:last_input],
                    tray.spender_ids[first_input:last_input],
                    strict=True,
                )
            ),
            now_ms,
        )

    # -- what was final already ------------------------------------------------------------------

    def committed(self, txids: Iterable[bytes]) -> None:
        """Remember what a block made final: peers pass on many of these once more."""
        self._final.update(txids)
        if len(self._final) > _RECENTLY_FINAL:
            self._final, self._final_before = set(), self._final

    def _is_recently_final(self, txid: bytes) -> bool:
        return txid in self._final or txid in self._final_before

    # -- one transaction ------------------------------------------------------------------------

    def _judge_newcomer(self, newcomer: Newcomer, outputs: list[bytes | None]) -> Verdict:
        """Judge one transaction by all rules; it may become an orphan."""
        funding = self._fund(newcomer, outputs)
        if isinstance(funding, Verdict):
            return funding
        if isinstance(funding, bytes):
            return self._hold(newcomer, funding)
        return self._settle(
            newcomer.txid,
            newcomer.raw,
            newcomer.outpoints,
            funding.fee,
            funding.parents,
            newcomer.arrived_ms,
        )

    def _hold(self, newcomer: Newcomer, parent: bytes) -> Verdict:
        counters = self._pool.counters
        is_new = newcomer.raw not in self._orphans
        evicted_count = self._orphans.add(
            Orphan(newcomer.txid, newcomer.raw, newcomer.arrived_ms), parent
        )
        if evicted_count is None:
            return Verdict.ORPHANS_FULL
        counters.orphaned += is_new
        counters.orphans_evicted += evicted_count
        return Verdict.ORPHANED

    def _fund(
        self, newcomer: Newcomer, outputs: Sequence[bytes | None]
    ) -> _Funding | Verdict | bytes:
        """Find what a transaction spends and check it; a txid stands for the parent that is
        missing.

        An input that can never be good decides before one whose parent is missing.
        """
        entries = self._pool.entries
        find = self._view.find_transaction
        parents: dict[bytes, None] = {}
        absent: dict[bytes, None] = {}
        found: list[bytes] = []
        for outpoint, output in zip(newcomer.outpoints, outputs, strict=True):
            if output is not None:
                found.append(output)
                continue
            parent = outpoint[:ID_BYTES]
            if parent in entries:
                output = self._pool.output(outpoint)
                if output is None:
                    return Verdict.NO_SUCH_OUTPUT
                parents[parent] = None
                found.append(output)
            elif parent not in absent:
                if not absent and find(newcomer.txid) is not None:
                    return Verdict.FINAL
                position = find(parent)
                if position is not None:
                    exists = outpoint[ID_BYTES] < position.n_outputs
                    return Verdict.SPENT_INPUT if exists else Verdict.NO_SUCH_OUTPUT
                absent[parent] = None
        if absent:
            return next(iter(absent))
        fee = -newcomer.output_sum
        for output, owner in zip(found, newcomer.owners, strict=True):
            if output[8:] != owner:
                return Verdict.WRONG_OWNER
            fee += _U64.unpack_from(output)[0]
        if fee < 0:
            return Verdict.INPUTS_BELOW_OUTPUTS
        if fee < self._min_fee:
            return Verdict.FEE_BELOW_MINIMUM
        if fee < relay_fee(len(newcomer.raw), self._limits.relay_fee_per_kb):
            return Verdict.FEE_BELOW_RELAY
        return _Funding(fee, tuple(parents))

    def _settle(
        self,
        txid: bytes,
        raw: bytes,
        outpoints: tuple[bytes, ...],
        fee: int,
        parents: tuple[bytes, ...],
        arrived_ms: int,
    ) -> Verdict:
        """Judge a good transaction against the rest of the pool, and insert it if that allows.

        Nothing changes before the last check has passed.
        """
        pool = self._pool
        place = self._place(raw, outpoints, fee, parents)
        if isinstance(place, Verdict):
            return place
        rate, ancestors, leaving, count_over, bytes_over = place
        if count_over > 0 or bytes_over > 0:
            victims = pool.victims(count_over, bytes_over, rate, leaving)
            if victims is None:
                return Verdict.MEMPOOL_FULL
            pool.counters.evicted += pool.remove(victims)
        if leaving:
            pool.counters.replaced += pool.remove(leaving)
        pool.insert(txid, raw, fee, rate, outpoints, parents, ancestors, arrived_ms)
        return Verdict.ADMITTED

    def try_out(self, newcomer: Newcomer) -> tuple[Verdict, int]:
        """Judge one transaction as if it had come, and change nothing; its fee if that is known.

        Of a full pool it is asked only whether something in it ranks lower, not whether enough
        could be evicted.
        """
        if newcomer.txid in self._pool.entries:
            return Verdict.KNOWN, self._pool.entries[newcomer.txid][FEE]
        funding = self._fund(newcomer, self._view.get_outputs(list(newcomer.outpoints)))
        if isinstance(funding, Verdict):
            return funding, 0
        if isinstance(funding, bytes):
            return Verdict.ORPHANED, 0
        place = self._place(newcomer.raw, newcomer.outpoints, funding.fee, funding.parents)
        if isinstance(place, Verdict):
            return place, funding.fee
        full = place.count_over > 0 or place.bytes_over > 0
        if full and not self._pool.could_evict(place.rate):
            return Verdict.MEMPOOL_FULL, funding.fee
        return Verdict.ADMITTED, funding.fee

    def _place(
        self, raw: bytes, outpoints: tuple[bytes, ...], fee: int, parents: tuple[bytes, ...]
    ) -> _Place | Verdict:
        """Judge a good transaction against the rest of the pool; changes nothing."""
        pool, limits = self._pool, self._limits
        entries = pool.entries
        leaving: dict[bytes, None] = {}
        freed_bytes = 0
        if not pool.spent.keys().isdisjoint(outpoints):
            rivals = [pool.spent[outpoint] for outpoint in outpoints if outpoint in pool.spent]
            family = pool.family(rivals, limits.max_replaced)
            if (
                family is None
                or pool.any_pinned(family)
                or not family.keys().isdisjoint(parents)  # it would replace its own ancestor
            ):
                return Verdict.CONFLICT
            replaced_fees = sum(entries[rival][FEE] for rival in family)
            if fee < replaced_fees + limits.replacement_increment:
                return Verdict.REPLACEMENT_FEE
            leaving = family
            freed_bytes = sum(len(entries[rival][RAW]) for rival in family)
        ancestors = 1
        rate = fee_rate(fee, len(raw))
        if parents:
            ancestors += pool.ancestor_count(parents, limits.max_ancestors - 1)
            if ancestors > limits.max_ancestors:
                return Verdict.TOO_MANY_ANCESTORS
            rate = min(rate, min(map(pool.rate, parents)))
        count_over = len(entries) - len(leaving) + 1 - limits.max_count
        bytes_over = pool.size_bytes - freed_bytes + len(raw) - limits.max_bytes
        return _Place(rate, ancestors, leaving, count_over, bytes_over)

    # -- orphans and reloads --------------------------------------------------------------------

    def adopt(self) -> None:
        """Judge orphans whose parent arrived, and theirs in turn, within the budget of one call."""
        budget = _ADOPTED_INPUTS
        while budget > 0:
            batch: list[Newcomer] = []
            while budget > 0 and (orphan := self._orphans.next_ready()) is not None:
                batch.append(parse(orphan.txid, orphan.raw, orphan.arrived_ms))
                budget -= len(batch[-1].outpoints)
            if not batch:
                return
            self._adopt_batch(batch)

    def _adopt_batch(self, batch: list[Newcomer]) -> None:
        counters = self._pool.counters
        adopted: list[bytes] = []
        for newcomer, result in self._judge_all(batch):
            if isinstance(result, bytes):
                self._orphans.wait_again(newcomer.raw, result)
                continue
            self._orphans.remove(newcomer.raw)
            if result is Verdict.ADMITTED:
                counters.adopted += 1
                adopted.append(newcomer.txid)
            else:
                counters.orphans_rejected += 1
        self._orphans.arrived(adopted)

    def offer(self, batch: list[Newcomer]) -> list[Verdict]:
        """Judge transactions that were in the pool before a restart; what lacks a parent is not
        held.
        """
        return [
            Verdict.ORPHANED if isinstance(result, bytes) else result
            for _, result in self._judge_all(batch)
        ]

    def _judge_all(self, batch: list[Newcomer]) -> Iterator[tuple[Newcomer, Verdict | bytes]]:
        """Judge in order, with one fetch from the store; bytes name the parent that is missing."""
        fetched = self._view.get_outputs(
            [outpoint for newcomer in batch for outpoint in newcomer.outpoints]
        )
        start = 0
        for newcomer in batch:
            end = start + len(newcomer.outpoints)
            outputs = fetched[start:end]
            start = end
            if newcomer.txid in self._pool.entries:
                yield newcomer, Verdict.KNOWN
                continue
            funding = self._fund(newcomer, outputs)
            if isinstance(funding, _Funding):
                yield (
                    newcomer,
                    self._settle(
                        newcomer.txid,
                        newcomer.raw,
                        newcomer.outpoints,
                        funding.fee,
                        funding.parents,
                        newcomer.arrived_ms,
                    ),
                )
            else:
                yield newcomer, funding


def _fee_rates(fees: npt.NDArray[np.int64], sizes: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    """``node.policy.fee_rate`` for arrays; the rates of negative fees mean nothing."""
    capped = np.minimum(fees, MAX_AMOUNT).view(np.uint64)
    rates: npt.NDArray[np.int64] = (capped * np.uint64(RATE_BYTES) // sizes.view(np.uint64)).view(
        np.int64
    )
    return rates
