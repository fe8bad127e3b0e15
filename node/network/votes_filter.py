"""Keeps old, repeated and impossible votes of peers away from the verifiers.

Messages of peers come in before anybody has looked at their signatures; what is worth a look goes
on. It owns the memory of what each peer has said about the few heights that matter now, and the
fingerprints of what was accepted, both for some seconds only. A message is never dropped because of
another one that differs in a single byte: a forged copy hides nothing. Of heights that are decided,
only what differs from what was heard before is worth a look: it may prove a contradiction. Looking
at every late vote instead added a third to the time to finality of four nodes on two cores.
"""

from __future__ import annotations

from enum import Enum, auto
from typing import Final

from node.consensus.messages import Certified, Input, Proposal, Vote
from node.consensus.votes import PAST_HEIGHTS

HEIGHTS_AHEAD: Final = 1  # of the one that is being decided: whoever is faster is one ahead
HEIGHTS_BEHIND: Final = PAST_HEIGHTS  # a contradiction is one after the decision, too
CERTIFICATES_AHEAD: Final = 64
SAME_PLACE: Final = 4  # different messages of one peer about one validator, height, round and kind
MAX_PLACES: Final = 8_192  # of these heights, per peer; a hundred validators need 300 a round
MAX_SEEN: Final = 16_384  # fingerprints


class Worth(Enum):
    """What to do with a message."""

    NEW = auto()
    OLD = auto()  # of no use any more, or known: nobody's fault
    NONSENSE = auto()  # no peer says such a thing


class VotesFilter:
    """Decides by height, place and fingerprint; `n_validators` are the chain's."""

    def __init__(self, n_validators: int) -> None:
        self._n_validators = n_validators
        self._height = 1  # that is being decided
        self._places: dict[int, dict[tuple[int, int, int, int], int]] = {}
        self._heard: dict[tuple[int, int, int, int], int] = {}  # by place, whoever sent it first
        self._seen: set[int] = set()

    def committed(self, height: int) -> None:
        """Forget what was about this height and those below."""
        self._height = height + 1
        lowest = self._height - HEIGHTS_BEHIND
        self._heard = {place: each for place, each in self._heard.items() if place[0] >= lowest}
        self.forget()

    def forget(self) -> None:
        """Let everything be said again: now and then, and to whoever has started anew. What was
        accepted may have come too early to be of use.
        """
        self._places.clear()
        self._seen.clear()

    def gone(self, peer: int) -> None:
        """Forget a peer."""
        self._places.pop(peer, None)

    def judge(self, peer: int, message: Input, fingerprint: int) -> Worth:
        """Whether a message that a peer sent is worth verifying."""
        match message:
            case Certified():
                ahead = message.certificate.height - self._height
                if ahead < 0 or fingerprint in self._seen:
                    return Worth.OLD
                return Worth.NEW if ahead <= CERTIFICATES_AHEAD else Worth.OLD
            case Vote():
                kind = int(message.type)
            case Proposal():
                kind = 0
            case _:
                return Worth.NONSENSE
        if not 0 <= message.validator < self._n_validators or not message.signature:
            return Worth.NONSENSE
        ahead = message.height - self._height
        if message.height < 1 or not -HEIGHTS_BEHIND <= ahead <= HEIGHTS_AHEAD:
            return Worth.OLD
        if fingerprint in self._seen:
            return Worth.OLD
        place = (message.height, message.round, kind, message.validator)
        if ahead < 0 and self._heard.get(place, fingerprint) == fingerprint:
            return Worth.OLD
        places = self._places.setdefault(peer, {})
        said = places.get(place, 0)
        if said >= SAME_PLACE or (said == 0 and len(places) >= MAX_PLACES):
            return Worth.OLD
        places[place] = said + 1
        if len(self._heard) < MAX_PLACES:
            self._heard.setdefault(place, fingerprint)
        return Worth.NEW

    def accepted(self, fingerprint: int) -> bool:
        """Remember a message whose signatures are good; whether this is the first time."""
        if fingerprint in self._seen:
            return False
        if len(self._seen) < MAX_SEEN:
            self._seen.add(fingerprint)
        return True
