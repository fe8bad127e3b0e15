"""The messages that blocks travel in, as bytes: pure codecs, little-endian.

What a peer sent comes in, whatever it is; a value or an `ExchangeError` goes out, and nothing is
allocated beyond what the message itself holds. Transactions are not looked into, nothing is hashed:
the process with the sockets may import this. It owns nothing.

    COMPACT           header[128], txids[32 * n]
    GET_COMPACT       height u64, block id[32]
    GET_TRANSACTIONS  request u32, block id[32], positions u32[n], ascending
    GET_BLOCK         request u32, height u64, first u32
    BLOCK             request u32, header[128], certificate (`node.consensus.wire`, a Certified)
    PART              request u32, first u32, count u16, lengths u16[count], transactions
    NOT_FOUND         request u32, first u32
    STATUS            height u64

An answer to GET_TRANSACTIONS is PARTs, whose `first` counts the positions of the request; one to
GET_BLOCK is a BLOCK (if `first` was 0) and PARTs, whose `first` counts the block's transactions.
An answer that is not whole ends with NOT_FOUND, which names the first item that does not come: 0
when there is nothing, otherwise whoever asked may ask for the rest; BUSY stands for: not now. So it
is the receiver who decides how much is under way.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from typing import Any, NamedTuple

from node.params import BLOCK_HEADER_BYTES, ID_BYTES, MAX_TX_BYTES

PART_BYTES = 200 * 1024  # of transactions in one PART
PART_ITEMS = 1000
BUSY = 2**32 - 1  # instead of an item: ask again later
ANSWER_BYTES = 512 * 1024  # of transactions in one answer; four together fit a peer's bulk queue

_HEIGHT = struct.Struct("<Q")
_GET_COMPACT = struct.Struct(f"<Q{ID_BYTES}s")
_GET_TRANSACTIONS = struct.Struct(f"<I{ID_BYTES}s")
_GET_BLOCK = struct.Struct("<IQI")
_BLOCK = struct.Struct(f"<I{BLOCK_HEADER_BYTES}s")
_PART = struct.Struct("<IIH")
_NOT_FOUND = struct.Struct("<II")
_POSITION_BYTES = 4
_LENGTH_BYTES = 2

assert PART_BYTES >= MAX_TX_BYTES
assert _PART.size + PART_ITEMS * _LENGTH_BYTES + PART_BYTES <= 256 * 1024  # the frame's limit


class ExchangeError(ValueError):
    """The bytes are no such message; whoever sent them is to blame."""


class Compact(NamedTuple):
    """A block without its transactions: header[128] and their ids[32], in order."""

    header: bytes
    txids: list[bytes]


class GetCompact(NamedTuple):
    """Asks for a COMPACT."""

    height: int
    block_id: bytes


class GetTransactions(NamedTuple):
    """Asks for the transactions at these positions of a block."""

    request: int
    block_id: bytes
    positions: tuple[int, ...]


class GetBlock(NamedTuple):
    """Asks for the committed block at a height, from its transaction number `first` on."""

    request: int
    height: int
    first: int


class BlockHead(NamedTuple):
    """A committed block's header[128] and the bytes of its certificate."""

    request: int
    header: bytes
    certificate: bytes


class Part(NamedTuple):
    """Some transactions, back to back in `payload`, with their lengths in bytes."""

    request: int
    first: int
    lengths: tuple[int, ...]
    payload: memoryview


class NotFound(NamedTuple):
    """Items from `first` on do not come in answer to a request; BUSY: none of them now."""

    request: int
    first: int


def encode_compact(header: bytes, txids: Sequence[bytes]) -> bytes:
    """Return the COMPACT of a block."""
    return header + b"".join(txids)


def compact_header(body: bytes) -> bytes:
    """Return the header[128] of a COMPACT, having looked at no more than its length."""
    if len(body) < BLOCK_HEADER_BYTES or (len(body) - BLOCK_HEADER_BYTES) % ID_BYTES:
        raise ExchangeError(f"a COMPACT of {len(body)} bytes")
    return body[:BLOCK_HEADER_BYTES]


def decode_compact(body: bytes, max_transactions: int) -> Compact:
    """Return a COMPACT of at most so many transactions."""
    header = compact_header(body)
    count = (len(body) - BLOCK_HEADER_BYTES) // ID_BYTES
    if count > max_transactions:
        raise ExchangeError(f"{count} transactions, at most {max_transactions} may be")
    places = range(BLOCK_HEADER_BYTES, len(body), ID_BYTES)
    return Compact(header, [body[at : at + ID_BYTES] for at in places])


def encode_get_compact(height: int, block_id: bytes) -> bytes:
    """Return a GET_COMPACT."""
    return _GET_COMPACT.pack(height, block_id)


