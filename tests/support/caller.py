"""A peer by hand, over blocking sockets, for tests against a real node."""

from __future__ import annotations

import socket
import struct
from contextlib import ExitStack

from node.network.frames import FrameType, Lane
from node.network.handshake import (
    CHALLENGE_BYTES,
    MAGIC,
    NO_SESSION,
    VERSION_MAX,
    VERSION_MIN,
    Hello,
    Refusal,
    Welcome,
    decode_refuse,
    decode_welcome,
    encode,
)

PATIENCE_S = 30.0
_HEAD = struct.Struct("<IB")


class Refused(Exception):
    """The node does not want this peer; `reason` is its own."""

    def __init__(self, reason: Refusal | None) -> None:
        super().__init__(str(reason))
        self.reason = reason


class Caller:
    """A peer with both lanes; a context manager that hangs up. Raises Refused."""

    def __init__(
        self, address: str, source: str, genesis_id: bytes, node_id: bytes, height: int = 0
    ) -> None:
        host, _, port = address.rpartition(":")
        self._to = (host, int(port))
        self._source = source
        self._genesis_id = genesis_id
        self.node_id = node_id
        self.challenge = bytes(range(CHALLENGE_BYTES))
        self._height = height
        with ExitStack() as stack:
            self.agreement, self.welcome = self._lane(stack, Lane.AGREEMENT, NO_SESSION)
            self.bulk, _ = self._lane(stack, Lane.BULK, self.welcome.session)
            self._held = stack.pop_all()

    def __enter__(self) -> Caller:
        return self

    def __exit__(self, *_: object) -> None:
        self._held.close()

    def say(self, kind: FrameType, body: bytes) -> None:
        """Send a frame on the agreement lane."""
        _send(self.agreement, kind, body)

    def wait_for(self, kind: FrameType) -> bytes:
        """The body of the next such frame on the agreement lane."""
        while True:
            found, body = _receive(self.agreement)
            if found == kind:
                return body

    def wait_end(self) -> None:
        """Until the node has hung up."""
        try:
            while True:
                _receive(self.agreement)
        except ConnectionError:
            return

    def _lane(self, stack: ExitStack, lane: Lane, session: bytes) -> tuple[socket.socket, Welcome]:
        sock = stack.enter_context(
            socket.create_connection(self._to, PATIENCE_S, source_address=(self._source, 0))
        )
        greeting = Hello(
            MAGIC,
            VERSION_MIN,
            VERSION_MAX,
            self._genesis_id,
            self.node_id,
            int(lane),
            session,
            self._height,
            "",
            "caller",
            self.challenge,
        )
        _send(sock, FrameType.HELLO, encode(greeting))
        kind, body = _receive(sock)
        if kind == FrameType.REFUSE:
            raise Refused(decode_refuse(body)[0])
        return sock, decode_welcome(body)


def _send(sock: socket.socket, kind: FrameType, body: bytes) -> None:
    sock.sendall(_HEAD.pack(len(body) + 1, kind) + body)


def _receive(sock: socket.socket) -> tuple[int, bytes]:
    length, kind = _HEAD.unpack(_exactly(sock, _HEAD.size))
    return kind, _exactly(sock, length - 1)


def _exactly(sock: socket.socket, size: int) -> bytes:
    data = b""
    while len(data) < size:
        part = sock.recv(size - len(data))
        if not part:
            raise ConnectionError("the node has hung up")
        data += part
    return data
