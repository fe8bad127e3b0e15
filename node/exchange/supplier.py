"""Gives peers the blocks that they ask for: proposed ones, and committed ones with certificates.

Questions come from `node.exchange.exchange`, frames go out through its outbox. Every question is
answered at once and then forgotten: an answer is at most ANSWER_BYTES of transactions, and whoever
wants more asks again, so nobody's slowness costs memory here. What a peer may cost is bounded in
bytes a second, read or sent, and so is what all of them may; over that the answer is BUSY. It owns
the blocks that it keeps at hand: the proposed ones of the height being decided, and some committed
ones. What kills it: a block file that is damaged.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple, Protocol

from node.block import Block, BlockHeader
from node.exchange.messages import (
    BUSY,
    decode_get_block,
    decode_get_compact,
    decode_get_transactions,
    encode_block,
    encode_compact,
    encode_not_found,
    parts_of,
)
from node.exchange.outbox import Outbox
from node.network.frames import MAX_BODY_BYTES, FrameType

if TYPE_CHECKING:  # whose reader performs; here it is a place to hand on
    from node.storage.blockfile import BodyLocation

MAX_CANDIDATES = 16  # proposed blocks of one height, kept for those who ask
MAX_AWAITED = 4  # of a peer
MAX_RECENT_BYTES = 32 << 20  # of committed blocks, kept for those who ask: two of the largest
KEPT_BYTES = 160  # what a transaction takes in memory besides its bytes, and a block at least
PEER_BYTES_PER_S = 16 << 20
PEER_BURST_BYTES = 8 << 20
TOTAL_BYTES_PER_S = 32 << 20
TOTAL_BURST_BYTES = 32 << 20
QUESTION_BYTES = 256  # what answering costs at least

_NS_PER_S = 1_000_000_000


class ChainReader(Protocol):
    """The chain store, as far as it is told to peers."""

    def block_location(self, height: int, /) -> BodyLocation: ...
    def block_id(self, height: int, /) -> bytes: ...
    def certificate(self, height: int, /) -> bytes | None: ...


class BodyReader(Protocol):
    """The block files, as far as they are read for peers."""

    def read(self, location: BodyLocation, /) -> Block: ...
    def read_body(self, location: BodyLocation, /) -> tuple[BlockHeader, list[bytes]]: ...


class _Kept(NamedTuple):
    """A committed block at hand; its ids only if they were known or asked for: working them out
    is a hash each, in the process that votes.
    """

    header: BlockHeader
    transactions: list[bytes]
    txids: list[bytes] | None


class Budget:
    """Bytes that may be spent, so many a second; what is overdrawn has to be earned first."""

    __slots__ = ("_at_ns", "_burst", "_left", "_per_s")

    def __init__(self, per_s: int, burst: int, now_ns: int) -> None:
        self._per_s = per_s
        self._burst = burst
        self._left = burst
        self._at_ns = now_ns

    def has_left(self, now_ns: int) -> bool:
        """Whether anything is left."""
        earned = (now_ns - self._at_ns) * self._per_s // _NS_PER_S
        if earned > 0:
            self._left = min(self._burst, self._left + earned)
            self._at_ns = now_ns
        return self._left > 0

    def spend(self, size_bytes: int) -> None:
        """Take some away."""
        self._left -= size_bytes


class Supplier:
    """Answers; `tip_height` of a question is the last committed height."""

    def __init__(self, store: ChainReader, bodies: BodyReader, out: Outbox, limit: int) -> None:
        self._store = store
        self._bodies = bodies
        self._out = out
        self._limit = limit  # transactions in a block
        self._candidates: dict[bytes, Block] = {}
        self._awaited: dict[int, list[bytes]] = {}  # candidates that peers asked for in vain
        self._recent: dict[bytes, tuple[_Kept, int]] = {}  # with its size, last used last
        self._recent_bytes = 0
        self._budgets: dict[int, Budget] = {}
        self._total = Budget(TOTAL_BYTES_PER_S, TOTAL_BURST_BYTES, 0)

    def hold(self, value: bytes, block: Block) -> None:
        """Keep a proposed block for those who ask, and for those who have asked."""
        self._candidates.setdefault(value, block)
        if len(self._candidates) > MAX_CANDIDATES:
            del self._candidates[next(iter(self._candidates))]
        for peer, values in self._awaited.items():
            if value in values:
                values.remove(value)
                self._budgets[peer].spend(self._send_compact(peer, block.header, block.txids))

    def committed(self, value: bytes) -> None:
        """A block was committed: the others of its height are of no use any more."""
        block = self._candidates.get(value)
        self._candidates.clear()
        self._awaited.clear()
        if block is not None:
            self._keep(value, _Kept(block.header, block.transactions, block.txids))

    def candidate(self, value: bytes) -> Block | None:
        """Return a proposed block that is kept."""
        return self._candidates.get(value)

    def gone(self, peer: int) -> None:
        """A peer is no longer there."""
        self._budgets.pop(peer, None)
        self._awaited.pop(peer, None)

    def answer(self, peer: int, frame_type: int, body: bytes, tip_height: int, now_ns: int) -> None:
        """Answer a peer's question. Raises ExchangeError when it is none."""
        budget = self._budgets.get(peer)
        if budget is None:
            budget = self._budgets[peer] = Budget(PEER_BYTES_PER_S, PEER_BURST_BYTES, now_ns)
        may = budget.has_left(now_ns) and self._total.has_left(now_ns)
        spent = QUESTION_BYTES
        match frame_type:
            case FrameType.GET_COMPACT:
                spent += self._give_compact(peer, body, tip_height, may)
            case FrameType.GET_TRANSACTIONS:
                spent += self._give_transactions(peer, body, may)
            case FrameType.GET_BLOCK:
                spent += self._give_block(peer, body, tip_height, may)
            case _:
                raise AssertionError(f"frame type {frame_type} is no question")
        if may:
            budget.spend(spent)
            self._total.spend(spent)

    # -- answers, each with what it cost in bytes ------------------------------------------------

    def _give_compact(self, peer: int, body: bytes, tip_height: int, may: bool) -> int:
        height, value = decode_get_compact(body)
        if not may:
            return 0
        block = self._candidates.get(value)
        if block is not None:
            return self._send_compact(peer, block.header, block.txids)
        if 0 < height <= tip_height and self._store.block_id(height) == value:
            kept, read = self._committed(height, with_ids=True)
            assert kept.txids is not None
            return read + self._send_compact(peer, kept.header, kept.txids)
        if height == tip_height + 1:
            values = self._awaited.setdefault(peer, [])
            if value not in values:
                self._awaited[peer] = [*values, value][-MAX_AWAITED:]
        return 0

    def _send_compact(self, peer: int, header: BlockHeader, txids: list[bytes]) -> int:
        compact = encode_compact(header.encode(), txids)
        if len(compact) <= MAX_BODY_BYTES[FrameType.COMPACT]:
            self._out.send(peer, FrameType.COMPACT, compact)
        return len(compact)

    def _give_transactions(self, peer: int, body: bytes, may: bool) -> int:
        request, value, positions = decode_get_transactions(body, self._limit)
        if not may:
            self._refuse(peer, request, BUSY)
            return 0
        block: Block | _Kept | None = self._candidates.get(value)
        if block is None and value in self._recent:
            block = self._recent[value][0]
        if block is None or positions[-1] >= len(block.transactions):
            self._refuse(peer, request, 0)
            return 0
        wanted = [block.transactions[position] for position in positions]
        return self._send_parts(peer, request, wanted, 0)

    def _give_block(self, peer: int, body: bytes, tip_height: int, may: bool) -> int:
        request, height, first = decode_get_block(body)
        if not may:
            self._refuse(peer, request, BUSY)
            return 0
        certificate = self._store.certificate(height) if height <= tip_height else None
        if certificate is None:
            self._refuse(peer, request, first)
            return 0
        block, cost = self._committed(height)
        if first == 0:
            head = encode_block(request, block.header.encode(), certificate)
            self._out.send(peer, FrameType.BLOCK, head)
            cost += len(head)
        return cost + self._send_parts(peer, request, block.transactions, first)

    def _send_parts(self, peer: int, request: int, raws: list[bytes], first: int) -> int:
        parts, end = parts_of(request, raws, first)
        for part in parts:
            self._out.send(peer, FrameType.PART, part)
        if end < len(raws):
            self._refuse(peer, request, end)
        return sum(map(len, parts))

    def _refuse(self, peer: int, request: int, first: int) -> None:
        self._out.send(peer, FrameType.NOT_FOUND, encode_not_found(request, first))

    # -- blocks at hand --------------------------------------------------------------------------

    def _committed(self, height: int, *, with_ids: bool = False) -> tuple[_Kept, int]:
        """A committed block, and how many bytes had to be read for it."""
        value = self._store.block_id(height)
        known = self._recent.pop(value, None)
        if known is not None:
            self._recent[value] = known
            if known[0].txids is not None or not with_ids:
                return known[0], 0
        location = self._store.block_location(height)
        if with_ids:
            block = self._bodies.read(location)
            kept = _Kept(block.header, block.transactions, block.txids)
        else:
            kept = _Kept(*self._bodies.read_body(location), None)
        self._keep(value, kept)
        return kept, location.length

    def _keep(self, value: bytes, kept: _Kept) -> None:
        raws = kept.transactions
        size_bytes = KEPT_BYTES * (1 + len(raws)) + sum(map(len, raws))
        self._recent_bytes += size_bytes - self._recent.pop(value, (None, 0))[1]
        self._recent[value] = (kept, size_bytes)
        while self._recent_bytes > MAX_RECENT_BYTES and len(self._recent) > 1:
            _, dropped_bytes = self._recent.pop(next(iter(self._recent)))
            self._recent_bytes -= dropped_bytes
