"""Batches as frames: they come out as they went in and fit; hostile bytes are none."""

from __future__ import annotations

import struct
from itertools import accumulate

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from node.network.frames import MAX_BODY_BYTES, FrameType
from node.params import INGEST_MAX_BYTES, INGEST_MAX_TRANSACTIONS, MAX_TX_BYTES
from node.peer_frames import (
    MESSAGES_BYTES,
    TRANSACTIONS_BYTES,
    Batch,
    message_bodies,
    pack_messages,
    unpack_ids,
    unpack_messages,
    unpack_transactions,
)

ITEMS = st.lists(st.binary(max_size=300), min_size=1, max_size=30)
LIMIT = MAX_BODY_BYTES[FrameType.TRANSACTIONS]


def batch_of(parts: list[list[bytes]]) -> Batch:
    batch = Batch()
    for part in parts:
        batch.add(memoryview(b"".join(part)), np.array([len(each) for each in part], np.uint32))
    return batch


def unpacked(body: bytes) -> list[bytes]:
    payload, ends = unpack_transactions(memoryview(body))
    begins = [0, *ends.tolist()]
    assert begins[-1] == len(payload)
    return [bytes(payload[a:b]) for a, b in zip(begins, ends.tolist(), strict=False)]


@given(parts=st.lists(ITEMS, min_size=1, max_size=8))
def test_transactions_come_out_as_they_went_in(parts: list[list[bytes]]) -> None:
    batch = batch_of(parts)
    assert batch.size_bytes == sum(len(each) for part in parts for each in part)
    bodies = list(batch.bodies())
    assert [count for _, count in bodies] == [len(unpacked(body)) for body, _ in bodies]
    assert [each for body, _ in bodies for each in unpacked(body)] == [
        each for part in parts for each in part
    ]


@pytest.mark.parametrize(
    "parts",
    [
        [[bytes(256)] * INGEST_MAX_TRANSACTIONS],  # the greatest message of a client
        [[bytes(MAX_TX_BYTES)] * (INGEST_MAX_BYTES // MAX_TX_BYTES)],
        [[bytes(MAX_TX_BYTES)]] * 9,
        [[b"x"]] * (3 * INGEST_MAX_TRANSACTIONS),
        [[b"x"] * INGEST_MAX_TRANSACTIONS] * 3,
        [[bytes(200)] * 1000, [bytes(MAX_TX_BYTES)], [bytes(200)] * 1000],
        [[b"x"] * 900 + [bytes(MAX_TX_BYTES)] * 3],
    ],
    ids=range(7),
)
def test_every_batch_fits_its_frames(parts: list[list[bytes]]) -> None:
    bodies = list(batch_of(parts).bodies())
    assert all(len(body) <= LIMIT for body, _ in bodies)
    assert [each for body, _ in bodies for each in unpacked(body)] == [
        each for part in parts for each in part
    ]
    items, size = sum(map(len, parts)), sum(len(each) for part in parts for each in part)
    fewest = size / TRANSACTIONS_BYTES + items / INGEST_MAX_TRANSACTIONS
    assert len(bodies) <= 2 + 2 * fewest  # nothing is taken apart for nothing


def test_an_empty_batch_is_no_frame() -> None:
    assert list(Batch().bodies()) == []


@given(body=st.binary(max_size=400))
@example(b"")
@example(struct.pack("<H", 0))
@example(struct.pack("<HH", 1, 5) + b"four")
@example(struct.pack("<H", 2))
@example(struct.pack("<HHH", 2, 1, 1) + b"abc")
@example(struct.pack("<H", INGEST_MAX_TRANSACTIONS + 1) + bytes(4 * INGEST_MAX_TRANSACTIONS))
@example(struct.pack("<HH", 1, MAX_TX_BYTES + 1) + bytes(MAX_TX_BYTES + 1))
def test_hostile_transactions_are_none_or_fill_the_frame(body: bytes) -> None:
    try:
        items = unpacked(body)
    except ValueError:
        return
    head = struct.pack(f"<H{len(items)}H", len(items), *map(len, items))
    assert head + b"".join(items) == body
    assert 0 < len(items) <= INGEST_MAX_TRANSACTIONS
    assert max(map(len, items)) <= MAX_TX_BYTES


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"\1",
        struct.pack("<H", 0),
        struct.pack("<HH", 1, 5) + b"four",
        struct.pack("<HH", 1, 3) + b"four",
        struct.pack("<HH", 2, 3),
        struct.pack("<H", INGEST_MAX_TRANSACTIONS + 1) + bytes(2 * INGEST_MAX_TRANSACTIONS + 2),
        struct.pack("<HH", 1, MAX_TX_BYTES + 1) + bytes(MAX_TX_BYTES + 1),
    ],
    ids=range(8),
)
def test_these_are_no_transactions(body: bytes) -> None:
    with pytest.raises(ValueError, match=r"short|batch|fit"):
        unpack_transactions(memoryview(body))


