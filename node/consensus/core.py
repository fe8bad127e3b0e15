"""Agreement as a state machine: Algorithm 1 of arXiv 1807.04938, one height after the other.

`Core.handle` takes an input (`node.consensus.messages`), changes its state and returns the effects
(`node.consensus.effects`) that follow, in order. After every input that changed anything the rules
are tried until none fires; each is one small method, and its comment names the paper's lines. Where
the paper leaves off: blocks keep a pace and are seldom empty, bodies are durable before a precommit
for them is signed, a re-proposal carries its polka, the stuck say again what they said, and lies
are reported, those about heights decided lately, too.

It owns nothing but its state: no clock, no randomness, no input or output; the same inputs give the
same effects. What kills it: proof that more than a third of the power lies (`Halt`), after which
it does nothing any more.
"""

from __future__ import annotations

from collections.abc import Sequence
from enum import IntEnum
from typing import assert_never

import msgspec

from node.consensus.certificate import CertificateError, check_certificate, votes_of
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
from node.consensus.votes import PAST_HEIGHTS, Heard, Tally

NO_ROUND = -1  # before round 0, and of what was never locked or valid


class Timeouts(msgspec.Struct, frozen=True):
    """How long to wait, all in milliseconds; a step is added for every round above 0."""

    propose_ms: int = 1000
    propose_step_ms: int = 250
    vote_ms: int = 250
    vote_step_ms: int = 125
    resend_ms: int = 1000
    pace_ms: int = 200
    empty_pace_ms: int = 5000


class Step(IntEnum):
    """Where in a height a validator is; the paper's three steps, and what is before and after."""

    NEW_HEIGHT = 0
    PROPOSE = 1
    PREVOTE = 2
    PRECOMMIT = 3
    COMMIT = 4


