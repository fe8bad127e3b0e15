"""Several real hubs in one process, on loopback, driven by one loop; and strangers' raw sockets.

Time is real plus what a test adds with `pass_time`: so nobody waits for a timeout, and the sockets
are real all the same.
"""

from __future__ import annotations

import select
import socket
import struct
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace
from random import Random
from typing import Any

from node.network.frames import FrameType, Lane
from node.network.handshake import (
    MAGIC,
    NO_SESSION,
    Hello,
    Refusal,
    Welcome,
    decode_refuse,
    decode_welcome,
    encode,
)
from node.network.hub import Hub, HubSettings, PeerInfo

GENESIS = bytes(range(32))
PATIENCE_S = 20.0  # until a test that waits for something gives up
QUIET_S = 0.05  # nothing has moved for so long: all is said


def node_id(number: int) -> bytes:
    return number.to_bytes(16, "big")


class Log:
    """Keeps the events."""

    def __init__(self) -> None:
        self.lines: list[tuple[str, dict[str, Any]]] = []

    def info(self, event: str, **values: Any) -> None:
        self.lines.append((event, values))

    warning = error = info

    def of(self, event: str) -> list[dict[str, Any]]:
        return [values for name, values in self.lines if name == event]


class Node:
    """A hub and all that it told."""

    def __init__(self, meeting: Meeting, settings: HubSettings, seed: int) -> None:
        self.meeting = meeting
        self.settings = settings
        self.log = Log()
        self.here: dict[int, PeerInfo] = {}
        self.came: list[PeerInfo] = []
        self.left: list[tuple[PeerInfo, str]] = []
        self.frames: list[tuple[int, FrameType, bytes]] = []
        self.proofs: list[tuple[PeerInfo, int, bytes, bytes]] = []
        self.on_frame: Callable[[PeerInfo, FrameType, bytes], None] | None = None
        self.hub = Hub(settings, self, Random(seed), self.log, meeting.now_ns(), meeting.now_ms())

    @property
    def address(self) -> str:
        assert self.hub.address is not None
        return self.hub.address

    @property
    def port(self) -> int:
        return int(self.address.rpartition(":")[2])

    @property
    def stats(self) -> dict[str, int]:
        return self.hub.stats

    def connected(self, peer: PeerInfo) -> None:
        assert peer.number not in self.here
        self.here[peer.number] = peer
        self.came.append(peer)

    def disconnected(self, peer: PeerInfo, reason: str) -> None:
        del self.here[peer.number]
        self.left.append((peer, reason))

    def frame(self, peer: PeerInfo, kind: FrameType, body: memoryview) -> None:
        assert peer.number in self.here
        self.frames.append((peer.number, kind, bytes(body)))
        if self.on_frame is not None:
            self.on_frame(peer, kind, bytes(body))

    def proof(self, peer: PeerInfo, validator: int, signature: bytes, challenge: bytes) -> None:
        self.proofs.append((peer, validator, signature, challenge))

    def peer(self) -> int:
        """The number of the only peer."""
        (number,) = self.here
        return number

    def bodies(self, kind: FrameType) -> list[bytes]:
        return [body for _, each, body in self.frames if each is kind]


@dataclass
class Meeting:
    """The loop."""

    nodes: list[Node] = field(default_factory=list)
    strangers: list[Stranger] = field(default_factory=list)
    added_ns: int = 0

    def __enter__(self) -> Meeting:
        return self

    def __exit__(self, *_: object) -> None:
        for node in self.nodes:
            node.hub.close()
        for stranger in self.strangers:
            stranger.socket.close()

    def now_ns(self) -> int:
        return time.monotonic_ns() + self.added_ns

    def now_ms(self) -> int:
        return time.time_ns() // 1_000_000 + self.added_ns // 1_000_000

    def pass_time(self, seconds: float) -> None:
        """Let time pass for all hubs, at once."""
        self.added_ns += int(seconds * 1e9)

    def node(self, number: int, **settings: Any) -> Node:
        settings.setdefault("listen", "127.0.0.1:0")
        settings.setdefault("max_outbound", 0)
        made = Node(
            self,
            HubSettings(
                genesis_id=settings.pop("genesis_id", GENESIS), node_id=node_id(number), **settings
            ),
            number,
        )
        self.nodes.append(made)
        return made

    def restart(self, node: Node, **changes: Any) -> Node:
        """The same node again, after a stop."""
        self.stop(node)
        made = Node(self, replace(node.settings, **changes), len(self.nodes) + 1_000)
        self.nodes.append(made)
        return made

    def stop(self, node: Node) -> None:
        self.nodes.remove(node)
        node.hub.close()

    def stranger(self, node: Node, host: str = "127.0.0.1") -> Stranger:
        made = Stranger(self, node, host)
        self.strangers.append(made)
        return made

    def turn(self, only: Iterable[Node] | None = None) -> int:
        """Poll the hubs whose descriptor is readable or whose time has come."""
        handled = 0
        for node in list(self.nodes if only is None else only):
            deadline_ns = node.hub.deadline_ns()
            due = deadline_ns is not None and deadline_ns <= self.now_ns()
            if due or select.select([node.hub.fileno()], [], [], 0)[0]:
                node.hub.poll(self.now_ns())
                handled += 1
        return handled

    def until(self, done: Callable[[], object], only: Iterable[Node] | None = None) -> None:
        """Drive the hubs until something is so."""
        end = time.monotonic() + PATIENCE_S
        chosen = None if only is None else list(only)
        while not done():
            if time.monotonic() > end:
                raise AssertionError(f"never came true: {self.describe()}")
            if not self.turn(chosen):
                self.rest(chosen)

    def settle(self, only: Iterable[Node] | None = None) -> None:
        """Drive the hubs until nothing has happened on their sockets for a while."""
        chosen = None if only is None else list(only)
        quiet_since = time.monotonic()
        end = quiet_since + PATIENCE_S
        while time.monotonic() - quiet_since < QUIET_S:
            if time.monotonic() > end:
                raise AssertionError(f"never quiet: {self.describe()}")
            if self.turn(chosen):
                quiet_since = time.monotonic()
            else:
                self.rest(chosen)

    def rest(self, only: list[Node] | None) -> None:
        """Wait as a stage would: for a descriptor or a deadline, at most 10 ms."""
        nodes = self.nodes if only is None else only
        select.select([each.hub.fileno() for each in nodes], [], [], 0.01)

    def describe(self) -> list[object]:
        return [
            (node.here, node.left, node.log.lines[-5:], {k: v for k, v in node.stats.items() if v})
            for node in self.nodes
        ]


