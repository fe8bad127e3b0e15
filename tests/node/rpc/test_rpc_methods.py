"""What methods say of a real store, mempool and block files, without processes."""

from __future__ import annotations

import time
from collections.abc import Iterator
from decimal import Decimal
from pathlib import Path

import pytest
from chains import OWNERS, PUBLIC
from rpc_world import RpcWorld, address

from node import query
from node.answering import COUNT_IDLE_NS
from node.orders import Drop, Keep, decode_order
from node.rpc import calls
from node.rpc.methods import METHODS, mempool


@pytest.fixture
def world(tmp_path: Path) -> Iterator[RpcWorld]:
    made = RpcWorld(tmp_path)
    yield made
    made.close()


def time_of(units: int) -> Decimal:
    return Decimal(units).scaleb(-8)


def test_an_empty_chain(world: RpcWorld) -> None:
    genesis = world.chain.id.hex()
    assert world.call("getblockcount") == 0
    assert world.call("getbestblockhash") == world.call("getblockhash", 0) == genesis
    block = world.call("getblock", genesis)
    assert (block["height"], block["tx"], block["confirmations"]) == (0, [], 1)
    assert "nextblockhash" not in block
    assert world.call("getblockheader", genesis)["time"] == 1_700_000_000
    assert world.call("getblockchaininfo")["verificationprogress"] == 1
    for height in (1, -1, 2**62):
        assert world.code("getblockhash", height) == -8


def test_blocks_and_their_neighbours(world: RpcWorld) -> None:
    ids = [world.commit([world.pay(0)]), world.commit(), world.commit([world.pay(1)])]
    shown = [world.call("getblock", each.hex()) for each in ids]
    assert [each["height"] for each in shown] == [1, 2, 3]
    assert [each["confirmations"] for each in shown] == [3, 2, 1]
    assert [each.get("nextblockhash") for each in shown] == [ids[1].hex(), ids[2].hex(), None]
    assert shown[1]["previousblockhash"] == ids[0].hex()
    assert [each["nTx"] for each in shown] == [1, 0, 1]
    assert shown[0]["reward"]["value"] == time_of(1_050)
    assert world.call("getblock", ids[0].hex(), False) == world.call("getblock", ids[0].hex(), 0)
    assert world.code("getblock", ids[0].hex(), 3) == -8
    info = world.call("getblockchaininfo")
    assert info["supply"] == time_of(600 * 1_000_000 + 150)
    assert info["size_on_disk"] > 0
    prices = [info[name] for name in ("min_fee", "dust_limit", "reward")]
    assert prices == [time_of(each) for each in (10, 5, 50)]


def test_a_damaged_block_is_an_error_and_told_in_the_log(world: RpcWorld, tmp_path: Path) -> None:
    value = world.commit([world.pay(0)])
    path = next((tmp_path / "blocks").iterdir())
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)
    assert world.code("getblock", value.hex()) == -1
    assert world.log.events[-1][0] == "block_not_read"


def test_a_payment_on_its_way(world: RpcWorld) -> None:
    raw = world.pay(0, to=2)
    sent = world.call("sendrawtransaction", raw.hex())
    assert world.call("sendrawtransaction", raw.hex()) == sent  # again does no harm
    assert world.call("getrawmempool") == [sent]
    entry = world.call("getmempoolentry", sent)
    assert (entry["fees"]["base"], entry["depends"]) == (time_of(1_000), [])
    assert not entry["pending"]
    assert world.call("getrawmempool", True) == {sent: entry}
    info = world.call("getmempoolinfo")
    assert (info["size"], info["bytes"], info["total_fee"]) == (1, len(raw), time_of(1_000))
    assert world.call("getrawtransaction", sent) == raw.hex()
    assert world.call("gettransactionfinality", sent)["status"] == "admitted"
    world.mempool.pin([bytes.fromhex(sent)])
    assert world.call("gettransactionfinality", sent)["status"] == "pending"
    source = world.chain.allotted(0)
    assert world.call("gettxout", source[:-1].hex(), source[-1]) is None
    assert world.call("gettxout", source[:-1].hex(), source[-1], False)["confirmations"] == 1
    assert world.call("gettxout", sent, 0)["confirmations"] == 0
    assert world.call("gettxout", sent, 0, False) is None
    task = world.start("waittransactionfinality", sent, 60_000)
    world.turns.run()
    assert not task.done()
    block = world.commit([raw])
    status, _ = world.run(task)
    assert status == 200
    final = world.call("gettransactionfinality", sent)
    assert (final["status"], final["blockhash"], final["signers"]) == (
        *("finalised", block.hex(), [0]),
    )
    assert world.call("getrawtransaction", sent, 1, block.hex())["confirmations"] == 1
    assert world.code("getrawtransaction", sent, 1, "00" * 32) == -5
    assert world.code("sendrawtransaction", raw.hex()) == -27
    assert world.call("gettxout", sent, 0)["coinbase"] is False


