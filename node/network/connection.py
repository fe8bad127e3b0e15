"""One TCP connection: bytes in, frames' buffers out, and what is known of the one at the other end.

The reactor (`node.network.reactor`) reads and writes it, the doorstep and the switchboard decide
what it is. It owns its socket and the buffers that wait to be sent; both go when it is closed. What
kills it: an error of the socket, the end of the stream.
"""

from __future__ import annotations

import errno
import os
import socket
import struct
from collections import deque
from enum import Enum, auto
from itertools import islice
from typing import TYPE_CHECKING, Final

from node.network.frames import ACCEPTING, DIALLING, FrameReader, Lane

if TYPE_CHECKING:
    from node.network.budget import Budget
    from node.network.peers import Peer
    from node.network.targets import Target

GATHER_BUFFERS: Final = 64  # in one sendmsg; the kernel takes up to 1,024
GATHER_BYTES: Final = 512 * 1024  # of one connection in one turn, then others have theirs
KEEPALIVE_S: Final = 10  # of silence, then the kernel asks
KEEPALIVE_EVERY_S: Final = 5  # again
KEEPALIVE_TRIES: Final = 3  # so who is dead is noticed after 25 s
UNANSWERED_TRIES: Final = 2  # one may be under way

# Of Linux' struct tcp_info: retransmits u8, probes u8 (since the last answer), last_ack_recv u32 ms
_TCP_INFO: Final = struct.Struct("@xxBB52xI")

_LATER: Final = {errno.EAGAIN, errno.EWOULDBLOCK, errno.EINTR}


class Lost(Exception):
    """The connection is over; the message says why."""


class Phase(Enum):
    """How far a connection has come."""

    CONNECTING = auto()  # outbound, TCP has not answered
    GREETING = auto()  # waits for HELLO (inbound) or WELCOME (outbound)
    HELD = auto()  # an agreement lane that waits for its bulk lane; not read
    OPEN = auto()  # a lane of a peer
    LEAVING = auto()  # was refused; until the other side has had the time to read why
    CLOSED = auto()


class Connection:
    """One connection in whatever phase; mutable, owned by the reactor."""

    __slots__ = (
        "_queue",
        "budget",
        "challenge",
        "dirty",
        "fd",
        "heard_ns",
        "host",
        "interest",
        "lane",
        "outbound",
        "peer",
        "phase",
        "pinged_ns",
        "port",
        "queued_bytes",
        "reader",
        "resume_ns",
        "since_ns",
        "socket",
        "target",
        "took_ns",
    )

    def __init__(
        self,
        sock: socket.socket,
        host: str,
        port: int,
        lane: Lane,
        now_ns: int,
        target: Target | None = None,
    ) -> None:
        self.socket = sock
        self.fd = sock.fileno()
        self.host = host  # IP of the other end
        self.port = port
        self.lane = lane
        self.outbound = target is not None
        self.target = target
        self.phase = Phase.CONNECTING if target is not None else Phase.GREETING
        self.reader = FrameReader(ACCEPTING if target is None else DIALLING)
        self.budget: Budget | None = None  # as long as the handshake bounds it
        self.challenge = b""  # ours to them
        self.peer: Peer | None = None
        self.interest = 0  # what epoll watches for, kept by the reactor
        self.dirty = False  # on the reactor's list of those that have something to send
        self.resume_ns = 0  # over budget until then
        self.since_ns = now_ns  # of this phase
        self.heard_ns = now_ns
        self.pinged_ns = 0  # 0: no PING is unanswered
        self.took_ns = now_ns  # when the other side last took a byte, or nothing waited
        self.queued_bytes = 0
        self._queue: deque[bytes | memoryview] = deque()

    def receive(self, into: memoryview) -> int:
        """Read what is there into memory; the number of bytes, 0 if none came. Raises Lost."""
        try:
            size = self.socket.recv_into(into)
        except OSError as error:
            if error.errno in _LATER:
                return 0
            raise Lost(_named(error)) from None
        if size == 0:
            raise Lost("closed by the peer")
        return size

    def push(self, buffers: tuple[bytes, ...], size: int) -> None:
        """Queue the buffers of a frame; the bound is the caller's."""
        self._queue.extend(buffers)
        self.queued_bytes += size

    def flush(self, now_ns: int) -> bool:
        """Send what the kernel takes; whether nothing is left. Raises Lost."""
        queue = self._queue
        budget = GATHER_BYTES
        while queue and budget > 0:
            try:
                sent = self.socket.sendmsg(islice(queue, GATHER_BUFFERS))
            except OSError as error:
                if error.errno in _LATER:
                    return False
                raise Lost(_named(error)) from None
            self.took_ns = now_ns
            self.queued_bytes -= sent
            budget -= sent
            while queue and sent >= len(queue[0]):
                sent -= len(queue.popleft())
            if sent:
                queue[0] = memoryview(queue[0])[sent:]
                return False
        return not queue

    def unanswered_ms(self) -> int:
        """How long the other kernel has answered nothing, although this one asks again and again.

        0 when it answers or nothing is asked. A peer that is slow to read is not meant: its kernel
        answers all the same.
        """
        info = self.socket.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, _TCP_INFO.size)
        retransmits, probes, silent_ms = _TCP_INFO.unpack(info)
        return silent_ms if max(retransmits, probes) >= UNANSWERED_TRIES else 0

    @property
    def queued_buffers(self) -> int:
        """How many buffers wait to be sent."""
        return len(self._queue)

    def error(self) -> str | None:
        """What became of a connect, None if it succeeded."""
        number = self.socket.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
        return None if number == 0 else os.strerror(number).lower()

    def close(self) -> None:
        """Give the socket back; what was queued is lost."""
        self.phase = Phase.CLOSED
        self._queue.clear()
        self.queued_bytes = 0
        self.socket.close()


def dial(host: str, port: int) -> socket.socket:
    """Begin to connect to a numeric address; raises OSError when that fails at once."""
    sock = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET, socket.SOCK_STREAM)
    try:
        prepare(sock)
        number = sock.connect_ex((host, port))
        if number not in (0, errno.EINPROGRESS):
            raise OSError(number, os.strerror(number))
    except BaseException:
        sock.close()
        raise
    return sock


def prepare(sock: socket.socket) -> None:
    """Never wait, never hold small frames back, and notice a path that is dead."""
    sock.setblocking(False)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    # Silence on a bulk lane says nothing, but the kernel there answers even when nobody reads.
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, KEEPALIVE_S)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, KEEPALIVE_EVERY_S)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPCNT, KEEPALIVE_TRIES)


def _named(error: OSError) -> str:
    return (error.strerror or "the connection failed").lower()
