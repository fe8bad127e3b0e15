"""What the supervisor says to its children, they to it, and strangers to it.

Two conversations. A ``Channel`` (socketpair, one typed message a datagram, descriptors beside it)
joins the supervisor to each child; the end of the other side closes it, so a child learns at once
that its supervisor died. The ``ControlServer`` answers whoever connects to ``control.sock`` in the
run directory (0600, in a directory 0700): one JSON object a line in, one out.

Neither may hold up the supervisor: nothing here waits, every buffer and every client has a bound,
and all clients of the control socket together get a fixed number of wake-ups a second. What kills a
client is silence, haste, garbage or not reading; it never kills anything else.
"""

from __future__ import annotations

import array
import os
import selectors
import socket
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import msgspec

from pipeline.errors import ChannelClosed, ChannelFull, ControlError, RunDirectoryError

CONTROL_SOCKET = "control.sock"

# Messages ----------------------------------------------------------------------------------------


class SegmentGrant(msgspec.Struct, frozen=True):
    """One segment of an ``Attach``; its descriptor travels in the same place of the list."""

    name: str
    size_bytes: int
    writable: bool


class Attach(msgspec.Struct, frozen=True, tag="attach"):
    """Use these segments from now on; those of an older epoch are history.

    Every other process has this in its queue before the intake of that epoch exists, so whoever
    meets a descriptor of an epoch that it does not know finds the Attach by reading its channel
    first.
    """

    epoch: int
    segments: list[SegmentGrant]


class PeerDied(msgspec.Struct, frozen=True, tag="peer_died"):
    """A stage of another process is dead and reaped: it writes nothing any more, anywhere.

    ``signal`` if one ended it, else ``exit_status``. The supervisor's own kills (hung, too much
    memory) show as SIGKILL.
    """

    stage: str
    index: int
    incarnation: int
    signal: int | None
    exit_status: int | None


class PeerStarted(msgspec.Struct, frozen=True, tag="peer_started"):
    """A stage of another process is ready; a new process is told of all that were before it."""

    stage: str
    index: int
    incarnation: int


class Stop(msgspec.Struct, frozen=True, tag="stop"):
    """Finish what is in hand and exit within so long, or be killed."""

    deadline_ms: int


class SetLogLevel(msgspec.Struct, frozen=True, tag="set_log_level"):
    """Write events of this level (of ``processlog.LEVELS``) and above to the process's log."""

    level: str


class Ready(msgspec.Struct, frozen=True, tag="ready"):
    """The process works."""


class Fatal(msgspec.Struct, frozen=True, tag="fatal"):
    """Only a person can help: the node shall stop with this message and status."""

    message: str
    exit_status: int


class Info(msgspec.Struct, frozen=True, tag="info"):
    """A line for the supervisor's log."""

    text: str


ToChild = Attach | PeerDied | PeerStarted | SetLogLevel | Stop
ToSupervisor = Ready | Fatal | Info
Message = ToChild | ToSupervisor

# Channel -----------------------------------------------------------------------------------------

MAX_MESSAGE_BYTES = 32 * 1024  # well below the default send buffer (net.core.wmem_default, 208 KiB)
MAX_TEXT_CHARACTERS = 4_000
MAX_FDS = 253  # Linux, SCM_MAX_FD: descriptors in one message

_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(Message).decode
FD_BYTES = array.array("i").itemsize


