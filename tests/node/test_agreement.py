"""The driver of agreement: what is logged when, what is asked again, what waits for its time."""

from __future__ import annotations

import copy
import random
from dataclasses import dataclass, field

import msgspec
from sim_disk import SimDisk

from node.agreement import EARLY_ROUNDS, MAX_EARLY_CERTIFICATES, NS_PER_MS, Agreement
from node.consensus.certificate import make_certificate
from node.consensus.core import Core, Timeouts
from node.consensus.effects import Commit, Halt, ReportMisbehaviour
from node.consensus.messages import (
    BlockBuilt,
    BlockJudged,
    BodyDurable,
    Certified,
    Committed,
    Proposal,
    TransactionsWaiting,
    Vote,
    VoteType,
)
from node.consensus.validators import ValidatorSet
from node.wal import Wal

GENESIS_ID = bytes(range(32))
TIMES = Timeouts(pace_ms=100, empty_pace_ms=1000)
SIGNATURE = b"s" * 64


def value_of(height: int, round_: int) -> bytes:
    return bytes((height, round_)) * 16


@dataclass
class Desk:
    """A host that only notes what it is asked for; the test answers."""

    disk: SimDisk
    asked: list[tuple[object, ...]] = field(default_factory=list)
    left: list[object] = field(default_factory=list)
    lost_when_left: list[object] = field(default_factory=list)

    def await_transactions(self, height: int) -> None:
        self.asked.append(("await", height))

    def build(self, height: int, round_: int) -> None:
        self.asked.append(("build", height, round_))

    def request_block(self, height: int, value: bytes) -> None:
        self.asked.append(("request", height, value))

    def persist_body(self, height: int, value: bytes) -> None:
        self.asked.append(("persist", height, value))

    def sign(self, message: Proposal | Vote) -> None:
        self.asked.append(("sign", message))

    def broadcast(self, message: Proposal | Vote | Certified) -> None:
        self.left.append(message)
        if isinstance(message, Certified):
            return
        for seed in range(5):  # the power fails at this moment
            disk = copy.deepcopy(self.disk).crash(random.Random(seed))
            if message not in Wal(disk, GENESIS_ID).recover(message.height):
                self.lost_when_left.append(message)

    def send_decisions(self, validator: int, height: int) -> None:
        self.asked.append(("send", validator, height))

    def commit(self, decision: Commit) -> None:
        self.asked.append(("commit", decision))

    def report(self, misbehaviour: ReportMisbehaviour) -> None:
        self.asked.append(("report", misbehaviour))

    def halt(self, reason: Halt) -> None:
        self.asked.append(("halt", reason))

    def take(self) -> list[tuple[object, ...]]:
        asked, self.asked = self.asked, []
        return asked


class Node:
    """A driver on a disk, with times that the test gives."""

    def __init__(
        self, powers: list[int], me: int, disk: SimDisk | None = None, height: int = 0
    ) -> None:
        self.disk = disk or SimDisk()
        self.desk = Desk(self.disk)
        self.core = Core(ValidatorSet(powers), me, TIMES)
        self.agreement = Agreement(self.core, Wal(self.disk, GENESIS_ID), self.desk)
        self.now_ns = 0
        self.agreement.start(height, 0)

    def tell(self, message: object) -> list[tuple[object, ...]]:
        self.agreement.tell(message, self.now_ns)  # type: ignore[arg-type]
        return self.desk.take()

    def pass_ms(self, ms: int) -> list[tuple[object, ...]]:
        self.now_ns += ms * NS_PER_MS
        self.agreement.elapse(self.now_ns)
        return self.desk.take()

    def signed(self, message: object) -> list[tuple[object, ...]]:
        assert isinstance(message, Proposal | Vote)
        full = msgspec.structs.replace(message, signature=SIGNATURE)
        self.agreement.signed(full, self.now_ns)
        return self.desk.take()

    def to_proposal(self) -> Proposal:
        """Through pace and building to the own proposal of round 0, unsigned."""
        height = self.core.height
        assert ("await", height) in self.pass_ms(TIMES.pace_ms)
        assert self.tell(TransactionsWaiting(height)) == [("build", height, 0)]
        value = value_of(height, 0)
        asked = self.tell(BlockBuilt(height, 0, value))
        assert asked[1:] == [("persist", height, value)]
        proposal = asked[0][1]
        assert isinstance(proposal, Proposal)
        return proposal

    def decide(self) -> None:
        """One whole height of a single validator."""
        height = self.core.height
        [(_, prevote)] = self.signed(self.to_proposal())
        assert self.tell(BodyDurable(height, value_of(height, 0))) == []
        [(_, precommit)] = self.signed(prevote)
        [(what, decision)] = self.signed(precommit)
        assert what == "commit"
        assert isinstance(decision, Commit)
        assert self.tell(Committed(height)) == []
        assert self.core.height == height + 1

    def restarted(self, power_lost: int | None = None) -> Node:
        disk = self.disk if power_lost is None else self.disk.crash(random.Random(power_lost))
        return Node([1], 0, disk, self.core.height - 1)


