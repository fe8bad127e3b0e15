"""What net does with the frames of peers, and with what consensus says: with a hub that only notes.

The verifiers and consensus are the test: it reads what was offered for trays and answers it.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from itertools import pairwise
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from chains import make_genesis
from hypothesis import given
from hypothesis import strategies as st

from node.consensus.messages import Certificate, Certified, Started, Vote, VoteType
from node.consensus.wire import encode
from node.exchange.messages import encode_part
from node.items import BULK, REQUESTED, URGENT, ItemKind
from node.network import link
from node.network.frames import MAX_BODY_BYTES, FrameType
from node.network.peers import PeerInfo
from node.network.relay_budget import HOST_ITEMS
from node.params import INGEST_MAX_TRANSACTIONS
from node.peer_frames import (
    Batch,
    message_bodies,
    pack_messages,
    unpack_messages,
    unpack_transactions,
)
from node.peering import MAX_ANNOUNCED, MAX_EXPECTED, MAX_QUESTIONS, PEERING_METRICS, Peering
from node.verdict import Verdict
from pipeline.intake import NO_LABEL
from pipeline.metrics import MetricSet, MetricWriter, region_bytes
from pipeline.tray import Label

EPOCH = 6
VALUE = b"v" * 32
SIGNATURE = b"s" * 64
GENESIS, _ = make_genesis(8, powers=(1, 1, 1, 1))
METRICS = MetricSet("net", PEERING_METRICS)
GOOD = Verdict.ADMITTED


class Hub:
    """Keeps what it is asked to send, by peer, and what peers are blamed for."""

    def __init__(self, settings: object, events: object, *_: object) -> None:
        self.peers: list[int] = []
        self.sent: list[tuple[int, FrameType, bytes]] = []
        self.blamed: list[tuple[int, int, str]] = []
        self.height = 0
        self.bulk_open = True
        self.closed = False

    def fileno(self) -> int:
        return -1

    def poll(self, now_ns: int) -> int:
        return 0

    def deadline_ns(self) -> int | None:
        return None

    def flush(self) -> None:
        pass

    def close(self) -> None:
        self.closed = True

    def open_bulk(self, bulk_open: bool) -> None:
        self.bulk_open = bulk_open

    def set_height(self, height: int) -> None:
        self.height = height

    def challenge(self, peer: int) -> bytes | None:
        return None  # proofs are not this test's

    def send(self, peer: int, kind: int, body: bytes) -> bool:
        assert len(body) <= MAX_BODY_BYTES[FrameType(kind)]  # as the real one
        if peer in self.peers:
            self.sent.append((peer, FrameType(kind), bytes(body)))
        return peer in self.peers

    def broadcast(self, kind: int, body: bytes, but: int = 0) -> int:
        return sum(self.send(peer, kind, body) for peer in list(self.peers) if peer != but)

    def blame(self, peer: int, points: int, reason: str) -> None:
        self.blamed.append((peer, points, reason))


@dataclass
class Offer:
    """Items that are to be verified."""

    source: bytes
    request: Any
    payload: memoryview
    begins: list[int]
    priority: int
    label: Label

    @property
    def items(self) -> list[bytes]:
        """As they are copied into a tray, which is later than they were offered."""
        return [bytes(self.payload[a:b]) for a, b in pairwise(self.begins)]

    def answer(self, *codes: int) -> None:
        assert len(codes) == len(self.items)
        self.request.answer(0, bytes(codes))


@dataclass
class Intake:
    """Keeps what is offered; `full` takes nothing."""

    offers: list[Offer] = field(default_factory=list)
    full: bool = False

    def offer(
        self,
        source: bytes,
        request: object,
        payload: memoryview,
        ends: Any,
        *,
        priority: int = BULK,
        label: Label = NO_LABEL,
    ) -> bool:
        if self.full:
            return False
        begins = [0, *ends.tolist()]
        assert begins[-1] == len(payload)
        self.offers.append(Offer(source, request, payload, begins, priority, label))
        return True

    def take(self) -> Offer:
        """The only offer since the last."""
        (offer,) = self.offers
        self.offers.clear()
        return offer


@dataclass
class Heard:
    """The link to consensus."""

    words: list[link.Heard] = field(default_factory=list)
    dropped: int = 0
    full: bool = False

    def send(self, frame: bytes) -> None:
        if self.full:
            self.dropped += 1
        else:
            self.words.append(link.decode_heard(frame))

    def take(self) -> list[link.Heard]:
        words, self.words = self.words, []
        return words


class Net:
    """Peering between the parts that the test plays."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("node.peering.Hub", Hub)
        self.intake = Intake()
        self.heard = Heard()
        writer = MetricWriter(memoryview(bytearray(region_bytes(METRICS))), METRICS)
        self.peering = Peering(
            SimpleNamespace(genesis=GENESIS, run_path="/nowhere"),  # type: ignore[arg-type]
            SimpleNamespace(node_id=bytes(16)),  # type: ignore[arg-type]
            self.intake,  # type: ignore[arg-type]
            self.heard,  # type: ignore[arg-type]
            writer,
            None,
            EPOCH,
        )
        self.hub: Hub = self.peering._hub  # type: ignore[assignment]
        self.infos: dict[int, PeerInfo] = {}
        self.now_ns = self.peering._forget_ns - 1  # just before everything may be said again

    def join(self, *peers: int, height: int = 0) -> None:
        for peer in peers:
            node_id = peer.to_bytes(16, "big")
            info = PeerInfo(peer, node_id, f"127.0.0.1:{peer}", False, 1, height, "", False)
            self.infos[peer] = info
            self.hub.peers.append(peer)
            self.peering.connected(info)
        self.turn()

    def leave(self, peer: int) -> None:
        self.hub.peers.remove(peer)
        self.peering.disconnected(self.infos.pop(peer), "enough")

    def say(self, peer: int, kind: FrameType, body: bytes) -> None:
        """A frame comes from a peer."""
        frame = bytearray(body)
        self.peering.frame(self.infos[peer], kind, memoryview(frame))
        frame[:] = bytes(len(frame))  # it is only valid during the call

    def relay(self, peer: int, items: list[bytes]) -> None:
        for body in transactions(items):
            self.say(peer, FrameType.TRANSACTIONS, body)

    def votes(self, peer: int, *messages: bytes) -> None:
        self.say(peer, FrameType.AGREEMENT, pack_messages(messages))

    def order(self, *words: link.Say) -> None:
        """Consensus says something."""
        for word in words:
            self.peering.told(link.encode(word))

    def turn(self) -> dict[int, list[tuple[FrameType, bytes]]]:
        """The end of a turn of the loop: what is sent in it, by peer, but for the upkeep."""
        self.peering.after_inputs(self.now_ns, bulk_open=True)
        sent: dict[int, list[tuple[FrameType, bytes]]] = {}
        for peer, kind, body in self.hub.sent:
            if kind is not FrameType.NEIGHBOURS:
                sent.setdefault(peer, []).append((kind, body))
        self.hub.sent.clear()
        return sent

    def relayed(self) -> dict[int, list[bytes]]:
        """The transactions that are sent in a turn, by peer."""
        found: dict[int, list[bytes]] = {}
        for peer, frames in self.turn().items():
            for kind, body in frames:
                assert kind is FrameType.TRANSACTIONS
                payload, ends = unpack_transactions(memoryview(body))
                begins = [0, *ends.tolist()]
                items = [bytes(payload[a:b]) for a, b in pairwise(begins)]
                found.setdefault(peer, []).extend(items)
        return found

    def passed_on(self) -> dict[int, list[bytes]]:
        """The messages of agreement that are sent in a turn, by peer."""
        found: dict[int, list[bytes]] = {}
        for peer, frames in self.turn().items():
            for kind, body in frames:
                assert kind is FrameType.AGREEMENT
                found.setdefault(peer, []).extend(unpack_messages(memoryview(body)))
        return found


