"""What wallets get from a running node over JSON-RPC."""

from __future__ import annotations

import os
import signal
import stat
import threading
from collections.abc import Iterator
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from funded import MIN_FEE, REWARD, VALUE, Funds, key
from prometheus_client.parser import text_string_to_metric_families
from rpc_client import Refused, RpcClient, cookie, page
from running_node import RunningNode

from node.address import encode_address
from node.genesis import genesis_id
from node.transaction import txid
from pipeline.status import ask_logging
from tools.ports import free_ports

COUNT = 500


@pytest.fixture(scope="module")
def funds(tmp_path_factory: pytest.TempPathFactory) -> Funds:
    return Funds(tmp_path_factory.mktemp("rpc") / "funds", COUNT)


@pytest.fixture(scope="module")
def node(tmp_path_factory: pytest.TempPathFactory, funds: Funds) -> Iterator[RunningNode]:
    node = RunningNode(tmp_path_factory.mktemp("node"), funds.directory, verify={"workers": 1})
    yield node.start()
    node.end()


@pytest.fixture
def rpc(node: RunningNode) -> Iterator[RpcClient]:
    client = RpcClient.of(node)
    yield client
    client.close()


def address(number: int) -> str:
    return encode_address(bytes(key(number).verify_key), "dtime")


def time_of(units: int) -> Decimal:
    return Decimal(units).scaleb(-8)


def pay(rpc: RpcClient, funds: Funds, number: int, **kwargs: int) -> str:
    """Send a payment and wait until it is final; its id."""
    sent = rpc.call("sendrawtransaction", funds.pay(number, **kwargs).hex())
    assert rpc.call("waittransactionfinality", sent)["final"]
    return str(sent)


def refusal(rpc: RpcClient, method: str, *params: Any) -> int:
    with pytest.raises(Refused) as caught:
        rpc.call(method, *params)
    return caught.value.code


def test_the_chain(rpc: RpcClient, funds: Funds, node: RunningNode) -> None:
    sent = pay(rpc, funds, 0)
    info = rpc.call("getblockchaininfo")
    height = rpc.call("getblockcount")
    assert info["chain"] == "dev"
    assert 1 <= info["blocks"] <= height
    first = rpc.call("getblockhash", 1)
    block = rpc.call("getblock", first)
    assert (
        block["previousblockhash"] == rpc.call("getblockhash", 0) == genesis_id(funds.genesis).hex()
    )
    assert (block["height"], block["hash"], block["nTx"]) == (1, first, 1)
    assert block["tx"] == [sent]
    assert block["reward"]["value"] == time_of(REWARD + 1_000)
    assert rpc.call("getblockheader", first)["merkleroot"] == block["merkleroot"]
    assert len(rpc.call("getblockheader", first, False)) == 256
    raw = rpc.call("getblock", first, 0)
    assert raw.endswith(funds.pay(0).hex())
    (whole,) = rpc.call("getblock", first, 2)["tx"]
    assert (whole["txid"], whole["hex"]) == (sent, funds.pay(0).hex())
    assert whole["vout"][0]["value"] == time_of(VALUE - 1_000)
    assert rpc.call("getblock", rpc.call("getblockhash", 0))["tx"] == []
    assert refusal(rpc, "getblockhash", height + 1_000) == -8
    assert refusal(rpc, "getblock", "00" * 32) == -5
    assert refusal(rpc, "getblock", "00") == -8


