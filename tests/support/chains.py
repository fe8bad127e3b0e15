"""Small chains with real signatures: a genesis for known keys, valid blocks from a seed."""

from __future__ import annotations

import hashlib
import random
from collections.abc import Sequence

import numpy as np
from nacl.signing import SigningKey

from node.block import Block, build_block
from node.genesis import (
    Genesis,
    Validator,
    allocation_outpoint,
    describe_allocations,
    encode_allocations,
    genesis_id,
    salt_of,
)
from node.ledger import Ledger
from node.transaction import IdHasher, Output, build

TIME_MS = 1_700_000_000_000
ALLOTTED = 1_000_000


def owner(number: int) -> SigningKey:
    return SigningKey(hashlib.blake2b(b"owner %d" % number, digest_size=32).digest())


OWNERS = [owner(number) for number in range(4)]
OWNER_OF = {bytes(key.verify_key): key for key in OWNERS}
PUBLIC = list(OWNER_OF)
VALIDATOR = OWNERS[0]


def make_genesis(
    count: int = 600,
    *,
    reward: int = 50,
    min_fee: int = 10,
    max_block_bytes: int = 1_000_000,
    max_block_transactions: int = 1_000,
    value: int = ALLOTTED,
    powers: Sequence[int] = (1,),
) -> tuple[Genesis, bytes]:
    """A genesis and its allocations: output n belongs to OWNERS[n mod 4].

    The first of OWNERS are its validators, ascending by key as a genesis wants them, with these
    powers in that order.
    """
    owners = [PUBLIC[number % len(PUBLIC)] for number in range(count)]
    data = encode_allocations(
        np.full(count, value, np.uint64),
        np.frombuffer(b"".join(owners), np.uint8).reshape(count, 32),
    )
    genesis = Genesis(
        chain="dev",
        time_ms=TIME_MS,
        min_fee=min_fee,
        dust_limit=5,
        reward=reward,
        max_block_bytes=max_block_bytes,
        max_block_transactions=max_block_transactions,
        validators=tuple(
            Validator(key=key.hex(), power=power)
            for key, power in zip(sorted(PUBLIC[: len(powers)]), powers, strict=True)
        ),
        allocations=describe_allocations(data),
    )
    return genesis, data


class SmallChain:
    """A chain that grows in memory, judged by the reference ledger."""

    def __init__(self, genesis: Genesis, allocations: bytes) -> None:
        self.genesis = genesis
        self.allocations = allocations
        self.id = genesis_id(genesis)
        self.salt = salt_of(self.id)
        self.hasher = IdHasher(self.salt)
        self.ledger = Ledger(genesis, allocations)

    def allotted(self, number: int) -> bytes:
        return allocation_outpoint(number, self.salt)

    def spend(
        self, inputs: Sequence[tuple[bytes, bytes]], values: Sequence[int], to: int = 1
    ) -> bytes:
        """A signed payment of (outpoint, output) pairs into outputs of these values."""
        return build(
            [(outpoint, OWNER_OF[output[8:]]) for outpoint, output in inputs],
            [Output(value, PUBLIC[(to + n) % len(PUBLIC)]) for n, value in enumerate(values)],
            self.salt,
        )

    def block(self, transactions: list[bytes], fees: int, *, proposer: bytes = PUBLIC[0]) -> Block:
        """The block of these transactions above the ledger's height."""
        return build_block(
            height=self.ledger.height + 1,
            previous=self.ledger.block_id,
            time_ms=self.ledger.time_ms + 1,
            proposer=proposer,
            transactions=transactions,
            txids=[self.hasher.txid(raw) for raw in transactions],
            fees=fees,
            salt=self.salt,
        )

    def random_block(self, random_: random.Random, count: int) -> Block:
        """A valid block of up to ``count`` payments of 1..3 inputs and outputs, some chained.

        It is not applied yet.
        """
        unspent = dict(sorted(self.ledger.outputs.items()))
        genesis = self.genesis
        transactions: list[bytes] = []
        fees = 0
        for _ in range(count):
            if len(unspent) < 3:
                break
            # the last ones were made in this very block
            pool = list(unspent)[-3:] if random_.random() < 0.3 else list(unspent)
            inputs = [(o, unspent[o]) for o in random_.sample(pool, random_.randint(1, 3))]
            total = sum(int.from_bytes(output[:8], "little") for _, output in inputs)
            n_outputs = random_.randint(1, 3)
            most = total - genesis.dust_limit * n_outputs
            if most < genesis.min_fee:
                continue
            fee = random_.choice((genesis.min_fee, random_.randint(genesis.min_fee, most), most))
            values = [genesis.dust_limit] * n_outputs
            values[0] += total - fee - sum(values)
            raw = self.spend(inputs, values, to=random_.randrange(4))
            for outpoint, _ in inputs:
                del unspent[outpoint]
            txid = self.hasher.txid(raw)
            at = 4 + 34 * raw[1]
            for index in range(n_outputs):
                unspent[txid + bytes((index,))] = raw[at + 40 * index : at + 40 * index + 40]
            transactions.append(raw)
            fees += fee
        return self.block(transactions, fees)
