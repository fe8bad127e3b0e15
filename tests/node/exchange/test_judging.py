"""Fast judging of blocks against the reference: the same blocks, the same rules broken."""

from __future__ import annotations

import dataclasses
import random
from collections.abc import Callable

import pytest
from chains import ALLOTTED, OWNER_OF, OWNERS, PUBLIC, SmallChain, make_genesis
from hypothesis import given, settings
from hypothesis import strategies as st

from node.block import Block, BlockHeader
from node.exchange.judging import MAX_AHEAD_MS, Judgement, Rules, is_timely, judge
from node.exchange.verified import read_verified
from node.ledger import BlockInvalid, validate_block
from node.params import MAX_AMOUNT
from node.transaction import Input, Output, build, sign

FEE = 10

Outcome = tuple[object, object, object] | None


def by_the_reference(chain: SmallChain, block: Block) -> Outcome:
    try:
        validate_block(block, chain.ledger, chain.ledger, chain.genesis)
    except BlockInvalid as broken:
        return broken.rule, broken.position, broken.verdict
    return None


def by_judge(chain: SmallChain, block: Block) -> Outcome:
    transactions = read_verified(block.txids, block.transactions)
    try:
        judged = judge(block.header, transactions, chain.ledger, chain.ledger, chain.genesis)
    except BlockInvalid as broken:
        return broken.rule, broken.position, broken.verdict
    assert judged == block
    return None


def in_slices(chain: SmallChain, block: Block, size: int) -> Outcome:
    transactions = read_verified(block.txids, block.transactions)
    size_bytes = sum(map(len, block.transactions))
    try:
        judgement = Judgement(
            Rules(chain.genesis),
            block.header,
            len(transactions),
            size_bytes,
            chain.ledger,
            chain.ledger,
        )
        for start in range(0, len(transactions), size):
            judgement.add(transactions[start : start + size])
        assert judgement.finish() == block
    except BlockInvalid as broken:
        return broken.rule, broken.position, broken.verdict
    return None


def remade(chain: SmallChain, block: Block, transactions: list[bytes], fees: int) -> Block:
    made = chain.block(transactions, fees)
    return dataclasses.replace(
        made, header=dataclasses.replace(made.header, time_ms=block.header.time_ms)
    )


