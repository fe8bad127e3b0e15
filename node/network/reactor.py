"""The one epoll of all peers' sockets: who is read, how much at a time, and when what is sent.

Sockets become ready, frames go to the owner (the hub), which says what is to be sent. It owns the
epoll, the listening socket, every connection that was added, and one buffer that all reads share:
a connection that is quiet costs no buffer. Nothing here waits.

One `poll` handles at most `FRAMES_PER_POLL` frames and about `BYTES_PER_POLL` bytes, of those whose
slots are not protected a fraction of that (`STRANGERS`), and each connection at most
`FRAMES_PER_TURN` and `READ_BYTES` before the next has its turn. What protected peers say of
agreement goes first and has a turn in every poll, however much others send. A connection is not
read while it is over its budget, while it is a bulk lane and bulk is closed, and while its owner
holds it; the kernel's buffers then fill, and TCP slows the sender down. What kills it: nothing that
comes over a socket.
"""

from __future__ import annotations

import errno
import os
import socket
from collections.abc import Callable
from dataclasses import dataclass
from select import EPOLLERR, EPOLLHUP, EPOLLIN, EPOLLOUT, EPOLLRDHUP, epoll
from typing import Final, Protocol

from node.network.connection import Connection, Lost, Phase, prepare
from node.network.frames import FrameError, Lane

MAX_EVENTS: Final = 256  # taken from the epoll in one poll
READ_BYTES: Final = 128 * 1024  # of one connection in one turn; the shared buffer
FRAMES_PER_TURN: Final = 32
FRAMES_PER_POLL: Final = 512
BYTES_PER_POLL: Final = 512 * 1024  # some milliseconds of work: votes wait for no more than that
STRANGERS: Final = 4  # of each of these, those who are not protected have one part in so many
ACCEPTS_PER_POLL: Final = 16
BACKLOG: Final = 128
ACCEPT_PAUSE_NS: Final = 1_000_000_000  # when the process has no descriptor left

_GONE = EPOLLHUP | EPOLLERR | EPOLLRDHUP
_EXHAUSTED = {errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM}


class Owner(Protocol):
    """What the reactor tells; called from within `poll` only."""

    def accepted(self, sock: socket.socket, host: str, port: int) -> None:
        """Somebody has connected; the socket is the owner's now."""

    def dialled(self, connection: Connection) -> None:
        """A connection that was begun is there."""

    def frame(self, connection: Connection, kind: int, body: memoryview) -> None:
        """A frame has come; the body is valid during the call."""

    def offended(self, connection: Connection, reason: str) -> None:
        """What came is no frame; to be dropped."""

    def lost(self, connection: Connection, reason: str) -> None:
        """The connection is over; to be dropped."""


@dataclass(slots=True)
class _Share:
    """What some connections may have of one poll, all together; `read_bytes` each at once."""

    frames: int
    bytes: int
    read_bytes: int

    @property
    def is_spent(self) -> bool:
        return self.frames <= 0 or self.bytes <= 0


def _is_protected(connection: Connection) -> bool:
    return connection.peer is not None and connection.peer.protected


def _may_wait(connection: Connection) -> bool:
    """Whether this is anything but the agreement lane of a protected peer."""
    return connection.lane is Lane.BULK or not _is_protected(connection)


