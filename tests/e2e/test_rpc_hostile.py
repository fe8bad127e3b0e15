"""What mischief gets from the HTTP server: the right refusal, and nothing dies or grows."""

from __future__ import annotations

import json
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import psutil
import pytest
from funded import Funds
from rpc_client import RpcClient
from running_node import DEADLINE_S, RunningNode

MIB = 1024 * 1024


@pytest.fixture(scope="module")
def node(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningNode]:
    root = tmp_path_factory.mktemp("hostile")
    funds = Funds(root / "funds", 50)
    node = RunningNode(root / "node", funds.directory, rpc={"timeout_s": 2})
    yield node.start()
    node.end()


@pytest.fixture(autouse=True)
def unharmed(node: RunningNode) -> Iterator[None]:
    """Whatever a test does: the same process answers afterwards, and has not grown much."""
    process = psutil.Process(node.pid("rpc"))
    before = process.memory_info().rss
    yield
    assert node.pid("rpc") == process.pid
    client = RpcClient.of(node)
    assert client.call("getblockcount") >= 0
    client.close()
    assert process.memory_info().rss - before < 96 * MIB


def connected(node: RunningNode) -> socket.socket:
    host, _, port = node.rpc.partition(":")
    return socket.create_connection((host, int(port)), timeout=DEADLINE_S)


def head(node: RunningNode, *lines: str) -> bytes:
    import base64

    cookie = base64.b64encode((node.datadir / ".cookie").read_bytes()).decode()
    return "\r\n".join(
        ["POST / HTTP/1.1", "Host: x", f"Authorization: Basic {cookie}", *lines, "", ""]
    ).encode()


def everything(sock: socket.socket) -> bytes:
    """What comes until the other side closes."""
    data = b""
    try:
        while piece := sock.recv(65_536):
            data += piece
    except ConnectionResetError:
        pass
    return data


@pytest.mark.parametrize("credentials", ["__cookie__:wrong", "nobody:nothing", ""])
def test_a_wrong_password(node: RunningNode, credentials: str) -> None:
    client = RpcClient(node.rpc, credentials)
    for _ in range(3):
        assert client.post(b"{}") == (401, None)
    client.close()


def test_wrong_passwords_are_told_in_the_log_and_not_one_by_one(node: RunningNode) -> None:
    """All are told of, with their number, in a line a second at most: whoever repeats itself in the
    log is held back after twenty lines in ten seconds only.
    """

    def guess() -> None:
        client = RpcClient(node.rpc, "a:b")
        for _ in range(10):
            client.post(b"{}")
        client.close()

    def told() -> list[dict[str, Any]]:
        lines = node.log.read_text().splitlines()
        return [json.loads(line) for line in lines if "rpc_password_refused" in line]

    def all_are_told() -> bool:
        return sum(each["times"] for each in told()) == node.metrics("rpc")["passwords_refused"]

    node.wait_until(all_are_told)
    before, refused_before = len(told()), node.metrics("rpc")["passwords_refused"]
    began_s = time.monotonic()
    guessing = [threading.Thread(target=guess) for _ in range(16)]
    for each in guessing:
        each.start()
    for each in guessing:
        each.join()
    node.wait_until(all_are_told)
    seconds = time.monotonic() - began_s
    assert node.metrics("rpc")["passwords_refused"] == refused_before + 160
    lines = told()[before:]
    assert 1 <= len(lines) <= seconds + 1
    assert {each["address"] for each in lines} == {"127.0.0.1"}


def test_a_body_that_says_that_it_is_huge(node: RunningNode) -> None:
    with connected(node) as sock:
        sock.sendall(head(node, f"Content-Length: {1 << 30}"))
        assert everything(sock).startswith(b"HTTP/1.1 413")


@pytest.mark.parametrize(
    ("said", "chunk"),
    [
        ("Transfer-Encoding: chunked", b"%x\r\n" % MIB + b" " * MIB + b"\r\n"),
        (f"Content-Length: {1 << 30}", b" " * MIB),
    ],
)
def test_a_client_that_sends_a_huge_body_reads_why_it_shall_not(
    node: RunningNode, said: str, chunk: bytes
) -> None:
    with connected(node) as sock:
        sock.sendall(head(node, said))
        sent = 0
        with suppress(ConnectionError):
            while sent < 1 << 10:
                sock.sendall(chunk)
                sent += 1
        assert sent < 64
        assert everything(sock).startswith(b"HTTP/1.1 413")


def test_a_body_somewhat_too_large_is_taken_and_refused(node: RunningNode) -> None:
    """Whoever sends all before it reads is not stopped by a reset on the way."""
    client = RpcClient.of(node)
    assert client.status(b" " * (8 * MIB)) == 413
    client.close()


def test_a_stranger_with_a_body_reads_that_it_is_one(node: RunningNode) -> None:
    client = RpcClient(node.rpc, "nobody:nothing")
    assert client.status(b" " * (8 * MIB)) == 401
    client.close()


