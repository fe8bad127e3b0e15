"""Has the challenges of peers signed, so that they know which validator runs this node.

Challenges come from ``net`` over the link ``heard``, go to the signer one at a time, and the
signatures go back over ``say``. Pure; owns the challenges that wait.

Strangers make challenges by connecting, as often as they like: one in 20 ms is signed at most, for
peers that are still there, and the others wait.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from typing import Final

from node.sign_link import Prove, Proven, encode_request

PACE_NS: Final = 20_000_000  # from one signature to the next: votes are signed by the same process
MAX_WAITING: Final = 1_024  # as many as there are connections, and more


class Prover:
    """Gets challenges signed; `ask_signer` sends it a frame, `answer` takes peer, validator and
    signature. What the signer has is asked again when it has started anew.
    """

    def __init__(
        self, ask_signer: Callable[[bytes], None], answer: Callable[[int, int, bytes], None]
    ) -> None:
        self._ask_signer = ask_signer
        self._answer = answer
        self._validator: int | None = None  # until the signer has said who it is
        self._waiting: dict[int, Prove] = {}  # by peer
        self._asked: Prove | None = None
        self._due_ns = 0

    def challenged(self, peer: int, challenge: bytes, node_id: bytes) -> None:
        """Take a challenge; one that there is no room for is not answered."""
        if peer in self._waiting or len(self._waiting) < MAX_WAITING:
            self._waiting[peer] = Prove(challenge, node_id)

    def connected(self, peers: Collection[int]) -> None:
        """Forget all others than these."""
        for peer in self._waiting.keys() - set(peers):
            del self._waiting[peer]

    def signer_started(self, validator: int) -> None:
        """The signer knows nothing of what its predecessor was asked."""
        self._validator = validator
        self._asked = None

    def signed(self, proven: Proven) -> None:
        """Take the signer's answer, and hand it to the peer whose challenge it is."""
        if self._asked == proven.prove:
            self._asked = None
        for peer in [peer for peer, each in self._waiting.items() if each == proven.prove]:
            del self._waiting[peer]
            assert self._validator is not None, "it has said so before it answers anything"
            self._answer(peer, self._validator, proven.signature)

    def elapse(self, now_ns: int) -> None:
        """Ask for the next signature, if it is time."""
        due_ns = self.deadline_ns()
        if due_ns is not None and due_ns <= now_ns:
            self._due_ns = now_ns + PACE_NS
            self._asked = next(iter(self._waiting.values()))
            self._ask_signer(encode_request(self._asked))

    def deadline_ns(self) -> int | None:
        """When `elapse` has something to do."""
        ready = self._waiting and self._asked is None and self._validator is not None
        return self._due_ns if ready else None
