"""The tally of one height: who has said what, and what has a quorum.

The core puts in the messages and certificates that it hears, and asks what is enough. Each answer
costs the same however many votes there are. It holds one vote per (round, type, validator) and at
most two proposals per round; of a validator that does not keep to the rules, the second message is
evidence and does not count, unless a whole certificate holds it.

What nobody can be held to is bounded: beyond the next round, two rounds per validator, the highest
that it spoke in. It is dropped with its height, of which `PAST_HEIGHTS` are kept below the present.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from enum import Enum

from node.consensus.certificate import make_certificate
from node.consensus.messages import Certificate, Proposal, Vote, VoteType
from node.consensus.validators import ValidatorSet

PAST_HEIGHTS = 2  # whose tallies are kept to find who contradicts himself after the decision
FAR_ROUNDS = 2  # per validator, beyond the next round
MOVES = 2  # of a validator's far rounds between two renewals, or it could fill the log
PROPOSALS = 2  # per round: the one that counts, and the proof that there is another


class Heard(Enum):
    """What a message was worth."""

    NEW = 1
    NOTHING_NEW = 2  # known already, or not to be kept
    CONFLICT = 3  # new, and evidence against its sender


class Ballot:
    """The votes of one type in one round."""

    __slots__ = ("_accused", "_certified", "_power", "_power_of", "_validators", "quorums", "votes")

    def __init__(self, validators: ValidatorSet) -> None:
        self._validators = validators
        self._power = 0  # of all who voted
        self._power_of: dict[bytes | None, int] = {}
        self._certified: dict[tuple[int, bytes | None], Vote] = {}  # second votes that count
        self._accused: set[int] = set()
        self.votes: dict[int, Vote] = {}  # the first of each validator
        self.quorums: list[bytes | None] = []  # the values that have one, in that order

    @property
    def complete(self) -> bool:
        """Whether a quorum has voted, for whatever."""
        return self._validators.quorum(self._power)

    def add(self, vote: Vote, certified: bool) -> Heard:
        """Count a vote; a second, different one counts only if a certificate holds it."""
        validator, value = vote.validator, vote.value
        first = self.votes.get(validator)
        if first is None:
            self.votes[validator] = vote
            self._power += self._validators.power(validator)
            self._support(value, validator)
            return Heard.NEW
        if first.value == value:
            return Heard.NOTHING_NEW
        counts = certified and (validator, value) not in self._certified
        if counts:
            self._certified[validator, value] = vote
            self._support(value, validator)
        if validator not in self._accused:
            self._accused.add(validator)
            return Heard.CONFLICT
        return Heard.NEW if counts else Heard.NOTHING_NEW

    def _support(self, value: bytes | None, validator: int) -> None:
        before = self._power_of.get(value, 0)
        power = before + self._validators.power(validator)
        self._power_of[value] = power
        if self._validators.quorum(power) and not self._validators.quorum(before):
            self.quorums.append(value)

    def remove(self, validator: int) -> None:
        """Forget a validator's first vote, if there is one."""
        vote = self.votes.pop(validator, None)
        if vote is not None:
            self._power -= self._validators.power(validator)
            self._power_of[vote.value] -= self._validators.power(validator)
            self._accused.discard(validator)

    def votes_for(self, value: bytes) -> list[Vote]:
        """Every vote that counts for a value."""
        votes = [*self.votes.values(), *self._certified.values()]
        return [vote for vote in votes if vote.value == value]


class Round:
    """What was said in one round."""

    __slots__ = ("power", "precommits", "prevotes", "proposals", "speakers")

    def __init__(self, validators: ValidatorSet) -> None:
        self.prevotes = Ballot(validators)
        self.precommits = Ballot(validators)
        self.proposals: list[Proposal] = []  # of its one proposer
        self.speakers: set[int] = set()  # who signed any of it
        self.power = 0  # of the speakers

    def remove(self, validator: int, power: int) -> None:
        """Forget what a validator said."""
        self.prevotes.remove(validator)
        self.precommits.remove(validator)
        self.proposals = [each for each in self.proposals if each.validator != validator]
        self.speakers.remove(validator)
        self.power -= power

    def messages(self) -> list[Proposal | Vote]:
        """One message of every speaker, ascending by validator."""
        spoken: dict[int, Proposal | Vote] = {each.validator: each for each in self.proposals}
        spoken.update(self.precommits.votes)
        spoken.update(self.prevotes.votes)
        return [spoken[validator] for validator in sorted(spoken)]


