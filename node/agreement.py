"""Drives agreement: gives the core its inputs, keeps the log, and has the effects performed.

Inputs come from the consensus stage (or, in the simulator, from a simulated one): `tell` what
arrived, `signed` what the signer gave back, `elapse` when time has passed. Each goes through the
core's `handle`; one that changed the core's state goes into the write-ahead log; then the effects
are performed, in order, by the `Host`. Whatever leads to an own message is in the log, synced,
before it is signed, and the message itself before it leaves: so a restarted node asks for the same
signature that it had, and never for another one. After a restart the log is replayed through the
same `handle`, and what had been asked for and not answered is asked for again.

It owns the timers and the log. No clock and no I/O of its own: times are arguments (CLOCK_MONOTONIC
nanoseconds), files belong to the log. What kills it: a log that cannot be written or is damaged,
and proof that more than a third of the power lies (`Host.halt`).
"""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING, Protocol, assert_never

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
    Certified,
    Input,
    Proposal,
    Started,
    Timer,
    TimerElapsed,
    TimerKind,
    Vote,
    VoteType,
)
from node.consensus.outstanding import Outstanding

if TYPE_CHECKING:
    from node.wal import Wal

NS_PER_MS = 1_000_000
EARLY_ROUNDS = 2  # of the next height, from which messages are kept while this one is committed
MAX_EARLY_CERTIFICATES = 64  # of later heights, kept until this node is there


class Host(Protocol):
    """Who performs effects; every request is answered by `tell` or `signed`, at once or later."""

    def await_transactions(self, height: int) -> None:
        """Answer `TransactionsWaiting` as soon as there is something to put into a block."""

    def build(self, height: int, round_: int) -> None:
        """Answer `BlockBuilt` with a new valid block."""

    def request_block(self, height: int, value: bytes) -> None:
        """Get hold of a block's body, judge it, and answer `BlockJudged`."""

    def persist_body(self, height: int, value: bytes) -> None:
        """Make a block's body durable and answer `BodyDurable`."""

    def sign(self, message: Proposal | Vote) -> None:
        """Have an own message signed and answer with `Agreement.signed`; or never, if refused."""

    def broadcast(self, message: Proposal | Vote | Certified) -> None:
        """Send a message to every peer."""

    def send_decisions(self, validator: int, height: int) -> None:
        """Send a validator the certificates of this height and of those above it."""

    def commit(self, decision: Commit) -> None:
        """Announce a decided block, apply it durably, with its certificate, answer `Committed`.

        The certificate is durable by then, in the log, and so is the block's body.
        """

    def report(self, misbehaviour: ReportMisbehaviour) -> None:
        """Keep the evidence and tell the operator."""

    def halt(self, reason: Halt) -> None:
        """Stop the node, loudly."""


