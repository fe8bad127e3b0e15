"""Each check of the simulator fails when it should: on statements, and on nodes broken on purpose.

The broken nodes run in whole worlds: a check that never sees what it watches is no check.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
import sim_node
from sim_blocks import make_body
from sim_checks import WAL, Checks, Violation
from sim_disk import SimDisk
from sim_node import SimNode
from sim_run import Run, run_seed
from sim_world import GENESIS_ID, Keys, World

from node.agreement import Agreement
from node.consensus.core import Core
from node.consensus.effects import Commit, ReportMisbehaviour
from node.consensus.messages import BodyDurable, Certificate, Proposal, Vote, VoteType
from node.consensus.validators import ValidatorSet
from node.signer import Signer
from node.wal import Wal

POWERS = (1, 1, 1, 1)
A, B = b"a" * 32, b"b" * 32


class Bench:
    """Checks with a world of four, of which the last lies."""

    def __init__(self) -> None:
        self.world = World(1)
        self.keys = Keys(1, POWERS)
        self.checks = Checks(self.world, self.keys, POWERS, frozenset((0, 1, 2)))

    def vote(self, type_: VoteType, round_: int, value: bytes | None, validator: int) -> Vote:
        vote = Vote(type_, 1, round_, value, validator)
        signature = self.keys.sign(validator, vote)
        return Vote(type_, 1, round_, value, validator, signature)

    def prevoted(self, round_: int, value: bytes | None, *validators: int) -> None:
        for each in validators:
            self.checks.signed(each, self.vote(VoteType.PREVOTE, round_, value, each))

    def precommitted(self, round_: int, value: bytes | None, *validators: int) -> None:
        for each in validators:
            self.checks.signed(each, self.vote(VoteType.PRECOMMIT, round_, value, each))

    def decision(self, value: bytes, validators: tuple[int, ...], round_: int = 0) -> Commit:
        votes = [self.vote(VoteType.PRECOMMIT, round_, value, each) for each in validators]
        signatures = tuple((vote.validator, vote.signature) for vote in votes)
        certificate = Certificate(VoteType.PRECOMMIT, 1, round_, value, signatures)
        return Commit(1, round_, value, certificate)

    def node(self, **state: Any) -> Any:
        """A node with a state, and every body durable."""
        body = make_body(1, GENESIS_ID, 0, 1, True)
        disk = SimDisk({"bodies.log": body})
        core = {"height": 1, "round": 0, "locked_round": -1, "valid_round": -1} | state
        store = SimpleNamespace(bodies={A: body, B: body}, height=0, chain=[])
        return SimpleNamespace(
            name="node-0",
            index=0,
            validator=0,
            disk=disk,
            store=store,
            sent={},
            core=SimpleNamespace(locked_value=None, **core),
        )


# -- statements ----------------------------------------------------------------------------------


def test_two_votes_for_one_place() -> None:
    bench = Bench()
    bench.prevoted(0, A, 0)
    bench.prevoted(0, A, 0)
    bench.prevoted(1, B, 0)
    with pytest.raises(Violation, match="and signed"):
        bench.prevoted(0, None, 0)


def test_two_proposals_for_one_round_differ_in_their_valid_round_too() -> None:
    bench = Bench()
    bench.prevoted(0, A, 0, 1)
    bench.checks.signed(1, Proposal(1, 1, A, -1, 1))
    with pytest.raises(Violation, match="and signed"):
        bench.checks.signed(1, Proposal(1, 1, A, 0, 1))


def test_a_precommit_needs_a_polka() -> None:
    bench = Bench()
    bench.prevoted(0, A, 0)
    with pytest.raises(Violation, match="there was no polka"):
        bench.precommitted(0, A, 0)
    bench.precommitted(0, None, 1)
    bench.prevoted(0, A, 1)  # with the liar's, three of four
    bench.precommitted(0, A, 2)


def test_a_proposal_of_an_old_value_needs_a_polka() -> None:
    bench = Bench()
    bench.prevoted(0, A, 0, 1)
    bench.checks.signed(0, Proposal(1, 1, A, 0, 0))
    with pytest.raises(Violation, match="there was no polka"):
        bench.checks.signed(1, Proposal(1, 1, B, 0, 1))


def test_who_is_locked_prevotes_another_value_only_after_its_polka() -> None:
    bench = Bench()
    bench.prevoted(0, A, 0, 1)
    bench.precommitted(0, A, 0)
    bench.prevoted(1, None, 0)
    bench.prevoted(1, B, 1, 2)
    bench.prevoted(2, B, 0)  # the lock gives way to a later polka
    bench.precommitted(0, A, 1)
    with pytest.raises(Violation, match="locked on"):
        bench.prevoted(2, b"c" * 32, 1)


def test_two_decisions_for_one_height() -> None:
    bench = Bench()
    bench.checks.decided(bench.node(), bench.decision(A, (0, 1, 3)))
    bench.checks.decided(bench.node(), bench.decision(A, (0, 1, 2), 1))
    with pytest.raises(Violation, match="others decided"):
        bench.checks.decided(bench.node(), bench.decision(B, (1, 2, 3), 1))


@pytest.mark.parametrize("validators", [(0, 1), (0, 1, 1), (0, 1, 7)])
def test_a_decision_without_a_quorum(validators: tuple[int, ...]) -> None:
    bench = Bench()
    bench.keys.public = (*bench.keys.public, *bench.keys.public)
    with pytest.raises(Violation, match="without a certificate"):
        bench.checks.decided(bench.node(), bench.decision(A, validators))


def test_a_decision_with_forged_signatures() -> None:
    bench = Bench()
    genuine = bench.decision(A, (0, 1, 2))
    signatures = tuple((each, b"x" * 64) for each in range(4))
    forged = Certificate(VoteType.PRECOMMIT, 1, 0, A, signatures)
    with pytest.raises(Violation, match="without a certificate"):
        bench.checks.decided(bench.node(), Commit(1, 0, A, forged))
    with pytest.raises(Violation, match="without a certificate"):
        bench.checks.decided(bench.node(), Commit(1, 1, A, genuine.certificate))


@pytest.mark.parametrize(("locked", "valid", "round_"), [(1, 0, 2), (0, 3, 2), (3, 3, 2)])
def test_locks_out_of_order(locked: int, valid: int, round_: int) -> None:
    bench = Bench()
    with pytest.raises(Violation, match="locked in"):
        bench.checks.stepped(bench.node(locked_round=locked, valid_round=valid, round=round_))


def test_a_lock_that_goes_back() -> None:
    bench = Bench()
    bench.checks.stepped(bench.node(locked_round=1, valid_round=1, round=2))
    with pytest.raises(Violation, match="unlocked"):
        bench.checks.stepped(bench.node(locked_round=0, valid_round=1, round=2))


def test_too_many_rounds_once_all_is_well() -> None:
    bench = Bench()
    bench.checks.stepped(bench.node(round=9))
    bench.checks.most_rounds = lambda height: 7 + height
    bench.checks.stepped(bench.node(round=8))
    with pytest.raises(Violation, match="round 8 was to decide"):
        bench.checks.stepped(bench.node(round=9))


def test_evidence_convicts_liars_only() -> None:
    bench = Bench()
    prevote = VoteType.PREVOTE
    two = [bench.vote(prevote, 0, A, 3), bench.vote(prevote, 0, B, 3)]
    bench.checks.accused(bench.node(), ReportMisbehaviour(*two))
    for first, second, why in (
        (two[0], two[0], "said twice"),
        (two[0], bench.vote(prevote, 1, B, 3), "two things"),
        (two[0], Vote(prevote, 1, 0, B, 3, b"x" * 64), "not signed"),
        (bench.vote(prevote, 0, A, 0), bench.vote(prevote, 0, B, 0), "an honest one"),
    ):
        with pytest.raises(Violation, match=why):
            bench.checks.accused(bench.node(), ReportMisbehaviour(first, second))


def test_what_was_sent_must_be_remembered() -> None:
    bench = Bench()
    node = bench.node()
    sent = bench.vote(VoteType.PREVOTE, 0, A, 0)
    node.sent = {(1, 0, 1): sent}
    bench.checks.started(node, [sent])
    with pytest.raises(Violation, match="forgotten"):
        bench.checks.started(node, [])
    precommit = bench.vote(VoteType.PRECOMMIT, 0, A, 0)
    node.sent = {(1, 0, 2): precommit}
    with pytest.raises(Violation, match="is locked in -1 only"):
        bench.checks.started(node, [precommit])


def test_what_grows_without_bound() -> None:
    run = Run(0)
    run.through()
    node = run.honest[0]
    assert node.agreement is not None
    run.checks.bounded(node)
    for height in range(1000):
        node.agreement._early_certificates[height] = None  # type: ignore[assignment]
    with pytest.raises(Violation, match="1000 early certificates"):
        run.checks.bounded(node)


# -- nodes broken on purpose ---------------------------------------------------------------------


def says_before_it_is_logged(monkeypatch: pytest.MonkeyPatch) -> None:
    say = Agreement._say

    def too_early(self: Agreement, message: Any) -> None:
        if message.height == self.core.height:
            self._host.broadcast(message)
        say(self, message)

    monkeypatch.setattr(Agreement, "_say", too_early)


def log_that_does_not_sync(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Wal, "sync", Wal._flush)


def log_that_forgets(monkeypatch: pytest.MonkeyPatch) -> None:
    recover = Wal.recover

    def nothing(self: Wal, height: int) -> list[Any]:
        recover(self, height)
        return []

    monkeypatch.setattr(Wal, "recover", nothing)


def signer_that_forgets(monkeypatch: pytest.MonkeyPatch) -> None:
    def anything(self: Signer, message: Any) -> bytes:
        self.state = None
        self._first_height = -10
        return sign(self, message)

    sign = Signer.sign
    monkeypatch.setattr(Signer, "sign", anything)
    log_that_loses_own_votes(monkeypatch)


def log_that_loses_own_votes(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of what was logged last, the crash takes something; the checks of sending are blind."""
    recover = Wal.recover
    monkeypatch.setattr(Wal, "recover", lambda self, height: recover(self, height)[:2])
    monkeypatch.setattr(Checks, "started", lambda *_: None)


