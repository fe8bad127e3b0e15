"""A height in which all goes well, for proposers, voters, followers and a validator alone."""

from __future__ import annotations

import pytest
from cores import (
    FOUR,
    TIMEOUTS,
    A,
    B,
    Told,
    body,
    decision,
    elapsed,
    in_round_0,
    precommit,
    precommits,
    prevote,
    prevotes,
    proposal,
    sign,
)

from node.consensus.core import Core, Step
from node.consensus.effects import (
    AwaitTransactions,
    BuildBlock,
    Commit,
    PersistBody,
    RequestBlock,
    SetTimer,
)
from node.consensus.messages import (
    BlockBuilt,
    BlockJudged,
    BodyDurable,
    Committed,
    Input,
    Started,
    Timer,
    TimerKind,
    TransactionsWaiting,
)
from node.consensus.validators import ValidatorSet

NEXT_HEIGHT = [
    SetTimer(Timer(TimerKind.PACE, 2), TIMEOUTS.pace_ms),
    SetTimer(Timer(TimerKind.RESEND, 2), TIMEOUTS.resend_ms),
]
PROPOSE_TIMER = SetTimer(Timer(TimerKind.PROPOSE, 1, 0), TIMEOUTS.propose_ms)
PREVOTE_TIMER = SetTimer(Timer(TimerKind.PREVOTE, 1, 0), TIMEOUTS.vote_ms)
PRECOMMIT_TIMER = SetTimer(Timer(TimerKind.PRECOMMIT, 1, 0), TIMEOUTS.vote_ms)


def test_a_voter() -> None:
    told = in_round_0(me=0)
    assert told.core.step is Step.PROPOSE
    assert told.tell(proposal(A)) == [RequestBlock(1, A)]
    assert told.tell(BlockJudged(1, A, True)) == [PersistBody(1, A), sign(prevote(0, A))]
    assert told.core.step is Step.PREVOTE
    assert told.tell(*prevotes([0, 2], A), BodyDurable(1, A)) == []
    assert told.tell(prevote(3, A)) == [sign(precommit(0, A))]
    assert told.core.step is Step.PRECOMMIT
    assert told.tell(*precommits([3, 0], A)) == []
    assert told.tell(precommit(2, A)) == [Commit(1, 0, A, decision(A, 0, [0, 2, 3]))]
    assert told.core.step is Step.COMMIT
    assert told.tell(Committed(1)) == NEXT_HEIGHT
    core = told.core
    assert (core.height, core.round, core.step) == (2, -1, Step.NEW_HEIGHT)
    assert (core.locked_round, core.locked_value) == (-1, None)
    assert (core.valid_round, core.valid_value) == (-1, None)


def test_the_proposer() -> None:
    told = Told(me=2)
    told.tell(elapsed(TimerKind.PACE))
    assert told.tell(TransactionsWaiting(1)) == [PROPOSE_TIMER, BuildBlock(1, 0)]
    assert told.tell(BlockBuilt(1, 0, A)) == [sign(proposal(A)), PersistBody(1, A)]
    assert told.tell(proposal(A)) == [sign(prevote(2, A))]
    assert told.tell(BodyDurable(1, A), *prevotes([2, 0], A)) == []
    assert told.tell(prevote(1, A)) == [sign(precommit(2, A))]
    assert told.tell(*precommits([2, 0, 1], A)) == [Commit(1, 0, A, decision(A, 0, [0, 1, 2]))]


def test_a_follower_signs_nothing_and_decides() -> None:
    told = Told(me=None)
    assert told.tell(elapsed(TimerKind.PACE))[0] == AwaitTransactions(1)
    assert told.tell(proposal(A)) == [RequestBlock(1, A), PROPOSE_TIMER]
    assert told.tell(*body(A)) == [PersistBody(1, A)]
    assert told.core.step is Step.PREVOTE
    assert told.tell(*prevotes([1, 2, 3], A)) == []
    assert (told.core.step, told.core.locked_value) == (Step.PRECOMMIT, A)
    assert told.tell(*precommits([1, 2, 3], A)) == [Commit(1, 0, A, decision(A))]
    assert told.tell(Committed(1)) == NEXT_HEIGHT


def test_a_validator_alone() -> None:
    told = Told(me=0, powers=[5])
    told.tell(elapsed(TimerKind.PACE))
    assert told.tell(TransactionsWaiting(1)) == [PROPOSE_TIMER, BuildBlock(1, 0)]
    mine = proposal(A, validator=0)
    assert told.tell(BlockBuilt(1, 0, A)) == [sign(mine), PersistBody(1, A)]
    assert told.tell(mine) == [sign(prevote(0, A))]
    assert told.tell(prevote(0, A)) == [PREVOTE_TIMER]
    assert told.tell(BodyDurable(1, A)) == [sign(precommit(0, A))]
    assert told.tell(precommit(0, A)) == [Commit(1, 0, A, decision(A, 0, [0]))]


