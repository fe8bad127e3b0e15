"""The mempool as its owner sees it: a stateful comparison with the obvious model, then policy."""

from __future__ import annotations

import random
from dataclasses import fields, replace

import numpy as np
import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule
from mempool_model import Model, check, check_selection
from payments import (
    ALICE,
    BOB,
    CAROL,
    MALLORY,
    Chain,
    Payment,
    admit,
    commit,
    pay,
    pending,
    submit,
    tray,
)

from node.mempool import TOTALS, Counters, Mempool, PolicyLimits, Selection
from node.params import MAX_TX_BYTES
from node.transaction import decode
from node.verdict import Verdict

HOUR_MS = 3_600_000
WIDE = PolicyLimits(expiry_ms=HOUR_MS)


class Comparison(RuleBasedStateMachine):
    """Runs, one-by-one and the model get the same events and must agree on everything."""

    def __init__(self) -> None:
        super().__init__()
        self.chain = Chain()
        self.now_ms = 0
        self.values: dict[bytes, tuple[int, bytes]] = {}  # every outpoint ever made up
        self.payments: list[Payment] = []
        self.proposals: list[list[bytes]] = []

    @initialize(
        max_count=st.sampled_from([4, 8, 100]),
        max_ancestors=st.sampled_from([1, 3, 25]),
        max_replaced=st.sampled_from([1, 3, 100]),
        max_orphans=st.sampled_from([0, 2, 50]),
        max_orphan_bytes=st.sampled_from([600, 100_000]),
    )
    def begin(self, **limits: int) -> None:
        self.limits = PolicyLimits(
            max_bytes=MAX_TX_BYTES,
            relay_fee_per_kb=50,
            replacement_increment=5,
            expiry_ms=1_000,
            **limits,
        )
        self.fast = Mempool(self.chain, self.limits, 10)
        self.slow = Mempool(self.chain, self.limits, 10)
        self.model = Model(self.chain, self.limits, 10)
        self.fund(12)

    def fund(self, count: int) -> None:
        payment = self.chain.fund(*[(100_000, (ALICE, BOB)[i % 2]) for i in range(count)])
        for index in range(count):
            self.values[payment.out(index)] = (100_000, (ALICE, BOB)[index % 2])

    @rule(count=st.integers(1, 8))
    def more_money(self, count: int) -> None:
        self.fund(count)

    def write(self, rng: random.Random) -> Payment:
        """Make a payment: mostly good, often contested, sometimes hopeless."""
        pools = {
            "chain": list(self.chain.outputs),
            "pending": [o for o in self.values if o[:32] in self.fast],
            "contested": [o for o in self.values if self.fast.spender(o)],
            "fresh": [payment.out() for payment in self.payments[-5:]],
            "any": list(self.values)[-20:],
        }
        kinds = rng.choices(list(pools), [45, 20, 10, 18, 7], k=rng.choice([1, 1, 1, 2, 3]))
        spent = {rng.choice(pools[kind] or pools["any"]) for kind in kinds}
        stranger = MALLORY if rng.random() < 0.05 else None
        fee = rng.choice([20, 20, 30, 35, 50, 80, 80, 200, 200, 400] * 3 + [12, 5, -5])
        n_outputs = rng.choice([1, 2, 2, 2, 3, 3, 3, 120])
        total = max(sum(self.values[outpoint][0] for outpoint in spent) - fee, n_outputs)
        shares = [total // n_outputs] * n_outputs
        shares[0] += total - sum(shares)
        outputs = [(share, (ALICE, BOB, CAROL)[i % 3]) for i, share in enumerate(shares)]
        payment = pay(
            [(outpoint, stranger or self.values[outpoint][1]) for outpoint in sorted(spent)],
            outputs,
            filler=rng.choice([0, 0, 1]),
        )
        for index, output in enumerate(outputs):
            self.values[payment.out(index)] = output
        if rng.random() < 0.05:
            self.values[payment.out(len(outputs))] = (1_000, ALICE)  # no such output
        self.payments.append(payment)
        del self.payments[:-60]
        return payment

    @rule(
        seed=st.integers(0, 2**32 - 1),
        new_count=st.integers(0, 10),
        old_count=st.integers(0, 6),
        now_ms=st.integers(0, 100),
    )
    def send(self, seed: int, new_count: int, old_count: int, now_ms: int) -> None:
        rng = random.Random(seed)
        written = [self.write(rng) for _ in range(new_count)]
        chosen = [payment for payment in written if rng.random() < 0.85]
        chosen += rng.choices(self.payments, k=old_count) if self.payments else []
        rng.shuffle(chosen)
        if not chosen:
            return
        rejected = {
            index: rng.choice([Verdict.BAD_SIGNATURE, Verdict.DUST_OUTPUT])
            for index in range(len(chosen))
            if rng.random() < 0.05
        }
        self.now_ms += now_ms
        raws = [payment.raw for payment in chosen]
        expected = self.model.admit(raws, rejected, self.now_ms)
        for pool in (self.fast, self.slow):
            codes = np.full(len(raws) + 1, 254, dtype=np.uint8)
            pool.admit(*tray(raws, rejected), self.now_ms, codes, one_by_one=pool is self.slow)
            assert codes.tolist() == [*expected, 254]

    @rule(
        max_count=st.integers(0, 20), max_bytes=st.sampled_from([300, 1_500, 5_000, MAX_TX_BYTES])
    )
    def make_block(self, max_count: int, max_bytes: int) -> None:
        selection = self.fast.select(max_bytes, max_count)
        assert selection == self.slow.select(max_bytes, max_count)
        check_selection(self.fast, self.chain, selection)
        assert len(selection.txids) <= max_count
        assert sum(map(len, selection.transactions)) <= max_bytes
        self.commit(
            [Payment(*pair) for pair in zip(selection.txids, selection.transactions, strict=True)]
        )

    @rule(seed=st.integers(0, 2**32 - 1), count=st.integers(0, 8))
    def foreign_block(self, seed: int, count: int) -> None:
        """A block with whatever is valid, in any order, seen before or not."""
        rng = random.Random(seed)
        block: list[Payment] = []
        outputs = dict(self.chain.outputs)
        wanted = rng.choices(self.payments, k=count) if self.payments else []
        wanted += [self.write(rng) for _ in range(count // 2)]
        for payment in wanted:
            transaction = decode(payment.raw, 0)
            sources = [outputs.get(item.outpoint) for item in transaction.inputs]
            if payment in block or payment.txid in self.chain.positions or None in sources:
                continue
            if any(
                transaction.witnesses[item.witness].key != source[8:]
                for item, source in zip(transaction.inputs, sources, strict=True)
                if source is not None
            ):
                continue
            block.append(payment)
            for item in transaction.inputs:
                del outputs[item.outpoint]
            for index, output in enumerate(transaction.outputs):
                outputs[payment.out(index)] = output.pack()
        self.commit(block)

    def commit(self, block: list[Payment]) -> None:
        self.chain.apply(block)
        txids, raws = [p.txid for p in block], [p.raw for p in block]
        self.model.committed(raws)
        for pool in (self.fast, self.slow):
            pool.committed(txids, raws)

    @rule(max_count=st.integers(1, 6))
    def propose(self, max_count: int) -> None:
        txids = self.fast.select(MAX_TX_BYTES, max_count).txids
        self.proposals.append(txids)
        self.model.pins.update(txids)
        for pool in (self.fast, self.slow):
            pool.pin(txids)

    @rule()
    def withdraw(self) -> None:
        if self.proposals:
            txids = self.proposals.pop()
            self.model.pins.subtract(t for t in txids if self.model.pins[t])
            for pool in (self.fast, self.slow):
                pool.unpin(txids)

    @rule(passed_ms=st.integers(1, 800))
    def wait(self, passed_ms: int) -> None:
        self.now_ms += passed_ms
        self.model.expire(self.now_ms - self.limits.expiry_ms)
        for pool in (self.fast, self.slow):
            pool.expire(self.now_ms)

    @invariant()
    def all_agree(self) -> None:
        held = [(e.txid, e.raw, e.arrived_ms) for e in self.model.pool.values()]
        for pool in (self.fast, self.slow):
            assert list(pool.records()) == held
            assert [pool._pool.rate(txid) for txid in self.model.pool] == [
                self.model.rate(e) for e in self.model.pool.values()
            ]
            assert list(pool._orphans._held) == list(self.model.orphans)
            assert pool.counters.admitted == self.model.admitted
            for cause in ("finalised", "evicted", "replaced", "expired", "conflicted"):
                assert getattr(pool.counters, cause) == self.model.left[cause], cause
            assert pool.pinned_count == len(+self.model.pins)
            assert sum(pool.verdict_counts) == sum(self.fast.verdict_counts)
            check(pool, self.chain)
        assert self.fast.counters == self.slow.counters


Comparison.TestCase.settings = settings(
    max_examples=20,
    stateful_step_count=20,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)
TestComparison = Comparison.TestCase


@pytest.mark.parametrize("seed", range(8))
def test_long_lives_agree_with_the_model(seed: int) -> None:
    """What hypothesis's short runs seldom reach: full pools, long families, many orphans."""
    rng = random.Random(seed)
    life = Comparison()
    life.begin(
        max_count=(5, 10, 25, 100)[seed % 4],
        max_ancestors=(3, 25)[seed % 2],
        max_replaced=(2, 100)[seed // 2 % 2],
        max_orphans=(3, 50)[seed // 4 % 2],
        max_orphan_bytes=100_000,
    )
    for _ in range(60):
        life.send(rng.getrandbits(32), rng.randrange(12), rng.randrange(8), rng.randrange(100))
        life.all_agree()
        match rng.randrange(12):
            case 0 | 1:
                life.more_money(rng.randrange(1, 8))
            case 2:
                life.make_block(rng.randrange(12), rng.choice([600, 2_000, MAX_TX_BYTES]))
            case 3:
                life.foreign_block(rng.getrandbits(32), rng.randrange(8))
            case 4 | 5:
                life.propose(rng.randrange(1, 4))
            case 6 | 7:
                life.withdraw()
            case 8:
                life.wait(rng.randrange(1, 600))
            case _:
                pass
        life.all_agree()


# -- policy, one rule at a time -----------------------------------------------------------------


def limits(**changes: int) -> PolicyLimits:
    return replace(WIDE, **changes)


def spend(source: Payment, index: int, owner: bytes, value: int, to: bytes = CAROL) -> Payment:
    return pay([(source.out(index), owner)], [(value, to)])


@pytest.fixture
def chain() -> Chain:
    return Chain()


@pytest.fixture
def coins(chain: Chain) -> Payment:
    """Twenty outputs of 100,000 units that Alice owns."""
    return chain.fund(*[(100_000, ALICE)] * 20)


def test_replacement_pays_more_than_all_it_removes(chain: Chain, coins: Payment) -> None:
    pool = Mempool(chain, limits(replacement_increment=50), 0)
    parent = spend(coins, 0, ALICE, 99_000, ALICE)  # fee 1,000
    child = spend(parent, 0, ALICE, 97_000)  # fee 2,000
    admit(pool, parent, child)
    assert submit(pool, spend(coins, 0, ALICE, 100_000 - 3_049)) == [Verdict.REPLACEMENT_FEE]
    assert pending(pool) == [parent.txid, child.txid]
    dearer = spend(coins, 0, ALICE, 100_000 - 3_050)
    admit(pool, dearer)
    assert pending(pool) == [dearer.txid]
    assert pool.counters.replaced == 2
    check(pool, chain)


def test_replacement_of_a_large_family_is_refused(chain: Chain, coins: Payment) -> None:
    pool = Mempool(chain, limits(max_replaced=3), 0)
    parent = pay([(coins.out(), ALICE)], [(30_000, ALICE)] * 3)
    children = [spend(parent, i, ALICE, 29_000) for i in range(3)]
    admit(pool, parent, *children)
    assert submit(pool, spend(coins, 0, ALICE, 1)) == [Verdict.CONFLICT]
    assert len(pool) == 4


def test_a_transaction_cannot_replace_its_own_ancestor(chain: Chain, coins: Payment) -> None:
    pool = Mempool(chain, WIDE, 0)
    parent = spend(coins, 0, ALICE, 99_000, ALICE)
    admit(pool, parent)
    both = pay([(parent.out(), ALICE), (coins.out(), ALICE)], [(10, BOB)])
    assert submit(pool, both) == [Verdict.CONFLICT]
    assert pending(pool) == [parent.txid]


def test_pinned_is_neither_replaced_nor_evicted_nor_expired(chain: Chain, coins: Payment) -> None:
    pool = Mempool(chain, limits(max_count=2), 0)
    parent = spend(coins, 0, ALICE, 99_900, ALICE)
    child = spend(parent, 0, ALICE, 99_700)
    admit(pool, parent, child)
    pool.pin([child.txid])
    pool.pin([child.txid])
    pool.unpin([child.txid])  # a second proposal still names it
    assert submit(pool, spend(coins, 0, ALICE, 1)) == [Verdict.CONFLICT]
    assert submit(pool, spend(coins, 1, ALICE, 1)) == [Verdict.MEMPOOL_FULL]
    assert pool.expire(2 * HOUR_MS) == 0
    assert pending(pool) == [parent.txid, child.txid]
    pool.unpin([child.txid])
    admit(pool, spend(coins, 1, ALICE, 1))
    assert pending(pool)[0] == parent.txid  # the child left first: nobody can mine it alone
    assert pool.counters.evicted == 1
    assert pool.expire(2 * HOUR_MS) == 2


def test_a_pin_may_come_before_its_transaction(chain: Chain, coins: Payment) -> None:
    pool = Mempool(chain, WIDE, 0)
    payment = spend(coins, 0, ALICE, 99_000)
    pool.pin([payment.txid])
    admit(pool, payment)
    assert submit(pool, spend(coins, 0, ALICE, 1)) == [Verdict.CONFLICT]
    commit(pool, chain, payment)
    assert pool.pinned_count == 0
    pool.unpin([payment.txid])
    assert pool.pinned_count == 0


def test_eviction_takes_the_lowest_rates_and_the_newest_of_equals(
    chain: Chain, coins: Payment
) -> None:
    pool = Mempool(chain, limits(max_count=4), 0)
    fees = [500, 300, 300, 400]
    held = [spend(coins, i, ALICE, 100_000 - fee) for i, fee in enumerate(fees)]
    admit(pool, *held)
    assert submit(pool, spend(coins, 4, ALICE, 99_700)) == [Verdict.MEMPOOL_FULL]
    newcomers = [spend(coins, i, ALICE, 99_000) for i in range(5, 9)]
    gone = [held[2], held[1], held[3], held[0]]
    for count, newcomer in enumerate(newcomers, 1):
        admit(pool, newcomer)
        expected = [p.txid for p in held if p not in gone[:count]]
        assert pending(pool) == expected + [p.txid for p in newcomers[:count]]
        check(pool, chain)
    assert pool.counters.evicted == 4


def large(inputs: list[bytes], fee: int) -> Payment:
    """Spend coins of 100,000 into as many outputs as a transaction may have."""
    value = 100_000 * len(inputs) - 2_540 - fee
    return pay([(outpoint, ALICE) for outpoint in inputs], [*[(10, BOB)] * 254, (value, BOB)])


@pytest.fixture
def filled(chain: Chain, coins: Payment) -> tuple[Mempool, list[Payment]]:
    """A pool whose bytes are used up by four transactions of rising fee rates."""
    pool = Mempool(chain, limits(max_bytes=MAX_TX_BYTES), 0)
    held = [large([coins.out(i)], fee) for i, fee in enumerate([7_000, 17_000, 27_000, 37_000])]
    admit(pool, *held)
    return pool, held


@pytest.fixture
def sources(chain: Chain) -> list[bytes]:
    """Inputs that make a transaction need the room of two of ``filled``."""
    source = chain.fund(*[(100_000, ALICE)] * 80)
    return [source.out(i) for i in range(80)]


def test_a_large_newcomer_evicts_as_many_as_it_needs_or_none(
    chain: Chain, filled: tuple[Mempool, list[Payment]], sources: list[bytes]
) -> None:
    pool, held = filled
    between = large(sources, 15_000)  # pays a better rate than one, not than two
    dearer = large(sources, 40_000)
    assert pool.size_bytes + len(dearer.raw) - len(held[0].raw) > MAX_TX_BYTES
    assert submit(pool, between) == [Verdict.MEMPOOL_FULL]
    assert pending(pool) == [p.txid for p in held]
    admit(pool, dearer)
    assert pending(pool) == [held[2].txid, held[3].txid, dearer.txid]
    assert pool.counters.evicted == 2
    check(pool, chain)


def test_a_large_replacement_evicts_beside_what_it_replaces(
    chain: Chain, coins: Payment, filled: tuple[Mempool, list[Payment]], sources: list[bytes]
) -> None:
    pool, held = filled
    admit(pool, large([*sources[:-1], coins.out(0)], 40_000))
    assert pending(pool)[:-1] == [held[2].txid, held[3].txid]
    assert (pool.counters.replaced, pool.counters.evicted) == (1, 1)
    check(pool, chain)


def test_what_was_set_aside_twice_is_evicted_once(
    chain: Chain, filled: tuple[Mempool, list[Payment]], sources: list[bytes]
) -> None:
    pool, held = filled
    pool.pin([held[0].txid])
    poor = large(sources, 15_000)
    for _ in range(2):
        assert submit(pool, poor) == [Verdict.MEMPOOL_FULL]
        pool._pool._order.forget_worst()  # as when the order is built anew
    assert submit(pool, poor) == [Verdict.MEMPOOL_FULL]
    pool.unpin([held[0].txid])
    admit(pool, large(sources, 40_000))
    assert pending(pool)[:-1] == [held[2].txid, held[3].txid]
    check(pool, chain)


def test_a_rich_child_does_not_carry_its_poor_parent(chain: Chain, coins: Payment) -> None:
    pool = Mempool(chain, limits(max_count=3), 0)
    parent = spend(coins, 0, ALICE, 99_990, ALICE)
    child = spend(parent, 0, ALICE, 50_000)
    middling = spend(coins, 1, ALICE, 99_000)
    admit(pool, parent, child, middling)
    assert pool.select(10_000, 1).txids == [middling.txid]
    assert pool.select(10_000, 2).txids == [middling.txid, parent.txid]
    commit(pool, chain, parent)
    assert pool.select(10_000, 1).txids == [child.txid]  # ranks by itself from now on
    admit(pool, spend(coins, 2, ALICE, 98_000), spend(coins, 3, ALICE, 97_000))
    assert child.txid in pool
    assert middling.txid not in pool


def test_a_whole_line_ranks_anew_when_its_head_is_final(chain: Chain, coins: Payment) -> None:
    pool = Mempool(chain, WIDE, 0)
    head = spend(coins, 0, ALICE, 99_990, ALICE)
    second = spend(head, 0, ALICE, 90_000, ALICE)
    third = spend(second, 0, ALICE, 80_000)
    others = [spend(coins, i, ALICE, 99_000) for i in range(1, 4)]
    admit(pool, head, second, third, *others)
    commit(pool, chain, head)
    assert pool.select(10_000, 2).txids == [second.txid, third.txid]


def test_an_ancestor_can_be_evicted_once_its_pinned_child_is_gone(
    chain: Chain, coins: Payment
) -> None:
    pool = Mempool(chain, limits(max_count=2), 0)
    parent = spend(coins, 0, ALICE, 99_900, ALICE)
    child = pay([(parent.out(), ALICE), (coins.out(1), ALICE)], [(150_000, BOB)])
    admit(pool, parent, child)
    pool.pin([child.txid])
    assert submit(pool, spend(coins, 2, ALICE, 1)) == [Verdict.MEMPOOL_FULL]
    commit(pool, chain, spend(coins, 1, ALICE, 99_000))  # the child's other input
    newcomers = [spend(coins, i, ALICE, 1) for i in (3, 4)]
    admit(pool, *newcomers)
    assert pending(pool) == [p.txid for p in newcomers]
    check(pool, chain)


def test_ancestors_are_limited_and_forgotten_when_final(chain: Chain, coins: Payment) -> None:
    pool = Mempool(chain, limits(max_ancestors=3), 0)
    line = [spend(coins, 0, ALICE, 99_000, ALICE)]
    for step in range(1, 5):
        line.append(spend(line[-1], 0, ALICE, 99_000 - 1_000 * step, ALICE))
    assert submit(pool, *line[:4]) == [Verdict.ADMITTED] * 3 + [Verdict.TOO_MANY_ANCESTORS]
    commit(pool, chain, *line[:2])
    admit(pool, *line[3:5])
    check(pool, chain)


def test_shared_ancestors_count_once(chain: Chain, coins: Payment) -> None:
    pool = Mempool(chain, limits(max_ancestors=4), 0)
    root = pay([(coins.out(), ALICE)], [(30_000, ALICE)] * 2)
    left, right = (spend(root, i, ALICE, 29_000, ALICE) for i in range(2))
    join = pay([(left.out(), ALICE), (right.out(), ALICE)], [(57_000, ALICE)])
    admit(pool, root, left, right, join)
    assert submit(pool, spend(join, 0, ALICE, 50_000)) == [Verdict.TOO_MANY_ANCESTORS]


def test_expiry_takes_descendants_and_orphans(chain: Chain, coins: Payment) -> None:
    pool = Mempool(chain, WIDE, 0)
    parent = spend(coins, 0, ALICE, 99_000, ALICE)
    child = spend(parent, 0, ALICE, 98_000)
    other = spend(coins, 1, ALICE, 99_000)
    admit(pool, parent)
    submit(pool, spend(spend(coins, 5, ALICE, 9_000), 0, CAROL, 8_000))
    admit(pool, child, other, now_ms=HOUR_MS - 1)
    assert pool.expire(HOUR_MS - 1) == 0
    assert pool.orphan_count == 1
    assert pool.expire(HOUR_MS) == 2
    assert pending(pool) == [other.txid]
    assert (pool.counters.expired, pool.counters.orphans_expired) == (2, 1)
    check(pool, chain)


def test_a_block_drops_what_conflicts_with_it_even_when_pinned(
    chain: Chain, coins: Payment
) -> None:
    pool = Mempool(chain, WIDE, 0)
    loser = spend(coins, 0, ALICE, 99_000, ALICE)
    heir = spend(loser, 0, ALICE, 98_000)
    bystander = spend(coins, 1, ALICE, 99_000)
    included = spend(coins, 2, ALICE, 99_000)
    admit(pool, loser, heir, bystander, included)
    pool.pin([heir.txid])
    winner = spend(coins, 0, ALICE, 50_000)
    commit(pool, chain, winner, included)
    assert pending(pool) == [bystander.txid]
    assert (pool.counters.finalised, pool.counters.conflicted) == (1, 2)
    assert pool.pinned_count == 0
    assert submit(pool, winner, loser, included) == [
        Verdict.FINAL,
        Verdict.SPENT_INPUT,
        Verdict.FINAL,
    ]
    check(pool, chain)


def test_a_full_block_passes_over_what_does_not_fit(chain: Chain, coins: Payment) -> None:
    pool = Mempool(chain, WIDE, 0)
    wide = pay([(coins.out(), ALICE)], [(10, BOB)] * 200)  # the best rate of all
    heir = spend(wide, 0, BOB, 1)
    small = [spend(coins, i, ALICE, 99_000) for i in range(1, 4)]
    admit(pool, wide, heir, *small)
    selection = pool.select(len(small[0].raw) * 2, 10)
    assert selection.txids == [small[0].txid, small[1].txid]
    assert selection.fees == 2_000
    roomy = pool.select(len(small[0].raw) * 4, 10)  # the heir would fit, but not its parent
    assert roomy.txids == [p.txid for p in small]
    assert pool.select(100, 10) == Selection([], [], 0)
    assert pool.select(10**9, 0) == Selection([], [], 0)


def test_everything_is_selected_in_order_of_arrival_when_it_fits(
    chain: Chain, coins: Payment
) -> None:
    pool = Mempool(chain, WIDE, 0)
    payments = [spend(coins, i, ALICE, 99_000 + i) for i in range(10)]
    admit(pool, *payments)
    assert pool.select(10**9, 10) == Selection(
        [p.txid for p in payments], [p.raw for p in payments], sum(1_000 - i for i in range(10))
    )


def test_when_what_is_pending_was_admitted(chain: Chain, coins: Payment) -> None:
    pool = Mempool(chain, WIDE, 0)
    early, late, never = (spend(coins, i, ALICE, 99_000) for i in range(3))
    admit(pool, early, now_ms=1_000)
    admit(pool, late, now_ms=2_500)
    asked = [late.txid, never.txid, early.txid]
    assert pool.arrivals_ms(asked) == [2_500, 1_000]
    commit(pool, chain, late)
    assert pool.arrivals_ms(asked) == [1_000]


def test_totals_of_an_earlier_life_are_resumed(chain: Chain, coins: Payment) -> None:
    pool = Mempool(chain, WIDE, 0)
    pool.resume(Counters(admitted=10, finalised=6, evicted=1))
    assert pool.counters.lost_at_restart == 3
    admit(pool, spend(coins, 0, ALICE, 99_000))
    assert pool.counters.pending == 1
    with pytest.raises(ValueError, match="before anything was admitted"):
        pool.resume(Counters())
    assert set(TOTALS) < {f.name for f in fields(Counters)}


@pytest.mark.parametrize("name", [f.name for f in fields(PolicyLimits)])
def test_impossible_limits_are_named(name: str) -> None:
    with pytest.raises(ValueError, match=f"{name} is -1; set it to"):
        replace(WIDE, **{name: -1})
    with pytest.raises(ValueError, match=r"relay_fee_per_kb is .* or less"):
        limits(relay_fee_per_kb=10**15)
