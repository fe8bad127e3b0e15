"""Bad lines between nodes: a TCP proxy in a process of its own, which a test controls.

A link listens on a port of loopback and forwards every connection to its target, bytes unchanged
and in order. A test can cut it (connections are reset, new ones refused), delay either direction,
or let one or both be black holes: connections stay, nothing passes, as when packets get lost; what
was under way arrives when the link is healed, as TCP would send it again. `Proxies` starts the
process (`python tcp_proxy.py`), which takes orders as lines of JSON and ends with its standard
input, so with the test, however that ends.
"""

from __future__ import annotations

import asyncio
import json
import socket
import struct
import subprocess
import sys
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

from tools.ports import free_ports

HOST = "127.0.0.1"
CHUNK_BYTES = 64 * 1024
CHUNKS_UNDER_WAY = 64  # of one direction of a connection: 4 MiB, more waits in the sender's kernel
BACKLOG = 64
_RESET = struct.pack("ii", 1, 0)  # SO_LINGER: close with RST, not with FIN


class Direction(StrEnum):
    """Seen from the one who dialled."""

    THERE = "there"
    BACK = "back"


@dataclass(frozen=True)
class Traffic:
    """A link so far: connections now and ever, bytes delivered in each direction."""

    connections: int
    opened: int
    there: int
    back: int


