"""What peers can do to block exchange: nothing escapes, nothing grows, nobody takes it all."""

from __future__ import annotations

import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
from chains import SmallChain, make_genesis
from exchange_world import MS, Node, Wire, World, decide, grow, payments
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from node.block import Block, BlockHeader
from node.consensus.messages import Certified, VoteType
from node.consensus.wire import encode
from node.exchange import supplier
from node.exchange.announcements import MAX_BYTES, MAX_OF_A_PEER, Announcements
from node.exchange.download import Download, Lie
from node.exchange.exchange import EARLY_HEIGHTS, MAX_WANTED
from node.exchange.judging import Rules
from node.exchange.messages import (
    ANSWER_BYTES,
    BUSY,
    BlockHead,
    decode_not_found,
    encode_block,
    encode_compact,
    encode_get_block,
    encode_get_compact,
    encode_get_transactions,
    encode_height,
    encode_not_found,
)
from node.exchange.outbox import LIE
from node.exchange.supplier import Budget
from node.exchange.verified import Arrived
from node.genesis import validator_set
from node.network.frames import FrameType
from node.params import MAX_TX_BYTES
from node.storage.blockfile import BodyLocation


@pytest.fixture(scope="module")
def chain() -> SmallChain:
    return SmallChain(*make_genesis(powers=(1, 1, 1, 1)))


class Quiet(Node):
    """Keeps what it says to itself."""

    def send(self, peer: int, frame_type: FrameType, body: bytes) -> None:
        self.sent.append((frame_type, body))

    @property
    def sent(self) -> list[tuple[FrameType, bytes]]:
        found: list[tuple[FrameType, bytes]] = self.__dict__.setdefault("_sent", [])
        return found


@pytest.fixture
def quiet(tmp_path: Path) -> Iterator[Quiet]:
    """A node that has one block, with a peer (2) that is higher."""
    chain = SmallChain(*make_genesis(powers=(1, 1, 1, 1)))
    world = World(1, chain, tmp_path, Wire())
    node = world.add(Quiet)
    assert isinstance(node, Quiet)
    for block, certified in grow(chain, world.random, 1):
        node.commit(block, certified)
    node.exchange.peer_connected(2, 9, world.now_ns)
    yield node
    world.close()


def header_at(height: int, salt: int = 0) -> BlockHeader:
    return BlockHeader(0, height, salt, 0, bytes(32), bytes(32), bytes(32))


# -- anything may come ---------------------------------------------------------------------------


def plausible(node: Quiet, block: Block, random_: random.Random) -> tuple[int, bytes]:
    """A frame that is nearly right."""
    value = block.id(node.chain.salt)
    tags = [*node.expected, 7]
    certificate = node.store.certificate(1)
    assert certificate is not None
    frame_type, body = random_.choice(
        [
            (FrameType.COMPACT, encode_compact(block.header.encode(), block.txids)),
            (FrameType.GET_COMPACT, encode_get_compact(1, node.store.tip.block_id)),
            (FrameType.GET_TRANSACTIONS, encode_get_transactions(1, value, [0, 2])),
            (FrameType.GET_BLOCK, encode_get_block(1, random_.choice((0, 1, 2**64 - 1)), 0)),
            (
                FrameType.BLOCK,
                encode_block(random_.choice(tags), block.header.encode(), certificate),
            ),
            (FrameType.NOT_FOUND, encode_not_found(random_.choice(tags), random_.choice((0, 5)))),
            (FrameType.STATUS, encode_height(random_.choice((0, 3, 2**64 - 1)))),
        ]
    )
    what = random_.randrange(4)
    if what == 0 and body:
        at = random_.randrange(len(body))
        body = body[:at] + bytes((random_.randrange(256),)) + body[at + 1 :]
    elif what == 1:
        body = body[: random_.randrange(len(body) + 1)]
    elif what == 2:
        body += random_.randbytes(random_.randrange(3))
    return frame_type, body


