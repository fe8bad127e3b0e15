"""Bodies of requests, read within bounds: each has a size at most, and so have all together.

The HTTP server asks for a body once it knows who sends it. A body counts from its first byte until
the server forgets it, which is after its answer was made: what its bytes were turned into weighs as
much as they did. What an answer leaves unread is thrown away for a while, so that a client which
sends on gets to read the answer: were the connection closed at once, the reset could overtake it.
"""

from __future__ import annotations

import asyncio
from contextlib import suppress
from typing import Final

from aiohttp import HttpVersion11, web
from aiohttp.http_exceptions import HttpProcessingError

MAX_TOGETHER_BYTES: Final = 32 * 1024 * 1024  # eight of the largest, unless these are configured
LINGER_S: Final = 2.0  # what a client across the world needs to send, hear and stop
LINGER_BYTES: Final = 16 * 1024 * 1024  # thrown away in that time, then the rest waits unread
WAITS: Final = "100-continue"
"""Of a client that sends its body only when it is told that it may, as curl from 1 MiB on; which
that is, aiohttp leaves to a framework (RFC 9110, 10.1.1).
"""


class BodyRefused(Exception):
    """A body that is not read to its end: HTTP status and words of the answer."""

    def __init__(self, status: int, words: str) -> None:
        super().__init__(words)
        self.status = status
        self.words = words


class BodyReader:
    """Reads bodies of ``max_bytes`` each."""

    def __init__(self, max_bytes: int) -> None:
        self._max_bytes = max_bytes
        self._max_together_bytes = max(MAX_TOGETHER_BYTES, max_bytes)
        self._held_bytes = 0

    async def read(self, request: web.BaseRequest) -> bytes:
        """Return the body; `forget` its size later. Raises `BodyRefused`."""
        content = request.content
        if content.is_eof():  # small ones came with the head
            whole = content.read_nowait()
            self._hold(len(whole), 0)
            return whole
        if (request.content_length or 0) > self._max_bytes:
            raise self._too_large()
        if request.version >= HttpVersion11 and request.headers.get("Expect", "").lower() == WAITS:
            await request.writer.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        body = bytearray()  # pieces of a byte each would take forty times as much
        try:
            async for piece in content.iter_any():
                self._hold(len(piece), len(body))
                body += piece
        except BaseException:  # also if the client is gone
            self.forget(len(body))
            raise
        return bytes(body)

    def forget(self, size: int) -> None:
        """A body, or the beginning of one, is here no more."""
        self._held_bytes -= size

    def _hold(self, more: int, size: int) -> None:
        """Take ``more`` bytes of a body of which ``size`` are here."""
        if size + more > self._max_bytes:
            raise self._too_large()
        if self._held_bytes + more > self._max_together_bytes:
            raise BodyRefused(503, "Too many large requests at once: send them again later\n")
        self._held_bytes += more

    def _too_large(self) -> BodyRefused:
        return BodyRefused(413, f"a body has {self._max_bytes:,} bytes at most\n")


async def linger(request: web.BaseRequest, response: web.StreamResponse) -> None:
    """Send an answer to a request whose body was not read, and give its client time to read it."""
    await response.prepare(request)
    await response.write_eof()
    left = LINGER_BYTES
    with suppress(TimeoutError, HttpProcessingError):  # nobody waits for what it sends
        async with asyncio.timeout(LINGER_S):
            async for piece in request.content.iter_any():
                left -= len(piece)
                if left < 0:
                    await asyncio.sleep(LINGER_S)
