"""What agreement wants done: the effects of its state machine, all frozen values.

Whoever drives the core performs them in order (`node.agreement`); what comes of an effect comes
back as an input, at once or later. Own proposals and votes come back as inputs too, once they are
signed and logged.
"""

from __future__ import annotations

import msgspec

from node.consensus.messages import Certificate, Certified, Proposal, Timer, Vote


class _Effect(msgspec.Struct, frozen=True):
    """Base of all effects: immutable, compared by content."""


class AwaitTransactions(_Effect, frozen=True):
    """Tell when there is something to put into a block; `TransactionsWaiting` answers."""

    height: int


class BuildBlock(_Effect, frozen=True):
    """Build a block to propose (the paper's getValue), empty if need be; `BlockBuilt` answers."""

    height: int
    round: int


class RequestBlock(_Effect, frozen=True):
    """See that the block's body is here and judge it against the chain; `BlockJudged` answers."""

    height: int
    value: bytes


class PersistBody(_Effect, frozen=True):
    """Make the whole block durable; `BodyDurable` answers. No precommit for it leaves before."""

    height: int
    value: bytes


class SignAndBroadcast(_Effect, frozen=True):
    """Sign an own message, log it, send it to every peer and give it back as an input."""

    message: Proposal | Vote


class Resend(_Effect, frozen=True):
    """Send to every peer what was sent, or learnt, before."""

    messages: tuple[Proposal | Vote | Certified, ...]


class SendDecisions(_Effect, frozen=True):
    """A validator is still at a height that is decided: send it what was decided from there on."""

    validator: int
    height: int


class SetTimer(_Effect, frozen=True):
    """Give back `TimerElapsed` after the delay.

    It counts from now; a PACE timer counts from when the rounds of the height before began, so that
    blocks keep their pace however long a commit takes. A timer replaces the one of its kind.
    """

    timer: Timer
    delay_ms: int


class Commit(_Effect, frozen=True):
    """The block is decided and durable: apply it; `Committed` answers."""

    height: int
    round: int
    value: bytes
    certificate: Certificate


class ReportMisbehaviour(_Effect, frozen=True):
    """A validator signed two messages of which an honest one signs at most one."""

    first: Proposal | Vote
    second: Proposal | Vote


class Halt(_Effect, frozen=True):
    """More than a third of the power lies: nothing that follows can be trusted."""

    reason: str
    evidence: tuple[Certificate, ...]


Effect = (
    AwaitTransactions
    | BuildBlock
    | RequestBlock
    | PersistBody
    | SignAndBroadcast
    | Resend
    | SendDecisions
    | SetTimer
    | Commit
    | ReportMisbehaviour
    | Halt
)