class Channel:
    """One end of the conversation between the supervisor and a child; never waits.

    Owns its socket. ``accept_fds`` says how many descriptors a message may bring; the supervisor
    takes none from its children (the kernel closes what they send).
    """

    def __init__(self, sock: socket.socket, *, accept_fds: int = MAX_FDS) -> None:
        sock.setblocking(False)
        self._socket = sock
        self._ancillary_bytes = socket.CMSG_SPACE(accept_fds * FD_BYTES) if accept_fds else 0

    @staticmethod
    def pair() -> tuple[Channel, socket.socket]:
        """The supervisor's end, and the socket to hand to a child."""
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        return Channel(ours, accept_fds=0), theirs

    def fileno(self) -> int:
        return self._socket.fileno()

    def send(self, message: Message, fds: Sequence[int] = ()) -> None:
        """Send a message, and duplicates of ``fds``, which stay the caller's.

        Raises ChannelFull if the other end has not read hundreds of messages, ChannelClosed if it
        is gone, ControlError if the message is too large.
        """
        data = _encode(message)
        if len(data) > MAX_MESSAGE_BYTES or len(fds) > MAX_FDS:
            raise ControlError(
                f"a {type(message).__name__} of {len(data)} bytes and {len(fds)} descriptors "
                f"is over the limit of {MAX_MESSAGE_BYTES} and {MAX_FDS}"
            )
        try:
            socket.send_fds(self._socket, [data], list(fds))
        except BlockingIOError:
            raise ChannelFull(f"no room for a {type(message).__name__}") from None
        except ConnectionError:
            raise ChannelClosed(f"nobody left to get a {type(message).__name__}") from None
        except OSError as error:
            raise ControlError(f"a {type(message).__name__} was not sent: {error}") from error

    def receive(self) -> tuple[Message, list[int]] | None:
        """The next message and its descriptors (now the caller's), or None if there is none yet.

        Raises ChannelClosed (an EOFError) when the other end is gone, ControlError for a message
        that breaks the contract, whose descriptors are closed.
        """
        try:
            data, ancillary, flags = self._receive()
        except BlockingIOError:
            return None
        fds = received_fds(ancillary)
        try:
            if not data:
                raise ChannelClosed("the other end is gone")
            cut = socket.MSG_TRUNC | (socket.MSG_CTRUNC if self._ancillary_bytes else 0)
            if flags & cut:
                raise ControlError("a message, or its descriptors, did not arrive whole")
            message = _decode(data)
            if isinstance(message, Attach) and self._ancillary_bytes:
                _check_attach(message, fds)
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
            close_all(fds)
            raise ControlError(f"not a message of the channel: {error}") from None
        except ControlError:
            close_all(fds)
            raise
        return message, fds

    def close(self) -> None:
        self._socket.close()

    def _receive(self) -> tuple[bytes, list[tuple[int, int, bytes]], int]:
        room = (MAX_MESSAGE_BYTES, self._ancillary_bytes, socket.MSG_CMSG_CLOEXEC)
        try:
            data, ancillary, flags, _ = self._socket.recvmsg(*room)
        except ConnectionResetError:
            # The peer died with something unread. Linux says so once, ahead of what it had sent.
            data, ancillary, flags, _ = self._socket.recvmsg(*room)
        return data, ancillary, flags


def _check_attach(message: Attach, fds: Sequence[int]) -> None:
    if len(message.segments) != len(fds):
        raise ControlError(f"{len(message.segments)} segments announced, {len(fds)} came")


def received_fds(ancillary: Sequence[tuple[int, int, bytes]]) -> list[int]:
    """The descriptors in the ancillary data of a ``recvmsg``; they are the caller's now."""
    fds = array.array("i")
    for level, kind, data in ancillary:
        if (level, kind) == (socket.SOL_SOCKET, socket.SCM_RIGHTS):
            fds.frombytes(data[: len(data) - len(data) % FD_BYTES])
    return list(fds)


def close_all(fds: Sequence[int]) -> None:
    """Close every one of these descriptors."""
    for fd in fds:
        os.close(fd)


# Control socket ----------------------------------------------------------------------------------

MAX_CLIENTS = 16
MAX_REQUEST_BYTES = 4096
CLIENT_IDLE_S = 1.0  # without a request, or without reading its answer, for so long: dropped
MAX_REPLY_BYTES = 8 * 1024 * 1024
# All clients together: a status page polled ten times a second by a dozen watchers fits, a busy
# loop does not. A spent budget only makes clients wait.
WAKEUPS_PER_SECOND = 200.0
WAKEUPS_BURST = 100.0
PAUSE_S = 0.1


