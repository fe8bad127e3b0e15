"""The doorstep: connections from the first byte until both lanes of a peer have greeted.

The answering (`node.network.answering`) works here for those who connected, the calling
(`node.network.calling`) for those who were dialled. It owns the connections that are not lanes of a
peer yet (`pending`, bounded), and gives each `handshake_ns` for each step. Whoever is refused is
told why, and has a second to read it.

Two nodes may dial each other at the same time. Of the two connections the one stays that was
dialled by the smaller node id; both sides see this for themselves, the one when it is greeted, the
other when it is welcomed. Against a peer that is connected already a newcomer of the same node id
has no chance (ids are claims); the old one is pinged, and is gone soon if nobody answers. Only a
static peer, known by its address, takes its node id back from whoever uses it.
"""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Final

from node.network.connection import Connection, Phase
from node.network.frames import FrameType
from node.network.handshake import Refusal, encode_refuse
from node.network.settings import NS_PER_S

if TYPE_CHECKING:
    from node.network.address import Address
    from node.network.peers import Peer
    from node.network.switchboard import Switchboard
    from node.network.targets import Target
    from node.network.upkeep import Upkeep

MAX_PENDING: Final = 128  # inbound connections that have not greeted
LEAVING_NS: Final = NS_PER_S
MALFORMED_POINTS: Final = 20  # of a stranger, who may be no node at all


class Doorstep:
    """What both sides of the handshake share."""

    def __init__(self, board: Switchboard, upkeep: Upkeep) -> None:
        self._board = board
        self._upkeep = upkeep
        self.pending: dict[Connection, None] = {}

    def offended(self, connection: Connection, reason: str) -> None:
        """What came is no handshake."""
        board = self._board
        board.stats["malformed"] += 1
        board.blame_host(connection.host, MALFORMED_POINTS, reason)
        if connection.outbound:
            self.give_up(connection, reason)
        else:
            self.refuse(connection, Refusal.MALFORMED, reason)

    def lost(self, connection: Connection, reason: str) -> None:
        """A connection ended before it had greeted."""
        self.give_up(connection, reason)

    def expire(self, now_ns: int) -> None:
        """Give up whoever has had enough time."""
        board = self._board
        limit_ns = board.settings.handshake_ns
        for connection in list(self.pending):
            if connection.phase is Phase.CLOSED:  # with its peer
                del self.pending[connection]
                continue
            age_ns = now_ns - connection.since_ns
            if connection.phase is Phase.LEAVING:
                if age_ns >= LEAVING_NS:
                    self.give_up(connection, "has left")
            elif age_ns >= limit_ns:
                if connection.outbound:
                    self.give_up(connection, "no answer")
                else:
                    self.refuse(connection, Refusal.TIMEOUT, "no greeting in time")
        for peer in list(board.peers.half_open):
            if now_ns - peer.agreement.since_ns >= 2 * limit_ns:
                board.lose(peer, "no bulk lane in time")

    def deadline_ns(self) -> int | None:
        """When `expire` may have something to do."""
        limit_ns = self._board.settings.handshake_ns
        ends = [
            each.since_ns + (LEAVING_NS if each.phase is Phase.LEAVING else limit_ns)
            for each in self.pending
        ]
        ends += [each.agreement.since_ns + 2 * limit_ns for each in self._board.peers.half_open]
        return min(ends, default=None)

    def dialling_others(self) -> int:
        """Return how many addresses that are not static are being dialled."""
        return sum(
            each.target is not None and not each.target.static and each.peer is None
            for each in self.pending
        )

    def dialling_addresses(self) -> set[Address]:
        """Return the addresses that are being dialled."""
        return {each.target.address for each in self.pending if each.target is not None}

    def replaces(self, node_id: bytes, *, dialled_by: bytes, static: bool) -> bool:
        """Whether a new connection with a node may take the place of the one there is, if any.

        `dialled_by`: the node id of the side that dialled the new one; `static`: its address is
        that of a static peer, which is worth more than anybody's claim of a node id.
        """
        board = self._board
        old = board.peers.of_id(node_id)
        if old is None:
            return True
        if static and not old.static:
            board.lose(old, "the static peer of this node id has come")
            return True
        own = board.settings.node_id
        old_dialled_by = own if old.outbound else node_id
        if old_dialled_by == dialled_by or dialled_by > old_dialled_by:
            self._upkeep.probe(old)
            return False
        # Whoever was dialled decides for a connection that both have used already; it has told so.
        if old.open and dialled_by != own:
            self._upkeep.probe(old)
            return False
        board.lose(old, "both sides have dialled")
        return True

    def found_self(self, challenge: bytes) -> None:
        """Never dial an address again behind which is this node, as its own challenge proves."""
        for each in self.pending:
            if each.target is not None and each.challenge == challenge:
                each.target.mute = True

    def refuse(self, connection: Connection, reason: Refusal, text: str) -> None:
        """Tell the one who has dialled why it is not wanted."""
        board = self._board
        board.stats[f"refused_{reason.name.lower()}"] += 1
        board.log.once(
            board.now_ns,
            f"{connection.host} {reason.name}",
            "connection_refused",
            address=connection.host,
            reason=reason.name,
            text=text,
        )
        node_id = board.settings.node_id
        board.say(connection, FrameType.REFUSE, encode_refuse(reason, text, node_id))
        connection.phase = Phase.LEAVING
        connection.since_ns = board.now_ns

    def give_up(self, connection: Connection, reason: str, *, told: bool = False) -> None:
        """Close a pending connection, and whatever hangs on it; `told`: the log has it already."""
        board = self._board
        self.pending.pop(connection, None)
        phase = connection.phase
        board.reactor.drop(connection)
        if connection.peer is not None:
            board.lose(connection.peer, reason)
        elif connection.target is not None and phase is not Phase.CLOSED:
            target = connection.target
            peer = board.peers.of_id(target.node_id)
            if peer is not None and peer.static:
                board.targets.there_already(target, board.now_ns)
            else:
                self.not_reached(target, reason, told=told)

    def watch(self, connection: Connection) -> None:
        """Take in a new connection."""
        self.pending[connection] = None
        self._board.reactor.add(connection)

    def hold(self, connection: Connection, peer: Peer) -> None:
        """Leave an agreement lane unread until its bulk lane is there."""
        self.pending.pop(connection)
        connection.peer = peer
        connection.phase = Phase.HELD
        connection.since_ns = self._board.now_ns

    def crowd_out(self) -> None:
        """Make room: the oldest inbound connection of the address with most of them has to go."""
        inbound = [each for each in self.pending if not each.outbound]
        if len(inbound) >= MAX_PENDING:
            crowd = Counter(each.host for each in inbound)
            self._board.stats["crowded_out"] += 1
            self.give_up(max(inbound, key=lambda each: crowd[each.host]), "crowded out")

    def own_listen(self) -> str:
        """What the others are told about where this node listens."""
        listening = self._board.listening
        return "" if listening is None else str(listening)

    def not_reached(self, target: Target, reason: str, *, told: bool = False) -> None:
        """No peer comes of a dial: try again later."""
        board = self._board
        board.stats["dial_failures"] += 1
        board.targets.failed(target, board.now_ns, board.rng)
        if not target.static:
            board.book.tried(target.address, False, board.now_ms)
        if told:
            return
        board.log.once(
            board.now_ns,
            f"{target.address} {reason}",
            "peer_not_reached",
            address=str(target.address),
            why=reason,
        )