def transactions(items: list[bytes]) -> list[bytes]:
    batch = Batch()
    batch.add(memoryview(b"".join(items)), np.array([len(each) for each in items], np.uint32))
    return [body for body, _ in batch.bodies()]


def vote(validator: int = 0, height: int = 1, round_: int = 0) -> bytes:
    return encode(Vote(VoteType.PREVOTE, height, round_, VALUE, validator, SIGNATURE))


def certified(height: int = 1, signatures: int = 3) -> bytes:
    votes = tuple((number, SIGNATURE) for number in range(signatures))
    return encode(Certified(Certificate(VoteType.PRECOMMIT, height, 0, VALUE, votes)))


@pytest.fixture
def net(monkeypatch: pytest.MonkeyPatch) -> Net:
    made = Net(monkeypatch)
    made.join(1, 2, 3)
    made.heard.take()
    return made


# -- transactions -----------------------------------------------------------------------------


def test_transactions_go_to_the_verifiers_and_on_but_not_back(net: Net) -> None:
    net.relay(1, [b"a", b"bb"])
    offer = net.intake.take()
    assert (offer.items, offer.priority) == ([b"a", b"bb"], BULK)
    assert offer.label == Label(ItemKind.TRANSACTION)
    assert net.relayed() == {}  # not before they are judged
    offer.answer(GOOD, GOOD)
    assert net.relayed() == {2: [b"a", b"bb"], 3: [b"a", b"bb"]}
    assert net.relayed() == {}
    assert net.hub.blamed == []


