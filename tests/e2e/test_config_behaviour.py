"""Every key of config.toml, changed on a running node: what it does differently then."""

from __future__ import annotations

import hashlib
import hmac
import json
import os
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil
import pytest
import zmq
from funded import VALUE, Funds, key
from meeting import Meeting
from rpc_client import Refused, RpcClient
from running_node import IngestClient, RunningNode

from node.address import encode_address
from node.config import keys
from node.genesis import genesis_id, read_genesis
from node.transaction import Output, build, txid
from node.verdict import Verdict
from tools.ports import free_ports

TESTED: set[tuple[str, str]] = set()


def covers(*names: str) -> Any:
    """Say which keys a test is about."""
    TESTED.update((section, name) for section, _, name in (each.partition(".") for each in names))
    return lambda test: test


@pytest.fixture(scope="module")
def funds(tmp_path_factory: pytest.TempPathFactory) -> Funds:
    return Funds(tmp_path_factory.mktemp("config") / "funds", 700)


@contextmanager
def running(
    root: Path, funds: Funds, **config: dict[str, Any]
) -> Iterator[tuple[RunningNode, IngestClient]]:
    node = RunningNode(root, funds.directory, **config)
    client = IngestClient(node.ingest)
    try:
        yield node.start(), client
    finally:
        client.close()
        node.end()


def processes(node: RunningNode) -> dict[str, dict[str, Any]]:
    return {each["name"]: each for each in node.status()["processes"]}


def events(node: RunningNode) -> list[dict[str, Any]]:
    return [json.loads(line) for line in node.log.read_text().splitlines()]


def orphan(funds: Funds, number: int, outputs: int = 1) -> bytes:
    """A payment whose parent nobody has seen."""
    parent = txid(funds.pay(number, fee=777), funds.salt)
    out = [Output(1_000, bytes(key(1).verify_key))] * outputs
    return build([(parent + b"\0", key(10_000))], out, funds.salt)


SLOW = {"pace_ms": 60_000}


@covers("network.listen", "network.notify", "verify.workers", "verify.backend", "pipeline.trays")
@covers("pipeline.cores", "store.cache_mb", "store.write_buffer_mb", "log.format")
def test_addresses_processes_and_stores(tmp_path: Path, funds: Funds) -> None:
    core = min(os.sched_getaffinity(0))
    config: dict[str, dict[str, Any]] = {
        "verify": {"workers": 2, "backend": "nacl"},
        "pipeline": {"trays": 16, "cores": f"net={core}"},
        "store": {"cache_mb": 9, "write_buffer_mb": 4},
        "log": {"format": "human"},
    }
    with running(tmp_path, funds, **config) as (node, client):
        with zmq.Context() as context, context.socket(zmq.SUB) as news:
            news.connect(node.notify)
            news.subscribe(b"hashblock")
            node.wait_until(
                lambda: (
                    client.ask(funds.pay(node.metrics("net")["items_in"])) is not None
                    and news.poll(100)
                )
            )
            topic, block_id, _ = news.recv_multipart()
            assert (topic, len(block_id)) == (b"hashblock", 32)
        found = processes(node)
        assert {"verify-0", "verify-1"} <= set(found)
        assert psutil.Process(found["net"]["pid"]).cpu_affinity() == [core]
        node.wait_until(lambda: node.metrics("net")["trays_free"] == 16)
        assert "libcrypto_mb" not in Path(f"/proc/{found['verify-0']['pid']}/maps").read_text()
        options = "".join(
            path.read_text(errors="replace")
            for path in (node.datadir / "store").rglob("*")
            if path.name == "LOG"
        )
        assert f"capacity : {9 << 20}" in options
        assert f"write_buffer_size: {3 << 20}" in options
    with pytest.raises(json.JSONDecodeError):
        events(node)


@covers("mempool.max_transactions", "mempool.relay_fee_per_kb", "mempool.expiry_s", "log.level")
def test_the_mempool_is_bounded_by_count_and_forgets(tmp_path: Path, funds: Funds) -> None:
    mempool = {"max_transactions": 3, "relay_fee_per_kb": 10_000, "expiry_s": 1}
    with running(
        tmp_path, funds, block=SLOW, mempool=mempool, log={"level": "warning", "format": "json"}
    ) as (node, client):
        assert client.ask(funds.pay(0, fee=200)) == bytes([Verdict.FEE_BELOW_RELAY])
        four = [funds.pay(n, fee=5_000) for n in range(4)]
        expected = [*[Verdict.ADMITTED] * 3, Verdict.MEMPOOL_FULL]
        assert list(client.ask(*four)) == expected
        node.wait_until(lambda: node.metrics("consensus")["mempool_expired"] == 3)
        assert client.ask(four[3]) == bytes([Verdict.ADMITTED])
        assert all(event["level"] != "info" for event in events(node))


