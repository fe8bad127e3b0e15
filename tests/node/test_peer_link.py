"""What consensus says to net, and what it takes for said to itself."""

from __future__ import annotations

import pytest

from node.consensus.messages import Certificate, Certified, Vote, VoteType
from node.consensus.wire import decode
from node.network import link
from node.network.frames import FrameType
from node.peer_frames import unpack_messages
from node.peer_link import PeerLink

EPOCH = 4
VOTE = Vote(VoteType.PREVOTE, 3, 0, b"v" * 32, 1, b"s" * 64)
CERTIFIED = Certified(Certificate(VoteType.PRECOMMIT, 3, 0, b"v" * 32, ((0, b"s" * 64),)))


class Said:
    """The link `say`."""

    def __init__(self) -> None:
        self.words: list[link.Say] = []

    def send(self, frame: bytes) -> None:
        self.words.append(link.decode_say(frame))

    def take(self) -> list[link.Say]:
        words, self.words = self.words, []
        return words


@pytest.fixture
def said() -> Said:
    return Said()


@pytest.fixture
def to_net(said: Said) -> PeerLink:
    made = PeerLink(said.send, first_check=100)
    made.attached(EPOCH)
    made.heights = {1: 5}
    return made


def test_every_word_carries_the_epoch(said: Said, to_net: PeerLink) -> None:
    to_net.send(7, FrameType.GET_BLOCK, b"body")
    to_net.broadcast(FrameType.COMPACT, b"all")
    to_net.expect(12, 7, 30)
    to_net.blame(7, 100, "a lie")
    to_net.height(9, behind=False)
    assert said.take() == [
        link.Send(EPOCH, 7, int(FrameType.GET_BLOCK), b"body"),
        link.Broadcast(EPOCH, 0, int(FrameType.COMPACT), b"all"),
        link.Expect(EPOCH, 7, 12, 30),
        link.Blame(EPOCH, 7, 100, "a lie"),
        link.Height(EPOCH, 9, False),
    ]


def test_a_new_net_is_another_epoch_and_connected_to_nobody(said: Said, to_net: PeerLink) -> None:
    to_net.attached(EPOCH + 1)
    assert to_net.heights == {}
    to_net.height(9, behind=False)
    assert said.take() == [link.Height(EPOCH + 1, 9, False)]


def test_words_of_another_life_are_dropped(to_net: PeerLink) -> None:
    for epoch in (EPOCH - 1, EPOCH + 1):
        assert to_net.read(link.encode(link.Peers(epoch, ((1, 2),)))) is None
        assert to_net.read(link.encode(link.Frame(epoch, 1, 2, b"x"))) is None
    word = link.Frame(EPOCH, 1, 2, b"x")
    assert to_net.read(link.encode(word)) == word


def test_nothing_is_said_to_nobody(said: Said, to_net: PeerLink) -> None:
    to_net.heights = {}
    to_net.broadcast(FrameType.COMPACT, b"all")
    to_net.say_all(VOTE)
    assert said.take() == []


@pytest.mark.parametrize("message", [VOTE, CERTIFIED])
def test_messages_of_agreement_go_to_everybody(
    said: Said, to_net: PeerLink, message: Vote | Certified
) -> None:
    to_net.say_all(message)
    (word,) = said.take()
    assert isinstance(word, link.Broadcast)
    assert (word.but, word.type) == (0, FrameType.AGREEMENT)
    (data,) = unpack_messages(memoryview(word.body))
    assert decode(data) == message


def test_every_check_has_a_tag_of_its_own(said: Said, to_net: PeerLink) -> None:
    tags = [to_net.check(CERTIFIED) for _ in range(3)]
    words = said.take()
    assert [word.tag for word in words if isinstance(word, link.Check)] == tags
    assert [decode(word.message) for word in words if isinstance(word, link.Check)] == (
        [CERTIFIED] * 3
    )
    assert len(set(tags)) == 3


def test_tags_of_two_lives_differ_and_stay_small(said: Said) -> None:
    one, other = PeerLink(said.send, 1_000), PeerLink(said.send, 2_000)
    assert one.check(CERTIFIED) != other.check(CERTIFIED)
    last = PeerLink(said.send, 2**31 - 2)
    assert [last.check(CERTIFIED) for _ in range(3)] == [2**31 - 1, 0, 1]
    assert 0 <= PeerLink(said.send, 10**18).check(CERTIFIED) < 2**31
