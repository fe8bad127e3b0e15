"""What no sequence of inputs can bring about, sensible or not; and that the log is enough."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from cores import FOUR, PROPOSERS, TIMEOUTS, A, B, C, decision, polka, signature
from hypothesis import example, given, settings
from hypothesis import strategies as st

from node.consensus.certificate import check_certificate
from node.consensus.core import Core, Step
from node.consensus.effects import (
    Commit,
    Effect,
    Halt,
    ReportMisbehaviour,
    Resend,
    SendDecisions,
    SetTimer,
    SignAndBroadcast,
)
from node.consensus.messages import (
    BlockBuilt,
    BlockJudged,
    BodyDurable,
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
from node.consensus.validators import ValidatorSet

VALIDATORS = ValidatorSet(FOUR)
ME = 1  # proposes in round 1 of height 1, in round 0 of height 2

heights = st.sampled_from([1, 1, 1, 1, 1, 2, 2, 0, 3])
rounds = st.sampled_from([0, 0, 0, 1, 1, 2, 2, 3, 4, -1, 9])
values = st.sampled_from([A, A, B, C])
validators = st.sampled_from([0, 2, 3, 0, 2, 3, 1, -1, 4])


def _proposal(
    height: int, round_: int, value: bytes, valid_round: int, with_polka: bool, by: int | None
) -> Proposal:
    validator = PROPOSERS[(height + round_ - 1) % 4] if by is None else by
    certificate = polka(value, valid_round, [0, 2, 3]) if with_polka else None
    return Proposal(
        height, round_, value, valid_round, validator, certificate, signature(validator)
    )


def _vote(type_: VoteType, height: int, round_: int, value: bytes | None, by: int) -> Vote:
    return Vote(type_, height, round_, value, by, signature(by))


messages: list[st.SearchStrategy[Input]] = [
    st.builds(
        _proposal,
        heights,
        rounds,
        values,
        st.sampled_from([-1, -1, 0, 1, 2]),
        st.booleans(),
        st.sampled_from([None, None, None, 3]),
    ),
    st.builds(
        _vote,
        st.sampled_from(VoteType),
        heights,
        rounds,
        st.sampled_from([A, A, B, None]),
        validators,
    ),
    st.builds(
        lambda make, value, round_, who: Certified(make(value, round_, who)),
        st.sampled_from([polka, decision]),
        st.sampled_from([A, A, A, B]),
        rounds,
        st.sampled_from([(0, 2, 3), (0, 1, 2), (0, 1, 2, 3), (2, 3)]),
    ),
]
answers: list[st.SearchStrategy[Input]] = [
    st.builds(BlockJudged, heights, values, st.sampled_from([True, True, True, False])),
    st.builds(BodyDurable, heights, values),
    st.builds(BlockBuilt, heights, rounds, values),
    st.builds(TransactionsWaiting, heights),
    st.builds(Committed, heights),
    st.builds(Started, heights),
]
timers = st.builds(TimerElapsed, st.builds(Timer, st.sampled_from(TimerKind), heights, rounds))
inputs = st.one_of(*messages, *messages, *messages, *answers, timers, timers)
ahead: list[Input] = [TimerElapsed(Timer(TimerKind.PACE, 1)), TransactionsWaiting(1)]
# a number gives the core back one of the messages that it has asked to have signed, now or late
scripts = st.lists(st.one_of(inputs, inputs, inputs, st.integers(0, 9)), max_size=80)


class Watched:
    """A core whose every step is checked; `log` holds what a restart has to replay."""

    def __init__(self, me: int | None = ME) -> None:
        self.core = Core(VALIDATORS, me, TIMEOUTS)
        self.log: list[Input] = []
        self.unsigned: list[Proposal | Vote] = []
        self.halted = False
        self.late: list[Effect] = []  # reports about decided heights, which no state remembers
        self._signed: dict[tuple[int, int, object], Proposal | Vote] = {}
        self._committed: set[int] = set()
        self._valid: set[bytes] = set()
        self._durable: set[bytes] = set()
        self.tell(Started(0))

    def follow(self, script: Iterable[Input | int]) -> list[Effect]:
        effects: list[Effect] = []
        for each in script:
            if not isinstance(each, int):
                effects += self.tell(each)
            elif self.unsigned:
                effects += self.tell(self.unsigned[each % len(self.unsigned)])
        return effects

    def tell(self, message: Input) -> Sequence[Effect]:
        core = self.core
        before, changes = self.state(), core.changes
        if isinstance(message, Committed | Started) and message.height >= core.height:
            self._valid, self._durable = set(), set()
        if (isinstance(message, BlockJudged) and message.valid) or isinstance(message, BlockBuilt):
            self._valid.add(message.value)
        if isinstance(message, BodyDurable):
            self._durable.add(message.value)
        effects = core.handle(message)
        for effect in effects:
            self._check(effect)
        assert core.changes >= changes
        if core.changes == changes:
            assert self.state() == before
            self.late += [each for each in effects if self._is_late(each)]
            assert all(self._is_late(each) or self._may_be_repeated(each) for each in effects)
        else:
            self.log.append(message)
        assert before[:3] <= self.state()[:3]  # height, round, step never go back
        assert -1 <= core.locked_round <= core.valid_round <= core.round
        assert (core.locked_value is None) == (core.locked_round == -1)
        assert (core.valid_value is None) == (core.valid_round == -1)
        return effects

    def state(self) -> tuple[object, ...]:
        core = self.core
        place = (core.height, core.round, core.step)
        return (
            *place,
            core.locked_round,
            core.locked_value,
            core.valid_round,
            core.valid_value,
        )

    def _is_late(self, effect: Effect) -> bool:
        return isinstance(effect, ReportMisbehaviour) and effect.first.height < self.core.height

    def _may_be_repeated(self, effect: Effect) -> bool:
        if isinstance(effect, SetTimer):
            return effect.timer.kind is TimerKind.RESEND
        return isinstance(effect, Resend | SendDecisions)

    def _check(self, effect: Effect) -> None:
        core = self.core
        assert not self.halted
        match effect:
            case SignAndBroadcast(message):
                self._check_signed(message)
            case Commit(height, round_, value, certificate):
                assert height not in self._committed
                self._committed.add(height)
                check_certificate(certificate, VALIDATORS)
                proved = (certificate.type, certificate.height, certificate.round)
                assert proved == (VoteType.PRECOMMIT, height, round_)
                assert certificate.value == value
                assert value in self._valid & self._durable
                assert core.step is Step.COMMIT
            case Halt(_, evidence):
                self.halted = True
                for certificate in evidence:
                    check_certificate(certificate, VALIDATORS)
            case Resend(sent):
                assert sent
            case _:
                pass

    def _check_signed(self, message: Proposal | Vote) -> None:
        core = self.core
        assert message.validator == core.me
        assert message.height == core.height
        assert core.height not in self._committed
        kind: object = message.type if isinstance(message, Vote) else "proposal"
        slot = (message.height, message.round, kind)
        assert slot not in self._signed
        self._signed[slot] = message
        self.unsigned.append(message)
        if isinstance(message, Proposal):
            if message.polka is not None:
                check_certificate(message.polka, VALIDATORS)
                proved = (message.polka.round, message.polka.value)
                assert proved == (message.valid_round, message.value)
        elif message.value is not None:
            assert message.value in self._valid
            if message.type is VoteType.PRECOMMIT:
                assert message.value in self._durable
                assert core.locked_round >= message.round


@settings(max_examples=300)
@given(scripts)
def test_no_inputs_break_what_must_hold(script: list[Input | int]) -> None:
    Watched().follow([*ahead, *script])


@given(scripts)
def test_a_follower_signs_nothing(script: list[Input | int]) -> None:
    watched = Watched(me=None)
    watched.follow([*ahead, *script])
    assert watched.unsigned == []


@given(scripts)
def test_the_same_inputs_have_the_same_effects(script: list[Input | int]) -> None:
    first, second = Watched(), Watched()
    assert first.follow([*ahead, *script]) == second.follow([*ahead, *script])
    assert first.core.changes == second.core.changes


def lasting(watched: Watched, script: Iterable[Input | int]) -> list[Effect]:
    """The effects of a script, without what depends on who was helped lately and on what was said
    lately about decided heights: nobody needs to remember that.
    """
    effects = watched.follow(script)
    return [
        each for each in effects if not isinstance(each, SendDecisions) and each not in watched.late
    ]


@given(scripts, scripts)
@example(
    [], [BlockJudged(1, A, True), TimerElapsed(Timer(TimerKind.PRECOMMIT, 1)), BlockBuilt(1, 1, A)]
)
def test_what_changed_the_state_is_enough_to_go_on(
    script: list[Input | int], rest: list[Input | int]
) -> None:
    lived = Watched()
    lived.follow([*ahead, *script])
    again = Watched()
    again.follow(lived.log[1:])
    assert again.state() == lived.state()
    assert again.log == lived.log
    assert again.core.changes == lived.core.changes
    assert again.unsigned == lived.unsigned
    assert lasting(again, rest) == lasting(lived, rest)
    assert again.state() == lived.state()