def test_transactions(rpc: RpcClient, funds: Funds) -> None:
    sent = pay(rpc, funds, 1, to=901)
    raw = funds.pay(1, to=901)
    assert sent == txid(raw, funds.salt).hex()
    assert rpc.call("getrawtransaction", sent) == raw.hex()
    shown = rpc.call("getrawtransaction", sent, True)
    assert shown["blockhash"] == rpc.call("getblockhash", shown["blockheight"])
    assert rpc.call("gettransaction", sent)["category"] == "payment"
    final = rpc.call("gettransactionfinality", sent)
    assert (final["status"], final["signers"], final["power"]) == ("finalised", [0], 1)
    block = rpc.call("getblock", shown["blockhash"])
    reward = rpc.call("gettransaction", block["reward"]["txid"])
    assert (reward["category"], reward["vout"][0]["value"]) == ("reward", block["reward"]["value"])
    assert rpc.call("gettransaction", funds.outpoint(0)[:-1].hex())["category"] == "allocation"
    output = rpc.call("gettxout", sent, 0)
    assert output["value"] == time_of(VALUE - 1_000)
    assert output["scriptPubKey"]["address"] == address(901)
    assert rpc.call("gettxout", sent, 1) is None
    for method in ("getrawtransaction", "gettransaction", "getmempoolentry"):
        assert refusal(rpc, method, "00" * 32) == -5
    unknown = rpc.call("gettransactionfinality", "00" * 32)
    assert (unknown["status"], unknown["final"]) == ("unknown", False)
    waited = rpc.call("waittransactionfinality", "00" * 32, 1)
    assert waited == unknown


def test_refusals_have_bitcoin_cores_codes(rpc: RpcClient, funds: Funds) -> None:
    pay(rpc, funds, 2)
    assert refusal(rpc, "sendrawtransaction", funds.pay(2).hex()) == -27
    assert refusal(rpc, "sendrawtransaction", funds.pay(2, fee=2_000).hex()) == -25
    assert refusal(rpc, "sendrawtransaction", "zz") == -22
    assert refusal(rpc, "sendrawtransaction", "00" * 100) == -22
    assert refusal(rpc, "sendrawtransaction", "01" * 70_000) == -22
    assert refusal(rpc, "sendrawtransaction", funds.pay(3, fee=MIN_FEE).hex()) == -26
    bad = bytearray(funds.pay(3))
    bad[-1] ^= 1
    assert refusal(rpc, "sendrawtransaction", bad.hex()) == -26
    assert refusal(rpc, "sendrawtransaction", funds.pay(3).hex(), "0.00000001") == -25
    assert refusal(rpc, "sendrawtransaction") == -1
    assert refusal(rpc, "sendrawtransaction", 5) == -3
    assert refusal(rpc, "nonsense") == -32601
    (tried,) = rpc.call("testmempoolaccept", [bad.hex()])
    assert (tried["allowed"], tried["reject-reason"]) == (False, "bad-signature")
    good, spent = rpc.call("testmempoolaccept", [funds.pay(3).hex(), funds.pay(2).hex()])
    assert (good["allowed"], good["fees"]["base"]) == (True, time_of(1_000))
    assert (spent["allowed"], spent["reject-reason"]) == (False, "txn-already-known")
    assert txid(funds.pay(3), funds.salt).hex() not in rpc.call("getrawmempool")


def test_a_payment_is_made_signed_and_sent(rpc: RpcClient, funds: Funds) -> None:
    inputs = [{"txid": funds.outpoint(n)[:-1].hex(), "vout": funds.outpoint(n)[-1]} for n in (5, 4)]
    outputs = [{address(905): "0.01500000"}, {address(906): Decimal("0.00499000")}]
    made = rpc.call("createrawtransaction", inputs, outputs)
    seen = rpc.call("decoderawtransaction", made)
    assert (seen["complete"], seen["witnesses"]) == (False, [])
    assert refusal(rpc, "sendrawtransaction", made) == -26  # unsigned
    half = rpc.call("signrawtransactionwithkey", made, [bytes(key(4)).hex()])
    assert not half["complete"]
    assert [each["vout"] for each in half["errors"]] == [5]
    assert refusal(rpc, "sendrawtransaction", half["hex"]) == -26  # half signed
    whole = rpc.call("signrawtransactionwithkey", half["hex"], [bytes(key(5)).hex()])
    assert whole["complete"]
    assert "errors" not in whole
    sent = rpc.call("sendrawtransaction", whole["hex"])
    assert rpc.call("decoderawtransaction", whole["hex"])["txid"] == sent
    assert rpc.call("waittransactionfinality", sent)["final"]
    assert refusal(rpc, "signrawtransactionwithkey", made, ["00"]) == -5
    assert refusal(rpc, "createrawtransaction", inputs, {"nobody": 1}) == -5
    assert refusal(rpc, "createrawtransaction", inputs, {address(1): -1}) == -3
    assert refusal(rpc, "createrawtransaction", inputs, {address(1): "1e-9"}) == -3
    assert refusal(rpc, "createrawtransaction", [*inputs, inputs[0]], outputs) == -8
    assert refusal(rpc, "createrawtransaction", [], outputs) == -8
    lost = [{"txid": "11" * 32, "vout": 0}]
    unknown = rpc.call("createrawtransaction", lost, outputs)
    told = rpc.call("signrawtransactionwithkey", unknown, [bytes(key(4)).hex()])
    assert not told["complete"]
    previous = [lost[0] | {"address": address(4)}]
    assert rpc.call("signrawtransactionwithkey", unknown, [bytes(key(4)).hex()], previous)[
        "complete"
    ]


