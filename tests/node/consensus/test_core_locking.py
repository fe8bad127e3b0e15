"""What safety rests on: locks, valid values, and what is signed when (lines 22-33, 36-46)."""

from __future__ import annotations

import pytest
from cores import (
    A,
    B,
    C,
    Told,
    body,
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

from node.consensus.core import Step
from node.consensus.effects import PersistBody, RequestBlock, SignAndBroadcast
from node.consensus.messages import BlockJudged, BodyDurable, Certified, Input, TimerKind


def locked_on_a() -> Told:
    """Validator 0, locked on A in round 0, in round 1."""
    told = in_round_0()
    told.tell(proposal(A), *body(A), *prevotes([1, 2, 3], A))
    assert (told.core.locked_round, told.core.locked_value) == (0, A)
    assert (told.core.valid_round, told.core.valid_value) == (0, A)
    told.tell(*precommits([1, 2, 3], None), elapsed(TimerKind.PRECOMMIT))
    assert (told.core.round, told.core.step) == (1, Step.PROPOSE)
    return told


def signed(told: Told, *inputs: Input) -> list[SignAndBroadcast]:
    return [each for each in told.tell(*inputs) if isinstance(each, SignAndBroadcast)]


# -- lines 22-27 -------------------------------------------------------------------------------


def test_an_invalid_value_is_voted_down() -> None:
    told = in_round_0()
    told.tell(proposal(A))
    assert told.tell(BlockJudged(1, A, False)) == [sign(prevote(0, None))]


def test_the_first_verdict_stands() -> None:
    told = in_round_0()
    told.tell(BlockJudged(1, A, False))
    assert told.changes(BlockJudged(1, A, True), BlockJudged(1, A, False)) == 0
    assert told.tell(proposal(A)) == [sign(prevote(0, None))]


def test_what_is_not_judged_in_time_is_voted_down_for_good() -> None:
    told = in_round_0()
    assert told.tell(proposal(A)) == [RequestBlock(1, A)]
    assert told.tell(elapsed(TimerKind.PROPOSE)) == [sign(prevote(0, None))]
    assert told.tell(BlockJudged(1, A, True)) == [PersistBody(1, A)]


def test_the_locked_votes_against_another_value_without_its_body() -> None:
    told = locked_on_a()
    assert told.tell(proposal(B, 1)) == [RequestBlock(1, B), sign(prevote(0, None, 1))]


def test_the_locked_votes_for_its_value_when_it_is_proposed_as_new() -> None:
    told = locked_on_a()
    assert told.tell(proposal(A, 1)) == [sign(prevote(0, A, 1))]


def test_a_proposal_of_another_round_is_not_voted_on() -> None:
    told = in_round(1)
    told.tell(*body(A), *body(B))
    assert told.tell(proposal(A, 0), proposal(B, 2)) == []
    assert told.core.step is Step.PROPOSE


# -- lines 28-33 -------------------------------------------------------------------------------


def test_a_polka_after_the_lock_frees_from_it() -> None:
    told = locked_on_a()
    told.tell(*drawn(2), *body(B))
    assert told.core.round == 2
    repeated = proposal(B, 2, 1, polka(B, 1))
    assert told.tell(repeated) == [sign(prevote(0, B, 2))]
    # the lock itself changes with this round's polka only
    assert (told.core.locked_round, told.core.locked_value) == (0, A)
    assert (told.core.valid_round, told.core.valid_value) == (1, B)
    assert told.tell(*prevotes([1, 2, 3], B, 2)) == [sign(precommit(0, B, 2))]
    assert (told.core.locked_round, told.core.locked_value) == (2, B)
    assert (told.core.valid_round, told.core.valid_value) == (2, B)


def test_a_polka_of_the_round_of_the_lock_frees_too() -> None:
    """Only liars can have brought it about, but it is what the paper says."""
    told = locked_on_a()
    told.tell(*body(B))
    assert signed(told, proposal(B, 1, 0, polka(B, 0))) == [sign(prevote(0, B, 1))]


def test_a_polka_before_the_lock_does_not_free() -> None:
    told = in_round(2)
    told.tell(proposal(A, 2), *body(A), *body(B), *prevotes([1, 2, 3], A, 2))
    assert told.core.locked_round == 2
    told.tell(*drawn(3))
    assert signed(told, proposal(B, 3, 1, polka(B, 1), validator=0)) == [sign(prevote(0, None, 3))]


def test_a_polka_before_the_lock_is_good_for_the_locked_value() -> None:
    told = in_round(2, me=1)
    told.tell(proposal(A, 2), *body(A), *prevotes([0, 2, 3], A, 2))
    told.tell(*drawn(3, me=1))
    assert signed(told, proposal(A, 3, 1, polka(A, 1, [0, 2, 3]))) == [sign(prevote(1, A, 3))]


def test_a_repeated_value_waits_for_its_polka() -> None:
    told = in_round(1)
    told.tell(*body(A))
    assert told.tell(proposal(A, 1, 0)) == []
    assert told.tell(*prevotes([1, 2], A)) == []
    assert told.tell(prevote(3, A)) == [sign(prevote(0, A, 1))]


def test_a_repeated_value_waits_for_its_polka_of_that_round() -> None:
    told = in_round(2)
    told.tell(*body(A), *prevotes([1, 2, 3], A, 0))
    assert told.tell(proposal(A, 2, 1)) == []
    assert told.tell(Certified(polka(A, 1))) == [sign(prevote(0, A, 2))]


def test_a_repeated_value_waits_for_its_body() -> None:
    told = in_round(1)
    assert told.tell(proposal(A, 1, 0, polka(A))) == [RequestBlock(1, A)]
    assert told.tell(BlockJudged(1, A, True)) == [PersistBody(1, A), sign(prevote(0, A, 1))]


def test_a_repeated_value_may_be_invalid() -> None:
    told = in_round(1)
    told.tell(proposal(A, 1, 0, polka(A)))
    assert told.tell(BlockJudged(1, A, False)) == [sign(prevote(0, None, 1))]


def test_the_locked_votes_against_an_old_repetition_without_its_body() -> None:
    told = in_round(2, me=1)
    told.tell(proposal(A, 2), *body(A), *prevotes([0, 2, 3], A, 2))
    told.tell(*drawn(3, me=1))
    repeated = proposal(B, 3, 1, polka(B, 1, [0, 2, 3]))
    assert signed(told, repeated) == [sign(prevote(1, None, 3))]


# -- lines 36-43 -------------------------------------------------------------------------------


def test_no_precommit_before_the_body_is_durable() -> None:
    told = in_round_0()
    told.tell(proposal(A), BlockJudged(1, A, True), BodyDurable(1, B))
    told.tell(*prevotes([1, 2, 3], A))
    assert (told.core.step, told.core.locked_round) == (Step.PREVOTE, -1)
    assert told.tell(BodyDurable(1, A)) == [sign(precommit(0, A))]
    assert (told.core.locked_round, told.core.valid_round) == (0, 0)


def test_no_precommit_before_the_body_is_judged() -> None:
    told = in_round_0()
    told.tell(proposal(A), elapsed(TimerKind.PROPOSE), *prevotes([1, 2, 3], A), BodyDurable(1, A))
    assert told.core.locked_round == -1
    assert told.tell(BlockJudged(1, A, True)) == [PersistBody(1, A), sign(precommit(0, A))]


def test_no_precommit_for_what_is_invalid() -> None:
    told = in_round_0()
    told.tell(proposal(A), BlockJudged(1, A, False), BodyDurable(1, A), *prevotes([1, 2, 3], A))
    assert (told.core.step, told.core.locked_round) == (Step.PREVOTE, -1)


def test_no_precommit_without_the_proposal() -> None:
    told = in_round_0()
    told.tell(*body(A), elapsed(TimerKind.PROPOSE), *prevotes([1, 2, 3], A))
    assert told.core.locked_round == -1
    assert told.tell(proposal(A)) == [sign(precommit(0, A))]


def test_no_precommit_for_two_thirds_or_less() -> None:
    told = in_round_0()
    told.tell(proposal(A), *body(A), *prevotes([0, 1], A))
    assert told.core.locked_round == -1
    told.tell(prevote(2, None), prevote(3, B))
    assert told.core.locked_round == -1


def test_no_precommit_for_another_rounds_polka() -> None:
    told = in_round(1)
    told.tell(proposal(A, 1), *body(A), *prevotes([1, 2, 3], A, 0))
    assert (told.core.step, told.core.locked_round) == (Step.PREVOTE, -1)


def test_a_polka_waits_for_ones_own_prevote() -> None:
    told = in_round_0()
    told.tell(proposal(A), *prevotes([1, 2, 3], A), BodyDurable(1, A))
    assert told.core.step is Step.PROPOSE
    assert signed(told, elapsed(TimerKind.PROPOSE)) == [sign(prevote(0, None))]
    assert signed(told, BlockJudged(1, A, True)) == [sign(precommit(0, A))]


def test_a_polka_after_the_precommit_makes_valid_and_does_not_lock() -> None:
    told = in_round_0()
    told.tell(proposal(A), *body(A), elapsed(TimerKind.PREVOTE))
    assert told.core.step is Step.PRECOMMIT
    assert told.tell(*prevotes([1, 2, 3], A)) == []
    assert (told.core.locked_round, told.core.locked_value) == (-1, None)
    assert (told.core.valid_round, told.core.valid_value) == (0, A)
    assert told.changes(*prevotes([0], A)) == 1  # the vote, and nothing again


def test_a_body_durable_after_the_precommit_makes_valid() -> None:
    told = in_round_0()
    told.tell(proposal(A), BlockJudged(1, A, True), *prevotes([1, 2, 3], A))
    assert told.tell(elapsed(TimerKind.PREVOTE)) == [sign(precommit(0, None))]
    assert told.tell(BodyDurable(1, A)) == []
    assert (told.core.valid_round, told.core.locked_round) == (0, -1)


def test_a_polka_of_a_round_that_is_over_makes_valid_and_does_not_lock() -> None:
    told = in_round_0()
    told.tell(proposal(A), *body(A), *drawn(1), *prevotes([1, 2, 3], A))
    assert (told.core.round, told.core.locked_round) == (1, -1)
    assert (told.core.valid_round, told.core.valid_value) == (0, A)


def test_the_latest_polka_of_a_round_that_is_over_makes_valid() -> None:
    told = in_round_0()
    told.tell(*drawn(3), *body(A), *body(B), *body(C))
    for round_, value, valid in ((1, B, (1, B)), (0, A, (1, B)), (2, C, (2, C))):
        told.tell(Certified(polka(value, round_)))
        assert (told.core.valid_round, told.core.valid_value) == valid


def test_a_block_with_a_polka_is_fetched_even_after_its_round() -> None:
    told = in_round_0()
    told.tell(*drawn(2))
    assert told.tell(Certified(polka(A, 1))) == [RequestBlock(1, A)]
    assert told.core.valid_round == -1
    told.tell(*body(A))
    assert (told.core.valid_round, told.core.valid_value) == (1, A)


# -- lines 44-46 -------------------------------------------------------------------------------


def test_a_quorum_for_nil_is_precommitted() -> None:
    told = in_round_0()
    told.tell(elapsed(TimerKind.PROPOSE), *prevotes([1, 2], None))
    assert told.tell(prevote(3, None)) == [sign(precommit(0, None))]
    assert told.tell(prevote(0, None)) == []


def test_a_quorum_for_nil_waits_for_ones_own_prevote() -> None:
    told = in_round_0()
    assert told.tell(*prevotes([1, 2, 3], None)) == []
    assert told.tell(elapsed(TimerKind.PROPOSE)) == [
        sign(prevote(0, None)),
        sign(precommit(0, None)),
    ]


# -- lines 14-19 -------------------------------------------------------------------------------


@pytest.mark.parametrize("locked", [True, False])
def test_the_valid_value_is_proposed_with_its_polka(locked: bool) -> None:
    told = in_round_0(me=1)
    told.tell(proposal(A), *body(A))
    if not locked:
        told.tell(elapsed(TimerKind.PREVOTE))
    told.tell(*prevotes([0, 2, 3], A), *precommits([0, 2, 3], None))
    assert told.core.locked_value == (A if locked else None)
    effects = told.tell(elapsed(TimerKind.PRECOMMIT))
    repeated = proposal(A, 1, 0, polka(A, 0, [0, 2, 3]))
    assert effects[1:] == [sign(repeated)]
    assert told.tell(repeated) == [sign(prevote(1, A, 1))]


# -- own messages that come late ---------------------------------------------------------------


def test_own_messages_that_come_back_after_their_round() -> None:
    told = in_round_0(me=2)
    told.tell(elapsed(TimerKind.PROPOSE))
    told.tell(*drawn(1, me=2))
    assert (told.core.round, told.core.step) == (1, Step.PROPOSE)
    late: list[Input] = [proposal(A), *body(A), prevote(2, None), precommit(2, None)]
    assert signed(told, *late) == []
    assert (told.core.round, told.core.step) == (1, Step.PROPOSE)


def test_ones_own_vote_counts_when_it_comes_back_and_not_before() -> None:
    told = in_round_0()
    told.tell(proposal(A), *body(A), *prevotes([1, 2], A))
    assert told.core.step is Step.PREVOTE
    assert told.tell(prevote(0, A)) == [sign(precommit(0, A))]
