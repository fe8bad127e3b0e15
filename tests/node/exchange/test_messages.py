"""The messages of block exchange: what is encoded comes back, and no bytes do harm."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from node.exchange import messages
from node.exchange.messages import (
    ANSWER_BYTES,
    PART_BYTES,
    PART_ITEMS,
    ExchangeError,
    decode_block,
    decode_compact,
    decode_get_block,
    decode_get_compact,
    decode_get_transactions,
    decode_height,
    decode_not_found,
    decode_part,
    encode_block,
    encode_compact,
    encode_get_block,
    encode_get_compact,
    encode_get_transactions,
    encode_height,
    encode_not_found,
    encode_part,
    parts_of,
)
from node.network.frames import MAX_BODY_BYTES, FrameType
from node.params import MAX_TX_BYTES

U32 = st.integers(0, 2**32 - 1)
U64 = st.integers(0, 2**64 - 1)
ID = st.binary(min_size=32, max_size=32)
HEADER = st.binary(min_size=128, max_size=128)


@given(HEADER, st.lists(ID, max_size=20))
def test_compact(header: bytes, txids: list[bytes]) -> None:
    assert decode_compact(encode_compact(header, txids), 20) == (header, txids)


@given(U64, ID, U32, U32, st.binary(max_size=300), HEADER)
def test_small_messages(
    height: int, block_id: bytes, request: int, first: int, certificate: bytes, header: bytes
) -> None:
    assert decode_get_compact(encode_get_compact(height, block_id)) == (height, block_id)
    assert decode_get_block(encode_get_block(request, height, first)) == (request, height, first)
    assert decode_not_found(encode_not_found(request, first)) == (request, first)
    assert decode_height(encode_height(height)) == height
    block = (request, header, certificate)
    assert decode_block(encode_block(*block)) == block
    for kind, body in (
        (FrameType.GET_COMPACT, encode_get_compact(height, block_id)),
        (FrameType.GET_BLOCK, encode_get_block(request, height, first)),
        (FrameType.NOT_FOUND, encode_not_found(request, first)),
        (FrameType.STATUS, encode_height(height)),
    ):
        assert len(body) <= MAX_BODY_BYTES[kind]


@given(U32, ID, st.sets(U32, min_size=1, max_size=50))
def test_get_transactions(request: int, block_id: bytes, wanted: set[int]) -> None:
    positions = tuple(sorted(wanted))
    body = encode_get_transactions(request, block_id, positions)
    assert decode_get_transactions(body, 50) == (request, block_id, positions)
    if len(positions) > 1:
        with pytest.raises(ExchangeError):
            decode_get_transactions(body, len(positions) - 1)
        with pytest.raises(ExchangeError):
            decode_get_transactions(encode_get_transactions(request, block_id, positions[::-1]), 50)


@given(U32, U32, st.lists(st.binary(max_size=400), min_size=1, max_size=30))
def test_part(request: int, first: int, raws: list[bytes]) -> None:
    part = decode_part(memoryview(encode_part(request, first, raws)))
    assert (part.request, part.first) == (request, first)
    found, at = [], 0
    for length in part.lengths:
        found.append(bytes(part.payload[at : at + length]))
        at += length
    assert found == raws


DECODERS: list[Callable[[bytes], object]] = [
    lambda body: decode_compact(body, 5),
    decode_get_compact,
    lambda body: decode_get_transactions(body, 5),
    decode_get_block,
    decode_block,
    decode_part,
    decode_not_found,
    decode_height,
]


@given(st.sampled_from(DECODERS), st.binary(max_size=400))
def test_no_bytes_do_harm(decode: Callable[[bytes], object], body: bytes) -> None:
    with suppress(ExchangeError):
        decode(body)


def test_too_many_ids() -> None:
    body = encode_compact(bytes(128), [bytes(32)] * 3)
    assert len(decode_compact(body, 3).txids) == 3
    with pytest.raises(ExchangeError):
        decode_compact(body, 2)


def test_a_part_without_transactions() -> None:
    with pytest.raises(ExchangeError):
        decode_part(encode_part(1, 0, []))
    with pytest.raises(ExchangeError):
        decode_part(encode_part(1, 0, [b"x"] * (PART_ITEMS + 1)))


def check_answer(raws: list[bytes], first: int) -> None:
    parts, end = parts_of(7, raws, first)
    at = first
    for body in parts:
        assert len(body) <= MAX_BODY_BYTES[FrameType.PART]
        part = decode_part(body)
        assert (part.request, part.first) == (7, at)
        assert list(part.lengths) == [len(raw) for raw in raws[at : at + len(part.lengths)]]
        assert len(part.payload) <= PART_BYTES
        at += len(part.lengths)
    assert at == end
    size = sum(map(len, raws[first:end]))
    assert size < ANSWER_BYTES + MAX_TX_BYTES
    assert end == len(raws) or size >= ANSWER_BYTES


@given(st.lists(st.sampled_from((174, 1000, MAX_TX_BYTES)), max_size=200), st.integers(0, 5))
def test_answers_are_bounded(sizes: list[int], first: int) -> None:
    check_answer([bytes(size) for size in sizes], min(first, len(sizes)))


def test_answers_of_many_small_ones() -> None:
    check_answer([bytes(174)] * 5_000, 1)
    assert len(parts_of(7, [bytes(174)] * 5_000)[0]) > 2
    assert parts_of(7, [bytes(1)], 1) == ([], 1)
    assert parts_of(7, [bytes(1)], 9) == ([], 9)
    assert messages.BUSY == 2**32 - 1
