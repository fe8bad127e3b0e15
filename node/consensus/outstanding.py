"""What agreement has asked for and not been given: kept while its log is replayed.

`node.agreement` hands in the effects of every replayed input and every input of the log; what is
left at the end has to be asked for again. An answer that is in the log settles its question, a
round that begins makes some questions pointless, and what may be said again at any time is not kept
at all. It owns nothing but this list, which the bounds of one height bound.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import assert_never

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
)

_Slot = tuple[int, int, int, int]  # height, round, 0 for a proposal or the type of vote, validator


class Outstanding:
    """Unanswered effects, in the order of asking."""

    def __init__(self) -> None:
        self._asked: dict[object, Effect] = {}  # by what an answer tells of its question

    def add(self, effects: Iterable[Effect]) -> None:
        """Take the effects of an input; one that is asked for already keeps its place."""
        asked = self._asked
        for effect in effects:
            match effect:
                case SignAndBroadcast(message):
                    asked.setdefault(_slot(message), effect)
                case SetTimer(timer):
                    asked.pop(timer.kind, None)
                    asked[timer.kind] = effect
                    if timer.kind is TimerKind.PROPOSE:
                        self._begin_round(timer.height, timer.round)
                case Commit(height):
                    asked.setdefault((Commit, height), effect)
                case ReportMisbehaviour(first, second):
                    asked.setdefault(frozenset((first, second)), effect)
                case AwaitTransactions() | BuildBlock() | RequestBlock() | PersistBody() | Halt():
                    asked.setdefault(effect, effect)
                case Resend() | SendDecisions():
                    pass  # comes again when the next timer runs out, or the other asks again
                case _:
                    assert_never(effect)

    def settle(self, message: Input) -> None:
        """Take an input of the log, before its effects; strike out what it answers."""
        asked = self._asked
        match message:
            case Proposal(height, round_):
                asked.pop(_slot(message), None)
                asked.pop(BuildBlock(height, round_), None)  # only the proposer was asked to build
            case Vote():
                asked.pop(_slot(message), None)
            case BlockBuilt(height, round_):
                asked.pop(BuildBlock(height, round_), None)
            case BlockJudged(height, value):
                asked.pop(RequestBlock(height, value), None)
            case BodyDurable(height, value):
                asked.pop(PersistBody(height, value), None)
            case TransactionsWaiting(height):
                asked.pop(AwaitTransactions(height), None)
            case TimerElapsed(timer):
                self._elapsed(timer)
            case Committed(height):
                asked.pop((Commit, height), None)
            case Certified() | Started():
                pass  # answers nothing
            case _:
                assert_never(message)

    def effects(self) -> tuple[Effect, ...]:
        """Return what is unanswered, in the order of asking."""
        return tuple(self._asked.values())

    def _elapsed(self, timer: Timer) -> None:
        effect = self._asked.get(timer.kind)
        if isinstance(effect, SetTimer) and effect.timer == timer:
            del self._asked[timer.kind]

    def _begin_round(self, height: int, round_: int) -> None:
        """Drop what nobody waits for any more: transactions, and blocks of earlier rounds."""
        for effect in self.effects():
            match effect:
                case AwaitTransactions(asked) if asked <= height:
                    del self._asked[effect]
                case BuildBlock(asked, earlier) if (asked, earlier) < (height, round_):
                    del self._asked[effect]
                case _:
                    pass


def _slot(message: Proposal | Vote) -> _Slot:
    """What an honest validator signs at most one message for."""
    kind = int(message.type) if isinstance(message, Vote) else 0
    return message.height, message.round, kind, message.validator