class MetricsSegment(msgspec.Struct, frozen=True):
    """One segment of a ``MetricsAnswer``, laid out as ``metrics.ProcessMetricsLayout`` says."""

    process: str
    members: tuple[tuple[str, int], ...]
    region_bytes: int


class MetricsAnswer(msgspec.Struct, frozen=True):
    """The answer to {"ask": "metrics"}; the descriptors travel in the same order, read-only."""

    segments: list[MetricsSegment]


@dataclass(slots=True)
class Reply:
    """An answer: one line, and descriptors to pass with its first byte (closed when sent)."""

    line: bytes
    fds: list[int] = field(default_factory=list)


@dataclass(slots=True)
class _Client:
    sock: socket.socket
    deadline_s: float
    request: bytearray = field(default_factory=bytearray)
    reply: memoryview = field(default_factory=lambda: memoryview(b""))
    fds: list[int] = field(default_factory=list)


class _Gone(Exception):
    """The client has left, or has to."""


class ControlServer:
    """Answers clients on a listening unix socket, inside the supervisor's selector loop.

    ``answer(request) -> Reply`` gets the parsed JSON object of a request line; what it raises is
    not caught. Registers its descriptors in ``selector`` with ``data`` a callback of one argument,
    the time in seconds, which the loop calls for any event. ``next_due_s`` says when to call
    ``tick``.
    """

    def __init__(
        self,
        listener: socket.socket,
        selector: selectors.BaseSelector,
        answer: Callable[[Mapping[str, Any]], Reply],
    ) -> None:
        listener.setblocking(False)
        self._listener = listener
        self._selector = selector
        self._answer = answer
        self._clients: dict[int, _Client] = {}
        self._budget = WAKEUPS_BURST
        self._budget_at_s: float | None = None
        self._paused_until_s: float | None = None
        self._listening = False
        self.dropped = 0
        """Clients that misbehaved: silent, too long a request, not reading the answer."""
        self._listen()

    def next_due_s(self) -> float | None:
        """When ``tick`` has something to do, None if only after another event."""
        due = [client.deadline_s for client in self._clients.values()]
        if self._paused_until_s is not None:
            due.append(self._paused_until_s)
        return min(due, default=None)

    def tick(self, now_s: float) -> None:
        """Drop who is silent, and go on after a pause."""
        if self._paused_until_s is not None:
            if now_s < self._paused_until_s:
                return
            paused_s = PAUSE_S + now_s - self._paused_until_s
            self._paused_until_s = None
            for client in self._clients.values():
                client.deadline_s += paused_s  # it could not be heard
                self._watch(client)
        for client in [c for c in self._clients.values() if now_s >= c.deadline_s]:
            self.dropped += 1
            self._drop(client)
        self._listen()

    def close(self) -> None:
        """Drop everybody and stop listening."""
        for client in list(self._clients.values()):
            self._drop(client)
        self._unlisten()
        self._listener.close()

    def _listen(self) -> None:
        wanted = len(self._clients) < MAX_CLIENTS and self._paused_until_s is None
        if wanted and not self._listening:
            self._selector.register(self._listener, selectors.EVENT_READ, self._accept)
            self._listening = True

    def _unlisten(self) -> None:
        if self._listening:
            self._selector.unregister(self._listener)
            self._listening = False

    def _afford(self, now_s: float) -> bool:
        """Take one wake-up from the budget of all clients; pause them all if that was the last."""
        if self._budget_at_s is not None:
            earned = (now_s - self._budget_at_s) * WAKEUPS_PER_SECOND
            self._budget = min(WAKEUPS_BURST, self._budget + earned)
        self._budget_at_s = now_s
        self._budget -= 1
        if self._budget >= 0:
            return True
        if self._paused_until_s is None:
            self._paused_until_s = now_s + PAUSE_S
            self._unlisten()
            for client in self._clients.values():
                self._selector.unregister(client.sock)
        return False

    def _watch(self, client: _Client) -> None:
        """Wait for a request, or for room for the rest of a reply."""
        busy = client.reply or b"\n" in client.request
        event = selectors.EVENT_WRITE if busy else selectors.EVENT_READ
        serve = partial(self._serve, client)
        try:
            self._selector.modify(client.sock, event, serve)
        except KeyError:
            self._selector.register(client.sock, event, serve)

    def _accept(self, now_s: float) -> None:
        if not self._afford(now_s):
            return
        try:
            sock, _ = self._listener.accept()
        except OSError:  # it has gone again, or we are out of descriptors: both pass
            return
        sock.setblocking(False)
        client = _Client(sock, now_s + CLIENT_IDLE_S)
        self._clients[sock.fileno()] = client
        self._watch(client)
        if len(self._clients) >= MAX_CLIENTS:
            self._unlisten()

    def _drop(self, client: _Client) -> None:
        self._clients.pop(client.sock.fileno(), None)
        with suppress(KeyError):
            self._selector.unregister(client.sock)
        close_all(client.fds)
        client.sock.close()
        self._listen()

    def _serve(self, client: _Client, now_s: float) -> None:
        if self._clients.get(client.sock.fileno()) is not client or not self._afford(now_s):
            return
        try:
            if not client.reply:
                self._read(client)
            if client.reply:
                self._write(client, now_s)
        except BlockingIOError:
            return
        except (OSError, _Gone):
            self._drop(client)
            return
        self._watch(client)

    def _read(self, client: _Client) -> None:
        """Take what has come, and answer it if it is a whole request."""
        if b"\n" not in client.request:
            data = client.sock.recv(MAX_REQUEST_BYTES + 1 - len(client.request))
            client.request += data
            if b"\n" not in client.request:
                if len(client.request) > MAX_REQUEST_BYTES:
                    self.dropped += 1
                    raise _Gone
                if not data:
                    raise _Gone
                return
        line, _, client.request = client.request.partition(b"\n")
        try:
            request = msgspec.json.decode(line, type=dict[str, Any])
        except (msgspec.MsgspecError, RecursionError, UnicodeDecodeError):
            reply = Reply(b'{"error":"a request is one JSON object in one line"}')
        else:
            reply = self._answer(request)
        if len(reply.line) > MAX_REPLY_BYTES or len(reply.fds) > MAX_FDS:
            close_all(reply.fds)
            reply = Reply(b'{"error":"the answer would be too long"}')
        client.reply, client.fds = memoryview(reply.line + b"\n"), reply.fds

    def _write(self, client: _Client, now_s: float) -> None:
        """Send what there is room for."""
        sent = socket.send_fds(client.sock, [client.reply], client.fds)
        close_all(client.fds)
        client.fds = []
        client.reply = client.reply[sent:]
        client.deadline_s = now_s + CLIENT_IDLE_S


def bind_control_socket(directory_fd: int) -> socket.socket:
    """Listen on control.sock in an open directory, whatever the length of its path.

    Raises RunDirectoryError if that is impossible.
    """
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    mask = os.umask(0o177)
    try:
        sock.bind(f"/proc/self/fd/{directory_fd}/{CONTROL_SOCKET}")
        sock.listen(MAX_CLIENTS)
    except OSError as error:
        sock.close()
        where = os.readlink(f"/proc/self/fd/{directory_fd}")
        raise RunDirectoryError(
            f"cannot listen on {where}/{CONTROL_SOCKET}: {error.strerror}; "
            "the data directory must be on a file system that can hold sockets"
        ) from error
    finally:
        os.umask(mask)
    return sock
