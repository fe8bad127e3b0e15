"""Publications as a subscriber of Bitcoin Core's reads them, over real sockets."""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import NamedTuple

import pytest
import zmq
from payments import ALICE, BOB, SALT, Chain, Payment, admit, pay

import node.notify
from node.block import Block, BlockHeader
from node.errors import ListenError
from node.mempool import Mempool, PolicyLimits
from node.notify import MAX_SUBSCRIPTION_BYTES, TOPICS, Publisher

DEADLINE_MS = 20_000
LIMITS = PolicyLimits(expiry_ms=50, relay_fee_per_kb=0)
VALUE = 100_000

Sub = zmq.Socket[bytes]


class News(NamedTuple):
    """One message, unpacked as Bitcoin Core documents it."""

    topic: bytes
    body: bytes
    number: int


class World:
    """A publisher with the mempool that it tells of, and whoever subscribes."""

    def __init__(self) -> None:
        self.context: zmq.Context[Sub] = zmq.Context()
        self.chain = Chain()
        self.funds = self.chain.fund(*[(VALUE, ALICE)] * 50)
        self.pool = Mempool(self.chain, LIMITS, 0)
        self.publisher = Publisher(self.context, "tcp://127.0.0.1:*", self.pool.journal)
        self.address = self.publisher.socket.getsockopt_string(zmq.LAST_ENDPOINT)
        self.opened: list[Sub] = []
        self.paid = 0

    def socket(self, kind: int) -> Sub:
        socket = self.context.socket(kind)
        socket.linger = 0
        socket.rcvhwm = 1
        self.opened.append(socket)
        return socket

    def subscribe(self, *topics: bytes) -> Sub:
        """A subscriber that the publisher knows of."""
        socket = self.socket(zmq.SUB)
        socket.connect(self.address)
        for topic in topics:
            socket.subscribe(topic)
            self.hear()
        return socket

    def hear(self) -> int:
        """Let the publisher take in what subscribers have said, which must come."""
        assert self.publisher.socket.poll(DEADLINE_MS), "no subscription came"
        return self.publisher.take_subscriptions()

    def until(self, condition: Callable[[], bool]) -> None:
        """Poll until subscribers have said what makes this true."""
        for _ in range(DEADLINE_MS // 20):
            if condition():
                return
            self.publisher.socket.poll(20)
            self.publisher.take_subscriptions()
        raise AssertionError("it did not come about in time")

    def payment(self, fee: int = 500) -> Payment:
        self.paid += 1
        return pay([(self.funds.out(self.paid), ALICE)], [(VALUE - fee, BOB)])

    def block(self, *payments: Payment, size_bytes: int = 0) -> tuple[bytes, Block]:
        """A block, announced; its rules are somebody else's."""
        raws = [payment.raw for payment in payments] + ([bytes(size_bytes)] if size_bytes else [])
        header = BlockHeader(len(raws), 1, 2, 3, b"p" * 32, b"r" * 32, b"k" * 32)
        block = Block(header, raws, [payment.txid for payment in payments])
        self.pool.committed(block.txids, block.transactions[: len(payments)])
        self.publisher.finalised(block.id(SALT), block)
        return block.id(SALT), block

    def close(self) -> None:
        for socket in self.opened:
            socket.close()
        self.publisher.close()
        self.context.term()


@pytest.fixture
def world() -> Iterator[World]:
    world = World()
    yield world
    world.close()


def receive(socket: Sub, count: int = 1) -> list[News]:
    news = []
    for _ in range(count):
        assert socket.poll(DEADLINE_MS), "nothing came"
        topic, body, number = socket.recv_multipart()
        news.append(News(topic, body, struct.unpack("<I", number)[0]))
    return news


def test_a_block_in_every_topic(world: World) -> None:
    everything = world.subscribe(b"")
    one, two = world.payment(), world.payment()
    block_id, block = world.block(one, two)
    header = block.header.encode()
    news = receive(everything, 8)
    assert {(each.topic, each.body) for each in news} == {
        (b"hashblock", block_id),
        (b"rawblock", header + one.raw + two.raw),
        (b"finalised", block_id + header + one.txid + two.txid),
        (b"sequence", block_id + b"C"),
        (b"hashtx", one.txid),
        (b"hashtx", two.txid),
        (b"rawtx", one.raw),
        (b"rawtx", two.raw),
    }
    world.block()
    numbers = {each.topic: each.number for each in [*news, *receive(everything, 4)]}
    assert numbers == {
        **dict.fromkeys((b"hashblock", b"rawblock", b"finalised", b"sequence"), 1),
        **dict.fromkeys((b"hashtx", b"rawtx"), 1),  # the second block has none
    }


def test_the_mempool_in_numbers_without_a_gap(world: World) -> None:
    listener = world.subscribe(b"sequence")
    first, second, third = (world.payment() for _ in range(3))
    rival = pay([(world.funds.out(3), ALICE)], [(VALUE - 50_000, BOB)])
    admit(world.pool, first, second, third)
    admit(world.pool, rival, now_ms=40)  # instead of the third
    block_id, _ = world.block(second)
    world.pool.expire(50)
    world.publisher.mempool_changed()
    read = []
    for topic, body, number in receive(listener, 7):
        assert topic == b"sequence"
        sequence = struct.unpack("<Q", body[33:])[0] if len(body) == 41 else None
        read.append((number, body[:32], chr(body[32]), sequence))
    assert read == [
        (0, first.txid, "A", 1),
        (1, second.txid, "A", 2),
        (2, third.txid, "A", 3),
        (3, third.txid, "R", 4),
        (4, rival.txid, "A", 5),
        (5, block_id, "C", None),  # the second leaves with it, as number 6
        (6, first.txid, "R", 7),
    ]
    assert world.pool.journal.sequence == 8


def test_transactions_at_admission_and_in_their_block(world: World) -> None:
    ids, raws = world.subscribe(b"hashtx"), world.subscribe(b"rawtx")
    payment = world.payment()
    admit(world.pool, payment)
    world.publisher.mempool_changed()
    assert receive(ids) == [(b"hashtx", payment.txid, 0)]
    assert receive(raws) == [(b"rawtx", payment.raw, 0)]
    other = world.payment()
    world.block(payment, other)
    assert [each.body for each in receive(ids, 2)] == [payment.txid, other.txid]
    assert [each.number for each in receive(raws, 2)] == [1, 2]


def test_what_nobody_listened_to_is_counted_and_not_made(world: World) -> None:
    payments = [world.payment() for _ in range(5)]
    admit(world.pool, *payments[:3])
    world.publisher.mempool_changed()
    world.block(*payments[:2])
    world.pool.expire(50)  # the third
    assert not world.pool.journal.listening
    listener = world.subscribe(b"")
    admit(world.pool, payments[3])
    world.publisher.mempool_changed()
    world.block()
    numbers = {each.topic: each.number for each in receive(listener, 7)}
    assert numbers == {
        b"hashtx": 5,  # three admitted, two in the block
        b"rawtx": 5,
        b"sequence": 6,  # three came, one went, one block; then the fourth, then the block
        b"hashblock": 1,
        b"rawblock": 1,
        b"finalised": 1,
    }


def test_who_leaves_is_missed_in_the_numbers_only(world: World) -> None:
    one, two = world.subscribe(b"hashtx"), world.subscribe(b"hash")
    admit(world.pool, world.payment())
    one.close()
    two.unsubscribe(b"hash")
    world.until(lambda: not world.pool.journal.listening)
    assert world.publisher._wanted == frozenset()
    admit(world.pool, world.payment(), world.payment())
    again = world.subscribe(b"rawtx")
    payment = world.payment()
    admit(world.pool, payment)
    world.publisher.mempool_changed()
    assert receive(again) == [(b"rawtx", payment.raw, 3)]


def test_with_nobody_there_the_socket_is_not_touched(world: World) -> None:
    world.publisher.socket.close()  # whoever sends over it fails
    admit(world.pool, world.payment())
    world.publisher.mempool_changed()
    world.block(world.payment(), size_bytes=10_000)


def test_numbers_begin_anew_after_the_last(world: World) -> None:
    listener = world.subscribe(b"hashtx")
    world.publisher._numbers[b"hashtx"] = 2**32 - 2
    world.block(*(world.payment() for _ in range(4)))
    assert [each.number for each in receive(listener, 4)] == [2**32 - 2, 2**32 - 1, 0, 1]
    world.block(world.payment())
    assert receive(listener)[0].number == 2


def test_a_prefix_is_a_subscription(world: World) -> None:
    listener = world.subscribe(b"raw")
    assert world.publisher._wanted == {b"rawblock", b"rawtx"}
    second = world.subscribe(b"rawtx", b"hashblock")
    assert world.publisher._wanted == {b"rawblock", b"rawtx", b"hashblock"}
    listener.unsubscribe(b"raw")
    world.until(lambda: b"rawblock" not in world.publisher._wanted)
    assert world.publisher._wanted == {b"rawtx", b"hashblock"}
    second.close()


def test_what_is_no_subscription_does_no_harm(world: World) -> None:
    caller = world.socket(zmq.XSUB)
    caller.connect(world.address)
    for junk in (b"\x01" + b"no such topic", b"", b"\x02hashtx", b"\x00hashtx"):
        caller.send(junk)
    caller.send(b"\x01hashblock")
    world.until(lambda: world.publisher._wanted == {b"hashblock"})
    assert world.publisher._prefixes == {b"hashblock"}
    caller.send(b"\x01" + bytes(MAX_SUBSCRIPTION_BYTES))  # too long: it is cut off
    world.until(lambda: not world.publisher._wanted)


def test_a_subscriber_that_stands_still_holds_bounded_memory(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    limit = 8_000_000
    monkeypatch.setattr(node.notify, "QUEUE_LARGE_BYTES", limit)
    publisher = world.publisher
    still = world.subscribe(b"rawblock")
    quick = world.subscribe(b"hashblock")
    blocks = 100
    for _ in range(blocks):
        world.block(size_bytes=1_000_000)
        assert publisher._large_bytes <= limit
    assert [each.number for each in receive(quick, blocks)] == list(range(blocks))
    sent = 0
    while still.poll(500):
        news = receive(still)[0]
        assert len(news.body) == 1_000_128
        sent += 1
    assert sent < blocks
    world.block(size_bytes=1_000_000)
    (next_one,) = receive(still)
    assert next_one.number == blocks  # the gap shows
    # One above the limit goes when it is alone; one that is cut off gives everything back.
    world.until(lambda: all(tracker.done for tracker, _ in publisher._large))
    for _ in range(40):
        world.block(size_bytes=9_000_000)
    assert publisher._large_bytes <= 9_000_200
    still.close()
    world.until(lambda: all(tracker.done for tracker, _ in publisher._large))


def test_who_takes_nothing_for_long_is_cut_off(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(node.notify, "STANDSTILL_MS", 500)
    world = World()
    try:
        world.subscribe(b"rawblock")
        for _ in range(60):
            world.block(size_bytes=1_000_000)
        assert not all(tracker.done for tracker, _ in world.publisher._large)
        world.until(lambda: all(tracker.done for tracker, _ in world.publisher._large))
    finally:
        world.close()


def test_a_port_in_use_is_the_operators_to_mend(world: World) -> None:
    with pytest.raises(ListenError, match=r"network\.notify"):
        Publisher(world.context, world.address, world.pool.journal)
    with suppress(zmq.ZMQError):
        world.publisher.socket.unbind(world.address)


def test_topics_are_bitcoin_cores_and_one_of_ours() -> None:
    core = {b"hashblock", b"rawblock", b"hashtx", b"rawtx", b"sequence"}
    assert set(TOPICS) == core | {b"finalised"}