def test_levels_of_the_log_are_changed(node: RunningNode, rpc: RpcClient) -> None:
    before = rpc.call("logging")
    assert set(before.values()) == {"info"}
    try:
        changed = rpc.call("logging", {"verify": "warning", "rpc": "debug"})
        assert changed == before | {"verify-0": "warning", "rpc": "debug"}
        assert rpc.call("logging") == changed == ask_logging(node.datadir / "run")
        # of several changes all are made or none
        for wrong in ({"nobody": "info"}, {"net": "debug", "nobody": "info"}, {"net": "loud"}):
            assert refusal(rpc, "logging", wrong) == -8
        assert rpc.call("logging") == changed
    finally:
        assert rpc.call("logging", {"all": "info"}) == before


def test_outputs_by_address(rpc: RpcClient, funds: Funds) -> None:
    before = rpc.call("getbalance", address(6))
    assert before == time_of(VALUE)
    sent = pay(rpc, funds, 6, to=907)
    assert rpc.call("getbalance", address(6)) == 0
    assert rpc.call("listunspent", 1, 9999999, [address(6)]) == []
    (row,) = rpc.call("listunspent", 1, 9999999, [address(907), address(6)])
    assert (row["txid"], row["amount"]) == (sent, time_of(VALUE - 1_000))
    assert rpc.call("validateaddress", address(907))["isvalid"]
    assert not rpc.call("validateaddress", address(907)[:-1])["isvalid"]
    assert refusal(rpc, "getbalance", "nobody") == -5
    assert refusal(rpc, "listunspent") == -8
    counted = rpc.call("gettxoutsetinfo")
    assert counted["total_amount"] == time_of(VALUE * COUNT + REWARD * counted["height"])


def test_a_batch_of_payments_goes_through_in_order(rpc: RpcClient, funds: Funds) -> None:
    payments = [funds.pay(n).hex() for n in range(100, 300)]
    calls: list[tuple[Any, ...]] = [("sendrawtransaction", each) for each in payments]
    answers = rpc.batch(*calls, ("getblockcount",), ("nonsense",), ("sendrawtransaction", "zz"))
    assert [each["id"] for each in answers] == list(range(203))
    ids = [each["result"] for each in answers[:200]]
    assert ids == [txid(bytes.fromhex(each), funds.salt).hex() for each in payments]
    assert [each["error"]["code"] for each in answers[201:]] == [-32601, -22]
    assert all(rpc.call("waittransactionfinality", each)["final"] for each in (ids[0], ids[-1]))


