"""Consensus among its peers: who is told what, when, and what belongs to another life of net."""

from __future__ import annotations

from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

import pytest

from node.consensus.messages import Certificate, Certified, VoteType
from node.consensus.wire import encode
from node.network import link
from node.network.frames import FrameType
from node.peer_host import MAX_CHECKS, PeerHost
from node.peer_link import PeerLink

EPOCH = 4
TIP = 11


def certified(height: int) -> Certified:
    return Certified(Certificate(VoteType.PRECOMMIT, height, 0, b"v" * 32, ((0, b"s" * 64),)))


class Exchange:
    """Notes what it is told; `due_ns` is its deadline."""

    def __init__(self, *_: object, **__: object) -> None:
        self.told: list[tuple[Any, ...]] = []
        self.due_ns: int | None = None
        self.behind = False

    def take(self) -> list[tuple[Any, ...]]:
        told, self.told = self.told, []
        return told

    def deadline_ns(self) -> int | None:
        return self.due_ns

    def peer_connected(self, peer: int, height: int, now_ns: int) -> None:
        self.told.append(("connected", peer, height))

    def peer_gone(self, peer: int, now_ns: int) -> None:
        self.told.append(("gone", peer))

    def heard(self, peer: int, kind: int, body: bytes, now_ns: int) -> None:
        self.told.append(("heard", peer, kind, body))

    def fetched(self, tag: int, first: int, items: list[Any], now_ns: int) -> None:
        self.told.append(("fetched", tag, first, items))

    def certificate_verified(self, message: Certified, good: bool, now_ns: int) -> None:
        self.told.append(("verified", message, good))

    def committed(self, height: int, now_ns: int) -> None:
        self.told.append(("committed", height))

    def want(self, height: int, value: bytes, now_ns: int, now_ms: int) -> None:
        self.told.append(("want", height, value))

    def elapse(self, now_ns: int) -> None:
        self.told.append(("elapse", now_ns))


@dataclass
class Taker:
    """Agreement's host."""

    told: list[tuple[Any, ...]] = field(default_factory=list)

    def judged(self, *what: Any) -> None:
        self.told.append(("judged", *what))

    def decided(self, *what: Any) -> None:
        self.told.append(("decided", *what))

    def proven(self, *what: Any) -> None:
        self.told.append(("proven", *what))


class Log:
    def warning(self, event: str, **_: object) -> None:
        pass

    info = warning