def test_whoever_is_behind_takes_no_transactions_of_peers(net: Net) -> None:
    net.order(link.Height(EPOCH, 5, behind=True))
    net.relay(1, [b"a"])
    assert net.intake.offers == []
    net.order(link.Height(EPOCH, 9, behind=False))
    net.relay(1, [b"a"])  # it was not remembered as known
    assert net.intake.take().items == [b"a"]
    assert net.hub.blamed == []


def test_peers_are_different_sources(net: Net) -> None:
    net.relay(1, [b"a"])
    net.relay(2, [b"b"])
    one, other = net.intake.offers
    assert one.source != other.source


def test_what_came_before_is_not_verified_again(net: Net) -> None:
    net.relay(1, [b"a", b"b"])
    net.intake.take().answer(GOOD, GOOD)
    net.relay(2, [b"a", b"b"])
    assert net.intake.offers == []
    net.relay(2, [b"a", b"c", b"b", b"d"])
    offer = net.intake.take()
    assert offer.items == [b"c", b"d"]
    offer.answer(GOOD, GOOD)
    assert net.relayed()[3] == [b"a", b"b", b"c", b"d"]


def test_twice_in_one_frame_is_once(net: Net) -> None:
    net.relay(1, [b"a", b"b", b"a"])
    assert net.intake.take().items == [b"a", b"b"]


@pytest.mark.parametrize(
    "code", [each for each in Verdict if Verdict.BAD_LENGTH <= each <= Verdict.BAD_SIGNATURE]
)
def test_whoever_relays_what_no_honest_peer_would_is_blamed(net: Net, code: Verdict) -> None:
    net.relay(1, [b"a", b"bad", b"c"])
    net.intake.take().answer(GOOD, code, GOOD)
    ((peer, points, reason),) = net.hub.blamed
    assert (peer, points) == (1, 100)
    assert code.name in reason
    assert net.relayed() == {2: [b"a", b"c"], 3: [b"a", b"c"]}


@pytest.mark.parametrize(
    "code",
    [
        *(Verdict.KNOWN, Verdict.FINAL, Verdict.ORPHANED, Verdict.SPENT_INPUT),
        *(Verdict.CONFLICT, Verdict.MEMPOOL_FULL, Verdict.QUARANTINED),
    ],
)
def test_what_an_honest_peer_may_relay_is_nobodys_fault(net: Net, code: Verdict) -> None:
    net.relay(1, [b"a", b"b"])
    net.intake.take().answer(code, code)
    assert net.hub.blamed == []
    assert net.relayed() == {}


