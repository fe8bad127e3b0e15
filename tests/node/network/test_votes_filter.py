"""What is worth a verifier's look: old and repeated messages are not, and nobody can hide any."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

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
from node.network.votes_filter import (
    CERTIFICATES_AHEAD,
    HEIGHTS_AHEAD,
    HEIGHTS_BEHIND,
    MAX_PLACES,
    MAX_SEEN,
    SAME_PLACE,
    VotesFilter,
    Worth,
)

VALIDATORS = 4
HEIGHT = 10  # being decided
VALUE = b"v" * 32
SIGNATURE = b"s" * 64
LIAR, HONEST = 1, 2


def vote(height: int = HEIGHT, round_: int = 0, validator: int = 0, **changes: object) -> Vote:
    fields = {"type": VoteType.PREVOTE, "value": VALUE, "signature": SIGNATURE, **changes}
    return Vote(height=height, round=round_, validator=validator, **fields)  # type: ignore[arg-type]


def proposal(validator: int = 0, height: int = HEIGHT) -> Proposal:
    return Proposal(height, 0, VALUE, -1, validator, None, SIGNATURE)


def certified(height: int) -> Certified:
    return Certified(Certificate(VoteType.PRECOMMIT, height, 0, VALUE, ((0, SIGNATURE),)))


@pytest.fixture
def votes() -> VotesFilter:
    made = VotesFilter(VALIDATORS)
    made.committed(HEIGHT - 1)
    return made


def test_a_new_chain_begins_at_height_one() -> None:
    made = VotesFilter(VALIDATORS)
    assert made.judge(HONEST, vote(0), 1) is Worth.OLD
    assert made.judge(HONEST, vote(1), 2) is Worth.NEW


def test_only_votes_about_this_height_and_its_neighbours_matter(votes: VotesFilter) -> None:
    worth = {
        height: votes.judge(HONEST, vote(height), height)
        for height in range(HEIGHT - HEIGHTS_BEHIND - 3, HEIGHT + 4)
    }
    new = {height for height, each in worth.items() if each is Worth.NEW}
    assert new == set(range(HEIGHT, HEIGHT + HEIGHTS_AHEAD + 1))
    assert set(worth.values()) == {Worth.NEW, Worth.OLD}  # nobody is to blame


def test_of_a_decided_height_only_a_contradiction_matters(votes: VotesFilter) -> None:
    assert votes.judge(HONEST, vote(), 1) is Worth.NEW
    for decided in range(HEIGHTS_BEHIND):
        votes.committed(HEIGHT + decided)
        votes.forget()
        assert votes.judge(LIAR, vote(), 1) is Worth.OLD  # the same again
        assert votes.judge(LIAR, vote(validator=1), 2) is Worth.OLD  # nothing to compare with
        assert votes.judge(LIAR, vote(value=None), 3) is Worth.NEW
    votes.committed(HEIGHT + HEIGHTS_BEHIND)
    assert votes.judge(LIAR, vote(value=None), 3) is Worth.OLD


def test_what_is_remembered_of_decided_heights_is_bounded(votes: VotesFilter) -> None:
    for round_ in range(MAX_PLACES + 10):
        votes.judge(round_ % 3, vote(round_=round_), round_)
    votes.committed(HEIGHT)
    late = [votes.judge(9, vote(round_=round_), -1) for round_ in range(MAX_PLACES + 10)]
    assert late == [Worth.NEW] * MAX_PLACES + [Worth.OLD] * 10


def test_certificates_matter_from_this_height_on(votes: VotesFilter) -> None:
    assert votes.judge(HONEST, certified(HEIGHT - 1), 1) is Worth.OLD
    assert votes.judge(HONEST, certified(HEIGHT), 2) is Worth.NEW
    assert votes.judge(HONEST, certified(HEIGHT + CERTIFICATES_AHEAD), 3) is Worth.NEW
    assert votes.judge(HONEST, certified(HEIGHT + CERTIFICATES_AHEAD + 1), 4) is Worth.OLD
    assert votes.accepted(2)
    assert votes.judge(HONEST, certified(HEIGHT), 2) is Worth.OLD


@pytest.mark.parametrize(
    "message",
    [
        Started(HEIGHT),
        TimerElapsed(Timer(TimerKind.PACE, HEIGHT)),
        TransactionsWaiting(HEIGHT),
        BlockBuilt(HEIGHT, 0, VALUE),
        BlockJudged(HEIGHT, VALUE, True),
        BodyDurable(HEIGHT, VALUE),
        Committed(HEIGHT),
        vote(validator=VALIDATORS),
        proposal(VALIDATORS),
        vote(validator=-1),
        vote(signature=b""),
    ],
    ids=repr,
)
def test_what_no_peer_says_is_nonsense(votes: VotesFilter, message: Input) -> None:
    assert votes.judge(LIAR, message, 1) is Worth.NONSENSE


def test_nonsense_is_nonsense_at_any_height(votes: VotesFilter) -> None:
    assert votes.judge(LIAR, vote(height=1, validator=VALIDATORS), 1) is Worth.NONSENSE


def test_a_place_holds_so_many_messages_of_one_peer(votes: VotesFilter) -> None:
    worth = [votes.judge(LIAR, vote(), number) for number in range(SAME_PLACE + 3)]
    assert worth == [Worth.NEW] * SAME_PLACE + [Worth.OLD] * 3
    others = [
        vote(round_=1),
        vote(HEIGHT + 1),
        vote(validator=1),
        vote(type=VoteType.PRECOMMIT),
        proposal(),
    ]
    for number, other in enumerate(others, 100):  # each is another place
        assert votes.judge(LIAR, other, number) is Worth.NEW
    assert votes.judge(HONEST, vote(), 200) is Worth.NEW  # and so is that of another peer


def test_places_come_back(votes: VotesFilter) -> None:
    def fill() -> None:
        for number in range(SAME_PLACE):
            assert votes.judge(LIAR, vote(), number) is Worth.NEW
        assert votes.judge(LIAR, vote(), 99) is Worth.OLD

    fill()
    votes.gone(HONEST)
    assert votes.judge(LIAR, vote(), 99) is Worth.OLD
    for restart in (lambda: votes.gone(LIAR), votes.forget, lambda: votes.committed(HEIGHT - 1)):
        restart()
        fill()


def test_what_was_accepted_is_old_until_all_is_forgotten(votes: VotesFilter) -> None:
    assert votes.accepted(7)
    assert not votes.accepted(7)
    assert votes.judge(HONEST, vote(), 7) is Worth.OLD
    assert votes.judge(HONEST, vote(), 8) is Worth.NEW
    votes.forget()
    assert votes.judge(HONEST, vote(), 7) is Worth.NEW
    assert votes.accepted(7)


def test_a_commit_moves_the_heights(votes: VotesFilter) -> None:
    assert votes.accepted(7)
    votes.committed(HEIGHT)
    assert votes.judge(HONEST, vote(HEIGHT), 1) is Worth.OLD
    assert votes.judge(HONEST, vote(HEIGHT + 1), 7) is Worth.NEW
    assert votes.judge(HONEST, vote(HEIGHT + 1 + HEIGHTS_AHEAD), 3) is Worth.NEW


def test_a_peer_fills_no_memory_but_its_share(votes: VotesFilter) -> None:
    worth = [votes.judge(LIAR, vote(round_=n), n) for n in range(MAX_PLACES + 2)]
    assert worth == [Worth.NEW] * MAX_PLACES + [Worth.OLD] * 2
    assert votes.judge(LIAR, vote(round_=0), -1) is Worth.NEW  # a place that it has
    assert votes.judge(HONEST, vote(round_=MAX_PLACES), -2) is Worth.NEW


def test_fingerprints_are_bounded_and_what_has_no_room_still_goes_on(votes: VotesFilter) -> None:
    assert all(votes.accepted(number) for number in range(MAX_SEEN))
    assert votes.accepted(MAX_SEEN)
    assert votes.accepted(MAX_SEEN)  # not remembered: rather twice than never
    assert not votes.accepted(MAX_SEEN - 1)


@given(
    said=st.lists(
        st.tuples(
            st.integers(HEIGHT - 1, HEIGHT + 2),
            st.integers(0, 2),
            st.integers(0, VALIDATORS),
            st.sampled_from(VoteType),
            st.integers(0, 50),
        ),
        max_size=60,
    )
)
def test_a_liar_hides_no_message_of_an_honest_peer(
    said: list[tuple[int, int, int, VoteType, int]],
) -> None:
    """Whatever one peer has sent before, what another one says for the first time is looked at,
    unless exactly that was accepted.
    """
    votes = VotesFilter(VALIDATORS)
    votes.committed(HEIGHT - 1)
    for height, round_, validator, type_, fingerprint in said:
        votes.judge(LIAR, vote(height, round_, validator, type=type_), fingerprint)
    for round_ in range(3):
        for validator in range(VALIDATORS):
            message = vote(HEIGHT, round_, validator)
            assert votes.judge(HONEST, message, 1000 + 10 * round_ + validator) is Worth.NEW
