"""Certificates that are sent, what is said again, and help for whoever is behind."""

from __future__ import annotations

import msgspec
import pytest
from cores import (
    TIMEOUTS,
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

from node.consensus.core import Step
from node.consensus.effects import Commit, Effect, Resend, SendDecisions, SetTimer
from node.consensus.messages import (
    Certificate,
    Certified,
    Committed,
    Input,
    Proposal,
    Timer,
    TimerKind,
    Vote,
)

RESEND_TIMER = SetTimer(Timer(TimerKind.RESEND, 1), TIMEOUTS.resend_ms)


def resent(told: Told) -> tuple[Proposal | Vote | Certified, ...]:
    """What the core says again when RESEND runs out."""
    effects: list[Effect] = told.tell(elapsed(TimerKind.RESEND))
    assert effects.pop() == RESEND_TIMER
    if not effects:
        return ()
    (effect,) = effects
    assert isinstance(effect, Resend)
    return effect.messages


# -- certificates ------------------------------------------------------------------------------


def test_a_decision_that_is_sent_decides() -> None:
    told = in_round_0()
    told.tell(*body(A))
    assert told.tell(Certified(decision(A, 3))) == [Commit(1, 3, A, decision(A, 3))]


def test_a_decision_that_is_sent_decides_despite_other_votes() -> None:
    told = in_round_0()
    told.tell(*body(A), precommit(1, None), precommit(2, B))
    effects = told.tell(Certified(decision(A)))
    assert effects[-1] == Commit(1, 0, A, decision(A))


def test_late_prevotes_that_are_sent_free_a_proposal() -> None:
    told = in_round(1)
    told.tell(*body(A), proposal(A, 1, 0))
    assert told.tell(Certified(polka(A))) == [sign(prevote(0, A, 1))]


def test_a_certificate_holds_every_vote_that_counts() -> None:
    told = in_round_0()
    told.tell(*body(A), precommit(0, B), precommit(3, None), *precommits([1, 2], A))
    commit = told.tell(Certified(decision(A, 0, [0, 1, 2])))[-1]
    assert commit == Commit(1, 0, A, decision(A, 0, [0, 1, 2]))


@pytest.mark.parametrize("certificate", [polka(A), decision(A)])
@pytest.mark.parametrize(
    "change",
    [{"height": 0}, {"height": 2}, {"signatures": ()}, {"value": b"a"}, {"round": -1}],
)
def test_certificates_of_other_heights_or_ill_formed_are_ignored(
    certificate: Certificate, change: dict[str, object]
) -> None:
    told = in_round_0()
    other = Certified(msgspec.structs.replace(certificate, **change))
    assert told.changes(other) == 0
    assert told.tell(other) == []


def test_a_certificate_that_is_known_changes_nothing() -> None:
    told = in_round_0()
    told.tell(Certified(polka(A)))
    assert told.changes(Certified(polka(A))) == 0


# -- saying it again ---------------------------------------------------------------------------


def test_nothing_is_said_again_before_anything_was_said() -> None:
    assert resent(Told()) == ()
    assert resent(in_round_0()) == ()


def test_own_messages_of_the_round_are_said_again() -> None:
    told = in_round_0(me=2)
    told.tell(proposal(A))
    assert resent(told) == (proposal(A),)
    told.tell(*body(A), prevote(2, A))
    assert resent(told) == (proposal(A), prevote(2, A))
    told.tell(elapsed(TimerKind.PREVOTE), precommit(2, None))
    assert resent(told) == (proposal(A), prevote(2, A), precommit(2, None))


def test_what_others_said_is_theirs_to_say_again() -> None:
    told = in_round_0()
    told.tell(proposal(A), prevote(1, A), precommit(1, None))
    assert resent(told) == ()


def test_a_follower_has_nothing_to_say() -> None:
    told = in_round_0(me=None)
    told.tell(proposal(A), prevote(1, A))
    assert resent(told) == ()


def test_a_follower_passes_on_the_polka() -> None:
    told = in_round_0(me=None)
    told.tell(proposal(A), *body(A), *prevotes([1, 2, 3], A))
    assert resent(told) == (Certified(polka(A)),)


def test_the_polka_of_the_valid_value_is_sent() -> None:
    told = in_round_0()
    told.tell(proposal(A), *body(A), *prevotes([1, 2, 3], A))
    assert resent(told) == (Certified(polka(A)),)
    told.tell(precommit(0, A))
    assert resent(told) == (precommit(0, A), Certified(polka(A)))


def test_the_last_own_precommit_is_said_again() -> None:
    told = in_round(1)
    told.tell(precommit(0, None, 1), precommit(0, None, 0))  # the older one was signed late
    told.tell(*drawn(3), *prevotes([0], None, 3))
    assert resent(told)[:2] == (prevote(0, None, 3), precommit(0, None, 1))
    told.tell(precommit(0, A, 3))
    assert resent(told)[:2] == (prevote(0, None, 3), precommit(0, A, 3))


def test_whoever_went_ahead_takes_the_others_along() -> None:
    told = in_round_0()
    told.tell(*precommits(range(4), None), elapsed(TimerKind.PRECOMMIT))
    assert told.core.round == 1
    assert resent(told) == (*precommits([0], None), *precommits([1, 2], None))
    told = in_round(1)
    assert resent(told) == tuple(precommits([1, 2], None, 1))


def test_nothing_is_said_again_twice() -> None:
    told = in_round_0()
    told.tell(*precommits([0, 1, 2], None), elapsed(TimerKind.PRECOMMIT))
    assert resent(told) == tuple(precommits([0, 1, 2], None))


def test_nothing_is_said_again_after_the_decision() -> None:
    told = in_round_0()
    told.tell(proposal(A), *body(A), prevote(0, A), *precommits([1, 2, 3], A))
    assert told.core.step is Step.COMMIT
    assert told.tell(elapsed(TimerKind.RESEND)) == [RESEND_TIMER]
    assert told.changes(elapsed(TimerKind.RESEND)) == 0


# -- help for whoever is behind ----------------------------------------------------------------


def at_height_5(me: int | None = 0) -> Told:
    told = Told(me)
    told.tell(Committed(4), elapsed(TimerKind.PACE, height=5))
    return told


@pytest.mark.parametrize(
    "late",
    [
        prevote(3, A, height=4),
        precommit(3, None, 9, height=2),
        proposal(A, height=3, validator=3),
    ],
)
def test_who_votes_at_a_decided_height_is_sent_what_was_decided(late: Proposal | Vote) -> None:
    told = at_height_5()
    assert told.tell(late) == [SendDecisions(3, late.height)]
    assert told.changes(late) == 0


def test_everybody_is_helped_once_between_two_timers() -> None:
    told = at_height_5()
    late: list[Input] = [prevote(3, A, height=4), prevote(3, None, height=2)]
    assert told.tell(*late, prevote(1, A, height=4)) == [
        SendDecisions(3, 4),
        SendDecisions(1, 4),
    ]
    told.tell(elapsed(TimerKind.RESEND, height=5))
    assert told.tell(*late) == [SendDecisions(3, 4)]
    told.tell(Committed(5))
    assert told.tell(*late) == [SendDecisions(3, 4)]


def test_votes_that_a_decision_did_not_need_are_no_cry_for_help() -> None:
    told = Told(0)
    told.tell(Committed(4))
    assert told.tell(precommit(3, A, height=4)) == []
    assert told.tell(precommit(3, A, height=3)) == [SendDecisions(3, 3)]
    told.tell(elapsed(TimerKind.PACE, height=5))
    assert told.tell(precommit(2, A, height=4)) == [SendDecisions(2, 4)]


@pytest.mark.parametrize(
    "other",
    [
        prevote(0, A, height=4),
        prevote(4, A, height=4),
        prevote(-1, A, height=4),
        prevote(3, A, height=0),
        prevote(3, A, height=-1),
        prevote(3, A, height=6),
        proposal(A, height=6),
        Certified(decision(A)),
    ],
)
def test_nobody_else_is_helped(other: Input) -> None:
    told = at_height_5()
    assert told.tell(other) == []
    assert told.changes(other) == 0


def test_a_follower_helps_too() -> None:
    assert at_height_5(None).tell(prevote(0, A, height=4)) == [SendDecisions(0, 4)]
