"""Proofs that validators give their peers, as ``net`` has them made and checked."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from node.items import ItemKind
from node.network.frames import FrameType
from node.network.handshake import Proof, decode_proof
from node.network.link import Challenge
from node.network.peers import PeerInfo
from node.proofs import ASK_AGAIN_NS, ASK_SELDOM_NS, Claim, Proofs, pack_claim, unpack_claim
from node.verdict import Verdict
from pipeline.tray import Label

ME = b"me".ljust(16)
EPOCH = 4
INFO = PeerInfo(3, b"peer".ljust(16), "10.0.0.3:1", False, 1, 0, "", False)


class Net:
    """The hub, the trays and the link, as far as proofs see of them."""

    def __init__(self) -> None:
        self.sent: list[tuple[int, FrameType, bytes]] = []
        self.protected: list[int] = []
        self.blamed: list[tuple[int, str]] = []
        self.offers: list[tuple[Any, bytes, Label]] = []
        self.words: list[Challenge] = []
        self.room = 1_000
        self.proofs = Proofs(self, self, self.blame, self, ME, EPOCH)  # type: ignore[arg-type]

    def challenge(self, peer: int) -> bytes | None:
        return None if peer == 99 else bytes([peer]) * 32

    def send(self, peer: int, kind: FrameType, body: bytes) -> bool:
        self.sent.append((peer, kind, body))
        return True

    def protect(self, peer: int) -> None:
        self.protected.append(peer)

    def blame(self, peer: int, reason: str) -> None:
        self.blamed.append((peer, reason))

    def offer(
        self, source: bytes, request: Any, payload: memoryview, ends: Any, **how: Any
    ) -> bool:
        assert ends.tolist() == [len(payload)]
        self.offers.append((request, bytes(payload), how["label"]))
        return True

    def info(self, event: str, **values: Any) -> None:
        pass

    def tell(self, word: Challenge) -> bool:
        self.room -= 1
        if self.room >= 0:
            self.words.append(word)
        return self.room >= 0

    def asked(self, now_ns: int = 0) -> list[int]:
        """The peers for which a signature is asked for now."""
        self.proofs.ask(self.tell, now_ns)
        words, self.words = self.words, []
        for word in words:
            assert word == Challenge(EPOCH, word.peer, bytes([word.peer]) * 32, ME)
        return [word.peer for word in words]


def test_each_peer_is_shown_once_who_this_is() -> None:
    net = Net()
    net.proofs.connected(1)
    net.proofs.connected(2)
    assert net.asked() == [1, 2]
    assert net.asked() == []
    net.proofs.signed(1, 7, bytes(64))
    net.proofs.signed(1, 7, bytes(64))
    net.proofs.signed(5, 7, bytes(64))
    ((peer, kind, body),) = net.sent
    assert (peer, kind) == (1, FrameType.PROOF)
    assert decode_proof(body) == Proof(7, bytes(64))


def test_a_new_consensus_is_asked_for_what_is_missing() -> None:
    net = Net()
    for peer in (1, 2, 3):
        net.proofs.connected(peer)
    assert net.asked() == [1, 2, 3]
    net.proofs.signed(1, 7, bytes(64))
    net.proofs.disconnected(2)
    net.proofs.consensus_started()
    assert net.asked() == [3]


def test_a_word_that_is_lost_is_said_again() -> None:
    net = Net()
    net.room = 1
    net.proofs.connected(1)
    net.proofs.connected(2)
    assert net.asked() == [1]
    net.room = 5
    assert net.asked() == [2]


def test_what_brings_no_signature_is_asked_again_and_seldomer() -> None:
    net = Net()
    net.proofs.connected(1)
    assert net.asked(0) == [1]
    net.proofs.connected(2)
    now_ns, pauses_ns = 0, []
    for _ in range(8):
        asked_ns = now_ns
        while 1 not in net.asked(now_ns):
            now_ns += ASK_AGAIN_NS // 2
        pauses_ns.append(now_ns - asked_ns)
    assert pauses_ns[:3] == [ASK_AGAIN_NS, 2 * ASK_AGAIN_NS, 4 * ASK_AGAIN_NS]
    assert pauses_ns[-3:] == [ASK_SELDOM_NS] * 3
    net.proofs.signed(1, 7, bytes(64))
    assert net.asked(now_ns + ASK_SELDOM_NS) == [2]
    net.proofs.connected(3)
    net.proofs.consensus_started()  # then from the beginning
    assert net.asked(now_ns) == [2, 3]
    assert net.asked(now_ns + ASK_AGAIN_NS) == [2, 3]


def test_whoever_has_gone_meanwhile_needs_none() -> None:
    net = Net()
    net.proofs.connected(99)
    assert net.asked() == []
    net.proofs.connected(1)
    net.proofs.disconnected(1)
    assert net.asked() == []


@pytest.mark.parametrize(
    ("code", "protected", "blamed"),
    [
        (Verdict.ADMITTED, True, False),
        (Verdict.BAD_SIGNATURE, False, True),
        (Verdict.BAD_REQUEST, False, True),
        (Verdict.QUARANTINED, False, False),
    ],
)
def test_a_claim_goes_through_a_tray(code: Verdict, protected: bool, blamed: bool) -> None:
    net = Net()
    claim = Claim(7, bytes(64), bytes([1]) * 32, INFO.node_id)
    net.proofs.claimed(INFO, claim)
    ((request, item, label),) = net.offers
    assert unpack_claim(item) == claim
    assert label == Label(ItemKind.PROOF)
    assert not net.protected
    request.answer(0, bytes([code]))
    assert net.protected == [3] * protected
    assert net.blamed == [(3, "is not run by validator 7")] * blamed


@given(st.binary(max_size=200))
def test_only_claims_are_claims(item: bytes) -> None:
    try:
        claim = unpack_claim(item)
    except ValueError:
        assert len(item) != 114
    else:
        assert pack_claim(claim) == item
