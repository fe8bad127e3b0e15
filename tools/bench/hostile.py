"""A hundred hostile peers in one process, for the benchmark of a network.

Twenty of each kind (`Kind`) work on one node, all from loopback: the node throws them out but does
not ban an address that its own peers have, too, so they come again, at most ``RECONNECTS_PER_S``
times a second in all (elsewhere they would be banned, and that would be that). The process keeps to
a third of a core, sending and reading, so that on a machine that it shares with the network it is
the node that has the work. What is sent comes from `tools.bench.ammunition` and
from what the node says itself; counts go to standard output when SIGTERM ends it. It owns its
connections and nothing else; `Hostile` owns the process, which dies with the one that started it.
"""

from __future__ import annotations

import asyncio
import os
import select
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from enum import StrEnum
from functools import partial
from itertools import cycle
from pathlib import Path
from typing import IO, Any, Final

import orjson

from node.network.frames import (
    HEAD_BYTES,
    LENGTH_BYTES,
    ON_LANE,
    FrameError,
    FrameReader,
    FrameType,
    Lane,
    encode_frame,
)
from node.network.handshake import (
    NO_SESSION,
    NODE_ID_BYTES,
    HandshakeError,
    decode_refuse,
    decode_welcome,
)
from tools.bench.ammunition import PINGS, Ammunition, huge
from tools.bench.errors import BenchFailed
from tools.devnet.nodes import die_with, last_line
from tools.loadgen.workload_file import Workload

EACH: Final = 20  # peers of every kind
CPU_SHARE: Final = 1 / 3  # of one core, of the whole process
RECONNECTS_PER_S: Final = 10.0
DRIBBLE_S: Final = 0.1  # between two bytes
GREET_S: Final = 10.0  # longer than a node takes to refuse
GREETING_AT_ONCE: Final = 4  # a node whose slots are taken drops whoever has half greeted
CREDIT_S: Final = 0.1  # of the clock: how much CPU time that was not used may be used later
READ_BYTES: Final = 64 * 1024
MAX_RECORDED_BYTES: Final = 64 * 1024  # of what the node said, for each connection

READY: Final = b"ready\n"
READY_TIMEOUT_S: Final = 60.0
STOP_TIMEOUT_S: Final = 20.0


class Kind(StrEnum):
    """What a hostile peer does; they greet in this order, while the node has room for peers, and
    of the last some get in when others were thrown out.
    """

    PHANTOM = "phantom"  # rightly signed payments of outputs that do not exist
    REPLAY = "replay"  # what the node has said, and pings, again and again on both lanes
    DRIBBLE = "dribble"  # a byte every 100 ms: of its greeting, or of a batch after it
    FLOOD = "flood"  # batches of garbage or of old payments, as fast as they are read
    LENGTHS = "lengths"  # a frame that claims 4 GiB, as its greeting or after it


_SOME_DO_NOT_GREET: Final = (Kind.DRIBBLE, Kind.LENGTHS)
_THROWN_OUT: Final = (OSError, EOFError, FrameError, HandshakeError)


class Share:
    """Keeps the process to its share of a core: a bucket of CPU time that the clock fills."""

    def __init__(self, share: float, now_s: float, cpu_s: float) -> None:
        self._share = share
        self._cpu_s = cpu_s
        self._free_s = now_s

    def pause_s(self, now_s: float, cpu_s: float) -> float:
        """How long to do nothing after ``cpu_s`` in all."""
        spent_s, self._cpu_s = cpu_s - self._cpu_s, cpu_s
        self._free_s = max(self._free_s, now_s - CREDIT_S) + spent_s / self._share
        return max(0.0, self._free_s - now_s)


class Gate:
    """Lets those who come again through one by one, so many a second."""

    def __init__(self, per_s: float) -> None:
        self._gap_s = 1.0 / per_s
        self._next_s = 0.0

    def wait_s(self, now_s: float) -> float:
        """How long the next one waits, whose place is taken with this."""
        at_s = max(self._next_s, now_s)
        self._next_s = at_s + self._gap_s
        return at_s - now_s


@dataclass(slots=True)
class Tally:
    """What happened: by kind, but refusals by their reason."""

    dialled: Counter[str] = field(default_factory=Counter)
    greeted: Counter[str] = field(default_factory=Counter)
    sent_bytes: Counter[str] = field(default_factory=Counter)
    refused: Counter[str] = field(default_factory=Counter)

    def counts(self) -> dict[str, dict[str, int]]:
        """All of it, JSON-able."""
        return {
            name: {str(what): count for what, count in getattr(self, name).items()}
            for name in self.__slots__
        }


