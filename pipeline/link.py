"""Links: the ZeroMQ sockets between stages, made from the topology table.

Every link is PUSH at its source and PULL at its target, over ipc. The receiver binds; a path is
`<link>.<target>-<index>` relative to the run directory, which is the working directory of every
stage process (0700, and short: a socket address holds 107 bytes). A sender connects and keeps what
it could not deliver until the receiver is back, so a restarted receiver may read messages meant for
its predecessor: epoch, incarnation and generation in the descriptor tell them apart.

A blocking link carries descriptors only and has room for every tray, for a further attempt of each,
and for the few words that concern no tray, so it is never full; if it is, the program is wrong and
`LinkFull` stops the process.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import zmq

from pipeline.errors import PipelineError
from pipeline.topology import LinkPolicy, LinkSpec, Topology

if TYPE_CHECKING:
    Socket = zmq.Socket[bytes]
else:
    Socket = zmq.Socket

# As plain numbers: combining flags of an enumeration costs more than the call that takes them.
POLLIN = int(zmq.POLLIN)
NOBLOCK = int(zmq.NOBLOCK)
SNDMORE = int(zmq.SNDMORE)
RECONNECT_MS = 10
RECONNECT_MAX_MS = 200
WORDS = 64  # READY, HELLO, START and SKIP messages that may lie in a link beside the trays
LINGER_MS = 500  # how long a closing sender waits for its receiver to take what is queued


class LinkFull(PipelineError):
    """A blocking link was full, although it has room for every tray."""


class Outbox:
    """The sending end of a link to one instance of its target."""

    def __init__(self, context: zmq.Context[Socket], link: LinkSpec, index: int = 0) -> None:
        self.link = link
        self.dropped = 0
        self._socket: Socket = context.socket(zmq.PUSH)
        self._socket.linger = LINGER_MS
        self._socket.sndhwm = queue_messages(link)
        self._socket.reconnect_ivl = RECONNECT_MS
        self._socket.reconnect_ivl_max = RECONNECT_MAX_MS
        self._socket.connect(link_address(link, index))

    def send(self, frame: bytes) -> None:
        """Send without waiting; a full link counts the loss, or raises `LinkFull` if it blocks."""
        try:
            self._socket.send(frame, NOBLOCK)
        except zmq.Again:
            if self.link.policy is LinkPolicy.BLOCK:
                raise LinkFull(f"link {self.link.name!r} is full at {self.link.capacity}") from None
            self.dropped += 1

    def close(self) -> None:
        """Close; what is queued is still delivered for `LINGER_MS`."""
        self._socket.close()


def link_address(link: LinkSpec, index: int) -> str:
    """The address at which instance `index` of the link's target listens."""
    return f"ipc://{link.name}.{link.target}-{index}"


def queue_messages(link: LinkSpec) -> int:
    """ZeroMQ's high-water mark of each end of the link."""
    return 2 * link.capacity + WORDS if link.policy is LinkPolicy.BLOCK else link.capacity


def open_inbox(context: zmq.Context[Socket], link: LinkSpec, index: int = 0) -> Socket:
    """Bind the receiving end of a link for instance `index` of its target."""
    socket: Socket = context.socket(zmq.PULL)
    socket.linger = 0
    socket.rcvhwm = queue_messages(link)
    socket.bind(link_address(link, index))
    return socket


def drain(socket: Socket, at_most: int) -> list[bytes]:
    """Receive what has arrived, up to a number of single-frame messages, without waiting."""
    frames: list[bytes] = []
    while len(frames) < at_most and has_input(socket):
        frames.append(socket.recv(NOBLOCK))
    return frames


def receive_parts(socket: Socket) -> list[bytes]:
    """Receive one message of several frames that waits; asking a frame whether more follow costs a
    quarter of asking its socket. Raises `zmq.Again` when nothing waits.
    """
    parts: list[bytes] = []
    while True:
        frame = socket.recv(NOBLOCK, copy=False)
        parts.append(frame.bytes)
        if not frame.more:
            return parts


def has_input(socket: Socket | int) -> bool:
    """Whether a whole message waits, or a descriptor has something to read; asking costs a third of
    an exception that says no.
    """
    return bool(zmq.zmq_poll([(socket, POLLIN)], 0))


def link_named(topology: Topology, name: str) -> LinkSpec:
    """Look up a link of the table; raises `KeyError` if there is none."""
    for link in topology.links:
        if link.name == name:
            return link
    raise KeyError(name)