class Tally:
    """Everything said at one height; `round` is the validator's own, -1 before it has one."""

    def __init__(self, validators: ValidatorSet, height: int) -> None:
        self._validators = validators
        self._height = height
        self._rounds: dict[int, Round] = {}
        self._far: dict[int, set[int]] = {}  # validator -> its rounds beyond the next one
        self._moves: dict[int, int] = {}  # validator -> moves of them since the last renewal
        self.round = -1
        self.now = Round(validators)  # what was said in `round`
        self.skip_round = -1  # the highest in which a skip set has spoken (line 55)
        self.polkas: list[tuple[int, bytes]] = []  # (round, value) with prevotes of a quorum
        self.decisions: list[tuple[int, bytes]] = []  # (round, value) with precommits of a quorum

    @property
    def heard_anything(self) -> bool:
        """Whether anybody said anything that was kept."""
        return bool(self._rounds)

    def enter(self, round_: int) -> None:
        """The validator is in this round from now on."""
        self.round = round_
        self.now = self._rounds.setdefault(round_, Round(self._validators))

    def add(self, vote: Vote, certified: bool = False) -> Heard:
        """Count a vote; `certified` if it is one of a whole certificate's."""
        said = self._said(vote.round, vote.validator, certified)
        if said is None:
            return Heard.NOTHING_NEW
        prevote = vote.type is VoteType.PREVOTE
        ballot = said.prevotes if prevote else said.precommits
        quorums = len(ballot.quorums)
        heard = ballot.add(vote, certified)
        if len(ballot.quorums) > quorums and vote.value is not None:
            (self.polkas if prevote else self.decisions).append((vote.round, vote.value))
        return heard

    def propose(self, proposal: Proposal) -> Heard:
        """Keep a proposal of its round's proposer, and a second one that contradicts it."""
        said = self._said(proposal.round, proposal.validator, False)
        if said is None:
            return Heard.NOTHING_NEW
        content = (proposal.value, proposal.valid_round)
        known = any((each.value, each.valid_round) == content for each in said.proposals)
        if known or len(said.proposals) == PROPOSALS:
            return Heard.NOTHING_NEW
        said.proposals.append(proposal)
        return Heard.NEW if len(said.proposals) == 1 else Heard.CONFLICT

    def proposals(self, round_: int) -> list[Proposal]:
        """The proposals of a round; the first counts."""
        said = self._rounds.get(round_)
        return [] if said is None else said.proposals

    def first(self, vote: Vote) -> Vote:
        """The vote that a conflicting one conflicts with."""
        said = self._rounds[vote.round]
        ballot = said.prevotes if vote.type is VoteType.PREVOTE else said.precommits
        return ballot.votes[vote.validator]

    def has_polka(self, round_: int, value: bytes) -> bool:
        """Whether a value has the prevotes of a quorum in a round."""
        said = self._rounds.get(round_)
        return said is not None and value in said.prevotes.quorums

    def polka(self, round_: int, value: bytes) -> Certificate:
        """The prevotes for a value in a round that was heard of."""
        votes = self._rounds[round_].prevotes.votes_for(value)
        return make_certificate(VoteType.PREVOTE, self._height, round_, value, votes)

    def decision(self, round_: int, value: bytes) -> Certificate:
        """The precommits for a value in a round that was heard of."""
        votes = self._rounds[round_].precommits.votes_for(value)
        return make_certificate(VoteType.PRECOMMIT, self._height, round_, value, votes)

    def passage(self) -> list[Proposal | Vote]:
        """What let this validator into its round above 0, and will let in whoever hears it.

        A quorum's precommits of the round before (line 65), else a skip set's messages of this one
        (line 55); nothing in round 0, which everybody enters by itself.
        """
        before = self._rounds.get(self.round - 1)
        if before is not None and before.precommits.complete:
            votes = before.precommits.votes
            return self._enough(self._validators.quorum, [votes[each] for each in sorted(votes)])
        if self.skip_round == self.round > 0:
            return self._enough(self._validators.skip, self.now.messages())
        return []

    def _enough(
        self, enough: Callable[[int], bool], messages: Iterable[Proposal | Vote]
    ) -> list[Proposal | Vote]:
        chosen: list[Proposal | Vote] = []
        power = 0
        for each in messages:
            if not enough(power):
                chosen.append(each)
                power += self._validators.power(each.validator)
        return chosen

    # -- bounds ----------------------------------------------------------------------------------

    def renew(self) -> bool:
        """Let every validator move its far rounds again; whether one had used that up."""
        moved = bool(self._moves)
        self._moves.clear()
        return moved

    def _said(self, round_: int, validator: int, certified: bool) -> Round | None:
        """Where to put what a validator says in a round; None if there is no room for it."""
        said = self._rounds.get(round_)
        if certified:  # stays, however far it is
            self._far.get(validator, set()).discard(round_)
        if said is not None and validator in said.speakers:
            return said
        if round_ > self.round + 1 and not certified and not self._make_room(round_, validator):
            return None
        if said is None:
            said = self._rounds[round_] = Round(self._validators)
        said.speakers.add(validator)
        said.power += self._validators.power(validator)
        if round_ > self.skip_round and self._validators.skip(said.power):
            self.skip_round = round_
        return said

    def _make_room(self, round_: int, validator: int) -> bool:
        """Keep a far round of a validator, if need be instead of its lowest.

        Whoever is far ahead must be heard where it is now, not where it was when it was first
        heard: else two that were heard in different rounds never make a skip set.
        """
        far = {each for each in self._far.get(validator, ()) if each > self.round + 1}
        if len(far) == FAR_ROUNDS:
            lowest = min(far)
            moves = self._moves.get(validator, 0)
            if round_ < lowest or moves == MOVES:
                return False
            self._moves[validator] = moves + 1
            far.remove(lowest)
            self._forget(lowest, validator)
        self._far[validator] = far | {round_}
        return True

    def _forget(self, round_: int, validator: int) -> None:
        said = self._rounds[round_]
        said.remove(validator, self._validators.power(validator))
        if not said.speakers:
            del self._rounds[round_]
