"""Genesis: the parameters, validators and first outputs that define a chain, and its id.

``genesis.json`` holds the parameters for people to read; ``genesis.alloc`` holds the first outputs
as records of 40 bytes, because a million of them are no JSON. Both are written by ``timed init``
and read by everything else. The id is a hash over a fixed binary layout (`encode_genesis`), never
over JSON, and its first 16 bytes salt every other hash of the chain, so nothing signed for one
chain means anything on another. Values of `Genesis` are valid by construction.
"""

from __future__ import annotations

import hashlib
import re
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from node.consensus.validators import ValidatorSet
from node.errors import NodeError
from node.params import (
    ALLOCATIONS_PER_ID,
    ID_BYTES,
    KEY_BYTES,
    MAX_AMOUNT,
    MAX_TX_BYTES,
    OUTPUT_BYTES,
    PERSON_ALLOCATION,
    PERSON_GENESIS,
    SALT_BYTES,
)

if TYPE_CHECKING:  # part of the settings, which processes without arrays have too
    import numpy as np
    import numpy.typing as npt

GENESIS_VERSION = 1
MAX_CHAIN_NAME_BYTES = 32
MAX_VALIDATORS = 1024
MAX_TOTAL_POWER = 2**53  # exact in every JSON reader
MAX_BLOCK_BYTES = 64 * 1024 * 1024  # a record's length is a u32, and a block is held in memory
MAX_BLOCK_TRANSACTIONS = 65_532  # as many ids as fit the frame that announces a block
MAX_ALLOCATIONS = 2**32
MAX_TIME_MS = 2**53

_CHAIN_NAME = re.compile(r"[a-z][a-z0-9-]*")
_FIXED = struct.Struct(
    "<QQQQQQ"
)  # time, min fee, dust limit, reward, block bytes, block transactions
_ALLOCATIONS = struct.Struct("<QQ32s")


class GenesisError(NodeError):
    """The genesis or its allocations cannot be used as they are."""


