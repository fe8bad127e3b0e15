"""Everything that the hub is made of, in one place: peers, bans, dials, counters and the reactor.

The handshake, the upkeep and the hub work on it. It decides nothing about the protocol: it opens,
sends to, blames and drops peers, and keeps what is told to the stage (`HubEvents`) until the hub's
`poll` tells it. It owns the tables; the sockets are the reactor's.
"""

from __future__ import annotations

from collections import deque
from random import Random
from typing import Final, Protocol

from node.network.address import Address, is_loopback, parse_address
from node.network.bans import BAN_MS, BanTable
from node.network.book import AddressBook
from node.network.budget import Budget
from node.network.connection import Connection, Phase
from node.network.counters import fresh
from node.network.frames import LANE_OF, ON_LANE, FrameType, Lane, encode_frame
from node.network.peers import Peer, PeerInfo, PeerTable
from node.network.quiet import SparingLog
from node.network.reactor import Reactor
from node.network.settings import HubSettings
from node.network.targets import Targets
from pipeline.eventlog import Log

NS_PER_MS: Final = 1_000_000
MAX_BUFFERS: Final = 32_768  # that wait for one lane, because small ones cost more than their bytes
MAX_DEPARTED: Final = 1_024
MALFORMED_POINTS: Final = 50  # TCP has checksums: it was sent so


class HubEvents(Protocol):
    """What the hub tells the stage; called from within `Hub.poll` only."""

    def connected(self, peer: PeerInfo) -> None:
        """Both lanes of a peer are there."""

    def disconnected(self, peer: PeerInfo, reason: str) -> None:
        """A peer that was connected is not any more; nothing more comes from its number."""

    def frame(self, peer: PeerInfo, kind: FrameType, body: memoryview) -> None:
        """A frame has come; the body is valid during the call only."""

    def proof(self, peer: PeerInfo, validator: int, signature: bytes, challenge: bytes) -> None:
        """A peer says that it is a validator: `signature` (64 bytes) over `challenge` (32)."""


