"""What others may learn of the mempool without changing it: entries, ids, what it would say."""

from __future__ import annotations

import random

import pytest
from payments import ALICE, BOB, CAROL, Chain, Payment, admit, commit, pay, pending, submit

from node.mempool import Mempool, PolicyLimits
from node.verdict import Verdict

LIMITS = PolicyLimits(expiry_ms=3_600_000, max_ancestors=3, relay_fee_per_kb=50)


def state(pool: Mempool) -> object:
    return pending(pool), pool.size_bytes, pool.fees, pool.orphan_count, pool.counters


@pytest.mark.parametrize("seed", range(20))
def test_what_it_would_say_is_what_it_says(seed: int) -> None:
    """Random payments, good and hopeless, some contested: asked first, then sent."""
    rng = random.Random(seed)
    chain = Chain()
    source = chain.fund(*[(100_000, ALICE)] * 10)
    pool = Mempool(chain, LIMITS, 10)
    known = [(source.out(index), 100_000, ALICE) for index in range(10)]
    known.append((bytes(33), 100_000, ALICE))  # of nobody
    sent: list[Payment] = []
    for number in range(40):
        outpoint, value, owner = rng.choice(known)
        fee = rng.choice([0, 10, 100, 2_000, 50_000, value + 1])
        payer = owner if rng.random() < 0.9 else CAROL
        payment = pay([(outpoint, payer)], [(max(value - fee, 1), BOB)], filler=number)
        if sent and rng.random() < 0.2:
            payment = rng.choice(sent)
        before = state(pool)
        verdict, told_fee = pool.try_out(payment.txid, payment.raw, 0)
        assert state(pool) == before
        assert submit(pool, payment) == [verdict]
        if verdict is Verdict.ADMITTED:
            held = pool.held(payment.txid)
            assert held is not None
            assert (held.fee, held.raw) == (told_fee, payment.raw)
            known.append((payment.out(), max(value - fee, 1), BOB))
            sent.append(payment)
        if rng.random() < 0.1 and pending(pool):
            chosen = pool.select(10**6, 1)
            commit(pool, chain, Payment(chosen.txids[0], chosen.transactions[0]))
    assert {submit(pool, each)[0] for each in sent} <= {
        *(Verdict.KNOWN, Verdict.FINAL, Verdict.CONFLICT, Verdict.REPLACEMENT_FEE),
        *(Verdict.SPENT_INPUT, Verdict.ORPHANED),
    }


def test_a_full_pool_takes_only_what_ranks_above_something_in_it() -> None:
    chain = Chain()
    source = chain.fund(*[(100_000, ALICE)] * 4)
    pool = Mempool(chain, PolicyLimits(expiry_ms=3_600_000, max_count=2), 10)
    payments = [
        pay([(source.out(n), ALICE)], [(100_000 - fee, BOB)])
        for n, fee in enumerate((5_000, 6_000, 4_000, 7_000))
    ]
    admit(pool, *payments[:2])
    assert pool.try_out(*payments[2], 0)[0] is Verdict.MEMPOOL_FULL
    assert pool.try_out(*payments[3], 0)[0] is Verdict.ADMITTED
    assert pending(pool) == [each.txid for each in payments[:2]]
    assert submit(pool, *payments[2:]) == [Verdict.MEMPOOL_FULL, Verdict.ADMITTED]


def test_entries_with_their_families() -> None:
    chain = Chain()
    source = chain.fund((100_000, ALICE), (100_000, ALICE))
    pool = Mempool(chain, LIMITS, 10)
    parent = pay([(source.out(0), ALICE)], [(90_000, BOB)])
    child = pay([(parent.out(), BOB)], [(80_000, CAROL)])
    other = pay([(source.out(1), ALICE)], [(90_000, BOB)])
    admit(pool, parent, other, child, now_ms=77)
    pool.pin([child.txid])
    held = pool.held(child.txid)
    assert held is not None
    assert (held.raw, held.fee, held.admitted_ms) == (child.raw, 10_000, 77)
    assert (held.ancestors, held.parents, held.children) == (2, (parent.txid,), ())
    assert held.pinned
    above = pool.held(parent.txid)
    assert above is not None
    assert (above.parents, above.children, above.pinned) == ((), (child.txid,), False)
    assert pool.held(bytes(32)) is None
    everything = [parent.txid, other.txid, child.txid]
    assert pool.ids(0, 10) == everything
    assert pool.ids(1, 1) == everything[1:2]
    assert pool.ids(3, 10) == []
    assert pool.output(child.out()) == (80_000).to_bytes(8, "little") + CAROL
    assert pool.output(child.out(1)) is pool.output(source.out(0)) is None
