"""What keeps a peer a peer: pings, told heights, and addresses passed on.

The dispatch hands over the frames of these kinds, the hub calls `tick` when `deadline_ns` has come.
It owns nothing but the time at which heights were last told; the rest lies in the peers.

A peer is given up when its agreement lane was silent for `gone_after_ns` although it was pinged,
when its kernel acknowledged nothing on one of the lanes for so long, or when it took no byte of
what waits for it for `stall_ns`. Silence on a bulk lane means nothing: the peer may be holding it
back, and so may this node. Its kernel answers even then; what asks it when nothing is sent is TCP's
keepalive.
"""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING, Final

import msgspec

from node.network.address import AddressError, parse_address
from node.network.frames import MAX_BODY_BYTES, FrameType
from node.network.handshake import ADDRESS_MAX_CHARACTERS
from node.network.settings import NS_PER_S

if TYPE_CHECKING:
    from node.network.connection import Connection
    from node.network.peers import Peer
    from node.network.switchboard import Switchboard

STATUS_EVERY_NS: Final = NS_PER_S // 4
CHECK_EVERY_NS: Final = NS_PER_S // 2
PROBE_NS: Final = 5 * NS_PER_S  # to answer when somebody else claims to be the same node
ASK_EVERY_NS: Final = 600 * NS_PER_S  # for addresses, one peer
GIVE_EVERY_NS: Final = 60 * NS_PER_S  # addresses to one peer
GIVEN_ADDRESSES: Final = 100
TAKEN_ADDRESSES: Final = 256  # of one answer; what is beyond is ignored
PONG_ROOM_BYTES: Final = 64 * 1024  # may wait before a PONG, or PINGs would fill the memory

assert MAX_BODY_BYTES[FrameType.ADDRESSES] > GIVEN_ADDRESSES * (ADDRESS_MAX_CHARACTERS + 2) + 3

NS_PER_MS: Final = 1_000_000

_U64 = struct.Struct("<Q")
_ADDRESSES = msgspec.msgpack.Decoder(list[str])
_ENCODER = msgspec.msgpack.Encoder()


