"""Blocks: bytes of the header, ids, roots, and cutting a body into transactions."""

from __future__ import annotations

import hashlib
import os
import struct
import subprocess
import sys

import pytest
from damage import damaged
from hypothesis import given
from hypothesis import strategies as st

from node.block import (
    Block,
    BlockFormatError,
    BlockHeader,
    block_id,
    build_block,
    encode_output,
    merkle_root,
    reward_txid,
    split_transactions,
)

SALT = bytes(range(16))
HEADER = BlockHeader(
    n_transactions=2,
    height=3,
    time_ms=4,
    fees=5,
    previous=b"\x06" * 32,
    transaction_root=b"\x07" * 32,
    proposer=b"\x08" * 32,
)


def hashed(person: str, data: bytes) -> bytes:
    name = person.encode().ljust(16, b"\0")
    return hashlib.blake2b(data, digest_size=32, person=name, salt=SALT).digest()


def test_header_bytes() -> None:
    data = struct.pack("<IIQQQ", 1, 2, 3, 4, 5) + b"\x06" * 32 + b"\x07" * 32 + b"\x08" * 32
    assert HEADER.encode() == data
    assert BlockHeader.decode(data) == HEADER
    assert block_id(data, SALT) == hashed("TIME/block/v1", data)
    assert Block(HEADER, [], []).id(SALT) == block_id(data, SALT)
    for wrong in (data[:-1], data + b"\0", b""):
        with pytest.raises(BlockFormatError, match="128"):
            BlockHeader.decode(wrong)


def test_reward_and_output_bytes() -> None:
    expected = hashed("TIME/reward/v1", struct.pack("<Q", 9) + b"\x01" * 32)
    assert reward_txid(9, b"\x01" * 32, SALT) == expected
    assert encode_output(2**40 + 1, b"\x05" * 32) == struct.pack("<Q", 2**40 + 1) + b"\x05" * 32


def plain_root(txids: list[bytes]) -> bytes:
    """The documented tree, level by level."""
    level = list(txids)
    person = "TIME/leaf/v1"
    while person == "TIME/leaf/v1" or len(level) > 1:
        level = [hashed(person, b"".join(level[i : i + 16])) for i in range(0, len(level), 16)]
        person = "TIME/branch/v1"
        if not level:
            break
    return hashed("TIME/branch/v1", struct.pack("<Q", len(txids)) + b"".join(level))


@pytest.mark.parametrize("count", [0, 1, 2, 15, 16, 17, 255, 256, 257, 4096, 4097])
def test_merkle_root(count: int) -> None:
    txids = [struct.pack("<Q24x", number) for number in range(count)]
    assert merkle_root(txids, SALT) == plain_root(txids)


@given(st.lists(st.binary(min_size=32, max_size=32), max_size=40), st.data())
def test_any_other_list_has_another_root(txids: list[bytes], data: st.DataObject) -> None:
    other = data.draw(st.permutations(txids)) if txids else [bytes(32)]
    assert (merkle_root(other, SALT) == merkle_root(txids, SALT)) == (other == txids)
    # one id more, the repetition of the last, or one less
    for changed in ([*txids, bytes(32)], txids + txids[-1:], txids[:-1]):
        if changed != txids:
            assert merkle_root(changed, SALT) != merkle_root(txids, SALT)


def test_ids_do_not_depend_on_the_hash_seed() -> None:
    program = (
        "from node.block import *\n"
        "b = build_block(height=1, previous=b'p'*32, time_ms=2, proposer=b'o'*32, fees=3,\n"
        "  transactions=[b'x', b'y'], txids=[b'1'*32, b'2'*32], salt=b's'*16)\n"
        "print(b.header.encode().hex(), b.id(b's'*16).hex())"
    )
    found = {
        subprocess.run(
            [sys.executable, "-c", program],
            env=os.environ | {"PYTHONHASHSEED": seed, "PYTHONPATH": os.pathsep.join(sys.path)},
            check=True,
            capture_output=True,
            timeout=60,
        ).stdout
        for seed in ("0", "1", "4242")
    }
    assert len(found) == 1


def body(*counts: tuple[int, int, int]) -> list[bytes]:
    return [bytes((1, i, o, w)) + os.urandom(34 * i + 40 * o + 96 * w) for i, o, w in counts]


@pytest.mark.parametrize(
    "counts", [[], [(1, 1, 1)], [(1, 2, 1)] * 3, [(1, 2, 1), (255, 255, 255), (2, 1, 1)]]
)
def test_splitting_a_body(counts: list[tuple[int, int, int]]) -> None:
    transactions = body(*counts)
    joined = b"".join(transactions)
    assert split_transactions(joined, len(counts)) == transactions
    for data, count in (
        (joined + b"\0", len(counts)),
        (joined, len(counts) + 1),
        (joined[:-1], len(counts)),
        (joined + b"\1\0\0", len(counts) + 1),
    ):
        if data or count:
            with pytest.raises(BlockFormatError):
                split_transactions(data, count)


def test_build_block_names_its_transactions() -> None:
    block = build_block(
        height=7,
        previous=b"p" * 32,
        time_ms=8,
        proposer=b"o" * 32,
        transactions=[b"x"],
        txids=[b"i" * 32],
        fees=9,
        salt=SALT,
    )
    assert block.header == BlockHeader(
        1, 7, 8, 9, b"p" * 32, merkle_root([b"i" * 32], SALT), b"o" * 32
    )


@given(damaged(HEADER.encode()))
def test_any_bytes_are_a_header_or_are_refused(data: bytes) -> None:
    try:
        assert BlockHeader.decode(data).encode() == data
    except BlockFormatError:
        assert len(data) != 128


BODY = b"".join(
    bytes((1, i, o, w)) + bytes(34 * i + 40 * o + 96 * w) for i, o, w in [(1, 2, 1)] * 3
)


@given(damaged(BODY), st.integers(0, 5) | st.integers(0, 2**32 - 1))
def test_any_body_is_split_whole_or_refused(data: bytes, count: int) -> None:
    try:
        transactions = split_transactions(data, count)
    except BlockFormatError:
        return
    assert (b"".join(transactions), len(transactions)) == (data, count)
