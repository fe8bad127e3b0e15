"""Peers that mean harm: a process that does one kind of it to one node, and says what it did.

`Attack` starts the process (`python hostile_peers.py {JSON}`), which connects from the loopback
address that it is told to (127.0.0.2, so that bans do not concern the peers at 127.0.0.1), shakes
hands as an honest peer does where the attack needs that, and is done after so many seconds. It
prints its counters as a line of JSON. What it remembers and keeps open is bounded.
"""

from __future__ import annotations

import asyncio
import json
import struct
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import asdict, dataclass
from itertools import cycle
from random import Random

from nacl.signing import SigningKey

from node.block import BlockHeader
from node.exchange.messages import encode_get_block, encode_get_compact, encode_height
from node.network.frames import MAX_BODY_BYTES, FrameType, Lane
from node.network.handshake import (
    MAGIC,
    NO_SESSION,
    VERSION_MAX,
    VERSION_MIN,
    Hello,
    decode_refuse,
    decode_welcome,
    encode,
)
from node.params import ID_BYTES, SALT_BYTES
from node.transaction import Output, build

ANSWER_S = 5.0
CROWD = 1_000  # connections of fake peers
CROWD_AT_ONCE = 50  # of them being made
SQUATTERS = 4
SETTLERS = 24  # more networks than slots
FLOODERS = 8
FRAMES_AT_ONCE = 60
DRIBBLERS = 20
DRIBBLE_S = 0.05  # between two bytes
RECORDED_BYTES = 32 << 20
PAYMENTS_PER_FRAME = 100
HUGE = (0, 2**31 - 1, 2**32 - 1, MAX_BODY_BYTES[FrameType.COMPACT] + 2)

_HEAD = struct.Struct("<IB")
_UNSOLICITED = (FrameType.AGREEMENT, FrameType.COMPACT, FrameType.TRANSACTIONS)


@dataclass(frozen=True)
class Order:
    """What to do to whom."""

    attack: str
    host: str
    port: int
    genesis_id: str  # hex
    seconds: float
    source: str = "127.0.0.2"
    seed: int = 1


class Attack:
    """The hostile process; a context manager that ends it."""

    def __init__(self, attack: str, address: str, genesis_id: bytes, seconds: float) -> None:
        host, _, port = address.rpartition(":")
        order = Order(attack, host, int(port), genesis_id.hex(), seconds)
        self.process = subprocess.Popen(
            [sys.executable, __file__, json.dumps(asdict(order))],
            stdout=subprocess.PIPE,
            text=True,
        )

    def __enter__(self) -> Attack:
        return self

    def __exit__(self, *_: object) -> None:
        self.process.kill()
        self.process.wait()
        assert self.process.stdout is not None
        self.process.stdout.close()

    def done(self) -> bool:
        """Whether it has ended."""
        return self.process.poll() is not None

    def counts(self) -> dict[str, int]:
        """What it did, once it has ended."""
        said, _ = self.process.communicate(timeout=60)
        assert self.process.returncode == 0, "the attack itself broke"
        counts: dict[str, int] = json.loads(said)
        return counts


# -- the process -----------------------------------------------------------------------------------


class Refused(Exception):
    """The node does not want us, or has closed the connection."""