class Upkeep:
    """The small talk between peers."""

    def __init__(self, board: Switchboard) -> None:
        self._board = board
        self._told_ns = board.now_ns - STATUS_EVERY_NS
        self._checked_ns = board.now_ns
        self._to_tell = False

    def opened(self, peer: Peer) -> None:
        """A peer is there: ask it for others, and tell it what changed meanwhile."""
        self._to_tell = self._to_tell or peer.told_height != self._board.height
        if peer.outbound:
            assert peer.target is not None
            self._board.book.tried(peer.target.address, True, self._board.now_ms)
            self._ask(peer)
        elif peer.listen is not None:
            self._board.book.add(peer.listen, peer.ip, self._board.rng)

    def handle(self, peer: Peer, connection: Connection, kind: FrameType, body: memoryview) -> bool:
        """Handle a frame of the upkeep; whether it is to be handed on, too."""
        match kind:
            case FrameType.PING:
                self._pong(peer, connection, body)
            case FrameType.PONG:
                connection.pinged_ns = 0
            case FrameType.STATUS:
                return self._status(peer, body)
            case FrameType.ADDRESSES_WANTED:
                self._give(peer)
            case FrameType.ADDRESSES:
                self._take(peer, body)
            case _:
                return True
        return False

    def _pong(self, peer: Peer, connection: Connection, body: memoryview) -> None:
        if len(body) != MAX_BODY_BYTES[FrameType.PING]:
            self._malformed(peer, FrameType.PING)
        elif connection.queued_bytes > PONG_ROOM_BYTES:  # whoever takes nothing needs no answer
            self._board.stats["frames_ignored"] += 1
        else:
            self._board.say(connection, FrameType.PONG, bytes(body))

    def probe(self, peer: Peer) -> None:
        """Somebody says that he is this peer: it should say something soon."""
        if peer.open and peer.probed_ns is None:
            peer.probed_ns = self._board.now_ns
            self._ping(peer.agreement)

    def set_height(self, height: int) -> None:
        """Tell the peers how high this node is, now or when that is due."""
        if height != self._board.height:
            self._board.height = height
            self._to_tell = True
        self._tell_height()

    def _tell_height(self) -> None:
        board = self._board
        if not self._to_tell or board.now_ns - self._told_ns < STATUS_EVERY_NS:
            return
        self._to_tell = False
        self._told_ns = board.now_ns
        body = _U64.pack(board.height)
        for peer in board.peers.by_number.values():
            if peer.told_height != board.height:
                peer.told_height = board.height
                board.say(peer.agreement, FrameType.STATUS, body)

    def tick(self) -> None:
        """Do what is due: tell the height, ping the silent, give up the dead."""
        self._tell_height()
        board = self._board
        if board.now_ns - self._checked_ns < CHECK_EVERY_NS:
            return
        self._checked_ns = board.now_ns
        for peer in list(board.peers.by_number.values()):
            self._check(peer)

    def deadline_ns(self) -> int | None:
        """When `tick` may have something to do."""
        board = self._board
        if not len(board.peers):
            return None
        due_ns = self._checked_ns + CHECK_EVERY_NS
        if self._to_tell:
            due_ns = min(due_ns, self._told_ns + STATUS_EVERY_NS)
        return due_ns

    # -- alive -----------------------------------------------------------------------------------

    def _check(self, peer: Peer) -> None:
        board = self._board
        now_ns = board.now_ns
        lane = peer.agreement
        if lane.heard_ns > lane.pinged_ns:
            lane.pinged_ns = 0
        if peer.probed_ns is not None:
            if lane.heard_ns > peer.probed_ns:
                peer.probed_ns = None
            elif now_ns - peer.probed_ns >= PROBE_NS:
                self._gone(peer, "did not answer when another connection came in its name")
                return
        settings = board.settings
        if not lane.pinged_ns:
            if now_ns - lane.heard_ns >= settings.ping_after_ns:
                self._ping(lane)
        elif now_ns - lane.pinged_ns >= settings.gone_after_ns - settings.ping_after_ns:
            self._gone(peer, f"silent for {(now_ns - lane.heard_ns) // NS_PER_S} s")
            return
        for connection in peer.connections():
            dead_ms = connection.unanswered_ms()
            if dead_ms * NS_PER_MS >= settings.gone_after_ns:
                self._gone(peer, f"acknowledges nothing for {dead_ms // 1_000} s")
                return
            stalled_ns = now_ns - connection.took_ns
            if connection.queued_bytes and stalled_ns >= settings.stall_ns:
                self._gone(peer, f"takes nothing for {stalled_ns // NS_PER_S} s")
                return
        if peer.outbound and self._wants_addresses(peer):
            self._ask(peer)

    def _gone(self, peer: Peer, reason: str) -> None:
        self._board.stats["silent"] += 1
        self._board.lose(peer, reason)

    def _ping(self, lane: Connection) -> None:
        lane.pinged_ns = max(self._board.now_ns, 1)
        self._board.say(lane, FrameType.PING, _U64.pack(self._board.now_ns & (1 << 64) - 1))

    # -- heights ---------------------------------------------------------------------------------

    def _status(self, peer: Peer, body: memoryview) -> bool:
        if len(body) != _U64.size:
            self._malformed(peer, FrameType.STATUS)
            return False
        (peer.height,) = _U64.unpack(body)
        peer.refresh()
        return True

    # -- addresses -------------------------------------------------------------------------------

    def _wants_addresses(self, peer: Peer) -> bool:
        asked_ns = peer.addresses_asked_ns
        return asked_ns is None or self._board.now_ns - asked_ns >= ASK_EVERY_NS

    def _ask(self, peer: Peer) -> None:
        if self._board.settings.max_outbound and peer.bulk is not None:
            peer.addresses_asked_ns = self._board.now_ns
            peer.awaits_addresses = True
            self._board.say(peer.bulk, FrameType.ADDRESSES_WANTED, b"")

    def _give(self, peer: Peer) -> None:
        board = self._board
        given_ns = peer.addresses_given_ns
        if given_ns is not None and board.now_ns - given_ns < GIVE_EVERY_NS:
            board.stats["frames_ignored"] += 1
            return
        peer.addresses_given_ns = board.now_ns
        good = board.book.good(GIVEN_ADDRESSES, board.rng)
        # Those who called are here now: their IP is sure, and of their port they should know.
        here = [each.listen for each in board.peers if each.open and each.listen is not None]
        mixed = [each for each in dict.fromkeys([*here, *good]) if each != peer.listen]
        chosen = board.rng.sample(mixed, min(GIVEN_ADDRESSES, len(mixed)))
        assert peer.bulk is not None
        board.say(peer.bulk, FrameType.ADDRESSES, _ENCODER.encode([str(each) for each in chosen]))

    def _take(self, peer: Peer, body: memoryview) -> None:
        board = self._board
        if not peer.awaits_addresses:
            board.stats["frames_ignored"] += 1
            return
        peer.awaits_addresses = False
        try:
            addresses = [parse_address(each) for each in _ADDRESSES.decode(body)[:TAKEN_ADDRESSES]]
        except (msgspec.MsgspecError, AddressError, ValueError, RecursionError):
            self._malformed(peer, FrameType.ADDRESSES)
            return
        for address in addresses:
            board.book.add(address, peer.ip, board.rng)

    def _malformed(self, peer: Peer, kind: FrameType) -> None:
        self._board.malformed(peer, f"{kind.name} that is none")
