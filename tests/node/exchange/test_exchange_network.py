"""Block exchange in a network that is bad and has liars in it: everybody gets every block."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest
from chains import SmallChain, make_genesis
from exchange_world import MS, Node, Wire, World, decide, grow, payments

from node.block import Block
from node.consensus.messages import Certified
from node.exchange import catchup, download, judging, messages
from node.exchange.messages import decode_block, encode_block
from node.exchange.outbox import LIE, STALL
from node.network.frames import FrameType

BAD = Wire(loss=0.15, twice=0.1)
POOR = Wire(loss=0.01, twice=0.1)


@pytest.fixture
def chain() -> SmallChain:
    return SmallChain(*make_genesis(powers=(1, 1, 1, 1)))


@pytest.fixture
def worlds(chain: SmallChain, tmp_path: Path) -> Iterator[list[World]]:
    made: list[World] = []
    yield made
    for world in made:
        world.close()


def make_world(
    worlds: list[World], chain: SmallChain, tmp_path: Path, seed: int, wire: Wire
) -> World:
    world = World(seed, chain, tmp_path, wire)
    worlds.append(world)
    return world


def block_of_payments(chain: SmallChain, count: int) -> Block:
    return chain.block(payments(chain, range(count)), 10 * count)


@pytest.fixture
def small_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make answers, parts and slices so small that a little block takes many of each."""
    for module in (messages, download, catchup):
        monkeypatch.setattr(module, "ANSWER_BYTES", 4_000)
    monkeypatch.setattr(messages, "PART_BYTES", 1_500)
    monkeypatch.setattr(judging, "SLICE_BYTES", 1_000)


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


class Stalling(Node):
    """Says that it has everything and gives nothing."""

    def send(self, peer: int, frame_type: FrameType, body: bytes) -> None:
        pass


class BadSignatures(Node):
    """Gives transactions whose signatures are broken."""

    def send(self, peer: int, frame_type: FrameType, body: bytes) -> None:
        if frame_type is FrameType.PART:
            body = body[:-1] + bytes((body[-1] ^ 1,))
        super().send(peer, frame_type, body)


class BadCertificates(Node):
    """Gives certificates that nobody signed."""

    def send(self, peer: int, frame_type: FrameType, body: bytes) -> None:
        if frame_type is FrameType.BLOCK:
            body = body[:-1] + bytes((body[-1] ^ 1,))
        super().send(peer, frame_type, body)


class WrongBlocks(Node):
    """Gives the header and the certificate of another height."""

    def send(self, peer: int, frame_type: FrameType, body: bytes) -> None:
        if frame_type is FrameType.BLOCK:
            head = decode_block(body)
            first = self.bodies.read(self.store.block_location(1))
            certificate = self.store.certificate(1)
            assert certificate is not None
            body = encode_block(head.request, first.header.encode(), certificate)
        super().send(peer, frame_type, body)


class OtherTransactions(Node):
    """Gives good transactions, but not those of the block."""

    def __init__(self, number: int, world: World, path: Path) -> None:
        super().__init__(number, world, path)
        (self.other,) = payments(self.chain, range(500, 501), fee=77)

    def send(self, peer: int, frame_type: FrameType, body: bytes) -> None:
        if frame_type is FrameType.PART:
            part = messages.decode_part(body)
            body = messages.encode_part(part.request, part.first, [self.other] * len(part.lengths))
        super().send(peer, frame_type, body)


class Boasting(Node):
    """Says that its chain is very high."""

    def told_height(self) -> int:
        return 2**63


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
    assert late.exchange.behind
    world.run(lambda: late.store.tip.height == 40, 300)
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


class Forgetful(Node):
    """Loses every part once."""

    def send(self, peer: int, frame_type: FrameType, body: bytes) -> None:
        lost: set[bytes] = self.__dict__.setdefault("lost", set())
        if frame_type is FrameType.PART and body not in lost:
            lost.add(body)
        else:
            super().send(peer, frame_type, body)


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


class Deaf(Node):
    """Counts what it is told of decisions, and does nothing."""

    def decided(self, certified: Certified, block: Block | None) -> None:
        self.__dict__.setdefault("told", []).append((certified, block))


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
    assert late.was_behind
    assert world.now_ns - began_ns >= catchup.LATE_NS
    assert not late.exchange.behind


def test_a_boast_is_not_believed_for_long(
    worlds: list[World], chain: SmallChain, tmp_path: Path
) -> None:
    world = make_world(worlds, chain, tmp_path, 8, Wire())
    world.add(Boasting)
    honest = world.add()
    world.join()
    assert honest.exchange.behind
    behind_ms = 0
    for _ in range(200):
        began_ns = world.now_ns
        world.run(lambda: world.now_ns - began_ns >= 100 * MS, 1)  # noqa: B023
        behind_ms += 100 * honest.exchange.behind
    assert behind_ms < 4_000
    assert not honest.blamed  # it may have been cut off from those who told it


def test_who_stalls_is_blamed_a_little(
    worlds: list[World], chain: SmallChain, tmp_path: Path
) -> None:
    world = make_world(worlds, chain, tmp_path, 12, Wire())
    stalling, late = world.add(Stalling), world.add()
    for block, certified in grow(chain, world.random, 3):
        stalling.commit(block, certified)
    world.join()
    world.run(lambda: bool(late.blamed), 10)
    assert late.blamed == {stalling.number: STALL}
    assert not late.exchange.behind


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
