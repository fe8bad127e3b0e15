"""Calls others: dials, says hello, and takes a welcome or a refusal.

The dialler says whom, the dispatch hands over what they answer. After the welcome on the agreement
lane the same address is dialled again for the bulk lane. Owns nothing: what is pending lies on the
doorstep, whom it has reached is the switchboard's.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from node.network.connection import Connection, dial
from node.network.frames import FrameType, Lane
from node.network.handshake import (
    CHALLENGE_BYTES,
    MAGIC,
    NO_SESSION,
    VERSION_MAX,
    VERSION_MIN,
    HandshakeError,
    Hello,
    Refusal,
    Welcome,
    decode_refuse,
    decode_welcome,
    encode,
    judge_welcome,
)
from node.network.peers import Peer

if TYPE_CHECKING:
    from node.network.doorstep import Doorstep
    from node.network.switchboard import Switchboard
    from node.network.targets import Target
    from node.network.upkeep import Upkeep


class Calling:
    """The handshake of whoever dials."""

    def __init__(self, board: Switchboard, door: Doorstep, upkeep: Upkeep) -> None:
        self._board = board
        self._door = door
        self._upkeep = upkeep

    def dial(self, target: Target, host: str) -> None:
        """Begin to connect to a target at an IP."""
        target.host = host
        self._dial(target, host, target.address.port, Lane.AGREEMENT, None)

    def _dial(self, target: Target, host: str, port: int, lane: Lane, peer: Peer | None) -> None:
        board = self._board
        target.busy = True
        board.stats["dialled"] += 1
        try:
            sock = dial(host, port)
        except OSError as error:
            reason = (error.strerror or "cannot connect").lower()
            if peer is not None:
                board.lose(peer, reason)
            else:
                self._door.not_reached(target, reason)
            return
        connection = Connection(sock, host, port, lane, board.now_ns, target)
        connection.peer = peer
        if peer is not None:
            peer.bulk = connection
        self._door.watch(connection)

    def dialled(self, connection: Connection) -> None:
        """TCP is there: say hello."""
        board = self._board
        peer = connection.peer
        if peer is None:
            connection.challenge = board.rng.randbytes(CHALLENGE_BYTES)
        else:
            connection.challenge = peer.own_challenge
            peer.told_height = board.height
        hello = Hello(
            MAGIC,
            VERSION_MIN,
            VERSION_MAX,
            board.settings.genesis_id,
            board.settings.node_id,
            connection.lane,
            NO_SESSION if peer is None else peer.session,
            board.height,
            self._door.own_listen(),
            board.settings.agent,
            connection.challenge,
        )
        connection.since_ns = board.now_ns
        board.say(connection, FrameType.HELLO, encode(hello))

    def welcomed(self, connection: Connection, body: memoryview) -> None:
        """Handle a WELCOME."""
        board = self._board
        try:
            welcome = decode_welcome(body)
        except HandshakeError as error:
            self._door.offended(connection, str(error))
            return
        refusal = judge_welcome(welcome, board.settings.genesis_id, board.settings.node_id)
        if refusal is not None:
            self._turned_away(connection, *refusal)
        elif connection.peer is not None:
            self._second_welcome(connection, connection.peer, welcome)
        else:
            self._first_welcome(connection, welcome)

    def _first_welcome(self, connection: Connection, welcome: Welcome) -> None:
        board = self._board
        target = connection.target
        assert target is not None
        target.node_id = welcome.node_id
        own = board.settings.node_id
        if not self._door.replaces(welcome.node_id, dialled_by=own, static=target.static):
            self._turned_away(connection, Refusal.DUPLICATE, "this node is connected already")
            return
        peer = Peer(
            board.peers.next_number(),
            welcome.node_id,
            welcome.session,
            connection,
            version=welcome.version,
            height=welcome.height,
            agent=welcome.agent,
            listen=target.address,
            static=target.static,
            their_challenge=welcome.challenge,
            told_height=board.height,
        )
        board.peers.add(peer)
        self._door.hold(connection, peer)
        self._dial(target, connection.host, connection.port, Lane.BULK, peer)

    def _second_welcome(self, connection: Connection, peer: Peer, welcome: Welcome) -> None:
        if welcome.session != peer.session or welcome.node_id != peer.node_id:
            self._door.offended(connection, "WELCOME: another node on the bulk lane")
            return
        self._door.pending.pop(connection)
        peer.height = welcome.height
        peer.refresh()
        self._board.open(peer, connection)
        self._upkeep.opened(peer)

    def refused(self, connection: Connection, body: memoryview) -> None:
        """Handle a REFUSE."""
        try:
            reason, text, node_id = decode_refuse(body)
        except HandshakeError as error:
            self._door.offended(connection, str(error))
            return
        if connection.target is not None and node_id:
            connection.target.node_id = node_id
        self._turned_away(connection, reason, text)

    def _turned_away(self, connection: Connection, reason: Refusal | None, text: str) -> None:
        """No connection comes of this dial: the other side does not want it, or this one not."""
        board = self._board
        target = connection.target
        assert target is not None
        name = "UNKNOWN" if reason is None else reason.name
        if reason is not None:
            board.stats[f"turned_away_{name.lower()}"] += 1
        board.log.once(
            board.now_ns,
            f"{target.address} {name}",
            "dial_refused",
            address=str(target.address),
            reason=name,
            text=text,
        )
        self._door.give_up(connection, name, told=True)
