"""What agreement wants done: the effects of its state machine, all frozen values.

The consensus stage performs them in order; what comes of an effect comes back as an input. Own
proposals and votes come back as inputs too, once they are signed.
"""

from __future__ import annotations

from dataclasses import dataclass

from node.consensus.messages import Proposal, Timer, Vote


@dataclass(frozen=True, slots=True)
class BuildBlock:
    """Build a block to propose (the paper's getValue); `BlockBuilt` answers."""

    height: int
    round: int
    allow_empty: bool


@dataclass(frozen=True, slots=True)
class PersistBody:
    """Make the whole block durable; `BodyDurable` answers. No precommit for it leaves before."""

    value: bytes


@dataclass(frozen=True, slots=True)
class SignAndBroadcast:
    """Sign an own message, send it to every peer and give it back as an input."""

    message: Proposal | Vote


@dataclass(frozen=True, slots=True)
class SetTimer:
    """Give back `TimerElapsed` after the delay, counted from when the same step's timer last ran
    out (so blocks keep their pace however long a commit takes), or from now if it never did.
    """

    timer: Timer
    delay_ms: int


@dataclass(frozen=True, slots=True)
class RequestBlock:
    """Fetch the body of a proposed block that this node lacks."""

    value: bytes


@dataclass(frozen=True, slots=True)
class Commit:
    """The block is decided: apply it durably; `Committed` answers."""

    height: int
    round: int
    value: bytes


@dataclass(frozen=True, slots=True)
class ReportMisbehaviour:
    """A validator signed two conflicting messages."""

    first: Proposal | Vote
    second: Proposal | Vote


Effect = (
    BuildBlock
    | PersistBody
    | SignAndBroadcast
    | SetTimer
    | RequestBlock
    | Commit
    | ReportMisbehaviour
)