@settings(max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(seed=st.integers(0, 2**32))
def test_nothing_that_a_peer_sends_escapes(quiet: Quiet, seed: int) -> None:
    random_ = random.Random(seed)
    chain, exchange, world = quiet.chain, quiet.exchange, quiet.world
    block = chain.block(payments(chain, range(3)), 30)
    exchange.want(2, block.id(chain.salt), world.now_ns, world.unix_ms())
    good = Arrived(block.txids[0], block.transactions[0])
    for _ in range(60):
        frame_type, body = plausible(quiet, block, random_)
        if random_.random() < 0.2:
            frame_type, body = random_.randrange(256), random_.randbytes(random_.randrange(300))
        exchange.heard(2, frame_type, body, world.now_ns)
        tag = random_.choice([*quiet.expected, 7])
        items = [random_.choice((None, good, Arrived(bytes(32), b"x")))] * random_.randrange(4)
        exchange.fetched(tag, random_.choice((0, 1, 2**32 - 1)), items, world.now_ns)
        world.now_ns += random_.randrange(2_000) * MS
        exchange.elapse(world.now_ns)
    assert len(quiet.expected) <= MAX_WANTED + 4
    quiet.sent.clear()
    quiet.verdicts.clear()


# -- announcements -------------------------------------------------------------------------------


def test_announcements_are_bounded() -> None:
    known = Announcements()
    for number in range(10):
        known.add(1, bytes((number,)), header_at(1), bytes(500))
        known.add(2, bytes((number,)), header_at(1), bytes(500))
    assert len(known) == MAX_OF_A_PEER
    last = known.take(b"\x09")
    assert last is not None
    assert list(last.holders) == [1, 2]
    assert known.take(b"\x09") is None
    size = 2 << 20
    for number in range(100):
        known.add(number, bytes((number, 0)), header_at(1), bytes(size))
        assert len(known) <= MAX_BYTES // size
    known.gone(99)
    assert known.take(bytes((99, 0))) is None
    known.forget(1)
    assert len(known) == 0


def test_compacts_of_far_heights_are_not_kept(quiet: Quiet) -> None:
    exchange, world = quiet.exchange, quiet.world
    for kept, height in ((0, 0), (0, 1), (0, 2 + EARLY_HEIGHTS), (0, 2**64 - 1), (1, 2), (2, 3)):
        exchange.heard(2, FrameType.COMPACT, header_at(height).encode(), world.now_ns)
        assert len(exchange._announced) == kept
    assert not quiet.blamed


# -- supplying -----------------------------------------------------------------------------------


def test_a_budget_is_earned_in_time() -> None:
    budget = Budget(1000, 500, 0)
    assert budget.has_left(0)
    budget.spend(700)
    assert not budget.has_left(200 * MS)
    assert budget.has_left(201 * MS)
    budget.spend(1)
    for at_ms in range(202, 300):  # asking often does not lose what a moment earns
        budget.has_left(at_ms * MS)
    assert budget.has_left(300 * MS)
    budget.spend(99)
    assert not budget.has_left(300 * MS)
    assert budget.has_left(10_000 * MS)
    budget.spend(500)
    assert not budget.has_left(10_000 * MS)


def test_who_asks_too_much_is_told_to_wait(quiet: Quiet, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(supplier, "PEER_BURST_BYTES", 10 * supplier.QUESTION_BYTES)
    exchange, world = quiet.exchange, quiet.world
    exchange.peer_connected(3, 0, world.now_ns)
    exchange.peer_connected(4, 0, world.now_ns)

    def ask(peer: int) -> list[FrameType]:
        quiet.sent.clear()
        exchange.heard(peer, FrameType.GET_BLOCK, encode_get_block(1, 1, 0), world.now_ns)
        return [frame_type for frame_type, _ in quiet.sent]

    answers = [ask(3) for _ in range(10)]
    assert answers[0][0] is FrameType.BLOCK
    assert answers[-1] == [FrameType.NOT_FOUND]
    assert decode_not_found(quiet.sent[0][1]) == (1, BUSY)
    assert ask(4)[0] is FrameType.BLOCK
    world.now_ns += 1_000 * MS
    assert ask(3)[0] is FrameType.BLOCK
    assert not quiet.blamed


def test_committed_blocks_at_hand_are_bounded(
    quiet: Quiet, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(supplier, "MAX_RECENT_BYTES", 3 * supplier.KEPT_BYTES)
    chain, exchange, world = quiet.chain, quiet.exchange, quiet.world
    for _ in range(10):
        block = chain.block([], 0)
        chain.ledger.apply(block)
        exchange.hold(block.id(chain.salt), block)
        quiet.commit(block, decide(chain, block))
    exchange.peer_connected(3, 0, world.now_ns)
    for height in range(1, 12):
        exchange.heard(3, FrameType.GET_BLOCK, encode_get_block(height, height, 0), world.now_ns)
        exchange.heard(
            3,
            FrameType.GET_COMPACT,
            encode_get_compact(height, quiet.store.block_id(height)),
            world.now_ns,
        )
    kinds = [frame_type for frame_type, _ in quiet.sent]
    assert kinds.count(FrameType.BLOCK) == kinds.count(FrameType.COMPACT) == 11
    assert len(exchange._supplier._recent) <= 3


def test_a_cold_block_is_given_without_its_ids_being_worked_out(
    quiet: Quiet, monkeypatch: pytest.MonkeyPatch
) -> None:
    exchange, world, store = quiet.exchange, quiet.world, quiet.store
    assert not exchange._supplier._recent
    read: list[str] = []
    for name in ("read", "read_body"):
        reader = getattr(quiet.bodies, name)

        def noted(location: BodyLocation, name: str = name, reader: Any = reader) -> Any:
            read.append(name)
            return reader(location)

        monkeypatch.setattr(quiet.bodies, name, noted)
    get_block = (FrameType.GET_BLOCK, encode_get_block(1, 1, 0))
    get_compact = (FrameType.GET_COMPACT, encode_get_compact(1, store.block_id(1)))
    for kind, body, reads in (
        (*get_block, ["read_body"]),
        (*get_block, []),
        (*get_compact, ["read", "read_body"]),  # one by way of the other
        (*get_compact, []),
        (*get_block, []),
    ):
        exchange.heard(2, kind, body, world.now_ns)
        assert read == reads
        read.clear()
    header, transactions = quiet.bodies.read_body(store.block_location(1))
    compact = next(body for kind, body in quiet.sent if kind is FrameType.COMPACT)
    txids = [quiet.chain.hasher.txid(raw) for raw in transactions]
    assert compact == encode_compact(header.encode(), txids)
    ((_, size_bytes),) = exchange._supplier._recent.values()
    assert exchange._supplier._recent_bytes == size_bytes


def test_strangers_are_not_heard(quiet: Quiet) -> None:
    quiet.sent.clear()
    quiet.exchange.heard(77, FrameType.GET_BLOCK, encode_get_block(1, 1, 0), quiet.world.now_ns)
    quiet.exchange.peer_gone(77, quiet.world.now_ns)
    assert not quiet.sent


# -- downloads -----------------------------------------------------------------------------------


def a_download(chain: SmallChain) -> Download:
    download = Download(1, 2, Rules(chain.genesis), 0)
    download.ask(0, 0)
    return download


def test_parts_may_come_before_the_header(chain: SmallChain) -> None:
    block = chain.block(payments(chain, range(4)), 40)
    items = list(map(Arrived, block.txids, block.transactions))
    certified = decide(chain, block)
    head = BlockHead(1, block.header.encode(), encode_certified(certified))
    download = a_download(chain)
    download.take(2, items[2:], 0)
    download.take(0, items[:3], 0)
    assert not download.is_whole
    assert download.take_head(head, validator_set(chain.genesis), 0) == certified
    assert download.is_whole
    assert (download.txids, download.raws()) == (block.txids, block.transactions)


def encode_certified(certified: Certified) -> bytes:
    return encode(certified)


def test_lies_about_transactions(chain: SmallChain) -> None:
    block = chain.block(payments(chain, range(4)), 40)
    items = list(map(Arrived, block.txids, block.transactions))
    head = BlockHead(1, block.header.encode(), encode_certified(decide(chain, block)))
    for first, sent in (
        (0, [None]),
        (chain.genesis.max_block_transactions, [items[0]]),
        (0, [items[1], items[0], items[2], items[3]]),
        (1, items),
        (0, [*items, items[0]]),
    ):
        download = a_download(chain)
        with pytest.raises(Lie):  # noqa: PT012
            download.take(first, sent, 0)
            download.take_head(head, validator_set(chain.genesis), 0)
    download = a_download(chain)
    download.take(0, items[:3], 0)
    download.take_head(head, validator_set(chain.genesis), 0)
    with pytest.raises(Lie):
        download.take(3, [items[0]], 0)


def test_no_more_than_was_asked_for_is_kept(chain: SmallChain) -> None:
    download = a_download(chain)
    big = Arrived(bytes(32), bytes(MAX_TX_BYTES))
    most = ANSWER_BYTES // MAX_TX_BYTES + 1
    for position in range(most):
        download.take(position, [big], 0)
    with pytest.raises(Lie):
        download.take(most, [big], 0)


def test_lies_about_certificates(chain: SmallChain) -> None:
    block, other = chain.block([], 0), chain.block(payments(chain, range(1)), 10)
    validators = validator_set(chain.genesis)
    good = decide(chain, block).certificate
    replace = msgspec.structs.replace
    header = block.header.encode()
    for bad_header, certificate in (
        (other.header.encode(), encode_certified(Certified(good))),
        (header[:-1], encode_certified(Certified(good))),
        (header, b""),
        (header, encode_certified(Certified(replace(good, height=2)))),
        (header, encode_certified(Certified(replace(good, signatures=good.signatures[:2])))),
        (header, encode_certified(Certified(replace(good, type=VoteType.PREVOTE)))),
    ):
        with pytest.raises(Lie):
            a_download(chain).take_head(BlockHead(1, bad_header, certificate), validators, 0)
    head = BlockHead(1, header, encode_certified(Certified(good)))
    download = a_download(chain)
    download.take_head(head, validators, 0)
    assert download.is_whole


def test_wants_are_bounded(quiet: Quiet) -> None:
    exchange, world = quiet.exchange, quiet.world
    for number in range(3 * MAX_WANTED):
        exchange.want(2, bytes((number,)) * 32, world.now_ns, world.unix_ms())
    assert len(exchange._wants) == MAX_WANTED
    assert LIE not in quiet.blamed.values()
