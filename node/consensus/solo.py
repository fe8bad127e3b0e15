"""Agreement of one validator with itself: Algorithm 1 of arXiv 1807.04938 for n = 1, f = 0.

With all the power, one vote is a quorum, every round is this validator's to propose, and no round
but the first is ever needed. The order of steps is the full protocol's, and so is the rule that the
whole block is durable before the precommit for it leaves. It takes the inputs of
`node.consensus.messages` and returns the effects of `node.consensus.effects`; it has no clock and
does no I/O.
"""

from __future__ import annotations

from collections.abc import Sequence

from node.consensus.effects import (
    BuildBlock,
    Commit,
    Effect,
    PersistBody,
    SetTimer,
    SignAndBroadcast,
)
from node.consensus.messages import (
    BlockBuilt,
    BodyDurable,
    Committed,
    Input,
    Proposal,
    Started,
    Step,
    Timer,
    TimerElapsed,
    Vote,
    VoteType,
)

VALIDATOR = 0  # the only one
ROUND = 0  # the only one


class SoloAgreement:
    """The state machine of a network of one validator.

    `pace_ms` is the time between proposals; an empty block is proposed only when none was for
    `empty_pace_ms`. Inputs for another height, or for a step that is over, have no effect.
    """

    def __init__(self, pace_ms: int, empty_pace_ms: int) -> None:
        self._pace_ms = pace_ms
        self._turns_to_empty = max(1, -(-empty_pace_ms // pace_ms))
        self._turns = 0  # pace timers since the last block
        self.height = 0  # the height being decided
        self.step = Step.COMMIT
        self._value: bytes | None = None
        self._durable = False

    def handle(self, message: Input) -> Sequence[Effect]:
        """Take one input, change state, and return what must be done, in order."""
        match message:
            case Started(height):
                return self._start_height(height + 1)
            case TimerElapsed(timer):
                return self._propose(timer)
            case BlockBuilt():
                return self._built(message)
            case Proposal():
                return self._prevote(message)
            case BodyDurable(value):
                return self._durably_held(value)
            case Vote():
                return self._count(message)
            case Committed(height):
                return self._start_height(height + 1) if height == self.height else ()

    def _start_height(self, height: int) -> Sequence[Effect]:  # lines 10, 54
        self.height = height
        self.step = Step.NEW_HEIGHT
        self._value = None
        self._durable = False
        self._turns = 0
        return (self._pace(),)

    def _pace(self) -> SetTimer:
        return SetTimer(Timer(Step.NEW_HEIGHT, self.height, ROUND), self._pace_ms)

    def _propose(self, timer: Timer) -> Sequence[Effect]:  # line 14
        if timer.height != self.height or self.step is not Step.NEW_HEIGHT:
            return ()
        self._turns += 1
        return (BuildBlock(self.height, ROUND, self._turns >= self._turns_to_empty),)

    def _built(self, message: BlockBuilt) -> Sequence[Effect]:  # line 19
        if message.height != self.height or self.step is not Step.NEW_HEIGHT:
            return ()
        if message.value is None:
            return (self._pace(),)
        self.step = Step.PROPOSE
        proposal = Proposal(self.height, ROUND, message.value, -1, VALIDATOR)
        return PersistBody(message.value), SignAndBroadcast(proposal)

    def _prevote(self, proposal: Proposal) -> Sequence[Effect]:  # line 22
        if proposal.height != self.height or self.step is not Step.PROPOSE:
            return ()
        self.step = Step.PREVOTE
        self._value = proposal.value
        return (self._vote(VoteType.PREVOTE),)

    def _durably_held(self, value: bytes) -> Sequence[Effect]:
        self._durable = self._durable or self._value in (None, value)
        return self._precommit() if self.step is Step.PRECOMMIT else ()

    def _count(self, vote: Vote) -> Sequence[Effect]:
        if vote.height != self.height or vote.value != self._value or self._value is None:
            return ()
        if vote.type is VoteType.PREVOTE and self.step is Step.PREVOTE:  # line 36
            self.step = Step.PRECOMMIT
            return self._precommit()
        if vote.type is VoteType.PRECOMMIT and self.step is Step.PRECOMMIT:  # line 49
            self.step = Step.COMMIT
            return (Commit(self.height, ROUND, self._value),)
        return ()

    def _precommit(self) -> Sequence[Effect]:  # line 40, once the body is durable
        return (self._vote(VoteType.PRECOMMIT),) if self._durable else ()

    def _vote(self, type_: VoteType) -> SignAndBroadcast:
        return SignAndBroadcast(Vote(type_, self.height, ROUND, self._value, VALIDATOR))
