"""How rounds end and begin: timers (lines 34, 47, 57-67), drawn ahead (55), proposing (11-21)."""

from __future__ import annotations

import pytest
from cores import (
    FOUR,
    A,
    B,
    Told,
    body,
    decision,
    drawn,
    elapsed,
    in_round,
    in_round_0,
    polka,
    precommit,
    precommits,
    prevote,
    prevotes,
    proposal,
    sign,
)

from node.consensus.core import Core, Step, Timeouts
from node.consensus.effects import BuildBlock, Commit, PersistBody, RequestBlock, SetTimer
from node.consensus.messages import (
    BlockBuilt,
    Certified,
    Input,
    Started,
    Timer,
    TimerKind,
)
from node.consensus.validators import ValidatorSet


def timer(kind: TimerKind, round_: int, delay_ms: int) -> SetTimer:
    return SetTimer(Timer(kind, 1, round_), delay_ms)


# -- lines 34-35, 47-48 ------------------------------------------------------------------------


def test_the_prevote_timer_is_set_once_a_round() -> None:
    told = in_round_0()
    told.tell(elapsed(TimerKind.PROPOSE), prevote(1, A), prevote(2, B))
    assert told.tell(prevote(0, None)) == [timer(TimerKind.PREVOTE, 0, 250)]
    assert told.tell(prevote(3, A)) == []


def test_the_prevote_timer_waits_for_ones_own_prevote() -> None:
    told = in_round_0()
    assert told.tell(*prevotes([1, 2], A), prevote(3, B)) == []
    assert told.tell(elapsed(TimerKind.PROPOSE)) == [
        sign(prevote(0, None)),
        timer(TimerKind.PREVOTE, 0, 250),
    ]


def test_a_prevote_timer_is_not_needed_after_the_precommit() -> None:
    told = in_round_0()
    told.tell(proposal(A), *body(A), *prevotes([1, 2], A), elapsed(TimerKind.PREVOTE))
    assert told.core.step is Step.PRECOMMIT
    assert told.tell(prevote(3, B)) == []


def test_the_precommit_timer_is_set_once_a_round_in_any_step() -> None:
    told = in_round_0()
    told.tell(precommit(1, A), precommit(2, None))
    assert told.tell(precommit(3, B)) == [timer(TimerKind.PRECOMMIT, 0, 250)]
    assert told.tell(precommit(0, None)) == []
    assert told.core.step is Step.PROPOSE


def test_a_precommit_timer_is_set_for_the_current_round_only() -> None:
    told = in_round(1)
    assert told.tell(*precommits([1, 2, 3], None)) == []


def test_timeouts_grow_with_the_round() -> None:
    told = in_round_0(me=1)
    assert told.tell(*drawn(3, me=1)) == [timer(TimerKind.PROPOSE, 3, 1000 + 3 * 250)]
    told.tell(elapsed(TimerKind.PROPOSE, 3))
    assert told.tell(prevote(0, A, 3), prevote(2, B, 3), prevote(3, None, 3)) == [
        timer(TimerKind.PREVOTE, 3, 250 + 3 * 125)
    ]
    assert told.tell(precommit(3, None, 3)) == [timer(TimerKind.PRECOMMIT, 3, 250 + 3 * 125)]


def test_timeouts_are_as_configured() -> None:
    timeouts = Timeouts(10, 1, 20, 2, 30, 40, 90)
    core = Core(ValidatorSet(FOUR), 0, timeouts)
    assert list(core.handle(Started(0))) == [
        timer(TimerKind.PACE, 0, 40),
        timer(TimerKind.RESEND, 0, 30),
    ]
    assert timer(TimerKind.EMPTY, 0, 50) in core.handle(elapsed(TimerKind.PACE))
    assert list(core.handle(elapsed(TimerKind.RESEND))) == [timer(TimerKind.RESEND, 0, 30)]
    core.handle(precommit(1, None, 3))
    assert core.handle(precommit(2, None, 3))[0] == timer(TimerKind.PROPOSE, 3, 13)
    assert list(core.handle(precommit(3, None, 3))) == [timer(TimerKind.PRECOMMIT, 3, 26)]


# -- lines 57-67 -------------------------------------------------------------------------------


def test_each_timer_has_its_step() -> None:
    told = in_round_0()
    assert told.tell(elapsed(TimerKind.PREVOTE)) == []
    assert told.tell(elapsed(TimerKind.PROPOSE)) == [sign(prevote(0, None))]
    assert told.core.step is Step.PREVOTE
    assert told.tell(elapsed(TimerKind.PROPOSE)) == []
    assert told.tell(elapsed(TimerKind.PREVOTE)) == [sign(precommit(0, None))]
    assert told.core.step is Step.PRECOMMIT
    assert told.tell(elapsed(TimerKind.PREVOTE), elapsed(TimerKind.PROPOSE)) == []
    assert told.tell(elapsed(TimerKind.PRECOMMIT)) == [timer(TimerKind.PROPOSE, 1, 1250)]
    assert (told.core.round, told.core.step) == (1, Step.PROPOSE)


@pytest.mark.parametrize("step", [Step.PROPOSE, Step.PREVOTE, Step.PRECOMMIT])
def test_a_precommit_timer_ends_a_round_in_any_step(step: Step) -> None:
    told = in_round_0()
    ends = [elapsed(TimerKind.PROPOSE), elapsed(TimerKind.PREVOTE)]
    told.tell(*ends[: step - Step.PROPOSE])
    assert told.core.step is step
    told.tell(elapsed(TimerKind.PRECOMMIT))
    assert told.core.round == 1


