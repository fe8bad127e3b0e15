"""Orphans: bounds, age, adoption; first the pool alone, then through the mempool."""

from __future__ import annotations

from dataclasses import replace

import pytest
from mempool_model import check
from payments import (
    ALICE,
    BOB,
    MALLORY,
    Chain,
    Payment,
    admit,
    commit,
    pay,
    pending,
    submit,
)

from node.mempool import Mempool, PolicyLimits
from node.orphans import Orphan, OrphanPool
from node.verdict import Verdict

LIMITS = PolicyLimits(max_orphans=50)


def orphan(number: int, size: int = 10) -> Orphan:
    return Orphan(bytes([number]) * 32, bytes([number]) * size, number)


def ready(pool: OrphanPool) -> list[int]:
    numbers = []
    while (found := pool.next_ready()) is not None:
        numbers.append(found.arrived_ms)
    return numbers


def test_the_oldest_leaves_when_the_count_is_full() -> None:
    pool = OrphanPool(3, 1_000)
    assert [pool.add(orphan(n), b"p") for n in range(5)] == [0, 0, 0, 1, 1]
    assert (len(pool), pool.size_bytes) == (3, 30)
    pool.arrived([b"p"])
    assert ready(pool) == [2, 3, 4]


def test_the_oldest_leave_when_the_bytes_are_full() -> None:
    pool = OrphanPool(100, 50)
    for number in range(5):
        assert pool.add(orphan(number), b"p") == 0
    assert pool.add(orphan(5, 25), b"q") == 3
    assert pool.size_bytes == 45
    assert pool.add(orphan(6, 51), b"q") is None
    assert (len(pool), pool.size_bytes) == (3, 45)
    assert OrphanPool(0, 50).add(orphan(1), b"p") is None


def test_an_orphan_sent_again_keeps_its_age() -> None:
    pool = OrphanPool(2, 1_000)
    pool.add(orphan(1), b"p")
    pool.add(orphan(2), b"p")
    assert pool.add(replace(orphan(1), arrived_ms=9), b"p") == 0
    pool.add(orphan(3), b"p")
    pool.arrived([b"p"])
    assert ready(pool) == [2, 3]


def test_only_what_waits_for_the_parent_becomes_ready_and_once() -> None:
    pool = OrphanPool(10, 1_000)
    for number, parent in ((1, b"p"), (2, b"q"), (3, b"p")):
        pool.add(orphan(number), parent)
    pool.arrived([b"x", b"p", b"p"])
    assert pool.has_ready
    assert ready(pool) == [1, 3]
    pool.wait_again(orphan(3).raw, b"q")
    pool.arrived([b"q"])
    assert ready(pool) == [2, 3]
    assert len(pool) == 3


def test_an_orphan_that_left_or_waits_again_is_not_ready() -> None:
    pool = OrphanPool(2, 1_000)
    pool.add(orphan(1), b"p")
    pool.add(orphan(2), b"p")
    pool.arrived([b"p"])
    pool.remove(orphan(1).raw)
    pool.wait_again(orphan(2).raw, b"q")
    assert ready(pool) == []
    pool.remove(orphan(2).raw)
    assert (len(pool), pool.size_bytes) == (0, 0)
    assert not pool._waiting
    assert not pool._awaited


def test_expiry_by_age() -> None:
    pool = OrphanPool(10, 1_000)
    for number in range(1, 6):
        pool.add(orphan(number), b"p")
    assert pool.expire(3, 2) == 2
    assert pool.expire(3, 2) == 1
    assert pool.expire(3, 2) == 0
    assert len(pool) == 2


# -- through the mempool ------------------------------------------------------------------------


@pytest.fixture
def chain() -> Chain:
    return Chain()


@pytest.fixture
def coins(chain: Chain) -> Payment:
    return chain.fund(*[(100_000, ALICE)] * 20)


@pytest.fixture
def pool(chain: Chain) -> Mempool:
    return Mempool(chain, LIMITS, 0)


def spend(source: Payment, index: int, value: int, owner: bytes = ALICE) -> Payment:
    return pay([(source.out(index), owner)], [(value, ALICE)])


def test_adopted_when_the_parent_is_admitted(chain: Chain, coins: Payment, pool: Mempool) -> None:
    parent = spend(coins, 0, 90_000)
    child = spend(parent, 0, 80_000)
    grandchild = spend(child, 0, 70_000)
    assert submit(pool, grandchild, child, now_ms=5) == [Verdict.ORPHANED] * 2
    admit(pool, parent, now_ms=9)
    assert list(pool.records()) == [
        (parent.txid, parent.raw, 9),
        (child.txid, child.raw, 5),
        (grandchild.txid, grandchild.raw, 5),
    ]
    assert pool.counters.adopted == pool.counters.orphaned == 2
    check(pool, chain)


