"""The journal: played back it gives the pool, and nothing is kept while nobody listens."""

from __future__ import annotations

import random

from payments import ALICE, BOB, CAROL, Chain, Payment, admit, commit, pay, pending, submit

from node.mempool import Mempool, PolicyLimits
from node.mempool_journal import ADDED, REMOVED, Journal
from node.verdict import Verdict

LIMITS = PolicyLimits(max_count=12, expiry_ms=50, replacement_increment=1, relay_fee_per_kb=0)
VALUE = 100_000


def test_played_back_the_journal_is_the_pool() -> None:
    """Admissions, orphans, evictions, replacements, expiry, blocks and conflicts, at random."""
    seen: set[bytes] = set()
    for seed in range(8):
        rng = random.Random(seed)
        chain = Chain()
        funds = chain.fund(*[(VALUE, ALICE)] * 120)
        pool = Mempool(chain, LIMITS, 0)
        pool.journal.listen(True)
        known: dict[bytes, bytes] = {}
        number = 1
        free = [(funds.out(n), ALICE) for n in range(120)]
        for step in range(120):
            spent = free[rng.randrange(120)]
            payment = pay([spent], [(VALUE - rng.randrange(1, 40_000), BOB)])
            match rng.randrange(10):
                case 0:  # a block of what came first
                    held = pending(pool)[: rng.randrange(12)]
                    commit(pool, chain, *(Payment(each, known.pop(each)) for each in held))
                    number += len(held)
                case 1 if spent[0] in chain.outputs:  # a block with what the pool has not
                    rival = pay([spent], [(VALUE - 7, CAROL)])
                    number += known.pop(rival.txid, None) is not None
                    commit(pool, chain, rival)
                case 2:  # so many that they are judged as a tray
                    spends = [free[n] for n in rng.sample(range(120), 6)]
                    many = [pay([each], [(VALUE - 9, BOB)]) for each in spends]
                    submit(pool, *many, now_ms=step)
                case 3:
                    pool.expire(step)
                case _:
                    child = pay([(payment.out(), BOB)], [(VALUE // 2, CAROL)])
                    submit(pool, *rng.sample([child, payment], 2), now_ms=step)
            for change in pool.journal.take():
                assert change.sequence == number
                number += len(change.txids)
                seen.add(change.label)
                if change.label == ADDED:
                    assert known.keys().isdisjoint(change.txids)
                    known.update(zip(change.txids, change.raws, strict=True))
                else:
                    for each in change.txids:
                        del known[each]
            assert list(known) == pending(pool)
            assert pool.journal.sequence == number
    assert seen == {ADDED, REMOVED}


def test_nothing_is_kept_while_nobody_listens() -> None:
    chain = Chain()
    funds = chain.fund((VALUE, ALICE), (VALUE, ALICE))
    pool = Mempool(chain, LIMITS, 0)
    first, second = (pay([(funds.out(n), ALICE)], [(1_000, BOB)]) for n in range(2))
    admit(pool, first)
    assert not pool.journal.listening
    assert not pool.journal.take()
    assert pool.journal.sequence == 2
    pool.journal.listen(True)
    commit(pool, chain, first)
    assert not pool.journal.take()  # the block tells of it
    assert pool.journal.sequence == 3
    admit(pool, second)
    pool.journal.listen(True)  # again: changes nothing
    (change,) = pool.journal.take()
    assert (change.label, change.sequence) == (ADDED, 3)
    assert (list(change.txids), list(change.raws)) == ([second.txid], [second.raw])
    assert submit(pool, second) == [Verdict.KNOWN]
    assert not pool.journal.take()
    pool.expire(1_000)
    pool.journal.listen(False)
    assert not pool.journal.take()
    assert (pool.journal.came, pool.journal.went, pool.journal.sequence) == (2, 1, 5)


def test_no_change_is_no_entry() -> None:
    journal = Journal()
    journal.listen(True)
    journal.removed({})
    assert not journal.take()
    assert journal.sequence == 1
