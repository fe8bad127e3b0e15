"""The proxy that tests put between nodes does to a connection what it says, and nothing else."""

from __future__ import annotations

import os
import select
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
from tcp_proxy import Direction, Proxies

DEADLINE_S = 30.0
QUIET_S = 0.2  # nothing may come in this time; longer would only notice more


def until(look: Callable[[], Any], what: str) -> Any:
    deadline_s = time.monotonic() + DEADLINE_S
    while not (found := look()):
        assert time.monotonic() < deadline_s, what
        time.sleep(0.01)
    return found


def address_of(listener: socket.socket) -> str:
    host, port = listener.getsockname()
    return f"{host}:{port}"


class Server:
    """A listener whose connections the test serves itself."""

    def __init__(self) -> None:
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.listener.settimeout(DEADLINE_S)
        self.address = address_of(self.listener)
        self.sockets: list[socket.socket] = []

    def accept(self) -> socket.socket:
        return self._keep(self.listener.accept()[0])

    def dial(self, address: str) -> socket.socket:
        host, _, port = address.rpartition(":")
        return self._keep(socket.create_connection((host, int(port)), DEADLINE_S))

    def _keep(self, sock: socket.socket) -> socket.socket:
        sock.settimeout(DEADLINE_S)
        self.sockets.append(sock)
        return sock

    def close(self) -> None:
        for each in (*self.sockets, self.listener):
            each.close()


@pytest.fixture
def server() -> Iterator[Server]:
    server = Server()
    yield server
    server.close()


@pytest.fixture
def proxies() -> Iterator[Proxies]:
    with Proxies() as proxies:
        yield proxies


def receive(sock: socket.socket, count: int) -> bytes:
    data = b""
    while len(data) < count:
        more = sock.recv(count - len(data))
        assert more, "the connection ended"
        data += more
    return data


def silent(sock: socket.socket) -> bool:
    return not select.select([sock], [], [], QUIET_S)[0]


def test_bytes_pass_unchanged_in_both_directions(server: Server, proxies: Proxies) -> None:
    client = server.dial(proxies.link("a", server.address))
    served = server.accept()
    data = os.urandom(3_000_000)
    got = bytearray()
    client.setblocking(False)
    sent = 0
    while len(got) < len(data):
        readable, writable, _ = select.select(
            [served], [client] if sent < len(data) else [], [], DEADLINE_S
        )
        assert readable or writable, "nothing moves"
        if writable:
            sent += client.send(data[sent : sent + 65_536])
        if readable:
            got += served.recv(1 << 20)
    assert got == data
    client.settimeout(DEADLINE_S)
    served.sendall(b"thanks")
    assert receive(client, 6) == b"thanks"
    traffic = until(lambda: (t := proxies.look("a")).back == 6 and t, "counted")
    assert (traffic.connections, traffic.opened, traffic.there) == (1, 1, len(data))


def test_an_end_of_one_direction_leaves_the_other(server: Server, proxies: Proxies) -> None:
    client = server.dial(proxies.link("a", server.address))
    served = server.accept()
    client.sendall(b"last")
    client.shutdown(socket.SHUT_WR)
    assert receive(served, 4) == b"last"
    assert served.recv(1) == b""
    served.sendall(b"answer")
    assert receive(client, 6) == b"answer"
    served.close()
    assert client.recv(1) == b""
    until(lambda: proxies.look("a").connections == 0, "the connection is over")


def test_a_cut_resets_and_refuses_until_it_is_healed(server: Server, proxies: Proxies) -> None:
    address = proxies.link("a", server.address)
    client, served = server.dial(address), server.accept()
    client.sendall(b"x")
    receive(served, 1)

    proxies.cut("a")
    proxies.cut("a")  # twice is once
    for each in (client, served):
        with pytest.raises(ConnectionResetError):
            each.recv(1)
    for _ in range(3):
        with pytest.raises(ConnectionRefusedError):
            server.dial(address)

    proxies.heal("a")
    again = server.dial(address)  # the same port
    again.sendall(b"back")
    assert receive(server.accept(), 4) == b"back"
    assert proxies.look("a").opened == 2


def test_a_link_is_healed_though_connections_linger(server: Server, proxies: Proxies) -> None:
    """The proxy's end of a connection that the target closed first waits for a minute."""
    address = proxies.link("a", server.address)
    client, served = server.dial(address), server.accept()
    served.close()
    assert client.recv(1) == b""
    client.close()
    until(lambda: proxies.look("a").connections == 0, "the connection is over")
    proxies.cut("a")
    proxies.heal("a")
    server.dial(address)
    server.accept()