class Reactor:
    """Sockets on one side, frames on the other. Close it with `close`."""

    def __init__(self, owner: Owner, now_ns: int) -> None:
        self._owner = owner
        self._now_ns = now_ns
        self._epoll = epoll()
        self._wake = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        self._epoll.register(self._wake, EPOLLIN)
        self._awake = False
        self._listener: socket.socket | None = None
        self._listener_resume_ns: int | None = None
        self._connections: dict[int, Connection] = {}
        self._ready: dict[Connection, int] = {}  # in the order of their turns, with their events
        self._blocked: dict[Connection, None] = {}  # not read for now
        self._over_budget: dict[Connection, None] = {}
        self._dirty: list[Connection] = []
        self._bulk_open = True
        self._polling = False
        self._scratch = memoryview(bytearray(READ_BYTES))
        self.bytes_in = 0
        self.pauses = 0  # lanes that went over their budget
        self.accept_failures = 0

    # -- what the owner does ---------------------------------------------------------------------

    def fileno(self) -> int:
        """Return the descriptor that is readable when `poll` has something to do."""
        return self._epoll.fileno()

    def listen(self, sock: socket.socket) -> None:
        """Accept from a bound socket."""
        sock.setblocking(False)
        sock.listen(BACKLOG)
        self._listener = sock
        self._epoll.register(sock.fileno(), EPOLLIN)

    def add(self, connection: Connection) -> None:
        """Watch a connection from now on."""
        connecting = connection.phase is Phase.CONNECTING
        connection.interest = EPOLLOUT if connecting else EPOLLIN | EPOLLRDHUP
        self._connections[connection.fd] = connection
        self._epoll.register(connection.fd, connection.interest)

    def drop(self, connection: Connection) -> None:
        """Close a connection and forget it; harmless when it is closed."""
        if connection.phase is Phase.CLOSED:
            return
        del self._connections[connection.fd]
        self._ready.pop(connection, None)
        self._blocked.pop(connection, None)
        self._over_budget.pop(connection, None)
        self._epoll.unregister(connection.fd)
        connection.close()

    def push(self, connection: Connection, buffers: tuple[bytes, ...], size: int) -> None:
        """Queue a frame; it leaves at the end of this poll, or in the next, or with `flush`."""
        if connection.phase is Phase.CLOSED:
            return
        if not connection.queued_bytes:
            connection.took_ns = self._now_ns
        connection.push(buffers, size)
        if not connection.dirty and not connection.interest & EPOLLOUT:
            connection.dirty = True
            self._dirty.append(connection)
            if not (self._awake or self._polling):
                self._set_awake(True)

    def flush(self) -> None:
        """Send what is queued, as much as the kernel takes."""
        while self._dirty:
            dirty, self._dirty = self._dirty, []
            for connection in dirty:
                connection.dirty = False
                if connection.phase is not Phase.CLOSED:
                    self._write(connection)

    def open_bulk(self, bulk_open: bool) -> None:
        """Read bulk lanes, or leave what comes on them to the kernel."""
        if bulk_open != self._bulk_open:
            self._bulk_open = bulk_open
            if bulk_open:
                for connection in [each for each in self._blocked if each.lane is Lane.BULK]:
                    self.resume(connection)

    def resume(self, connection: Connection) -> None:
        """Read a connection again that may be; its owner opened it, or a pause is over."""
        if self._may_read(connection) and connection in self._blocked:
            del self._blocked[connection]
            self._watch(connection, connection.interest | EPOLLIN)
            if connection.reader.has_more:
                self._ready.setdefault(connection, 0)
                self._set_awake(True)

    @property
    def deadline_ns(self) -> int | None:
        """When a pause ends, None if there is none."""
        ends = [each.resume_ns for each in self._over_budget]
        if self._listener_resume_ns is not None:
            ends.append(self._listener_resume_ns)
        return min(ends, default=None)

    def is_quiet(self) -> bool:
        """Whether a poll without chores would find nothing to do."""
        return not self._epoll.poll(0, 1)

    def wake(self) -> None:
        """Make the descriptor readable until the next poll."""
        if not self._polling:
            self._set_awake(True)

    def poll(self, now_ns: int, chores: Callable[[], None]) -> int:
        """Handle a bounded part of what is ready; the number of frames.

        `chores` is what the owner does by the clock; it comes after the reading, so that nobody is
        taken for silent whose words were merely not read yet.
        """
        self._now_ns = now_ns
        self._polling = True
        try:
            self._end_pauses(now_ns)
            knocking = self._collect()
            handled = self._serve()
            if knocking:
                self._accept()
            chores()
            self.flush()
        finally:
            self._polling = False
        self._set_awake(bool(self._ready))
        return handled

    def close(self) -> None:
        """Close everything."""
        for connection in list(self._connections.values()):
            self.drop(connection)
        if self._listener is not None:
            self._listener.close()
            self._listener = None
        self._epoll.close()
        os.close(self._wake)

    # -- the parts of a poll ---------------------------------------------------------------------

    def _collect(self) -> bool:
        """Take events from the epoll, send where there is room; whether somebody knocks."""
        knocking = False
        for fd, mask in self._epoll.poll(0, MAX_EVENTS):
            connection = self._connections.get(fd)
            if connection is None:
                knocking = knocking or fd != self._wake
                continue
            if connection.phase is Phase.CONNECTING:
                self._finish_dialling(connection)
                continue
            if mask & EPOLLOUT and not connection.dirty:
                self._write(connection)
            if mask & ~EPOLLOUT and connection.phase is not Phase.CLOSED:
                self._ready[connection] = self._ready.get(connection, 0) | mask
        return knocking

    def _serve(self) -> int:
        """Give turns until everyone had one, or this poll has done enough."""
        handled = 0
        ready = self._ready
        protected = _Share(FRAMES_PER_POLL, BYTES_PER_POLL, READ_BYTES)
        strangers = _Share(
            FRAMES_PER_POLL // STRANGERS, BYTES_PER_POLL // STRANGERS, READ_BYTES // STRANGERS
        )
        for connection in sorted(ready, key=_may_wait):  # else in the order of their turns
            share = protected if _is_protected(connection) else strangers
            if share.is_spent and _may_wait(connection):
                continue
            mask = ready.pop(connection, None)
            if mask is None:  # dropped meanwhile
                continue
            if self._may_read(connection):
                handled += self._turn(connection, share)
            elif mask & _GONE:
                self._owner.lost(connection, "closed by the peer")
            else:
                self._block(connection)
        return handled

    def _turn(self, connection: Connection, share: _Share) -> int:
        """Read one connection once, unless it has frames left, and hand its frames over."""
        reader = connection.reader
        leaving = connection.phase is Phase.LEAVING
        size = frames = 0
        try:
            if leaving or not reader.has_more:
                size = connection.receive(self._scratch[: share.read_bytes])
                if size == 0 or leaving:
                    return 0
                self.bytes_in += size
                connection.heard_ns = self._now_ns
                reader.feed(self._scratch[:size])
            while frames < FRAMES_PER_TURN and self._may_read(connection):
                frame = reader.next()
                if frame is None:
                    break
                frames += 1
                self._owner.frame(connection, *frame)
                if connection.phase is Phase.LEAVING:
                    break
        except Lost as lost:
            self._owner.lost(connection, str(lost))
        except FrameError as error:
            self._owner.offended(connection, str(error))
        share.frames -= frames
        share.bytes -= size
        if connection.phase is not Phase.CLOSED:
            reader.keep()
            self._settle(connection, size, frames)
        return frames

    def _settle(self, connection: Connection, size: int, frames: int) -> None:
        """After a turn: pay for it, and wait for the next one or for permission."""
        if connection.budget is not None:
            pause_ns = connection.budget.spend(size, frames, self._now_ns)
            if pause_ns:
                connection.resume_ns = self._now_ns + pause_ns
                self._over_budget[connection] = None
                self.pauses += 1
        if not self._may_read(connection):
            self._block(connection)
        elif connection.reader.has_more and connection.phase is not Phase.LEAVING:
            self._ready[connection] = 0

    def _may_read(self, connection: Connection) -> bool:
        phase = connection.phase
        return (
            (self._bulk_open or connection.lane is not Lane.BULK or phase is not Phase.OPEN)
            and connection not in self._over_budget
            and phase is not Phase.HELD
            and phase is not Phase.CLOSED
        )

    def _block(self, connection: Connection) -> None:
        self._blocked[connection] = None
        self._watch(connection, connection.interest & ~EPOLLIN)

    def _end_pauses(self, now_ns: int) -> None:
        for connection in [each for each in self._over_budget if each.resume_ns <= now_ns]:
            del self._over_budget[connection]
            self.resume(connection)
        if self._listener_resume_ns is not None and self._listener_resume_ns <= now_ns:
            self._listener_resume_ns = None
            if self._listener is not None:
                self._epoll.modify(self._listener.fileno(), EPOLLIN)

    def _write(self, connection: Connection) -> None:
        try:
            done = connection.flush(self._now_ns)
        except Lost as lost:
            self._owner.lost(connection, str(lost))
            return
        interest = connection.interest
        self._watch(connection, interest & ~EPOLLOUT if done else interest | EPOLLOUT)

    def _finish_dialling(self, connection: Connection) -> None:
        error = connection.error()
        if error is not None:
            self._owner.lost(connection, error)
            return
        connection.phase = Phase.GREETING
        self._watch(connection, EPOLLIN | EPOLLRDHUP)
        self._owner.dialled(connection)

    def _accept(self) -> None:
        for _ in range(ACCEPTS_PER_POLL):
            if self._listener is None:
                return
            try:
                sock, name = self._listener.accept()
            except BlockingIOError:
                return
            except OSError as error:
                if error.errno in _EXHAUSTED:
                    self.accept_failures += 1
                    self._listener_resume_ns = self._now_ns + ACCEPT_PAUSE_NS
                    self._epoll.modify(self._listener.fileno(), 0)
                    return
                continue  # it was gone before it was accepted
            try:
                prepare(sock)
            except OSError:
                sock.close()
                continue
            self._owner.accepted(sock, name[0], name[1])

    def _watch(self, connection: Connection, interest: int) -> None:
        if interest != connection.interest:
            connection.interest = interest
            self._epoll.modify(connection.fd, interest)

    def _set_awake(self, awake: bool) -> None:
        if awake == self._awake:
            return
        self._awake = awake
        if awake:
            os.eventfd_write(self._wake, 1)
        else:
            os.eventfd_read(self._wake)
