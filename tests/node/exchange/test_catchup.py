"""Nodes that have missed blocks: they get them from whoever has them, liars or not."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import pytest
from chains import SmallChain
from exchange_liars import (
    BadCertificates,
    BadSignatures,
    Boasting,
    Deaf,
    Forgetful,
    HeadsOnly,
    OtherTransactions,
    Stalling,
    Voting,
    WrongBlocks,
)
from exchange_world import (
    MS,
    POOR,
    Node,
    Wire,
    World,
    block_of_payments,
    decide,
    grow,
    make_world,
    payments,
)

from node.exchange import catchup
from node.exchange.outbox import LIE
from node.network.frames import FrameType

LIARS = [BadSignatures, BadCertificates, WrongBlocks, OtherTransactions]


@pytest.mark.parametrize("liar", LIARS)
def test_a_node_that_is_behind_catches_up(
    worlds: list[World], chain: SmallChain, tmp_path: Path, small_steps: None, liar: type[Node]
) -> None:
    world = make_world(worlds, chain, tmp_path, 5, POOR)
    honest, lying, stalling = world.add(), world.add(liar), world.add(Stalling)
    for block, certified in grow(chain, world.random, 40):
        for node in (honest, lying, stalling):
            node.commit(block, certified)
    late = world.add()
    world.join((4, 1), (4, 2), (4, 3))
    assert not late.exchange.behind  # nothing proves it yet
    world.run(lambda: late.store.tip.height == 40, 300)
    assert late.was_behind
    assert late.store.tip.block_id == chain.ledger.block_id
    assert late.store.output_set_digest() == honest.store.output_set_digest()
    assert late.blamed.get(lying.number, 0) >= LIE
    assert late.blamed.get(stalling.number, 0) < LIE
    assert late.blamed.get(honest.number, 0) < LIE
    world.run(lambda: not late.exchange.behind, 10)
    assert not late.expected


def test_blocks_come_from_several_peers(
    worlds: list[World], chain: SmallChain, tmp_path: Path
) -> None:
    world = make_world(worlds, chain, tmp_path, 6, Wire())
    suppliers = [world.add() for _ in range(3)]
    for block, certified in grow(chain, world.random, 40):
        for node in suppliers:
            node.commit(block, certified)
    late = world.add()
    world.join((4, 1), (4, 2), (4, 3))
    began_ns = world.now_ns
    world.run(lambda: late.store.tip.height == 40, 60)
    assert world.now_ns - began_ns < 4_000 * MS  # one after the other takes longer
    assert all(node.frames[FrameType.GET_BLOCK] > 8 for node in suppliers)
    assert not late.blamed


def test_catching_up_with_a_chain_that_goes_on(
    worlds: list[World], chain: SmallChain, tmp_path: Path
) -> None:
    world = make_world(worlds, chain, tmp_path, 14, POOR)
    suppliers = [world.add() for _ in range(2)]

    def go_on() -> None:
        ((block, certified),) = grow(chain, world.random, 1)
        for node in suppliers:
            node.commit(block, certified)
        if chain.ledger.height < 40:
            world.at(100 * MS, go_on)

    for _ in range(20):
        go_on()
    late = world.add()
    world.join((1, 3), (2, 3))
    world.run(lambda: late.store.tip.height == 40, 60)
    world.run(lambda: not late.exchange.behind, 10)
    assert late.was_behind
    assert not late.blamed


def test_lost_parts_are_asked_for_again(
    worlds: list[World], chain: SmallChain, tmp_path: Path, small_steps: None
) -> None:
    world = make_world(worlds, chain, tmp_path, 15, Wire())
    supplier = world.add(Forgetful)
    block = block_of_payments(chain, 30)
    chain.ledger.apply(block)
    supplier.commit(block, decide(chain, block))
    late = world.add()
    world.join()
    world.run(lambda: late.store.tip.height == 1, 30)
    assert not late.blamed
    assert not late.expected


@pytest.mark.parametrize("window_bytes", [1, 20_000])
def test_what_is_ahead_of_the_tip_is_bounded(
    worlds: list[World],
    chain: SmallChain,
    tmp_path: Path,
    small_steps: None,
    monkeypatch: pytest.MonkeyPatch,
    window_bytes: int,
) -> None:
    monkeypatch.setattr(catchup, "WINDOW_BYTES", window_bytes)
    world = make_world(worlds, chain, tmp_path, 16, Wire())
    suppliers = [world.add() for _ in range(2)]
    for block, certified in grow(chain, world.random, 20):
        for node in suppliers:
            node.commit(block, certified)
    late = world.add()
    world.join((1, 3), (2, 3))
    most = 0

    def caught_up() -> bool:
        nonlocal most
        downloads = late.exchange._catchup._downloads.values()
        ahead = [each for each in downloads if each.height > late.store.tip.height + 1]
        most = max(most, sum(each.size_bytes for each in ahead))
        return late.store.tip.height == 20

    world.run(caught_up, 60)
    assert most <= window_bytes
    assert (most > 0) is (window_bytes > 1)


def test_a_decision_is_told_again(worlds: list[World], chain: SmallChain, tmp_path: Path) -> None:
    world = make_world(worlds, chain, tmp_path, 17, Wire())
    supplier, late = world.add(), world.add(Deaf)
    for block, certified in grow(chain, world.random, 3):
        supplier.commit(block, certified)
    world.join()
    world.run(lambda: len(late.__dict__.get("told", [])) == 3, 10)
    assert {certified.certificate.height for certified, _ in late.__dict__["told"]} == {1}
    assert not late.blamed


def test_an_invalid_block_that_was_decided(
    worlds: list[World], chain: SmallChain, tmp_path: Path
) -> None:
    """Then a quorum lies, and it is for agreement to halt."""
    world = make_world(worlds, chain, tmp_path, 18, Wire())
    supplier, late = world.add(), world.add(Deaf)
    bad = chain.block(payments(chain, range(3)), 31)
    certified = decide(chain, bad)
    supplier.commit(bad, certified)
    world.join()
    world.run(lambda: "told" in late.__dict__, 10)
    assert late.__dict__["told"] == [(certified, None)]
    late.want(bad)
    assert late.verdicts == {bad.id(chain.salt): None}
    assert not late.blamed


def test_one_block_behind_is_behind_after_a_while(
    worlds: list[World], chain: SmallChain, tmp_path: Path
) -> None:
    world = make_world(worlds, chain, tmp_path, 7, Wire())
    ahead, late = world.add(), world.add()
    ((block, certified),) = grow(chain, world.random, 1)
    ahead.commit(block, certified)
    world.join()
    assert not late.exchange.behind
    began_ns = world.now_ns
    world.run(lambda: late.store.tip.height == 1, 10)
    assert world.now_ns - began_ns >= catchup.LATE_NS
    assert not late.exchange.behind


def test_a_boast_silences_nobody(worlds: list[World], chain: SmallChain, tmp_path: Path) -> None:
    world = make_world(worlds, chain, tmp_path, 8, Wire())
    world.add(Boasting)
    honest = world.add()
    world.join()
    began_ns = world.now_ns
    world.run(lambda: world.now_ns - began_ns >= 20_000 * MS, 30)
    assert not honest.was_behind
    assert not honest.blamed  # it may have been cut off from those who told it


def test_who_stalls_is_asked_more_seldom_and_blamed_for_nothing(
    worlds: list[World], chain: SmallChain, tmp_path: Path
) -> None:
    world = make_world(worlds, chain, tmp_path, 12, Wire())
    stalling, late = world.add(Stalling), world.add()
    for block, certified in grow(chain, world.random, 3):
        stalling.commit(block, certified)
    world.join()
    tags: set[int] = set()

    def asked_anew(times: int) -> bool:
        tags.update(late.expected)
        return len(tags) >= times * 3

    ends_ns = []
    for times in (1, 2, 3, 4):
        world.run(lambda times=times: asked_anew(times), 60)  # type: ignore[misc]
        ends_ns.append(world.now_ns)
    first, second, third = (after - before for before, after in pairwise(ends_ns))
    assert first < second < third
    assert late.blamed == {}
    assert not late.exchange.behind  # for it has proved nothing


def test_a_proven_decision_silences_until_it_is_here(
    worlds: list[World], chain: SmallChain, tmp_path: Path
) -> None:
    world = make_world(worlds, chain, tmp_path, 13, Wire())
    stalling, late, honest = world.add(HeadsOnly), world.add(), world.add()
    for block, certified in grow(chain, world.random, 3):
        stalling.commit(block, certified)
        honest.commit(block, certified)
    world.join((1, 2))
    world.run(lambda: late.exchange.behind, 5)
    began_ns = world.now_ns

    def passed() -> bool:
        assert late.exchange.behind
        return world.now_ns - began_ns >= 4 * catchup.STALL_NS

    world.run(passed, 30)
    assert [each.certificate.height for each in late.proofs] == []  # others have more than a vote
    world.join((2, 3))
    world.run(lambda: late.store.tip.height == 3, 70)
    assert not late.exchange.behind
    assert late.blamed == {}


def test_between_two_answers_a_node_that_catches_up_stays_silent(
    worlds: list[World], chain: SmallChain, tmp_path: Path
) -> None:
    world = make_world(worlds, chain, tmp_path, 15, Wire())
    supplier, late = world.add(), world.add()
    for block, certified in grow(chain, world.random, 4 * catchup.MAX_OF_A_PEER):
        supplier.commit(block, certified)
    world.join()
    world.run(lambda: late.exchange.behind, 5)

    def caught_up() -> bool:  # with only four certificates at a time
        done = late.store.tip.height == supplier.store.tip.height
        assert late.exchange.behind or done
        return done

    world.run(caught_up, 30)
    assert not late.exchange.behind


def test_a_boast_after_a_proof_silences_for_a_while(
    worlds: list[World], chain: SmallChain, tmp_path: Path
) -> None:
    world = make_world(worlds, chain, tmp_path, 16, Wire())
    world.add(Boasting)
    honest, late = world.add(), world.add()
    for block, certified in grow(chain, world.random, 3):
        honest.commit(block, certified)
    world.join()
    world.run(lambda: late.store.tip.height == 3, 60)
    began_ns = world.now_ns

    def passed() -> bool:
        passed_ns = world.now_ns - began_ns
        assert not late.exchange.behind or passed_ns <= catchup.STALL_NS + 2 * catchup.TICK_NS
        return passed_ns >= 30_000 * MS

    world.run(passed, 40)


def test_a_decision_that_one_liar_keeps_is_found_where_it_was_voted_for(
    worlds: list[World], chain: SmallChain, tmp_path: Path
) -> None:
    world = make_world(worlds, chain, tmp_path, 14, Wire())
    stalling, late, voter = world.add(HeadsOnly), world.add(Voting), world.add()
    block = block_of_payments(chain, 5)
    certified = decide(chain, block)
    stalling.commit(block, certified)
    voter.exchange.hold(block.id(chain.salt), block)  # which has not heard of the decision
    world.join()
    world.run(lambda: late.store.tip.height == 1, 20)
    assert late.was_behind
    assert not late.exchange.behind
    assert late.proofs == [certified]
    assert voter.store.tip.height == 0