def test_what_was_not_admitted_may_come_again(net: Net) -> None:
    net.relay(1, [b"a", b"b"])
    net.intake.take().answer(GOOD, Verdict.ORPHANED)
    net.relay(2, [b"a", b"b"])
    assert net.intake.take().items == [b"b"]


@pytest.mark.parametrize("code", [Verdict.KNOWN, Verdict.FINAL, Verdict.QUARANTINED])
def test_what_is_held_or_kills_need_not_come_again(net: Net, code: Verdict) -> None:
    net.relay(1, [b"a", b"b"])
    net.intake.take().answer(code, Verdict.CONFLICT)
    net.relay(2, [b"a", b"b"])
    assert net.intake.take().items == [b"b"]


def test_what_found_no_room_may_come_again(net: Net) -> None:
    net.intake.full = True
    net.relay(1, [b"a", b"b"])
    net.intake.full = False
    net.relay(2, [b"b", b"a"])
    assert net.intake.take().items == [b"b", b"a"]


def test_answers_in_parts(net: Net) -> None:
    net.relay(1, [b"a", b"b", b"c"])
    offer = net.intake.take()
    offer.request.answer(2, bytes([GOOD]))
    assert net.relayed() == {}
    offer.request.answer(0, bytes([GOOD, Verdict.KNOWN]))
    assert net.relayed() == {2: [b"a", b"c"], 3: [b"a", b"c"]}


def test_what_clients_sent_goes_to_everybody(net: Net) -> None:
    lengths = np.array([1, 2, 3], "<u2").tobytes()
    codes = bytes([GOOD, Verdict.CONFLICT, GOOD])
    net.peering.relay(lengths, memoryview(b"abbccc"), codes)
    expected = [b"a", b"ccc"]
    assert net.relayed() == {1: expected, 2: expected, 3: expected}


def test_the_greatest_message_of_a_client_goes_to_everybody(net: Net) -> None:
    items = [number.to_bytes(2, "big") + bytes(254) for number in range(INGEST_MAX_TRANSACTIONS)]
    lengths = np.array([256] * len(items), "<u2").tobytes()
    net.peering.relay(lengths, memoryview(b"".join(items)), bytes(len(items)))
    assert net.relayed() == {1: items, 2: items, 3: items}


def test_nothing_is_kept_for_nobody(net: Net) -> None:
    for peer in (1, 2, 3):
        net.leave(peer)
    net.peering.relay(np.array([1], "<u2").tobytes(), memoryview(b"a"), bytes([GOOD]))
    net.join(4)
    assert net.relayed() == {}


def test_verdicts_on_what_a_peer_sent_that_has_left(net: Net) -> None:
    net.relay(1, [b"a", b"b"])
    net.leave(1)
    net.intake.take().answer(GOOD, Verdict.BAD_SIGNATURE)
    assert net.hub.blamed[0][0] == 1  # the hub knows where it came from
    assert net.relayed() == {2: [b"a"], 3: [b"a"]}


def ids(*peers: int) -> bytes:
    return b"".join(peer.to_bytes(16, "big") for peer in peers)


def test_transactions_do_not_go_to_whom_their_sender_is_connected_to(net: Net) -> None:
    net.say(1, FrameType.NEIGHBOURS, ids(2, 77))
    net.relay(1, [b"a"])
    net.intake.take().answer(GOOD)
    assert net.relayed() == {3: [b"a"]}
    net.relay(2, [b"b"])  # which says of nobody that it has it
    net.intake.take().answer(GOOD)
    assert net.relayed() == {1: [b"b"], 3: [b"b"]}
    net.say(1, FrameType.NEIGHBOURS, ids(77))  # no longer
    net.relay(1, [b"c"])
    net.intake.take().answer(GOOD)
    assert net.relayed() == {2: [b"c"], 3: [b"c"]}