def test_rewards_and_allocations_have_ids_and_no_bytes(world: RpcWorld) -> None:
    block = world.call("getblock", world.commit().hex())
    reward = block["reward"]["txid"]
    shown = world.call("gettransaction", reward)
    assert (shown["category"], shown["vout"][0]["value"]) == ("reward", time_of(50))
    assert world.code("getrawtransaction", reward) == -5
    assert world.call("gettxout", reward, 0)["coinbase"] is True
    allocation = world.chain.allotted(300)[:-1].hex()
    assert world.call("gettransaction", allocation)["category"] == "allocation"
    assert world.code("getrawtransaction", allocation) == -5
    assert world.call("gettransactionfinality", allocation)["blockheight"] == 0


def test_outputs_by_address(world: RpcWorld, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(query, "MAX_UNSPENT", 40)
    world.commit([world.pay(n) for n in range(8)])
    for owner, public in enumerate(PUBLIC):
        listed = world.call("listunspent", 1, 9_999_999, [address(public)])
        assert sum(each["amount"] for each in listed) == time_of(world.balance(owner))
        assert world.call("getbalance", address(public)) == time_of(world.balance(owner))
    rewards = world.call("listunspent", 1, 1, [address(PUBLIC[0])])
    assert [each["coinbase"] for each in rewards].count(True) == 1
    world.call("sendrawtransaction", world.pay(9).hex())
    assert world.call("getbalance", address(PUBLIC[1])) == time_of(world.balance(1) - 1_000_000)
    assert world.call("getbalance", address(bytes(32))) == 0
    for wrong in ([], ["x"], [5], [address(PUBLIC[0])] * 2):
        assert world.code("listunspent", 1, 2, wrong) in (-8, -5, -3)


def test_without_an_index_by_address(tmp_path: Path) -> None:
    world = RpcWorld(tmp_path, address_index=False)
    answer = world.answer("getbalance", address(PUBLIC[0]))
    assert "store.address_index" in answer["error"]["message"]
    world.close()


def test_the_count_of_all_outputs_is_as_of_one_block(world: RpcWorld) -> None:
    digest = world.store.output_set_digest().hex()
    task = world.start("gettxoutsetinfo")
    counted = world.call("gettxoutsetinfo")  # the second count ends the first
    assert (counted["height"], counted["txouts"], counted["hash_serialized"]) == (0, 600, digest)
    assert counted["total_amount"] == time_of(600_000_000)
    world.run(task)
    first = world.answering.answer(query.encode(query.Ask(1, query.CountOutputs(0))))
    assert first is not None
    token = query.decode_told(first).answer
    assert isinstance(token, query.Counted)
    world.commit([world.pay(0)])
    last = world.answering.answer(query.encode(query.Ask(2, query.CountOutputs(token.token))))
    assert last is not None
    done = query.decode_told(last).answer
    assert isinstance(done, query.Counted)
    assert (done.outputs, done.height, done.digest.hex()) == (600, 0, digest)


def test_a_count_that_nobody_goes_on_with_is_let_go(world: RpcWorld) -> None:
    def count(token: int) -> query.Counted:
        told = world.answering.answer(query.encode(query.Ask(1, query.CountOutputs(token))))
        assert told is not None
        answer = query.decode_told(told).answer
        assert isinstance(answer, query.Counted)
        return answer

    begun = count(0)
    now_ns = time.monotonic_ns()
    world.answering.expire(now_ns)
    assert begun.token
    assert not begun.digest
    world.answering.expire(now_ns + COUNT_IDLE_NS + 10**9)
    assert count(begun.token).token == 0


def test_what_the_mempool_would_say(world: RpcWorld) -> None:
    raw = world.pay(0)
    bad = bytearray(raw)
    bad[-1] ^= 1
    poor = world.pay(1, fee=11)
    told = world.call("testmempoolaccept", [raw.hex(), bytes(bad).hex(), poor.hex()])
    assert [each["allowed"] for each in told] == [True, False, False]
    assert [each.get("reject-reason") for each in told] == [
        *(None, "bad-signature", "fee-below-relay"),
    ]
    assert world.call("getrawmempool") == []
    assert world.code("testmempoolaccept", []) == -8
    assert world.code("testmempoolaccept", [5]) == -3
    assert world.code("testmempoolaccept", ["00"]) == -22
    assert world.code("sendrawtransaction", raw.hex(), "0.00000001") == -25
    assert world.call("sendrawtransaction", raw.hex(), 1)


def test_a_raw_transaction_by_hand(world: RpcWorld) -> None:
    source = world.chain.allotted(0)
    inputs = [{"txid": source[:-1].hex(), "vout": source[-1]}]
    made = world.call("createrawtransaction", inputs, {address(PUBLIC[3]): Decimal("0.00999")})
    assert world.code("sendrawtransaction", made) == -26
    unsigned = world.call("signrawtransactionwithkey", made, [])
    assert (unsigned["complete"], len(unsigned["errors"])) == (False, 1)
    signed = world.call("signrawtransactionwithkey", made, [bytes(OWNERS[0]).hex()])
    assert signed["complete"]
    seen = world.call("decoderawtransaction", signed["hex"])
    assert seen["vout"][0]["value"] == Decimal("0.00999000")
    assert world.call("sendrawtransaction", signed["hex"]) == seen["txid"]
    for wrong in (
        [{"txid": "00"}],
        [{"vout": 1}],
        [{"txid": "00" * 32, "vout": 256}],
        [{"txid": "00" * 32, "vout": -1}],
        [5],
    ):
        assert world.code("createrawtransaction", wrong, {}) == -8
    assert world.code("createrawtransaction", inputs, [{"a": 1, "b": 2}]) == -8
    assert world.code("createrawtransaction", inputs, {address(PUBLIC[3]): True}) == -3
    assert world.code("createrawtransaction", inputs, {address(PUBLIC[3]): 0}) == -3
    assert world.code("createrawtransaction", inputs, {}) == -8
    twice = [{address(PUBLIC[3]): 1}, {address(PUBLIC[3]).upper(): 1}]
    assert world.code("createrawtransaction", inputs, twice) == -8
    assert world.code("createrawtransaction", inputs, {address(PUBLIC[3]): 1}, 5) == -8
    assert world.code("signrawtransactionwithkey", made, [5]) == -5
    assert world.code("signrawtransactionwithkey", made, [], [{"txid": "00" * 32, "vout": 0}]) == -3
    for many, named in ((([5] * 257,), "256 keys"), (([], [5] * 256), "255 outputs in prevtxs")):
        refused = world.answer("signrawtransactionwithkey", made, *many)["error"]
        assert (refused["code"], named in refused["message"]) == (-8, True)


def test_a_large_mempool_comes_page_by_page(
    world: RpcWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in (query, mempool):
        monkeypatch.setattr(module, "MAX_IDS", 7)
        monkeypatch.setattr(module, "MAX_ENTRIES", 7)
    sent = [world.call("sendrawtransaction", world.pay(n).hex()) for n in range(30)]
    assert world.call("getrawmempool") == sent
    assert list(world.call("getrawmempool", True)) == sent
    monkeypatch.setattr(mempool, "MAX_VERBOSE", 29)
    assert world.code("getrawmempool", True) == -1


def test_batches(world: RpcWorld) -> None:
    calls = b",".join(
        b'{"jsonrpc":"2.0","method":"sendrawtransaction","params":["%s"],"id":%d}'
        % (world.pay(n).hex().encode(), n)
        for n in range(20)
    )
    rest = (
        b'{"jsonrpc":"2.0","method":"waittransactionfinality","params":["00"],"id":20},'
        b'{"jsonrpc":"2.0","method":"getblockcount"},{"method":"getblockcount","id":21},5'
    )
    status, answers = world.post(b"[" + calls + b"," + rest + b"]")
    assert status == 200
    assert [each["id"] for each in answers] == [*range(22), None]
    assert answers[20]["error"]["code"] == -32600
    assert answers[21] == {"result": 0, "error": None, "id": 21}
    assert answers[22]["error"]["code"] == -32600
    assert len(world.mempool) == 20
    only = b'[{"jsonrpc":"2.0","method":"getblockcount"}]'
    assert world.post(only) == (204, None)


def test_answers_of_a_batch_have_a_bound_together(
    world: RpcWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(calls, "MAX_BATCH_BYTES", 5_000)
    body = b"[" + b",".join([b'{"method":"help","id":1}'] * 20) + b"]"
    status, answers = world.post(body)
    assert (status, len(answers)) == (200, 20)
    told = [each["error"] is None for each in answers]
    assert any(told)
    assert told == sorted(told, reverse=True)
    assert answers[-1]["error"]["code"] == -1
    sending = b',{"method":"sendrawtransaction","params":["%s"],"id":1}' % (
        world.pay(0).hex().encode()
    )
    status, answers = world.post(body[:-1] + sending + b"]")
    assert (status, len(answers), answers[-1]["error"]["code"]) == (200, 21, -1)
    assert len(world.mempool) == 0  # what is told to have failed was not done


def test_a_single_request_that_is_none_is_answered_without_an_id_too(world: RpcWorld) -> None:
    for body in (b'{"jsonrpc":"2.0"}', b'{"jsonrpc":"2.0","method":"help","params":5}'):
        status, answer = world.post(body)
        assert (status, answer["error"]["code"], answer["id"]) == (400, -32600, None)
        assert world.post(b"[" + body + b"]") == (204, None)
    assert world.post(b'{"jsonrpc":"2.0","method":"nonsense"}') == (204, None)


def test_our_own_mistakes_are_internal_errors(
    world: RpcWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(world.services, "asking", None)
    answer = world.answer("getblockcount")
    assert answer["error"]["code"] == -32603
    assert "NoneType" not in answer["error"]["message"]
    assert world.log.events[-1][0] == "rpc_failed"
    assert world.services.running == {}


def test_orders_about_peers(world: RpcWorld) -> None:
    assert world.call("addnode", "192.0.2.1:5", "add") is None
    assert decode_order(world.orders[0]) == Keep("192.0.2.1:5")
    for node, command in (("a.b:5", "onetry"), ("x", "add"), ("a.b:0", "add"), ("a.b:5", "zz")):
        assert world.code("addnode", node, command) in (-8, -30, -1)
    assert world.code("disconnectnode", "", 5) == -29
    assert world.code("disconnectnode", "a", 5) == -32602
    assert len(world.orders) == 1
    assert world.call("getpeerinfo") == []
    with pytest.raises(ValueError, match="no order"):
        decode_order(b"\xc1")
    assert Drop(5).peer == 5


def test_the_node_as_a_program(world: RpcWorld) -> None:
    assert world.call("stop") == "timed stopping"
    assert world.stopped == 1
    assert world.code("logging", {"net": 5}) == -3
    assert world.code("getpipelineinfo") == -1  # there is none
    assert world.call("getconsensusinfo")["step"] == "propose"
    assert world.call("getvalidators")[0]["power"] == 1
    assert world.call("getevidence") == []
    for method in METHODS:
        assert world.call("help", method.name).startswith(method.name)
        too_many = [None] * (len(method.params) + 1)
        assert world.code(method.name, *too_many) == -1