class Core:
    """The state machine of one validator, or of a follower (`me` is None), which signs nothing.

    The public attributes are there to be read; their names are the paper's.
    """

    def __init__(self, validators: ValidatorSet, me: int | None, timeouts: Timeouts) -> None:
        self._validators = validators
        self._timeouts = timeouts
        self._effects: list[Effect] = []
        self._halted = False
        self.me = me
        self.n_validators = validators.n
        self.changes = 0  # grows with every input that changed the state
        self._past: dict[int, Tally] = {}  # what was said at decided heights; for evidence only
        self._forget_height(0)
        self.step = Step.COMMIT  # nothing happens before `Started`

    def handle(self, message: Input) -> Sequence[Effect]:
        """Take one input, change state, and return what must be done, in order."""
        self._effects = []
        if not self._halted:
            changes = self.changes
            self._take(message)
            while self.changes != changes and not self._halted:  # the rules, until none fires
                changes = self.changes
                self._apply_rules()
        return self._effects

    def _take(self, message: Input) -> None:
        match message:
            case Vote():
                self._hear_vote(message)
            case Proposal():
                self._hear_proposal(message)
            case Certified(certificate):
                self._hear_certificate(certificate)
            case TimerElapsed(timer):
                self._time_out(timer)
            case BlockBuilt(height, round_, value):
                self._propose_built(height, round_, value)
            case BlockJudged(height, value, valid):
                self._learn_verdict(height, value, valid)
            case BodyDurable(height, value):
                self._learn_durable(height, value)
            case TransactionsWaiting(height):
                self._want_block(height)
            case Started(height) | Committed(height):
                self._begin_height(height + 1)
            case _:
                assert_never(message)

    def _apply_rules(self) -> None:
        """Try each rule once, those that end something first."""
        self._halt_on_lies()
        if self._halted or self.step is Step.COMMIT:
            return
        self._decide()
        self._skip_ahead()
        self._leave_new_height()
        self._prevote_new_value()
        self._prevote_known_value()
        self._lock()
        self._catch_up_on_polkas()
        self._precommit_nil()
        self._time_prevotes()
        self._time_precommits()

    # -- heights and rounds ----------------------------------------------------------------------

    def _begin_height(self, height: int) -> None:  # lines 10, 50-54
        """Begin a height, never one that is past or under way: that could sign anything twice."""
        if height <= self.height:
            return
        self.changes += 1
        self._past[self.height] = self._tally
        self._past.pop(self.height - PAST_HEIGHTS, None)
        self._forget_height(height)
        self._set_timer(TimerKind.PACE, 0, self._timeouts.pace_ms)
        self._set_timer(TimerKind.RESEND, 0, self._timeouts.resend_ms)

    def _forget_height(self, height: int) -> None:  # lines 1-9
        self.height = height
        self.round = NO_ROUND
        self.step = Step.NEW_HEIGHT
        self.locked_round = NO_ROUND
        self.locked_value: bytes | None = None
        self.valid_round = NO_ROUND
        self.valid_value: bytes | None = None
        self._tally = Tally(self._validators, height)
        self._requested: set[bytes] = set()
        self._verdicts: dict[bytes, bool] = {}  # the paper's valid(v), as far as it is known
        self._durable: set[bytes] = set()
        self._paced = False  # the PACE timer ran out
        self._wanted = False  # a block is wanted: transactions wait, or there was none for long
        self._precommit: Vote | None = None  # this validator's last
        self._behind: set[int] = set()  # who was sent decisions since RESEND was set
        self._forget_round()

    def _forget_round(self) -> None:
        self._builder: int | None = None  # this validator, while its block is being built
        self._saw_polka = False  # "for the first time" of line 36
        self._timed_prevotes = False  # of line 34
        self._timed_precommits = False  # of line 47

    def _leave_new_height(self) -> None:  # line 10, delayed
        """Begin round 0 when the pace allows it and a block is wanted, here or by somebody else."""
        wanted = self._wanted or self._tally.heard_anything
        if self.step is Step.NEW_HEIGHT and self._paced and wanted:
            self._start_round(0)

    def _skip_ahead(self) -> None:  # line 55
        """Go where a skip set is; somebody honest is there."""
        if self._tally.skip_round > self.round and self.step is not Step.COMMIT:
            self._start_round(self._tally.skip_round)

    def _start_round(self, round_: int) -> None:  # lines 11-21
        self.changes += 1
        self.round = round_
        self.step = Step.PROPOSE
        self._forget_round()
        self._tally.enter(round_)
        propose_ms = self._timeouts.propose_ms + round_ * self._timeouts.propose_step_ms
        self._set_timer(TimerKind.PROPOSE, round_, propose_ms)  # line 21
        if self._validators.proposer(self.height, round_) == self.me:
            self._propose(self.me)
        for proposal in (*self._tally.now.proposals, *self._tally.proposals(round_ + 1)):
            self._request(proposal.value)

    def _propose(self, me: int) -> None:  # lines 14-19
        if self.valid_value is None:
            self._builder = me
            self._effects.append(BuildBlock(self.height, self.round))
            return
        polka = self._tally.polka(self.valid_round, self.valid_value)
        proposal = Proposal(self.height, self.round, self.valid_value, self.valid_round, me, polka)
        self._effects.append(SignAndBroadcast(proposal))

    def _propose_built(self, height: int, round_: int, value: bytes) -> None:  # lines 18-19
        """Propose a new block, unless it took so long that this validator has voted without it."""
        me, here = self._builder, (self.height, self.round)
        if me is None or self.step is not Step.PROPOSE or (height, round_) != here:
            return
        self.changes += 1
        self._builder = None
        self._effects.append(SignAndBroadcast(Proposal(height, round_, value, NO_ROUND, me)))
        self._learn_verdict(height, value, True)

    # -- proposals and votes ---------------------------------------------------------------------

    def _prevote_new_value(self) -> None:  # lines 22-27
        if self.step is not Step.PROPOSE or not self._tally.now.proposals:
            return
        proposal = self._tally.now.proposals[0]
        if proposal.valid_round == NO_ROUND:
            free = self.locked_round == NO_ROUND
            self._prevote(proposal.value, free or self.locked_value == proposal.value)

    def _prevote_known_value(self) -> None:  # lines 28-33
        if self.step is not Step.PROPOSE or not self._tally.now.proposals:
            return
        proposal = self._tally.now.proposals[0]
        value, valid_round = proposal.value, proposal.valid_round
        if valid_round != NO_ROUND and self._tally.has_polka(valid_round, value):
            free = self.locked_round <= valid_round
            self._prevote(value, free or self.locked_value == value)

    def _prevote(self, value: bytes, allowed: bool) -> None:  # lines 23-27, 29-33
        """Vote for a value that the lock allows, once it is known to be valid; else for nil."""
        if not allowed:
            self._vote(VoteType.PREVOTE, None)
        elif value in self._verdicts:
            self._vote(VoteType.PREVOTE, value if self._verdicts[value] else None)

    def _lock(self) -> None:  # lines 36-43
        """Lock on a value with a polka, and precommit it if this round's is still to come."""
        if self._saw_polka or not Step.PREVOTE <= self.step <= Step.PRECOMMIT:
            return
        now = self._tally.now
        for proposal in now.proposals:
            value = proposal.value
            if value in now.prevotes.quorums and self._holds(value):
                self._saw_polka = True
                self.valid_value, self.valid_round = value, self.round  # lines 42-43
                if self.step is Step.PREVOTE:  # lines 37-41
                    self.locked_value, self.locked_round = value, self.round
                    self._vote(VoteType.PRECOMMIT, value)
                self.changes += 1
                return

    def _catch_up_on_polkas(self) -> None:  # lines 42-43, for rounds that are over
        """Propose from now on what somebody may have locked on in a round behind.

        In the paper everybody sees in time what anybody saw. Here a liar's prevote can make a polka
        for one validator alone, which says it again, but only after the round: without this rule
        it would stand alone with its lock until it proposes itself.
        """
        for round_, value in self._tally.polkas:
            if self.valid_round < round_ < self.round:
                if self._holds(value):
                    self.changes += 1
                    self.valid_value, self.valid_round = value, round_
                else:
                    self._request(value)

    def _precommit_nil(self) -> None:  # lines 44-46
        if self.step is Step.PREVOTE and None in self._tally.now.prevotes.quorums:
            self._vote(VoteType.PRECOMMIT, None)

    def _vote(self, type_: VoteType, value: bytes | None) -> None:
        """Vote and go to the step after it: so no vote can follow it but one of a later step."""
        self.changes += 1
        self.step = Step.PREVOTE if type_ is VoteType.PREVOTE else Step.PRECOMMIT
        if self.me is not None:
            vote = Vote(type_, self.height, self.round, value, self.me)
            self._effects.append(SignAndBroadcast(vote))

    # -- decisions -------------------------------------------------------------------------------

    def _decide(self) -> None:  # lines 49-54
        """Commit what a quorum precommitted in whichever round, once its body is durable here."""
        if not self._tally.decisions:
            return
        round_, value = self._tally.decisions[0]
        if self._holds(value):
            self.changes += 1
            self.step = Step.COMMIT
            certificate = self._tally.decision(round_, value)
            self._effects.append(Commit(self.height, round_, value, certificate))
        else:
            self._request(value)

    def _halt_on_lies(self) -> None:
        """Stop when a quorum did what less than a third of liars cannot bring about."""
        decisions = self._tally.decisions
        if not decisions:
            return
        decided = decisions[0]
        other = next((each for each in decisions if each[1] != decided[1]), None)
        if other is not None:
            self._halt(f"two blocks are decided at height {self.height}", decided, other)
        elif self._verdicts.get(decided[1]) is False:
            self._halt(f"the block decided at height {self.height} is invalid", decided)

    def _halt(self, reason: str, *decisions: tuple[int, bytes]) -> None:
        self.changes += 1
        self._halted = True
        evidence = tuple(self._tally.decision(round_, value) for round_, value in decisions)
        self._effects.append(Halt(reason, evidence))

    # -- bodies ----------------------------------------------------------------------------------

    def _holds(self, value: bytes) -> bool:
        """Whether a block is valid and its body durable."""
        return value in self._durable and self._verdicts.get(value, False)

    def _request(self, value: bytes) -> None:
        if value not in self._requested and value not in self._verdicts:
            self.changes += 1
            self._requested.add(value)
            self._effects.append(RequestBlock(self.height, value))

    def _learn_verdict(self, height: int, value: bytes, valid: bool) -> None:
        if height == self.height and self.step is not Step.COMMIT and value not in self._verdicts:
            self.changes += 1
            self._verdicts[value] = valid
            if valid:
                self._effects.append(PersistBody(height, value))

    def _learn_durable(self, height: int, value: bytes) -> None:
        if height == self.height and self.step is not Step.COMMIT and value not in self._durable:
            self.changes += 1
            self._durable.add(value)

    def _want_block(self, height: int) -> None:
        if height == self.height and self.step is Step.NEW_HEIGHT and not self._wanted:
            self.changes += 1
            self._wanted = True

    # -- what others say -------------------------------------------------------------------------

    def _hear_vote(self, vote: Vote) -> None:
        if vote.height != self.height:
            self._compare_late(vote)
            self._help_behind(vote)
        elif 0 <= vote.validator < self.n_validators and vote.round >= 0:
            self._count(vote, certified=False)

    def _hear_certificate(self, certificate: Certificate) -> bool:
        """Count all of a certificate's votes; whether it is one of this height and well-formed."""
        if certificate.height != self.height:
            return False
        try:
            check_certificate(certificate, self._validators)
        except CertificateError:
            return False
        for vote in votes_of(certificate):
            self._count(vote, certified=True)
        return True

    def _count(self, vote: Vote, certified: bool) -> None:
        heard = self._tally.add(vote, certified)
        if heard is Heard.NOTHING_NEW:
            return
        self.changes += 1
        if heard is Heard.CONFLICT:
            self._effects.append(ReportMisbehaviour(self._tally.first(vote), vote))
        elif vote.validator == self.me and vote.type is VoteType.PRECOMMIT:
            last = self._precommit
            self._precommit = vote if last is None or last.round < vote.round else last

    def _hear_proposal(self, proposal: Proposal) -> None:
        if proposal.height != self.height:
            self._compare_late(proposal)
            self._help_behind(proposal)
        elif self._may_be_made(proposal) and self._takes_polka(proposal):
            heard = self._tally.propose(proposal)
            if heard is Heard.NOTHING_NEW:
                return
            self.changes += 1
            if heard is Heard.CONFLICT:
                first = self._tally.proposals(proposal.round)[0]
                self._effects.append(ReportMisbehaviour(first, proposal))
            if self.step is not Step.COMMIT and proposal.round <= self.round + 1:
                self._request(proposal.value)

    def _compare_late(self, message: Proposal | Vote) -> None:
        """Report what contradicts what its sender said at a height that is decided.

        No rule asks what was said there, so it changes no state, and the log does without it: after
        a restart there is nothing to compare with.
        """
        past = self._past.get(message.height)
        if past is None or not 0 <= message.validator < self.n_validators or message.round < 0:
            return
        if isinstance(message, Vote):
            if past.add(message) is Heard.CONFLICT:
                self._effects.append(ReportMisbehaviour(past.first(message), message))
        elif self._may_be_made(message) and past.propose(message) is Heard.CONFLICT:
            first = past.proposals(message.round)[0]
            self._effects.append(ReportMisbehaviour(first, message))

    def _may_be_made(self, proposal: Proposal) -> bool:
        height, round_ = proposal.height, proposal.round
        if not NO_ROUND <= proposal.valid_round < round_:
            return False
        return proposal.validator == self._validators.proposer(height, round_)

    def _takes_polka(self, proposal: Proposal) -> bool:
        """Count the votes of a proposal's polka; False if it has one that does not belong to it."""
        polka = proposal.polka
        if polka is None:
            return True
        proves = (polka.type, polka.round, polka.value)
        if proves != (VoteType.PREVOTE, proposal.valid_round, proposal.value):
            return False
        return self._hear_certificate(polka)

    def _help_behind(self, message: Proposal | Vote) -> None:
        """Whoever still votes at a height that is decided lacks its certificate.

        Of the height before that only when the pace of this one has passed: until then it is the
        votes that a decision did not need.
        """
        validator, height = message.validator, message.height
        known = 0 <= validator < self.n_validators and validator != self.me
        decided = 0 < height < self.height - (0 if self._paced else 1)
        if known and decided and validator not in self._behind:
            self._behind.add(validator)
            self._effects.append(SendDecisions(validator, height))

    # -- timers ----------------------------------------------------------------------------------

    def _set_timer(self, kind: TimerKind, round_: int, delay_ms: int) -> None:
        self._effects.append(SetTimer(Timer(kind, self.height, round_), delay_ms))

    def _time_prevotes(self) -> None:  # lines 34-35
        now = self._tally.now
        if self.step is Step.PREVOTE and not self._timed_prevotes and now.prevotes.complete:
            self.changes += 1
            self._timed_prevotes = True
            self._set_timer(TimerKind.PREVOTE, self.round, self._vote_ms())

    def _time_precommits(self) -> None:  # lines 47-48
        now = self._tally.now
        if self.step is Step.COMMIT or self._timed_precommits or not now.precommits.complete:
            return
        self.changes += 1
        self._timed_precommits = True
        self._set_timer(TimerKind.PRECOMMIT, self.round, self._vote_ms())

    def _vote_ms(self) -> int:
        return self._timeouts.vote_ms + self.round * self._timeouts.vote_step_ms

    def _time_out(self, timer: Timer) -> None:
        if timer.height != self.height:
            return
        match timer.kind:
            case TimerKind.PACE:
                self._end_pace()
            case TimerKind.EMPTY:
                self._want_block(timer.height)
            case TimerKind.PROPOSE:
                self._end_propose(timer.round)
            case TimerKind.PREVOTE:
                self._end_prevotes(timer.round)
            case TimerKind.PRECOMMIT:
                self._end_precommits(timer.round)
            case TimerKind.RESEND:
                self._resend()
            case _:
                assert_never(timer.kind)

    def _end_pace(self) -> None:
        if self.step is Step.NEW_HEIGHT and not self._paced:
            self.changes += 1
            self._paced = True
            self._effects.append(AwaitTransactions(self.height))
            empty_ms = self._timeouts.empty_pace_ms - self._timeouts.pace_ms
            self._set_timer(TimerKind.EMPTY, 0, max(0, empty_ms))

    def _end_propose(self, round_: int) -> None:  # lines 57-60
        if round_ == self.round and self.step is Step.PROPOSE:
            self._vote(VoteType.PREVOTE, None)

    def _end_prevotes(self, round_: int) -> None:  # lines 61-64
        if round_ == self.round and self.step is Step.PREVOTE:
            self._vote(VoteType.PRECOMMIT, None)

    def _end_precommits(self, round_: int) -> None:  # lines 65-67
        if round_ == self.round and Step.PROPOSE <= self.step <= Step.PRECOMMIT:
            self._start_round(round_ + 1)

    def _resend(self) -> None:
        """Say again what others may have missed; messages get lost, and everybody may wait."""
        self._behind.clear()
        if self._tally.renew():
            self.changes += 1
        if self.step is not Step.COMMIT:
            messages = [*self._said(), *self._tally.passage()]
            unique = tuple(dict.fromkeys(messages))
            if unique:
                self._effects.append(Resend(unique))
        self._set_timer(TimerKind.RESEND, 0, self._timeouts.resend_ms)

    def _said(self) -> list[Proposal | Vote | Certified]:
        """Own messages of this round, the last own precommit, and the polka of the valid value."""
        now, me = self._tally.now, self.me
        said: list[Proposal | Vote | Certified] = []
        if me is not None:
            said += [each for each in now.proposals if each.validator == me]
            votes = (now.prevotes.votes.get(me), now.precommits.votes.get(me), self._precommit)
            said += [vote for vote in votes if vote is not None]
        if self.valid_value is not None:
            said.append(Certified(self._tally.polka(self.valid_round, self.valid_value)))
        return said