@given(messages=ITEMS)
def test_messages_come_out_as_they_went_in(messages: list[bytes]) -> None:
    assert unpack_messages(memoryview(pack_messages(messages))) == messages


@given(
    sizes=st.lists(st.sampled_from([0, 1, 150, 71_000, 74_240]), min_size=1, max_size=30),
)
def test_messages_fit_their_frames(sizes: list[int]) -> None:
    messages = [bytes(size) for size in sizes]
    bodies = list(message_bodies(messages))
    assert all(len(body) <= MAX_BODY_BYTES[FrameType.AGREEMENT] for body in bodies)
    assert [each for body in bodies for each in unpack_messages(memoryview(body))] == messages
    whole = sum(sizes) + 4 * len(sizes)
    assert len(bodies) <= 1 + 2 * whole // MESSAGES_BYTES


def test_there_are_never_more_messages_than_a_frame_can_count() -> None:
    messages = [b""] * 70_000
    bodies = list(message_bodies(messages))
    assert sum(len(unpack_messages(memoryview(body))) for body in bodies) == len(messages)


def test_no_messages_are_no_frame() -> None:
    assert list(message_bodies([])) == []


@given(body=st.binary(max_size=400))
@example(struct.pack("<HI", 1, 2**32 - 1))
@example(struct.pack("<HII", 2, 2**32 - 1, 2) + b"x")
def test_hostile_messages_are_none_or_fill_the_frame(body: bytes) -> None:
    try:
        messages = unpack_messages(memoryview(body))
    except ValueError:
        return
    assert pack_messages(messages) == body


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"\1",
        struct.pack("<H", 0),
        struct.pack("<H", 1),
        struct.pack("<HI", 1, 5) + b"four",
        struct.pack("<HI", 1, 3) + b"four",
        struct.pack("<HII", 2, 2**32 - 1, 2) + b"x",
    ],
    ids=range(7),
)
def test_these_are_no_messages(body: bytes) -> None:
    with pytest.raises(ValueError, match=r"short|batch|fit"):
        unpack_messages(memoryview(body))


@given(ids=st.sets(st.binary(min_size=16, max_size=16), max_size=20))
def test_ids_come_out_as_they_went_in(ids: set[bytes]) -> None:
    assert unpack_ids(memoryview(b"".join(ids))) == ids


@given(body=st.binary(max_size=100).filter(lambda body: len(body) % 16))
def test_these_are_no_ids(body: bytes) -> None:
    with pytest.raises(ValueError, match="node ids"):
        unpack_ids(memoryview(body))


def test_offsets_are_those_of_the_items() -> None:
    items = [b"a", b"", b"ccc"]
    ((body, _),) = batch_of([items]).bodies()
    _, ends = unpack_transactions(memoryview(body))
    assert ends.tolist() == list(accumulate(map(len, items)))