def decode_get_compact(body: bytes) -> GetCompact:
    """Return a GET_COMPACT."""
    return GetCompact(*_exactly(_GET_COMPACT, body))


def encode_get_transactions(request: int, block_id: bytes, positions: Sequence[int]) -> bytes:
    """Return a GET_TRANSACTIONS; positions ascend."""
    head = _GET_TRANSACTIONS.pack(request, block_id)
    return head + struct.pack(f"<{len(positions)}I", *positions)


def decode_get_transactions(body: bytes, max_transactions: int) -> GetTransactions:
    """Return a GET_TRANSACTIONS for a block of at most so many transactions."""
    count, rest = divmod(len(body) - _GET_TRANSACTIONS.size, _POSITION_BYTES)
    if not 0 < count <= max_transactions or rest:
        raise ExchangeError(f"a GET_TRANSACTIONS of {len(body)} bytes")
    request, block_id = _GET_TRANSACTIONS.unpack_from(body)
    positions = struct.unpack_from(f"<{count}I", body, _GET_TRANSACTIONS.size)
    last = -1
    for position in positions:
        if position <= last:
            raise ExchangeError("positions must ascend")
        last = position
    return GetTransactions(request, block_id, positions)


def encode_get_block(request: int, height: int, first: int) -> bytes:
    """Return a GET_BLOCK."""
    return _GET_BLOCK.pack(request, height, first)


def decode_get_block(body: bytes) -> GetBlock:
    """Return a GET_BLOCK."""
    return GetBlock(*_exactly(_GET_BLOCK, body))


def encode_block(request: int, header: bytes, certificate: bytes) -> bytes:
    """Return a BLOCK."""
    return _BLOCK.pack(request, header) + certificate


def decode_block(body: bytes) -> BlockHead:
    """Return a BLOCK; its certificate is not decoded."""
    if len(body) < _BLOCK.size:
        raise ExchangeError(f"a BLOCK of {len(body)} bytes")
    request, header = _BLOCK.unpack_from(body)
    return BlockHead(request, header, body[_BLOCK.size :])


def encode_part(request: int, first: int, transactions: Sequence[bytes]) -> bytes:
    """Return a PART; at most PART_ITEMS transactions, of PART_BYTES together."""
    lengths = list(map(len, transactions))
    head = _PART.pack(request, first, len(lengths))
    return b"".join((head, struct.pack(f"<{len(lengths)}H", *lengths), *transactions))


def decode_part(body: bytes | memoryview) -> Part:
    """Return a PART, without copying its transactions."""
    if len(body) < _PART.size:
        raise ExchangeError(f"a PART of {len(body)} bytes")
    request, first, count = _PART.unpack_from(body)
    start = _PART.size + count * _LENGTH_BYTES
    if not 0 < count <= PART_ITEMS or len(body) < start:
        raise ExchangeError(f"a PART of {len(body)} bytes with {count} transactions")
    lengths = struct.unpack_from(f"<{count}H", body, _PART.size)
    if start + sum(lengths) != len(body):
        raise ExchangeError("a PART's lengths do not fill it")
    return Part(request, first, lengths, memoryview(body)[start:])


def encode_not_found(request: int, first: int) -> bytes:
    """Return a NOT_FOUND."""
    return _NOT_FOUND.pack(request, first)


def decode_not_found(body: bytes) -> NotFound:
    """Return a NOT_FOUND."""
    return NotFound(*_exactly(_NOT_FOUND, body))


def encode_height(height: int) -> bytes:
    """Return a STATUS."""
    return _HEIGHT.pack(height)


def decode_height(body: bytes) -> int:
    """Return the height in a STATUS."""
    (height,) = _exactly(_HEIGHT, body)
    return int(height)


def parts_of(
    request: int, transactions: Sequence[bytes], first: int = 0
) -> tuple[list[bytes], int]:
    """Return the PARTs of one answer, and the first item that is not in them.

    `transactions` are all that was asked for; those from `first` on are sent, ANSWER_BYTES of them.
    """
    parts: list[bytes] = []
    batch: list[bytes] = []
    size_bytes = total_bytes = 0
    at = first
    while at < len(transactions) and total_bytes < ANSWER_BYTES:
        raw = transactions[at]
        if len(batch) == PART_ITEMS or size_bytes + len(raw) > PART_BYTES:
            parts.append(encode_part(request, at - len(batch), batch))
            batch, size_bytes = [], 0
        batch.append(raw)
        size_bytes += len(raw)
        total_bytes += len(raw)
        at += 1
    if batch:
        parts.append(encode_part(request, at - len(batch), batch))
    return parts, at


def _exactly(layout: struct.Struct, body: bytes) -> tuple[Any, ...]:
    if len(body) != layout.size:
        raise ExchangeError(f"{len(body)} bytes, {layout.size} needed")
    return layout.unpack(body)