class Crowd:
    """All hostile peers of one node, with what they share."""

    def __init__(self, host: str, port: int, ammunition: Ammunition) -> None:
        self.tally = Tally()
        self.begun = asyncio.Event()  # until then they come and do nothing
        self.over = False
        self._where = host, port
        self._ammunition = ammunition
        self._share = Share(CPU_SHARE, time.monotonic(), time.process_time())
        self._gate = Gate(RECONNECTS_PER_S)
        self._greeting = asyncio.Semaphore(GREETING_AT_ONCE)

    async def attack(self, kind: Kind, number: int, met: Callable[[], None]) -> None:
        """Be one hostile peer until it is over; ``met`` is called whenever it has met the node."""
        # A task group that fails as it is cancelled raises its failure instead: hence the flag.
        while not self.over:
            try:
                async with AsyncExitStack() as closing:
                    await self._meet(kind, number, met, closing)
            except* _THROWN_OUT:
                pass
            met()
            if not self.over:
                await asyncio.sleep(self._gate.wait_s(time.monotonic()))

    async def breathe(self) -> None:
        """Let the others work, and the machine rest as much as it has to."""
        await asyncio.sleep(self._share.pause_s(time.monotonic(), time.process_time()))

    async def _meet(
        self, kind: Kind, number: int, met: Callable[[], None], closing: AsyncExitStack
    ) -> None:
        """Dial and do harm; raises one of `_THROWN_OUT` at the end."""
        self.tally.dialled[kind] += 1
        async with asyncio.TaskGroup() as group:
            if kind in _SOME_DO_NOT_GREET and number % 2 == 0:
                alone = await self._dial(kind, closing)
                group.create_task(alone.listen())
                met()
                await self.begun.wait()
                await self._harm_the_door(kind, alone)
                return
            async with self._greeting, asyncio.timeout(GREET_S):
                lanes = await self._greet(kind, closing)
            self.tally.greeted[kind] += 1
            replays = kind is Kind.REPLAY
            for lane, each in lanes.items():
                group.create_task(each.record(lane) if replays else each.listen())
            met()
            await self.begun.wait()
            if replays:
                for each in lanes.values():
                    group.create_task(each.replay())
            await self._harm(kind, number, lanes[Lane.BULK])

    async def _greet(self, kind: Kind, closing: AsyncExitStack) -> dict[Lane, _Connection]:
        """Become a peer, with both lanes."""
        node_id, session = os.urandom(NODE_ID_BYTES), NO_SESSION
        lanes = {}
        for lane in Lane:
            lanes[lane] = await self._dial(kind, closing)
            session = await lanes[lane].greet(self._ammunition.hello(lane, node_id, session))
        return lanes

    async def _harm_the_door(self, kind: Kind, connection: _Connection) -> None:
        """What a peer does that never greets."""
        if kind is Kind.DRIBBLE:
            node_id = os.urandom(NODE_ID_BYTES)
            await connection.dribble(self._ammunition.hello(Lane.AGREEMENT, node_id, NO_SESSION))
        else:
            await connection.send(huge(FrameType.HELLO))

    async def _harm(self, kind: Kind, number: int, bulk: _Connection) -> None:
        """What a peer that has greeted does on its bulk lane."""
        ammunition = self._ammunition
        match kind:
            case Kind.FLOOD:
                await bulk.repeat(ammunition.garbage if number % 2 else ammunition.old)
            case Kind.DRIBBLE:
                await bulk.dribble(ammunition.old)
            case Kind.LENGTHS:
                await bulk.send(huge(FrameType.TRANSACTIONS))
            case Kind.PHANTOM:
                first = number % len(ammunition.phantoms)
                await bulk.repeat(*ammunition.phantoms[first:], *ammunition.phantoms[:first])
            case Kind.REPLAY:
                pass

    async def _dial(self, kind: Kind, closing: AsyncExitStack) -> _Connection:
        reader, writer = await asyncio.open_connection(*self._where)
        closing.callback(writer.transport.abort)
        return _Connection(self, kind, reader, writer)


