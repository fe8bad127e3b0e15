"""Puts one proposed block together: its ids from a COMPACT, its transactions from the mempool and
from peers.

`node.exchange.exchange` makes one for each block that agreement wants, hands in what arrives about
it, and has it judged when it is complete. Ids are believed when they hash to the block's id, and a
transaction when a verifier has found it to have the id of its place: so whoever supplied what does
not fit has lied, and nothing that anybody sends can spoil what is here. Asks one peer after the
other for as long as it is wanted, and each for one thing at a time. Pure; it owns the transactions
collected so far, at most a block of them.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from node.block import BlockHeader, merkle_root
from node.exchange.judging import Rules
from node.exchange.messages import (
    BUSY,
    ExchangeError,
    decode_compact,
    encode_get_compact,
    encode_get_transactions,
)
from node.exchange.outbox import LIE, Outbox
from node.exchange.verified import Arrived
from node.network.frames import FrameType

NS_PER_MS = 1_000_000
GRACE_NS = 100 * NS_PER_MS  # a COMPACT and the proposal that names it come by different ways
IMPATIENCE_NS = 300 * NS_PER_MS  # without progress for so long, another peer is asked as well
REPEAT_NS = 1_500 * NS_PER_MS  # the same one is asked again only then
MAX_POSITIONS = 60_000  # in one request, which must fit its frame


class Pending(Protocol):
    """The mempool, as far as a block is put together from it."""

    def transactions(self, txids: Iterable[bytes], /) -> list[bytes | None]: ...


@dataclass(slots=True)
class _Request:
    """Transactions asked of a peer; `end` is where its answer ends, `got` how many came."""

    peer: int
    positions: list[int]
    end: int
    got: int = 0


class Assembly:
    """A block that is wanted, by height and id; `peers` is the live table of those connected."""

    def __init__(
        self,
        height: int,
        value: bytes,
        rules: Rules,
        pending: Pending,
        peers: Mapping[int, object],
        out: Outbox,
        now_ns: int,
    ) -> None:
        self.height = height
        self.value = value
        self.header: BlockHeader | None = None
        self.txids: list[bytes] = []
        self.raws: list[bytes] = []  # empty where a transaction is lacking
        self._rules = rules
        self._pending = pending
        self._peers = peers
        self._out = out
        self._lacking: dict[int, None] = {}  # positions, ascending
        self._holders: dict[int, None] = {}  # peers that announced it
        self._asked: dict[int, int] = {}  # when which peer was asked for what is lacking now
        self._requests: dict[int, _Request] = {}
        self._due_ns = now_ns + GRACE_NS

    @property
    def is_complete(self) -> bool:
        """Whether header and transactions are here."""
        return self.header is not None and not self._lacking

    @property
    def due_ns(self) -> int:
        """When somebody (else) is to be asked."""
        return self._due_ns

    def hold(self, peer: int) -> None:
        """Take note that a peer says to have it."""
        self._holders[peer] = None

    def take_compact(self, peer: int, header: BlockHeader, body: bytes, now_ns: int) -> None:
        """Take a COMPACT whose header has the block's id."""
        if self.header is not None:
            return
        genesis = self._rules.genesis
        try:
            _, txids = decode_compact(body, genesis.max_block_transactions)
        except ExchangeError as error:
            self._out.blame(peer, LIE, str(error))
            return
        if len(txids) != header.n_transactions or (
            merkle_root(txids, self._rules.salt) != header.transaction_root
        ):
            self._out.blame(peer, LIE, "a COMPACT with other ids than its header names")
            self._due_ns = now_ns
            return
        self.header = header
        self.txids = txids
        self.raws = [raw or b"" for raw in self._pending.transactions(txids)]
        self._lacking = {at: None for at, raw in enumerate(self.raws) if not raw}
        self._asked.clear()
        self._due_ns = now_ns

    def fetched(self, tag: int, first: int, items: Sequence[Arrived | None], now_ns: int) -> None:
        """Take verified transactions, items `first` and following of a request."""
        request = self._requests[tag]
        wanted = request.positions[first : first + len(items)]
        if len(wanted) < len(items):
            self._drop(tag, "transactions that nobody asked for", now_ns)
            return
        for position, item in zip(wanted, items, strict=True):
            if item is None or item.txid != self.txids[position]:
                self._drop(tag, "another transaction than was asked for, or a bad one", now_ns)
                return
            if position in self._lacking:
                self.raws[position] = item.raw
                del self._lacking[position]
        request.got += len(items)
        self._due_ns = now_ns + IMPATIENCE_NS
        self._settle(tag, request, now_ns)

    def not_found(self, tag: int, first: int, now_ns: int) -> None:
        """Take note that a peer's answer ends before item `first` of a request."""
        request = self._requests[tag]
        request.end = min(first, request.end)
        if first in (0, BUSY):
            self._close(tag)  # and `_asked` remembers it for a while
            self._due_ns = now_ns
        else:
            self._settle(tag, request, now_ns)

    def gone(self, peer: int, now_ns: int) -> None:
        """A peer is no longer there."""
        self._holders.pop(peer, None)
        self._asked.pop(peer, None)
        for tag in [tag for tag, each in self._requests.items() if each.peer == peer]:
            self._close(tag)
            self._due_ns = now_ns

    def elapse(self, now_ns: int) -> None:
        """Ask the next peer, if it is time and there is one."""
        if self.is_complete or now_ns < self._due_ns:
            return
        self._due_ns = now_ns + IMPATIENCE_NS
        peer = self._whom(now_ns)
        if peer is None:
            return
        self._asked[peer] = now_ns
        if self.header is None:
            body = encode_get_compact(self.height, self.value)
            self._out.send(peer, FrameType.GET_COMPACT, body)
        else:
            self._request(peer)

    def close(self) -> None:
        """End all requests; nothing more is wanted."""
        for tag in list(self._requests):
            self._close(tag)

    # -- inside ----------------------------------------------------------------------------------

    def _whom(self, now_ns: int) -> int | None:
        """Whom to ask: those who say that they have it first, then who was not asked for long."""
        asked, holders = self._asked, self._holders
        free = [
            (peer in asked, peer not in holders, asked.get(peer, 0), peer)
            for peer in self._peers
            if peer not in asked or now_ns - asked[peer] >= REPEAT_NS
        ]
        return min(free)[-1] if free else None

    def _request(self, peer: int) -> None:
        for tag in [tag for tag, each in self._requests.items() if each.peer == peer]:
            self._close(tag)  # it had its time
        positions = list(self._lacking)[:MAX_POSITIONS]
        tag = self._out.open_request(peer, len(positions), self)
        self._requests[tag] = _Request(peer, positions, len(positions))
        body = encode_get_transactions(tag, self.value, positions)
        self._out.send(peer, FrameType.GET_TRANSACTIONS, body)

    def _settle(self, tag: int, request: _Request, now_ns: int) -> None:
        """End a request whose answer is here; who had more may be asked again at once."""
        if self.is_complete:
            self.close()
        elif request.got >= request.end:
            self._close(tag)
            self._asked.pop(request.peer, None)
            self._due_ns = now_ns

    def _drop(self, tag: int, reason: str, now_ns: int) -> None:
        peer = self._requests[tag].peer
        self._out.blame(peer, LIE, reason)
        self._close(tag)
        self._holders.pop(peer, None)
        self._due_ns = now_ns

    def _close(self, tag: int) -> None:
        del self._requests[tag]
        self._out.close_request(tag)
