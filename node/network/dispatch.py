"""Where a frame goes: to the handshake, to the upkeep, or to the stage.

The reactor calls it for everything that happens on a socket, within the hub's `poll`. It owns
nothing. Whatever a peer sends leads to a blame and a closed connection at worst.
"""

from __future__ import annotations

import socket
from typing import TYPE_CHECKING, Final

from node.network.connection import Connection, Phase
from node.network.frames import FRAME_TYPES, FrameType
from node.network.handshake import HandshakeError, decode_proof

if TYPE_CHECKING:
    from node.network.answering import Answering
    from node.network.calling import Calling
    from node.network.doorstep import Doorstep
    from node.network.peers import Peer
    from node.network.switchboard import Switchboard
    from node.network.upkeep import Upkeep

# From this number on frames are the stage's own (STATUS is, too).
FIRST_OF_STAGE: Final = int(FrameType.AGREEMENT)


class Dispatch:
    """The reactor's `Owner`."""

    def __init__(
        self,
        board: Switchboard,
        door: Doorstep,
        answering: Answering,
        calling: Calling,
        upkeep: Upkeep,
    ) -> None:
        self._board = board
        self._door = door
        self._answering = answering
        self._calling = calling
        self._upkeep = upkeep

    def accepted(self, sock: socket.socket, host: str, port: int) -> None:
        """Somebody has connected."""
        self._answering.accepted(sock, host, port)

    def dialled(self, connection: Connection) -> None:
        """A dial has succeeded."""
        self._calling.dialled(connection)

    def frame(self, connection: Connection, kind: int, body: memoryview) -> None:
        """Hand a frame to whom it concerns."""
        board = self._board
        board.stats["frames_in"] += 1
        peer = connection.peer
        if connection.phase is not Phase.OPEN or peer is None:
            self._greeting(connection, kind, body)
            return
        known = FRAME_TYPES.get(kind)
        if known is None:
            board.stats["frames_unknown"] += 1
        elif known >= FIRST_OF_STAGE:
            board.events.frame(peer.info, known, body)
        elif known is FrameType.PROOF:
            self._proof(peer, body)
        elif self._upkeep.handle(peer, connection, known, body):
            board.events.frame(peer.info, known, body)

    def offended(self, connection: Connection, reason: str) -> None:
        """What came is no frame."""
        peer = connection.peer
        if connection.phase is Phase.OPEN and peer is not None:
            self._board.malformed(peer, reason)
        else:
            self._door.offended(connection, reason)

    def lost(self, connection: Connection, reason: str) -> None:
        """A connection is over, and so is the other lane of its peer."""
        peer = connection.peer
        if peer is not None and connection.phase in (Phase.OPEN, Phase.HELD):
            self._board.lose(peer, reason)
        else:
            self._door.lost(connection, reason)

    def _greeting(self, connection: Connection, kind: int, body: memoryview) -> None:
        match FRAME_TYPES[kind]:
            case FrameType.HELLO:
                self._answering.hello(connection, body)
            case FrameType.WELCOME:
                self._calling.welcomed(connection, body)
            case FrameType.REFUSE:
                self._calling.refused(connection, body)
            case other:  # the reader's limits let nothing else through
                raise AssertionError(other)

    def _proof(self, peer: Peer, body: memoryview) -> None:
        board = self._board
        try:
            proof = decode_proof(body)
        except HandshakeError as error:
            board.malformed(peer, str(error))
            return
        if peer.validator is not None:  # one chance: each costs somebody a signature check
            board.stats["frames_ignored"] += 1
            return
        peer.validator = proof.validator
        board.events.proof(peer.info, proof.validator, proof.signature, peer.own_challenge)
