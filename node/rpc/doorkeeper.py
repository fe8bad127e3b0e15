"""Connections to the HTTP server: how many there may be, and how long one may keep others waiting.

Stands between the event loop's transports and aiohttp's protocol, which it feeds. A request must
have arrived as a whole within the time that it is given, from its first byte or the beginning of
the connection on; a client that sends a byte a minute is cut off, and so is one that does not read
its answer. It owns the list of connections. What kills one: its client's slowness; nothing that a
client sends kills the others.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any, Final

SWEEP_S: Final = 0.5  # how exact the times are


class Doorkeeper:
    """Lets ``at_most`` connections in; ``make`` makes the protocol behind each."""

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        make: Callable[[], asyncio.Protocol],
        at_most: int,
        timeout_s: float,
    ) -> None:
        self._loop = loop
        self._make = make
        self._at_most = at_most
        self._timeout_s = timeout_s
        self._inside: dict[asyncio.BaseTransport, _Visitor] = {}
        self.refused = 0
        self.cut_off = 0
        self._sweeping = loop.call_later(SWEEP_S, self._sweep)

    def __call__(self) -> asyncio.Protocol:
        """A new connection's protocol, as `create_server` wants it."""
        return _Visitor(self, self._make())

    def __len__(self) -> int:
        return len(self._inside)

    def arrived(self, transport: asyncio.BaseTransport | None) -> None:
        """The request on a connection is here as a whole; the time is now the node's own."""
        visitor = None if transport is None else self._inside.get(transport)
        if visitor is not None:
            visitor.due_s = None

    def answered(self, transport: asyncio.BaseTransport | None) -> None:
        """The connection waits for its next request, or for its client to read."""
        visitor = None if transport is None else self._inside.get(transport)
        if visitor is not None:
            visitor.due_s = self._loop.time() + self._timeout_s

    def close(self) -> None:
        """Cut everybody off."""
        self._sweeping.cancel()
        for transport in list(self._inside):
            _abort(transport)

    def enter(self, visitor: _Visitor, transport: asyncio.BaseTransport) -> bool:
        """Let a connection in, or close it."""
        if len(self._inside) >= self._at_most:
            self.refused += 1
            _abort(transport)
            return False
        visitor.due_s = self._loop.time() + self._timeout_s
        self._inside[transport] = visitor
        return True

    def leave(self, transport: asyncio.BaseTransport | None) -> None:
        """Forget a connection."""
        if transport is not None:
            self._inside.pop(transport, None)

    def _sweep(self) -> None:
        now_s = self._loop.time()
        for transport, visitor in list(self._inside.items()):
            if visitor.reads_on() and visitor.due_s is not None:
                visitor.due_s = now_s + self._timeout_s
            if visitor.due_s is not None and visitor.due_s <= now_s:
                self.cut_off += 1
                _abort(transport)
        self._sweeping = self._loop.call_later(SWEEP_S, self._sweep)


class _Visitor(asyncio.Protocol):
    """One connection; passes everything on to aiohttp's protocol."""

    def __init__(self, door: Doorkeeper, inner: Any) -> None:
        self._door = door
        self._inner = inner
        self._transport: asyncio.BaseTransport | None = None
        self._unread = 0  # bytes of the answer
        self.due_s: float | None = None

    def reads_on(self) -> bool:
        """Whether the client has taken some of its answer since this was asked last."""
        before = self._unread
        if isinstance(self._transport, asyncio.WriteTransport):
            self._unread = self._transport.get_write_buffer_size()
        return self._unread < before

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        if self._door.enter(self, transport):
            self._transport = transport
            self._inner.connection_made(transport)

    def data_received(self, data: bytes) -> None:
        if self._transport is not None:
            self._inner.data_received(data)

    def eof_received(self) -> bool | None:
        if self._transport is not None:
            self._inner.eof_received()
        return None

    def connection_lost(self, exc: Exception | None) -> None:
        if self._transport is not None:
            self._door.leave(self._transport)
            self._transport = None
            self._inner.connection_lost(exc)

    def pause_writing(self) -> None:
        if self._transport is not None:
            self._inner.pause_writing()

    def resume_writing(self) -> None:
        if self._transport is not None:
            self._inner.resume_writing()


def _abort(transport: asyncio.BaseTransport) -> None:
    assert isinstance(transport, asyncio.WriteTransport)
    transport.abort()