def test_votes_may_come_before_everything() -> None:
    told = in_round_0()
    told.tell(*precommits([1, 2], A), *prevotes([1, 2, 3], A))
    assert told.tell(proposal(A)) == [RequestBlock(1, A)]
    assert told.tell(BodyDurable(1, A)) == []
    assert told.tell(BlockJudged(1, A, True)) == [
        PersistBody(1, A),
        sign(prevote(0, A)),
        sign(precommit(0, A)),
    ]
    assert told.tell(precommit(0, A)) == [Commit(1, 0, A, decision(A, 0, [0, 1, 2]))]


def test_a_decision_needs_no_proposal_and_no_vote_of_ones_own() -> None:
    told = Told()
    assert told.tell(*precommits([1, 2], A)) == [PROPOSE_TIMER]
    assert told.tell(precommit(3, A)) == [RequestBlock(1, A), PRECOMMIT_TIMER]
    assert told.tell(BlockJudged(1, A, True)) == [PersistBody(1, A)]
    assert told.tell(BodyDurable(1, A)) == [Commit(1, 0, A, decision(A))]


def test_a_decision_of_another_round_than_ones_own() -> None:
    told = in_round_0()
    told.tell(proposal(A), *prevotes([1, 2], None, 1), *body(A))
    assert told.core.round == 1
    told.tell(*precommits([1, 2], A, 0))
    assert told.tell(precommit(3, A, 0)) == [Commit(1, 0, A, decision(A))]


def test_a_body_that_is_durable_late_is_committed_late() -> None:
    told = in_round_0()
    told.tell(proposal(A), BlockJudged(1, A, True), *prevotes([1, 2, 3], A))
    told.tell(*precommits([1, 2, 3], A))
    assert told.core.step is Step.PREVOTE
    assert told.tell(BodyDurable(1, A)) == [Commit(1, 0, A, decision(A))]


def test_rounds_go_on_while_a_decided_body_is_missing() -> None:
    told = in_round_0()
    told.tell(*precommits([1, 2, 3], A))
    told.tell(elapsed(TimerKind.PRECOMMIT, 0))
    assert (told.core.round, told.core.step) == (1, Step.PROPOSE)
    assert told.tell(elapsed(TimerKind.PROPOSE, 1)) == [sign(prevote(0, None, 1))]
    assert told.tell(*body(A)) == [PersistBody(1, A), Commit(1, 0, A, decision(A))]


AFTER = [
    elapsed(TimerKind.PACE),
    elapsed(TimerKind.EMPTY),
    elapsed(TimerKind.PROPOSE),
    elapsed(TimerKind.PREVOTE),
    elapsed(TimerKind.PRECOMMIT),
    TransactionsWaiting(1),
    BlockBuilt(1, 0, B),
    BlockJudged(1, B, True),
    BodyDurable(1, B),
    Started(0),
]


@pytest.mark.parametrize("late", AFTER)
def test_nothing_is_done_after_the_decision(late: Input) -> None:
    told = in_round_0()
    told.tell(proposal(A), *body(A), *precommits([1, 2, 3], A))
    assert told.core.step is Step.COMMIT
    changes = told.core.changes
    assert told.tell(late) == []
    assert told.core.changes == changes
    assert (told.core.round, told.core.step) == (0, Step.COMMIT)


def test_nothing_is_signed_after_the_decision_while_votes_go_on() -> None:
    told = in_round_0()
    told.tell(proposal(A), *body(A), *precommits([1, 2, 3], A))
    late = [
        *prevotes(range(4), A),
        precommit(0, A),
        *precommits([1, 2, 3], None, 1),
        proposal(B, 1),
        *prevotes([1, 2, 3], B, 1),
        *precommits([1, 2, 3], A, 2),
    ]
    assert told.tell(*late) == []
    assert (told.core.round, told.core.step) == (0, Step.COMMIT)


def test_a_height_that_others_committed_is_left() -> None:
    """Blocks may reach the chain by another way than votes; it never goes back."""
    told = in_round_0()
    assert told.tell(Committed(7)) == [
        SetTimer(Timer(TimerKind.PACE, 8), TIMEOUTS.pace_ms),
        SetTimer(Timer(TimerKind.RESEND, 8), TIMEOUTS.resend_ms),
    ]
    assert told.changes(Committed(7), Committed(6), Started(0), Started(6)) == 0
    assert told.core.height == 8


def test_nothing_happens_before_the_start() -> None:
    core = Core(ValidatorSet(FOUR), 0, TIMEOUTS)
    assert (core.height, core.step) == (0, Step.COMMIT)
    assert core.handle(proposal(A)) == []
    assert core.handle(elapsed(TimerKind.PACE)) == []
    assert (core.me, core.n_validators) == (0, 4)
    assert core.handle(Started(0)) == [
        SetTimer(Timer(TimerKind.PACE, 1), TIMEOUTS.pace_ms),
        SetTimer(Timer(TimerKind.RESEND, 1), TIMEOUTS.resend_ms),
    ]
