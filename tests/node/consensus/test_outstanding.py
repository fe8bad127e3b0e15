"""What is asked for again after a restart: exactly what the log does not answer, in order."""

from __future__ import annotations

import pytest

from node.consensus.effects import (
    AwaitTransactions,
    BuildBlock,
    Commit,
    Effect,
    Halt,
    PersistBody,
    ReportMisbehaviour,
    RequestBlock,
    Resend,
    SendDecisions,
    SetTimer,
    SignAndBroadcast,
)
from node.consensus.messages import (
    BlockBuilt,
    BlockJudged,
    BodyDurable,
    Certificate,
    Certified,
    Committed,
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
from node.consensus.outstanding import Outstanding

ME, OTHER = 2, 1
HEIGHT, ROUND = 7, 3
VALUE, RIVAL = b"v" * 32, b"r" * 32
SIGNED = b"s" * 64
CERTIFICATE = Certificate(VoteType.PRECOMMIT, HEIGHT, ROUND, VALUE, ((1, SIGNED),))


def vote(
    type_: VoteType = VoteType.PREVOTE,
    height: int = HEIGHT,
    round_: int = ROUND,
    value: bytes | None = VALUE,
    validator: int = ME,
    signature: bytes = b"",
) -> Vote:
    return Vote(type_, height, round_, value, validator, signature)


def proposal(
    height: int = HEIGHT, round_: int = ROUND, validator: int = ME, value: bytes = VALUE
) -> Proposal:
    return Proposal(height, round_, value, -1, validator)


def timer(kind: TimerKind, round_: int = ROUND) -> Timer:
    return Timer(kind, HEIGHT, round_)


def set_timer(kind: TimerKind, round_: int = ROUND) -> SetTimer:
    return SetTimer(timer(kind, round_), 250)


def left(*effects: Effect, after: tuple[Input, ...] = ()) -> tuple[Effect, ...]:
    outstanding = Outstanding()
    outstanding.add(effects)
    for message in after:
        outstanding.settle(message)
    return outstanding.effects()


SIGN_PREVOTE = SignAndBroadcast(vote())
SIGN_PROPOSAL = SignAndBroadcast(proposal())
BUILD = BuildBlock(HEIGHT, ROUND)
REQUEST = RequestBlock(HEIGHT, VALUE)
PERSIST = PersistBody(HEIGHT, VALUE)
AWAIT = AwaitTransactions(HEIGHT)
COMMIT = Commit(HEIGHT, ROUND, VALUE, CERTIFICATE)
PREVOTE_TIMER = set_timer(TimerKind.PREVOTE)
REPORT = ReportMisbehaviour(vote(validator=OTHER), vote(validator=OTHER, value=RIVAL))
HALT = Halt("two decisions", (CERTIFICATE,))

# a question, what answers it, and what looks like an answer and is none
QUESTIONS: list[tuple[Effect, list[Input], list[Input]]] = [
    (
        SIGN_PREVOTE,
        [vote(signature=SIGNED), vote(value=None), vote(value=RIVAL)],
        [
            vote(validator=OTHER),
            vote(round_=ROUND - 1),
            vote(height=HEIGHT + 1),
            vote(VoteType.PRECOMMIT),
            proposal(),
        ],
    ),
    (
        SIGN_PROPOSAL,
        [proposal(), proposal(value=RIVAL)],
        [vote(), proposal(round_=ROUND + 1), proposal(height=HEIGHT - 1), proposal(validator=1)],
    ),
    (
        BUILD,
        [BlockBuilt(HEIGHT, ROUND, VALUE), proposal()],
        [BlockBuilt(HEIGHT, ROUND - 1, VALUE), BlockBuilt(HEIGHT - 1, ROUND, VALUE)],
    ),
    (
        REQUEST,
        [BlockJudged(HEIGHT, VALUE, True), BlockJudged(HEIGHT, VALUE, False)],
        [BlockJudged(HEIGHT, RIVAL, True), BlockJudged(HEIGHT + 1, VALUE, True)],
    ),
    (
        PERSIST,
        [BodyDurable(HEIGHT, VALUE)],
        [BodyDurable(HEIGHT, RIVAL), BlockJudged(HEIGHT, VALUE, True)],
    ),
    (AWAIT, [TransactionsWaiting(HEIGHT)], [TransactionsWaiting(HEIGHT + 1), Started(HEIGHT)]),
    (COMMIT, [Committed(HEIGHT)], [Committed(HEIGHT - 1), Certified(CERTIFICATE)]),
    (
        PREVOTE_TIMER,
        [TimerElapsed(timer(TimerKind.PREVOTE))],
        [
            TimerElapsed(timer(TimerKind.PRECOMMIT)),
            TimerElapsed(timer(TimerKind.PREVOTE, ROUND - 1)),
        ],
    ),
    (REPORT, [], [vote(validator=OTHER), vote(validator=OTHER, value=RIVAL)]),
    (HALT, [], [Committed(HEIGHT), Certified(CERTIFICATE)]),
]


@pytest.mark.parametrize("case", QUESTIONS, ids=lambda case: type(case[0]).__name__)
def test_an_answer_settles_its_question_and_no_other(
    case: tuple[Effect, list[Input], list[Input]],
) -> None:
    question, answers, others = case
    assert left(question) == (question,)
    for answer in answers:
        assert left(question, after=(answer,)) == ()
        assert left(question, after=(answer, answer)) == ()
    assert left(question, after=tuple(others)) == (question,)


def test_questions_are_independent_and_stay_in_order() -> None:
    every = tuple(question for question, _, _ in QUESTIONS)
    assert left(*every) == every
    assert left(*reversed(every)) == tuple(reversed(every))
    for question, answers, _ in QUESTIONS:
        for answer in answers:
            settled = {question}
            if isinstance(answer, Proposal):
                settled = {SIGN_PROPOSAL, BUILD}
            rest = tuple(each for each in every if each not in settled)
            assert left(*every, after=(answer,)) == rest


def test_what_is_asked_twice_is_asked_again_once() -> None:
    again = SignAndBroadcast(vote(value=RIVAL))  # the same slot: the signer gives one signature
    assert left(REQUEST, SIGN_PREVOTE, REQUEST, again, HALT, HALT) == (REQUEST, SIGN_PREVOTE, HALT)
    swapped = ReportMisbehaviour(REPORT.second, REPORT.first)
    assert left(REPORT, swapped, REPORT) == (REPORT,)


def test_what_may_be_said_again_at_any_time_is_not_kept() -> None:
    assert left(Resend((vote(),)), SendDecisions(OTHER, HEIGHT)) == ()


def test_a_timer_replaces_the_one_of_its_kind() -> None:
    later = set_timer(TimerKind.PREVOTE, ROUND + 1)
    assert left(PREVOTE_TIMER, REQUEST, later) == (REQUEST, later)
    stale = TimerElapsed(timer(TimerKind.PREVOTE))
    assert left(PREVOTE_TIMER, later, after=(stale,)) == (later,)
    resend = set_timer(TimerKind.RESEND, 0)
    elapsed = TimerElapsed(resend.timer)
    outstanding = Outstanding()
    outstanding.add([resend])
    outstanding.settle(elapsed)
    outstanding.add([resend])  # set again by what it brought about
    assert outstanding.effects() == (resend,)


def test_what_is_neither_is_a_mistake_of_ours() -> None:
    with pytest.raises(AssertionError):
        left(Started(HEIGHT))  # type: ignore[arg-type]
    with pytest.raises(AssertionError):
        left(after=(BUILD,))  # type: ignore[arg-type]


def test_a_round_that_begins_ends_the_wait_for_transactions_and_earlier_blocks() -> None:
    begun = set_timer(TimerKind.PROPOSE)
    earlier = BuildBlock(HEIGHT, ROUND - 1)
    lower = BuildBlock(HEIGHT - 1, ROUND + 1)
    next_await = AwaitTransactions(HEIGHT + 1)
    assert left(AWAIT, earlier, lower, REQUEST, begun, BUILD) == (REQUEST, begun, BUILD)
    assert left(BUILD, next_await, begun) == (BUILD, next_await, begun)
    assert left(AWAIT, PREVOTE_TIMER) == (AWAIT, PREVOTE_TIMER)  # no round begins with these
    assert left(SIGN_PREVOTE, set_timer(TimerKind.PROPOSE, ROUND + 1))[0] == SIGN_PREVOTE
