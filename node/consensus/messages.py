"""What agreement is told: the inputs of its state machine, all frozen values.

They come from the consensus stage, which turns messages, elapsed timers and finished effects into
them. The names are those of Algorithm 1 of arXiv 1807.04938: a *value* is a block id, `None` stands
for nil.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum


class Step(IntEnum):
    """Where a validator is within a round."""

    NEW_HEIGHT = 0  # the last height is committed, the pace timer runs
    PROPOSE = 1
    PREVOTE = 2
    PRECOMMIT = 3
    COMMIT = 4  # decided, the commit is under way


class VoteType(IntEnum):
    """The two kinds of vote."""

    PREVOTE = 1
    PRECOMMIT = 2


@dataclass(frozen=True, slots=True)
class Timer:
    """What a timer was set for; one that elapses for a step long left is ignored."""

    step: Step
    height: int
    round: int


@dataclass(frozen=True, slots=True)
class Started:
    """The node is up, with `height` the last that is committed."""

    height: int


@dataclass(frozen=True, slots=True)
class TimerElapsed:
    """A timer that an effect set has run out."""

    timer: Timer


@dataclass(frozen=True, slots=True)
class BlockBuilt:
    """The answer to `BuildBlock`: a valid block to propose, or None when there is nothing to put
    in.
    """

    height: int
    round: int
    value: bytes | None


@dataclass(frozen=True, slots=True)
class BodyDurable:
    """The whole block, witnesses included, is on disk."""

    value: bytes


@dataclass(frozen=True, slots=True)
class Proposal:
    """PROPOSAL(height, round, value, valid round), its signature checked."""

    height: int
    round: int
    value: bytes
    valid_round: int
    validator: int


@dataclass(frozen=True, slots=True)
class Vote:
    """PREVOTE or PRECOMMIT(height, round, value), its signature checked."""

    type: VoteType
    height: int
    round: int
    value: bytes | None
    validator: int


@dataclass(frozen=True, slots=True)
class Committed:
    """The answer to `Commit`: the block is in the store, durably."""

    height: int


Input = Started | TimerElapsed | BlockBuilt | BodyDurable | Proposal | Vote | Committed