def test_a_black_hole_holds_one_direction_and_loses_nothing(
    server: Server, proxies: Proxies
) -> None:
    client = server.dial(proxies.link("a", server.address))
    served = server.accept()
    client.sendall(b"before")
    assert receive(served, 6) == b"before"

    proxies.black_hole("a", Direction.THERE)
    client.sendall(b"lost for now")
    served.sendall(b"the other way")
    assert receive(client, 13) == b"the other way"
    assert silent(served)

    proxies.heal("a")
    assert receive(served, 12) == b"lost for now"


def test_a_black_hole_pushes_back_in_the_end(server: Server, proxies: Proxies) -> None:
    """What it takes in is bounded, as a sender's window would be."""
    client = server.dial(proxies.link("a", server.address))
    served = server.accept()
    proxies.black_hole("a")
    sent = 0
    while select.select([], [client], [], QUIET_S)[1]:
        sent += client.send(bytes(65_536))
        assert sent < 200_000_000, "it swallows everything"
    assert silent(served)
    proxies.heal()
    assert len(receive(served, sent)) == sent


def test_a_black_hole_answers_no_new_connection(server: Server, proxies: Proxies) -> None:
    address = proxies.link("a", server.address)
    proxies.black_hole("a")
    client = server.dial(address)  # the kernel's word, not the target's
    client.sendall(b"hello?")
    assert silent(server.listener)
    proxies.heal("a")
    assert receive(server.accept(), 6) == b"hello?"


def test_a_black_hole_can_be_cut(server: Server, proxies: Proxies) -> None:
    client = server.dial(proxies.link("a", server.address))
    served = server.accept()
    proxies.black_hole("a")
    client.sendall(b"never arrives")
    proxies.cut("a")
    with pytest.raises(ConnectionResetError):
        client.recv(1)
    with pytest.raises(ConnectionResetError):
        served.recv(1)


def test_a_delay_takes_at_least_that_long_and_keeps_the_order(
    server: Server, proxies: Proxies
) -> None:
    client = server.dial(proxies.link("a", server.address))
    served = server.accept()
    proxies.delay("a", 300, Direction.THERE)
    client.sendall(b"0")  # read before the delay is known, perhaps: it is not timed
    receive(served, 1)
    began_s = time.monotonic()
    for digit in b"123456789":
        client.sendall(bytes((digit,)))
    assert receive(served, 9) == b"123456789"
    assert time.monotonic() - began_s >= 0.3
    proxies.delay("a", 0)
    client.sendall(b"quick")
    assert receive(served, 5) == b"quick"


def test_links_do_not_touch_each_other(server: Server, proxies: Proxies) -> None:
    first = server.dial(proxies.link("a", server.address))
    at_first = server.accept()
    second = server.dial(proxies.link("b", server.address))
    at_second = server.accept()
    proxies.cut("a")
    second.sendall(b"unharmed")
    assert receive(at_second, 8) == b"unharmed"
    with pytest.raises(ConnectionResetError):
        first.recv(1)
    with pytest.raises(ConnectionResetError):
        at_first.recv(1)


def test_a_target_that_is_away_is_a_connection_that_breaks(
    server: Server, proxies: Proxies
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as nobody:
        target = address_of(nobody)
    address = proxies.link("a", target)
    with pytest.raises(ConnectionResetError):
        server.dial(address).recv(1)
    until(lambda: proxies.look("a").connections == 0, "it is forgotten")


def test_a_mistake_is_told(proxies: Proxies) -> None:
    with pytest.raises(AssertionError, match="nowhere"):
        proxies.cut("nowhere")


def test_it_ends_with_whoever_started_it() -> None:
    source = (
        "import sys; sys.path.insert(0, sys.argv[1]); from tcp_proxy import Proxies; "
        "print(Proxies().process.pid, flush=True); sys.stdin.read()"
    )
    owner = subprocess.Popen(
        [sys.executable, "-c", source, str(Path(__file__).parent)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        assert owner.stdout is not None
        proxy = psutil.Process(int(owner.stdout.readline()))
    finally:
        owner.kill()
        owner.communicate()
    proxy.wait(DEADLINE_S)