def test_votes_go_to_everybody_whoever_has_them(net: Net) -> None:
    net.say(1, FrameType.NEIGHBOURS, ids(2, 3))
    net.votes(1, vote())
    net.intake.take().answer(GOOD)
    assert net.passed_on() == {2: [vote()], 3: [vote()]}


# -- messages of agreement --------------------------------------------------------------------


def test_votes_go_to_the_verifiers_first_of_all_and_on_but_not_back(net: Net) -> None:
    net.votes(1, vote(0), vote(1))
    offer = net.intake.take()
    assert (offer.items, offer.priority) == ([vote(0), vote(1)], URGENT)
    assert offer.label == Label(ItemKind.MESSAGE)
    assert net.passed_on() == {}
    offer.answer(GOOD, GOOD)
    assert net.passed_on() == {2: [vote(0), vote(1)], 3: [vote(0), vote(1)]}
    assert net.passed_on() == {}


def test_a_certificate_may_come_alone(net: Net) -> None:
    net.votes(2, certified())
    offer = net.intake.take()
    assert (offer.items, offer.priority) == ([certified()], URGENT)
    offer.answer(GOOD)
    assert net.passed_on() == {1: [certified()], 3: [certified()]}


def test_a_message_is_passed_on_once(net: Net) -> None:
    net.votes(1, vote())
    net.votes(2, vote())  # while the first is being judged
    first, second = net.intake.offers
    net.intake.offers.clear()
    first.answer(GOOD)
    second.answer(GOOD)
    assert net.passed_on() == {2: [vote()], 3: [vote()]}
    net.votes(3, vote())
    assert net.intake.offers == []
    assert net.hub.blamed == []


def test_a_forged_message_is_its_senders_fault_and_hides_no_true_one(net: Net) -> None:
    forged = vote()[:-1] + b"x"
    net.votes(1, forged, vote(1))
    net.intake.take().answer(Verdict.BAD_SIGNATURE, GOOD)
    assert [each[:2] for each in net.hub.blamed] == [(1, 100)]
    assert net.passed_on() == {2: [vote(1)], 3: [vote(1)]}
    net.votes(2, vote())
    assert net.intake.take().items == [vote()]


def test_a_certificate_that_is_none_is_its_senders_fault(net: Net) -> None:
    net.votes(1, certified(signatures=1))
    net.intake.take().answer(Verdict.BAD_REQUEST)
    assert [each[:2] for each in net.hub.blamed] == [(1, 100)]


def test_what_killed_verifiers_is_nobodys_fault(net: Net) -> None:
    net.votes(1, vote())
    net.intake.take().answer(Verdict.QUARANTINED)
    assert net.hub.blamed == []
    assert net.passed_on() == {}


def test_old_votes_are_not_looked_at(net: Net) -> None:
    net.order(link.Height(EPOCH, 5, False))
    assert net.hub.height == 5
    net.votes(1, vote(height=5), vote(height=6), vote(height=8))
    assert net.intake.take().items == [vote(height=6)]
    assert net.hub.blamed == []


def test_everything_may_be_said_again_after_a_while(net: Net) -> None:
    net.votes(1, vote())
    net.intake.take().answer(GOOD)
    net.turn()
    net.votes(1, vote())
    assert net.intake.offers == []
    net.now_ns += 1
    net.turn()
    net.votes(1, vote())
    assert net.intake.take().items == [vote()]


def test_parts_of_an_answer_are_of_the_right_messages(net: Net) -> None:
    net.votes(1, vote(0), vote(1), vote(2))
    offer = net.intake.take()
    offer.request.answer(1, bytes([Verdict.BAD_SIGNATURE, GOOD]))
    offer.request.answer(0, bytes([GOOD]))
    assert net.passed_on() == {2: [vote(2), vote(0)], 3: [vote(2), vote(0)]}


