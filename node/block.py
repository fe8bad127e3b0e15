"""Blocks: the header's bytes, the ids and roots that bind a block, and how a proposer builds one.

Everything here is a pure function of bytes. The consensus stage builds blocks out of the mempool's
selection, the storage modules write and read them, the ledger judges them. Transactions stay the
bytes that arrived, never objects.
"""

from __future__ import annotations

import hashlib
import struct
from dataclasses import dataclass
from typing import NamedTuple

from node.params import (
    BLOCK_HEADER_BYTES,
    BLOCK_VERSION,
    ID_BYTES,
    INPUT_BYTES,
    OUTPUT_BYTES,
    PERSON_BLOCK,
    PERSON_MERKLE_LEAF,
    PERSON_MERKLE_NODE,
    PERSON_REWARD,
    TX_HEADER_BYTES,
    WITNESS_BYTES,
)

MERKLE_ARITY = 16
MAX_HEIGHT = 2**32 - 1  # a position keeps the height in a u32: 27 years of 200 ms blocks

_HEADER = struct.Struct("<IIQQQ32s32s32s")
_GROUP_BYTES = MERKLE_ARITY * ID_BYTES

assert _HEADER.size == BLOCK_HEADER_BYTES


class TxPosition(NamedTuple):
    """Where a final transaction lies: height, number in its block, and how many outputs it made.

    Height 0 is a genesis allocation id; a reward has the number that follows its block's last.
    """

    height: int
    position: int
    n_outputs: int


class BlockFormatError(ValueError):
    """Bytes that are no block: wrong length, or transactions that do not fill them exactly."""


@dataclass(frozen=True, slots=True)
class BlockHeader:
    """What a block's id is made of.

    ``time_ms`` is Unix time by the proposer's clock, ``fees`` the units that all transactions
    leave to the proposer, ``previous`` the id of the block below (the genesis id at height 1).
    """

    n_transactions: int
    height: int
    time_ms: int
    fees: int
    previous: bytes
    transaction_root: bytes
    proposer: bytes
    version: int = BLOCK_VERSION

    def encode(self) -> bytes:
        """Return the 128 bytes of the header."""
        return _HEADER.pack(
            self.version,
            self.n_transactions,
            self.height,
            self.time_ms,
            self.fees,
            self.previous,
            self.transaction_root,
            self.proposer,
        )

    @staticmethod
    def decode(data: bytes | memoryview) -> BlockHeader:
        """Return the header in 128 bytes; raises BlockFormatError on another length."""
        if len(data) != BLOCK_HEADER_BYTES:
            raise BlockFormatError(f"a header has {BLOCK_HEADER_BYTES} bytes, not {len(data)}")
        version, count, height, time_ms, fees, previous, root, proposer = _HEADER.unpack(data)
        return BlockHeader(count, height, time_ms, fees, previous, root, proposer, version)


@dataclass(frozen=True, slots=True)
class Block:
    """A block in memory: its header, and per transaction the bytes and the id, in block order."""

    header: BlockHeader
    transactions: list[bytes]
    txids: list[bytes]

    def id(self, salt: bytes) -> bytes:
        """Return the block's id on the chain with this salt."""
        return block_id(self.header.encode(), salt)


def block_id(header: bytes, salt: bytes) -> bytes:
    """Return the id of the block with these 128 header bytes."""
    return hashlib.blake2b(header, digest_size=ID_BYTES, person=PERSON_BLOCK, salt=salt).digest()


def merkle_root(txids: list[bytes], salt: bytes) -> bytes:
    """Return the root over transaction ids in block order.

    A tree of arity 16: a leaf hashes up to 16 concatenated ids, a branch up to 16 child hashes;
    the root hashes the number of ids (u64) and the top. An empty list has the root of the number 0
    alone.
    """
    level = b"".join(txids)
    prototype = hashlib.blake2b(digest_size=ID_BYTES, person=PERSON_MERKLE_LEAF, salt=salt)
    branch = hashlib.blake2b(digest_size=ID_BYTES, person=PERSON_MERKLE_NODE, salt=salt)
    while level:
        hashes = []
        for start in range(0, len(level), _GROUP_BYTES):
            node = prototype.copy()
            node.update(level[start : start + _GROUP_BYTES])
            hashes.append(node.digest())
        level = b"".join(hashes)
        prototype = branch
        if len(hashes) == 1:
            break
    root = branch.copy()
    root.update(len(txids).to_bytes(8, "little") + level)
    return root.digest()


def reward_txid(height: int, previous: bytes, salt: bytes) -> bytes:
    """Return the id whose output 0 is the reward of the block at this height above ``previous``."""
    return hashlib.blake2b(
        height.to_bytes(8, "little") + previous,
        digest_size=ID_BYTES,
        person=PERSON_REWARD,
        salt=salt,
    ).digest()


def encode_output(value: int, owner: bytes) -> bytes:
    """Return the 40 bytes of an output: value (units, u64) and owner key."""
    return value.to_bytes(8, "little") + owner


def build_block(
    *,
    height: int,
    previous: bytes,
    time_ms: int,
    proposer: bytes,
    transactions: list[bytes],
    txids: list[bytes],
    fees: int,
    salt: bytes,
) -> Block:
    """Return the block of these transactions (bytes and ids in order, the sum of their fees)."""
    header = BlockHeader(
        n_transactions=len(transactions),
        height=height,
        time_ms=time_ms,
        fees=fees,
        previous=previous,
        transaction_root=merkle_root(txids, salt),
        proposer=proposer,
    )
    return Block(header, transactions, txids)


def split_transactions(body: bytes, count: int) -> list[bytes]:
    """Return the ``count`` transactions that lie back to back in ``body``.

    Only the counts in each header are looked at. Raises BlockFormatError when the transactions do
    not fill the body exactly.
    """
    transactions = []
    start = 0
    end = len(body)
    for _ in range(count):
        if start + TX_HEADER_BYTES > end:
            raise BlockFormatError("the transactions end too early")
        stop = (
            start
            + TX_HEADER_BYTES
            + body[start + 1] * INPUT_BYTES
            + body[start + 2] * OUTPUT_BYTES
            + body[start + 3] * WITNESS_BYTES
        )
        transactions.append(body[start:stop])
        start = stop
    if start != end:
        raise BlockFormatError(f"the transactions take {start} bytes, the body has {end}")
    return transactions
