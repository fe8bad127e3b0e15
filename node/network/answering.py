"""Answers those who connect: a ban, a refusal with its reason, or a welcome.

The dispatch hands over new sockets and their HELLO. A newcomer's first connection is its agreement
lane; it gets a session, which its second connection, the bulk lane, has to name. Owns nothing: what
is pending lies on the doorstep, who was accepted is the switchboard's.
"""

from __future__ import annotations

import socket
from typing import TYPE_CHECKING

from node.network.address import Address, AddressError, is_loopback, parse_address, plain_ip
from node.network.connection import Connection
from node.network.frames import FrameType, Lane
from node.network.handshake import (
    CHALLENGE_BYTES,
    SESSION_BYTES,
    HandshakeError,
    Hello,
    Refusal,
    Welcome,
    common_version,
    decode_hello,
    encode,
    judge_hello,
)
from node.network.peers import Peer
from node.network.slots import loses_slot

if TYPE_CHECKING:
    from node.network.doorstep import Doorstep
    from node.network.switchboard import Switchboard
    from node.network.upkeep import Upkeep


class Answering:
    """The handshake of whoever was dialled."""

    def __init__(self, board: Switchboard, door: Doorstep, upkeep: Upkeep) -> None:
        self._board = board
        self._door = door
        self._upkeep = upkeep

    def accepted(self, sock: socket.socket, host: str, port: int) -> None:
        """Take in a connection, or tell it at once that its address is banned."""
        board = self._board
        board.stats["accepted"] += 1
        connection = Connection(sock, plain_ip(host), port, Lane.AGREEMENT, board.now_ns)
        self._door.crowd_out()
        self._door.watch(connection)
        host = connection.host
        if board.bans.banned(host, board.now_ms) and not board.is_static_site(host):
            self._door.refuse(connection, Refusal.BANNED, "your address is banned here")

    def hello(self, connection: Connection, body: memoryview) -> None:
        """Handle a HELLO."""
        board = self._board
        try:
            hello = decode_hello(body)
        except HandshakeError as error:
            self._door.offended(connection, str(error))
            return
        connection.lane = Lane(hello.lane)
        refusal = judge_hello(hello, board.settings.genesis_id, board.settings.node_id)
        if refusal is not None:
            if refusal[0] is Refusal.SELF:
                self._door.found_self(hello.challenge)
            self._door.refuse(connection, *refusal)
        elif connection.lane is Lane.BULK:
            self._second_lane(connection, hello)
        else:
            self._first_lane(connection, hello)

    def _first_lane(self, connection: Connection, hello: Hello) -> None:
        """A newcomer: is there room, and is it not here already?"""
        board = self._board
        listen = _listen_address(connection.host, hello.listen)
        target = None if listen is None else board.targets.static_at(listen)
        if target is None and board.bans.banned(connection.host, board.now_ms):
            self._door.refuse(connection, Refusal.BANNED, "your address is banned here")
            return
        static = target is not None
        if not self._door.replaces(hello.node_id, dialled_by=hello.node_id, static=static):
            self._door.refuse(connection, Refusal.DUPLICATE, "this node is connected already")
            return
        if target is None and (full := self._full(connection.host)):
            self._door.refuse(connection, Refusal.FULL, full)
            return
        if target is not None:
            target.node_id = hello.node_id
        version = common_version(hello)
        assert version is not None
        connection.challenge = board.rng.randbytes(CHALLENGE_BYTES)
        peer = Peer(
            board.peers.next_number(),
            hello.node_id,
            board.rng.randbytes(SESSION_BYTES),
            connection,
            version=version,
            height=hello.height,
            agent=hello.agent,
            listen=listen,
            static=static,
            their_challenge=hello.challenge,
            told_height=board.height,
        )
        board.peers.add(peer)
        self._door.hold(connection, peer)
        self._welcome(connection, peer)

    def _second_lane(self, connection: Connection, hello: Hello) -> None:
        """The bulk lane of a peer whose agreement lane was welcomed."""
        board = self._board
        peer = board.peers.of_session(hello.session)
        if peer is None or peer.open or peer.node_id != hello.node_id or peer.ip != connection.host:
            self._door.refuse(connection, Refusal.MALFORMED, "no such session")
            return
        connection.challenge = peer.own_challenge
        self._door.pending.pop(connection)
        peer.height = hello.height
        peer.refresh()
        self._welcome(connection, peer)
        board.open(peer, connection)
        self._upkeep.opened(peer)

    def _welcome(self, connection: Connection, peer: Peer) -> None:
        board = self._board
        peer.told_height = board.height
        welcome = Welcome(
            peer.version,
            board.settings.node_id,
            board.settings.genesis_id,
            peer.session,
            board.height,
            self._door.own_listen(),
            board.settings.agent,
            connection.challenge,
        )
        board.say(connection, FrameType.WELCOME, encode(welcome))

    def _full(self, host: str) -> str | None:
        """Make room for another inbound peer from this address, or tell why there is none."""
        board = self._board
        inbound = board.peers.inbound_unprotected()
        of_host = sum(each.ip == host for each in inbound)
        if of_host >= board.settings.max_per_ip and not is_loopback(host):
            return f"{of_host} peers of this address are connected"
        if len(inbound) < board.settings.max_inbound:
            return None
        loser = _loser(host, inbound)
        if loser is None:
            return f"all {board.settings.max_inbound} slots are taken"
        board.stats["evicted"] += 1
        board.lose(loser, "lost its slot")
        return None


def _loser(host: str, inbound: list[Peer]) -> Peer | None:
    """Whose slot a newcomer gets: of those who never came with their bulk lane, the oldest."""
    if (half_open := next((each for each in inbound if not each.open), None)) is not None:
        return half_open
    number = loses_slot(host, [(each.ip, each.number) for each in inbound])
    return next((each for each in inbound if each.number == number), None)


def _listen_address(host: str, told: str) -> Address | None:
    """Where a peer listens: its port is believed, its IP is the one that it called from."""
    try:
        port = parse_address(told).port
    except AddressError:
        return None
    return Address(host, port) if port else None
