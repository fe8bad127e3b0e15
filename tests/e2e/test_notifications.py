"""A real node's publications, read as Bitcoin Core's documented subscriber reads them."""

from __future__ import annotations

import struct
from collections import defaultdict
from collections.abc import Iterator

import pytest
import zmq
from funded import Funds
from rpc_client import RpcClient
from running_node import IngestClient, RunningNode

from node.block import BLOCK_HEADER_BYTES, BlockHeader, block_id, split_transactions
from node.transaction import txid
from node.verdict import Verdict
from tools.cli.places import Place
from tools.cli.transport import Client

TOPICS = ("hashblock", "hashtx", "rawblock", "rawtx", "sequence")


@pytest.fixture(scope="module")
def funds(tmp_path_factory: pytest.TempPathFactory) -> Funds:
    return Funds(tmp_path_factory.mktemp("notify") / "funds", 200)


@pytest.fixture(scope="module")
def node(tmp_path_factory: pytest.TempPathFactory, funds: Funds) -> Iterator[RunningNode]:
    node = RunningNode(tmp_path_factory.mktemp("notifying"), funds.directory)
    try:
        yield node.start()
    finally:
        node.end()


class Subscriber:
    """Subscribes to topics and unpacks what comes."""

    def __init__(self, address: str, *topics: str) -> None:
        self.context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
        self.socket = self.context.socket(zmq.SUB)
        self.socket.setsockopt(zmq.RCVHWM, 0)
        for topic in topics:
            self.socket.setsockopt_string(zmq.SUBSCRIBE, topic)
        self.socket.connect(address)
        self.news: dict[str, list[bytes]] = defaultdict(list)
        self.numbers: dict[str, list[int]] = defaultdict(list)

    def read(self, wait_ms: int = 50) -> bool:
        """Take in one message; False if none came."""
        if not self.socket.poll(wait_ms):
            return False
        topic, body, number = self.socket.recv_multipart()
        assert len(number) == 4
        self.news[topic.decode()].append(body)
        self.numbers[topic.decode()].append(struct.unpack("<I", number)[-1])
        return True

    def close(self) -> None:
        self.socket.close(0)
        self.context.term()


@pytest.fixture
def client(node: RunningNode) -> Iterator[IngestClient]:
    client = IngestClient(node.ingest)
    yield client
    client.close()


def test_a_payment_from_the_mempool_to_its_block(
    node: RunningNode, funds: Funds, client: IngestClient
) -> None:
    subscriber = Subscriber(node.notify, *TOPICS)
    numbers = iter(range(200))
    try:
        # What is published before the node knows of the subscription is missed: pay until it does.
        node.wait_until(
            lambda: client.ask(funds.pay(next(numbers))) is not None and subscriber.read()
        )
        raw = funds.pay(next(numbers))
        assert client.ask(raw) == bytes([Verdict.ADMITTED])
        identity = txid(raw, funds.salt)
        node.wait_until(lambda: subscriber.read() and subscriber.news["hashtx"].count(identity) > 1)
        while subscriber.read(500):
            pass
    finally:
        subscriber.close()
    news = subscriber.news
    assert news["rawtx"].count(raw) == 2
    labels = [(body[:32], body[32:33]) for body in news["sequence"]]
    came = labels.index((identity, b"A"))
    body = next(body for body in news["rawblock"] if raw in body)
    header = body[:BLOCK_HEADER_BYTES]
    raws = split_transactions(body[BLOCK_HEADER_BYTES:], BlockHeader.decode(header).n_transactions)
    assert raw in raws
    added = block_id(header, funds.salt)
    assert added in news["hashblock"]
    # What a subscriber missed it asks for: the same bytes.
    rpc = Client(Place(datadir=node.datadir).access())
    height = BlockHeader.decode(header).height
    assert rpc.value("getblockhash", [height]) == added.hex()
    assert rpc.value("getblock", [added.hex(), 0]) == body.hex()
    assert labels.index((added, b"C")) > came
    for topic in TOPICS:
        found = subscriber.numbers[topic]
        assert found == list(range(found[0], found[0] + len(found))), topic
    assert {label for _, label in labels} == {b"A", b"C"}
    sequences = [struct.unpack("<Q", each[33:])[0] for each in news["sequence"] if len(each) > 33]
    assert sequences == sorted(set(sequences))


def test_who_comes_back_sees_how_much_it_missed_and_asks_for_it(
    node: RunningNode, funds: Funds, client: IngestClient
) -> None:
    """Blocks and payments are counted while nobody listens, so the numbers have a gap; heights
    repair it.
    """
    before = heard(node, funds, client, first=100)
    rpc = RpcClient.of(node)
    missed: list[str] = []
    for lot in (range(140, 143), range(143, 146), range(146, 149)):  # a block each, at least
        raws = [funds.pay(number) for number in lot]
        assert set(client.ask(*raws)) == {Verdict.ADMITTED}
        missed += [txid(raw, funds.salt).hex() for raw in raws]
        for each in missed:
            assert rpc.call("waittransactionfinality", each)["final"]
    after = heard(node, funds, client, first=150)

    last = rpc.call("getblock", before.news["hashblock"][-1].hex())
    next_ = rpc.call("getblock", after.news["hashblock"][0].hex())
    gap = after.numbers["hashblock"][0] - before.numbers["hashblock"][-1]
    assert gap == next_["height"] - last["height"] > 3
    # Each payment would have come twice: admitted, and in its block.
    assert after.numbers["hashtx"][0] - before.numbers["hashtx"][-1] > 2 * len(missed)

    # As ARCHITECTURE.md says: every height above the last block that was heard of.
    found: list[str] = []
    above = last["hash"]
    for height in range(last["height"] + 1, rpc.call("getblockcount") + 1):
        block = rpc.call("getblock", rpc.call("getblockhash", height))
        assert block["previousblockhash"] == above
        above = block["hash"]
        found += block["tx"]
    assert set(missed) <= set(found)
    assert len(set(found)) == len(found)
    rpc.close()


def heard(node: RunningNode, funds: Funds, client: IngestClient, first: int) -> Subscriber:
    """Listen until a block and a payment came; return who listened, and listens no more."""
    subscriber = Subscriber(node.notify, "hashblock", "hashtx")
    payments = iter(range(first, first + 40))
    try:
        node.wait_until(
            lambda: (
                client.ask(funds.pay(next(payments))) is not None
                and subscriber.read()
                and len(subscriber.news) == 2
            )
        )
    finally:
        subscriber.close()
    return subscriber
