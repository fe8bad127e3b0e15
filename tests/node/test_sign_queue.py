"""Own messages are asked for one after the other, so that no death of the signer loses one."""

from __future__ import annotations

from node.consensus.messages import Proposal, Vote, VoteType
from node.sign_link import decode_request
from node.sign_queue import SignQueue

VALUE = b"v" * 32


def vote(type_: VoteType, height: int = 1, value: bytes | None = VALUE) -> Vote:
    return Vote(type_, height, 0, value, 0)


def queue() -> tuple[SignQueue, list[Proposal | Vote]]:
    asked: list[Proposal | Vote] = []
    return SignQueue(lambda frame: asked.append(decode_request(frame))), asked


PREVOTE, PRECOMMIT = vote(VoteType.PREVOTE), vote(VoteType.PRECOMMIT)


def test_the_second_is_asked_for_when_the_first_is_answered() -> None:
    waiting, asked = queue()
    waiting.add(PREVOTE, 10)
    waiting.add(PRECOMMIT, 20)
    assert asked == [PREVOTE]
    assert waiting.answered(PREVOTE) == 10
    waiting.ask(0)
    waiting.ask(0)
    assert asked == [PREVOTE, PRECOMMIT]
    assert waiting.answered(PRECOMMIT) == 20
    assert waiting.answered(PRECOMMIT) is None


def test_it_tells_since_when_the_signer_owes_an_answer() -> None:
    waiting, _ = queue()
    assert waiting.asked_ns is None
    waiting.add(PREVOTE, 10)
    waiting.add(PRECOMMIT, 20)
    assert waiting.asked_ns == 10
    waiting.answered(PREVOTE)
    assert waiting.asked_ns is None
    waiting.ask(30)
    assert waiting.asked_ns == 30
    waiting.restart(40)
    assert waiting.asked_ns == 40


def test_a_new_signer_is_asked_for_the_oldest_again() -> None:
    waiting, asked = queue()
    waiting.add(PREVOTE, 0)
    waiting.add(PRECOMMIT, 0)
    waiting.restart(0)
    assert asked == [PREVOTE, PREVOTE]


def test_an_answer_to_a_predecessor_is_none() -> None:
    waiting, asked = queue()
    waiting.add(PREVOTE, 0)
    assert waiting.answered(vote(VoteType.PREVOTE, value=None)) is None
    assert waiting.answered(PRECOMMIT) is None
    waiting.ask(0)
    assert asked == [PREVOTE]


def test_what_is_left_of_a_decided_height_makes_room() -> None:
    waiting, asked = queue()
    waiting.add(PREVOTE, 0)
    later = vote(VoteType.PREVOTE, height=2)
    waiting.add(later, 5)
    assert asked == [PREVOTE, later]
    assert waiting.answered(PREVOTE) is None
    assert waiting.answered(later) == 5


def test_nothing_is_asked_for_while_it_may_not_be_signed() -> None:
    asked: list[Proposal | Vote] = []
    behind = [True]
    waiting = SignQueue(lambda frame: asked.append(decode_request(frame)), lambda: not behind[0])
    waiting.add(PREVOTE, 10)
    waiting.add(PRECOMMIT, 20)
    waiting.ask(30)
    waiting.restart(40)
    assert (asked, waiting.asked_ns) == ([], None)
    behind[0] = False
    assert waiting.answered(PREVOTE) == 10  # by a predecessor's hand, and only that is given up
    waiting.ask(50)
    assert (asked, waiting.asked_ns) == ([PRECOMMIT], 50)
    behind[0] = True  # what the signer has already is answered
    assert waiting.answered(PRECOMMIT) == 20
