"""A payment against a node that says what a test wants it to say; the real one is in tests/e2e."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from nacl.pwhash import argon2id
from nacl.signing import SigningKey
from rpc_server import COOKIE, RpcServer, serving

from node.address import encode_address
from node.genesis import salt_of
from node.transaction import decode, txid
from tools.cli import paying
from tools.cli.errors import NoAnswer, NotFinal, PaymentError, Refused
from tools.cli.paying import Payment
from tools.cli.transport import Access, Client
from tools.cli.wallet_file import Wallet, create

SEED = bytes(range(32))
KEY = SigningKey(SEED)
PAYEE = b"\x07" * 32
GENESIS = "ab" * 32
AMOUNT = 150_000_000


@pytest.fixture
def server() -> Iterator[RpcServer]:
    """A node of chain dev on which the wallet has two coins of 1 TIME."""
    coins = [{"txid": f"{n:064x}", "vout": n, "amount": 1} for n in (1, 255)]
    unspendable = {"txid": "ff" * 32, "vout": 0, "amount": 9, "spendable": False}
    with serving() as server:
        server.results = {
            "getblockchaininfo": '{"chain":"dev","min_fee":0.00000100,"dust_limit":0.00000500}',
            "getmempoolinfo": '{"mempoolminfee":0.00001000}',
            "getblockhash": json.dumps(GENESIS),
            "listunspent": json.dumps([*coins, unspendable]),
            "sendrawtransaction": '"' + "00" * 32 + '"',
            "waittransactionfinality": '{"status":"finalised","blockheight":7}',
        }
        yield server


@pytest.fixture
def client(server: RpcServer, tmp_path: Path) -> Client:
    (tmp_path / ".cookie").write_text(COOKIE)
    return Client(Access("127.0.0.1", server.server_port, tmp_path / ".cookie", "start it"))


@pytest.fixture
def wallet(tmp_path: Path) -> Wallet:
    least = {"opslimit": argon2id.OPSLIMIT_MIN, "memlimit": argon2id.MEMLIMIT_MIN}
    return create(tmp_path / "w", "dev", SEED, b"passphrase", **least)


def test_what_is_signed_is_what_was_planned(
    server: RpcServer, client: Client, wallet: Wallet
) -> None:
    payment = paying.prepare(client, wallet, PAYEE, AMOUNT)
    raw = payment.sign(KEY)
    size = 4 + 2 * 34 + 2 * 40 + 96
    transaction = decode(raw, 500)
    assert len(raw) == size
    assert [output.value for output in transaction.outputs] == [AMOUNT, 200_000_000 - AMOUNT - size]
    assert [output.owner for output in transaction.outputs] == [PAYEE, bytes(KEY.verify_key)]
    assert {spent.outpoint[-1] for spent in transaction.inputs} == {1, 255}
    identity = txid(raw, salt_of(bytes.fromhex(GENESIS))).hex()
    server.results["sendrawtransaction"] = json.dumps(identity)
    assert paying.submit(client, payment, raw) == identity
    assert server.calls[-1]["params"] == [raw.hex()]
    assert paying.wait(client, identity, 5, iter(range(9)).__next__) == (7, 2)
    assert SEED.hex().encode() not in b"".join(body for _, body in server.asked)


def test_another_chain_is_not_paid_on(server: RpcServer, client: Client, wallet: Wallet) -> None:
    server.results["getblockchaininfo"] = '{"chain":"test"}'
    with pytest.raises(PaymentError, match="the chain 'dev', and the node for 'test'"):
        paying.prepare(client, wallet, PAYEE, AMOUNT)


def test_addresses_of_other_networks_are_not_paid(wallet: Wallet) -> None:
    assert paying.payee_of(encode_address(PAYEE, "dtime"), wallet) == PAYEE
    for wrong in (encode_address(PAYEE, "time"), "dtime1", "", "x" * 5_000):
        with pytest.raises(PaymentError, match="begin with dtime1"):
            paying.payee_of(wrong, wallet)


@pytest.mark.parametrize(
    ("method", "answer"),
    [
        ("listunspent", '[{"txid":"00","vout":0,"amount":"1"}]'),
        ("listunspent", '[{"txid":"00","vout":256,"amount":1}]'),
        ("listunspent", "[5]"),
        ("listunspent", "5"),
        ("getmempoolinfo", "{}"),
        ("getblockhash", "5"),
        ("getblockhash", '"xx"'),
    ],
)
def test_answers_in_another_shape_are_named(
    server: RpcServer, client: Client, wallet: Wallet, method: str, answer: str
) -> None:
    server.results[method] = answer
    with pytest.raises(NoAnswer, match="has another shape"):
        paying.prepare(client, wallet, PAYEE, AMOUNT)


def test_a_node_that_is_lost_in_between_leaves_no_doubt_about_the_doubt(
    server: RpcServer, client: Client, wallet: Wallet
) -> None:
    payment: Payment = paying.prepare(client, wallet, PAYEE, AMOUNT)
    raw = payment.sign(KEY)
    identity = txid(raw, payment.salt).hex()
    look = f"look before you pay again: time-cli gettransactionfinality {identity}"
    with pytest.raises(NotFinal, match=f"the node calls it .*{look}"):
        paying.submit(client, payment, raw)
    server.results["sendrawtransaction"] = None
    with pytest.raises(NotFinal, match=f"perhaps handed in: .* broke .*{look}"):
        paying.submit(client, payment, raw)
    server.results["waittransactionfinality"] = None
    with pytest.raises(NotFinal, match=f"what became of it is not known: .*{look}"):
        paying.wait(client, identity, 5, lambda: 0)


@pytest.mark.parametrize(
    ("code", "perhaps"), [(-28, True), (-25, True), (-32603, True), (-26, False), (-22, False)]
)
def test_a_refusal_that_leaves_a_doubt_is_no_invitation_to_pay_again(
    server: RpcServer, client: Client, wallet: Wallet, code: int, perhaps: bool
) -> None:
    payment: Payment = paying.prepare(client, wallet, PAYEE, AMOUNT)
    raw = payment.sign(KEY)
    server.results = {}
    server.body = b'{"jsonrpc":"2.0","error":{"code":%d,"message":"why"},"id":1}' % code
    if perhaps:
        with pytest.raises(NotFinal, match=rf"perhaps handed in: error {code}: why; look before"):
            paying.submit(client, payment, raw)
    else:
        with pytest.raises(Refused, match="why"):
            paying.submit(client, payment, raw)


def test_a_payment_that_is_final_already_is_waited_for(
    server: RpcServer, client: Client, wallet: Wallet
) -> None:
    payment: Payment = paying.prepare(client, wallet, PAYEE, AMOUNT)
    raw = payment.sign(KEY)
    server.results = {}
    server.body = b'{"jsonrpc":"2.0","error":{"code":-27,"message":"in block chain"},"id":1}'
    assert paying.submit(client, payment, raw) == txid(raw, payment.salt).hex()


def test_what_does_not_become_final_in_time_is_said(server: RpcServer, client: Client) -> None:
    server.results["waittransactionfinality"] = '{"status":"pending"}'
    seconds = iter(range(0, 10_000, 50))
    with pytest.raises(NotFinal, match="not final after 150 s"):
        paying.wait(client, "ab", 150, lambda: next(seconds) * 10**9)
    waits = [call["params"][1] for call in server.calls]
    assert waits[0] <= 60_000
    assert len(waits) > 1
