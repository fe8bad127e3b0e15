"""HTTP: the door through which wallets, browsers of metrics and mischief come in.

aiohttp reads requests, `node.rpc.doorkeeper` limits connections and time, `node.rpc.reading` the
size of bodies, this module passwords and how much is worked on at once; calls go to
`node.rpc.calls`. POST / is JSON-RPC and always wants a password. GET /metrics wants one, too,
except from this machine, where scrapers have none; /healthz and /readyz say one word to everybody.
It owns the listening socket. What kills it: nothing that a client sends.
"""

from __future__ import annotations

import asyncio
import logging
import socket
import time
from collections.abc import Awaitable, Callable
from typing import Any, Final

from aiohttp import web

from node.config import RpcSection
from node.errors import ListenError
from node.network.address import is_loopback, parse_address, plain_ip
from node.rpc.auth import Authenticator, Failures
from node.rpc.calls import Calls
from node.rpc.doorkeeper import Doorkeeper
from node.rpc.jsonrpc import (
    SMALL_BYTES,
    Request,
    RpcError,
    encode,
    parse_body,
    reply,
    status_of,
)
from node.rpc.reading import BodyReader, BodyRefused, linger
from pipeline.metrics import MetricWriter

FAILURE_PAUSE_S: Final = 0.25  # before a wrong password is answered: four guesses a connection
MAX_HEADER_BYTES: Final = 8 * 1024  # of a line or field of the head
READ_BYTES: Final = 64 * 1024  # of a body that nobody asked for yet, twice this a connection
BACKLOG: Final = 128
FORWARDED: Final = ("Forwarded", "Via", "X-Forwarded-For")  # what proxies add
QUEUE_FULL: Final = "Work queue depth exceeded\n"  # in Bitcoin Core's words
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
        self._refused_last = ""
        self._requests = metrics["requests"]
        self._requests_refused = metrics["requests_refused"]
        self._queued = 0
        self._max_queued = settings.workers + settings.work_queue
        self._workers = asyncio.Semaphore(settings.workers)
        self._bodies = BodyReader(settings.max_body_kb * 1024)
        self._http = web.Server(
            self._handle,
            handler_cancellation=True,  # who hangs up waits for nothing any more
            access_log=None,
            logger=_silent(),
            keepalive_timeout=float(settings.timeout_s),
            lingering_time=0.0,  # `linger` does it, within bounds
            read_bufsize=READ_BYTES,
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

    def publish(self, now_ns: int) -> None:
        """Set the gauges, and tell of refused passwords that have not been told of."""
        metrics = self._metrics
        metrics.set(metrics["connections"], len(self._door))
        metrics.set(metrics["connections_refused"], self._door.refused)
        metrics.set(metrics["connections_cut_off"], self._door.cut_off)
        self._tell(self._failures.unreported(now_ns))

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
        if not request.content.is_eof():
            await linger(request, response)
        return response

    async def _calling(self, request: web.BaseRequest) -> web.StreamResponse:
        """JSON-RPC."""
        headers = request.headers
        if self._auth.user(headers.get("Authorization")) is None:
            return await self._refuse_password(request)
        length = request.content_length
        if self._queued >= self._max_queued and (length is None or length > SMALL_BYTES):
            return _plain(503, QUEUE_FULL)  # unread
        try:
            body = await self._bodies.read(request)
        except BodyRefused as refused:
            return _closing(_plain(refused.status, refused.words))
        self._door.arrived(request.transport)
        size = len(body)
        try:
            return await self._answer(body, headers.get("User-Agent", "").startswith(OLD_AGENT))
        finally:
            self._bodies.forget(size)

    async def _answer(self, body: bytes, whole: bool) -> web.StreamResponse:
        """Work on a body's calls, when it is their turn; those that wait take no turn."""
        try:
            # What is large is read in its turn, too: its objects take more memory than its bytes.
            parsed = self._parse(body) if len(body) <= SMALL_BYTES else None
            if parsed is None or not self._calls.waits(parsed):
                if self._queued >= self._max_queued:
                    return _plain(503, QUEUE_FULL)
                self._queued += 1
                try:
                    async with self._workers:
                        if parsed is None:
                            parsed = self._parse(body)
                        if not self._calls.waits(parsed):
                            return _json(*await self._calls.answer(parsed, whole=whole))
                finally:
                    self._queued -= 1
            return _json(*await self._calls.answer(parsed, whole=whole))
        except RpcError as error:  # of the body as a whole
            nobody = Request()
            return _json(status_of(nobody, error), encode(reply(nobody, None, error)))

    def _parse(self, body: bytes) -> Request | list[Request]:
        return parse_body(body, self._settings.max_batch)

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
        self._refused_last = _host(request)
        self._metrics.add(self._metrics["passwords_refused"], 1)
        self._tell(self._failures.failed(time.monotonic_ns()))
        await asyncio.sleep(FAILURE_PAUSE_S)
        response = _plain(401, "")
        response.headers["WWW-Authenticate"] = 'Basic realm="jsonrpc"'
        return _closing(response)

    def _tell(self, failed: int) -> None:
        if failed:
            self._log.warning("rpc_password_refused", address=self._refused_last, times=failed)

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


def _json(status: int, answer: bytes) -> web.Response:
    return web.Response(status=status, body=answer, content_type="application/json")


def _closing(response: web.Response) -> web.Response:
    response.force_close()
    return response