def signer_that_writes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Signer, "_store", lambda self, state: setattr(self, "state", state))


def nodes_that_ask_for_all_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """A signer that dies with two answers under way can give the second again, not the first."""

    def sign(self: SimNode, message: Any) -> None:
        self._signing[sim_node.slot(message)] = message
        self.signer.ask(message, self._signer_answers, self.life)  # type: ignore[union-attr]

    def ask_again(self: SimNode) -> None:
        for message in self._signing.values():
            self.signer.ask(message, self._signer_answers, self.life)  # type: ignore[union-attr]

    monkeypatch.setattr(SimNode, "sign", sign)
    monkeypatch.setattr(SimNode, "_ask_signer", ask_again)


def body_that_is_not_durable(monkeypatch: pytest.MonkeyPatch) -> None:
    def told_too_early(self: SimNode, height: int, value: bytes) -> None:
        self._tell(BodyDurable(height, value))

    monkeypatch.setattr(SimNode, "_sync_body", told_too_early)


def half_is_a_quorum(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ValidatorSet, "quorum", lambda self, power: 2 * power >= self.total)


def no_lock(monkeypatch: pytest.MonkeyPatch) -> None:
    prevote = Core._prevote
    monkeypatch.setattr(Core, "_prevote", lambda self, value, _allowed: prevote(self, value, True))