@covers("mempool.max_mb", "mempool.max_orphan_mb")
def test_the_mempool_is_bounded_by_bytes(tmp_path: Path, funds: Funds) -> None:
    mempool = {"max_mb": 1, "max_orphan_mb": 1, "relay_fee_per_kb": 1}
    with running(tmp_path, funds, block=SLOW, mempool=mempool) as (node, client):
        many = [Output(1_000, bytes(key(5).verify_key))] * 250
        large = [
            build([(funds.outpoint(n), key(n))], many, funds.salt) for n in range(120)
        ]  # 10 kB each, with one fee: the first that does not fit stays out
        codes = [client.ask(each)[0] for each in large]
        held = codes.count(Verdict.ADMITTED)
        assert 0 < held < len(large)
        assert set(codes[held:]) == {Verdict.MEMPOOL_FULL}
        assert node.metrics("consensus")["mempool_bytes"] <= 1 << 20
        orphans = [orphan(funds, 200 + n, outputs=250) for n in range(120)]
        for each in orphans:
            assert client.ask(each) == bytes([Verdict.ORPHANED])
        node.wait_until(lambda: 0 < node.metrics("consensus")["orphans"] < 110)


@covers("mempool.max_ancestors", "mempool.replacement_increment", "mempool.max_orphans")
def test_families_replacements_and_orphans(tmp_path: Path, funds: Funds) -> None:
    mempool = {"max_ancestors": 1, "replacement_increment": 50_000, "max_orphans": 2}
    with running(tmp_path, funds, block=SLOW, mempool=mempool) as (node, client):
        parent = funds.pay(0, to=900)
        child = build(
            [(txid(parent, funds.salt) + b"\0", key(900))],
            [Output(VALUE - 5_000, bytes(key(901).verify_key))],
            funds.salt,
        )
        assert list(client.ask(parent, child)) == [Verdict.ADMITTED, Verdict.TOO_MANY_ANCESTORS]
        assert client.ask(funds.pay(0, fee=50_999)) == bytes([Verdict.REPLACEMENT_FEE])
        assert client.ask(funds.pay(0, fee=51_000)) == bytes([Verdict.ADMITTED])
        for number in range(5):
            assert client.ask(orphan(funds, 10 + number)) == bytes([Verdict.ORPHANED])
        node.wait_until(lambda: node.metrics("consensus")["orphans"] == 2)


@covers("block.pace_ms", "block.empty_pace_s", "pipeline.net_memory_mb")
def test_pace_of_blocks_and_a_limit_of_memory(tmp_path: Path, funds: Funds) -> None:
    config: dict[str, dict[str, Any]] = {
        "block": {"pace_ms": 500, "empty_pace_s": 1},
        "pipeline": {"net_memory_mb": 2},
    }
    node = RunningNode(tmp_path / "paced", funds.directory, block=config["block"])
    try:
        node.start()
        node.wait_until(lambda: node.metrics("consensus")["blocks"] >= 2)
        first, second = (header_time_ms(node, number) for number in (1, 2))
        assert second - first >= 990
    finally:
        node.end()
    strict = RunningNode(tmp_path / "strict", funds.directory, pipeline=config["pipeline"])
    try:
        strict.launch()
        strict.wait_until(lambda: any(killed_for_memory(event) for event in events(strict)))
    finally:
        strict.end()


def killed_for_memory(event: dict[str, Any], process: str = "net") -> bool:
    return "MiB of memory" in json.dumps(event) and event.get("process") == process


def header_time_ms(node: RunningNode, height: int) -> int:
    """The time in the header of a block, out of the block files."""
    from node.storage.blockfile import BlockFiles

    genesis_id = bytes.fromhex((node.datadir / "FORMAT").read_text().split()[2])
    files = BlockFiles(node.datadir / "blocks", genesis_id)
    try:
        return next(header.time_ms for _, header in files.scan() if header.height == height)
    finally:
        files.close()


@covers("pipeline.fuse")
def test_stages_may_share_a_process(tmp_path: Path, funds: Funds) -> None:
    with running(tmp_path, funds, pipeline={"fuse": ["net", "verify"]}) as (node, client):
        assert set(processes(node)) == {"net_verify", "consensus", "sign", "rpc"}
        assert client.ask(funds.pay(0)) == bytes([Verdict.ADMITTED])
        maps = Path(f"/proc/{processes(node)['net_verify']['pid']}/maps").read_text()
        assert "_sodium" in maps


