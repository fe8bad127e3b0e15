"""Consensus parameters and byte layouts: constants that every node of a network must share.

The layouts are documented byte by byte in ARCHITECTURE.md; here they are sizes and offsets, with
the relations between them asserted at import. Parameters that a network chooses live in its
genesis (``node.genesis``); nothing here is configurable.
"""

from __future__ import annotations

# Identifiers: BLAKE2b-256 (RFC 7693), personalised per kind of object, salted with the genesis id.
ID_BYTES = 32
SALT_BYTES = 16  # genesis_id[:16]; BLAKE2b's salt parameter
PERSON_TXID = b"TIME/txid/v1".ljust(16, b"\0")
PERSON_BLOCK = b"TIME/block/v1".ljust(16, b"\0")
PERSON_REWARD = b"TIME/reward/v1".ljust(16, b"\0")
PERSON_GENESIS = b"TIME/genesis/v1".ljust(16, b"\0")
PERSON_ALLOCATION = b"TIME/alloc/v1".ljust(16, b"\0")
PERSON_MERKLE_LEAF = b"TIME/leaf/v1".ljust(16, b"\0")
PERSON_MERKLE_NODE = b"TIME/branch/v1".ljust(16, b"\0")

# Signed messages: 15-byte prefix + 32-byte id. With R and A (64 bytes) they fill one SHA-512 block:
# 64 + 47 + 1 (padding bit) + 16 (length) = 128.
SIGN_PREFIX_BYTES = 15
SIGN_PREFIX_SPEND = b"TIME/spend/v1".ljust(SIGN_PREFIX_BYTES, b"\0")
SIGNED_MESSAGE_BYTES = SIGN_PREFIX_BYTES + ID_BYTES

# Transaction, version 1, packed little-endian.
TX_VERSION = 1
TX_HEADER_BYTES = 4  # version u8, inputs u8, outputs u8, witnesses u8
INPUT_BYTES = 34  # txid[32], output index u8, witness number u8
OUTPOINT_BYTES = 33  # txid[32], output index u8: the first 33 bytes of an input
OUTPUT_BYTES = 40  # value u64, owner[32]
WITNESS_BYTES = 96  # public key[32], signature[64]
KEY_BYTES = 32
SIGNATURE_BYTES = 64
MAX_INPUTS = 255
MAX_OUTPUTS = 255
MIN_TX_BYTES = TX_HEADER_BYTES + INPUT_BYTES + OUTPUT_BYTES + WITNESS_BYTES
MAX_TX_BYTES = (
    TX_HEADER_BYTES + MAX_INPUTS * (INPUT_BYTES + WITNESS_BYTES) + MAX_OUTPUTS * OUTPUT_BYTES
)

# Amounts: integer units, 1 TIME = 10^8 units. No value and no sum may reach 2^63.
UNITS_PER_TIME = 100_000_000
MAX_AMOUNT = 10_000_000_000_000_000  # 100 million TIME: more than any genesis may allot

# Block header, version 1: version u32, transactions u32, height u64, time_ms u64, fees u64,
# previous id[32], transaction root[32], proposer key[32].
BLOCK_VERSION = 1
BLOCK_HEADER_BYTES = 128

# Genesis allocations: 40-byte records; record i is output (i mod 255) of allocation id (i div 255).
ALLOCATIONS_PER_ID = 255

# Ingest: one client message.
INGEST_MAX_TRANSACTIONS = 1024
INGEST_MAX_BYTES = 256 * 1024
INGEST_MAX_FRAME_BYTES = 2 * INGEST_MAX_BYTES  # what is longer than this is cut off, not answered
INGEST_INSIDE = "ipc://ingest"  # in the run directory: where wallets' transactions come from rpc

assert SIGNED_MESSAGE_BYTES == 47
assert 64 + SIGNED_MESSAGE_BYTES + 1 + 16 <= 128
assert OUTPOINT_BYTES + 1 == INPUT_BYTES
assert MAX_OUTPUTS * MAX_AMOUNT < 2**63
assert MAX_TX_BYTES < 2**16  # lengths travel as u16
assert MAX_TX_BYTES <= INGEST_MAX_BYTES < INGEST_MAX_FRAME_BYTES
