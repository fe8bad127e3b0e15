"""Genesis: canonical bytes, bounds of every parameter, allocations."""

from __future__ import annotations

import hashlib
import struct
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
from damage import damaged, damaged_json
from hypothesis import given, settings
from hypothesis import strategies as st

from node.genesis import (
    Allocations,
    Genesis,
    GenesisError,
    Validator,
    allocation_outpoint,
    allocation_outputs,
    allocation_txid,
    check_allocations,
    describe_allocations,
    encode_allocations,
    encode_genesis,
    genesis_from_json,
    genesis_id,
    genesis_to_json,
    read_allocations,
    read_genesis,
    reward_at,
    salt_of,
    supply_at,
)
from node.params import MAX_AMOUNT, MAX_TX_BYTES

GENESIS = Genesis(
    chain="main",
    time_ms=1_700_000_000_000,
    min_fee=1_000,
    dust_limit=500,
    reward=100,
    max_block_bytes=4_000_000,
    max_block_transactions=10_000,
    validators=(Validator(key="11" * 32, power=3), Validator(key="22" * 32, power=1)),
    allocations=Allocations(count=2, total=30, digest="ab" * 32),
)
OTHER_VALUES: dict[str, Any] = {
    "chain": "main2",
    "time_ms": 1,
    "min_fee": 0,
    "dust_limit": 501,
    "reward": 0,
    "max_block_bytes": 4_000_001,
    "max_block_transactions": 1,
    "validators": (Validator(key="11" * 32, power=4), Validator(key="22" * 32, power=1)),
    "allocations": Allocations(count=2, total=31, digest="ab" * 32),
}


def test_the_id_never_changes() -> None:
    """A hash of known bytes, computed here by hand from the documented layout."""
    data = (
        struct.pack("<II4s", 1, 4, b"main")
        + struct.pack("<6Q", 1_700_000_000_000, 1_000, 500, 100, 4_000_000, 10_000)
        + struct.pack("<I32sQ32sQ", 2, b"\x11" * 32, 3, b"\x22" * 32, 1)
        + struct.pack("<QQ32s", 2, 30, b"\xab" * 32)
    )
    assert encode_genesis(GENESIS) == data
    expected = hashlib.blake2b(data, digest_size=32, person=b"TIME/genesis/v1\0").digest()
    assert genesis_id(GENESIS) == expected
    assert salt_of(expected) == expected[:16]
    assert (
        genesis_id(GENESIS).hex()
        == "b2b85bca94a1fd2bb807ce84b27330c104229d06d4c5096661cfe2911fc431fc"
    )


@pytest.mark.parametrize("name", OTHER_VALUES)
def test_every_field_counts(name: str) -> None:
    other = msgspec.structs.replace(GENESIS, **{name: OTHER_VALUES[name]})
    assert genesis_id(other) != genesis_id(GENESIS)
    assert genesis_from_json(genesis_to_json(other)) == other
    assert set(OTHER_VALUES) == set(Genesis.__struct_fields__)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("chain", ""),
        ("chain", "Main"),
        ("chain", "2main"),
        ("chain", "mäin"),
        ("chain", "m" * 33),
        ("chain", "main\n"),
        ("time_ms", -1),
        ("time_ms", 2**53 + 1),
        ("min_fee", -1),
        ("min_fee", MAX_AMOUNT + 1),
        ("dust_limit", 0),
        ("dust_limit", MAX_AMOUNT + 1),
        ("reward", -1),
        ("reward", MAX_AMOUNT + 1),
        ("max_block_bytes", MAX_TX_BYTES - 1),
        ("max_block_bytes", 64 * 1024 * 1024 + 1),
        ("max_block_transactions", 0),
        ("max_block_transactions", 2**20 + 1),
        ("validators", ()),
        ("validators", tuple(reversed(GENESIS.validators))),
        ("validators", (GENESIS.validators[0],) * 2),
        ("validators", (Validator(key="11" * 32, power=2**53), GENESIS.validators[1])),
        ("validators", tuple(Validator(key=f"{n:064x}", power=1) for n in range(1025))),
    ],
)
def test_impossible_values(name: str, value: object) -> None:
    with pytest.raises(ValueError, match="must"):
        msgspec.structs.replace(GENESIS, **{name: value})


def test_impossible_parts() -> None:
    for key in ("11" * 31, "1G" * 32, "AA" * 32):
        with pytest.raises(ValueError, match="hexadecimal"):
            Validator(key=key, power=1)
    for power in (0, -1, 2**53 + 1):
        with pytest.raises(ValueError, match="power"):
            Validator(key="11" * 32, power=power)
    for count, total in ((-1, 0), (2**32 + 1, MAX_AMOUNT), (3, 2), (1, MAX_AMOUNT + 1)):
        with pytest.raises(ValueError, match="allocations"):
            Allocations(count=count, total=total, digest="00" * 32)


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"surplus": 1}, "surplus"),
        ({"reward": "100"}, "reward"),
        ({"reward": 1.5}, "reward"),
        ({"reward": -1}, "reward must be"),
        ({"reward": None}, "reward"),
        ({"validators": [{"key": "11" * 32, "power": 1, "name": "x"}]}, "name"),
        ({"validators": [{"key": "11" * 32}]}, "power"),
    ],
)
def test_json_that_is_no_genesis(change: dict[str, object], told: str) -> None:
    values = msgspec.json.decode(genesis_to_json(GENESIS))
    with pytest.raises(GenesisError, match=told):
        genesis_from_json(msgspec.json.encode(values | change))
    for data in (b"", b"{", b"\xff", b"[]", genesis_to_json(GENESIS)[:-5]):
        with pytest.raises(GenesisError, match="not valid"):
            genesis_from_json(data)


