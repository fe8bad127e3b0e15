"""What clients can make `rpc` hold: bodies together are bounded, and so is what they become."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import psutil
import pytest
from funded import Funds
from rpc_client import RpcClient
from running_node import RunningNode

MIB = 1024 * 1024
BODY_BYTES = 4 * MIB  # rpc.max_body_kb by default
CLIENTS = 24


@pytest.fixture
def funds(tmp_path: Path) -> Funds:
    return Funds(tmp_path / "funds", 1)


@pytest.fixture
def node(tmp_path: Path, funds: Funds) -> Iterator[RunningNode]:
    node = RunningNode(tmp_path / "node", funds.directory)
    yield node.start()
    node.end()


def peak_mib(pid: int) -> int:
    """The most resident memory that a process had, since the kernel was told to forget."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM")) // 1024


def forget_peak(pid: int) -> None:
    Path(f"/proc/{pid}/clear_refs").write_text("5")


def test_many_bodies_at_once(node: RunningNode, funds: Funds) -> None:
    """Each is as large as may be, full of objects, and kept by a call that waits for `net`."""
    rpc = node.pid("rpc")
    assert rpc is not None
    waits = json.dumps({"method": "sendrawtransaction", "params": [funds.pay(0).hex()]}).encode()
    body = b"[" + waits + b',{"method":"x","params":[' + b'{"a":1},' * 99_000 + b"0]}]"
    body += b" " * (BODY_BYTES - len(body))
    forget_peak(rpc)
    before = peak_mib(rpc)
    statuses: list[int] = []

    def send() -> None:
        with closing(RpcClient.of(node)) as client:
            statuses.append(client.status(body))

    sending = [threading.Thread(target=send) for _ in range(CLIENTS)]
    net = psutil.Process(node.pid("net"))
    net.suspend()
    try:
        for each in sending:
            each.start()
        # Those that find no room are refused while the others are kept: eight fill 32 MiB.
        node.wait_until(lambda: len(statuses) >= CLIENTS - 8)
    finally:
        net.resume()
    for each in sending:
        each.join()
    assert statuses.count(503) in (CLIENTS - 8, CLIENTS - 7)
    assert statuses.count(200) == CLIENTS - statuses.count(503)
    assert node.pid("rpc") == rpc
    assert peak_mib(rpc) - before < 300  # eight times a body and its objects, not 24 times

    # What was held is forgotten: as many find room again, one after the other.
    with closing(RpcClient.of(node)) as client:
        for _ in range(10):
            assert client.status(body) == 200

        # A batch of far too many calls is one error, and not one for each of them.
        forget_peak(rpc)
        before = peak_mib(rpc)
        too_many = json.dumps([5] * 190_000).encode()
        assert client.post(too_many)[1]["error"]["code"] == -32600
        assert peak_mib(rpc) - before < 32
