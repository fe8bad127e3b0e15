"""Four cores in one process, messages in any order, some lost: they agree, and go on when calm.

One validator may lie (it votes for everything and proposes two blocks), and honest ones restart
from the inputs that changed their state. Time is a number.
"""

from __future__ import annotations

from collections.abc import Sequence
from random import Random

import pytest
from cores import FOUR, TIMEOUTS, signature
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec.structs import replace

from node.consensus.certificate import check_certificate
from node.consensus.core import Core
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
from node.consensus.validators import ValidatorSet

VALIDATORS = ValidatorSet(FOUR)
CALM_STEPS = 6000
CALM_HEIGHTS = 3


def block(height: int, round_: int, by: int, mind: int = 0) -> bytes:
    return bytes([height % 256, round_ % 256, by, mind]) + bytes(28)


class Honest:
    """A core with its log, its timers, and what it has signed."""

    def __init__(self, cluster: Cluster, me: int) -> None:
        self.cluster = cluster
        self.me = me
        self.committed = 0
        self.log: list[Input] = []
        self.timers: dict[TimerKind, tuple[int, Timer]] = {}
        self.signed: dict[tuple[int, int, object], bytes | None] = {}
        self.core = Core(VALIDATORS, me, TIMEOUTS)
        self.perform(self.core.handle(Started(0)))

    def restart(self) -> None:
        """Forget everything but the log; what was asked for and not answered comes again."""
        self.core = Core(VALIDATORS, self.me, TIMEOUTS)
        self.timers = {}
        asked = list(self.core.handle(Started(self.committed)))
        for message in self.log:
            asked += self.core.handle(message)
        self.perform(asked)

    def tell(self, message: Input) -> None:
        if isinstance(message, Proposal | Vote) and message.height > self.core.height:
            return  # no memory for what is early: it is as if lost
        height, before = self.core.height, self.core.changes
        effects = self.core.handle(message)
        if self.core.height != height:
            self.log = []
        elif self.core.changes != before:
            self.log.append(message)
        self.perform(effects)

    def elapse(self, kind: TimerKind) -> None:
        _, timer = self.timers.pop(kind)
        self.tell(TimerElapsed(timer))

    def perform(self, effects: Sequence[Effect]) -> None:
        for effect in effects:
            self._perform(effect)

    def _perform(self, effect: Effect) -> None:
        cluster = self.cluster
        match effect:
            case AwaitTransactions(height):
                cluster.answer(self, TransactionsWaiting(height))
            case BuildBlock(height, round_):
                cluster.answer(self, BlockBuilt(height, round_, block(height, round_, self.me)))
            case RequestBlock(height, value):
                cluster.answer(self, BlockJudged(height, value, value[3] != 9))
            case PersistBody(height, value):
                cluster.answer(self, BodyDurable(height, value))
            case SignAndBroadcast(message):
                self._sign(message)
            case Resend(messages):
                for each in messages:
                    cluster.broadcast(self.me, each)
            case SendDecisions(validator, height):
                for each in range(height, self.committed + 1):
                    cluster.send(validator, Certified(cluster.certificates[each]))
            case SetTimer(timer, delay_ms):
                self.timers[timer.kind] = (cluster.now_ms + delay_ms, timer)
            case Commit(height, _, value, certificate):
                cluster.decide(self, height, value, certificate)
            case ReportMisbehaviour(first, second):
                assert first.validator == second.validator == cluster.liar
            case Halt():
                pytest.fail(f"halted: {effect.reason}")

    def _sign(self, message: Proposal | Vote) -> None:
        kind: object = message.type if isinstance(message, Vote) else "proposal"
        slot = (message.height, message.round, kind)
        assert self.signed.setdefault(slot, message.value) == message.value
        self.cluster.sign(self, replace(message, signature=signature(self.me)))


