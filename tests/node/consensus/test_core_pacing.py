"""When a height begins: at its pace, and only when a block is wanted."""

from __future__ import annotations

import pytest
from cores import (
    TIMEOUTS,
    A,
    Told,
    decision,
    elapsed,
    in_round_0,
    polka,
    precommit,
    prevote,
    proposal,
)

from node.consensus.core import Core, Step, Timeouts
from node.consensus.effects import AwaitTransactions, BuildBlock, SetTimer
from node.consensus.messages import (
    Certified,
    Input,
    Started,
    Timer,
    TimerKind,
    TransactionsWaiting,
)
from node.consensus.validators import ValidatorSet

ROUND_0 = SetTimer(Timer(TimerKind.PROPOSE, 1, 0), TIMEOUTS.propose_ms)
EMPTY = SetTimer(Timer(TimerKind.EMPTY, 1), TIMEOUTS.empty_pace_ms - TIMEOUTS.pace_ms)

SAID = [
    prevote(3, None),
    precommit(1, A),
    proposal(A),
    prevote(1, A, 1),
    proposal(A, 7, validator=0),
]


def test_the_pace_runs_before_transactions_are_awaited() -> None:
    told = Told()
    assert told.tell(elapsed(TimerKind.PACE)) == [AwaitTransactions(1), EMPTY]
    assert (told.core.round, told.core.step) == (-1, Step.NEW_HEIGHT)
    assert told.changes(elapsed(TimerKind.PACE)) == 0


@pytest.mark.parametrize("wanted", [TransactionsWaiting(1), elapsed(TimerKind.EMPTY)])
def test_a_block_is_wanted_when_there_is_something_or_was_none_for_long(wanted: Input) -> None:
    told = Told(me=2)
    told.tell(elapsed(TimerKind.PACE))
    assert told.tell(wanted) == [ROUND_0, BuildBlock(1, 0)]
    assert (told.core.round, told.core.step) == (0, Step.PROPOSE)
    assert told.changes(TransactionsWaiting(1), elapsed(TimerKind.EMPTY)) == 0


@pytest.mark.parametrize("said", SAID)
def test_whoever_hears_anything_after_the_pace_begins(said: Input) -> None:
    told = Told()
    told.tell(elapsed(TimerKind.PACE))
    assert ROUND_0 in told.tell(said)
    assert told.core.round == 0


@pytest.mark.parametrize("said", SAID)
def test_whoever_heard_anything_before_the_pace_begins_with_it(said: Input) -> None:
    told = Told()
    assert ROUND_0 not in told.tell(said)
    assert told.core.round == -1
    assert told.tell(elapsed(TimerKind.PACE))[:3] == [AwaitTransactions(1), EMPTY, ROUND_0]


@pytest.mark.parametrize(
    "unheard",
    [
        prevote(4, None),
        proposal(A, validator=1),
        prevote(1, None, height=2),
        TransactionsWaiting(2),
        elapsed(TimerKind.EMPTY, height=2),
        Certified(polka(A, 0, [1])),
    ],
)
def test_what_is_not_kept_wakes_nobody(unheard: Input) -> None:
    told = Told()
    told.tell(elapsed(TimerKind.PACE))
    assert told.changes(unheard) == 0
    assert told.core.round == -1


def test_the_pace_is_kept_though_a_block_is_wanted() -> None:
    told = Told()
    assert told.tell(TransactionsWaiting(1)) == []
    assert told.core.round == -1
    assert ROUND_0 in told.tell(elapsed(TimerKind.PACE))


def test_the_pace_means_nothing_once_a_round_has_begun() -> None:
    told = Told()
    told.tell(prevote(1, None), prevote(2, None))
    assert told.core.round == 0
    assert told.changes(elapsed(TimerKind.PACE), elapsed(TimerKind.EMPTY)) == 0
    assert in_round_0().changes(elapsed(TimerKind.PACE)) == 0


def test_a_decision_needs_no_pace() -> None:
    told = Told()
    told.tell(Certified(decision(A)))
    assert told.core.round == 0


def test_empty_blocks_may_be_as_frequent_as_others() -> None:
    core = Core(ValidatorSet([1]), 0, Timeouts(pace_ms=100, empty_pace_ms=50))
    core.handle(Started(0))
    assert SetTimer(Timer(TimerKind.EMPTY, 1), 0) in core.handle(elapsed(TimerKind.PACE))
