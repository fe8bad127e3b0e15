"""The ledger's rules: each one broken on its own, and value conserved whatever the fees are."""

from __future__ import annotations

import dataclasses
import os
import random
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import msgspec
import pytest
from chains import ALLOTTED, OWNER_OF, OWNERS, PUBLIC, SmallChain, make_genesis
from hypothesis import given, settings
from hypothesis import strategies as st

from node.block import MAX_HEIGHT, Block
from node.genesis import GenesisError, reward_at, supply_at
from node.ledger import BlockInvalid, Ledger, Rule, replay, validate_block
from node.params import MAX_AMOUNT
from node.transaction import Input, Output, build, decode, encode, sign
from node.verdict import Verdict

FEE = 10


@pytest.fixture
def chain() -> SmallChain:
    return SmallChain(*make_genesis())


def pay(chain: SmallChain, number: int, fee: int = FEE) -> bytes:
    """A valid payment of allocation ``number``."""
    outpoint = chain.allotted(number)
    output = chain.ledger.outputs[outpoint]
    return chain.spend([(outpoint, output)], [ALLOTTED - fee - 100, 100])


def rejected(chain: SmallChain, block: Block) -> BlockInvalid:
    """The reason why a block is not valid; the ledger must not have moved."""
    before = (dict(chain.ledger.outputs), chain.ledger.height, chain.ledger.block_id)
    with pytest.raises(BlockInvalid) as caught:
        chain.ledger.apply(block)
    assert (chain.ledger.outputs, chain.ledger.height, chain.ledger.block_id) == before
    return caught.value


def test_a_valid_block(chain: SmallChain) -> None:
    first = pay(chain, 0, fee=10)
    made = chain.hasher.txid(first)
    second = chain.spend(
        [(made + b"\0", first[38:78]), (made + b"\1", first[78:118])], [ALLOTTED - 10 - 15]
    )
    block = chain.block([first, second], fees=25)
    changes = chain.ledger.apply(block)
    assert list(changes.spent) == [chain.allotted(0)]
    assert changes.fees == 25
    assert set(changes.positions) == {made, chain.hasher.txid(second)} | {
        outpoint[:32] for outpoint, output in changes.created.items() if output[8:] == PUBLIC[0]
    }
    rewards = [output for output in changes.created.values() if output[8:] == PUBLIC[0]]
    assert [int.from_bytes(output[:8], "little") for output in rewards] == [25 + 50]
    position = chain.ledger.find_transaction(chain.hasher.txid(second))
    assert position is not None
    assert (position.height, position.position, position.n_outputs) == (1, 1, 1)
    assert chain.ledger.supply() == supply_at(chain.genesis, 1)


HEADERS: list[tuple[Rule, Callable[[SmallChain], dict[str, object]]]] = [
    (Rule.VERSION, lambda chain: {"version": 2}),
    (Rule.VERSION, lambda chain: {"version": 0}),
    (Rule.HEIGHT, lambda chain: {"height": 2}),
    (Rule.HEIGHT, lambda chain: {"height": 0}),
    (Rule.PREVIOUS, lambda chain: {"previous": bytes(32)}),
    (Rule.TIME, lambda chain: {"time_ms": chain.genesis.time_ms}),
    (Rule.PROPOSER, lambda chain: {"proposer": PUBLIC[1]}),
    (Rule.COUNT, lambda chain: {"n_transactions": 0}),
    (Rule.COUNT, lambda chain: {"n_transactions": 2}),
    (Rule.ROOT, lambda chain: {"transaction_root": bytes(32)}),
    (Rule.FEES, lambda chain: {"fees": FEE + 1}),
    (Rule.FEES, lambda chain: {"fees": FEE - 1}),
    (Rule.FEES, lambda chain: {"fees": 0}),
]


@pytest.mark.parametrize(("rule", "change"), HEADERS)
def test_rules_of_the_header(
    chain: SmallChain, rule: Rule, change: Callable[[SmallChain], dict[str, object]]
) -> None:
    block = chain.block([pay(chain, 0)], FEE)
    header = dataclasses.replace(block.header, **change(chain))  # type: ignore[arg-type]
    broken = rejected(chain, dataclasses.replace(block, header=header))
    assert (broken.rule, broken.position, broken.verdict) == (rule, None, None)
    chain.ledger.apply(block)


def test_the_last_height(chain: SmallChain) -> None:
    chain.ledger.height = MAX_HEIGHT
    assert rejected(chain, chain.block([], 0)).rule is Rule.HEIGHT


