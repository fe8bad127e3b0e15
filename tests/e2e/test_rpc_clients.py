"""Clients that were written for Bitcoin Core, unchanged, against a running node."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from decimal import Decimal

import httpx
import pytest
from bitcoin.rpc import (  # python-bitcoinlib
    InvalidAddressOrKeyError,
    JSONRPCError,
    RawProxy,
    VerifyRejectedError,
)

# Two distributions have a package of this name: what both hold besides its __init__ is apart.
from bitcoinrpc._exceptions import RPCError  # bitcoinrpc
from bitcoinrpc.authproxy import AuthServiceProxy, JSONRPCException  # python-bitcoinrpc
from bitcoinrpc.bitcoin_rpc import BitcoinRPC  # bitcoinrpc
from funded import MIN_FEE, VALUE, Funds, key
from running_node import RunningNode

from node.address import encode_address
from node.transaction import txid

FEE = 1_000
LEFT = Decimal(VALUE - FEE).scaleb(-8)
NOWHERE = "00" * 32


@pytest.fixture(scope="module")
def funds(tmp_path_factory: pytest.TempPathFactory) -> Funds:
    return Funds(tmp_path_factory.mktemp("clients") / "funds", 50)


@pytest.fixture(scope="module")
def node(tmp_path_factory: pytest.TempPathFactory, funds: Funds) -> Iterator[RunningNode]:
    node = RunningNode(tmp_path_factory.mktemp("node"), funds.directory, verify={"workers": 1})
    yield node.start()
    node.end()


def url(node: RunningNode, credentials: str = "") -> str:
    return f"http://{credentials or (node.datadir / '.cookie').read_text()}@{node.rpc}"


def address(number: int) -> str:
    return encode_address(bytes(key(number).verify_key), "dtime")


def close(proxy: AuthServiceProxy) -> None:
    """It has no close of its own."""
    proxy._AuthServiceProxy__conn.close()


@pytest.fixture
def jgarzik(node: RunningNode) -> Iterator[AuthServiceProxy]:
    proxy = AuthServiceProxy(url(node))
    yield proxy
    close(proxy)


@pytest.fixture
def raw(node: RunningNode) -> Iterator[RawProxy]:
    proxy = RawProxy(url(node))
    yield proxy
    proxy.close()


def test_python_bitcoinrpc(jgarzik: AuthServiceProxy, funds: Funds) -> None:
    assert jgarzik.getblockchaininfo()["chain"] == "dev"
    inputs = [{"txid": funds.outpoint(0)[:-1].hex(), "vout": funds.outpoint(0)[-1]}]
    made = jgarzik.createrawtransaction(inputs, {address(900): LEFT})  # which goes as a float
    signed = jgarzik.signrawtransactionwithkey(made, [bytes(key(0)).hex()])
    sent = jgarzik.sendrawtransaction(signed["hex"])
    assert jgarzik.waittransactionfinality(sent)["final"]
    value = jgarzik.gettxout(sent, 0)["value"]
    assert (type(value), value) == (Decimal, LEFT)
    for call, code in (
        (lambda: jgarzik.getblock(NOWHERE), -5),
        (lambda: jgarzik.nonsense(), -32601),
        (lambda: jgarzik.getblockhash("x"), -3),
        (lambda: jgarzik.sendrawtransaction("zz"), -22),
        (lambda: jgarzik.sendrawtransaction(funds.pay(1, fee=MIN_FEE).hex()), -26),
    ):
        with pytest.raises(JSONRPCException) as caught:
            call()
        assert caught.value.code == code


def test_batches_of_python_bitcoinrpc(jgarzik: AuthServiceProxy, funds: Funds) -> None:
    payments = [funds.pay(number).hex() for number in range(10, 20)]
    calls = [["sendrawtransaction", each] for each in payments]
    sent = jgarzik.batch_([*calls, ["getblockhash", 0], ["getbalance", address(20)]])
    assert sent[:10] == [txid(bytes.fromhex(each), funds.salt).hex() for each in payments]
    assert sent[10] == jgarzik.getblockhash(0)
    assert (type(sent[11]), sent[11]) == (Decimal, Decimal(VALUE).scaleb(-8))
    with pytest.raises(JSONRPCException) as caught:
        jgarzik.batch_([["getblockcount"], ["getblock", NOWHERE]])
    assert caught.value.code == -5


def test_python_bitcoinlib(raw: RawProxy, funds: Funds) -> None:
    assert raw.getblockchaininfo()["chain"] == "dev"
    sent = raw.sendrawtransaction(funds.pay(30).hex())
    assert raw.waittransactionfinality(sent)["final"]
    value = raw.gettxout(sent, 0)["value"]
    assert (type(value), value) == (Decimal, LEFT)
    with pytest.raises(InvalidAddressOrKeyError):
        raw.getblock(NOWHERE)
    with pytest.raises(VerifyRejectedError):
        raw.sendrawtransaction(funds.pay(31, fee=MIN_FEE).hex())
    with pytest.raises(JSONRPCError) as caught:
        raw.nonsense()
    assert caught.value.error["code"] == -32601
    answers = raw._batch(
        [
            {"version": "1.1", "method": "getblockhash", "params": [0], "id": 1},
            {"version": "1.1", "method": "getblock", "params": [NOWHERE], "id": 2},
        ]
    )
    assert answers[0] == {"result": raw.getblockhash(0), "error": None, "id": 1}
    assert (answers[1]["result"], answers[1]["error"]["code"]) == (None, -5)


def test_bitcoinrpc(node: RunningNode, funds: Funds) -> None:
    user, _, password = (node.datadir / ".cookie").read_text().partition(":")

    async def work() -> None:
        async with BitcoinRPC.from_config(f"http://{node.rpc}", (user, password)) as rpc:
            assert (await rpc.getblockchaininfo())["chain"] == "dev"
            first, count = await asyncio.gather(rpc.getblockhash(0), rpc.getblockcount())
            assert len(first) == 64
            assert count >= 0
            sent = await rpc.acall("sendrawtransaction", [funds.pay(40).hex()])
            assert (await rpc.acall("waittransactionfinality", [sent]))["final"]
            assert (await rpc.acall("gettxout", [sent, 0]))["value"] == float(LEFT)
            with pytest.raises(RPCError) as caught:
                await rpc.getblock(NOWHERE)
            assert caught.value.error["code"] == -5
            with pytest.raises(RPCError) as caught:
                await rpc.acall("nonsense", [])
            assert caught.value.error["code"] == -32601

    asyncio.run(work())


def test_a_wrong_password_is_an_http_401_to_each(node: RunningNode) -> None:
    proxy = AuthServiceProxy(url(node, "nobody:nothing"))
    with pytest.raises(JSONRPCException, match="401 Unauthorized"):
        proxy.getblockcount()
    close(proxy)
    raw = RawProxy(url(node, "nobody:nothing"))
    with pytest.raises(JSONRPCError, match="401 Unauthorized"):
        raw.getblockcount()
    raw.close()

    async def ask() -> None:
        async with BitcoinRPC.from_config(f"http://{node.rpc}", ("nobody", "nothing")) as rpc:
            with pytest.raises(httpx.HTTPStatusError) as caught:
                await rpc.getblockcount()
            assert caught.value.response.status_code == 401

    asyncio.run(ask())