def test_versions_notifications_and_bodies_that_are_none(rpc: RpcClient) -> None:
    assert rpc.post(b'{"jsonrpc":"2.0","method":"uptime"}') == (204, None)
    assert rpc.post(b"[]") == (200, [])
    for body, status, code in (
        (b"{", 500, -32700),
        (b"\xff", 500, -32700),
        (b"[" * 50_000, 500, -32700),
        (b'{"id":1}', 400, -32600),
        (b'{"method":"nonsense","id":1}', 404, -32601),
        (b'{"method":"getblockhash","params":["x"],"id":1}', 500, -3),
        (b'{"jsonrpc":"2.0","method":"getblockhash","params":["x"],"id":1}', 200, -3),
        (b'{"jsonrpc":"2.0","method":"getblockhash","params":{"x":1},"id":1}', 200, -32602),
        (b'{"method":"getblockhash","params":[1e400],"id":1}', 500, -3),
        (b'{"method":"getblockhash","params":[99999999999999999999999],"id":1}', 500, -3),
    ):
        found, answer = rpc.post(body)
        assert (found, answer["error"]["code"]) == (status, code), body[:60]
    batch = b'[{"jsonrpc":"2.0","method":"getblockhash","params":[0],"id":1}]'
    agent = {"User-Agent": "AuthServiceProxy/0.1"}
    assert "error" not in rpc.post(batch)[1][0]
    assert rpc.post(batch, **agent)[1][0]["error"] is None
    named = rpc.call("getblockhash", height=0)
    assert named == rpc.call("getblockhash", 0)


def test_the_node_tells_of_itself(rpc: RpcClient, node: RunningNode, funds: Funds) -> None:
    assert rpc.call("getmempoolinfo")["loaded"]
    assert rpc.call("getnetworkinfo")["connections"] == rpc.call("getconnectioncount") == 0
    assert rpc.call("getpeerinfo") == rpc.call("getevidence") == []
    standing = rpc.call("getconsensusinfo")
    assert (standing["validator"], standing["quorum"], standing["proposer"]) == (0, 1, 0)
    (validator,) = rpc.call("getvalidators")
    assert validator["key"] == funds.genesis.validators[0].key
    names = {each["name"] for each in rpc.call("getpipelineinfo")["processes"]}
    assert {"net", "consensus", "sign", "rpc"} <= names
    assert rpc.call("getrpcinfo")["active_commands"][0]["method"] == "getrpcinfo"
    assert rpc.call("uptime") >= 0
    assert node.metrics("rpc")["items_in"] > 0  # what the link `told` carries, for monitors
    listed = rpc.call("help")
    for line in listed.splitlines():
        if line and not line.startswith("=="):
            name = line.split()[0]
            assert rpc.call("help", name).startswith(name)
    assert "unknown" in rpc.call("help", "nonsense")


def test_bans(rpc: RpcClient, node: RunningNode) -> None:
    rpc.call("setban", "192.0.2.7", "add", 1_000)
    (banned,) = rpc.call("listbanned")
    assert banned["address"] == "192.0.2.7"
    assert 0 < banned["time_remaining"] <= 1_000
    rpc.call("setban", "192.0.2.7", "remove")
    assert refusal(rpc, "setban", "192.0.2.7", "remove") == -30
    assert refusal(rpc, "setban", "nobody", "add") == -30
    rpc.call("setban", "2001:db8::1", "add")
    rpc.call("clearbanned")
    assert rpc.call("listbanned") == []
    assert refusal(rpc, "disconnectnode", "192.0.2.7:1") == -29
    assert refusal(rpc, "addnode", "nonsense", "add") == -30


def test_pages(node: RunningNode) -> None:
    node.wait_until(lambda: page(node.rpc, "/readyz") == (200, "ready\n"))
    assert page(node.rpc, "/healthz") == (200, "ok\n")
    assert page(node.rpc, "/")[0] == 405
    assert page(node.rpc, "/nonsense")[0] == 404
    status, text = page(node.rpc, "/metrics")
    assert status == 200
    families = {each.name: each for each in text_string_to_metric_families(text)}
    stages = {sample.labels["stage"] for sample in families["timed_loops"].samples}
    assert {"net", "verify", "consensus", "sign", "rpc"} <= stages
    assert families["timed_commit_ms"].type == "histogram"
    for header in ("X-Forwarded-For", "Forwarded", "Via"):  # a proxy's: who knows for whom
        assert page(node.rpc, "/metrics", **{header: "192.0.2.1"})[0] == 401
        assert page(node.rpc, "/healthz", **{header: "192.0.2.1"})[0] == 200