class Wire:
    """One connection to the node."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer

    async def send(self, kind: int, body: bytes) -> None:
        self.writer.write(_HEAD.pack(len(body) + 1, kind) + body)
        await self.writer.drain()

    async def receive(self) -> tuple[int, bytes]:
        head = await self.reader.readexactly(_HEAD.size)
        length, kind = _HEAD.unpack(head)
        return kind, await self.reader.readexactly(length - 1)

    def close(self) -> None:
        self.writer.transport.abort()


class Villain:
    """Does what the order says; one method for each attack."""

    def __init__(self, order: Order) -> None:
        self.order = order
        self.rng = Random(f"{order.attack} {order.seed}")
        self.counts: Counter[str] = Counter()
        self.genesis_id = bytes.fromhex(order.genesis_id)
        self.end_s = time.monotonic() + order.seconds
        self._ids = self.rng.randbytes(50_000 * ID_BYTES)

    @property
    def is_over(self) -> bool:
        return time.monotonic() >= self.end_s

    # -- as an honest peer does ------------------------------------------------------------------

    async def connect(self, source: str = "") -> Wire:
        order = self.order
        reader, writer = await asyncio.open_connection(
            order.host, order.port, local_addr=(source or order.source, 0), limit=1 << 16
        )
        self.counts["connections"] += 1
        return Wire(reader, writer)

    async def greet(self, wire: Wire, lane: Lane, node_id: bytes, session: bytes) -> bytes:
        """Say HELLO on a lane; returns the session that the node gives."""
        hello = Hello(
            MAGIC, VERSION_MIN, VERSION_MAX, self.genesis_id, node_id, lane, session, 0, "", "fake",
            self.rng.randbytes(32),
        )  # fmt: skip
        await wire.send(FrameType.HELLO, encode(hello))
        kind, body = await asyncio.wait_for(wire.receive(), ANSWER_S)
        if kind == FrameType.REFUSE:
            reason, _, _ = decode_refuse(body)
            name = "refused" if reason is None else f"refused_{reason.name.lower()}"
            self.counts[name] += 1
            raise Refused
        self.counts["welcomes"] += 1
        return decode_welcome(body).session

    async def peer(self, source: str = "") -> tuple[Wire, Wire]:
        """Become a peer: both lanes."""
        node_id = self.rng.randbytes(16)
        agreement = await self.connect(source)
        session = await self.greet(agreement, Lane.AGREEMENT, node_id, NO_SESSION)
        bulk = await self.connect(source)
        await self.greet(bulk, Lane.BULK, node_id, session)
        self.counts["peers"] += 1
        return agreement, bulk

    async def again_and_again(self, attempt: Callable[[], Awaitable[None]]) -> None:
        """Try until time is up, whatever the node does about it."""
        while not self.is_over:
            try:
                async with asyncio.timeout(max(0.0, self.end_s - time.monotonic())):
                    await attempt()
            except (Refused, OSError, EOFError, TimeoutError):
                self.counts["thrown_out"] += 1
                await asyncio.sleep(0.05)

    async def swallow(self, wire: Wire) -> None:
        """Read what the node says, and forget it."""
        while await wire.reader.read(1 << 16):
            pass

    # -- attacks ---------------------------------------------------------------------------------

    async def flood(self) -> None:
        """Valid frames from several peers, as fast as the node takes them; answers are not read."""

        async def one(number: int) -> None:
            async def attempt() -> None:
                agreement, bulk = await self.peer(f"127.0.0.{2 + number}")
                await asyncio.gather(
                    self._flood(agreement, _AGREEMENT_FLOOD), self._flood(bulk, _BULK_FLOOD)
                )

            await self.again_and_again(attempt)

        await asyncio.gather(*(one(number) for number in range(FLOODERS)))

    async def _flood(self, wire: Wire, kinds: tuple[FrameType, ...]) -> None:
        bodies = {
            FrameType.PING: bytes(8),
            FrameType.STATUS: encode_height(3),
            FrameType.GET_COMPACT: encode_get_compact(1, bytes(ID_BYTES)),
            FrameType.GET_BLOCK: encode_get_block(1, 1, 0),
            FrameType.ADDRESSES_WANTED: b"",
        }
        once = b"".join(_HEAD.pack(len(bodies[kind]) + 1, kind) + bodies[kind] for kind in kinds)
        while not self.is_over:
            wire.writer.write(FRAMES_AT_ONCE // len(kinds) * once)
            await wire.writer.drain()
            self.counts["frames"] += FRAMES_AT_ONCE
            await asyncio.sleep(0)  # a socket that takes everything would starve the others

    async def compacts(self) -> None:
        """Announcements of blocks that nobody has built, as large as they may be, from several."""

        async def one(number: int) -> None:
            async def attempt() -> None:
                agreement, bulk = await self.peer(f"127.0.0.{2 + number}")
                readers = [asyncio.create_task(self.swallow(bulk))]
                try:
                    height = 0
                    while not self.is_over:
                        height = await self._told_height(agreement, height)
                        await agreement.send(FrameType.COMPACT, self._compact(height + 1))
                        self.counts["frames"] += 1
                finally:
                    for reader in readers:
                        reader.cancel()

            await self.again_and_again(attempt)

        await asyncio.gather(*(one(number) for number in range(FLOODERS)))

    async def _told_height(self, wire: Wire, height: int) -> int:
        """The height of the node, as far as it has told; reads what has come."""
        with suppress(TimeoutError):
            while True:
                kind, body = await asyncio.wait_for(wire.receive(), 0.01 if height else ANSWER_S)
                if kind == FrameType.STATUS:
                    height = int.from_bytes(body, "little")
        return height

    def _compact(self, height: int) -> bytes:
        count = 50_000
        header = BlockHeader(
            n_transactions=count,
            height=height,
            time_ms=time.time_ns() // 1_000_000,
            fees=0,
            previous=self.rng.randbytes(ID_BYTES),
            transaction_root=self.rng.randbytes(ID_BYTES),
            proposer=self.rng.randbytes(ID_BYTES),
        )
        return header.encode() + self._ids[: count * ID_BYTES]

    async def dribble(self) -> None:
        """Many connections that send a byte at a time: some greetings, some frames of a peer."""

        async def one(number: int) -> None:
            async def attempt() -> None:
                frame = _HEAD.pack(1024, FrameType.HELLO) + bytes(1023)
                wire = None
                if number % 2:
                    wire, bulk = await self.peer()
                    frame = _HEAD.pack(256 * 1024, FrameType.AGREEMENT) + bytes(1 << 18)
                    asyncio.get_running_loop().call_later(self.order.seconds, bulk.close)
                wire = wire or await self.connect()
                for byte in frame:
                    wire.writer.write(bytes([byte]))
                    await wire.writer.drain()
                    self.counts["bytes"] += 1
                    await asyncio.sleep(DRIBBLE_S)

            await self.again_and_again(attempt)

        await asyncio.gather(*(one(number) for number in range(DRIBBLERS)))

    async def lengths(self) -> None:
        """Frames that claim to be huge, or of no length: greetings, and a peer's on both lanes."""
        turns = cycle(range(3))

        async def attempt() -> None:
            turn = next(turns)
            wires = [await self.connect()] if turn == 0 else list(await self.peer())
            wire = wires[0] if turn < 2 else wires[1]
            wire.writer.write(_HEAD.pack(self.rng.choice(HUGE), self.rng.choice(_ANY_TYPE)))
            wire.writer.write(self.rng.randbytes(4096))
            await wire.writer.drain()
            self.counts["frames"] += 1
            await self.swallow(wire)

        await self.again_and_again(attempt)

    async def replay(self) -> None:
        """Record what the node tells its peers for a third of the time; then repeat all of it."""
        recorded: list[tuple[int, bytes]] = []
        size = 0

        async def listen(wire: Wire, until_s: float) -> None:
            nonlocal size
            with suppress(TimeoutError):
                async with asyncio.timeout(until_s - time.monotonic()):
                    while size < RECORDED_BYTES:
                        kind, body = await wire.receive()
                        if kind in _UNSOLICITED:
                            recorded.append((kind, body))
                            size += len(body)

        lanes = await self.peer()
        until_s = time.monotonic() + self.order.seconds / 3
        await asyncio.gather(*(listen(wire, until_s) for wire in lanes))
        self.counts["recorded"] = len(recorded)
        for wire in lanes:
            wire.close()

        async def attempt() -> None:
            agreement, bulk = await self.peer()
            readers = [asyncio.create_task(self.swallow(wire)) for wire in (agreement, bulk)]
            try:
                while not self.is_over:
                    for kind, body in self.rng.sample(recorded, len(recorded)):
                        wire = bulk if kind == FrameType.TRANSACTIONS else agreement
                        await wire.send(kind, body)
                        self.counts["frames"] += 1
                    await asyncio.sleep(0.01)
            finally:
                for reader in readers:
                    reader.cancel()

        await self.again_and_again(attempt)

    async def phantoms(self) -> None:
        """Payments of outputs that do not exist, rightly signed by whoever claims to own them."""
        key = SigningKey(self.rng.randbytes(32))
        owner = bytes(key.verify_key)

        def payment() -> bytes:
            nowhere = self.rng.randbytes(ID_BYTES) + b"\0"
            return build(
                [(nowhere, key)], [Output(10_000_000, owner)], self.genesis_id[:SALT_BYTES]
            )

        async def attempt() -> None:
            _, bulk = await self.peer()
            reader = asyncio.create_task(self.swallow(bulk))
            try:
                while not self.is_over:
                    raws = [payment() for _ in range(PAYMENTS_PER_FRAME)]
                    lengths = b"".join(len(raw).to_bytes(2, "little") for raw in raws)
                    head = len(raws).to_bytes(2, "little")
                    await bulk.send(FrameType.TRANSACTIONS, head + lengths + b"".join(raws))
                    self.counts["payments"] += len(raws)
            finally:
                reader.cancel()

        await self.again_and_again(attempt)

    async def squat(self) -> None:
        """Some peers of one network that do no more than stay."""
        await asyncio.gather(*(self._stay(f"127.1.0.{101 + n}") for n in range(SQUATTERS)))

    async def settle(self) -> None:
        """As many networks as need be for a fair share of every slot: a peer of each, one after
        the other, that stays.
        """
        async with asyncio.TaskGroup() as group:
            for number in range(SETTLERS):
                opened = self.counts["peers"]
                group.create_task(self._stay(f"127.{150 + number}.0.1"))
                while self.counts["peers"] == opened and not self.is_over:
                    await asyncio.sleep(0.01)

    async def _stay(self, source: str) -> None:
        """Be a peer until it is over, and again if it was thrown out."""

        async def attempt() -> None:
            agreement, bulk = await self.peer(source)
            readers = [asyncio.create_task(self.swallow(wire)) for wire in (agreement, bulk)]
            try:
                while not self.is_over:
                    await agreement.send(FrameType.PING, bytes(8))
                    await asyncio.sleep(1.0)
            finally:
                for reader in readers:
                    reader.cancel()

        await self.again_and_again(attempt)

    async def crowd(self) -> None:
        """A thousand connections from many addresses, each of which wants to be a peer and stay."""
        gate = asyncio.Semaphore(CROWD_AT_ONCE)

        async def one(number: int) -> None:
            source = f"127.{1 + number % 100}.0.{1 + number // 100}"
            kept: list[Wire] = []
            async with gate:
                with suppress(Refused, OSError, EOFError, TimeoutError):
                    if number % 3 == 0:  # says nothing
                        kept.append(await self.connect(source))
                    elif number % 3 == 1:  # never comes with the second lane
                        kept.append(await self.connect(source))
                        node_id = self.rng.randbytes(16)
                        await self.greet(kept[0], Lane.AGREEMENT, node_id, NO_SESSION)
                    else:
                        kept.extend(await self.peer(source))
            await asyncio.sleep(max(0.0, self.end_s - time.monotonic()))
            for wire in kept:
                wire.close()

        await asyncio.gather(*(one(number) for number in range(CROWD)))


_AGREEMENT_FLOOD = (
    FrameType.PING,
    FrameType.STATUS,
    FrameType.GET_COMPACT,
)
_BULK_FLOOD = (FrameType.PING, FrameType.GET_BLOCK, FrameType.ADDRESSES_WANTED)
_ANY_TYPE = (*map(int, FrameType), 99, 255)


async def _main(order: Order) -> None:
    villain = Villain(order)
    await getattr(villain, order.attack)()
    print(json.dumps(villain.counts), flush=True)


if __name__ == "__main__":
    asyncio.run(_main(Order(**json.loads(sys.argv[1]))))
