"""What is bounded: duplicates, the far future, requests; and what counts as a change."""

from __future__ import annotations

import pytest
from cores import (
    A,
    B,
    C,
    body,
    drawn,
    elapsed,
    in_round_0,
    precommit,
    precommits,
    prevote,
    proposal,
)

from node.consensus.effects import PersistBody, RequestBlock
from node.consensus.messages import (
    BlockJudged,
    BodyDurable,
    Input,
    TimerKind,
    TransactionsWaiting,
)


@pytest.mark.parametrize(
    "message",
    [
        prevote(1, A),
        precommit(1, None),
        proposal(A),
        BlockJudged(1, A, True),
        BlockJudged(1, A, False),
        BodyDurable(1, A),
        elapsed(TimerKind.PROPOSE),
        elapsed(TimerKind.PREVOTE),
        TransactionsWaiting(1),
    ],
)
def test_what_is_known_changes_nothing(message: Input) -> None:
    told = in_round_0()
    told.tell(message)
    assert told.changes(message) == 0
    assert told.tell(message) == []


@pytest.mark.parametrize(
    "message",
    [
        prevote(1, A),
        precommit(1, None, 5),
        proposal(A),
        BlockJudged(1, A, True),
        BlockJudged(1, A, False),
        BodyDurable(1, A),
        elapsed(TimerKind.PROPOSE),
        elapsed(TimerKind.PRECOMMIT),
    ],
)
def test_what_is_new_is_a_change(message: Input) -> None:
    assert in_round_0().changes(message) > 0


@pytest.mark.parametrize("message", [BlockJudged(2, A, True), BodyDurable(2, A)])
def test_answers_of_other_heights_are_ignored(message: Input) -> None:
    assert in_round_0().changes(message) == 0


def test_a_block_is_asked_for_and_persisted_once() -> None:
    told = in_round_0()
    assert told.tell(proposal(A), proposal(A, 1)).count(RequestBlock(1, A)) == 1
    effects = told.tell(*precommits([1, 2, 3], A), *body(A), *body(A), proposal(A, 2))
    assert RequestBlock(1, A) not in effects
    assert effects.count(PersistBody(1, A)) == 1


def test_a_known_block_is_not_asked_for() -> None:
    told = in_round_0()
    told.tell(*body(A), BlockJudged(1, B, False))
    effects = told.tell(proposal(A), proposal(B), proposal(C, 1))
    assert [each for each in effects if isinstance(each, RequestBlock)] == [RequestBlock(1, C)]


def test_one_validator_is_heard_in_few_far_rounds() -> None:
    told = in_round_0()
    far: list[Input] = [prevote(1, None, round_) for round_ in range(2, 100)]
    assert told.changes(*far) == 4  # two rounds, and two that took their places
    assert told.changes(elapsed(TimerKind.RESEND)) == 1
    assert told.changes(elapsed(TimerKind.RESEND)) == 0
    assert told.changes(*far) == 2
    assert told.core.round == 0


def test_whoever_is_left_behind_joins_where_the_others_are() -> None:
    """Each was heard in other rounds, as when much is lost; then they stay in one."""
    told = in_round_0()
    told.tell(*(prevote(1, None, round_) for round_ in (2, 4)))
    told.tell(*(prevote(2, None, round_) for round_ in (3, 5)))
    told.tell(*drawn(12))
    assert told.core.round == 12


def test_what_is_no_input_is_a_mistake_of_ours() -> None:
    told = in_round_0()
    with pytest.raises(AssertionError):
        told.tell(RequestBlock(1, A))  # type: ignore[arg-type]
    with pytest.raises(AssertionError):
        told.tell(elapsed(99))  # type: ignore[arg-type]