class Cluster:
    """Honest cores and perhaps a liar, with a network in no order at all."""

    def __init__(self, random: Random, liar: int | None) -> None:
        self.random = random
        self.liar = liar
        self.now_ms = 0
        self.loss = 0.3
        self.calm = False
        self.pending: list[tuple[int, Input]] = []
        self.decided: dict[int, bytes] = {}
        self.certificates: dict[int, Certificate] = {}
        self.honest = {each: Honest(self, each) for each in range(4) if each != liar}

    # -- what the cores ask for ------------------------------------------------------------------

    def answer(self, core: Honest, message: Input) -> None:
        self.pending.append((core.me, message))

    def sign(self, core: Honest, message: Proposal | Vote) -> None:
        self.pending.append((core.me, message))
        self.broadcast(core.me, message)

    def broadcast(self, sender: int, message: Proposal | Vote | Certified) -> None:
        for each in range(4):
            if each != sender:
                self.send(each, message)

    def send(self, to: int, message: Proposal | Vote | Certified) -> None:
        if self.calm or self.random.random() >= self.loss:
            self.pending.append((to, message))

    def decide(self, core: Honest, height: int, value: bytes, certificate: Certificate) -> None:
        check_certificate(certificate, VALIDATORS)
        assert certificate.value == value
        assert self.decided.setdefault(height, value) == value, "two decisions"
        self.certificates.setdefault(height, certificate)
        assert core.committed == height - 1
        core.committed = height
        self.pending.append((core.me, Committed(height)))

    # -- what happens ----------------------------------------------------------------------------

    def deliver(self, at: int) -> None:
        to, message = self.pending.pop(at)
        if to != self.liar:
            core = self.honest[to]
            own = isinstance(message, Proposal | Vote) and message.validator == to
            if not own or message.height == core.core.height:
                core.tell(message)
        elif isinstance(message, Proposal | Vote) and not self.calm:
            self.lie(message.height, message.round)

    def lie(self, height: int, round_: int) -> None:
        """Say something about a round to somebody: a block of ones own, or a vote for anything."""
        liar, random = self.liar, self.random
        assert liar is not None
        known = [
            each.value
            for _, each in self.pending
            if isinstance(each, Proposal | Vote) and each.height == height
        ]
        value = random.choice([None, block(height, round_, liar, random.choice([1, 2, 9])), *known])
        to = random.choice(sorted(self.honest))
        ahead = round_ + random.choice([0, 0, 0, 1, 3])
        mark = signature(liar)
        if VALIDATORS.proposer(height, ahead) == liar and value is not None:
            self.pending.append((to, Proposal(height, ahead, value, -1, liar, None, mark)))
        type_ = random.choice(list(VoteType))
        self.pending.append((to, Vote(type_, height, ahead, value, liar, mark)))

    def chaos(self, steps: int) -> None:
        random = self.random
        for _ in range(steps):
            roll = random.random()
            if roll < 0.85 and self.pending:
                self.deliver(random.randrange(len(self.pending)))
            elif roll < 0.97:
                core = self.honest[random.choice(sorted(self.honest))]
                self.now_ms += 1
                core.elapse(random.choice(sorted(core.timers)))
            elif roll < 0.985:
                self.honest[random.choice(sorted(self.honest))].restart()
            elif self.pending:
                self.pending.append(random.choice(self.pending))
            self.check()

    def settle(self) -> None:
        """Nothing is lost or late any more: everybody has to get on."""
        self.calm = True
        goal = max(each.committed for each in self.honest.values()) + CALM_HEIGHTS
        for _ in range(CALM_STEPS):
            if min(each.committed for each in self.honest.values()) >= goal:
                return
            if self.pending:
                self.deliver(0)
            else:
                due_ms, me, kind = min(
                    (due_ms, me, kind)
                    for me, each in self.honest.items()
                    for kind, (due_ms, _) in each.timers.items()
                )
                self.now_ms = max(self.now_ms, due_ms)
                self.honest[me].elapse(kind)
            self.check()
        state = [
            (each.core.height, each.core.round, each.core.step) for each in self.honest.values()
        ]
        pytest.fail(f"no progress: {state}")

    def check(self) -> None:
        for each in self.honest.values():
            core = each.core
            assert core.locked_round <= core.valid_round <= core.round


@settings(max_examples=40)
@given(st.integers(0, 2**32), st.sampled_from([None, 0, 1, 2, 3]), st.integers(0, 1200))
def test_cores_agree_and_go_on_when_it_is_calm(seed: int, liar: int | None, steps: int) -> None:
    cluster = Cluster(Random(seed), liar)
    cluster.chaos(steps)
    cluster.settle()


def test_calm_cores_need_one_round_a_height() -> None:
    cluster = Cluster(Random(1), None)
    cluster.loss = 0
    cluster.settle()
    assert set(cluster.decided) >= set(range(1, CALM_HEIGHTS + 1))
    assert {certificate.round for certificate in cluster.certificates.values()} == {0}
