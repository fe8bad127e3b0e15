"""The tally: one vote each, quorums, evidence, and the bounds on what is far ahead."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from cores import A, B, C, decision, polka, precommit, precommits, prevote, prevotes, proposal
from hypothesis import given
from hypothesis import strategies as st

from node.consensus.certificate import check_certificate, votes_of
from node.consensus.messages import Certificate, Proposal, Vote, VoteType
from node.consensus.validators import ValidatorSet
from node.consensus.votes import Heard, Tally

FOUR = ValidatorSet([1, 1, 1, 1])


def tally(round_: int = 0, validators: ValidatorSet = FOUR) -> Tally:
    fresh = Tally(validators, 1)
    fresh.enter(round_)
    return fresh


def add_all(into: Tally, certificate: Certificate) -> list[Heard]:
    return [into.add(vote, certified=True) for vote in votes_of(certificate)]


# -- quorums -----------------------------------------------------------------------------------


@pytest.mark.parametrize("make", [prevotes, precommits])
def test_a_quorum_is_for_one_value(make: Callable[..., list[Vote]]) -> None:
    votes = tally()
    ballot = votes.now.prevotes if make is prevotes else votes.now.precommits
    for vote in [*make([0, 1], A), *make([2], None)]:
        assert votes.add(vote) is Heard.NEW
        assert ballot.quorums == []
    assert ballot.complete
    assert votes.add(make([3], A)[0]) is Heard.NEW
    assert ballot.quorums == [A]


def test_a_ballot_is_complete_with_a_quorum_of_votes_for_anything() -> None:
    votes = tally()
    votes.add(prevote(0, A))
    votes.add(prevote(1, B))
    assert not votes.now.prevotes.complete
    votes.add(prevote(2, None))
    assert votes.now.prevotes.complete
    assert not votes.now.precommits.complete


def test_nil_can_have_a_quorum_and_decides_nothing() -> None:
    votes = tally()
    for vote in precommits(range(3), None):
        votes.add(vote)
    assert votes.now.precommits.quorums == [None]
    assert votes.decisions == []


def test_power_counts_and_not_heads() -> None:
    votes = tally(validators=ValidatorSet([7, 1, 1, 1]))
    for vote in precommits([1, 2, 3], A):
        votes.add(vote)
    assert votes.decisions == []
    votes.add(precommit(0, A))
    assert votes.decisions == [(0, A)]


def test_decisions_of_every_round_are_known() -> None:
    votes = tally(round_=5)
    for vote in [*precommits([0, 1, 3], B, 2), *precommits(range(4), A, 6)]:
        votes.add(vote)
    assert votes.decisions == [(2, B), (6, A)]
    assert votes.decision(2, B) == decision(B, 2, [0, 1, 3])


def test_polkas_are_known_by_round_and_value() -> None:
    votes = tally(round_=5)
    assert not votes.has_polka(2, A)
    votes.add(prevote(0, A, 2))
    assert not votes.has_polka(2, A)
    for vote in prevotes([3, 1], A, 2):
        votes.add(vote)
    assert votes.has_polka(2, A)
    assert not votes.has_polka(2, B)
    assert not votes.has_polka(3, A)
    assert votes.polka(2, A) == polka(A, 2, [0, 1, 3])


def test_a_skip_set_is_made_of_distinct_speakers_of_one_round() -> None:
    votes = tally()
    said: list[Proposal | Vote] = [
        proposal(A, 1),
        prevote(1, A, 1),
        precommit(1, A, 1),
        prevote(3, A, 2),
    ]
    for each in said:
        heard = votes.propose(each) if isinstance(each, Proposal) else votes.add(each)
        assert heard is Heard.NEW
        assert votes.skip_round == -1
    votes.add(precommit(0, None, 2))
    assert votes.skip_round == 2
    votes.add(precommit(0, None, 1))  # a skip set too, but a lower one
    assert votes.skip_round == 2


def test_anything_kept_was_heard() -> None:
    votes = Tally(FOUR, 1)
    assert not votes.heard_anything
    votes.add(prevote(0, None))
    assert votes.heard_anything


# -- one of each -------------------------------------------------------------------------------


@pytest.mark.parametrize("make", [prevote, precommit])
def test_one_vote_each_and_one_proof_of_a_second(make: Callable[..., Vote]) -> None:
    votes = tally()
    assert votes.add(make(1, A)) is Heard.NEW
    assert votes.add(make(1, A)) is Heard.NOTHING_NEW
    assert votes.add(make(1, None)) is Heard.CONFLICT
    assert votes.first(make(1, None)) == make(1, A)
    assert votes.add(make(1, B)) is Heard.NOTHING_NEW
    assert votes.add(make(1, B, 1)) is Heard.NEW  # another round
    for vote in (make(2, B), make(3, B)):
        votes.add(vote)
    assert votes.now.prevotes.quorums == votes.now.precommits.quorums == []


def test_another_signature_is_not_another_vote() -> None:
    votes = tally()
    votes.add(Vote(VoteType.PREVOTE, 1, 0, A, 1, b"1" * 64))
    assert votes.add(Vote(VoteType.PREVOTE, 1, 0, A, 1, b"2" * 64)) is Heard.NOTHING_NEW


def test_two_proposals_are_kept_and_no_third() -> None:
    votes = tally()
    assert votes.proposals(0) == []
    assert votes.propose(proposal(A)) is Heard.NEW
    assert votes.propose(proposal(A)) is Heard.NOTHING_NEW
    assert votes.propose(proposal(B)) is Heard.CONFLICT
    assert votes.propose(proposal(B)) is Heard.NOTHING_NEW
    assert votes.propose(proposal(C)) is Heard.NOTHING_NEW
    assert votes.proposals(0) == [proposal(A), proposal(B)]
    assert votes.proposals(1) == []


def test_one_value_with_two_valid_rounds_is_two_proposals() -> None:
    votes = tally(round_=2)
    votes.propose(proposal(A, 2, 0))
    assert votes.propose(proposal(A, 2, 1)) is Heard.CONFLICT


def test_a_proposal_is_the_same_with_its_polka_or_without() -> None:
    votes = tally(round_=2)
    votes.propose(proposal(A, 2, 0))
    assert votes.propose(proposal(A, 2, 0, polka(A))) is Heard.NOTHING_NEW


# -- whole certificates ------------------------------------------------------------------------


def test_a_whole_certificate_counts_despite_the_votes_of_liars() -> None:
    votes = tally()
    votes.add(precommit(1, B))
    votes.add(precommit(2, None))
    heard = add_all(votes, decision(A))
    assert heard == [Heard.CONFLICT, Heard.CONFLICT, Heard.NEW]
    assert votes.decisions == [(0, A)]
    assert votes.decision(0, A) == decision(A)
    assert votes.first(precommit(1, A)) == precommit(1, B)
    assert add_all(votes, decision(A)) == [Heard.NOTHING_NEW] * 3


def test_a_liar_is_proved_one_once() -> None:
    votes = tally()
    votes.add(prevote(1, None))
    assert votes.add(prevote(1, B)) is Heard.CONFLICT
    assert add_all(votes, polka(A)) == [Heard.NEW] * 3  # counts, and proves nothing more
    assert votes.has_polka(0, A)


def test_a_second_vote_of_a_certificate_is_not_another_voter() -> None:
    votes = tally()
    votes.add(prevote(1, B))
    votes.add(prevote(1, A), certified=True)
    votes.add(prevote(2, A))
    assert not votes.now.prevotes.complete
    assert votes.now.power == 2


# -- far ahead ---------------------------------------------------------------------------------


def test_the_next_round_is_always_heard_and_two_more_of_each() -> None:
    votes = tally(round_=3)
    for round_ in (0, 3, 4, 9, 7):
        assert votes.add(prevote(1, A, round_)) is Heard.NEW
        assert votes.add(precommit(1, A, round_)) is Heard.NEW
    assert votes.add(prevote(1, A, 6)) is Heard.NOTHING_NEW  # lower than both
    assert votes.add(prevote(2, A, 6)) is Heard.NEW


def test_before_round_0_it_is_the_next() -> None:
    votes = Tally(FOUR, 1)
    assert [votes.add(prevote(1, A, round_)) for round_ in (3, 2, 1, 0)] == [
        Heard.NEW,
        Heard.NEW,
        Heard.NOTHING_NEW,
        Heard.NEW,
    ]


def test_a_proposal_far_ahead_takes_a_place_too() -> None:
    votes = tally()
    assert votes.propose(proposal(A, 4)) is Heard.NEW  # by validator 2
    assert votes.add(prevote(2, A, 3)) is Heard.NEW
    assert votes.add(prevote(2, A, 2)) is Heard.NOTHING_NEW
    assert votes.propose(proposal(A, 2, validator=2)) is Heard.NOTHING_NEW


def test_a_higher_round_displaces_the_lowest() -> None:
    votes = tally()
    for vote in (prevote(1, A, 2), precommit(1, A, 2), prevote(1, A, 3), prevote(2, A, 2)):
        votes.add(vote)
    assert votes.add(prevote(1, A, 8)) is Heard.NEW
    assert votes.add(prevote(2, A, 8)) is Heard.NEW
    assert votes.skip_round == 8
    # of round 2 only the vote of validator 2 is left
    votes.enter(2)
    assert list(votes.now.prevotes.votes) == [2]
    assert votes.now.precommits.votes == {}
    assert (votes.now.speakers, votes.now.power) == ({2}, 1)


def test_what_is_displaced_takes_its_power_and_its_lies_along() -> None:
    votes = tally(validators=ValidatorSet([1] * 7))
    votes.add(prevote(0, A, 4))
    votes.propose(proposal(A, 4, validator=2))
    for vote in (prevote(2, A, 4), prevote(2, B, 4), prevote(2, A, 5), prevote(2, A, 6)):
        votes.add(vote)
    assert votes.proposals(4) == []
    votes.enter(4)
    for vote in (*prevotes([1, 3, 4], A, 4), prevote(2, B, 4)):
        assert votes.add(vote) is Heard.NEW
    assert votes.add(prevote(2, A, 4)) is Heard.CONFLICT
    assert votes.now.prevotes.complete
    assert votes.now.power == 5
    assert not votes.has_polka(4, A)
    votes.add(prevote(5, A, 4))
    assert votes.has_polka(4, A)


def test_what_is_displaced_is_not_missed_by_a_ballot() -> None:
    votes = tally(validators=ValidatorSet([1] * 7))
    votes.add(prevote(0, A, 4))
    for vote in (prevote(2, A, 4), prevote(2, A, 5), prevote(2, A, 6)):
        votes.add(vote)
    votes.enter(4)
    for vote in prevotes([1, 3, 4], A, 4):
        votes.add(vote)
    assert not votes.now.prevotes.complete


def test_the_proposal_of_another_stays_when_a_vote_is_displaced() -> None:
    votes = tally(validators=ValidatorSet([1] * 7))
    votes.propose(proposal(A, 4, validator=3))
    for round_ in (4, 5, 6):
        votes.add(prevote(2, A, round_))
    assert votes.proposals(4) == [proposal(A, 4, validator=3)]


def test_rounds_are_displaced_twice_between_renewals() -> None:
    votes = tally()
    heard = [votes.add(prevote(1, A, round_)) for round_ in range(2, 8)]
    assert heard == [Heard.NEW] * 4 + [Heard.NOTHING_NEW] * 2
    assert votes.add(prevote(1, A, 5)) is Heard.NOTHING_NEW  # is there
    assert votes.add(precommit(1, A, 5)) is Heard.NEW
    assert [votes.add(prevote(2, A, round_)) for round_ in (2, 3, 4)] == [Heard.NEW] * 3
    assert votes.renew()
    assert not votes.renew()
    assert votes.add(prevote(1, A, 7)) is Heard.NEW


def test_places_are_free_again_when_their_rounds_are_near() -> None:
    votes = tally()
    votes.add(prevote(1, A, 2))
    votes.add(prevote(1, A, 3))
    votes.enter(2)
    votes.add(prevote(1, A, 4))
    votes.add(prevote(1, A, 5))
    assert not votes.renew()
    assert votes.add(precommit(1, A, 2)) is Heard.NEW
    assert votes.add(precommit(1, A, 3)) is Heard.NEW


def test_a_certificate_is_heard_however_far_it_is_and_never_displaced() -> None:
    votes = tally()
    votes.add(prevote(1, B, 90))
    votes.add(prevote(1, B, 70))
    assert add_all(votes, polka(A, 90)) == [Heard.CONFLICT, Heard.NEW, Heard.NEW]
    assert add_all(votes, polka(A, 80)) == [Heard.NEW] * 3
    for round_ in (71, 72, 100, 101):
        assert votes.add(prevote(1, A, round_)) is Heard.NEW
        votes.renew()
    assert votes.has_polka(90, A)
    assert votes.polka(90, A) == polka(A, 90)
    assert votes.polka(80, A) == polka(A, 80)
    assert votes.add(prevote(1, B, 90)) is Heard.NOTHING_NEW
    assert votes.add(precommit(1, B, 90)) is Heard.NEW


# -- what lets others in -----------------------------------------------------------------------


def test_nothing_is_needed_to_enter_round_0() -> None:
    votes = tally()
    for vote in prevotes(range(4), A):
        votes.add(vote)
    assert votes.skip_round == 0
    assert votes.passage() == []


def test_nothing_lets_in_where_nobody_followed() -> None:
    votes = tally(round_=1)
    votes.add(prevote(1, None, 1))
    assert votes.passage() == []
    for vote in precommits([0, 1], None):
        votes.add(vote)
    assert votes.passage() == []


def test_a_quorum_of_precommits_lets_into_the_next_round() -> None:
    votes = tally()
    for vote in [*precommits([3, 2], None), precommit(0, A), precommit(1, B)]:
        votes.add(vote)
    votes.enter(1)
    assert votes.passage() == [precommit(0, A), precommit(1, B), precommit(2, None)]


def test_a_skip_set_lets_into_its_round() -> None:
    votes = tally(validators=ValidatorSet([1] * 7))
    said = [prevote(6, A, 3), precommit(6, A, 3), precommit(5, None, 3), prevote(0, None, 3)]
    for vote in said:
        votes.add(vote)
    votes.propose(proposal(A, 3, validator=4))
    votes.enter(3)
    assert votes.passage() == [
        prevote(0, None, 3),
        proposal(A, 3, validator=4),
        precommit(5, None, 3),
    ]


# -- everything at once ------------------------------------------------------------------------

VOTES = st.builds(
    Vote,
    st.sampled_from(VoteType),
    st.just(1),
    st.integers(0, 8),
    st.sampled_from([A, B, None]),
    st.integers(0, 3),
    st.just(b"s" * 64),
)
CERTIFICATES = st.builds(
    lambda make, value, round_, without: make(value, round_, {0, 1, 2, 3} - {without}),
    st.sampled_from([polka, decision]),
    st.sampled_from([A, B]),
    st.integers(0, 8),
    st.integers(0, 4),
)


@given(st.lists(st.one_of(VOTES, CERTIFICATES), max_size=60), st.integers(-1, 6))
def test_every_quorum_can_be_proved(said: list[Vote | Certificate], round_: int) -> None:
    """And stays known, unless its votes were far ahead and no certificate held them."""
    votes = Tally(FOUR, 1)
    if round_ >= 0:
        votes.enter(round_)
    for each in said:
        if isinstance(each, Certificate):
            add_all(votes, each)
        else:
            votes.add(each)
        if votes.skip_round > votes.round:  # as the core does
            votes.enter(votes.skip_round)
        for at, value in votes.decisions:
            check_certificate(votes.decision(at, value), FOUR)
        for at in range(9):
            for value in (A, B):
                if votes.has_polka(at, value):
                    check_certificate(votes.polka(at, value), FOUR)
    for certificate in said:
        if isinstance(certificate, Certificate) and certificate.type is VoteType.PREVOTE:
            assert votes.has_polka(certificate.round, certificate.value)


@given(st.lists(VOTES, max_size=60))
def test_no_one_is_heard_in_more_far_rounds_than_the_bound(said: list[Vote]) -> None:
    votes = tally()
    for vote in said:
        votes.add(vote)
    for validator in range(4):
        rounds = 0
        for round_ in range(2, 9):
            votes.enter(round_)
            rounds += validator in votes.now.speakers
        assert rounds <= 2
