"""Frames out of streams, however they are cut, and what is no frame."""

from __future__ import annotations

import struct
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from node.network.frames import (
    ACCEPTING,
    DIALLING,
    FRAME_TYPES,
    HEAD_BYTES,
    LANE_OF,
    MAX_BODY_BYTES,
    ON_LANE,
    UNKNOWN_MAX_BYTES,
    FrameError,
    FrameReader,
    FrameType,
    Lane,
    encode_frame,
)

AGREEMENT = ON_LANE[Lane.AGREEMENT]
BULK = ON_LANE[Lane.BULK]


def frames_of(reader: FrameReader, most: int = 1_000) -> list[tuple[int, bytes]]:
    found: list[tuple[int, bytes]] = []
    while len(found) < most and (frame := reader.next()) is not None:
        found.append((frame[0], bytes(frame[1])))
    return found


@given(
    frames=st.lists(
        st.tuples(
            st.sampled_from([FrameType.PART, FrameType.TRANSACTIONS, 77, 255]),
            st.binary(max_size=300),
        ),
        max_size=10,
    ),
    cuts=st.lists(st.integers(0, 3_100), max_size=20),
    keeps=st.lists(st.integers(0, 3), max_size=20),
)
def test_frames_come_out_however_the_stream_is_cut(
    frames: list[tuple[int, bytes]], cuts: list[int], keeps: list[int]
) -> None:
    stream = b"".join(struct.pack("<IB", len(body) + 1, kind) + body for kind, body in frames)
    edges = [0, *sorted(min(each, len(stream)) for each in cuts), len(stream)]
    reader = FrameReader(BULK)
    found: list[tuple[int, bytes]] = []
    stops = iter(keeps)
    for start, end in pairwise(edges):
        scratch = bytearray(stream[start:end])
        reader.feed(memoryview(scratch))
        found += frames_of(reader, most=next(stops, 0))
        reader.keep()  # and now the memory is used for something else
        scratch[:] = b"\xee" * len(scratch)
        found += frames_of(reader)
        assert not reader.has_more
    assert found == frames
    assert reader.partial_bytes == 0


def test_what_comes_in_one_piece_is_not_copied() -> None:
    scratch = bytearray(struct.pack("<IB", 5, 36) + b"abcd")
    reader = FrameReader(BULK)
    reader.feed(memoryview(scratch))
    frame = reader.next()
    assert frame is not None
    scratch[HEAD_BYTES:] = b"wxyz"
    assert bytes(frame[1]) == b"wxyz"


def test_memory_follows_what_came_and_not_what_was_claimed() -> None:
    reader = FrameReader(AGREEMENT)
    most = MAX_BODY_BYTES[FrameType.COMPACT]
    reader.feed(memoryview(struct.pack("<IB", most + 1, FrameType.COMPACT)))
    assert reader.next() is None
    assert reader.partial_bytes == HEAD_BYTES


@pytest.mark.parametrize("kind", list(LANE_OF))
def test_each_type_has_its_greatest_body_on_its_lane(kind: FrameType) -> None:
    most = MAX_BODY_BYTES[kind]
    for extra in (0, 1):
        reader = FrameReader(ON_LANE[LANE_OF[kind]])
        reader.feed(memoryview(struct.pack("<IB", most + 1 + extra, kind)))
        if extra:
            with pytest.raises(FrameError, match=f"{kind.name} with a length of {most + 2}"):
                reader.next()
        else:
            reader.next()  # more may come
    other = Lane.BULK if LANE_OF[kind] is Lane.AGREEMENT else Lane.AGREEMENT
    reader = FrameReader(ON_LANE[other])
    reader.feed(memoryview(struct.pack("<IB", 1, kind)))
    with pytest.raises(FrameError, match="no place"):
        reader.next()


def test_each_phase_takes_its_own_types() -> None:
    def taken(limits: tuple[int, ...]) -> set[int]:
        return {kind for kind, most in enumerate(limits) if most >= 0}

    assert taken(ACCEPTING) == {FrameType.HELLO}
    assert taken(DIALLING) == {FrameType.WELCOME, FrameType.REFUSE}
    unknown = set(range(256)) - set(FRAME_TYPES)
    assert taken(AGREEMENT) & taken(BULK) == unknown | {FrameType.PING, FrameType.PONG}
    assert taken(AGREEMENT) | taken(BULK) == unknown | set(LANE_OF) | {8, 9}
    assert {AGREEMENT[each] for each in unknown} == {UNKNOWN_MAX_BYTES}


@pytest.mark.parametrize("cut", [1, 4, 5])
def test_a_frame_without_a_type_is_none(cut: int) -> None:
    reader = FrameReader(BULK)
    data = struct.pack("<IB", 0, 36) + b"..."
    reader.feed(memoryview(data[:cut]))
    if cut < 5:
        assert reader.next() is None
        reader.feed(memoryview(data[cut:]))
    with pytest.raises(FrameError, match="length of 0"):
        reader.next()


@given(st.lists(st.binary(max_size=40), max_size=20))
def test_no_bytes_raise_anything_else(parts: list[bytes]) -> None:
    for limits in (ACCEPTING, DIALLING, AGREEMENT, BULK):
        reader = FrameReader(limits)
        try:
            for part in parts:
                reader.feed(memoryview(part))
                frames_of(reader)
        except FrameError:
            pass


@given(st.sampled_from(list(FrameType)), st.binary(max_size=5_000))
def test_encoded_frames_are_read_back(kind: FrameType, body: bytes) -> None:
    if len(body) > MAX_BODY_BYTES[kind]:
        with pytest.raises(ValueError, match="too long"):
            encode_frame(kind, body)
        return
    reader = FrameReader(tuple([1 << 22] * 256))
    reader.feed(memoryview(b"".join(encode_frame(kind, body))))
    assert frames_of(reader) == [(kind, body)]
