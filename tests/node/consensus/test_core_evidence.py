"""Lies: two votes, two proposals, proposals that nobody may make, and more than a third lying."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from cores import (
    A,
    B,
    C,
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

from node.consensus.effects import (
    Commit,
    Halt,
    PersistBody,
    ReportMisbehaviour,
    RequestBlock,
)
from node.consensus.messages import (
    BlockJudged,
    BodyDurable,
    Certified,
    Committed,
    Input,
    Proposal,
    TimerKind,
    Vote,
)
from node.consensus.votes import PAST_HEIGHTS


@pytest.mark.parametrize("make", [prevote, precommit])
def test_two_votes_are_reported_once(make: type) -> None:
    told = in_round_0()
    told.tell(make(1, A))
    assert told.tell(make(1, None)) == [ReportMisbehaviour(make(1, A), make(1, None))]
    assert told.changes(make(1, None), make(1, B)) == 0
    assert told.tell(make(1, B)) == []


def test_a_second_vote_does_not_count() -> None:
    told = in_round_0()
    told.tell(proposal(A), *body(A), prevote(1, B), *prevotes([0, 2], A))
    told.tell(prevote(1, A))
    assert told.core.locked_round == -1


def test_lies_are_reported_after_the_decision_too() -> None:
    told = in_round_0()
    told.tell(proposal(A), *body(A), *precommits([1, 2, 3], A))
    assert told.tell(precommit(1, None)) == [
        ReportMisbehaviour(precommit(1, A), precommit(1, None))
    ]


@pytest.mark.parametrize("make", [prevote, precommit])
@pytest.mark.parametrize("later", range(1, PAST_HEIGHTS + 2))
def test_a_lie_about_a_height_decided_lately_is_reported_once_and_changes_nothing(
    make: Callable[[int, bytes | None], Vote], later: int
) -> None:
    told = in_round_0()
    told.tell(proposal(A), *body(A), *prevotes([1, 2, 3], A), *precommits([1, 2, 3], A))
    told.tell(*(Committed(height) for height in range(1, 1 + later)))
    changes = told.core.changes
    effects = told.tell(make(1, None), make(1, B))
    reported = [each for each in effects if isinstance(each, ReportMisbehaviour)]
    lie = ReportMisbehaviour(make(1, A), make(1, None))
    assert reported == ([lie] if later <= PAST_HEIGHTS else [])
    assert told.core.changes == changes


def test_a_second_proposal_for_a_height_decided_lately_is_reported() -> None:
    told = in_round_0()
    told.tell(proposal(A), *body(A), *precommits([1, 2, 3], A))
    told.tell(Committed(1))
    assert told.tell(proposal(B)) == [ReportMisbehaviour(proposal(A), proposal(B))]
    assert told.tell(proposal(C)) == []


def test_the_second_vote_of_a_certificate_is_reported_and_counts() -> None:
    told = in_round_0()
    told.tell(proposal(A), *body(A), prevote(1, B))
    assert told.tell(Certified(polka(A))) == [
        ReportMisbehaviour(prevote(1, B), prevote(1, A)),
        sign(precommit(0, A)),
    ]


def test_two_proposals_are_reported_once_and_the_first_is_voted_on() -> None:
    told = in_round_0()
    told.tell(proposal(A))
    assert told.tell(proposal(B)) == [
        ReportMisbehaviour(proposal(A), proposal(B)),
        RequestBlock(1, B),
    ]
    assert told.changes(proposal(B), proposal(A), proposal(C)) == 0
    assert told.tell(BlockJudged(1, B, True)) == [PersistBody(1, B)]
    assert told.tell(BlockJudged(1, A, True)) == [PersistBody(1, A), sign(prevote(0, A))]


def test_a_second_proposal_can_still_be_precommitted() -> None:
    told = in_round_0()
    told.tell(proposal(A), proposal(B), *body(A), *body(B))
    assert told.tell(*prevotes([1, 2, 3], B)) == [sign(precommit(0, B))]
    assert (told.core.locked_value, told.core.valid_value) == (B, B)


def test_a_second_valid_round_is_a_second_proposal() -> None:
    told = in_round(2)
    first, second = proposal(A, 2, 0), proposal(A, 2, 1)
    told.tell(first)
    assert told.tell(second) == [ReportMisbehaviour(first, second)]


def test_a_polka_that_comes_with_a_repetition_of_a_proposal_is_used() -> None:
    told = in_round(1)
    told.tell(proposal(A, 1, 0), *body(A))
    assert told.tell(proposal(A, 1, 0, polka(A))) == [sign(prevote(0, A, 1))]


def test_only_its_proposer_proposes_in_a_round() -> None:
    told = in_round_0()
    strangers: list[Input] = [proposal(A, validator=each) for each in (-1, 0, 1, 3, 4)]
    assert told.changes(*strangers) == 0


@pytest.mark.parametrize(
    "made_up",
    [
        proposal(A, 2, 2),
        proposal(A, 2, 3),
        proposal(A, 2, -2),
        proposal(A, 2, -1, polka(A)),
        proposal(A, 2, 1, polka(A)),
        proposal(A, 2, 0, polka(B)),
        proposal(A, 2, 0, decision(A)),
        proposal(A, 2, 0, polka(A, 0, [1, 2])),
        Proposal(1, -1, A, -1, 0),
        Proposal(1, -1, A, -2, 0),
    ],
)
def test_proposals_that_nobody_may_make_are_ignored(made_up: Proposal) -> None:
    told = in_round(2)
    assert told.changes(made_up) == 0


def test_a_polka_of_another_height_does_not_belong() -> None:
    told = in_round(2)
    other = Certified(polka(A)).certificate
    assert told.changes(proposal(A, 2, 0, type(other)(other.type, 2, 0, A, other.signatures))) == 0


@pytest.mark.parametrize("vote", [prevote(4, A), prevote(-1, A), precommit(1, A, -1)])
def test_votes_of_nobody_are_ignored(vote: Vote) -> None:
    assert in_round_0().changes(vote) == 0


# -- more than a third -------------------------------------------------------------------------


def test_two_decisions_stop_everything() -> None:
    told = in_round_0()
    told.tell(*precommits([1, 2, 3], A))
    (effect,) = [
        each
        for each in told.tell(Certified(decision(B, 0, [0, 1, 2])))
        if not isinstance(each, ReportMisbehaviour)
    ]
    reason = "two blocks are decided at height 1"
    assert effect == Halt(reason, (decision(A), decision(B, 0, [0, 1, 2])))
    dead: list[Input] = [*body(A), *body(B), Committed(1), elapsed(TimerKind.RESEND), *drawn(5)]
    assert told.tell(*dead) == []
    assert told.changes(*dead) == 0


def test_two_decisions_of_two_rounds_stop_everything_even_after_the_commit() -> None:
    told = in_round_0()
    told.tell(proposal(A), *body(A), *precommits([1, 2, 3], A))
    assert told.tell(*precommits([1, 2, 3], B, 1)) == [
        Halt("two blocks are decided at height 1", (decision(A), decision(B, 1)))
    ]


def test_one_decision_in_two_rounds_is_one() -> None:
    told = in_round_0()
    told.tell(*precommits([1, 2, 3], A), *precommits([1, 2, 3], A, 1))
    assert told.tell(*body(A)) == [PersistBody(1, A), Commit(1, 0, A, decision(A))]


@pytest.mark.parametrize("judged_first", [True, False])
def test_the_decision_of_an_invalid_block_stops_everything(judged_first: bool) -> None:
    told = in_round_0()
    inputs: list[Input] = [*precommits([1, 2, 3], A), BlockJudged(1, A, False)]
    effects = told.tell(*(reversed(inputs) if judged_first else inputs))
    assert effects[-1] == Halt("the block decided at height 1 is invalid", (decision(A),))
    assert told.tell(BodyDurable(1, A), elapsed(TimerKind.RESEND)) == []