def vote(
    type_: VoteType, validator: int, value: bytes | None, height: int = 1, round_: int = 0
) -> Vote:
    return Vote(type_, height, round_, value, validator, SIGNATURE)


def certified(height: int) -> Certified:
    value = value_of(height, 0)
    votes = [vote(VoteType.PRECOMMIT, each, value, height) for each in (1, 2, 3)]
    return Certified(make_certificate(VoteType.PRECOMMIT, height, 0, value, votes))


def test_a_single_validator_decides_height_after_height() -> None:
    node = Node([1], 0)
    for _ in range(3):
        node.decide()
    kinds = [each.type.name if isinstance(each, Vote) else "PROPOSAL" for each in node.desk.left]  # type: ignore[union-attr]
    assert kinds == ["PROPOSAL", "PREVOTE", "PRECOMMIT"] * 3


def test_what_leaves_is_in_the_log_whenever_the_power_fails() -> None:
    node = Node([1], 0)
    for _ in range(3):
        node.decide()
    assert len(node.desk.left) == 9
    assert node.desk.lost_when_left == []


def test_blocks_keep_their_pace_however_long_a_commit_takes() -> None:
    node = Node([1], 0)
    node.decide()
    node.now_ns += 70 * NS_PER_MS
    assert node.agreement.deadline_ns() == 2 * TIMES.pace_ms * NS_PER_MS
    assert ("await", 2) not in node.pass_ms(29)
    assert ("await", 2) in node.pass_ms(1)


def test_an_empty_block_comes_as_long_after_the_last_as_it_should() -> None:
    node = Node([1], 0)
    for height in (1, 2):
        assert ("await", height) in node.pass_ms(TIMES.pace_ms)
        assert ("build", height, 0) not in node.pass_ms(TIMES.empty_pace_ms - TIMES.pace_ms - 1)
        assert ("build", height, 0) in node.pass_ms(1)
        value = value_of(height, 0)
        (_, proposal), _ = node.tell(BlockBuilt(height, 0, value))
        [(_, prevote)] = node.signed(proposal)
        node.tell(BodyDurable(height, value))
        [(_, precommit)] = node.signed(prevote)
        node.signed(precommit)
        node.tell(Committed(height))


def test_an_own_message_counts_only_when_it_comes_from_the_signer() -> None:
    node = Node([1], 0)
    proposal = node.to_proposal()
    assert node.tell(msgspec.structs.replace(proposal, signature=SIGNATURE)) == []
    assert node.desk.left == []
    assert node.signed(proposal)[0][0] == "sign"


def test_a_signature_of_a_decided_height_is_of_no_use() -> None:
    node = Node([1], 0)
    proposal = node.to_proposal()
    first = list(node.desk.left)
    node.agreement.signed(msgspec.structs.replace(proposal, height=9), node.now_ns)
    assert node.desk.left == first


def test_after_a_restart_what_was_not_answered_is_asked_again() -> None:
    node = Node([1], 0)
    proposal = node.to_proposal()
    [(_, prevote)] = node.signed(proposal)
    again = node.restarted(power_lost=3)
    value = value_of(1, 0)
    assert again.desk.take() == [("persist", 1, value), ("sign", prevote)]
    assert again.core.round == 0
    assert again.tell(BodyDurable(1, value)) == []
    [(_, precommit)] = again.signed(prevote)
    assert again.signed(precommit)[0][0] == "commit"


def test_a_commit_that_did_not_happen_is_repeated() -> None:
    node = Node([1], 0)
    [(_, prevote)] = node.signed(node.to_proposal())
    node.tell(BodyDurable(1, value_of(1, 0)))
    [(_, precommit)] = node.signed(prevote)
    [(_, decision)] = node.signed(precommit)
    again = node.restarted(power_lost=1)
    assert again.desk.take() == [("commit", decision)]


