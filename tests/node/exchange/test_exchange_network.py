"""Proposed blocks in a network that is bad and has liars in it: everybody gets every block."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import pytest
from chains import SmallChain
from exchange_liars import BadSignatures, OtherTransactions, Stalling
from exchange_world import BAD, MS, Wire, World, block_of_payments, decide, make_world, payments

from node.exchange import judging
from node.exchange.outbox import LIE


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("pairs", [(), ((1, 2), (2, 3), (3, 4))], ids=["mesh", "line"])
def test_a_proposed_block_reaches_everybody(
    worlds: list[World],
    chain: SmallChain,
    tmp_path: Path,
    small_steps: None,
    seed: int,
    pairs: tuple[tuple[int, int], ...],
) -> None:
    world = make_world(worlds, chain, tmp_path, seed, BAD)
    block = block_of_payments(chain, 60)
    value = block.id(chain.salt)
    for _ in range(4):
        world.add().know(world.random.sample(block.transactions, world.random.choice((0, 40, 60))))
    world.join(*pairs)
    proposer, *others = world.nodes
    proposer.propose(block)
    for node in others:
        world.at(world.random.randrange(1, 500) * MS, partial(node.want, block))
    world.run(lambda: all(value in node.verdicts for node in others), 60)
    assert all(node.verdicts[value] == block for node in others)
    assert all(not node.blamed for node in world.nodes)
    assert all(not node.expected for node in world.nodes)
    assert all(node.exchange.deadline_ns() is None for node in world.nodes)


def test_a_block_goes_down_a_line_without_waiting(
    worlds: list[World], chain: SmallChain, tmp_path: Path
) -> None:
    """Who asked a neighbour too early gets the block when the neighbour has it."""
    world = make_world(worlds, chain, tmp_path, 13, Wire())
    block = block_of_payments(chain, 20)
    value = block.id(chain.salt)
    nodes = [world.add() for _ in range(5)]
    world.join((5, 4), (4, 3), (3, 2), (2, 1))
    for node in nodes[1:]:
        node.want(block)
    world.run(lambda: world.now_ns > 2_500 * MS, 5)
    nodes[0].propose(block)
    began_ns = world.now_ns
    world.run(lambda: all(value in node.verdicts for node in nodes[1:]), 5)
    assert world.now_ns - began_ns < 1_000 * MS  # four times three ways of 20 ms and a verifier


def test_an_invalid_block_is_judged_so_everywhere(
    worlds: list[World], chain: SmallChain, tmp_path: Path
) -> None:
    world = make_world(worlds, chain, tmp_path, 9, BAD)
    twice = [*payments(chain, range(5)), *payments(chain, range(1), fee=11)]
    block = chain.block(twice, 61)
    value = block.id(chain.salt)
    nodes = [world.add() for _ in range(3)]
    world.join()
    nodes[0].propose(block)
    for node in nodes[1:]:
        node.want(block)
    world.run(lambda: all(value in node.verdicts for node in nodes[1:]), 60)
    assert all(node.verdicts[value] is None for node in nodes[1:])
    assert all(not node.blamed for node in nodes)


def test_a_bad_supplier_of_a_proposal_is_replaced(
    worlds: list[World], chain: SmallChain, tmp_path: Path
) -> None:
    for number, liar in enumerate((BadSignatures, OtherTransactions, Stalling)):
        path = tmp_path / str(number)
        path.mkdir()
        world = make_world(worlds, chain, path, number, Wire())
        block = block_of_payments(chain, 30)
        value = block.id(chain.salt)
        lying, honest, late = world.add(liar), world.add(), world.add()
        world.join((1, 3), (2, 3))
        lying.exchange.hold(value, block)
        honest.exchange.hold(value, block)
        late.want(block)
        world.run(lambda: value in late.verdicts, 20)  # noqa: B023
        assert late.verdicts[value] == block
        assert (late.blamed.get(lying.number, 0) >= LIE) is (liar is not Stalling)
        assert honest.number not in late.blamed


def test_what_is_committed_is_not_wanted_any_more(
    worlds: list[World], chain: SmallChain, tmp_path: Path
) -> None:
    world = make_world(worlds, chain, tmp_path, 10, Wire())
    node, _ = world.add(), world.add()
    world.join()
    block = block_of_payments(chain, 3)
    node.want(block)
    world.run(lambda: world.now_ns > 3_000 * MS, 5)
    assert node.exchange.deadline_ns() is not None
    other = chain.block([], 0)
    node.commit(other, decide(chain, other))
    assert node.exchange.deadline_ns() is None
    assert not node.expected
    assert not node.verdicts


def test_a_proposal_from_the_future_waits_for_its_time(
    worlds: list[World], chain: SmallChain, tmp_path: Path
) -> None:
    world = make_world(worlds, chain, tmp_path, 11, Wire())
    proposer, other = world.add(), world.add()
    world.join()
    chain.ledger.time_ms = world.unix_ms() + judging.MAX_AHEAD_MS + 2_000
    block = block_of_payments(chain, 3)
    proposer.propose(block)
    other.want(block)
    began_ns = world.now_ns
    world.run(lambda: bool(other.verdicts), 5)
    assert world.now_ns - began_ns >= 2_000 * MS
    assert other.verdicts[block.id(chain.salt)] == block