class Proxies:
    """The proxy process, with links by name; a context manager that ends it."""

    def __init__(self) -> None:
        self.process = subprocess.Popen(
            [sys.executable, __file__],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self.names: list[str] = []

    def __enter__(self) -> Proxies:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def link(self, name: str, target: str, source: str = HOST) -> str:
        """Make a link to `target` (host:port), which sees connections come from the loopback
        address `source`; returns the address to dial instead.
        """
        host, _, port = target.rpartition(":")
        answer = self._order(do="link", name=name, host=host, port=int(port), source=source)
        self.names.append(name)
        return f"{HOST}:{answer['port']}"

    def cut(self, *names: str) -> None:
        """Reset the connections of these links and refuse new ones."""
        for name in names:
            self._order(do="cut", name=name)

    def heal(self, *names: str) -> None:
        """Make these links good again, or all: nothing is cut, delayed or lost in a black hole."""
        for name in names or self.names:
            self._order(do="heal", name=name)

    def delay(self, name: str, delay_ms: float, *directions: Direction) -> None:
        """Let every byte read from now on take so long; both directions if none is named."""
        for direction in directions or tuple(Direction):
            self._order(do="set", name=name, direction=direction, delay_ms=delay_ms)

    def black_hole(self, name: str, *directions: Direction) -> None:
        """Let nothing pass, without a sign of it; both directions if none is named."""
        for direction in directions or tuple(Direction):
            self._order(do="set", name=name, direction=direction, held=True)

    def look(self, name: str) -> Traffic:
        """What went over a link."""
        return Traffic(**self._order(do="look", name=name))

    def close(self) -> None:
        """End the process, and with it every connection."""
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.kill()
        self.process.wait()
        self.process.stdin.close()
        self.process.stdout.close()

    def _order(self, **order: Any) -> dict[str, Any]:
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write(json.dumps(order) + "\n")
        self.process.stdin.flush()
        line = self.process.stdout.readline()
        assert line, "the proxy died"
        answer: dict[str, Any] = json.loads(line)
        assert "error" not in answer, answer["error"]
        return answer


# -- the process -----------------------------------------------------------------------------------


@dataclass
class Way:
    """One direction of a link: what is done to it, and what it delivered."""

    delay_s: float = 0.0
    delivered: int = 0
    open: asyncio.Event = field(default_factory=asyncio.Event)

    def __post_init__(self) -> None:
        self.open.set()


class Link:
    """A listener, its target, and the connections between."""

    def __init__(self, target: tuple[str, int], source: str) -> None:
        self.target = target
        self.source = source
        self.ways = {direction: Way() for direction in Direction}
        self.opened = 0
        self.is_cut = False
        self.connections: dict[asyncio.Task[None], list[socket.socket]] = {}
        self.listener = socket.socket()
        self.listener.setblocking(False)
        # or connections that are over, but not forgotten, would keep `heal` from listening
        self.listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        self.listener.bind((HOST, free_ports(1)[0]))
        self.listener.listen(BACKLOG)
        self.accepting = asyncio.create_task(self._accept())

    def cut(self) -> None:
        if self.is_cut:
            return
        self.is_cut = True
        self.accepting.cancel()
        # Linux: a port that was asked for by number stays ours, and refuses until we listen again
        self.listener.shutdown(socket.SHUT_RDWR)
        for task, sockets in list(self.connections.items()):
            task.cancel()
            _reset(sockets)

    def heal(self) -> None:
        for way in self.ways.values():
            way.delay_s = 0.0
            way.open.set()
        if self.is_cut:
            self.is_cut = False
            self.listener.listen(BACKLOG)
            self.accepting = asyncio.create_task(self._accept())

    def set(self, direction: Direction, delay_ms: float | None, held: bool | None) -> None:
        way = self.ways[direction]
        if delay_ms is not None:
            way.delay_s = delay_ms / 1000
        if held:
            way.open.clear()

    async def _accept(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            client, _ = await loop.sock_accept(self.listener)
            self.opened += 1
            sockets = [client]
            task = asyncio.create_task(self._serve(client, sockets))
            self.connections[task] = sockets
            task.add_done_callback(self._ended)

    def _ended(self, task: asyncio.Task[None]) -> None:
        _reset(self.connections.pop(task))
        if not task.cancelled():
            task.exception()  # a broken connection is what this is about

    async def _serve(self, client: socket.socket, sockets: list[socket.socket]) -> None:
        loop = asyncio.get_running_loop()
        server = socket.socket()
        sockets.append(server)
        for each in sockets:
            each.setblocking(False)
            each.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        await self.ways[Direction.THERE].open.wait()  # a first packet would not arrive either
        if self.source != HOST:
            server.bind((self.source, 0))
        await loop.sock_connect(server, self.target)
        there, back = self.ways[Direction.THERE], self.ways[Direction.BACK]
        async with asyncio.TaskGroup() as group:  # one that fails ends the other
            for source, drain, way in ((client, server, there), (server, client, back)):
                queue: asyncio.Queue[tuple[float, bytes]] = asyncio.Queue(CHUNKS_UNDER_WAY)
                group.create_task(_read(source, way, queue))
                group.create_task(_write(drain, way, queue))


async def _read(source: socket.socket, way: Way, queue: asyncio.Queue[tuple[float, bytes]]) -> None:
    loop = asyncio.get_running_loop()
    while True:
        await way.open.wait()
        data = await loop.sock_recv(source, CHUNK_BYTES)
        await queue.put((loop.time() + way.delay_s, data))
        if not data:
            return


async def _write(drain: socket.socket, way: Way, queue: asyncio.Queue[tuple[float, bytes]]) -> None:
    loop = asyncio.get_running_loop()
    while True:
        due_s, data = await queue.get()
        await asyncio.sleep(max(0.0, due_s - loop.time()))
        await way.open.wait()
        if not data:
            drain.shutdown(socket.SHUT_WR)
            return
        await loop.sock_sendall(drain, data)
        way.delivered += len(data)


def _reset(sockets: list[socket.socket]) -> None:
    for each in sockets:
        if each.fileno() >= 0:
            each.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
            each.close()


async def _obey(links: dict[str, Link], order: dict[str, Any]) -> dict[str, Any]:
    name = order["name"]
    if order["do"] == "link":
        links[name] = link = Link((order["host"], order["port"]), order["source"])
        return {"port": link.listener.getsockname()[1]}
    link = links[name]
    match order["do"]:
        case "cut":
            link.cut()
        case "heal":
            link.heal()
        case "set":
            link.set(Direction(order["direction"]), order.get("delay_ms"), order.get("held"))
        case "look":
            delivered = {str(way): link.ways[way].delivered for way in Direction}
            return {"connections": len(link.connections), "opened": link.opened, **delivered}
        case _:
            raise ValueError(f"there is no order {order['do']}")
    return {}


async def _main() -> None:
    loop = asyncio.get_running_loop()
    orders = asyncio.StreamReader()
    await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(orders), sys.stdin)
    links: dict[str, Link] = {}
    while line := await orders.readline():
        try:
            answer = await _obey(links, json.loads(line))
        except (KeyError, ValueError, OSError) as error:
            answer = {"error": repr(error)}
        print(json.dumps(answer), flush=True)


if __name__ == "__main__":
    asyncio.run(_main())