class Switchboard:
    """The state that the parts of the hub share."""

    def __init__(
        self,
        settings: HubSettings,
        events: HubEvents,
        rng: Random,
        log: Log,
        now_ns: int,
        now_ms: int,
    ) -> None:
        self.settings = settings
        self.events = events
        self.rng = rng
        self.log = SparingLog(log)
        self.now_ns = now_ns
        self._wall_ms = now_ms - now_ns // NS_PER_MS
        self.stats = fresh()
        self.height = 0
        self.listening: Address | None = None
        self.peers = PeerTable()
        self.bans = BanTable()
        self.book = AddressBook()
        self.targets = Targets(
            [parse_address(each) for each in settings.static],
            settings.redial_first_ns,
            settings.redial_longest_ns,
            now_ns,
        )
        self.farewells: deque[tuple[PeerInfo, str]] = deque()  # told at the end of a poll
        self.departed: dict[int, str] = {}  # number -> IP, of peers that an offence may come out of
        self.reactor: Reactor  # set by the hub, which owns it

    @property
    def now_ms(self) -> int:
        """The time of day in ms since 1970, by the monotonic clock since the start."""
        return self._wall_ms + self.now_ns // NS_PER_MS

    # -- peers -----------------------------------------------------------------------------------

    def open(self, peer: Peer, bulk: Connection) -> None:
        """Make a peer of two lanes that have greeted, and tell."""
        peer.bulk = bulk
        bulk.peer = peer
        peer.opened_ns = self.now_ns
        budgets = {
            Lane.AGREEMENT: self.settings.agreement_budget,
            Lane.BULK: self.settings.bulk_budget,
        }
        for connection in peer.connections():
            connection.phase = Phase.OPEN
            connection.reader.limits = ON_LANE[connection.lane]
            connection.budget = Budget(budgets[connection.lane], self.now_ns)
            connection.heard_ns = connection.took_ns = self.now_ns
            self.reactor.resume(connection)
        if peer.target is not None:
            peer.target.node_id = peer.node_id
        self.peers.opened(peer)
        self.stats["opened"] += 1
        self._tell(
            peer,
            "peer_connected",
            node=peer.node_id.hex(),
            outbound=peer.outbound,
            height=peer.height,
            version=peer.version,
            agent=peer.agent,
        )
        self.events.connected(peer.info)

    def lose(self, peer: Peer, reason: str, *, punish: bool = False) -> None:
        """Drop a peer and both of its lanes; it is told in this poll or the next one."""
        if not self.peers.remove(peer):
            return
        for connection in peer.connections():
            self.reactor.drop(connection)
        target = peer.target
        if target is None and peer.listen is not None:  # the static peer that called itself
            target = self.targets.static_at(peer.listen)
            if target is not None and target.busy:
                target = None
        if target is not None:
            lived_ns = self.now_ns - peer.opened_ns if peer.open else 0
            if punish:
                self.targets.punish(target, self.now_ns, self.rng)
            else:
                self.targets.ended(target, lived_ns, self.now_ns, self.rng)
        if not peer.open:
            self.log.once(self.now_ns, peer.name, "peer_not_opened", address=peer.name, why=reason)
            return
        self.stats["closed"] += 1
        if not peer.static:
            if len(self.departed) >= MAX_DEPARTED:
                del self.departed[next(iter(self.departed))]
            self.departed[peer.number] = peer.ip
        self._tell(peer, "peer_disconnected", why=reason)
        self.farewells.append((peer.info, reason))
        self.reactor.wake()

    def _tell(self, peer: Peer, event: str, **facts: object) -> None:
        """Write what happened to a peer; strangers that come and go do not fill the log."""
        facts.update(peer=peer.number, address=peer.name)
        if peer.outbound or peer.protected:
            self.log.info(event, **facts)
        else:
            self.log.once(self.now_ns, peer.ip, event, warn=False, **facts)

    def farewell(self) -> None:
        """Tell whom this node has lost."""
        while self.farewells:
            self.events.disconnected(*self.farewells.popleft())

    # -- sending ---------------------------------------------------------------------------------

    def send(self, peer: Peer, kind: FrameType, buffers: tuple[bytes, ...], size: int) -> bool:
        """Queue a frame on the lane of its type; False if it was dropped, or the peer with it."""
        if LANE_OF[kind] is Lane.BULK:
            connection, most = peer.bulk, self.settings.bulk_queue_bytes
        else:
            connection, most = peer.agreement, self.settings.agreement_queue_bytes
        if connection is None or connection.phase is not Phase.OPEN:
            return False
        if connection.queued_bytes + size > most or connection.queued_buffers >= MAX_BUFFERS:
            if kind is FrameType.TRANSACTIONS:
                self.stats["relay_dropped"] += 1
            else:
                self.stats["overflows"] += 1
                waiting = connection.queued_bytes
                self.lose(peer, f"does not keep up: {waiting} bytes wait for it")
            return False
        self.reactor.push(connection, buffers, size)
        stats = self.stats
        stats["frames_out"] += 1
        stats["bytes_out"] += size
        return True

    def say(self, connection: Connection, kind: FrameType, body: bytes) -> None:
        """Queue a small frame of the upkeep or the handshake on a lane; bounded by their nature."""
        buffers = encode_frame(kind, body)
        self.reactor.push(connection, buffers, size := sum(map(len, buffers)))
        self.stats["frames_out"] += 1
        self.stats["bytes_out"] += size

    # -- offences --------------------------------------------------------------------------------

    def is_static_site(self, host: str) -> bool:
        """Whether a static peer has this IP, so that the door is no place to decide about it."""
        return self.targets.is_static_site(host)

    def blame(self, peer: Peer, points: int, reason: str) -> None:
        """Hold something against a peer; enough of it, and its address is banned.

        A static peer is never banned, only dropped and dialled again after the longest pause.
        """
        if not self.bans.blame(peer.ip, points, self.now_ms):
            return
        if peer.static or (is_loopback(peer.ip) and self.is_static_site(peer.ip)):
            self.log.warning("static_peer_misbehaves", address=peer.name, why=reason)
            self.lose(peer, f"misbehaved: {reason}", punish=True)
        else:
            self.ban(peer.ip, reason)

    def blame_host(self, host: str, points: int, reason: str) -> None:
        """Hold something against an address that did not become a peer."""
        if not self.is_static_site(host) and self.bans.blame(host, points, self.now_ms):
            self.ban(host, reason)

    def malformed(self, peer: Peer, reason: str) -> None:
        """A peer sent what is no frame: nothing after it can be trusted."""
        self.stats["malformed"] += 1
        self.blame(peer, MALFORMED_POINTS, reason)
        self.lose(peer, f"malformed: {reason}")

    def ban(self, host: str, reason: str, for_ms: int = BAN_MS) -> None:
        """Ban an address and drop all of its peers that are not static."""
        self.bans.ban(host, reason, self.now_ms, for_ms)
        self.stats["bans"] += 1
        self.log.warning("address_banned", address=host, why=reason)
        self.drop_banned()

    def drop_banned(self) -> None:
        """Drop all peers of banned addresses that are not static."""
        for peer in self.peers:
            reason = self.bans.reason(peer.ip, self.now_ms)
            if not peer.static and reason is not None:
                self.lose(peer, f"banned: {reason}")