def test_limits_of_a_block() -> None:
    chain = SmallChain(*make_genesis(max_block_transactions=2))
    payments = [pay(chain, number) for number in range(3)]
    assert rejected(chain, chain.block(payments, 3 * FEE)).rule is Rule.COUNT
    chain.ledger.apply(chain.block(payments[:2], 2 * FEE))
    most = 70_000
    chain = SmallChain(*make_genesis(max_block_bytes=most))
    size = len(pay(chain, 0))
    assert most // size < 600
    payments = [pay(chain, number) for number in range(most // size + 1)]
    assert rejected(chain, chain.block(payments, len(payments) * FEE)).rule is Rule.SIZE
    chain.ledger.apply(chain.block(payments[:-1], (len(payments) - 1) * FEE))


def test_ids_are_not_believed(chain: SmallChain) -> None:
    block = chain.block([pay(chain, 0)], FEE)
    forged = dataclasses.replace(block, txids=[bytes(32)])
    assert rejected(chain, forged).rule is Rule.ROOT


def bad_encoding(chain: SmallChain) -> bytes:
    return pay(chain, 0) + b"\0"


def dust(chain: SmallChain) -> bytes:
    output = chain.ledger.outputs[chain.allotted(0)]
    return chain.spend([(chain.allotted(0), output)], [chain.genesis.dust_limit - 1])


def bad_signature(chain: SmallChain) -> bytes:
    raw = pay(chain, 0)
    return raw[:-64] + bytes((raw[-64] ^ 1,)) + raw[-63:]


def signature_of_another(chain: SmallChain) -> bytes:
    return pay(chain, 0)[:-64] + pay(chain, 4)[-64:]


def other_owner(chain: SmallChain) -> bytes:
    return build([(chain.allotted(0), OWNERS[1])], [Output(100, PUBLIC[0])], chain.salt)


def owners_exchanged(chain: SmallChain) -> bytes:
    """Both owners sign, each for the other's output."""
    outpoints = sorted((chain.allotted(0), chain.allotted(1)))
    owners = [OWNER_OF[chain.ledger.outputs[outpoint][8:]] for outpoint in reversed(outpoints)]
    inputs = [Input(outpoint, number) for number, outpoint in enumerate(outpoints)]
    return sign(inputs, [Output(100, PUBLIC[0])], owners, chain.salt)


def unknown_parent(chain: SmallChain) -> bytes:
    return build([(bytes(33), OWNERS[0])], [Output(100, PUBLIC[0])], chain.salt)


def no_such_index(chain: SmallChain) -> bytes:
    # 600 allocations: the third id has outputs 0..89
    outpoint = chain.allotted(599)[:32] + bytes((90,))
    return build([(outpoint, OWNERS[0])], [Output(100, PUBLIC[0])], chain.salt)


def too_much(chain: SmallChain) -> bytes:
    output = chain.ledger.outputs[chain.allotted(0)]
    return chain.spend([(chain.allotted(0), output)], [ALLOTTED, 5])


def too_small_a_fee(chain: SmallChain) -> bytes:
    return pay(chain, 0, fee=FEE - 1)


@pytest.mark.parametrize(
    ("verdict", "make"),
    [
        (Verdict.BAD_LENGTH, bad_encoding),
        (Verdict.DUST_OUTPUT, dust),
        (Verdict.BAD_SIGNATURE, bad_signature),
        (Verdict.BAD_SIGNATURE, signature_of_another),
        (Verdict.WRONG_OWNER, other_owner),
        (Verdict.WRONG_OWNER, owners_exchanged),
        (Verdict.NO_SUCH_OUTPUT, unknown_parent),
        (Verdict.NO_SUCH_OUTPUT, no_such_index),
        (Verdict.INPUTS_BELOW_OUTPUTS, too_much),
        (Verdict.FEE_BELOW_MINIMUM, too_small_a_fee),
    ],
)
def test_rules_of_transactions(
    chain: SmallChain, verdict: Verdict, make: Callable[[SmallChain], bytes]
) -> None:
    broken = rejected(chain, chain.block([pay(chain, 8), make(chain)], 2 * FEE))
    assert (broken.rule, broken.position, broken.verdict) == (Rule.TRANSACTION, 1, verdict)


def test_double_spends(chain: SmallChain) -> None:
    first, second = pay(chain, 0), pay(chain, 0, fee=FEE + 1)
    made = chain.hasher.txid(first)
    third = chain.spend([(made + b"\1", first[78:118])], [90])
    fourth = chain.spend([(made + b"\1", first[78:118])], [80])
    for bad in ([first, second], [first, first], [first, third, third], [first, third, fourth]):
        broken = rejected(chain, chain.block(bad, 0))
        assert (broken.position, broken.verdict) == (len(bad) - 1, Verdict.SPENT_INPUT)
    chain.ledger.apply(chain.block([first, third], 2 * FEE))
    for bad_one in (first, second, third, fourth):  # and in a later block
        broken = rejected(chain, chain.block([bad_one], 0))
        assert (broken.position, broken.verdict) == (0, Verdict.SPENT_INPUT)


def test_parents_come_first(chain: SmallChain) -> None:
    first = pay(chain, 0)
    second = chain.spend([(chain.hasher.txid(first) + b"\1", first[78:118])], [90])
    broken = rejected(chain, chain.block([second, first], 2 * FEE))
    assert (broken.position, broken.verdict) == (0, Verdict.NO_SUCH_OUTPUT)


def test_a_reward_is_spent_in_later_blocks_only(chain: SmallChain) -> None:
    empty = chain.block([], 0)
    changes = validate_block(empty, chain.ledger, chain.ledger, chain.genesis)
    (reward,) = changes.created.items()
    spend = chain.spend([reward], [40])
    broken = rejected(chain, chain.block([spend], 10))
    assert (broken.position, broken.verdict) == (0, Verdict.NO_SUCH_OUTPUT)
    chain.ledger.apply(empty)
    chain.ledger.apply(chain.block([spend], 10))


def test_nothing_is_paid_for_nothing() -> None:
    chain = SmallChain(*make_genesis(reward=0))
    changes = chain.ledger.apply(chain.block([], 0))
    assert (changes.created, changes.positions) == ({}, {})


def test_rewards_end_at_the_bound() -> None:
    genesis, data = make_genesis(1, value=MAX_AMOUNT - 120, reward=50)
    chain = SmallChain(genesis, data)
    for height in range(1, 6):
        chain.ledger.apply(chain.block([], 0))
        assert chain.ledger.supply() == supply_at(genesis, height)
    assert [reward_at(genesis, height) for height in range(1, 6)] == [50, 50, 20, 0, 0]
    assert chain.ledger.supply() == MAX_AMOUNT


def test_the_greatest_sums_are_exact() -> None:
    """All units there may be go through one fee and come back as one output."""
    genesis, data = make_genesis(4, value=MAX_AMOUNT // 4, reward=0)
    chain = SmallChain(genesis, data)
    inputs = list(chain.ledger.outputs.items())
    fees = MAX_AMOUNT - 5
    chain.ledger.apply(chain.block([chain.spend(inputs, [5])], fees))
    assert chain.ledger.supply() == MAX_AMOUNT
    values = [int.from_bytes(output[:8], "little") for output in chain.ledger.outputs.values()]
    assert sorted(values) == [5, MAX_AMOUNT - 5]


@settings(deadline=None, max_examples=40)
@given(st.integers(0, 2**32), st.integers(0, 1000), st.integers(0, 1000))
def test_value_is_conserved(seed: int, reward: int, min_fee: int) -> None:
    """After every block: outputs = outputs before + reward, whatever the fees."""
    random_ = random.Random(seed)
    value = random_.choice((ALLOTTED, 10, MAX_AMOUNT // 12))
    chain = SmallChain(*make_genesis(12, reward=reward, min_fee=min_fee, value=value))
    blocks = []
    for height in range(1, 4):
        before = chain.ledger.supply()
        block = chain.random_block(random_, 4)
        changes = chain.ledger.apply(block)
        blocks.append(block)
        assert chain.ledger.supply() == before + reward_at(chain.genesis, height)
        spent = sum(int.from_bytes(output[:8], "little") for output in changes.spent.values())
        made = sum(int.from_bytes(output[:8], "little") for output in changes.created.values())
        assert made - spent == reward_at(chain.genesis, height)
    assert replay(chain.genesis, chain.allocations, blocks) == chain.ledger.outputs


def test_replay_checks_everything(chain: SmallChain) -> None:
    blocks = []
    for seed in range(3):
        block = chain.random_block(random.Random(seed), 5)
        chain.ledger.apply(block)
        blocks.append(block)
    assert replay(chain.genesis, chain.allocations, blocks) == chain.ledger.outputs
    assert (
        replay(chain.genesis, chain.allocations, [])
        == Ledger(chain.genesis, chain.allocations).outputs
    )
    with pytest.raises(BlockInvalid, match="height"):
        replay(chain.genesis, chain.allocations, blocks[1:])
    with pytest.raises(GenesisError):
        replay(chain.genesis, chain.allocations[:-40], blocks)
    other = msgspec.structs.replace(chain.genesis, min_fee=11)
    with pytest.raises(BlockInvalid, match="previous"):
        replay(other, chain.allocations, blocks)
    raw = blocks[1].transactions[0]
    damaged = raw[:-1] + bytes((raw[-1] ^ 1,))
    assert encode(decode(damaged, 0)) == damaged
    blocks[1].transactions[0] = damaged
    with pytest.raises(BlockInvalid, match="BAD_SIGNATURE"):
        replay(chain.genesis, chain.allocations, blocks)


def test_the_ledger_does_not_depend_on_the_hash_seed() -> None:
    program = (
        "import random\nfrom chains import *\nfrom node.storage.chain import output_set_digest\n"
        "c = SmallChain(*make_genesis(40))\n"
        "for n in range(3): c.ledger.apply(c.random_block(random.Random(n), 6))\n"
        "print(output_set_digest(sorted(c.ledger.outputs.items())).hex())\n"
        "print(c.ledger.block_id.hex())\n"
        "print([o.hex() for o in c.ledger.outputs])"
    )
    support = str(Path(__file__).parents[1] / "support")
    found = {
        subprocess.run(
            [sys.executable, "-c", program],
            env=os.environ
            | {"PYTHONHASHSEED": seed, "PYTHONPATH": os.pathsep.join([support, *sys.path])},
            check=True,
            capture_output=True,
            timeout=60,
        ).stdout
        for seed in ("0", "7")
    }
    assert len(found) == 1
