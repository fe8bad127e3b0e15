"""Putting a proposed block together: whom it is asked of, when, and what is believed."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from chains import SmallChain, make_genesis
from exchange_world import MS, Node, Wire, World, decide, payments

from node.block import Block
from node.exchange import judging
from node.exchange.assembly import GRACE_NS, IMPATIENCE_NS
from node.exchange.messages import (
    decode_get_transactions,
    encode_compact,
    encode_not_found,
)
from node.exchange.outbox import LIE
from node.exchange.verified import Arrived
from node.network.frames import FrameType


class Recorder(Node):
    """Keeps what it would send, with the receivers."""

    def send(self, peer: int, frame_type: FrameType, body: bytes) -> None:
        self.sent.append((peer, frame_type, body))

    @property
    def sent(self) -> list[tuple[int, FrameType, bytes]]:
        found: list[tuple[int, FrameType, bytes]] = self.__dict__.setdefault("_sent", [])
        return found


@pytest.fixture
def node(tmp_path: Path) -> Iterator[Recorder]:
    """A node with peers 2 and 3, at height 0."""
    world = World(1, SmallChain(*make_genesis(powers=(1, 1, 1, 1))), tmp_path, Wire())
    made = world.add(Recorder)
    assert isinstance(made, Recorder)
    for peer in (2, 3):
        made.exchange.peer_connected(peer, 0, world.now_ns)
    yield made
    world.close()


@pytest.fixture
def block(node: Recorder) -> Block:
    return node.chain.block(payments(node.chain, range(6)), 60)


def announce(node: Recorder, block: Block, peer: int, txids: list[bytes] | None = None) -> None:
    body = encode_compact(block.header.encode(), block.txids if txids is None else txids)
    node.exchange.heard(peer, FrameType.COMPACT, body, node.world.now_ns)


def pass_time(node: Recorder, span_ns: int) -> None:
    node.world.now_ns += span_ns
    node.exchange.elapse(node.world.now_ns)


def asked(node: Recorder, frame_type: FrameType) -> list[int]:
    return [peer for peer, kind, _ in node.sent if kind is frame_type]


def last_request(node: Recorder) -> tuple[int, int, tuple[int, ...]]:
    """The peer, number and positions of the last request for transactions."""
    peer, kind, body = node.sent[-1]
    assert kind is FrameType.GET_TRANSACTIONS
    request = decode_get_transactions(body, 100)
    return peer, request.request, request.positions


def give(node: Recorder, block: Block, tag: int, positions: range, first: int = 0) -> None:
    items = [Arrived(block.txids[at], block.transactions[at]) for at in positions]
    node.exchange.fetched(tag, first, items, node.world.now_ns)


def test_peers_are_asked_in_turn(node: Recorder, block: Block) -> None:
    node.want(block)
    assert not node.sent
    pass_time(node, GRACE_NS)
    assert asked(node, FrameType.GET_COMPACT) == [2]
    pass_time(node, IMPATIENCE_NS)
    assert asked(node, FrameType.GET_COMPACT) == [2, 3]
    pass_time(node, IMPATIENCE_NS)
    assert asked(node, FrameType.GET_COMPACT) == [2, 3]  # nobody twice in so short a time
    node.world.now_ns += 1
    node.exchange.peer_connected(4, 0, node.world.now_ns)
    pass_time(node, IMPATIENCE_NS)
    assert asked(node, FrameType.GET_COMPACT) == [2, 3, 4]


def test_who_announced_it_is_asked_for_what_is_lacking(node: Recorder, block: Block) -> None:
    node.know(block.transactions[:3])
    announce(node, block, 3)
    node.want(block)
    peer, tag, positions = last_request(node)
    assert (peer, positions) == (3, (3, 4, 5))
    give(node, block, tag, range(3, 6))
    assert node.verdicts == {block.id(node.chain.salt): block}
    assert not node.expected


def test_forged_ids_are_a_lie_and_do_no_harm(node: Recorder, block: Block) -> None:
    forged = [bytes(32), *block.txids[1:]]
    announce(node, block, 2, forged)
    announce(node, block, 3, block.txids[:-1])
    node.want(block)
    assert node.blamed == {2: LIE}
    assert asked(node, FrameType.GET_COMPACT) == [2]  # anew, at once
    announce(node, block, 3, block.txids[:-1])
    assert node.blamed == {2: LIE, 3: LIE}
    announce(node, block, 3)
    assert last_request(node)[2] == (0, 1, 2, 3, 4, 5)


def test_an_answer_that_is_not_whole_is_gone_on_with(node: Recorder, block: Block) -> None:
    announce(node, block, 3)
    node.want(block)
    _, tag, _ = last_request(node)
    node.exchange.heard(3, FrameType.NOT_FOUND, encode_not_found(tag, 2), node.world.now_ns)
    give(node, block, tag, range(1))
    assert len(node.sent) == 1
    give(node, block, tag, range(1, 2), first=1)
    peer, again, positions = last_request(node)
    assert (peer, positions) == (3, (2, 3, 4, 5))
    assert again != tag


def test_who_has_nothing_is_left_for_the_next(node: Recorder, block: Block) -> None:
    announce(node, block, 3)
    node.want(block)
    _, tag, _ = last_request(node)
    refusal = encode_not_found(tag, 0)
    node.exchange.heard(2, FrameType.NOT_FOUND, refusal, node.world.now_ns)  # it was not asked
    assert len(node.sent) == 1
    node.exchange.heard(3, FrameType.NOT_FOUND, refusal, node.world.now_ns)
    assert last_request(node)[0] == 2
    assert not node.blamed


def test_other_transactions_are_a_lie_and_do_no_harm(node: Recorder, block: Block) -> None:
    for items in ([None], [Arrived(block.txids[1], block.transactions[1])]):
        announce(node, block, 2)
        announce(node, block, 3)
        node.blamed.clear()
        node.want(block)
        pass_time(node, 10_000 * MS)
        peer, tag, _ = last_request(node)
        node.exchange.fetched(tag, 0, items, node.world.now_ns)
        assert node.blamed == {peer: LIE}
        other, again, _ = last_request(node)
        assert other != peer
        node.exchange.fetched(again, 6, [None], node.world.now_ns)  # beyond what was asked for
        assert node.blamed == {peer: LIE, other: LIE}


def test_who_leaves_is_replaced_at_once(node: Recorder, block: Block) -> None:
    announce(node, block, 3)
    node.want(block)
    assert last_request(node)[0] == 3
    node.exchange.peer_gone(3, node.world.now_ns)
    assert last_request(node)[0] == 2


def test_what_is_being_judged_is_forgotten_when_its_height_is_over(
    node: Recorder, block: Block, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(judging, "SLICE_BYTES", 1)
    node.know(block.transactions)
    announce(node, block, 3)
    node.want(block)
    pass_time(node, MS)
    due_ns = node.exchange.deadline_ns()
    assert due_ns is not None
    assert due_ns <= node.world.now_ns  # there is more to judge
    other = node.chain.block([], 0)
    node.commit(other, decide(node.chain, other))
    assert node.exchange.deadline_ns() is None
    pass_time(node, 1_000 * MS)
    assert not node.verdicts


def test_an_invalid_header_needs_no_transactions(node: Recorder) -> None:
    node.chain.ledger.block_id = bytes(32)
    block = node.chain.block(payments(node.chain, range(6)), 60)
    announce(node, block, 3)
    node.want(block)
    assert node.verdicts == {block.id(node.chain.salt): None}
    assert not node.sent
