"""How a validator and its peer know each other, so that their connection is safe from crowds.

Each side of a connection draws a challenge. A validator's signer signs the other's challenge with
the own node id (`node.consensus.signed_bytes.address_bytes`), which leaves in a PROOF frame; the
verifiers of the other side check it, and its hub protects the connection. `Proofs` is what ``net``
does for that: it asks ``consensus`` for the signatures (`node.prover`), and has what peers claim
checked in trays. A wrong one costs the peer its welcome: nobody has to prove anything.

The node id that is signed is a claim of the handshake. Whoever passes the bytes of two nodes on to
each other can pass proofs on, too; what he gains is a connection of his that keeps its slot.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from typing import TYPE_CHECKING, Final, NamedTuple

import numpy as np

from node.items import REQUESTED, ItemKind
from node.network.frames import FrameType
from node.network.handshake import Proof, encode_proof
from node.network.link import Challenge
from node.verdict import Verdict
from pipeline.tray import Label

if TYPE_CHECKING:
    from node.network.hub import Hub, PeerInfo
    from pipeline.eventlog import Log
    from pipeline.intake import Intake

ASK_AGAIN_NS: Final = 4_000_000_000  # challenge and signature may get lost on the links
ASK_SELDOM_NS: Final = 64_000_000_000  # the pause doubles up to this

_NEVER_NS: Final = 1 << 63
_CLAIM: Final = struct.Struct("<H64s32s16s")


class Claim(NamedTuple):
    """A peer says that a validator runs it."""

    validator: int
    signature: bytes  # 64 bytes
    challenge: bytes  # 32 bytes, drawn by this node for that connection
    node_id: bytes  # 16 bytes, the peer's


def pack_claim(claim: Claim) -> bytes:
    """Return a claim as an item of a tray."""
    return _CLAIM.pack(*claim)


def unpack_claim(item: bytes) -> Claim:
    """Read an item; raises ValueError if it is no claim."""
    if len(item) != _CLAIM.size:
        raise ValueError(f"a claim has {_CLAIM.size} bytes, not {len(item)}")
    return Claim(*_CLAIM.unpack(item))


class _Claimed:
    """A claim that is being checked."""

    __slots__ = ("_owner", "_peer", "_validator")

    def __init__(self, owner: Proofs, peer: int, validator: int) -> None:
        self._owner = owner
        self._peer = peer
        self._validator = validator

    def answer(self, first: int, codes: bytes) -> None:
        self._owner.judged(self._peer, self._validator, codes[0])


class Proofs:
    """The proofs of ``net``; `blame` holds a wrong one against a peer, given why.

    `node_id` is this node's own, `epoch` this process' life.
    """

    def __init__(
        self,
        hub: Hub,
        intake: Intake,
        blame: Callable[[int, str], None],
        log: Log,
        node_id: bytes,
        epoch: int,
    ) -> None:
        self._hub = hub
        self._intake = intake
        self._blame = blame
        self._log = log
        self._node_id = node_id
        self._epoch = epoch
        # peers that have no proof of this node -> when to ask for one, and the pause after that
        self._unproven: dict[int, tuple[int, int]] = {}
        self._due_ns = _NEVER_NS  # no earlier than this is anything to ask

    def connected(self, peer: int) -> None:
        """A peer is there."""
        self._unproven[peer] = (0, ASK_AGAIN_NS)
        self._due_ns = 0

    def disconnected(self, peer: int) -> None:
        """A peer is gone."""
        self._unproven.pop(peer, None)

    def consensus_started(self) -> None:
        """What its predecessor was asked is lost."""
        self._unproven = dict.fromkeys(self._unproven, (0, ASK_AGAIN_NS))
        self._due_ns = 0

    def ask(self, tell: Callable[[Challenge], bool], now_ns: int) -> None:
        """Have challenges signed, again after a while if nothing came of it; `tell` says whether
        there was room for the word.
        """
        if now_ns < self._due_ns:
            return
        for peer, (due_ns, pause_ns) in sorted(self._unproven.items()):
            if now_ns < due_ns:
                continue
            challenge = self._hub.challenge(peer)
            if challenge is None:
                del self._unproven[peer]
            elif tell(Challenge(self._epoch, peer, challenge, self._node_id)):
                self._unproven[peer] = (now_ns + pause_ns, min(2 * pause_ns, ASK_SELDOM_NS))
            else:
                return
        self._due_ns = min((due_ns for due_ns, _ in self._unproven.values()), default=_NEVER_NS)

    def signed(self, peer: int, validator: int, signature: bytes) -> None:
        """Show a peer who this is."""
        if self._unproven.pop(peer, None) is not None:
            self._hub.send(peer, FrameType.PROOF, encode_proof(Proof(validator, signature)))

    def claimed(self, peer: PeerInfo, claim: Claim) -> None:
        """Have checked what a peer says; see `HubEvents.proof`."""
        item = pack_claim(claim)
        self._intake.offer(
            b"proof",
            _Claimed(self, peer.number, claim.validator),
            memoryview(item),
            np.array([len(item)], np.uint32),
            priority=REQUESTED,
            label=Label(ItemKind.PROOF),
        )

    def judged(self, peer: int, validator: int, code: int) -> None:
        """Protect a peer that has said the truth."""
        if code == Verdict.ADMITTED:
            self._log.info("peer_proven", peer=peer, validator=validator)
            self._hub.protect(peer)
        elif code != Verdict.QUARANTINED:
            self._blame(peer, f"is not run by validator {validator}")
