"""Who this node is connected to: one `Peer` for two lanes, found by number, node id or session.

The handshake adds them, the switchboard uses and removes them. Pure bookkeeping: it owns the
tables, not the connections in them.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from node.network.address import Address
    from node.network.connection import Connection
    from node.network.targets import Target

MAX_NUMBER: Final = (1 << 32) - 1


@dataclass(frozen=True, slots=True)
class PeerInfo:
    """A peer as others may see it."""

    number: int  # > 0, never used again in this life of the process
    node_id: bytes  # 16 bytes; a claim
    address: str  # "host:port": where it was dialled, or where it called from
    outbound: bool
    version: int  # of the protocol, agreed upon
    height: int  # as it last told
    agent: str
    protected: bool  # static, or a proven validator: its slot is safe
    validator: int | None = None  # as which it has proven itself


class Peer:
    """One peer and its two connections; there is no bulk lane until it is `open`."""

    __slots__ = (
        "addresses_asked_ns",
        "addresses_given_ns",
        "agent",
        "agreement",
        "awaits_addresses",
        "bulk",
        "height",
        "info",
        "ip",
        "listen",
        "node_id",
        "number",
        "open",
        "opened_ns",
        "outbound",
        "own_challenge",
        "probed_ns",
        "proven",
        "session",
        "static",
        "target",
        "their_challenge",
        "told_height",
        "validator",
        "version",
    )

    def __init__(
        self,
        number: int,
        node_id: bytes,
        session: bytes,
        agreement: Connection,
        *,
        version: int,
        height: int,
        agent: str,
        listen: Address | None,
        static: bool,
        their_challenge: bytes,
        told_height: int,
    ) -> None:
        self.number = number
        self.node_id = node_id
        self.session = session
        self.agreement = agreement
        self.bulk: Connection | None = None
        self.ip = agreement.host
        self.outbound = agreement.outbound
        self.target: Target | None = agreement.target
        self.version = version
        self.height = height
        self.agent = agent
        self.listen = listen
        self.static = static
        self.proven = False
        self.validator: int | None = None  # as which it wants to be known
        self.own_challenge = agreement.challenge
        self.their_challenge = their_challenge
        self.told_height = told_height
        self.open = False
        self.opened_ns = 0
        self.addresses_asked_ns: int | None = None  # by us
        self.addresses_given_ns: int | None = None
        self.awaits_addresses = False
        self.probed_ns: int | None = None  # when somebody else claimed to be it
        self.refresh()

    @property
    def protected(self) -> bool:
        """Whether it keeps its slot whoever else comes."""
        return self.static or self.proven

    @property
    def name(self) -> str:
        """Its address, for people."""
        return self.info.address

    def refresh(self) -> None:
        """Make `info` say what is so now."""
        host, port = self.agreement.host, self.agreement.port
        self.info = PeerInfo(
            self.number,
            self.node_id,
            f"[{host}]:{port}" if ":" in host else f"{host}:{port}",
            self.outbound,
            self.version,
            self.height,
            self.agent,
            self.protected,
            self.validator if self.proven else None,
        )

    def connections(self) -> Iterator[Connection]:
        """Its lanes, as many as there are."""
        yield self.agreement
        if self.bulk is not None:
            yield self.bulk


class PeerTable:
    """All peers whose agreement lane has greeted; a number belongs to one of them for ever."""

    def __init__(self) -> None:
        self._last_number = 0
        self.by_number: dict[int, Peer] = {}  # open ones
        self.half_open: dict[Peer, None] = {}  # all others
        self._by_id: dict[bytes, Peer] = {}
        self._by_session: dict[bytes, Peer] = {}

    def next_number(self) -> int:
        """A number that no peer had."""
        self._last_number += 1
        assert self._last_number <= MAX_NUMBER
        return self._last_number

    def add(self, peer: Peer) -> None:
        """Take in a peer that has greeted on its agreement lane."""
        assert peer.node_id not in self._by_id
        self._by_id[peer.node_id] = peer
        if not peer.outbound:  # the others' sessions are theirs to look up
            self._by_session[peer.session] = peer
        self.half_open[peer] = None

    def opened(self, peer: Peer) -> None:
        """Its bulk lane is there, too."""
        peer.open = True
        del self.half_open[peer]
        self.by_number[peer.number] = peer

    def remove(self, peer: Peer) -> bool:
        """Forget a peer; whether it was there."""
        if self._by_id.get(peer.node_id) is not peer:
            return False
        del self._by_id[peer.node_id]
        if not peer.outbound:
            del self._by_session[peer.session]
        self.half_open.pop(peer, None)
        self.by_number.pop(peer.number, None)
        return True

    def of_id(self, node_id: bytes) -> Peer | None:
        """The peer with this node id."""
        return self._by_id.get(node_id)

    def of_session(self, session: bytes) -> Peer | None:
        """The inbound peer with this session."""
        return self._by_session.get(session)

    def __iter__(self) -> Iterator[Peer]:
        return iter(list(self._by_id.values()))

    def __len__(self) -> int:
        return len(self._by_id)

    def protect(self, peer: Peer) -> None:
        """A peer has proven who it is; an earlier one that did so as the same validator has not."""
        for other in self.by_number.values():
            if other.proven and other.validator == peer.validator:
                other.proven = False
                other.refresh()
        peer.proven = True
        peer.refresh()

    def inbound_unprotected(self) -> list[Peer]:
        """Those that compete for slots, oldest first."""
        return [each for each in self if not (each.outbound or each.protected)]