def test_many_great_certificates_fit_their_frames(net: Net) -> None:
    messages = [certified(height, 1000) for height in range(1, 8)]
    for body in message_bodies(messages):
        net.say(1, FrameType.AGREEMENT, body)
    for offer in net.intake.offers:
        offer.answer(*[GOOD] * len(offer.items))
    assert net.passed_on() == {2: messages, 3: messages}


# -- what is no such frame --------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kind", "body"),
    [
        (FrameType.TRANSACTIONS, b""),
        (FrameType.TRANSACTIONS, b"\1\0\5\0four"),
        (FrameType.AGREEMENT, b""),
        (FrameType.AGREEMENT, pack_messages([b"no message"])),
        (FrameType.AGREEMENT, pack_messages([encode(Started(1))])),
        (FrameType.AGREEMENT, pack_messages([vote(4)])),  # there are four
        (FrameType.AGREEMENT, pack_messages([vote(), vote()[:-1]])),
        (FrameType.AGREEMENT, pack_messages([b"\xc1"])),
        (FrameType.PART, b"\0"),
        (FrameType.NEIGHBOURS, b"\0"),
    ],
    ids=repr,
)
def test_a_lie_is_blamed_and_nothing_comes_of_it(net: Net, kind: FrameType, body: bytes) -> None:
    net.say(1, kind, body)
    assert [each[:2] for each in net.hub.blamed] == [(1, 100)]
    assert kind.name in net.hub.blamed[0][2]
    assert net.intake.offers == []
    assert net.heard.take() == []
    assert net.turn() == {}


@given(
    kind=st.sampled_from(
        [
            *(FrameType.TRANSACTIONS, FrameType.AGREEMENT, FrameType.PART),
            *(FrameType.COMPACT, FrameType.BLOCK, FrameType.NOT_FOUND, FrameType.NEIGHBOURS),
        ]
    ),
    body=st.binary(max_size=200),
)
def test_bytes_of_anybody_raise_nothing(kind: FrameType, body: bytes) -> None:
    with pytest.MonkeyPatch.context() as patch:
        net = Net(patch)
        net.join(1, 2)
        net.order(link.Expect(EPOCH, 1, 0, 100))
        net.say(1, kind, body)
        net.turn()
    assert len(net.hub.blamed) <= 1


# -- parts that consensus waits for -----------------------------------------------------------


def test_parts_are_taken_when_expected_and_from_whom(net: Net) -> None:
    part = encode_part(7, 3, [b"a", b"bb"])
    net.say(1, FrameType.PART, part)
    assert net.intake.offers == []  # nobody expects it
    net.order(link.Expect(EPOCH, 1, 7, 5))
    net.say(2, FrameType.PART, part)
    assert net.intake.offers == []  # not from this one
    net.say(1, FrameType.PART, encode_part(8, 3, [b"a", b"bb"]))
    assert net.intake.offers == []  # another request
    net.say(1, FrameType.PART, encode_part(7, 4, [b"a", b"bb"]))
    assert net.intake.offers == []  # more than was asked for
    net.say(1, FrameType.PART, part)
    offer = net.intake.take()
    assert (offer.items, offer.priority) == ([b"a", b"bb"], REQUESTED)
    assert offer.label == Label(ItemKind.FETCHED, 8, 3)  # a tag is never 0
    offer.answer(GOOD, Verdict.BAD_SIGNATURE)  # consensus has read them, and blames
    net.order(link.Expect(EPOCH, 1, 7, 0))
    net.say(1, FrameType.PART, part)
    assert net.intake.offers == []
    assert net.hub.blamed == []  # late is no lie
    assert net.turn() == {}


def takes(net: Net, peer: int, request: int) -> bool:
    """Whether a PART that answers a request is let in."""
    net.say(peer, FrameType.PART, encode_part(request, 0, [b"a"]))
    taken, net.intake.offers = bool(net.intake.offers), []
    return taken