class Host:
    """A host among parts that note what they are told."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("node.peer_host.Exchange", Exchange)
        self.words: list[link.Say] = []
        self.taker = Taker()
        self.peers = PeerHost(
            self.taker,
            PeerLink(lambda frame: self.words.append(link.decode_say(frame)), first_check=0),
            None,  # type: ignore[arg-type]
            SimpleNamespace(tip=SimpleNamespace(height=TIP)),  # type: ignore[arg-type]
            None,  # type: ignore[arg-type]
            None,  # type: ignore[arg-type]
            Log(),
            lambda frame: None,
            confirm=self.confirm,
        )
        self.disputed: set[bytes] = set()
        self.exchange: Exchange = self.peers._exchange  # type: ignore[assignment]
        self.peers.net_attached(EPOCH)

    def confirm(self, data: bytes) -> bool:
        return data not in self.disputed

    def take(self) -> list[link.Say]:
        words, self.words = self.words, []
        return words

    def hear(self, word: link.Heard) -> None:
        self.peers.heard(link.encode(word))

    def meet(self, *peers: tuple[int, int], epoch: int = EPOCH) -> None:
        self.hear(link.Peers(epoch, peers))


@pytest.fixture
def host(monkeypatch: pytest.MonkeyPatch) -> Host:
    """Begun, with nobody there."""
    made = Host(monkeypatch)
    made.peers.start(0)
    made.take()
    return made


def test_nothing_is_exchanged_before_agreement_has_begun(monkeypatch: pytest.MonkeyPatch) -> None:
    host = Host(monkeypatch)
    host.meet((1, 5), (2, 6))
    host.hear(link.Frame(EPOCH, 1, int(FrameType.COMPACT), b"x"))
    host.exchange.due_ns = 0
    host.peers.elapse(10)
    assert host.peers.deadline_ns() is None
    assert host.exchange.take() == []
    host.peers.start(0)
    assert host.exchange.take() == [("connected", 1, 5), ("connected", 2, 6)]


def test_a_net_is_told_how_high_the_store_is(monkeypatch: pytest.MonkeyPatch) -> None:
    host = Host(monkeypatch)
    assert host.take() == [link.Height(EPOCH, TIP, False)]


def test_the_table_is_compared_with_the_last_one(host: Host) -> None:
    host.meet((1, 5), (2, 6))
    assert host.exchange.take() == [("connected", 1, 5), ("connected", 2, 6)]
    host.meet((1, 5), (2, 6))
    assert host.exchange.take() == []
    host.meet((1, 5), (2, 7), (3, 0))
    assert host.exchange.take() == [("connected", 2, 7), ("connected", 3, 0)]
    host.meet((3, 0))
    assert sorted(host.exchange.take()) == [("gone", 1), ("gone", 2)]


def test_words_of_another_life_are_dropped(host: Host) -> None:
    for epoch in (EPOCH - 1, EPOCH + 1):
        host.meet((1, 5), epoch=epoch)
        host.hear(link.Frame(epoch, 1, int(FrameType.COMPACT), b"x"))
    assert host.exchange.take() == []


def test_frames_go_to_block_exchange(host: Host) -> None:
    host.meet((1, 5))
    host.exchange.take()
    host.hear(link.Frame(EPOCH, 1, int(FrameType.COMPACT), b"x"))
    assert host.exchange.take() == [("heard", 1, int(FrameType.COMPACT), b"x")]


def test_a_new_net_is_connected_to_nobody_and_knows_no_check(host: Host) -> None:
    host.meet((1, 5))
    host.peers.verify_certificate(1, certified(12))
    (check,) = [word for word in host.take() if isinstance(word, link.Check)]
    host.exchange.take()
    host.peers.net_attached(EPOCH + 1)
    assert host.exchange.take() == [("gone", 1)]
    assert host.take()[-1] == link.Height(EPOCH + 1, TIP, False)
    host.peers.checked(check.tag, good=True)
    assert host.exchange.take() == []
    host.meet((1, 5), epoch=EPOCH)
    assert host.exchange.take() == []
    host.meet((1, 5), epoch=EPOCH + 1)
    assert host.exchange.take() == [("connected", 1, 5)]


@pytest.mark.parametrize("good", [True, False])
def test_a_verdict_goes_to_its_certificate_once(host: Host, good: bool) -> None:
    host.peers.verify_certificate(1, certified(12))
    host.peers.verify_certificate(2, certified(13))
    one, other = [word.tag for word in host.take() if isinstance(word, link.Check)]
    host.peers.checked(other, good=good)
    host.peers.checked(other, good=not good)
    assert host.exchange.take() == [("verified", certified(13), good)]
    host.peers.checked(one, good=good)
    host.peers.checked(99, good=True)
    assert host.exchange.take() == [("verified", certified(12), good)]


def test_a_certificate_that_is_not_confirmed_is_bad(host: Host) -> None:
    host.peers.verify_certificate(1, certified(12))
    (check,) = [word for word in host.take() if isinstance(word, link.Check)]
    host.disputed.add(encode(certified(12)))
    host.peers.checked(check.tag, good=True)
    assert host.exchange.take() == [("verified", certified(12), False)]


def test_checks_are_bounded_and_the_oldest_gives_way(host: Host) -> None:
    for height in range(MAX_CHECKS + 1):
        host.peers.verify_certificate(1, certified(height))
    tags = [word.tag for word in host.take() if isinstance(word, link.Check)]
    assert len(tags) == MAX_CHECKS + 1
    for tag in tags:
        host.peers.checked(tag, good=True)
    assert host.exchange.take() == [
        ("verified", certified(height), True) for height in range(1, MAX_CHECKS + 1)
    ]


def test_a_commit_is_told_to_net_and_to_block_exchange(host: Host) -> None:
    host.peers.committed(12)
    assert host.take() == [link.Height(EPOCH, 12, False)]
    assert host.exchange.take() == [("committed", 12)]
    host.exchange.behind = True
    host.peers.committed(13)
    assert host.take() == [link.Height(EPOCH, 13, True)]


def test_block_exchange_speaks_to_net(host: Host) -> None:
    host.meet((1, 5))
    host.peers.send(1, FrameType.GET_BLOCK, b"a")
    host.peers.broadcast(FrameType.COMPACT, b"b")
    host.peers.expect(30, 1, 4)
    host.peers.blame(1, 100, "a lie")
    assert host.take() == [
        link.Send(EPOCH, 1, int(FrameType.GET_BLOCK), b"a"),
        link.Broadcast(EPOCH, 0, int(FrameType.COMPACT), b"b"),
        link.Expect(EPOCH, 1, 30, 4),
        link.Blame(EPOCH, 1, 100, "a lie"),
    ]


def test_block_exchange_speaks_to_agreement_and_back(host: Host) -> None:
    host.peers.judged(12, b"v", None)
    host.peers.decided(certified(12), None)
    host.peers.proven(certified(13))
    assert host.taker.told == [
        ("judged", 12, b"v", None),
        ("decided", certified(12), None),
        ("proven", certified(13)),
    ]
    host.peers.want(12, b"v")
    host.peers.fetched(3, 4, [None])
    assert host.exchange.take() == [("want", 12, b"v"), ("fetched", 3, 4, [None])]


def test_time_passes_for_block_exchange_when_it_is_due(host: Host) -> None:
    host.exchange.due_ns = 100
    assert host.peers.deadline_ns() == 100
    host.peers.elapse(99)
    assert host.exchange.take() == []
    host.peers.elapse(100)
    assert host.exchange.take() == [("elapse", 100)]
    host.exchange.due_ns = None
    host.peers.elapse(10**18)
    assert host.exchange.take() == []