class Agreement:
    """The core with its timers and its log; `host` performs the effects."""

    def __init__(self, core: Core, wal: Wal, host: Host) -> None:
        self.core = core
        self._wal = wal
        self._host = host
        self._timers: dict[TimerKind, tuple[int, Timer]] = {}  # kind -> deadline, what for
        self._begun: tuple[int, int] | None = None  # height whose rounds began last, and when
        self._inbox: deque[tuple[Input, bool]] = deque()  # and whether it is an own signed message
        self._busy = False
        self._halted = False
        self._now_ns = 0
        # messages of the next height, and certificates of later ones; told when it begins
        self._early: dict[tuple[int, int, int], Proposal | Vote] = {}
        self._early_certificates: dict[int, Certified] = {}

    def start(self, height: int, now_ns: int) -> None:
        """Begin above `height`, the last that is committed: replay the log, ask again for what is
        missing. Raises what reading the log raises.
        """
        self._now_ns = now_ns
        outstanding = Outstanding()
        records = self._wal.recover(height + 1)
        outstanding.add(self.core.handle(Started(height)))
        for message in records:
            outstanding.settle(message)
            outstanding.add(self.core.handle(message))
        self._run(outstanding.effects())

    def tell(self, message: Input, now_ns: int) -> None:
        """Give the core an input and perform what follows. An own message in it is ignored: this
        node's come by `signed` only.
        """
        if isinstance(message, Proposal | Vote):
            if message.validator == self.core.me:
                return
            if message.height == self.core.height + 1:
                self._keep_early(message)
                return
        elif isinstance(message, Certified) and message.certificate.height > self.core.height:
            self._keep_certificate(message)
            return
        self._feed(message, now_ns)

    def signed(self, message: Proposal | Vote, now_ns: int) -> None:
        """Take back an own message with its signature: log it durably, send it, count it."""
        self._feed(message, now_ns, own=True)

    def elapse(self, now_ns: int) -> None:
        """Tell the core of every timer that has run out."""
        due = [each for each in self._timers.values() if each[0] <= now_ns]
        for deadline, timer in sorted(due, key=lambda each: (each[0], each[1].kind)):
            if self._timers.get(timer.kind) != (deadline, timer):
                continue  # replaced by what an earlier one brought about
            del self._timers[timer.kind]
            self._feed(TimerElapsed(timer), now_ns)

    @property
    def begun_ns(self) -> int:
        """When the rounds of the present height began; of the one before if they have not yet."""
        return self._now_ns if self._begun is None else self._begun[1]

    def deadline_ns(self) -> int | None:
        """When `elapse` is due next."""
        return min((deadline for deadline, _ in self._timers.values()), default=None)

    def close(self) -> None:
        """Close the log."""
        self._wal.close()

    # -- inside ----------------------------------------------------------------------------------

    def _feed(self, message: Input, now_ns: int, *, own: bool = False) -> None:
        self._now_ns = now_ns
        self._inbox.append((message, own))
        if not self._busy:
            self._run(())

    def _run(self, effects: tuple[Effect, ...]) -> None:
        """Perform effects and handle what comes of them, until nothing more does."""
        self._busy = True
        try:
            for effect in effects:
                self._perform(effect)
            while self._inbox and not self._halted:
                message, own = self._inbox.popleft()
                if own:
                    self._say(message)
                self._handle(message, own)
        finally:
            self._busy = False

    def _say(self, message: Input) -> None:
        """Make an own message durable, and with it everything that led to it; then let it go."""
        assert isinstance(message, Proposal | Vote)
        if message.height == self.core.height:  # else it is decided: nobody needs it any more
            self._wal.append(message.height, message)
            self._wal.sync()
            self._host.broadcast(message)

    def _handle(self, message: Input, own: bool) -> None:
        core = self.core
        height, changes = core.height, core.changes
        effects = core.handle(message)
        if core.height != height:
            self._wal.begin_height(core.height)
            self._tell_early()
        elif core.changes != changes and not own:
            self._wal.append(height, message)
        for effect in effects:
            self._perform(effect)

    def _perform(self, effect: Effect) -> None:
        host = self._host
        match effect:
            case AwaitTransactions(height):
                host.await_transactions(height)
            case BuildBlock(height, round_):
                host.build(height, round_)
            case RequestBlock(height, value):
                host.request_block(height, value)
            case PersistBody(height, value):
                host.persist_body(height, value)
            case SignAndBroadcast(message):
                self._wal.sync()  # the signer's memory must not be ahead of what led to it
                host.sign(message)
            case Resend(messages):
                for each in messages:
                    host.broadcast(each)
            case SendDecisions(validator, height):
                host.send_decisions(validator, height)
            case SetTimer(timer, delay_ms):
                self._set_timer(timer, delay_ms)
            case Commit(height, _, _, certificate):
                self._wal.append(height, Certified(certificate))
                self._wal.sync()
                host.commit(effect)
            case ReportMisbehaviour():
                host.report(effect)
            case Halt():
                self._halted = True
                host.halt(effect)
            case _:
                assert_never(effect)

    def _set_timer(self, timer: Timer, delay_ms: int) -> None:
        since_ns = self._now_ns
        if timer.kind is TimerKind.PACE and self._begun is not None:
            since_ns = self._begun[1]
        elif timer.kind is TimerKind.PROPOSE and (not self._begun or self._begun[0] < timer.height):
            self._begun = (timer.height, self._now_ns)
        deadline = max(self._now_ns, since_ns + delay_ms * NS_PER_MS)
        self._timers[timer.kind] = (deadline, timer)

    # -- what comes before its time --------------------------------------------------------------

    def _keep_early(self, message: Proposal | Vote) -> None:
        known = 0 <= message.validator < self.core.n_validators
        if known and 0 <= message.round < EARLY_ROUNDS:
            kind = 0 if isinstance(message, Proposal) else int(message.type)
            self._early.setdefault((message.round, kind, message.validator), message)

    def _keep_certificate(self, message: Certified) -> None:
        certificate = message.certificate
        if certificate.type is not VoteType.PRECOMMIT:
            return
        if certificate.height <= self.core.height + MAX_EARLY_CERTIFICATES:
            self._early_certificates.setdefault(certificate.height, message)

    def _tell_early(self) -> None:
        early, self._early = self._early, {}
        self._inbox.extend((early[key], False) for key in sorted(early))
        decided = self._early_certificates.pop(self.core.height, None)
        if decided is not None:
            self._inbox.append((decided, False))