def test_adopted_after_a_tray_of_plain_payments(
    chain: Chain, coins: Payment, pool: Mempool
) -> None:
    parents = [spend(coins, index, 90_000) for index in range(10)]
    children = [spend(parent, 0, 80_000) for parent in parents[::3]]
    submit(pool, *children)
    admit(pool, *parents)
    assert pending(pool) == [p.txid for p in parents + children]
    check(pool, chain)


def test_adopted_when_the_parent_comes_in_a_block(
    chain: Chain, coins: Payment, pool: Mempool
) -> None:
    parent = spend(coins, 0, 90_000)
    child = spend(parent, 0, 80_000)
    submit(pool, child)
    commit(pool, chain, parent)
    assert pending(pool) == [child.txid]
    check(pool, chain)


def test_an_orphan_that_is_itself_in_the_block_is_dropped(
    chain: Chain, coins: Payment, pool: Mempool
) -> None:
    parent = spend(coins, 0, 90_000)
    child = spend(parent, 0, 80_000)
    submit(pool, child)
    commit(pool, chain, parent, child)
    assert (len(pool), pool.orphan_count) == (0, 0)
    assert pool.counters.orphans_rejected == 1
    assert submit(pool, child) == [Verdict.FINAL]


def test_an_orphan_with_two_missing_parents_waits_for_both(
    chain: Chain, coins: Payment, pool: Mempool
) -> None:
    parents = [spend(coins, index, 90_000) for index in range(2)]
    child = pay([(parent.out(), ALICE) for parent in parents], [(100_000, BOB)])
    submit(pool, child)
    admit(pool, parents[0])
    assert pool.orphan_count == 1
    admit(pool, parents[1])
    assert pool.orphan_count == 0
    assert child.txid in pool
    check(pool, chain)


def test_the_good_witness_set_is_adopted_whatever_came_before(
    chain: Chain, coins: Payment, pool: Mempool
) -> None:
    parent = spend(coins, 0, 90_000)
    forged = spend(parent, 0, 80_000, owner=MALLORY)
    good = spend(parent, 0, 80_000)
    forged_later = spend(parent, 0, 80_000, owner=BOB)
    assert forged.txid == good.txid == forged_later.txid
    assert submit(pool, forged, good, forged_later) == [Verdict.ORPHANED] * 3
    admit(pool, parent)
    assert pool.transactions([good.txid]) == [good.raw]
    assert pool.orphan_count == 0
    assert (pool.counters.adopted, pool.counters.orphans_rejected) == (1, 2)


def test_a_rejected_parent_wakes_nobody(coins: Payment, pool: Mempool) -> None:
    parent = spend(coins, 0, 90_000)
    submit(pool, spend(parent, 0, 80_000))
    assert submit(pool, spend(coins, 0, 90_000, owner=MALLORY)) == [Verdict.WRONG_OWNER]
    assert pool.counters.orphans_rejected == 0
    assert pool.orphan_count == 1


def test_a_flood_of_orphans_stays_within_its_bounds(chain: Chain, pool: Mempool) -> None:
    sent = [pay([(bytes([i]) * 33, ALICE)], [(1, BOB)]) for i in range(200)]
    for start in range(0, 200, 20):
        assert set(submit(pool, *sent[start : start + 20])) == {Verdict.ORPHANED}
        check(pool, chain)
    assert pool.orphan_count == 50
    assert pool.counters.orphans_evicted == 150


def test_one_orphan_larger_than_the_pool_is_refused(chain: Chain) -> None:
    pool = Mempool(chain, replace(LIMITS, max_orphan_bytes=500), 0)
    small = pay([(bytes(33), ALICE)], [(1, BOB)])
    large = pay([(bytes(33), ALICE)], [(1, BOB)] * 20)
    assert submit(pool, small, large) == [Verdict.ORPHANED, Verdict.ORPHANS_FULL]
    assert pool.orphan_count == 1


def test_adoption_is_bounded_per_call_and_goes_on(chain: Chain) -> None:
    many = chain.fund(*[(100_000, ALICE)] * 255)
    pool = Mempool(chain, LIMITS, 0)
    wide = pay([(many.out(), ALICE)], [(10, ALICE)] * 20)
    family = []
    for index in range(20):  # 20 orphans with 200 inputs each
        inputs = [(wide.out(index), ALICE)]
        source = chain.fund(*[(1_000, ALICE)] * 199)
        inputs += [(source.out(k), ALICE) for k in range(199)]
        family.append(pay(inputs, [(1, BOB)]))
        submit(pool, family[-1])
    admit(pool, wide)
    assert 0 < pool.counters.adopted < 20
    assert pool.has_ready_orphans
    before = pool.counters.adopted
    pool.adopt_ready()
    assert pool.counters.adopted > before
    while pool.has_ready_orphans:
        pool.adopt_ready()
    assert pending(pool) == [wide.txid, *(p.txid for p in family)]
    check(pool, chain)