def test_a_decision_is_in_the_log_before_it_is_announced_whenever_the_power_fails() -> None:
    node = Node([1, 1, 1, 1], 3)
    node.pass_ms(TIMES.pace_ms)
    value = value_of(1, 0)
    node.tell(Proposal(1, 0, value, -1, 0, signature=SIGNATURE))
    node.tell(BlockJudged(1, value, True))
    for validator in (0, 1):
        node.tell(vote(VoteType.PRECOMMIT, validator, value))
    node.tell(BodyDurable(1, value))
    [(what, decision)] = node.tell(vote(VoteType.PRECOMMIT, 2, value))
    assert what == "commit"
    assert isinstance(decision, Commit)
    for seed in range(5):
        disk = copy.deepcopy(node.disk).crash(random.Random(seed))
        assert Certified(decision.certificate) in Wal(disk, GENESIS_ID).recover(1)
        again = Node([1, 1, 1, 1], 3, disk)
        assert ("commit", decision) in again.desk.take()


def test_the_log_of_a_committed_height_is_not_replayed() -> None:
    node = Node([1], 0)
    node.decide()
    again = node.restarted(power_lost=1)
    assert again.desk.take() == []
    assert (again.core.height, again.core.round) == (2, -1)


def test_what_comes_before_its_height_is_told_and_logged_with_it() -> None:
    node = Node([1, 1, 1, 1], 0)
    early = vote(VoteType.PREVOTE, 2, value_of(2, 0), height=2)
    far = vote(VoteType.PREVOTE, 2, value_of(2, 5), height=2, round_=5)
    for message in (early, far, vote(VoteType.PREVOTE, 3, None, height=3)):
        assert node.tell(message) == []
    decide_by_certificate(node, 1)
    assert node.core.height == 2
    node.pass_ms(TIMES.pace_ms)
    assert node.core.round == 0  # somebody spoke at this height: the round begins
    node.agreement._wal.sync()
    again = Node([1, 1, 1, 1], 0, node.disk.crash(random.Random(1)), height=1)
    assert again.core.round == 0


def test_what_comes_early_from_nobody_or_no_round_is_not_kept() -> None:
    node = Node([1, 1, 1, 1], 0)
    for validator, round_ in ((-1, 0), (4, 0), (2, -1), (2, EARLY_ROUNDS)):
        node.tell(vote(VoteType.PREVOTE, validator, None, height=2, round_=round_))
    assert node.agreement._early == {}


def decide_by_certificate(node: Node, height: int) -> None:
    value = value_of(height, 0)
    assert ("request", height, value) in node.tell(certified(height))
    assert node.tell(BlockJudged(height, value, True)) == [("persist", height, value)]
    [(what, _)] = node.tell(BodyDurable(height, value))
    assert what == "commit"
    node.tell(Committed(height))


def test_certificates_of_later_heights_wait_for_their_turn() -> None:
    node = Node([1, 1, 1, 1], 0)
    assert node.tell(certified(2)) == []
    too_far = certified(2 + MAX_EARLY_CERTIFICATES)
    assert node.tell(too_far) == []
    value = value_of(1, 0)
    node.tell(certified(1))
    node.tell(BlockJudged(1, value, True))
    node.tell(BodyDurable(1, value))
    assert ("request", 2, value_of(2, 0)) in node.tell(Committed(1))
    assert len(node.agreement._early_certificates) == 0


def test_nothing_happens_after_a_halt() -> None:
    node = Node([1, 1, 1, 1], 0)
    node.tell(certified(1))
    [(what, reason)] = node.tell(BlockJudged(1, value_of(1, 0), False))
    assert what == "halt"
    assert isinstance(reason, Halt)
    assert node.tell(BodyDurable(1, value_of(1, 0))) == []
    assert node.pass_ms(60_000) == []


def test_timers_run_out_in_order_and_a_replaced_one_does_not() -> None:
    node = Node([1, 1, 1, 1], 0)
    asked = node.pass_ms(60_000)  # PACE and RESEND are both due; PACE comes first
    assert asked == [("await", 1)]
    assert node.agreement.deadline_ns() is not None
    assert node.pass_ms(0) == []