def test_expectations_are_bounded_and_the_oldest_make_room(net: Net) -> None:
    for request in range(MAX_EXPECTED):
        net.order(link.Expect(EPOCH, 1, request, 1))
    net.order(link.Expect(EPOCH, 1, 0, 1))  # once more, so it is no longer the oldest
    net.order(link.Expect(EPOCH, 1, MAX_EXPECTED, 1))
    expected = [request for request in range(MAX_EXPECTED + 1) if takes(net, 1, request)]
    assert expected == [0, *range(2, MAX_EXPECTED + 1)]


def test_nothing_is_expected_of_whoever_has_gone(net: Net) -> None:
    net.order(link.Expect(EPOCH, 1, 7, 1), link.Expect(EPOCH, 2, 8, 1))
    info = net.infos[1]
    net.leave(1)
    net.infos[1] = info  # numbers are not given twice: this only asks what is kept
    assert not takes(net, 1, 7)
    assert takes(net, 2, 8)
    assert net.peering._expected.keys() == {8}


# -- consensus --------------------------------------------------------------------------------


def test_consensus_is_told_who_is_here(net: Net) -> None:
    net.join(4, height=9)
    assert net.heard.take() == [link.Peers(EPOCH, ((1, 0), (2, 0), (3, 0), (4, 9)))]
    net.leave(2)
    net.turn()
    assert net.heard.take() == [link.Peers(EPOCH, ((1, 0), (3, 0), (4, 9)))]
    net.infos[3] = replace(net.infos[3], height=12)
    net.say(3, FrameType.STATUS, bytes(8))
    net.turn()
    assert net.heard.take() == [link.Peers(EPOCH, ((1, 0), (3, 12), (4, 9)))]
    net.turn()
    assert net.heard.take() == []


def test_what_was_lost_is_told_again(net: Net) -> None:
    net.heard.full = True
    net.join(4)
    assert net.heard.take() == []
    net.heard.full = False
    net.turn()
    assert [type(word) for word in net.heard.take()] == [link.Peers]


def test_frames_of_block_exchange_go_to_consensus(net: Net) -> None:
    for kind in (FrameType.COMPACT, FrameType.GET_BLOCK):
        net.say(2, kind, b"whatever")
        assert net.heard.take() == [link.Frame(EPOCH, 2, int(kind), b"whatever")]


def test_answers_go_to_consensus_if_they_were_asked_for(net: Net) -> None:
    net.order(link.Expect(EPOCH, 2, 0x01020304, 5))
    for kind in (FrameType.BLOCK, FrameType.NOT_FOUND):
        body = b"\x04\x03\x02\x01 and more"
        for peer, number in ((1, body), (2, b"\0" + body), (2, b""), (2, body)):
            net.say(peer, kind, number)
        assert net.heard.take() == [link.Frame(EPOCH, 2, int(kind), body)]


def test_all_strangers_together_ask_little(net: Net) -> None:
    net.infos[3] = replace(net.infos[3], protected=True)
    for _ in range(MAX_QUESTIONS):
        for peer in (1, 2, 3):
            net.say(peer, FrameType.GET_COMPACT, b"which")
    told = [word.peer for word in net.heard.take()]  # type: ignore[union-attr]
    assert told.count(1) + told.count(2) == MAX_QUESTIONS
    assert told.count(3) == MAX_QUESTIONS


def test_a_stranger_who_relays_what_is_no_good_is_ignored_after_a_while(net: Net) -> None:
    net.infos[3] = replace(net.infos[3], protected=True)

    def relays(peer: int, code: Verdict, rounds: int) -> int:
        taken = 0
        for number in range(rounds):
            net.relay(peer, [b"%d %d %d %d" % (peer, code, number, n) for n in range(500)])
            while net.intake.offers:
                offer = net.intake.take()
                taken += len(offer.items)
                offer.answer(*[code] * len(offer.items))
        return taken

    assert relays(1, Verdict.ADMITTED, 20) == 10_000
    assert HOST_ITEMS <= relays(1, Verdict.ORPHANED, 20) < HOST_ITEMS + 1_000
    assert relays(3, Verdict.ORPHANED, 20) == 10_000