def test_a_killed_rpc_comes_back_and_nobody_else_notices(
    rpc: RpcClient, node: RunningNode, funds: Funds
) -> None:
    before = {each["name"]: each["pid"] for each in node.status()["processes"]}
    old = cookie(node).read_text()
    node.kill("rpc")
    after = {each["name"]: each["pid"] for each in node.status()["processes"]}
    assert {name for name, pid in after.items() if before[name] != pid} == {"rpc"}
    assert cookie(node).read_text() != old
    assert stat.S_IMODE(cookie(node).stat().st_mode) == 0o600
    client = RpcClient.of(node)
    try:
        pay(client, funds, 7)
    finally:
        client.close()


def test_the_height_is_told_while_the_ledger_is_busy(
    rpc: RpcClient, funds: Funds, node: RunningNode
) -> None:
    """``consensus`` stands still, as in a long commit: nobody need wait for the height."""
    sent = pay(rpc, funds, 480)
    height = rpc.call("gettransaction", sent)["blockheight"]
    assert page(node.rpc, "/metrics")[0] == 200  # now rpc knows where the height lies
    pid = node.pid("consensus")
    assert pid is not None
    os.kill(pid, signal.SIGSTOP)
    try:
        assert rpc.call("getblockcount") >= height
        assert refusal(rpc, "getbestblockhash") == -28
    finally:
        os.kill(pid, signal.SIGCONT)
    for number in range(481, 486):
        final = rpc.call("waittransactionfinality", pay(rpc, funds, number))
        assert rpc.call("getblockcount") >= final["blockheight"]


def test_the_ledger_may_die_under_a_question(
    rpc: RpcClient, node: RunningNode, funds: Funds
) -> None:
    client = RpcClient.of(node)
    told: list[Any] = []
    waiting = threading.Thread(
        target=lambda: told.append(client.call("waittransactionfinality", "22" * 32, 3_000))
    )
    waiting.start()
    node.kill("consensus")
    node.kill("net")
    waiting.join()
    client.close()
    assert told[0]["status"] == "unknown"
    client = RpcClient.of(node)
    pay(client, funds, 8)
    client.close()


def test_peers_are_added_and_disconnected(tmp_path: Path, funds: Funds, node: RunningNode) -> None:
    port, *others = free_ports(3)
    listen, notify = (f"tcp://127.0.0.1:{each}" for each in others)
    network = {"listen": listen, "notify": notify, "peer_listen": f"127.0.0.1:{port}"}
    other = RunningNode(tmp_path, funds.directory, network=network)
    try:
        other.start()
        with_other, client = RpcClient.of(other), RpcClient.of(node)
        client.call("addnode", f"127.0.0.1:{port}", "add")
        other.wait_until(lambda: with_other.call("getconnectioncount") == 1)
        node.wait_until(lambda: client.call("getconnectioncount") == 1)
        client.call("addnode", f"127.0.0.1:{port}", "remove")
        (peer,) = client.call("getpeerinfo")
        client.call("disconnectnode", peer["addr"])
        node.wait_until(
            lambda: peer["id"] not in [each["id"] for each in client.call("getpeerinfo")]
        )  # the address is known now, and may be dialled like others
        with_other.close()
        client.close()
    finally:
        other.end()


def test_stop(tmp_path: Path, funds: Funds) -> None:
    own = RunningNode(tmp_path, funds.directory)
    try:
        own.start()
        client = RpcClient.of(own)
        assert client.call("stop") == "timed stopping"
        client.close()
        assert own.process is not None
        assert own.process.wait(30) == 0
        assert not cookie(own).exists()
    finally:
        own.end()
