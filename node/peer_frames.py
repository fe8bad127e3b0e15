"""Bodies of the frames that `net` itself reads: batches of transactions and messages, neighbours.

Bodies of frames come in, views of their items go out, and the other way round; pure. What a peer
sent and is no such body is a ValueError. All numbers are little-endian:

    TRANSACTIONS   count u16, lengths u16[count], transactions back to back
    AGREEMENT      count u16, lengths u32[count], messages (`node.consensus.wire`) back to back
    NEIGHBOURS     node ids[16 * n] of those that the sender is connected to
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Sequence
from typing import Final

import numpy as np
import numpy.typing as npt

from node.network.handshake import NODE_ID_BYTES
from node.params import INGEST_MAX_BYTES, INGEST_MAX_TRANSACTIONS, MAX_TX_BYTES

Ends = npt.NDArray[np.uint32]  # u32[n]: where each item ends

TRANSACTIONS_BYTES: Final = INGEST_MAX_BYTES // 2  # in one TRANSACTIONS frame, without lengths
MESSAGES_BYTES: Final = 128 * 1024  # of messages and their lengths in one AGREEMENT frame

_COUNT = struct.Struct("<H")
_LENGTH = struct.Struct("<I")


class Batch:
    """Transactions on their way out: lengths and bytes."""

    __slots__ = ("_lengths", "_parts", "size_bytes")

    def __init__(self) -> None:
        self._parts: list[memoryview] = []
        self._lengths: list[Ends] = []
        self.size_bytes = 0

    def add(self, payload: memoryview, lengths: Ends) -> None:
        """Take transactions back to back; what is more than a frame may hold is taken in parts."""
        if len(payload) > TRANSACTIONS_BYTES and len(lengths) > 1:
            middle = len(lengths) // 2
            cut = int(lengths[:middle].sum())
            self.add(payload[:cut], lengths[:middle])
            self.add(payload[cut:], lengths[middle:])
            return
        self._parts.append(payload)
        self._lengths.append(lengths)
        self.size_bytes += len(payload)

    def bodies(self) -> Iterator[tuple[bytes, int]]:
        """TRANSACTIONS frames and how many each holds, as few as there can be."""
        first = size = count = 0
        for number, (part, lengths) in enumerate(zip(self._parts, self._lengths, strict=True)):
            if count and (
                size + len(part) > TRANSACTIONS_BYTES
                or count + len(lengths) > INGEST_MAX_TRANSACTIONS
            ):
                yield self._body(first, number, count), count
                first, size, count = number, 0, 0
            size += len(part)
            count += len(lengths)
        if count:
            yield self._body(first, len(self._parts), count), count

    def _body(self, first: int, end: int, count: int) -> bytes:
        lengths = np.concatenate(self._lengths[first:end]).astype("<u2").tobytes()
        return b"".join((_COUNT.pack(count), lengths, *self._parts[first:end]))


def unpack_transactions(body: memoryview) -> tuple[memoryview, Ends]:
    """The bytes of a TRANSACTIONS frame and where each ends; ValueError if it is none."""
    if len(body) < _COUNT.size:
        raise ValueError("too short")
    (count,) = _COUNT.unpack_from(body)
    begin = _COUNT.size + 2 * count
    if not 0 < count <= INGEST_MAX_TRANSACTIONS or begin > len(body):
        raise ValueError(f"a batch of {count}")
    lengths = np.frombuffer(body[_COUNT.size : begin], "<u2")
    ends = lengths.cumsum(dtype=np.uint32)
    if int(lengths.max()) > MAX_TX_BYTES or int(ends[-1]) != len(body) - begin:
        raise ValueError("lengths that do not fit")
    return body[begin:], ends


def pack_messages(messages: Sequence[bytes]) -> bytes:
    """An AGREEMENT frame: count u16, lengths u32[count], the messages."""
    lengths = b"".join(_LENGTH.pack(len(each)) for each in messages)
    return _COUNT.pack(len(messages)) + lengths + b"".join(messages)


def message_bodies(messages: Sequence[bytes]) -> Iterator[bytes]:
    """AGREEMENT frames of these messages, in order; none is larger than a frame may be."""
    first = size = 0
    for number, message in enumerate(messages):
        bytes_more = _LENGTH.size + len(message)
        if number > first and size + bytes_more > MESSAGES_BYTES:
            yield pack_messages(messages[first:number])
            first, size = number, 0
        size += bytes_more
    if messages:
        yield pack_messages(messages[first:])


def unpack_messages(body: memoryview) -> list[bytes]:
    """The messages in an AGREEMENT frame; ValueError if it is none."""
    if len(body) < _COUNT.size:
        raise ValueError("too short")
    (count,) = _COUNT.unpack_from(body)
    at = _COUNT.size + _LENGTH.size * count
    if not count or at > len(body):
        raise ValueError(f"a batch of {count}")
    messages = []
    for (length,) in _LENGTH.iter_unpack(body[_COUNT.size : at]):
        messages.append(bytes(body[at : at + length]))
        at += length
    if at != len(body):
        raise ValueError("lengths that do not fit")
    return messages


def unpack_ids(body: memoryview) -> frozenset[bytes]:
    """The node ids in a NEIGHBOURS frame; ValueError if it is none."""
    if len(body) % NODE_ID_BYTES:
        raise ValueError(f"node ids in {len(body)} bytes")
    whole = bytes(body)
    ends = range(NODE_ID_BYTES, len(whole) + 1, NODE_ID_BYTES)
    return frozenset(whole[end - NODE_ID_BYTES : end] for end in ends)