class Validator(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A validator's Ed25519 public key (64 lower-case hexadecimal digits) and its voting power."""

    key: str
    power: int

    def __post_init__(self) -> None:
        _check_hex(self.key, KEY_BYTES, "a validator's key")
        if not 1 <= self.power <= MAX_TOTAL_POWER:
            raise ValueError(f"a validator's power must be 1..{MAX_TOTAL_POWER}")

    @property
    def key_bytes(self) -> bytes:
        """The 32 bytes of the public key."""
        return bytes.fromhex(self.key)


class Allocations(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What ``genesis.alloc`` must hold: outputs, their sum in units, BLAKE2b-256."""

    count: int
    total: int
    digest: str

    def __post_init__(self) -> None:
        _check_hex(self.digest, ID_BYTES, "the allocations' digest")
        if not 0 <= self.count <= MAX_ALLOCATIONS:
            raise ValueError(f"the allocations' count must be 0..{MAX_ALLOCATIONS}")
        if not self.count <= self.total <= MAX_AMOUNT:
            raise ValueError(f"the allocations' total must be {self.count}..{MAX_AMOUNT} units")


class Genesis(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The definition of a chain.

    ``time_ms`` is Unix time; ``min_fee`` (flat, per transaction), ``dust_limit`` and ``reward``
    (per block) are units; ``max_block_bytes`` bounds the bytes of a block's transactions together.
    Validators are in ascending order of their keys. Raises ValueError on values out of range.
    """

    chain: str
    time_ms: int
    min_fee: int
    dust_limit: int
    reward: int
    max_block_bytes: int
    max_block_transactions: int
    validators: tuple[Validator, ...]
    allocations: Allocations

    def __post_init__(self) -> None:
        if len(self.chain) > MAX_CHAIN_NAME_BYTES or not _CHAIN_NAME.fullmatch(self.chain):
            raise ValueError(
                f"the chain's name must be 1..{MAX_CHAIN_NAME_BYTES} of a-z, 0-9 and -,"
                " beginning with a letter"
            )
        for name, low, high in (
            ("time_ms", 0, MAX_TIME_MS),
            ("min_fee", 0, MAX_AMOUNT),
            ("dust_limit", 1, MAX_AMOUNT),
            ("reward", 0, MAX_AMOUNT),
            ("max_block_bytes", MAX_TX_BYTES, MAX_BLOCK_BYTES),
            ("max_block_transactions", 1, MAX_BLOCK_TRANSACTIONS),
        ):
            if not low <= getattr(self, name) <= high:
                raise ValueError(f"{name} must be {low}..{high}, not {getattr(self, name)}")
        if not 1 <= len(self.validators) <= MAX_VALIDATORS:
            raise ValueError(f"there must be 1..{MAX_VALIDATORS} validators")
        keys = [validator.key for validator in self.validators]
        if sorted(set(keys)) != keys:
            raise ValueError("validators must be in ascending order of their keys, each key once")
        if sum(validator.power for validator in self.validators) > MAX_TOTAL_POWER:
            raise ValueError(f"the validators' total power must not exceed {MAX_TOTAL_POWER}")


def _check_hex(text: str, size: int, what: str) -> None:
    if len(text) != 2 * size or not re.fullmatch("[0-9a-f]*", text):
        raise ValueError(f"{what} must be {2 * size} lower-case hexadecimal digits")


def validator_set(genesis: Genesis) -> ValidatorSet:
    """Return the validators with their powers and keys, as agreement counts them."""
    everybody = genesis.validators
    return ValidatorSet([each.power for each in everybody], [each.key_bytes for each in everybody])


def reward_at(genesis: Genesis, height: int) -> int:
    """Return the new units that the block at this height (1 and up) pays to its proposer.

    It is ``genesis.reward`` until all units together would pass MAX_AMOUNT; the block that reaches
    it gets the rest, and later ones nothing. So no sum of outputs can ever exceed MAX_AMOUNT.
    """
    return reward_between(genesis.reward, genesis.allocations.total, height)


def reward_between(reward: int, total: int, height: int) -> int:
    """Return `reward_at` from the two numbers that it depends on (units)."""
    return min(reward, max(0, MAX_AMOUNT - total - reward * (height - 1)))


def supply_at(genesis: Genesis, height: int) -> int:
    """Return the sum of all outputs (units) after the block at this height; 0 is genesis."""
    return min(MAX_AMOUNT, genesis.allocations.total + genesis.reward * height)


def encode_genesis(genesis: Genesis) -> bytes:
    """Return the canonical bytes of a genesis: equal values, equal bytes.

    Little-endian: version u32; length of the name u32, name; time_ms, min_fee, dust_limit, reward,
    max_block_bytes, max_block_transactions u64 each; number of validators u32, for each key[32]
    and power u64; count u64, total u64 and digest[32] of the allocations.
    """
    name = genesis.chain.encode("ascii")
    parts = [
        struct.pack("<II", GENESIS_VERSION, len(name)),
        name,
        _FIXED.pack(
            genesis.time_ms,
            genesis.min_fee,
            genesis.dust_limit,
            genesis.reward,
            genesis.max_block_bytes,
            genesis.max_block_transactions,
        ),
        struct.pack("<I", len(genesis.validators)),
    ]
    parts += [struct.pack("<32sQ", v.key_bytes, v.power) for v in genesis.validators]
    allocations = genesis.allocations
    parts.append(
        _ALLOCATIONS.pack(allocations.count, allocations.total, bytes.fromhex(allocations.digest))
    )
    return b"".join(parts)


def genesis_id(genesis: Genesis) -> bytes:
    """Return the chain's id: BLAKE2b-256 of `encode_genesis`, 32 bytes."""
    return hashlib.blake2b(
        encode_genesis(genesis), digest_size=ID_BYTES, person=PERSON_GENESIS
    ).digest()


def salt_of(chain_id: bytes) -> bytes:
    """Return the 16-byte salt of all other hashes of the chain with this genesis id."""
    return chain_id[:SALT_BYTES]


def genesis_to_json(genesis: Genesis) -> bytes:
    """Return ``genesis.json``: indented, for people; it is never hashed."""
    return msgspec.json.format(msgspec.json.encode(genesis), indent=2) + b"\n"


def genesis_from_json(data: bytes) -> Genesis:
    """Return the genesis in the bytes of a ``genesis.json``.

    Raises GenesisError on malformed JSON, unknown or missing fields and impossible values.
    """
    try:
        return msgspec.json.decode(data, type=Genesis)
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        raise GenesisError(f"the genesis is not valid ({error})", "get it again") from error


def read_genesis(path: Path) -> Genesis:
    """Return the genesis in a file; raises GenesisError (missing, unreadable, not valid)."""
    try:
        data = path.read_bytes()
    except OSError as error:
        raise GenesisError(
            f"cannot read {path} ({error.strerror})", "restore it or run `timed init`"
        ) from error
    try:
        return genesis_from_json(data)
    except GenesisError as error:
        raise GenesisError(f"{path}: {error.cause}", error.remedy) from error


def allocation_txid(number: int, salt: bytes) -> bytes:
    """Return allocation id ``number``, the parent of outputs 255·number .. 255·number + 254."""
    return hashlib.blake2b(
        number.to_bytes(8, "little"), digest_size=ID_BYTES, person=PERSON_ALLOCATION, salt=salt
    ).digest()


def allocation_outpoint(index: int, salt: bytes) -> bytes:
    """Return the outpoint (33 bytes) of the allocation record at this index."""
    number, output = divmod(index, ALLOCATIONS_PER_ID)
    return allocation_txid(number, salt) + bytes((output,))


def encode_allocations(values: npt.NDArray[np.uint64], owners: npt.NDArray[np.uint8]) -> bytes:
    """Return the bytes of ``genesis.alloc`` for values (units, [n]) and owner keys ([n, 32])."""
    import numpy as np

    records = np.empty((len(values), OUTPUT_BYTES), np.uint8)
    records[:, :8] = values.astype("<u8").reshape(-1, 1).view(np.uint8)
    records[:, 8:] = owners
    return records.tobytes()


def describe_allocations(data: bytes) -> Allocations:
    """Return what a genesis has to say about these allocation bytes.

    Raises GenesisError when they are not whole records, a value is 0 or the sum exceeds
    MAX_AMOUNT.
    """
    import numpy as np

    count, rest = divmod(len(data), OUTPUT_BYTES)
    if rest:
        raise GenesisError(
            f"allocations are records of {OUTPUT_BYTES} bytes, and {rest} bytes are left over",
            "get the file again, complete",
        )
    values = np.frombuffer(data, np.uint8).reshape(count, OUTPUT_BYTES)[:, :8].copy().view("<u8")
    if count and not 1 <= int(values.min()) <= int(values.max()) <= MAX_AMOUNT:
        raise GenesisError(
            f"an allocation is not within 1..{MAX_AMOUNT} units", "correct its value"
        )
    # count <= 2^32 and values < 2^54 could pass 2^64: sum the halves
    total = (int((values >> np.uint64(32)).sum()) << 32) + int(
        (values & np.uint64(0xFFFFFFFF)).sum()
    )
    if total > MAX_AMOUNT:
        raise GenesisError(
            f"the allocations sum to {total} units", f"allot at most {MAX_AMOUNT} together"
        )
    digest = hashlib.blake2b(data, digest_size=ID_BYTES).hexdigest()
    return Allocations(count=count, total=total, digest=digest)


def read_allocations(path: Path, genesis: Genesis) -> bytes:
    """Return the bytes of an allocation file after checking them against the genesis.

    Raises GenesisError when the file cannot be read or is not the one that the genesis names.
    """
    try:
        data = path.read_bytes()
    except OSError as error:
        raise GenesisError(
            f"cannot read {path} ({error.strerror})", "restore it beside genesis.json"
        ) from error
    check_allocations(data, genesis, str(path))
    return data


def check_allocations(data: bytes, genesis: Genesis, name: str = "the allocation file") -> None:
    """Raise GenesisError unless these bytes are the allocations that the genesis names."""
    try:
        found = describe_allocations(data)
    except GenesisError as error:
        raise GenesisError(f"{name}: {error.cause}", error.remedy) from error
    if found != genesis.allocations:
        raise GenesisError(
            f"{name} is not the one that the genesis names (its digest begins with"
            f" {found.digest[:16]}, not {genesis.allocations.digest[:16]})",
            "restore the right one",
        )


def allocation_outputs(data: bytes, salt: bytes) -> Iterator[tuple[bytes, list[bytes]]]:
    """Yield (allocation txid, its outputs of 40 bytes in order) for an allocation file."""
    step = ALLOCATIONS_PER_ID * OUTPUT_BYTES
    for number, start in enumerate(range(0, len(data), step)):
        chunk = data[start : start + step]
        yield (
            allocation_txid(number, salt),
            [chunk[i : i + OUTPUT_BYTES] for i in range(0, len(chunk), OUTPUT_BYTES)],
        )