@pytest.mark.parametrize(
    ("kind", "before"),
    [
        (TimerKind.PROPOSE, []),
        (TimerKind.PREVOTE, [elapsed(TimerKind.PROPOSE, 1)]),
        (TimerKind.PRECOMMIT, []),
    ],
)
def test_timers_of_other_rounds_and_heights_do_nothing(
    kind: TimerKind, before: list[Input]
) -> None:
    told = in_round(1)
    told.tell(*before)
    others = [elapsed(kind, 0), elapsed(kind, 2), elapsed(kind, 1, height=2), elapsed(kind, -1)]
    assert told.changes(*others) == 0
    assert told.changes(elapsed(kind, 1)) > 0


@pytest.mark.parametrize("kind", [TimerKind.PROPOSE, TimerKind.PREVOTE, TimerKind.PRECOMMIT])
def test_no_round_ends_before_there_is_one(kind: TimerKind) -> None:
    told = Told()
    assert told.changes(elapsed(kind, -1), elapsed(kind, 0)) == 0
    assert (told.core.round, told.core.step) == (-1, Step.NEW_HEIGHT)


# -- lines 55-56 -------------------------------------------------------------------------------


@pytest.mark.parametrize("round_", [0, 1, 7])
def test_a_skip_set_draws_along_whatever_the_pace(round_: int) -> None:
    told = Told()
    told.tell(prevote(1, None, round_))
    assert told.core.round == -1
    told.tell(precommit(3, A, round_))
    assert (told.core.round, told.core.step) == (round_, Step.PROPOSE)


def test_a_skip_set_draws_ahead_out_of_any_step() -> None:
    told = in_round_0()
    told.tell(elapsed(TimerKind.PROPOSE), elapsed(TimerKind.PREVOTE))
    assert told.tell(*drawn(1)) == [timer(TimerKind.PROPOSE, 1, 1250)]
    assert (told.core.round, told.core.step) == (1, Step.PROPOSE)


def test_nobody_is_drawn_back() -> None:
    told = in_round(2)
    told.tell(*prevotes([1, 2, 3], None, 1), *precommits([1, 2, 3], None, 0))
    assert told.core.round == 2


def test_a_proposal_counts_for_a_skip_set() -> None:
    told = in_round_0()
    told.tell(proposal(A, 2))
    assert told.core.round == 0
    told.tell(prevote(1, None, 2))
    assert told.core.round == 2


def test_a_certificate_draws_along() -> None:
    told = in_round_0()
    told.tell(Certified(polka(A, 4)))
    assert told.core.round == 4


def test_one_input_can_take_a_core_through_many_rules() -> None:
    told = in_round_0()
    told.tell(*body(A), proposal(A, 1), *prevotes([1, 2], A, 0))
    told.tell(prevote(3, A, 1), *precommits([1], A, 1))  # a skip set of round 1
    assert told.core.round == 1
    assert told.core.step is Step.PREVOTE
    assert told.tell(Certified(decision(A, 1))) == [Commit(1, 1, A, decision(A, 1))]


# -- lines 11-21 -------------------------------------------------------------------------------


def test_a_new_round_asks_for_the_bodies_of_what_was_proposed_early() -> None:
    told = in_round_0()
    assert told.tell(proposal(A, 1)) == [RequestBlock(1, A)]
    assert told.tell(proposal(B, 4)) == []  # far ahead: nobody fetches for it
    assert told.tell(*drawn(3)) == [
        timer(TimerKind.PROPOSE, 3, 1750),
        BuildBlock(1, 3),
        RequestBlock(1, B),
    ]


def test_bodies_are_asked_for_one_round_ahead() -> None:
    told = in_round_0()
    assert told.tell(proposal(A, 2)) == []
    assert RequestBlock(1, A) in told.tell(*drawn(1))
    told = in_round_0()
    told.tell(proposal(A, 2))
    assert RequestBlock(1, A) not in told.tell(*drawn(3))


def test_a_new_round_votes_on_what_was_proposed_early() -> None:
    told = in_round_0()
    told.tell(proposal(A, 1), *body(A))
    assert told.tell(*drawn(1)) == [timer(TimerKind.PROPOSE, 1, 1250), sign(prevote(0, A, 1))]


def test_a_proposer_that_was_slow_does_not_propose() -> None:
    told = in_round_0(me=2)
    told.tell(elapsed(TimerKind.PROPOSE))
    assert told.changes(BlockBuilt(1, 0, A)) == 0


def test_a_block_built_for_another_round_or_height_is_not_proposed() -> None:
    told = in_round_0(me=1)
    told.tell(*drawn(1, me=1))
    assert told.changes(BlockBuilt(1, 0, A), BlockBuilt(1, 2, A), BlockBuilt(2, 1, A)) == 0
    assert told.tell(BlockBuilt(1, 1, A)) == [sign(proposal(A, 1)), PersistBody(1, A)]


def test_one_block_a_round_is_proposed() -> None:
    told = in_round_0(me=2)
    told.tell(BlockBuilt(1, 0, A))
    assert told.changes(BlockBuilt(1, 0, A), BlockBuilt(1, 0, B)) == 0


def test_whoever_was_not_asked_to_build_does_not_propose() -> None:
    assert in_round_0(me=0).changes(BlockBuilt(1, 0, A)) == 0
    assert in_round_0(me=None).changes(BlockBuilt(1, 0, A)) == 0


def test_a_block_under_way_is_not_for_the_next_round() -> None:
    told = in_round_0(me=2)
    told.tell(*drawn(1, me=2))
    assert told.changes(BlockBuilt(1, 1, A)) == 0


def test_a_built_block_that_is_known_is_persisted_once() -> None:
    told = in_round_0(me=2)
    told.tell(*body(A))
    assert told.tell(BlockBuilt(1, 0, A)) == [sign(proposal(A))]
