"""An HTTP server that answers JSON-RPC with what a test wants it to say."""

from __future__ import annotations

import json
import socketserver
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

COOKIE = "__cookie__:0123456789abcdef"


class RpcServer(ThreadingHTTPServer):
    """Answers every call with `status` and `body`, and keeps what it was asked.

    A method in `results` is answered with the JSON text there; None hangs up instead.
    """

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.status = 200
        self.body = b'{"jsonrpc":"2.0","result":null,"id":1}'
        self.results: dict[str, str | None] = {}
        self.asked: list[tuple[dict[str, str], bytes]] = []

    def server_bind(self) -> None:
        """Bind, and ask nobody for the name of this machine, as an HTTPServer would."""
        socketserver.TCPServer.server_bind(self)
        self.server_name, self.server_port = self.server_address[:2]  # type: ignore[assignment]

    def result(self, text: str) -> None:
        """Answer every call with this result from now on."""
        self.status, self.body = 200, f'{{"jsonrpc":"2.0","result":{text},"id":1}}'.encode()

    @property
    def calls(self) -> list[dict[str, Any]]:
        """What it was asked, decoded."""
        return [json.loads(body) for _, body in self.asked]


class _Handler(BaseHTTPRequestHandler):
    server: RpcServer

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        self.server.asked.append((dict(self.headers), body))
        if self.server.results:
            result = self.server.results[json.loads(body)["method"]]
            if result is None:
                return
            self.server.result(result)
        self.send_response(self.server.status)
        self.send_header("Content-Length", str(len(self.server.body)))
        self.end_headers()
        self.wfile.write(self.server.body)

    def log_message(self, *_: object) -> None:
        """Nothing on standard error."""


@contextmanager
def serving() -> Iterator[RpcServer]:
    """A server on a free port of loopback, for as long as the block runs."""
    with RpcServer() as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.02,))
        thread.start()
        try:
            yield server
        finally:
            server.shutdown()
            thread.join()