def signatures_are_not_checked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Keys, "are_good", lambda *_: True)


def no_timeout_for_precommits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Core, "_time_precommits", lambda _: None)


def nothing_is_said_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Core, "_resend", lambda _: None)


def a_node_that_raises(monkeypatch: pytest.MonkeyPatch) -> None:
    def stumble(_: Core) -> None:
        raise ZeroDivisionError("on purpose")

    monkeypatch.setattr(Core, "_lock", stumble)


FORGED = "without a certificate|not signed|there was no polka|against an honest one"


@pytest.mark.parametrize(
    ("break_it", "said", "seeds"),
    [
        (says_before_it_is_logged, "before it is in the log, durably", 3),
        (log_that_does_not_sync, "before it is in the log, durably", 3),
        (log_that_forgets, "has forgotten that it sent|is locked in", 30),
        (signer_that_forgets, "and signed", 60),
        (signer_that_writes_nothing, "before it is durable", 3),
        (nodes_that_ask_for_all_at_once, "cannot sign", 400),
        (body_that_is_not_durable, "whose body is not durable", 3),
        (half_is_a_quorum, "without a certificate|there was no polka|others decided", 30),
        (no_lock, "locked on|others decided", 60),
        (signatures_are_not_checked, FORGED, 60),
        (no_timeout_for_precommits, "nobody honest has gained a height", 10),
        (nothing_is_said_again, "nobody honest has gained a height", 10),
        (a_node_that_raises, "ZeroDivisionError at .*: on purpose", 3),
    ],
)
def test_a_broken_node_is_found_out(
    monkeypatch: pytest.MonkeyPatch,
    break_it: Callable[[pytest.MonkeyPatch], None],
    said: str,
    seeds: int,
) -> None:
    break_it(monkeypatch)
    violations = (run_seed(seed).violation for seed in range(seeds))
    found = next((each for each in violations if each is not None), "nothing")
    assert re.search(said, found), found


def test_the_checks_know_the_names_of_the_files() -> None:
    run = Run(3)
    run.through()
    assert WAL in run.honest[0].disk.names()
    assert sim_node.BlockStore(run.honest[0].disk).height >= 10
