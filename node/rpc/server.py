"""HTTP: the door through which wallets, browsers of metrics and mischief come in.

aiohttp reads requests, `node.rpc.doorkeeper` limits connections and time, this module passwords,
bodies and how much is worked on at once; calls go to `node.rpc.calls`. POST / is JSON-RPC and
always wants a password. GET /metrics wants one, too, except from this machine, where scrapers have
none; /healthz and /readyz say one word to everybody. It owns the listening socket. What kills it:
nothing that a client sends.
"""

from __future__ import annotations

import asyncio
import logging
import socket
import time
from collections.abc import Awaitable, Callable
from typing import Any, Final

from aiohttp import HttpVersion11, web

from node.config import RpcSection
from node.errors import ListenError
from node.network.address import is_loopback, parse_address, plain_ip
from node.rpc.auth import Authenticator, Failures
from node.rpc.calls import Calls
from node.rpc.doorkeeper import Doorkeeper
from node.rpc.jsonrpc import Request, RpcError, encode, parse_body, reply, status_of
from pipeline.metrics import MetricWriter

FAILURE_PAUSE_S: Final = 0.25  # before a wrong password is answered: four guesses a connection
MAX_HEADER_BYTES: Final = 8 * 1024  # of a line or field of the head
BACKLOG: Final = 128
WAITS: Final = "100-continue"
"""Of a client that sends its body only when it is told that it may, as curl from 1 MiB on; which
that is, aiohttp leaves to a framework (RFC 9110, 10.1.1).
"""
FORWARDED: Final = ("Forwarded", "Via", "X-Forwarded-For")  # what proxies add
OLD_AGENT: Final = "AuthServiceProxy"
"""How python-bitcoinrpc calls itself, whose batches say 2.0 and want answers of 1.0."""

Page = Callable[[], Awaitable[tuple[int, str, bytes]]]
"""Makes a page: HTTP status, type and content."""


