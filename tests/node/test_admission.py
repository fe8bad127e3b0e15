"""Admission: every verdict of ledger and policy, their order, and the tray as a unit."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
from mempool_model import check
from nacl.signing import SigningKey
from payments import (
    ALICE,
    BOB,
    CAROL,
    IDS,
    MALLORY,
    SALT,
    Chain,
    Payment,
    admit,
    commit,
    pay,
    pending,
    submit,
    tray,
)

from node.mempool import Mempool, PolicyLimits
from node.newcomers import parse
from node.params import MAX_AMOUNT, MAX_INPUTS
from node.transaction import Output, build, decode
from node.verdict import Verdict
from node.verification.batch import BatchVerifier
from node.verification.columns import VerdictColumns
from node.verification.nacl import NaclBackend

MIN_FEE = 10
LIMITS = PolicyLimits(relay_fee_per_kb=1_000, replacement_increment=5)


@pytest.fixture
def chain() -> Chain:
    return Chain()


@pytest.fixture
def coins(chain: Chain) -> Payment:
    """Outputs 0..39, 100,000 units each, that Alice owns."""
    return chain.fund(*[(100_000, ALICE)] * 40)


@pytest.fixture
def pool(chain: Chain) -> Mempool:
    return Mempool(chain, LIMITS, MIN_FEE)


def spend(source: Payment, index: int, fee: int = 1_000, owner: bytes = ALICE) -> Payment:
    return pay([(source.out(index), owner)], [(100_000 - fee, BOB)])


def in_a_tray(coins: Payment, payment: Payment) -> list[Payment]:
    """The payment at the end of a tray that is large enough for arrays."""
    return [*(spend(coins, index) for index in range(30, 38)), payment]


Case = Callable[[Chain, Payment], Payment]
CASES: dict[Verdict, Case] = {
    Verdict.ADMITTED: lambda chain, coins: spend(coins, 0),
    Verdict.FINAL: lambda chain, coins: coins,
    Verdict.ORPHANED: lambda chain, coins: pay([(bytes(33), ALICE)], [(1, BOB)]),
    Verdict.NO_SUCH_OUTPUT: lambda chain, coins: spend(coins, 40),
    Verdict.WRONG_OWNER: lambda chain, coins: spend(coins, 0, owner=MALLORY),
    Verdict.INPUTS_BELOW_OUTPUTS: lambda chain, coins: spend(coins, 0, fee=-1),
    Verdict.FEE_BELOW_MINIMUM: lambda chain, coins: spend(coins, 0, fee=MIN_FEE - 1),
    Verdict.FEE_BELOW_RELAY: lambda chain, coins: spend(coins, 0, fee=173),
}


@pytest.mark.parametrize("verdict", CASES)
@pytest.mark.parametrize("size", ["alone", "in a tray"])
def test_verdicts_against_the_chain(
    chain: Chain, coins: Payment, pool: Mempool, verdict: Verdict, size: str
) -> None:
    payment = CASES[verdict](chain, coins)
    sent = [payment] if size == "alone" else in_a_tray(coins, payment)
    verdicts = submit(pool, *sent)
    assert verdicts == [Verdict.ADMITTED] * (len(sent) - 1) + [verdict]
    assert pool.verdict_counts[verdict] == verdicts.count(verdict)
    assert sum(pool.verdict_counts) == len(sent)
    assert (payment.txid in pool) == (verdict is Verdict.ADMITTED)
    check(pool, chain)


def test_the_relay_fee_is_rounded_up(coins: Payment, pool: Mempool) -> None:
    assert len(spend(coins, 0).raw) == 174
    exact = replace(LIMITS, relay_fee_per_kb=1_001)  # 174.174 units
    for fee, verdict in ((174, Verdict.FEE_BELOW_RELAY), (175, Verdict.ADMITTED)):
        for sent in ([spend(coins, 0, fee)], in_a_tray(coins, spend(coins, 0, fee))):
            fresh = Mempool(pool._admission._view, exact, 0)
            assert submit(fresh, *sent)[-1] is verdict


def test_spent_by_the_chain(chain: Chain, coins: Payment, pool: Mempool) -> None:
    first = spend(coins, 0)
    chain.apply([first])
    rival = spend(coins, 0, fee=2_000)
    assert submit(pool, rival, first) == [Verdict.SPENT_INPUT, Verdict.FINAL]
    assert submit(pool, *in_a_tray(coins, rival))[-1] is Verdict.SPENT_INPUT


def test_no_such_output_of_a_pending_parent(coins: Payment, pool: Mempool) -> None:
    parent = spend(coins, 0)
    admit(pool, parent)
    assert submit(pool, pay([(parent.out(1), BOB)], [(1, BOB)])) == [Verdict.NO_SUCH_OUTPUT]


def test_a_hopeless_input_outranks_a_missing_parent(coins: Payment, pool: Mempool) -> None:
    hopeless = pay([(bytes(33), ALICE), (coins.out(40), ALICE)], [(1, BOB)])
    assert submit(pool, hopeless) == [Verdict.NO_SUCH_OUTPUT]
    assert pool.orphan_count == 0


def test_a_missing_parent_outranks_a_wrong_owner(coins: Payment, pool: Mempool) -> None:
    orphan = pay([(bytes(33), ALICE), (coins.out(), MALLORY)], [(1, BOB)])
    assert submit(pool, orphan) == [Verdict.ORPHANED]


def test_owner_is_checked_before_sums_and_sums_before_fees(coins: Payment, pool: Mempool) -> None:
    both = spend(coins, 0, fee=-1, owner=MALLORY)
    assert submit(pool, both) == submit(pool, *in_a_tray(coins, both))[-1:]
    assert submit(pool, both) == [Verdict.WRONG_OWNER]


def test_fees_are_checked_before_conflicts(coins: Payment, pool: Mempool) -> None:
    admit(pool, spend(coins, 0))
    pool.pin(pending(pool))
    assert submit(pool, spend(coins, 0, fee=9)) == [Verdict.FEE_BELOW_MINIMUM]
    assert submit(pool, spend(coins, 0, fee=5_000)) == [Verdict.CONFLICT]


def test_one_wrong_owner_among_many_inputs_is_found(chain: Chain, pool: Mempool) -> None:
    coins = chain.fund(*[(1_000, (ALICE, BOB)[i % 2]) for i in range(200)])
    good = [
        pay([(coins.out(i + k), (ALICE, BOB)[k % 2]) for k in range(4)], [(3_000, CAROL)])
        for i in range(0, 40, 4)
    ]
    swapped = pay([(coins.out(40 + k), (BOB, ALICE)[k % 2]) for k in range(4)], [(3_000, CAROL)])
    half = pay(
        [(coins.out(44 + k), (ALICE, BOB, ALICE, ALICE)[k]) for k in range(4)], [(3_000, CAROL)]
    )
    verdicts = submit(pool, *good, swapped, half)
    assert verdicts == [Verdict.ADMITTED] * 10 + [Verdict.WRONG_OWNER] * 2
    check(pool, chain)


def test_shapes_may_differ_within_a_tray(chain: Chain, pool: Mempool) -> None:
    coins = chain.fund(*[(10_000, ALICE)] * 250)
    counts = [1, 3, 1, 100, 2, 1, 7]
    starts = [sum(counts[:i]) for i in range(len(counts))]
    payments = [
        pay([(coins.out(k), ALICE) for k in range(start, start + n)], [(7_000, BOB)] * n)
        for start, n in zip(starts, counts, strict=True)
    ]
    admit(pool, *payments)
    assert pool.fees == 3_000 * sum(counts)
    check(pool, chain)


def test_the_largest_amounts_do_not_overflow(chain: Chain) -> None:
    pool = Mempool(chain, PolicyLimits(relay_fee_per_kb=0), 0)
    coins = [chain.fund((MAX_AMOUNT, ALICE)) for _ in range(MAX_INPUTS + 8)]
    everything = pay([(coin.out(), ALICE) for coin in coins[:MAX_INPUTS]], [(1, BOB)])
    payments = [everything, *(pay([(c.out(), ALICE)], [(1, BOB)]) for c in coins[MAX_INPUTS:])]
    admit(pool, *payments)
    assert pool.fees == (MAX_INPUTS + 8) * MAX_AMOUNT - 9
    check(pool, chain)
    assert pool.select(10**6, 3).txids[0] == payments[1].txid  # the same capped fee, far smaller


def test_rejected_items_keep_the_verifiers_code(
    chain: Chain, coins: Payment, pool: Mempool
) -> None:
    payments = [spend(coins, index) for index in range(12)]
    rejected = {0: Verdict.BAD_SIGNATURE, 5: Verdict.DUST_OUTPUT, 11: Verdict.BAD_LENGTH}
    codes = np.zeros(12, dtype=np.uint8)
    pool.admit(*tray([p.raw for p in payments], rejected), 0, codes)
    assert codes.tolist() == [int(rejected.get(i, Verdict.ADMITTED)) for i in range(12)]
    assert pending(pool) == [p.txid for i, p in enumerate(payments) if i not in rejected]
    check(pool, chain)
    everything = dict.fromkeys(range(12), Verdict.BAD_SIGNATURE)
    pool.admit(*tray([p.raw for p in payments], everything), 0, codes)
    assert set(codes.tolist()) == {Verdict.BAD_SIGNATURE}
    assert sum(pool.verdict_counts) == 24
    pool.admit(*tray([]), 0, codes)
    assert sum(pool.verdict_counts) == 24


def test_nothing_refers_to_the_tray_afterwards(chain: Chain, pool: Mempool) -> None:
    coins = chain.fund(*[(100_000, ALICE)] * 40)
    for start, count in ((0, 20), (20, 3)):  # in arrays, and one at a time
        payments = [spend(coins, start + index) for index in range(count)]
        laid_out = tray([p.raw for p in payments])
        payload = bytearray(laid_out.payload)
        slot = laid_out.columns
        pool.admit(slot, count, memoryview(payload), laid_out.offsets, 0, np.zeros(count, np.uint8))
        payload[:] = bytes(len(payload))
        for column in (slot.txids, slot.outpoints, slot.owners, slot.output_sums):
            column[:] = 0
        assert pool.transactions(p.txid for p in payments) == [p.raw for p in payments]
    check(pool, chain)


def test_read_only_segments_will_do(chain: Chain, coins: Payment, pool: Mempool) -> None:
    laid_out = tray([spend(coins, index).raw for index in range(10)])
    for name in laid_out.columns.__slots__:
        if not name.startswith("_"):
            getattr(laid_out.columns, name).flags.writeable = False
    assert laid_out.payload.readonly
    codes = np.zeros(10, dtype=np.uint8)
    pool.admit(*laid_out, 0, codes)
    assert len(pool) == 10


def test_a_tray_sent_again_is_known_and_changes_nothing(
    chain: Chain, coins: Payment, pool: Mempool
) -> None:
    payments = [spend(coins, index) for index in range(20)]
    orphan = pay([(bytes(33), ALICE)], [(1, BOB)])
    first = submit(pool, *payments, orphan, now_ms=1)
    before = list(pool.records())
    again = submit(pool, *payments, orphan, now_ms=2)
    assert first == [Verdict.ADMITTED] * 20 + [Verdict.ORPHANED]
    assert again == [Verdict.KNOWN] * 20 + [Verdict.ORPHANED]
    assert list(pool.records()) == before
    assert pool.counters.orphaned == pool.orphan_count == 1
    commit(pool, chain, *payments)
    assert submit(pool, *payments) == [Verdict.FINAL] * 20


def test_known_transactions_are_not_looked_up(chain: Chain, coins: Payment, pool: Mempool) -> None:
    payments = [spend(coins, index) for index in range(20)]
    admit(pool, *payments[:10])
    chain.output_queries = 0
    submit(pool, *payments)
    assert chain.output_queries == 10


def test_the_earlier_of_two_rivals_in_a_tray_wins(
    chain: Chain, coins: Payment, pool: Mempool
) -> None:
    for base in (0, 10):
        rivals = [spend(coins, base, fee=1_000), spend(coins, base, fee=1_001)]
        rest = [spend(coins, base + 1 + index) for index in range(base)]
        verdicts = submit(pool, rivals[0], *rest, rivals[1], rivals[0])
        assert verdicts[-2:] == [Verdict.REPLACEMENT_FEE, Verdict.KNOWN]
        assert rivals[0].txid in pool
    check(pool, chain)


def test_a_family_in_one_tray_is_admitted_in_any_order(
    chain: Chain, coins: Payment, pool: Mempool
) -> None:
    family = [pay([(coins.out(), ALICE)], [(99_000, ALICE)])]
    for step in range(1, 12):
        value = 99_000 - 1_000 * step
        family.append(pay([(family[-1].out(), ALICE)], [(value, ALICE)]))
    backwards = Mempool(chain, LIMITS, MIN_FEE)
    shuffled = Mempool(chain, LIMITS, MIN_FEE)
    order = family[:]
    random.Random(7).shuffle(order)
    admit(pool, *family)
    assert submit(backwards, *family[::-1]) == [Verdict.ORPHANED] * 11 + [Verdict.ADMITTED]
    submit(shuffled, *order)
    for each in (pool, backwards, shuffled):
        assert pending(each) == [p.txid for p in family]
        assert each.orphan_count == 0
        check(each, chain)


def test_an_item_known_at_first_but_replaced_within_its_tray_is_judged_afresh(
    chain: Chain, coins: Payment, pool: Mempool
) -> None:
    held = spend(coins, 0)
    admit(pool, held)
    dearer = spend(coins, 0, fee=5_000)
    rest = [spend(coins, index) for index in range(1, 8)]
    verdicts = submit(pool, dearer, *rest, held)
    assert verdicts == [Verdict.ADMITTED] * 8 + [Verdict.REPLACEMENT_FEE]


def test_a_bad_witness_set_does_not_block_the_good_one(
    chain: Chain, coins: Payment, pool: Mempool
) -> None:
    good = spend(coins, 0)
    forged = spend(coins, 0, owner=MALLORY)
    assert good.txid == forged.txid
    assert good.raw != forged.raw
    assert submit(pool, forged) == [Verdict.WRONG_OWNER]
    assert submit(pool, good) == [Verdict.ADMITTED]
    assert submit(pool, forged) == [Verdict.KNOWN]
    assert pool.transactions([good.txid]) == [good.raw]
    tray_of_both = [spend(coins, 1, owner=MALLORY), spend(coins, 1)]
    tray_of_both += [spend(coins, index) for index in range(2, 9)]
    assert submit(pool, *tray_of_both)[:2] == [Verdict.WRONG_OWNER, Verdict.ADMITTED]
    check(pool, chain)


def test_a_store_that_fails_leaves_the_pool_usable(coins: Payment, chain: Chain) -> None:
    class Failing(Chain):
        working = False

        def get_outputs(self, outpoints: list[bytes], /) -> list[bytes | None]:
            if not self.working:
                raise OSError("the disk is gone")
            return super().get_outputs(outpoints)

    view = Failing(chain.outputs, chain.positions)
    pool = Mempool(view, LIMITS, MIN_FEE)
    payments = [spend(coins, index) for index in range(10)]
    with pytest.raises(OSError, match="the disk is gone"):
        submit(pool, *payments)
    assert len(pool) == 0
    check(pool, chain)
    view.working = True
    admit(pool, *payments)


def test_what_the_verifier_writes_is_what_admission_reads(chain: Chain) -> None:
    owners = [SigningKey(bytes([seed]) * 32) for seed in range(3)]
    keys = [bytes(owner.verify_key) for owner in owners]
    coins = chain.fund(*[(100_000, keys[i % 3]) for i in range(60)])
    signed = [
        build(
            [(coins.out(4 * i + k), owners[(4 * i + k) % 3]) for k in range(1 + i % 4)],
            [Output(50_000, BOB), Output(40_000 + i, CAROL)],
            SALT,
        )
        for i in range(12)
    ]
    stolen = build([(coins.out(50), owners[0])], [Output(1, MALLORY)], SALT)
    broken = signed[0][:-1] + bytes([signed[0][-1] ^ 1])
    raws = [*signed[:6], stolen, broken, *signed[6:]]
    laid_out = tray(raws)
    slot = bytearray(VerdictColumns.layout_bytes(20, 16_384))
    columns = VerdictColumns(memoryview(slot), 20, 16_384)
    verifier = BatchVerifier(NaclBackend(), SALT, 1, 20, 16_384)
    verifier.verify(laid_out.payload, laid_out.offsets, columns)
    codes = np.zeros(len(raws), dtype=np.uint8)
    pool = Mempool(chain, LIMITS, MIN_FEE)
    pool.admit(columns, len(raws), laid_out.payload, laid_out.offsets, 0, codes)
    expected = [Verdict.ADMITTED] * 14
    expected[6:8] = [Verdict.WRONG_OWNER, Verdict.BAD_SIGNATURE]
    assert codes.tolist() == expected
    assert pool.transactions(IDS.txid(raw) for raw in signed) == signed
    check(pool, chain)


def test_parse_reads_what_the_codec_writes() -> None:
    payment = pay(
        [(bytes([i]) * 33, (ALICE, BOB)[i % 2]) for i in range(5)], [(7, CAROL), (8, ALICE)]
    )
    newcomer = parse(payment.txid, payment.raw, 3)
    transaction = decode(payment.raw, 0)
    assert newcomer.outpoints == tuple(item.outpoint for item in transaction.inputs)
    assert newcomer.owners == [
        transaction.witnesses[item.witness].key for item in transaction.inputs
    ]
    assert newcomer.output_sum == transaction.output_sum
    assert IDS.txid(newcomer.raw) == newcomer.txid
