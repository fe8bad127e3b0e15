"""What must hold after every step of the simulated world, whoever lies and whatever breaks.

The nodes call in: `stepped` after each piece of work of an honest node (a node's state changes in
its own steps only, so looking at that node is looking at all), the others when something is about
to leave it. The first thing that does not hold raises `Violation` with one line that says what.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from sim_blocks import BODIES
from sim_disk import SimDisk
from sim_world import Keys, World, short, told

from node.agreement import EARLY_ROUNDS, MAX_EARLY_CERTIFICATES
from node.consensus import wire
from node.consensus.effects import Commit, ReportMisbehaviour
from node.consensus.messages import Certificate, Input, Proposal, TimerKind, Vote, VoteType
from node.consensus.votes import FAR_ROUNDS, PROPOSALS
from node.signer import STATE_NAME, Refusal, SigningRefused

if TYPE_CHECKING:
    from sim_node import SimNode

WAL = "wal.log"
MAX_TIMERS = len(TimerKind)
CERTIFIED_ROUNDS = 8  # further ones that whole certificates were about
LOOK_AT_MEMORY_EVERY = 64  # steps of a node

_Slot = tuple[int, int, int, int]  # validator, height, round, kind
_Said = tuple[bytes | None, int]  # value, valid round


class Violation(Exception):
    """Something that must never happen has happened."""


class Checks:
    """The world's memory of what was signed, sent and decided."""

    def __init__(
        self, world: World, keys: Keys, powers: tuple[int, ...], honest: frozenset[int]
    ) -> None:
        self._world = world
        self._keys = keys
        self._powers = powers
        self.honest = honest  # validators
        self.decisions: dict[int, bytes] = {}
        self.decided_in: dict[int, int] = {}  # height -> highest round of a decision's certificate
        self.on_decision: Callable[[SimNode], None] | None = None
        self._signed: dict[_Slot, _Said] = {}
        liars = frozenset(range(len(powers))) - honest
        self._forgiven: frozenset[int] = frozenset()
        self._lying_power = sum(powers[each] for each in liars)
        self._prevotes: dict[tuple[int, int, bytes | None], int] = {}  # power of the honest
        self._locks: dict[int, tuple[int, int, bytes]] = {}  # validator -> its last precommit
        self._locked: dict[int, tuple[int, int, bytes | None]] = {}  # node -> height, round, value
        self._looked: dict[int, int] = {}
        self.most_rounds: Callable[[int], int] | None = None  # height -> round, once all is well
        self.highest_round = -1  # since then
        self.spare_rounds = 1_000_000  # the least distance to the bound since then

    def forgive(self, validators: Sequence[int]) -> None:
        """These lose their logs: they may vote against their locks, but never twice."""
        self._forgiven = frozenset(validators)
        self._lying_power += sum(self._powers[each] for each in validators)

    # -- signatures ------------------------------------------------------------------------------

    def signed(self, validator: int, message: Proposal | Vote) -> None:
        """A signer releases a signature."""
        slot = _slot(validator, message)
        said = _said(message)
        before = self._signed.get(slot)
        if before is None:
            self._signed[slot] = said
            if validator not in self._forgiven:
                self._justified(validator, message)
        elif before != said:
            raise Violation(
                f"validator {validator} signs {told(message)} and signed {short(before[0])} "
                f"(valid round {before[1]}) before"
            )

    def released(self, validator: int, message: Proposal | Vote, state: SimDisk, by: bytes) -> None:
        """A signature leaves its signer: what it is for must be where no crash can take it."""
        self.signed(validator, message)
        if not state.holds(STATE_NAME, by):
            raise Violation(f"signer-{validator} lets {told(message)} go before it is durable")

    def refused(self, validator: int, message: Proposal | Vote, refusal: SigningRefused) -> None:
        """A signer refuses: only one that has no state does so, or a vote would be missing for
        good, and with as many liars as there may be nobody could go on.
        """
        if refusal.reason is not Refusal.SILENT and validator not in self._forgiven:
            raise Violation(f"validator {validator} cannot sign {told(message)}: {refusal}")

    def _justified(self, validator: int, message: Proposal | Vote) -> None:
        """What an honest validator signs must follow from what could have been said before.

        Whether a polka can exist is known here: all that honest ones prevoted is remembered, and of
        a liar anything goes. This is what the paper's proof of agreement rests on (lines 28, 36).
        """
        height, round_, value = message.height, message.round, message.value
        what = f"validator {validator} signs {told(message)}"
        if isinstance(message, Proposal):
            if message.valid_round >= 0 and not self._polka(height, message.valid_round, value):
                raise Violation(f"{what}, and there was no polka")
        elif message.type is VoteType.PRECOMMIT:
            if value is not None:
                if not self._polka(height, round_, value):
                    raise Violation(f"{what}, and there was no polka")
                self._locks[validator] = (height, round_, value)
        elif value is not None:
            place = (height, round_, value)
            self._prevotes[place] = self._prevotes.get(place, 0) + self._powers[validator]
            locked_height, locked_round, locked = self._locks.get(validator, (0, -1, b""))
            if locked_height != height or locked == value:
                return
            rounds = range(locked_round, round_)
            if not any(self._polka(height, each, value) for each in rounds):
                raise Violation(f"{what}, locked on {short(locked)} in round {locked_round}")

    def _polka(self, height: int, round_: int, value: bytes | None) -> bool:
        """Whether there can be a polka, if every liar has helped."""
        prevoted = self._prevotes.get((height, round_, value), 0)
        return 3 * (prevoted + self._lying_power) > 2 * sum(self._powers)

    def sent(self, node: SimNode, message: Proposal | Vote) -> None:
        """An honest node's own message is about to leave."""
        assert node.validator is not None
        self.signed(node.validator, message)
        slot = _slot(node.validator, message)[1:]
        if slot in node.sent:
            return  # said again
        if not self._keys.are_good(message):
            raise Violation(f"{node.name} sends what nobody accepts: {told(message)}")
        for height, _, _ in list(node.sent)[:1]:
            if height < message.height:
                node.sent.clear()
        node.sent[slot] = message
        logged = node.disk.holds(WAL, wire.encode(message))
        # who lost its log can learn from others what it has said, and says it again
        if not logged and node.validator not in self._forgiven:
            raise Violation(f"{node.name} sends {told(message)} before it is in the log, durably")
        seen = self._world.seen
        if isinstance(message, Proposal):
            if message.polka is not None:
                seen["proposal with polka"] += 1
        elif message.type is VoteType.PRECOMMIT:
            seen["nil precommit" if message.value is None else "precommit"] += 1
            if message.value is not None:
                self._has_body(node, message.value, "sends a precommit for")
        elif message.value is None:
            seen["nil prevote"] += 1
        if message.round > 0:
            seen["round above 0"] += 1

    def _has_body(self, node: SimNode, value: bytes, what: str) -> None:
        store = node.store
        assert store is not None
        body = store.bodies.get(value)
        if body is None or not node.disk.holds(BODIES, body):
            raise Violation(f"{node.name} {what} {short(value)}, whose body is not durable")

    # -- decisions -------------------------------------------------------------------------------

    def decided(self, node: SimNode, decision: Commit) -> None:
        """An honest node decides."""
        certificate = decision.certificate
        what = f"{node.name} decides {short(decision.value)} at {decision.height}/{decision.round}"
        agreed = self.decisions.setdefault(decision.height, decision.value)
        if agreed != decision.value:
            raise Violation(f"{what}; others decided {short(agreed)}")
        if (certificate.type, certificate.height, certificate.round, certificate.value) != (
            VoteType.PRECOMMIT,
            decision.height,
            decision.round,
            decision.value,
        ) or not self.proves(certificate):
            raise Violation(f"{what} without a certificate that proves it")
        self._has_body(node, decision.value, "decides")
        last = self.decided_in.get(decision.height, -1)
        self.decided_in[decision.height] = max(last, decision.round)
        self._world.seen["decided" if decision.round == 0 else "decided above round 0"] += 1
        if self.on_decision is not None:
            self.on_decision(node)

    def proves(self, certificate: Certificate) -> bool:
        """Whether more than two thirds of the power signed; by arithmetic of its own."""
        of = certificate
        powers = self._powers
        signers = {validator for validator, _ in of.signatures}
        if len(signers) < len(of.signatures) or not signers <= set(range(len(powers))):
            return False
        if 3 * sum(powers[each] for each in signers) <= 2 * sum(powers):
            return False
        return all(
            signature == self._keys.sign(each, Vote(of.type, of.height, of.round, of.value, each))
            for each, signature in of.signatures
        )

    def accused(self, node: SimNode, misbehaviour: ReportMisbehaviour) -> None:
        """An honest node has evidence: it must convict, and never the innocent."""
        first, second = misbehaviour.first, misbehaviour.second
        name = f"{node.name}'s evidence"
        if _slot(first.validator, first) != _slot(second.validator, second):
            raise Violation(f"{name} is about two things: {told(first)}, {told(second)}")
        if _said(first) == _said(second):
            raise Violation(f"{name} is one thing said twice: {told(first)}")
        if not self._keys.are_good(first) or not self._keys.are_good(second):
            raise Violation(f"{name} is not signed: {told(first)}, {told(second)}")
        if first.validator in self.honest:
            raise Violation(f"{name} is against an honest one: {told(first)}, {told(second)}")

    # -- state -----------------------------------------------------------------------------------

    def started(self, node: SimNode, records: Sequence[Input]) -> None:
        """An honest node starts: it must remember what it said and what it is bound to."""
        core = node.core
        store = node.store
        assert store is not None
        for height, value in enumerate((each.certificate.value for each in store.chain), 1):
            if self.decisions.get(height) != value:
                raise Violation(f"{node.name} has {short(value)} at height {height} in its chain")
        remembered = {
            _slot(each.validator, each)[1:]: _said(each)
            for each in records
            if isinstance(each, Proposal | Vote) and each.validator == node.validator
        }
        if any(height > store.height + 1 for height, _, _ in node.sent):
            raise Violation(f"{node.name} lost a decision that it had built upon")
        if node.validator in self._forgiven:
            return
        for slot, message in node.sent.items():
            if message.height != store.height + 1:
                continue
            if remembered.get(slot) != _said(message):
                raise Violation(f"{node.name} has forgotten that it sent {told(message)}")
            is_lock = isinstance(message, Vote) and message.type is VoteType.PRECOMMIT
            if is_lock and message.value is not None and core.locked_round < message.round:
                raise Violation(
                    f"{node.name} sent {told(message)} and is locked in {core.locked_round} only"
                )

    def stepped(self, node: SimNode) -> None:
        """An honest node did something."""
        core = node.core
        locked_round = core.locked_round
        if not locked_round <= core.valid_round <= core.round:
            raise Violation(
                f"{node.name} at {core.height}/{core.round}: locked in {locked_round}, "
                f"valid in {core.valid_round}"
            )
        if locked_round >= 0:
            self._watch_lock(node)
        if self.most_rounds is not None and core.round > 0:
            self._bounded_rounds(node, self.most_rounds(core.height))
        looked = self._looked.get(node.index, 0) + 1
        self._looked[node.index] = looked
        if looked % LOOK_AT_MEMORY_EVERY == 0:
            self.bounded(node)

    def _bounded_rounds(self, node: SimNode, most: int) -> None:
        core = node.core
        self.highest_round = max(self.highest_round, core.round)
        self.spare_rounds = min(self.spare_rounds, most - core.round)
        if core.round > most:
            raise Violation(
                f"{node.name} is in round {core.round} of height {core.height}, and all is well; "
                f"round {most} was to decide at the latest"
            )

    def _watch_lock(self, node: SimNode) -> None:
        core = node.core
        before = self._locked.get(node.index)
        if before is None or before[0] != core.height:
            self._world.seen["locked"] += 1
        elif before[1] == core.locked_round and before[2] == core.locked_value:
            return
        elif before[1] > core.locked_round and node.validator not in self._forgiven:
            raise Violation(f"{node.name} at {core.height}/{core.round} unlocked {before[1]}")
        elif before[2] != core.locked_value:
            self._world.seen["locked on another"] += 1
        else:
            self._world.seen["locked again"] += 1
        self._locked[node.index] = (core.height, core.locked_round, core.locked_value)

    def bounded(self, node: SimNode) -> None:
        """What a node keeps has a bound, whatever it is sent."""
        agreement = node.agreement
        if agreement is None:
            return
        n = node.core.n_validators
        for name, size, most in (
            ("timers", len(agreement._timers), MAX_TIMERS),
            ("early messages", len(agreement._early), 3 * EARLY_ROUNDS * n),
            ("early certificates", len(agreement._early_certificates), MAX_EARLY_CERTIFICATES),
            ("inputs waiting", len(agreement._inbox), 0),
            *tallies(node),
        ):
            if size > most:
                raise Violation(f"{node.name} keeps {size} {name}, and {most} is the bound")


def tallies(node: SimNode) -> list[tuple[str, int, int]]:
    """What the core keeps of one height: (what, how many, the bound)."""
    core = node.core
    tally = core._tally
    rounds = core.round + 2  # its own and the next
    proposers = PROPOSALS * (rounds + FAR_ROUNDS * core.n_validators)
    return [
        ("rounds", len(tally._rounds), rounds + FAR_ROUNDS * core.n_validators + CERTIFIED_ROUNDS),
        ("blocks asked for", len(core._requested), proposers),
        ("verdicts", len(core._verdicts), proposers),
        ("signing requests", len(node._signing), 3 * rounds),
    ]


def _slot(validator: int, message: Proposal | Vote) -> _Slot:
    kind = 0 if isinstance(message, Proposal) else int(message.type)
    return validator, message.height, message.round, kind


def _said(message: Proposal | Vote) -> _Said:
    return message.value, message.valid_round if isinstance(message, Proposal) else -1
