"""Frames: what peers say to each other, cut out of a stream of bytes without copying it twice.

Bytes come from a connection's socket (`node.network.connection`), frames go to the hub; outbound
frames are encoded here. A frame is its length u32 little-endian (of what follows), a type u8 and a
body. A reader owns the frame that has arrived in part, and nothing else: what arrives in one piece
is handed on where it lies. It grows with the bytes that really came, never with a length that was
merely claimed. What kills a reader: a frame that is longer than its type allows, and one whose type
has no place on this lane; then nothing after it can be trusted.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable
from enum import IntEnum
from typing import Final

HEAD_BYTES: Final = 5
LENGTH_BYTES: Final = 4
UNKNOWN_MAX_BYTES: Final = 64 * 1024  # of a type of a later version, which is ignored
JOIN_MAX_BYTES: Final = 4 * 1024  # up to here copying a body is cheaper than a second buffer

_HEAD = struct.Struct("<IB")
_NOT_HERE = -1


class Lane(IntEnum):
    """The two connections of a peer; only BULK ever waits for this node to have room."""

    AGREEMENT = 1
    BULK = 2


class FrameType(IntEnum):
    """What a frame is; the number is its type byte."""

    HELLO = 1
    WELCOME = 2
    REFUSE = 3
    PROOF = 4
    PING = 8
    PONG = 9
    STATUS = 10
    ADDRESSES_WANTED = 11
    ADDRESSES = 12
    AGREEMENT = 16
    COMPACT = 17
    GET_COMPACT = 18
    NEIGHBOURS = 21
    TRANSACTIONS = 32
    GET_TRANSACTIONS = 33
    GET_BLOCK = 34
    BLOCK = 35
    PART = 36
    NOT_FOUND = 37


MAX_BODY_BYTES: Final = {
    FrameType.HELLO: 1024,
    FrameType.WELCOME: 1024,
    FrameType.REFUSE: 1024,
    FrameType.PROOF: 128,
    FrameType.PING: 8,
    FrameType.PONG: 8,
    FrameType.STATUS: 8,
    FrameType.ADDRESSES_WANTED: 0,
    FrameType.ADDRESSES: 16 * 1024,
    FrameType.AGREEMENT: 256 * 1024,
    FrameType.COMPACT: 2 * 1024 * 1024,
    FrameType.GET_COMPACT: 40,
    FrameType.NEIGHBOURS: 16 * 1024,
    FrameType.TRANSACTIONS: 256 * 1024,
    FrameType.GET_TRANSACTIONS: 256 * 1024,
    FrameType.GET_BLOCK: 64,
    FrameType.BLOCK: 192 * 1024,
    FrameType.PART: 256 * 1024,
    FrameType.NOT_FOUND: 16,
}

# Where a frame travels once the handshake is over. PING and PONG go where they were called for.
LANE_OF: Final = {
    FrameType.PROOF: Lane.AGREEMENT,
    FrameType.STATUS: Lane.AGREEMENT,
    FrameType.ADDRESSES_WANTED: Lane.BULK,
    FrameType.ADDRESSES: Lane.BULK,
    FrameType.AGREEMENT: Lane.AGREEMENT,
    FrameType.COMPACT: Lane.AGREEMENT,
    FrameType.GET_COMPACT: Lane.AGREEMENT,
    FrameType.NEIGHBOURS: Lane.AGREEMENT,
    FrameType.TRANSACTIONS: Lane.BULK,
    FrameType.GET_TRANSACTIONS: Lane.BULK,
    FrameType.GET_BLOCK: Lane.BULK,
    FrameType.BLOCK: Lane.BULK,
    FrameType.PART: Lane.BULK,
    FrameType.NOT_FOUND: Lane.BULK,
}

FRAME_TYPES: Final = {int(each): each for each in FrameType}

assert set(MAX_BODY_BYTES) == set(FrameType)
assert max(MAX_BODY_BYTES.values()) + HEAD_BYTES < 1 << 22

Limits = tuple[int, ...]  # by type byte: the greatest body, or that the type has no place here


def limits_of(types: Iterable[FrameType], *, unknown_bytes: int) -> Limits:
    """Return a table for a reader that takes these types; `unknown_bytes` may be -1 (none)."""
    table = [unknown_bytes] * 256
    for each in FrameType:
        table[each] = _NOT_HERE
    for each in types:
        table[each] = MAX_BODY_BYTES[each]
    return tuple(table)


_ANYWHERE = (FrameType.PING, FrameType.PONG)

ACCEPTING: Final = limits_of([FrameType.HELLO], unknown_bytes=_NOT_HERE)
DIALLING: Final = limits_of([FrameType.WELCOME, FrameType.REFUSE], unknown_bytes=_NOT_HERE)
ON_LANE: Final = {
    lane: limits_of(
        [*_ANYWHERE, *(each for each, its in LANE_OF.items() if its is lane)],
        unknown_bytes=UNKNOWN_MAX_BYTES,
    )
    for lane in Lane
}


class FrameError(Exception):
    """The peer sent what is no frame; the message tells what, for both logs."""


def encode_frame(kind: int, body: bytes) -> tuple[bytes, ...]:
    """Return the buffers of a frame, one or two; ValueError if the body is too long (our fault)."""
    size = len(body)
    if size > MAX_BODY_BYTES[FRAME_TYPES[kind]]:
        raise ValueError(f"a body of {size} bytes is too long for {FRAME_TYPES[kind].name}")
    head = _HEAD.pack(size + 1, kind)
    return (head + body,) if size <= JOIN_MAX_BYTES else (head, body)


class FrameReader:
    """The frames of one connection, in order: `feed` some bytes, then `next` until it has no more.

    `limits` may be changed between two frames. Costs O(1) a frame and one copy of what is cut by
    the end of the bytes that were fed.
    """

    __slots__ = ("_at", "_data", "_end", "_kept", "_partial", "limits")

    def __init__(self, limits: Limits) -> None:
        self.limits = limits
        self._partial = bytearray()  # the beginning of one frame, never the whole of it
        self._data = memoryview(b"")
        self._kept = False  # the data is a copy of our own
        self._at = 0
        self._end = 0

    @property
    def has_more(self) -> bool:
        """Whether bytes were fed that `next` has not looked at."""
        return self._at < self._end

    @property
    def partial_bytes(self) -> int:
        """How much of a frame that is not complete is kept."""
        return len(self._partial)

    def feed(self, data: memoryview) -> None:
        """Take bytes, which must stay as they are until `next` returned None or `keep` was called.

        Only to be called when there is nothing more.
        """
        assert self._at >= self._end
        self._kept = False
        self._data = data
        self._at = 0
        self._end = len(data)

    def next(self) -> tuple[int, memoryview] | None:
        """Return type and body of the next frame, or None. Raises FrameError.

        The body lies in what was fed or in memory of its own, and is the caller's until then.
        """
        if self._partial:
            return self._complete()
        at = self._at
        body = at + HEAD_BYTES
        if body <= self._end:
            length, kind = _HEAD.unpack_from(self._data, at)
            self._check(length, kind)
            end = at + LENGTH_BYTES + length
            if end <= self._end:
                self._at = end
                return kind, self._data[body:end]
        if at < self._end:
            self._partial += self._data[at : self._end]
            self._at = self._end
        return None

    def keep(self) -> None:
        """Copy what `next` has not looked at, because the memory that was fed is used again."""
        if self._at < self._end and not self._kept:
            self._kept = True
            self._data = memoryview(bytes(self._data[self._at : self._end]))
            self._at = 0
            self._end = len(self._data)

    def _complete(self) -> tuple[int, memoryview] | None:
        """The frame that began in earlier bytes."""
        if not self._take(HEAD_BYTES):
            return None
        length, kind = _HEAD.unpack_from(self._partial)
        self._check(length, kind)
        if not self._take(LENGTH_BYTES + length):
            return None
        whole = self._partial
        self._partial = bytearray()
        return kind, memoryview(whole)[HEAD_BYTES:]

    def _take(self, wanted: int) -> bool:
        """Bring the partial frame up to a length; whether that many bytes have come."""
        lacking = wanted - len(self._partial)
        if lacking > 0:
            end = min(self._at + lacking, self._end)
            self._partial += self._data[self._at : end]
            self._at = end
        return len(self._partial) >= wanted

    def _check(self, length: int, kind: int) -> None:
        most = self.limits[kind]
        if 1 <= length <= most + 1 and most >= 0:
            return
        name = FRAME_TYPES[kind].name if kind in FRAME_TYPES else f"type {kind}"
        if most < 0:
            raise FrameError(f"{name} has no place here")
        raise FrameError(f"{name} with a length of {length}, of at most {most + 1}")