def test_a_peer_announces_few_blocks_unless_it_is_known(net: Net) -> None:
    net.infos[2] = replace(net.infos[2], protected=True)
    for _ in range(MAX_ANNOUNCED + 3):
        for peer in (1, 2):
            net.say(peer, FrameType.COMPACT, b"ids")
    told = [word.peer for word in net.heard.take()]  # type: ignore[union-attr]
    assert (told.count(1), told.count(2)) == (MAX_ANNOUNCED, MAX_ANNOUNCED + 3)
    net.now_ns += 1  # and after a while again
    net.turn()
    net.say(1, FrameType.COMPACT, b"ids")
    assert net.heard.take() == [link.Frame(EPOCH, 1, int(FrameType.COMPACT), b"ids")]


def test_a_new_consensus_is_told_everything_and_expects_nothing(net: Net) -> None:
    net.order(link.Expect(EPOCH, 1, 7, 5))
    net.votes(1, vote())
    net.intake.take().answer(GOOD)
    net.turn()
    net.peering.consensus_started()
    net.turn()
    assert net.heard.take() == [link.Peers(EPOCH, ((1, 0), (2, 0), (3, 0)))]
    net.say(1, FrameType.PART, encode_part(7, 0, [b"a"]))
    assert net.intake.offers == []
    net.votes(2, vote())
    assert net.intake.take().items == [vote()]


def test_consensus_has_frames_sent(net: Net) -> None:
    net.order(
        link.Send(EPOCH, 2, int(FrameType.GET_BLOCK), b"one"),
        link.Broadcast(EPOCH, 0, int(FrameType.COMPACT), b"all"),
        link.Broadcast(EPOCH, 1, int(FrameType.COMPACT), b"but"),
        link.Send(EPOCH, 99, int(FrameType.GET_BLOCK), b"who is that?"),
    )
    compact = FrameType.COMPACT
    assert net.turn() == {
        1: [(compact, b"all")],
        2: [(FrameType.GET_BLOCK, b"one"), (compact, b"all"), (compact, b"but")],
        3: [(compact, b"all"), (compact, b"but")],
    }


def test_consensus_blames(net: Net) -> None:
    net.order(link.Blame(EPOCH, 3, 40, "slow"))
    assert net.hub.blamed == [(3, 40, "slow")]


def test_consensus_has_messages_checked(net: Net) -> None:
    net.order(link.Check(EPOCH, 0, certified()), link.Check(EPOCH, 12, certified(2)))
    assert [(each.items, each.priority, each.label) for each in net.intake.offers] == [
        ([certified()], REQUESTED, Label(ItemKind.MESSAGE, 1)),
        ([certified(2)], REQUESTED, Label(ItemKind.MESSAGE, 13)),
    ]
    for offer in net.intake.offers:
        offer.answer(Verdict.BAD_SIGNATURE)  # for consensus to act on
    assert net.hub.blamed == []
    assert net.turn() == {}


@pytest.mark.parametrize("epoch", [EPOCH - 1, EPOCH + 1])
def test_what_was_said_to_another_life_is_ignored(net: Net, epoch: int) -> None:
    net.order(
        link.Send(epoch, 2, int(FrameType.GET_BLOCK), b"one"),
        link.Broadcast(epoch, 0, int(FrameType.COMPACT), b"all"),
        link.Blame(epoch, 3, 100, "somebody else"),
        link.Expect(epoch, 1, 7, 5),
        link.Check(epoch, 1, certified()),
        link.Height(epoch, 5, False),
    )
    net.say(1, FrameType.PART, encode_part(7, 0, [b"a"]))
    assert net.turn() == {}
    assert net.hub.blamed == []
    assert net.intake.offers == []
    assert net.hub.height == 0


def test_bulk_is_read_while_there_is_room(net: Net) -> None:
    net.peering.after_inputs(net.now_ns, bulk_open=False)
    assert not net.hub.bulk_open
    net.turn()
    assert net.hub.bulk_open
    net.peering.close()
    assert net.hub.closed
