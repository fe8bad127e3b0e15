"""The mempool's rules written the slow and obvious way, to compare the real one with.

No index, no arrays, nothing kept that can be computed: every question is a walk over all entries.
Takes the same trays and blocks as ``node.mempool``, and must give the same verdicts and hold the
same transactions. ``check`` states what must hold for a mempool at every moment.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, fields

from payments import IDS, Chain

from node.mempool import Mempool, Selection
from node.policy import PolicyLimits
from node.transaction import Transaction, decode
from node.verdict import Verdict


@dataclass(frozen=True)
class Pending:
    """One transaction that the model holds."""

    txid: bytes
    raw: bytes
    transaction: Transaction
    fee: int
    arrived_ms: int
    number: int

    @property
    def spends(self) -> set[bytes]:
        return {item.outpoint for item in self.transaction.inputs}


@dataclass
class Model:
    """What ``Mempool`` shall do; verdicts come back as a list."""

    chain: Chain
    limits: PolicyLimits
    min_fee: int
    pool: dict[bytes, Pending] = field(default_factory=dict)
    orphans: dict[bytes, tuple[int, bytes | None]] = field(default_factory=dict)
    pins: Counter[bytes] = field(default_factory=Counter)
    left: Counter[str] = field(default_factory=Counter)
    admitted: int = 0
    number: int = 0

    # -- questions ------------------------------------------------------------------------------

    def parents(self, entry: Pending) -> set[bytes]:
        return {outpoint[:32] for outpoint in entry.spends} & self.pool.keys()

    def ancestors(self, entry: Pending) -> set[bytes]:
        found: set[bytes] = set()
        for parent in self.parents(entry):
            found |= {parent} | self.ancestors(self.pool[parent])
        return found

    def family(self, roots: Iterable[bytes]) -> set[bytes]:
        found = set(roots)
        for txid, entry in self.pool.items():  # children come after their parents
            if self.parents(entry) & found:
                found.add(txid)
        return found

    def rate(self, entry: Pending) -> int:
        own = entry.fee * 1000 // len(entry.raw)
        return min([own, *(self.rate(self.pool[parent]) for parent in self.parents(entry))])

    def size_bytes(self, leaving: Iterable[bytes] = ()) -> int:
        gone = set(leaving)
        return sum(len(entry.raw) for txid, entry in self.pool.items() if txid not in gone)

    # -- one transaction ------------------------------------------------------------------------

    def judge(self, raw: bytes, arrived_ms: int) -> Verdict | bytes:
        txid = IDS.txid(raw)
        transaction = decode(raw, 0)
        if txid in self.pool:
            return Verdict.KNOWN
        if txid in self.chain.positions:
            return Verdict.FINAL
        missing: bytes | None = None
        outputs: list[bytes] = []
        for item in transaction.inputs:
            parent, index = item.outpoint[:32], item.outpoint[32]
            if item.outpoint in self.chain.outputs:
                outputs.append(self.chain.outputs[item.outpoint])
            elif parent in self.pool:
                made = self.pool[parent].transaction.outputs
                if index >= len(made):
                    return Verdict.NO_SUCH_OUTPUT
                outputs.append(made[index].pack())
            elif parent in self.chain.positions:
                if index >= self.chain.positions[parent].n_outputs:
                    return Verdict.NO_SUCH_OUTPUT
                return Verdict.SPENT_INPUT
            else:
                missing = missing or parent
        if missing is not None:
            return missing
        for item, output in zip(transaction.inputs, outputs, strict=True):
            if transaction.witnesses[item.witness].key != output[8:]:
                return Verdict.WRONG_OWNER
        spent = sum(int.from_bytes(output[:8], "little") for output in outputs)
        fee = spent - transaction.output_sum
        if fee < 0:
            return Verdict.INPUTS_BELOW_OUTPUTS
        if fee < self.min_fee:
            return Verdict.FEE_BELOW_MINIMUM
        if fee * 1000 < self.limits.relay_fee_per_kb * len(raw):
            return Verdict.FEE_BELOW_RELAY
        return self.settle(Pending(txid, raw, transaction, fee, arrived_ms, self.number))

    def settle(self, entry: Pending) -> Verdict:
        limits = self.limits
        rivals = [txid for txid, other in self.pool.items() if other.spends & entry.spends]
        leaving = self.family(rivals)
        if rivals:
            if (
                len(leaving) > limits.max_replaced
                or any(self.pins[txid] for txid in leaving)
                or leaving & self.parents(entry)
            ):
                return Verdict.CONFLICT
            replaced_fees = sum(self.pool[txid].fee for txid in leaving)
            if entry.fee < replaced_fees + limits.replacement_increment:
                return Verdict.REPLACEMENT_FEE
        if 1 + len(self.ancestors(entry)) > limits.max_ancestors:
            return Verdict.TOO_MANY_ANCESTORS
        victims: set[bytes] = set()
        worst_first = sorted(self.pool.values(), key=lambda e: (self.rate(e), -e.number))
        while (
            len(self.pool) - len(leaving | victims) >= limits.max_count
            or self.size_bytes(leaving | victims) + len(entry.raw) > limits.max_bytes
        ):
            for victim in worst_first:
                if victim.txid in leaving | victims or self.rate(victim) >= self.rate(entry):
                    continue
                if any(self.pins[txid] for txid in self.family([victim.txid])):
                    continue
                victims.add(victim.txid)
                break
            else:
                return Verdict.MEMPOOL_FULL
        self.drop(victims, "evicted")
        self.drop(leaving, "replaced")
        self.pool[entry.txid] = entry
        self.number += 1
        self.admitted += 1
        return Verdict.ADMITTED

    def drop(self, txids: Iterable[bytes], cause: str) -> None:
        for txid in set(txids):
            del self.pool[txid]
            self.left[cause] += 1

    # -- events ---------------------------------------------------------------------------------

    def admit(self, raws: Sequence[bytes], rejected: dict[int, Verdict], now_ms: int) -> list[int]:
        codes: list[int] = []
        arrived: list[bytes] = []
        for index, raw in enumerate(raws):
            if index in rejected:
                codes.append(rejected[index])
                continue
            verdict = self.judge(raw, now_ms)
            if isinstance(verdict, bytes):
                codes.append(self.hold(raw, verdict, now_ms))
                continue
            codes.append(verdict)
            if verdict is Verdict.ADMITTED:
                arrived.append(IDS.txid(raw))
        self.adopt(arrived)
        return codes

    def hold(self, raw: bytes, parent: bytes, now_ms: int) -> Verdict:
        limits = self.limits
        if limits.max_orphans == 0 or len(raw) > limits.max_orphan_bytes:
            return Verdict.ORPHANS_FULL
        if raw not in self.orphans:
            while (
                len(self.orphans) >= limits.max_orphans
                or sum(map(len, self.orphans)) + len(raw) > limits.max_orphan_bytes
            ):
                del self.orphans[next(iter(self.orphans))]
            self.orphans[raw] = (now_ms, parent)
        return Verdict.ORPHANED

    def adopt(self, arrived: list[bytes]) -> None:
        ready: list[bytes] = []
        while arrived or ready:
            for parent in arrived:
                # Those that wait for one parent are judged in the order in which they began to.
                for raw in [r for r, (_, awaited) in self.orphans.items() if awaited == parent]:
                    self.orphans[raw] = (self.orphans[raw][0], None)
                    ready.append(raw)
            arrived = []
            for raw in ready:
                verdict = self.judge(raw, self.orphans[raw][0])
                if isinstance(verdict, bytes):
                    self.orphans[raw] = (self.orphans[raw][0], verdict)
                    continue
                del self.orphans[raw]
                if verdict is Verdict.ADMITTED:
                    arrived.append(IDS.txid(raw))
            ready = []

    def committed(self, raws: Sequence[bytes]) -> None:
        ids = [IDS.txid(raw) for raw in raws]
        spent = {item.outpoint for raw in raws for item in decode(raw, 0).inputs}
        self.drop(self.pool.keys() & ids, "finalised")
        rivals = [txid for txid, entry in self.pool.items() if entry.spends & spent]
        conflicting = self.family(rivals)
        self.drop(conflicting, "conflicted")
        for txid in [*ids, *conflicting]:
            del self.pins[txid]
        self.adopt(ids)

    def expire(self, until_ms: int) -> None:
        for raw in [r for r, (arrived_ms, _) in self.orphans.items() if arrived_ms <= until_ms]:
            del self.orphans[raw]
        gone: set[bytes] = set()
        for txid, entry in self.pool.items():
            if entry.arrived_ms <= until_ms:
                family = self.family([txid])
                if not any(self.pins[member] for member in family):
                    gone |= family
        self.drop(gone, "expired")


def check(pool: Mempool, chain: Chain) -> None:
    """Everything that must hold for a mempool at every moment."""
    counters, limits = pool.counters, pool.limits
    assert counters.pending == len(pool) == len(list(pool.records()))
    assert counters.orphaned == (
        counters.adopted
        + counters.orphans_evicted
        + counters.orphans_expired
        + counters.orphans_rejected
        + pool.orphan_count
    )
    assert min(getattr(counters, f.name) for f in fields(counters)) >= 0
    assert len(pool) <= limits.max_count
    assert pool.size_bytes <= limits.max_bytes
    assert pool.orphan_count <= limits.max_orphans
    assert pool.orphan_bytes <= limits.max_orphan_bytes

    spent: dict[bytes, bytes] = {}
    made: dict[bytes, bytes] = {}
    fees = 0
    for txid, raw, _ in pool.records():
        transaction = decode(raw, 0)
        for item in transaction.inputs:
            assert item.outpoint not in spent
            spent[item.outpoint] = txid
            source = chain.outputs.get(item.outpoint) or made[item.outpoint]
            assert transaction.witnesses[item.witness].key == source[8:]
            fees += int.from_bytes(source[:8], "little")
        for index, output in enumerate(transaction.outputs):
            made[txid + bytes([index])] = output.pack()
        fees -= transaction.output_sum
    assert pool.fees == fees
    assert pool.size_bytes == sum(len(raw) for _, raw, _ in pool.records())
    assert pool._pool.spent == spent
    children: dict[bytes, set[bytes]] = {}
    for outpoint, txid in spent.items():
        if outpoint in made:
            children.setdefault(outpoint[:32], set()).add(txid)
    assert pool._pool._children == children


def check_selection(pool: Mempool, chain: Chain, selection: Selection) -> None:
    """A selection is a part of the pool that a block can hold in this order."""
    assert pool.transactions(selection.txids) == selection.transactions
    assert len(set(selection.txids)) == len(selection.txids)
    seen: set[bytes] = set()
    for txid, raw in zip(selection.txids, selection.transactions, strict=True):
        for item in decode(raw, 0).inputs:
            assert item.outpoint in chain.outputs or item.outpoint[:32] in seen
        seen.add(txid)
