"""What agreement is told: the inputs of its state machine, all frozen values.

They come from whoever drives the core (`node.agreement`): signed messages of validators, elapsed
timers, and answers to effects. The names are those of Algorithm 1 of arXiv 1807.04938: a *value* is
a block id (32 bytes), `None` stands for nil. Everything here can be encoded (`node.consensus.wire`)
and is what the write-ahead log holds.

Heights count from 1, rounds from 0. A validator is its index in the genesis' list.
"""

from __future__ import annotations

from enum import IntEnum

import msgspec


class VoteType(IntEnum):
    """The two kinds of vote."""

    PREVOTE = 1
    PRECOMMIT = 2


class TimerKind(IntEnum):
    """What a timer is for."""

    PACE = 1  # the least time between two blocks' proposals
    EMPTY = 2  # from then on a block is wanted even if it is empty
    PROPOSE = 3  # the paper's OnTimeoutPropose
    PREVOTE = 4  # OnTimeoutPrevote
    PRECOMMIT = 5  # OnTimeoutPrecommit
    RESEND = 6  # nothing was decided for a while: say again what was said


class _Message(msgspec.Struct, frozen=True, tag_field="is", array_like=True):
    """Base of all inputs: immutable, compared by content."""


class Timer(msgspec.Struct, frozen=True, array_like=True):
    """What a timer was set for; one that elapses for a height, round or step long left is ignored.

    `round` is 0 for timers that concern a whole height.
    """

    kind: TimerKind
    height: int
    round: int = 0


class Certificate(msgspec.Struct, frozen=True, array_like=True):
    """A quorum's votes for one value in one round: (validator, signature[64]), ascending.

    Of prevotes it justifies a proposal of an earlier round's value (the paper's polka), of
    precommits it proves a decision. Whether it has a quorum, `node.consensus.certificate` tells.
    """

    type: VoteType
    height: int
    round: int
    value: bytes
    signatures: tuple[tuple[int, bytes], ...]


class Proposal(_Message, frozen=True, tag="proposal", array_like=True):
    """PROPOSAL(height, round, value, valid round), its signature checked.

    `valid_round` is -1 for a new value; otherwise `polka` holds the prevotes of that round.
    """

    height: int
    round: int
    value: bytes
    valid_round: int
    validator: int
    polka: Certificate | None = None
    signature: bytes = b""


class Vote(_Message, frozen=True, tag="vote", array_like=True):
    """PREVOTE or PRECOMMIT(height, round, value), its signature checked."""

    type: VoteType
    height: int
    round: int
    value: bytes | None
    validator: int
    signature: bytes = b""


class Certified(_Message, frozen=True, tag="certified", array_like=True):
    """A certificate that somebody sent, its signatures checked: a polka, or a decision."""

    certificate: Certificate


class Started(_Message, frozen=True, tag="started", array_like=True):
    """The node is up, with `height` the last that is committed."""

    height: int


class TimerElapsed(_Message, frozen=True, tag="elapsed", array_like=True):
    """A timer that an effect set has run out."""

    timer: Timer


class TransactionsWaiting(_Message, frozen=True, tag="waiting", array_like=True):
    """The answer to `AwaitTransactions`: there is something to put into a block."""

    height: int


class BlockBuilt(_Message, frozen=True, tag="built", array_like=True):
    """The answer to `BuildBlock`: a valid block to propose."""

    height: int
    round: int
    value: bytes


class BlockJudged(_Message, frozen=True, tag="judged", array_like=True):
    """The answer to `RequestBlock`: the block's body is here, and this is what it is worth."""

    height: int
    value: bytes
    valid: bool


class BodyDurable(_Message, frozen=True, tag="durable", array_like=True):
    """The answer to `PersistBody`: the whole block, witnesses included, is on disk."""

    height: int
    value: bytes


class Committed(_Message, frozen=True, tag="committed", array_like=True):
    """The answer to `Commit`: the block is in the store, durably."""

    height: int


Input = (
    Proposal
    | Vote
    | Certified
    | Started
    | TimerElapsed
    | TransactionsWaiting
    | BlockBuilt
    | BlockJudged
    | BodyDurable
    | Committed
)