@covers("network.peer_listen", "network.peers", "network.max_inbound", "network.max_outbound")
def test_peers_are_dialled_let_in_and_looked_for(tmp_path: Path, funds: Funds) -> None:
    genesis = genesis_id(read_genesis(funds.directory / "genesis.json"))
    (port,) = free_ports(1)
    ingest, notify = (f"tcp://127.0.0.1:{each}" for each in free_ports(2))
    with Meeting() as meeting:
        known, *others = (meeting.node(number, genesis_id=genesis) for number in (1, 2, 3))
        friends = [
            meeting.node(number, genesis_id=genesis, static=(known.address,)) for number in (4, 5)
        ]
        meeting.until(lambda: len(known.here) == 2)  # whom it can tell about
        network = {
            "listen": ingest,
            "notify": notify,
            "peer_listen": f"127.0.0.1:{port}",
            "peers": [known.address],
            "max_inbound": 1,
            "max_outbound": 1,
        }
        with running(tmp_path, funds, network=network):
            meeting.until(lambda: len(known.here) == 3)
            # of the two that it hears of it dials one
            meeting.until(lambda: sum(len(each.here) for each in friends) == 3)
            meeting.settle()
            assert sum(len(each.here) for each in friends) == 3
            # of the two that call it lets one in
            for each, number in zip(others, (2, 3), strict=True):
                meeting.stop(each)
                meeting.node(number, genesis_id=genesis, static=(f"127.0.0.1:{port}",))
            callers = meeting.nodes[-2:]
            meeting.until(lambda: sum(len(each.here) for each in callers) == 1)
            meeting.until(lambda: any(each.stats["turned_away_full"] for each in callers))
            assert sum(len(each.here) for each in callers) == 1


@covers("rpc.listen", "rpc.rpcauth", "rpc.max_body_kb", "rpc.max_batch", "rpc.max_waits")
@covers("rpc.max_connections", "rpc.timeout_s", "store.address_index")
def test_limits_of_json_rpc(tmp_path: Path, funds: Funds) -> None:
    (port,) = free_ports(1)
    digest = hmac.new(b"5a17", b"secret", hashlib.sha256).hexdigest()
    rpc = {
        "listen": f"127.0.0.1:{port}",
        "rpcauth": [f"ann:5a17${digest}"],
        "max_body_kb": 16,
        "max_batch": 3,
        "max_waits": 0,
        "max_connections": 2,
        "timeout_s": 1,
    }
    store = {"address_index": False}
    with running(tmp_path, funds, rpc=rpc, store=store):
        wallet = RpcClient(f"127.0.0.1:{port}", "ann:secret")
        assert wallet.call("getblockhash", 0) == genesis_id(funds.genesis).hex()
        assert len(wallet.batch(*[("uptime",)] * 3)) == 3
        assert wallet.post(b"[" + b"{}," * 3 + b"{}]")[1]["error"]["code"] == -32600
        for method, params, words in (
            ("getbalance", [encode_address(bytes(32), "dtime")], "store.address_index"),
            ("waittransactionfinality", ["00" * 32], "Too many"),
        ):
            with pytest.raises(Refused, match=words):
                wallet.call(method, *params)
        host, _, number = f"127.0.0.1:{port}".partition(":")
        where = (host, int(number))
        with socket.create_connection(where) as second:
            second.sendall(b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n")
            assert second.recv(100).startswith(b"HTTP/1.1 200")
            with socket.create_connection(where) as third:  # one too many
                assert not heard(third)
        with socket.create_connection(where) as slow:
            slow.sendall(b"POST / HTTP/1.1\r\n")
            assert not heard(slow)  # cut off after a second
        wallet.close()
        wallet = RpcClient(f"127.0.0.1:{port}", "ann:secret")
        assert wallet.status(b" " * 17 * 1024) == 413
        wallet.close()


def heard(sock: socket.socket) -> bytes:
    """What comes before the other side closes; nothing if it only closes."""
    sock.settimeout(30)
    try:
        return sock.recv(100)
    except ConnectionResetError:
        return b""


@covers("rpc.workers", "rpc.work_queue", "rpc.memory_mb")
def test_a_flood_of_json_rpc_waits_or_is_refused(tmp_path: Path, funds: Funds) -> None:
    with running(tmp_path / "few", funds, rpc={"workers": 1, "work_queue": 1}) as (node, _):
        consensus = psutil.Process(node.pid("consensus"))
        clients = [RpcClient.of(node) for _ in range(4)]
        consensus.suspend()  # so that nobody gets an answer
        answers: list[int] = []
        body = b'{"method":"getblockcount","id":1}'
        threads = [
            threading.Thread(target=lambda each=each: answers.append(each.post(body)[0]))
            for each in clients[:2]
        ]
        try:
            for thread in threads:
                thread.start()
            node.wait_until(lambda: node.metrics("rpc")["requests"] >= 2)
            node.wait_until(lambda: refused(clients[2], body))
        finally:
            consensus.resume()
        for thread in threads:
            thread.join()
        assert answers == [200, 200]
        for client in clients:
            client.close()
    strict = RunningNode(tmp_path / "strict", funds.directory, rpc={"memory_mb": 2})
    try:
        strict.launch()
        strict.wait_until(lambda: any(killed_for_memory(each, "rpc") for each in events(strict)))
    finally:
        strict.end()


def refused(client: RpcClient, body: bytes) -> bool:
    """Whether the queue is full; 503 has no JSON."""
    try:
        status, _ = client.post(body)
    except json.JSONDecodeError:
        return True
    return status == 503


def test_no_key_is_without_a_test() -> None:
    assert set(keys()) == TESTED