def packed(kind: int, body: bytes = b"") -> bytes:
    return struct.pack("<IB", len(body) + 1, kind) + body


class Stranger:
    """A raw socket to a hub; it may say whatever it likes."""

    def __init__(self, meeting: Meeting, node: Node, host: str) -> None:
        self.meeting = meeting
        self.node = node
        self.host = host
        self.socket = socket.create_connection(("127.0.0.1", node.port), source_address=(host, 0))
        self.socket.setblocking(False)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)  # what is said, is there
        self.heard = bytearray()
        self.closed = False

    def say(self, data: bytes) -> None:
        """Send all of it, driving the hubs while their buffers are full."""
        rest = memoryview(data)
        while rest:
            try:
                rest = rest[self.socket.send(rest) :]
            except BlockingIOError:
                self.meeting.turn()
            except (BrokenPipeError, ConnectionResetError):
                self.closed = True
                return

    def listen(self) -> None:
        """Read what is there."""
        while not self.closed:
            try:
                data = self.socket.recv(1 << 16)
            except BlockingIOError:
                return
            except ConnectionResetError:
                data = b""
            self.closed = not data
            self.heard += data

    def frames(self) -> list[tuple[int, bytes]]:
        """All whole frames that were heard so far."""
        self.listen()
        found = []
        at = 0
        while at + 5 <= len(self.heard):
            length, kind = struct.unpack_from("<IB", self.heard, at)
            if at + 4 + length > len(self.heard):
                break
            found.append((kind, bytes(self.heard[at + 5 : at + 4 + length])))
            at += 4 + length
        return found

    def of(self, kind: FrameType) -> list[bytes]:
        return [body for each, body in self.frames() if each == kind]

    def gone(self) -> bool:
        self.listen()
        return self.closed

    def refusal(self) -> tuple[Refusal | None, str, bytes]:
        """Wait for a REFUSE."""
        self.meeting.until(lambda: self.of(FrameType.REFUSE))
        return decode_refuse(self.of(FrameType.REFUSE)[0])

    def welcome(self) -> Welcome:
        """Wait for a WELCOME."""
        self.meeting.until(lambda: self.of(FrameType.WELCOME))
        return decode_welcome(self.of(FrameType.WELCOME)[0])


def hello(number: int, lane: Lane = Lane.AGREEMENT, **changes: Any) -> bytes:
    """A whole HELLO frame of a node."""
    message = Hello(
        magic=MAGIC,
        version_min=1,
        version_max=1,
        genesis_id=GENESIS,
        node_id=node_id(number),
        lane=int(lane),
        session=NO_SESSION,
        height=0,
        listen="",
        agent="stranger",
        challenge=bytes(32),
    )
    fields = {name: getattr(message, name) for name in message.__struct_fields__}
    return packed(FrameType.HELLO, encode(Hello(**(fields | changes))))


def join(
    meeting: Meeting, node: Node, number: int, host: str = "127.0.0.1", **changes: Any
) -> tuple[Stranger, Stranger]:
    """A stranger that does the whole handshake by hand: its two lanes."""
    first = meeting.stranger(node, host)
    first.say(hello(number, **changes))
    session = first.welcome().session
    second = meeting.stranger(node, host)
    second.say(hello(number, Lane.BULK, session=session, **changes))
    second.welcome()
    meeting.until(lambda: any(each.node_id == node_id(number) for each in node.here.values()))
    return first, second
