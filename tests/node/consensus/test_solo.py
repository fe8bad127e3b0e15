"""Agreement of one validator: the order of its effects, and that nothing else moves it."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from node.consensus.effects import (
    BuildBlock,
    Commit,
    Effect,
    PersistBody,
    SetTimer,
    SignAndBroadcast,
)
from node.consensus.messages import (
    BlockBuilt,
    BodyDurable,
    Committed,
    Input,
    Proposal,
    Started,
    Step,
    Timer,
    TimerElapsed,
    Vote,
    VoteType,
)
from node.consensus.solo import SoloAgreement

VALUE = b"v" * 32
OTHER = b"o" * 32


def agreement(height: int = 4) -> SoloAgreement:
    core = SoloAgreement(pace_ms=100, empty_pace_ms=350)
    assert core.handle(Started(height)) == (SetTimer(Timer(Step.NEW_HEIGHT, height + 1, 0), 100),)
    return core


def elapse(core: SoloAgreement) -> Sequence[Effect]:
    return core.handle(TimerElapsed(Timer(Step.NEW_HEIGHT, core.height, 0)))


def test_a_height_from_timer_to_commit() -> None:
    core = agreement()
    assert elapse(core) == (BuildBlock(5, 0, allow_empty=False),)
    proposal = Proposal(5, 0, VALUE, -1, 0)
    assert core.handle(BlockBuilt(5, 0, VALUE)) == (PersistBody(VALUE), SignAndBroadcast(proposal))
    assert core.handle(BodyDurable(VALUE)) == ()
    prevote = Vote(VoteType.PREVOTE, 5, 0, VALUE, 0)
    assert core.handle(proposal) == (SignAndBroadcast(prevote),)
    precommit = Vote(VoteType.PRECOMMIT, 5, 0, VALUE, 0)
    assert core.handle(prevote) == (SignAndBroadcast(precommit),)
    assert core.handle(precommit) == (Commit(5, 0, VALUE),)
    assert core.handle(Committed(5)) == (SetTimer(Timer(Step.NEW_HEIGHT, 6, 0), 100),)


def test_no_precommit_leaves_before_the_body_is_durable() -> None:
    core = agreement()
    elapse(core)
    core.handle(BlockBuilt(5, 0, VALUE))
    core.handle(Proposal(5, 0, VALUE, -1, 0))
    assert core.handle(Vote(VoteType.PREVOTE, 5, 0, VALUE, 0)) == ()
    assert core.handle(BodyDurable(OTHER)) == ()
    precommit = Vote(VoteType.PRECOMMIT, 5, 0, VALUE, 0)
    assert core.handle(BodyDurable(VALUE)) == (SignAndBroadcast(precommit),)


def test_an_empty_block_is_asked_for_only_after_its_pace() -> None:
    core = agreement()
    asked = []
    for _ in range(5):
        (effect,) = elapse(core)
        assert isinstance(effect, BuildBlock)
        asked.append(effect.allow_empty)
        assert core.handle(BlockBuilt(5, 0, None)) == (SetTimer(Timer(Step.NEW_HEIGHT, 5, 0), 100),)
    assert asked == [False, False, False, True, True]


@pytest.mark.parametrize(
    "stray",
    [
        TimerElapsed(Timer(Step.NEW_HEIGHT, 4, 0)),
        BlockBuilt(4, 0, VALUE),
        Proposal(5, 0, VALUE, -1, 0),
        Vote(VoteType.PREVOTE, 5, 0, VALUE, 0),
        Vote(VoteType.PRECOMMIT, 5, 0, VALUE, 0),
        Vote(VoteType.PREVOTE, 5, 0, None, 0),
        Committed(4),
    ],
)
def test_what_is_out_of_turn_has_no_effect(stray: Input) -> None:
    core = agreement()
    assert core.handle(stray) == ()
    assert elapse(core) == (BuildBlock(5, 0, allow_empty=False),)


INPUTS = st.one_of(
    st.builds(TimerElapsed, st.builds(Timer, st.sampled_from(Step), st.integers(4, 6), st.just(0))),
    st.builds(BlockBuilt, st.integers(4, 6), st.just(0), st.sampled_from([VALUE, OTHER, None])),
    st.builds(BodyDurable, st.sampled_from([VALUE, OTHER])),
    st.builds(
        Proposal,
        st.integers(4, 6),
        st.just(0),
        st.sampled_from([VALUE, OTHER]),
        st.just(-1),
        st.just(0),
    ),
    st.builds(
        Vote,
        st.sampled_from(VoteType),
        st.integers(4, 6),
        st.just(0),
        st.sampled_from([VALUE, OTHER, None]),
        st.just(0),
    ),
)


@given(st.lists(INPUTS, max_size=60))
def test_no_order_of_inputs_commits_twice_or_two_values(inputs: list[Input]) -> None:
    core = agreement()
    commits: list[Commit] = []
    signed: dict[tuple[int, object], bytes | None] = {}
    for each in inputs:
        for effect in core.handle(each):
            match effect:
                case Commit():
                    commits.append(effect)
                case SignAndBroadcast(message):
                    kind = message.type if isinstance(message, Vote) else "proposal"
                    assert signed.setdefault((message.height, kind), message.value) == message.value
    assert len(commits) <= 1
