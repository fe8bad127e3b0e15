"""A genesis whose outputs belong to keys that the tests hold, as a workload directory."""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
from nacl.signing import SigningKey

from node.genesis import (
    Genesis,
    Validator,
    allocation_outpoint,
    describe_allocations,
    encode_allocations,
    genesis_id,
    genesis_to_json,
    salt_of,
)
from node.keys import create_key_file
from node.transaction import Output, build

VALUE = 1_000_000
MIN_FEE = 100
DUST_LIMIT = 500
REWARD = 7


def key(number: int) -> SigningKey:
    return SigningKey(hashlib.blake2b(b"funded %d" % number, digest_size=32).digest())


class Funds:
    """`count` outputs of VALUE units; output n belongs to key(n)."""

    def __init__(self, directory: Path, count: int) -> None:
        directory.mkdir()
        self.directory = directory
        owners = np.frombuffer(
            b"".join(bytes(key(n).verify_key) for n in range(count)), np.uint8
        ).reshape(count, 32)
        data = encode_allocations(np.full(count, VALUE, np.uint64), owners)
        (directory / "genesis.alloc").write_bytes(data)
        validator = create_key_file(
            directory / "validator.key", hashlib.blake2b(b"validator", digest_size=32).digest()
        )
        self.genesis = Genesis(
            chain="dev",
            time_ms=1_700_000_000_000,
            min_fee=MIN_FEE,
            dust_limit=DUST_LIMIT,
            reward=REWARD,
            max_block_bytes=1_000_000,
            max_block_transactions=1_000,
            validators=(Validator(key=bytes(validator.verify_key).hex(), power=1),),
            allocations=describe_allocations(data),
        )
        (directory / "genesis.json").write_bytes(genesis_to_json(self.genesis))
        self.salt = salt_of(genesis_id(self.genesis))

    def outpoint(self, number: int) -> bytes:
        return allocation_outpoint(number, self.salt)

    def pay(self, *numbers: int, fee: int = 1_000, to: int = 10_000) -> bytes:
        """A payment that spends these outputs whole, to one new owner."""
        return build(
            [(self.outpoint(n), key(n)) for n in numbers],
            [Output(VALUE * len(numbers) - fee, bytes(key(to).verify_key))],
            self.salt,
        )
