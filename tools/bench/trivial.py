"""The least that a server of JSON-RPC can do with the node's HTTP library: the measure for `rpc`.

aiohttp, as the node uses it, in a process of its own with the niceness of ``rpc``; the handler
compares the password, reads the body, and gives one fixed answer. `Trivial` owns the process. Run
as a module, this is it: it prints its port, and ends with its standard input.
"""

from __future__ import annotations

import asyncio
import hmac
import os
import select
import subprocess
import sys
from contextlib import suppress
from pathlib import Path
from typing import Final, Self

from aiohttp import web

from tools.bench.caller import Server, basic
from tools.bench.errors import BenchError
from tools.bench.process import cpu_ns, die_with_parent

NICE: Final = 5
"""As node.wiring has it for rpc, so that the scheduler treats both alike."""

START_TIMEOUT_S: Final = 60.0
HOST: Final = "127.0.0.1"
PASSWORD: Final = b"__cookie__:0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef"
ANSWER: Final = b'{"result":0,"error":null,"id":1}\n'


class Trivial:
    """The process, listening; it is gone when the context is left."""

    def __init__(self, log: Path) -> None:
        with log.open("wb") as file:
            self._process = subprocess.Popen(
                [sys.executable, "-m", __name__], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                stderr=file, bufsize=0, start_new_session=True, preexec_fn=die_with_parent,
            )  # fmt: skip
        try:
            self.server = Server(HOST, self._port(log), basic(PASSWORD))
        except BaseException:
            self.__exit__()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._process.kill()
        self._process.wait()
        for pipe in (self._process.stdin, self._process.stdout):
            assert pipe is not None
            pipe.close()

    @property
    def cpu_ns(self) -> int:
        """What the process has used so far."""
        return cpu_ns(self._process.pid)

    def _port(self, log: Path) -> int:
        assert self._process.stdout is not None
        ready, _, _ = select.select([self._process.stdout], [], [], START_TIMEOUT_S)
        said = self._process.stdout.readline() if ready else b""
        if not said.strip().isdigit():
            last = log.read_text(errors="replace").splitlines()[-1:]
            raise BenchError(f"no HTTP server could be started ({last})", "mend that first")
        return int(said)


async def _handle(request: web.BaseRequest) -> web.StreamResponse:
    given = request.headers.get("Authorization", "")
    if not hmac.compare_digest(given.encode(), basic(PASSWORD).encode()):
        return web.Response(status=401)
    await request.read()
    return web.Response(body=ANSWER, content_type="application/json")


async def _serve() -> None:
    loop = asyncio.get_running_loop()
    over = asyncio.Event()
    loop.add_reader(sys.stdin.fileno(), over.set)
    server = await loop.create_server(web.Server(_handle, access_log=None), HOST, 0)
    async with server:
        print(server.sockets[0].getsockname()[1], flush=True)
        await over.wait()


if __name__ == "__main__":
    os.nice(NICE)
    with suppress(KeyboardInterrupt):
        asyncio.run(_serve())