class Server:
    """Serves until it is closed. Raises ListenError if the address cannot be had."""

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        settings: RpcSection,
        door: Authenticator,
        calls: Calls,
        pages: dict[str, Page],
        metrics: MetricWriter,
        log: Any,
    ) -> None:
        self._settings = settings
        self._auth = door
        self._calls = calls
        self._pages = pages
        self._metrics = metrics
        self._log = log
        self._failures = Failures()
        self._requests = metrics["requests"]
        self._requests_refused = metrics["requests_refused"]
        self._queued = 0
        self._max_queued = settings.workers + settings.work_queue
        self._workers = asyncio.Semaphore(settings.workers)
        self._max_body = settings.max_body_kb * 1024
        self._http = web.Server(
            self._handle,
            handler_cancellation=True,  # who hangs up waits for nothing any more
            access_log=None,
            logger=_silent(),
            keepalive_timeout=float(settings.timeout_s),
            lingering_time=0.0,
            max_line_size=MAX_HEADER_BYTES,
            max_field_size=MAX_HEADER_BYTES,
            auto_decompress=False,
            loop=loop,
        )
        self._sock = _listen(settings.listen)
        self._door = Doorkeeper(loop, self._http, settings.max_connections, settings.timeout_s)
        self._server = loop.run_until_complete(
            loop.create_server(self._door, sock=self._sock, backlog=BACKLOG)
        )

    @property
    def port(self) -> int:
        """Where it listens."""
        return int(self._sock.getsockname()[1])

    def publish(self) -> None:
        """Set the gauges."""
        metrics = self._metrics
        metrics.set(metrics["connections"], len(self._door))
        metrics.set(metrics["connections_refused"], self._door.refused)
        metrics.set(metrics["connections_cut_off"], self._door.cut_off)

    def stop_listening(self) -> None:
        """Let nobody in any more; those inside get their answers."""
        self._server.close()

    def close(self) -> None:
        """Close everything."""
        self._server.close()
        self._door.close()

    # -- a request -------------------------------------------------------------------------------

    async def _handle(self, request: web.BaseRequest) -> web.StreamResponse:
        self._metrics.add(self._requests)
        try:
            if request.raw_path == "/" and request.method == "POST":
                response = await self._calling(request)
            else:
                response = await self._asking(request)
        finally:
            self._door.answered(request.transport)
        if response.status >= 400:
            self._metrics.add(self._requests_refused)
        return response

    async def _calling(self, request: web.BaseRequest) -> web.StreamResponse:
        """JSON-RPC."""
        headers = request.headers
        if self._auth.user(headers.get("Authorization")) is None:
            return await self._refuse_password(request)
        content = request.content
        # Small ones came with the head.
        body = content.read_nowait() if content.is_eof() else await self._body(request)
        if body is None or len(body) > self._max_body:
            return _closing(_plain(413, f"a body has {self._max_body:,} bytes at most\n"))
        self._door.arrived(request.transport)
        whole = headers.get("User-Agent", "").startswith(OLD_AGENT)
        try:
            parsed = parse_body(body)
            del body
            if self._calls.waits(parsed):
                status, answer = await self._calls.answer(parsed, whole=whole)
            else:
                if self._queued >= self._max_queued:
                    return _plain(503, "Work queue depth exceeded\n")
                self._queued += 1
                try:
                    async with self._workers:
                        status, answer = await self._calls.answer(parsed, whole=whole)
                finally:
                    self._queued -= 1
        except RpcError as error:  # of the body as a whole
            nobody = Request()
            status, answer = status_of(nobody, error), encode(reply(nobody, None, error))
        return web.Response(status=status, body=answer, content_type="application/json")

    async def _body(self, request: web.BaseRequest) -> bytes | None:
        """The body, None if it is larger than it may be; then most of it was never read."""
        if (request.content_length or 0) > self._max_body:
            return None
        if request.version >= HttpVersion11 and request.headers.get("Expect", "").lower() == WAITS:
            await request.writer.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        pieces: list[bytes] = []
        size = 0
        async for piece in request.content.iter_any():
            size += len(piece)
            if size > self._max_body:
                return None
            pieces.append(piece)
        return b"".join(pieces)

    async def _asking(self, request: web.BaseRequest) -> web.StreamResponse:
        """Everything else that may be asked here."""
        if request.path in self._pages:
            return await self._page(request)
        if request.path not in ("/", ""):
            return _plain(404, "not here: JSON-RPC is at /\n")
        if request.method == "POST":
            return await self._calling(request)  # to / in another spelling
        response = _plain(405, "JSONRPC server handles only POST requests\n")
        response.headers["Allow"] = "POST"
        return response

    async def _refuse_password(self, request: web.BaseRequest) -> web.StreamResponse:
        failed = self._failures.failed(time.monotonic_ns())
        self._metrics.add(self._metrics["passwords_refused"], 1)
        if failed:
            self._log.warning("rpc_password_refused", address=_host(request), times=failed)
        await asyncio.sleep(FAILURE_PAUSE_S)
        response = _plain(401, "")
        response.headers["WWW-Authenticate"] = 'Basic realm="jsonrpc"'
        return _closing(response)

    async def _page(self, request: web.BaseRequest) -> web.StreamResponse:
        if request.method not in ("GET", "HEAD"):
            response = _plain(405, "only GET\n")
            response.headers["Allow"] = "GET, HEAD"
            return response
        is_open = request.path != "/metrics" or _is_near(request)
        if not is_open and self._auth.user(request.headers.get("Authorization")) is None:
            return await self._refuse_password(request)
        self._door.arrived(request.transport)
        status, kind, content = await self._pages[request.path]()
        return web.Response(status=status, body=content, headers={"Content-Type": kind})


def _silent() -> logging.Logger:
    """aiohttp's log: what clients do wrong is counted, not told."""
    logger = logging.getLogger("timed.http")
    logger.addHandler(logging.NullHandler())
    logger.propagate = False
    return logger


def _listen(address: str) -> socket.socket:
    remedy = "stop what uses the port, or change rpc.listen in config.toml"
    try:
        host, port = parse_address(address)
        family, kind, protocol, _, where = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        sock = socket.socket(family, kind, protocol)
    except (OSError, ValueError) as error:
        raise ListenError(f"cannot listen for JSON-RPC on {address} ({error})", remedy) from error
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.setblocking(False)
        sock.bind(where)
    except OSError as error:
        sock.close()
        raise ListenError(
            f"cannot listen for JSON-RPC on {address} ({error.strerror})", remedy
        ) from error
    return sock


def _host(request: web.BaseRequest) -> str:
    return plain_ip(request.remote or "")


def _is_near(request: web.BaseRequest) -> bool:
    """Whether a request is of this machine, as far as can be seen: no proxy has told of another."""
    return is_loopback(_host(request)) and not any(each in request.headers for each in FORWARDED)


def _plain(status: int, text: str) -> web.Response:
    return web.Response(status=status, text=text)


def _closing(response: web.Response) -> web.Response:
    response.force_close()
    return response