def test_files(tmp_path: Path) -> None:
    data = encode_allocations(np.array([1, 2], np.uint64), np.zeros((2, 32), np.uint8))
    genesis = msgspec.structs.replace(GENESIS, allocations=describe_allocations(data))
    (tmp_path / "genesis.json").write_bytes(genesis_to_json(genesis))
    (tmp_path / "genesis.alloc").write_bytes(data)
    assert read_genesis(tmp_path / "genesis.json") == genesis
    assert read_allocations(tmp_path / "genesis.alloc", genesis) == data
    with pytest.raises(GenesisError, match="digest begins with"):
        read_allocations(tmp_path / "genesis.alloc", GENESIS)
    (tmp_path / "genesis.alloc").write_bytes(data[:-1])
    with pytest.raises(GenesisError, match=r"genesis\.alloc: .*39 bytes are left over"):
        read_allocations(tmp_path / "genesis.alloc", genesis)
    (tmp_path / "genesis.json").write_bytes(b"{}")
    with pytest.raises(GenesisError, match=r"genesis\.json: .*not valid"):
        read_genesis(tmp_path / "genesis.json")
    for read in (read_genesis, lambda path: read_allocations(path, genesis)):
        with pytest.raises(GenesisError, match=r"cannot read .*absent"):
            read(tmp_path / "absent")


def test_allocation_bytes() -> None:
    owners = np.arange(64, dtype=np.uint8).reshape(2, 32)
    data = encode_allocations(np.array([7, 2**40], np.uint64), owners)
    assert data == struct.pack("<Q32sQ32s", 7, bytes(range(32)), 2**40, bytes(range(32, 64)))
    found = describe_allocations(data)
    assert found == Allocations(
        count=2, total=7 + 2**40, digest=hashlib.blake2b(data, digest_size=32).hexdigest()
    )
    assert describe_allocations(b"").count == 0


@pytest.mark.parametrize(
    ("values", "told"),
    [
        ([0, 1], "within"),
        ([MAX_AMOUNT + 1], "within"),
        ([2**64 - 1], "within"),
        ([MAX_AMOUNT, 1], "sum to"),
        ([MAX_AMOUNT] * 2_000, "sum to 20000000000000000000 "),
    ],
)
def test_impossible_allocations(values: list[int], told: str) -> None:
    owners = np.zeros((len(values), 32), np.uint8)
    with pytest.raises(GenesisError, match=told):
        describe_allocations(encode_allocations(np.array(values, np.uint64), owners))


@pytest.mark.parametrize("count", [0, 1, 254, 255, 256, 600])
def test_allocation_ids(count: int) -> None:
    salt = bytes(range(16))
    data = encode_allocations(
        np.arange(1, count + 1, dtype=np.uint64), np.zeros((count, 32), np.uint8)
    )
    found = {
        txid + bytes((index,)): int.from_bytes(output[:8], "little")
        for txid, outputs in allocation_outputs(data, salt)
        for index, output in enumerate(outputs)
    }
    assert found == {allocation_outpoint(number, salt): number + 1 for number in range(count)}
    person = b"TIME/alloc/v1".ljust(16, b"\0")
    state = hashlib.blake2b(struct.pack("<Q", 2), digest_size=32, person=person, salt=salt)
    assert allocation_txid(2, salt) == state.digest()


def test_foreign_allocations_are_refused() -> None:
    with pytest.raises(GenesisError, match="not the one that the genesis names"):
        check_allocations(b"", GENESIS)


@given(st.integers(0, MAX_AMOUNT), st.integers(0, MAX_AMOUNT), st.integers(1, 2**32))
def test_rewards_never_exceed_the_bound(reward: int, total: int, height: int) -> None:
    allocations = Allocations(count=min(1, total), total=total, digest="00" * 32)
    genesis = msgspec.structs.replace(GENESIS, reward=reward, allocations=allocations)
    assert 0 <= reward_at(genesis, height) <= reward
    assert supply_at(genesis, 0) == total
    assert supply_at(genesis, height) <= MAX_AMOUNT
    assert supply_at(genesis, height) - supply_at(genesis, height - 1) == reward_at(genesis, height)


@settings(max_examples=300)
@given(damaged_json(genesis_to_json(GENESIS)))
def test_any_damaged_json_is_a_genesis_or_refused(data: bytes) -> None:
    try:
        genesis = genesis_from_json(data)
    except GenesisError:
        return
    assert genesis_from_json(genesis_to_json(genesis)) == genesis
    assert len(genesis_id(genesis)) == 32


ALLOTTED = encode_allocations(np.array([1, 2, 2**40], np.uint64), np.ones((3, 32), np.uint8))


@given(damaged(ALLOTTED))
def test_any_damaged_allocations_are_described_or_refused_and_never_taken_for_others(
    data: bytes,
) -> None:
    genesis = msgspec.structs.replace(GENESIS, allocations=describe_allocations(ALLOTTED))
    try:
        found = describe_allocations(data)
        values = [int.from_bytes(data[at : at + 8], "little") for at in range(0, len(data), 40)]
        assert (found.count, found.total) == (len(values), sum(values))
    except GenesisError:
        found = None
    try:
        check_allocations(data, genesis)
        assert data == ALLOTTED
    except GenesisError:
        assert data != ALLOTTED


def test_any_damaged_allocation_file_is_judged_as_its_bytes_are(tmp_path: Path) -> None:
    path = tmp_path / "genesis.alloc"
    genesis = msgspec.structs.replace(GENESIS, allocations=describe_allocations(ALLOTTED))

    @given(damaged(ALLOTTED))
    def read(data: bytes) -> None:
        path.write_bytes(data)
        try:
            assert read_allocations(path, genesis) == data == ALLOTTED
        except GenesisError:
            assert data != ALLOTTED

    read()
