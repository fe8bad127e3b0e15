"""What agreement wants signed, asked for one at a time, in order.

Requests come from the host, frames go to the signer, and its answers are matched here. The signer
remembers only what it signed last: had it signed two and died before the answers left, the first
would be refused for ever, and with a silent liar beside it a vote that never comes stops the chain.
Holds a proposal and two votes a round, of one height.
"""

from __future__ import annotations

from collections.abc import Callable

from node.consensus.messages import Proposal, Vote
from node.sign_link import encode_request

_Slot = tuple[int, int, str]


class SignQueue:
    """Unsigned own messages; `ask_signer` sends a frame to the signer, while `may_sign`."""

    def __init__(
        self, ask_signer: Callable[[bytes], None], may_sign: Callable[[], bool] = lambda: True
    ) -> None:
        self._ask_signer = ask_signer
        self._may_sign = may_sign
        self._waiting: dict[_Slot, tuple[Proposal | Vote, int]] = {}  # -> message, since when
        self._asked: _Slot | None = None  # the one that the signer has
        self._asked_ns = 0

    def add(self, message: Proposal | Vote, now_ns: int) -> None:
        """Have a message signed; what is left of older heights is of no use any more."""
        for slot in [slot for slot in self._waiting if slot[0] < message.height]:
            self._forget(slot)
        self._waiting[_slot(message)] = (message, now_ns)
        self.ask(now_ns)

    def answered(self, message: Proposal | Vote) -> int | None:
        """Take the answer about a message without signature: since when exactly this was wanted;
        None if it was not, or only by a predecessor.
        """
        slot = _slot(message)
        waiting = self._waiting.get(slot)
        if waiting is None or waiting[0] != message:
            return None
        self._forget(slot)
        return waiting[1]

    @property
    def asked_ns(self) -> int | None:
        """When the signer was given what it has now to sign; None if it has nothing."""
        return self._asked_ns if self._asked is not None else None

    def restart(self, now_ns: int) -> None:
        """The signer is a new one: ask again."""
        self._asked = None
        self.ask(now_ns)

    def ask(self, now_ns: int) -> None:
        """Ask for the oldest message, if the signer has none and it may be signed now."""
        if self._asked is None and self._waiting and self._may_sign():
            self._asked, (message, _) = next(iter(self._waiting.items()))
            self._asked_ns = now_ns
            self._ask_signer(encode_request(message))

    def _forget(self, slot: _Slot) -> None:
        del self._waiting[slot]
        if self._asked == slot:
            self._asked = None


def kind_of(message: Proposal | Vote) -> str:
    """What people call a message: proposal, prevote or precommit."""
    return "proposal" if isinstance(message, Proposal) else message.type.name.lower()


def _slot(message: Proposal | Vote) -> _Slot:
    """What a validator says at most once: height, round, kind."""
    return message.height, message.round, kind_of(message)