class _Connection:
    """One TCP connection of a hostile peer; everything raises one of `_THROWN_OUT` at its end."""

    def __init__(
        self, crowd: Crowd, kind: Kind, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        self._crowd = crowd
        self._kind = kind
        self._reader = reader
        self._writer = writer
        self._recorded = bytearray()

    async def greet(self, hello: bytes) -> bytes:
        """Say HELLO and wait for WELCOME; returns the session."""
        await self.send(hello)
        head = await self._reader.readexactly(HEAD_BYTES)
        length = int.from_bytes(head[:LENGTH_BYTES], "little")
        body = await self._reader.readexactly(length - 1)
        if head[LENGTH_BYTES] == FrameType.WELCOME:
            return decode_welcome(body).session
        reason = decode_refuse(body)[0]
        self._crowd.tally.refused["unknown" if reason is None else reason.name] += 1
        raise ConnectionRefusedError(reason)

    async def send(self, data: bytes) -> None:
        """Send, when the node has read most of what was sent before and there is CPU time left."""
        await self._crowd.breathe()
        self._writer.write(data)
        self._crowd.tally.sent_bytes[self._kind] += len(data)
        await self._writer.drain()

    async def repeat(self, *frames: bytes) -> None:
        """Send frames in turn, for ever."""
        for frame in cycle(frames):
            await self.send(frame)

    async def dribble(self, data: bytes) -> None:
        """Send single bytes, for ever."""
        for byte in cycle(data):
            await self.send(bytes([byte]))
            await asyncio.sleep(DRIBBLE_S)

    async def replay(self) -> None:
        """Send what was recorded, for ever."""
        while True:
            await self.send(PINGS + self._recorded)

    async def listen(self) -> None:
        """Read and forget, for ever."""
        while await self._reader.read(READ_BYTES):
            await self._crowd.breathe()
        raise ConnectionResetError

    async def record(self, lane: Lane) -> None:
        """Read for ever and keep the first frames that are not small talk."""
        frames = FrameReader(ON_LANE[lane])
        while data := await self._reader.read(READ_BYTES):
            await self._crowd.breathe()
            frames.feed(memoryview(data))
            while (frame := frames.next()) is not None:
                kind, body = frame
                room = MAX_RECORDED_BYTES - HEAD_BYTES - len(self._recorded)
                if kind >= FrameType.AGREEMENT and len(body) <= room:
                    self._recorded += b"".join(encode_frame(kind, bytes(body)))
        raise ConnectionResetError


class Hostile:
    """The process, working on the node at ``target`` ("host:port") from when it is ready.

    ``chain`` is a workload whose first ``old`` payments are final. Leaving the context ends it.
    """

    def __init__(self, target: str, chain: Path, old: int, log: Path) -> None:
        self._log = log
        command = [sys.executable, "-m", __name__, target, str(chain), str(old)]
        with log.open("wb") as file:
            self._process = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=file,
                start_new_session=True, preexec_fn=die_with(os.getpid()),
            )  # fmt: skip

    def __enter__(self) -> Hostile:
        return self

    def __exit__(self, *_: object) -> None:
        self._process.kill()
        self._process.wait()
        self._output.close()

    def wait_ready(self) -> None:
        """Wait until each of them has met the node once; raises BenchFailed."""
        came, _, _ = select.select([self._output], [], [], READY_TIMEOUT_S)
        if not came or os.read(self._output.fileno(), len(READY)) != READY:
            raise BenchFailed(f"the hostile peers did not begin: {last_line(self._log)}")

    def stop(self) -> dict[str, Any]:
        """End it in order; returns what it counted. Raises BenchFailed."""
        self._process.terminate()
        try:
            said, _ = self._process.communicate(timeout=STOP_TIMEOUT_S)
            counted: dict[str, Any] = orjson.loads(said)
        except (subprocess.TimeoutExpired, orjson.JSONDecodeError):
            why = last_line(self._log)
            raise BenchFailed(f"the hostile peers did not end in order: {why}") from None
        return counted

    @property
    def _output(self) -> IO[bytes]:
        assert self._process.stdout is not None
        return self._process.stdout


async def _run(host: str, port: int, ammunition: Ammunition) -> dict[str, Any]:
    """Attack until SIGTERM."""
    stop = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop.set)
    began_s, spent_s = time.monotonic(), time.process_time()
    crowd = Crowd(host, port, ammunition)
    peers = [(kind, number) for kind in Kind for number in range(EACH)]
    missing = set(peers)

    def met(peer: tuple[Kind, int]) -> None:
        missing.discard(peer)
        if not missing and not crowd.begun.is_set():
            crowd.begun.set()
            os.write(sys.stdout.fileno(), READY)

    async with asyncio.TaskGroup() as group:
        attacks = [group.create_task(crowd.attack(*peer, partial(met, peer))) for peer in peers]
        await stop.wait()
        crowd.over = True
        for attack in attacks:
            attack.cancel()
    elapsed_s = time.monotonic() - began_s
    return {
        **crowd.tally.counts(),
        "elapsed_s": round(elapsed_s, 3),
        "cpu_share": round((time.process_time() - spent_s) / elapsed_s, 4),
    }


def main() -> None:
    """Arguments: host:port of a node, the directory of its chain's workload, old payments."""
    target, chain, old = sys.argv[1:]
    host, port = target.rsplit(":", 1)
    ammunition = Ammunition.of(Workload.open(Path(chain)), int(old))
    sys.stdout.buffer.write(orjson.dumps(asyncio.run(_run(host, int(port), ammunition))))


if __name__ == "__main__":
    main()