BODY = b'{"method": "getblockhash", "params": [0], "id": 1}'
WAITING = f"Content-Length: {len(BODY)}", "Expect: 100-Continue"
GO_ON = b"HTTP/1.1 100 Continue\r\n\r\n"


def test_a_body_that_waits_to_be_let_in(node: RunningNode) -> None:
    """As curl sends its large ones: twice on one connection."""
    with connected(node) as sock, sock.makefile("rb") as answers:
        for _ in range(2):
            sock.sendall(head(node, *WAITING))
            assert answers.readline() + answers.readline() == GO_ON
            sock.sendall(BODY)
            assert answers.readline() == b"HTTP/1.1 200 OK\r\n"
            lines = {each.lower() for each in iter(answers.readline, b"\r\n")}
            (size,) = (int(each[16:]) for each in lines if each.startswith(b"content-length: "))
            assert json.loads(answers.read(size))["error"] is None


def test_nobody_is_told_to_send_what_nobody_will_read(node: RunningNode) -> None:
    with connected(node) as sock:
        sock.sendall(head(node, f"Content-Length: {1 << 30}", "Expect: 100-continue"))
        assert everything(sock).startswith(b"HTTP/1.1 413")
    with connected(node) as sock:
        sock.sendall("\r\n".join(["POST / HTTP/1.1", "Host: x", *WAITING, "", ""]).encode())
        assert everything(sock).startswith(b"HTTP/1.1 401")
    with connected(node) as sock:  # 1.0 knows no such thing
        sock.sendall(head(node, *WAITING).replace(b"HTTP/1.1", b"HTTP/1.0", 1))
        sock.settimeout(0.2)
        with pytest.raises(TimeoutError):
            sock.recv(1)
        sock.settimeout(DEADLINE_S)
        sock.sendall(BODY)
        assert everything(sock).startswith(b"HTTP/1.0 200")


def test_a_client_that_sends_a_byte_now_and_then(node: RunningNode) -> None:
    with connected(node) as slow_head, connected(node) as slow_body:
        slow_body.sendall(head(node, "Content-Length: 1000"))
        for sock, data in ((slow_head, b"POST / HTTP/1.1\r\nX: "), (slow_body, b"[")):
            sock.settimeout(0.2)
            with pytest.raises(ConnectionError):
                trickle(sock, data)


def trickle(sock: socket.socket, data: bytes) -> None:
    """Send something again and again; raises ConnectionError when the other side has enough."""
    for _ in range(200):
        sock.sendall(data)
        with suppress(TimeoutError):
            if not sock.recv(100):
                raise ConnectionError


def test_nothing_that_is_http(node: RunningNode) -> None:
    for junk in (b"\x00" * 1_000, b"\r\n" * 50_000, b"GET " + b"a" * 100_000, b"\x16\x03\x01" * 99):
        with connected(node) as sock:
            sock.sendall(junk)
            sock.shutdown(socket.SHUT_WR)
            answer = everything(sock)
            assert answer[:12] in (b"HTTP/1.1 400", b"HTTP/1.1 404", b"HTTP/1.0 400", b"")


@pytest.mark.parametrize(
    ("body", "code"),
    [
        (b"[" * 1_000_000, -32700),
        (b'{"a":' * 100_000, -32700),
        (b"[" + b"1," * 1_500_000 + b"1]", -32700),
        (b"[" + b"[]," * 1_000_000 + b"[]]", -32700),
        (b"[" + b"{}," * 2_000 + b"{}]", -32600),
        (b"[" + b"5," * 199_998 + b"5]", -32600),
        (b'{"method":"' + b"x" * 3_000_000 + b'","id":1}', -32601),
        (b'{"method":"getblockhash","params":[' + b"9" * 3_000_000 + b"]}", -32700),
        (b'{"method":"sendrawtransaction","params":["' + b"00" * 1_500_000 + b'"],"id":1}', -22),
        (b'{"method":"getblock","params":["' + b"\xc3\x28" * 9 + b'"]}', -32700),
    ],
)
def test_bodies_that_would_fill_memory_or_stack(node: RunningNode, body: bytes, code: int) -> None:
    client = RpcClient.of(node)
    assert client.post(body)[1]["error"]["code"] == code
    client.close()


def test_a_flood_of_clients(node: RunningNode, tmp_path: Path) -> None:
    """Thirty-two that ask as fast as they can: each is answered, and the ledger lives."""
    blocks_before = node.metrics("consensus")["loops"]
    statuses: list[int] = []
    body = json.dumps([{"method": "getblockchaininfo", "id": 1}] * 20).encode()

    def flood() -> None:
        client = RpcClient.of(node)
        statuses.extend(client.post(body)[0] for _ in range(10))
        client.close()

    clients = [threading.Thread(target=flood) for _ in range(32)]
    for each in clients:
        each.start()
    for each in clients:
        each.join()
    assert statuses == [200] * 320
    assert node.metrics("consensus")["loops"] > blocks_before
