"""A consensus core and what it can be told, in few words.

With four validators of equal power the proposers of height 1 are 2, 1, 3, 0, 2 in rounds 0 to 4,
and three votes are a quorum. Signatures are only told apart, nobody checks them.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from node.consensus.certificate import make_certificate
from node.consensus.core import Core, Timeouts
from node.consensus.effects import Effect, SignAndBroadcast
from node.consensus.messages import (
    BlockJudged,
    BodyDurable,
    Certificate,
    Input,
    Proposal,
    Started,
    Timer,
    TimerElapsed,
    TimerKind,
    TransactionsWaiting,
    Vote,
    VoteType,
)
from node.consensus.validators import ValidatorSet

A, B, C = b"a" * 32, b"b" * 32, b"c" * 32
FOUR = (1, 1, 1, 1)
PROPOSERS = (2, 1, 3, 0, 2)  # of four validators at height 1, by round
TIMEOUTS = Timeouts()


def signature(validator: int) -> bytes:
    return bytes([validator % 256]) * 64


def proposal(
    value: bytes,
    round_: int = 0,
    valid_round: int = -1,
    polka: Certificate | None = None,
    *,
    validator: int | None = None,
    height: int = 1,
) -> Proposal:
    by = PROPOSERS[round_] if validator is None else validator
    return Proposal(height, round_, value, valid_round, by, polka, signature(by))


def prevote(validator: int, value: bytes | None, round_: int = 0, *, height: int = 1) -> Vote:
    return Vote(VoteType.PREVOTE, height, round_, value, validator, signature(validator))


def precommit(validator: int, value: bytes | None, round_: int = 0, *, height: int = 1) -> Vote:
    return Vote(VoteType.PRECOMMIT, height, round_, value, validator, signature(validator))


def prevotes(validators: Iterable[int], value: bytes | None, round_: int = 0) -> list[Vote]:
    return [prevote(each, value, round_) for each in validators]


def precommits(validators: Iterable[int], value: bytes | None, round_: int = 0) -> list[Vote]:
    return [precommit(each, value, round_) for each in validators]


def polka(value: bytes, round_: int = 0, validators: Iterable[int] = (1, 2, 3)) -> Certificate:
    votes = prevotes(validators, value, round_)
    return make_certificate(VoteType.PREVOTE, 1, round_, value, votes)


def decision(value: bytes, round_: int = 0, validators: Iterable[int] = (1, 2, 3)) -> Certificate:
    votes = precommits(validators, value, round_)
    return make_certificate(VoteType.PRECOMMIT, 1, round_, value, votes)


def elapsed(kind: TimerKind, round_: int = 0, *, height: int = 1) -> TimerElapsed:
    return TimerElapsed(Timer(kind, height, round_))


def body(value: bytes) -> list[Input]:
    """A valid block's body is here, and durable."""
    return [BlockJudged(1, value, True), BodyDurable(1, value)]


def unsigned(message: Proposal | Vote) -> Proposal | Vote:
    """As the core asks to have it signed."""
    if isinstance(message, Vote):
        return Vote(message.type, message.height, message.round, message.value, message.validator)
    said = message
    return Proposal(
        said.height, said.round, said.value, said.valid_round, said.validator, said.polka
    )


def sign(message: Proposal | Vote) -> SignAndBroadcast:
    """The effect that asks for this message."""
    return SignAndBroadcast(unsigned(message))


class Told:
    """A core at height 1, by default validator 0 of four; `tell` returns all that it asks for."""

    def __init__(self, me: int | None = 0, powers: Sequence[int] = FOUR) -> None:
        self.core = Core(ValidatorSet(powers), me, TIMEOUTS)
        self.core.handle(Started(0))

    def tell(self, *inputs: Input) -> list[Effect]:
        return [effect for each in inputs for effect in self.core.handle(each)]

    def changes(self, *inputs: Input) -> int:
        """By how much the inputs let the count of changes grow."""
        before = self.core.changes
        self.tell(*inputs)
        return self.core.changes - before


def in_round_0(me: int | None = 0, powers: Sequence[int] = FOUR) -> Told:
    """A core that has just begun round 0."""
    told = Told(me, powers)
    told.tell(elapsed(TimerKind.PACE), TransactionsWaiting(1))
    return told


def drawn(round_: int, me: int | None = 0) -> list[Vote]:
    """Precommits of two others, which draw a core into a round."""
    others = [each for each in range(4) if each != me]
    return precommits(others[:2], None, round_)


def in_round(round_: int, me: int | None = 0) -> Told:
    """A core that has just been drawn into a round, out of step PROPOSE of round 0."""
    told = in_round_0(me)
    told.tell(*drawn(round_, me))
    return told
