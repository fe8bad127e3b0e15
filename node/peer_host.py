"""The consensus process among its peers: what ``net`` tells goes to block exchange, and back.

Words of ``net`` come in (`node.peer_link`), fetched transactions and verdicts on certificates from
the trays; agreement's host (`node.host`) is given judged and decided blocks (`BlockTaker`) and asks
for those that it lacks. Nothing is exchanged before agreement has begun. Owns the exchange and what
is with the verifiers.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final, Protocol

from node.agreement import NS_PER_MS
from node.block import Block
from node.consensus.messages import Certified, Proposal, Vote
from node.consensus.wire import encode
from node.exchange.exchange import Chain, Exchange
from node.exchange.verified import Arrived
from node.genesis import Genesis
from node.mempool import Mempool
from node.network.frames import FrameType
from node.network.link import Challenge, Frame, Peers
from node.peer_link import PeerLink
from node.prover import Prover
from node.storage.blockfile import BlockFiles

MAX_CHECKS: Final = 256  # certificates with the verifiers


class BlockTaker(Protocol):
    """Who gets what comes of block exchange."""

    def judged(self, height: int, value: bytes, block: Block | None) -> None:
        """The block that was wanted; None: it is invalid."""

    def decided(self, certified: Certified, block: Block | None) -> None:
        """The next block that others have decided; None: it is invalid."""

    def proven(self, certified: Certified) -> None:
        """The next block is decided, and is yet to be found."""


class PeerHost:
    """Performs what block exchange decides (`node.exchange.outbox.ExchangeHost`)."""

    def __init__(
        self,
        taker: BlockTaker,
        link: PeerLink,
        genesis: Genesis,
        store: Chain,
        bodies: BlockFiles,
        mempool: Mempool,
        log: Any,
        ask_signer: Callable[[bytes], None],
        *,
        confirm: Callable[[bytes], bool],
    ) -> None:
        self._taker = taker
        self._confirm = confirm
        self._link = link
        self.prover = Prover(ask_signer, link.proof)
        self._store = store
        self._log = log
        self._checks: dict[int, Certified] = {}  # by tag
        self._exchange = Exchange(
            self, store, bodies, mempool, genesis, first_request=time.time_ns() // NS_PER_MS
        )
        self._started = False

    # -- agreement's side ------------------------------------------------------------------------

    def start(self, now_ns: int) -> None:
        """Agreement has begun: meet the peers."""
        self._started = True
        for peer, height in self._link.heights.items():
            self._exchange.peer_connected(peer, height, now_ns)

    @property
    def heights(self) -> Mapping[int, int]:
        """Whom this node is connected to, and how high they are."""
        return self._link.heights

    @property
    def behind(self) -> bool:
        """Whether peers have blocks that this node has yet to catch up on."""
        return self._exchange.behind

    @property
    def best_height(self) -> int:
        """The highest height that a connected peer tells of; 0 without any."""
        return max(self._link.heights.values(), default=0)

    def want(self, height: int, value: bytes) -> None:
        """Get hold of a block and judge it; `BlockTaker.judged` answers."""
        now_ms = time.time_ns() // NS_PER_MS
        self._exchange.want(height, value, time.monotonic_ns(), now_ms)

    def proposed(self, value: bytes, block: Block) -> None:
        """Announce an own block."""
        self._exchange.proposed(value, block)

    def hold(self, value: bytes, block: Block) -> None:
        """Keep a valid block of this height for peers that ask."""
        self._exchange.hold(value, block)

    def say_all(self, message: Proposal | Vote | Certified) -> None:
        """Send a message of agreement to every peer."""
        self._link.say_all(message)

    def announce(self, transactions: bytes) -> None:
        """Send a TRANSACTIONS frame to every peer."""
        self._link.broadcast(FrameType.TRANSACTIONS, transactions)

    def committed(self, height: int) -> None:
        """The store's tip is this height now."""
        self._exchange.committed(height, time.monotonic_ns())
        self._link.height(height, behind=self.behind)

    def elapse(self, now_ns: int) -> None:
        """Let block exchange go on, if it is time."""
        self.prover.elapse(now_ns)
        due_ns = self._exchange.deadline_ns()
        if self._started and due_ns is not None and due_ns <= now_ns:
            self._exchange.elapse(now_ns)

    def deadline_ns(self) -> int | None:
        """When `elapse` is due next."""
        if not self._started:
            return None
        deadlines = (self._exchange.deadline_ns(), self.prover.deadline_ns())
        return min((each for each in deadlines if each is not None), default=None)

    # -- net's side ------------------------------------------------------------------------------

    def net_attached(self, epoch: int) -> None:
        """A new ``net``: nobody is connected."""
        self._meet({})
        self._checks.clear()
        self._link.attached(epoch)
        self._link.height(self._store.tip.height, behind=self.behind)

    def heard(self, frame: bytes) -> None:
        """Take a word from ``net``."""
        word = self._link.read(frame)
        match word:
            case Peers(peers=peers):
                self._meet(dict(peers))
            case Challenge(peer=peer, challenge=challenge, node_id=node_id):
                self.prover.challenged(peer, challenge, node_id)
            case Frame(peer=peer, type=kind, body=body) if self._started:
                self._exchange.heard(peer, kind, body, time.monotonic_ns())

    def fetched(self, tag: int, first: int, items: Sequence[Arrived | None]) -> None:
        """Take transactions that were asked for, None for bad ones."""
        self._exchange.fetched(tag, first, items, time.monotonic_ns())

    def checked(self, tag: int, *, good: bool) -> None:
        """Take a verifier's verdict on a certificate; a good one needs to be confirmed."""
        certified = self._checks.pop(tag, None)
        if certified is not None:
            good = good and self._confirm(encode(certified))
            self._exchange.certificate_verified(certified, good, time.monotonic_ns())

    def _meet(self, heights: dict[int, int]) -> None:
        """These are connected now."""
        before, self._link.heights = self._link.heights, heights
        self.prover.connected(heights)
        if not self._started:
            return
        now_ns = time.monotonic_ns()
        for peer in before.keys() - heights.keys():
            self._exchange.peer_gone(peer, now_ns)
        for peer, height in heights.items():
            if before.get(peer) != height:
                self._exchange.peer_connected(peer, height, now_ns)

    # -- block exchange's side -------------------------------------------------------------------

    def send(self, peer: int, frame_type: FrameType, body: bytes) -> None:
        """See `ExchangeHost`."""
        self._link.send(peer, frame_type, body)

    def broadcast(self, frame_type: FrameType, body: bytes) -> None:
        """See `ExchangeHost`."""
        self._link.broadcast(frame_type, body)

    def expect(self, tag: int, peer: int, items: int) -> None:
        """See `ExchangeHost`."""
        self._link.expect(tag, peer, items)

    def blame(self, peer: int, points: int, reason: str) -> None:
        """See `ExchangeHost`."""
        self._log.warning("peer_blamed", peer=peer, points=points, reason=reason)
        self._link.blame(peer, points, reason)

    def judged(self, height: int, value: bytes, block: Block | None) -> None:
        """See `ExchangeHost`."""
        self._taker.judged(height, value, block)

    def decided(self, certified: Certified, block: Block | None) -> None:
        """See `ExchangeHost`."""
        self._taker.decided(certified, block)

    def proven(self, certified: Certified) -> None:
        """See `ExchangeHost`."""
        self._taker.proven(certified)

    def verify_certificate(self, peer: int, certified: Certified) -> None:
        """See `ExchangeHost`."""
        while len(self._checks) >= MAX_CHECKS:
            del self._checks[next(iter(self._checks))]
        self._checks[self._link.check(certified)] = certified