def wild(chain: SmallChain, random_: random.Random) -> bytes:
    """A well-formed, rightly signed payment that may break any rule of the ledger."""
    known = sorted(chain.ledger.outputs.items())
    picked = random_.sample(known, min(len(known), random_.randint(1, 4)))
    inputs = []
    total = 0
    for outpoint, output in picked:
        total += int.from_bytes(output[:8], "little")
        if random_.random() < 0.1:
            outpoint = outpoint[:32] + bytes((random_.randrange(256),))
        elif random_.random() < 0.1:
            outpoint = random_.randbytes(33)
        signer = OWNER_OF[output[8:]] if random_.random() < 0.8 else random_.choice(OWNERS)
        inputs.append((outpoint, signer))
    fee = random_.choice((FEE, FEE - 1, 0, -1, total // 2))
    values = [max(5, total - fee - 5), 5][: random_.randint(1, 2)]
    return build(
        dict(inputs).items(),
        [Output(min(value, MAX_AMOUNT // 2), random_.choice(PUBLIC)) for value in values],
        chain.salt,
    )


HEADERS: list[Callable[[BlockHeader, random.Random], BlockHeader]] = [
    lambda h, _: dataclasses.replace(h, version=2),
    lambda h, r: dataclasses.replace(h, height=h.height + r.choice((-1, 1))),
    lambda h, _: dataclasses.replace(h, previous=bytes(32)),
    lambda h, r: dataclasses.replace(h, time_ms=h.time_ms - r.choice((1, 10))),
    lambda h, _: dataclasses.replace(h, proposer=PUBLIC[3]),
    lambda h, r: dataclasses.replace(
        h, n_transactions=max(0, h.n_transactions + r.choice((-1, 1)))
    ),
    lambda h, _: dataclasses.replace(h, transaction_root=bytes(32)),
    lambda h, r: dataclasses.replace(h, fees=max(0, h.fees + r.choice((-1, 1)))),
]


def altered(chain: SmallChain, block: Block, random_: random.Random) -> Block:
    transactions = list(block.transactions)
    fees = block.header.fees
    for _ in range(random_.randint(0, 2)):
        what = random_.randrange(5)
        if what == 0:
            random_.shuffle(transactions)
        elif what == 1 and transactions:
            transactions.insert(random_.randrange(len(transactions) + 1), transactions[0])
        elif what == 2 and transactions:
            transactions.pop(random_.randrange(len(transactions)))
        else:
            transactions.insert(random_.randrange(len(transactions) + 1), wild(chain, random_))
    block = remade(chain, block, transactions, fees)
    if random_.random() < 0.4:
        change = random_.choice(HEADERS)
        block = dataclasses.replace(block, header=change(block.header, random_))
    return block


@settings(max_examples=120)
@given(st.integers(0, 2**32))
def test_it_agrees_with_the_ledger(seed: int) -> None:
    random_ = random.Random(seed)
    genesis, data = make_genesis(
        12,
        value=random_.choice((ALLOTTED, 40, MAX_AMOUNT // 12)),
        max_block_transactions=random_.choice((6, 1000)),
        max_block_bytes=random_.choice((1_000_000, 75_710)),
    )
    chain = SmallChain(genesis, data)
    for _ in range(2):
        good = chain.random_block(random_, 4)
        bad = altered(chain, good, random_)
        expected = by_the_reference(chain, bad)
        assert by_judge(chain, bad) == expected
        assert in_slices(chain, bad, random_.randint(1, 3)) == expected
        assert by_judge(chain, good) is None
        chain.ledger.apply(good)


def test_altered_blocks_break_many_rules() -> None:
    """The test above would be worth little if its blocks broke but one rule."""
    seen = set()
    random_ = random.Random(7)
    for _ in range(150):
        chain = SmallChain(*make_genesis(12, max_block_transactions=6))
        seen.add(by_the_reference(chain, altered(chain, chain.random_block(random_, 4), random_)))
    names = {(str(each[0]), each[2]) for each in seen if each is not None}
    assert len(names) >= 11, names
    assert None in seen


def test_limits_of_a_block() -> None:
    chain = SmallChain(*make_genesis(max_block_bytes=70_000))
    outputs = chain.ledger.outputs
    payments = [
        chain.spend([(chain.allotted(n), outputs[chain.allotted(n)])], [ALLOTTED - FEE - 5, 5])
        for n in range(400)
    ]
    size = len(payments[0])
    over = chain.block(payments[: 70_000 // size + 1], (70_000 // size + 1) * FEE)
    assert by_judge(chain, over) == by_the_reference(chain, over) != None  # noqa: E711
    under = chain.block(payments[: 70_000 // size], 70_000 // size * FEE)
    assert by_judge(chain, under) is None


def test_an_output_of_the_block_is_spent_twice() -> None:
    chain = SmallChain(*make_genesis())
    outpoint = chain.allotted(0)
    first = chain.spend([(outpoint, chain.ledger.outputs[outpoint])], [ALLOTTED - 100, 90])
    made = chain.hasher.txid(first)
    second = chain.spend([(made + b"\1", first[78:118])], [80])
    third = chain.spend([(made + b"\1", first[78:118])], [70])
    beyond = build([(made + b"\2", OWNERS[0])], [Output(70, PUBLIC[0])], chain.salt)
    foreign = sign([Input(made + b"\1", 0)], [Output(80, PUBLIC[0])], [OWNERS[1]], chain.salt)
    assert OWNER_OF[first[86:118]] is not OWNERS[1]
    for bad in ([first, second, third], [first, beyond], [first, foreign], [second, first]):
        block = chain.block(bad, 0)
        assert by_judge(chain, block) == by_the_reference(chain, block) != None  # noqa: E711


@pytest.mark.parametrize(("ahead_ms", "timely"), [(0, True), (MAX_AHEAD_MS, True), (15_001, False)])
def test_a_proposal_must_not_come_from_the_future(ahead_ms: int, timely: bool) -> None:
    header = SmallChain(*make_genesis()).block([], 0).header
    assert is_timely(header, header.time_ms - ahead_ms) is timely
