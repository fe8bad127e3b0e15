"""`timed check` on chains of several validators: which blocks were decided, and which were not."""

from __future__ import annotations

import random
import shutil
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import NamedTuple

import pytest
from certificates import certificate_of, encoded
from chains import OWNER_OF, SmallChain, make_genesis
from nacl.signing import SigningKey

from node.block import Block
from node.commands.check import check, check_blocks, check_certificates
from node.commands.init import init
from node.consensus.messages import Certificate, Committed, VoteType
from node.consensus.wire import encode
from node.datadir import Layout, layout
from node.genesis import Genesis, genesis_id, genesis_to_json, salt_of
from node.keys import create_key_file
from node.storage.blockfile import BlockFiles
from node.storage.chain import ChainStore
from node.storage.errors import StoreDamaged

POWERS = (4, 3, 2, 1)  # 7 of 10 are a quorum
N_BLOCKS = 5
N_SIGNATURES = 16


class Datadir(NamedTuple):
    """A data directory and what it was made from."""

    where: Layout
    genesis: Genesis
    salt: bytes
    blocks: list[Block]
    keys: dict[int, SigningKey]  # by the validators' numbers

    def signed(self, height: int, *signers: int, round_: int = 0) -> Certificate:
        """The precommits of these validators for the block at a height."""
        keys = {number: self.keys[number] for number in signers}
        return certificate_of(height, self.value(height), self.salt, keys, round_=round_)

    def value(self, height: int) -> bytes:
        """The id of the block at a height."""
        return self.blocks[height - 1].id(salt_of(genesis_id(self.genesis)))


@pytest.fixture(scope="module")
def pristine(tmp_path_factory: pytest.TempPathFactory) -> Datadir:
    """Some blocks, found among bodies that nobody committed, decided by different quorums."""
    root = tmp_path_factory.mktemp("check")
    genesis, allocations = make_genesis(40, powers=POWERS)
    (root / "genesis.json").write_bytes(genesis_to_json(genesis))
    (root / "genesis.alloc").write_bytes(allocations)
    keys = {n: OWNER_OF[validator.key_bytes] for n, validator in enumerate(genesis.validators)}
    create_key_file(root / "validator.key", bytes(keys[0]))
    where = layout(root / "d")
    init(where, None, root / "genesis.json", root / "validator.key")
    chain = SmallChain(genesis, allocations)
    made = Datadir(where, genesis, chain.salt, [], keys)
    store = ChainStore(where.store, chain.id, cache_mb=4, write_buffer_mb=4)
    files = BlockFiles(where.blocks, chain.id, roll_bytes=3_000)
    with closing(store), closing(files):
        for height in range(1, N_BLOCKS + 1):
            made.blocks.append(chain.random_block(random.Random(height), 3))
            bodies = [made.blocks[-1], chain.block([], 0, proposer=b"x" * 32)]
            bodies = bodies[:: 1 if height % 2 else -1]  # before or behind the one that is decided
            at = {b.id(chain.salt): files.append(b.header.encode(), b.transactions) for b in bodies}
            files.sync()
            chain.ledger.apply(made.blocks[-1])
            signers = ((0, 1), (0, 2, 3), (0, 1, 2, 3))[height % 3]
            certificate = encoded(made.signed(height, *signers, round_=height % 2))
            store.commit(made.blocks[-1], at[chain.ledger.block_id], certificate)
    return made


@pytest.fixture
def d(pristine: Datadir, tmp_path: Path) -> Datadir:
    shutil.copytree(pristine.where.root, tmp_path / "d")
    return pristine._replace(where=layout(tmp_path / "d"))


def opened(d: Datadir) -> ChainStore:
    return ChainStore(d.where.store, genesis_id(d.genesis), cache_mb=4, write_buffer_mb=4)


def replace(d: Datadir, height: int, family: str, value: bytes | None) -> None:
    """Put another entry for a height into the store, or none."""
    with closing(opened(d)) as store, closing(store._db.get_column_family(family)) as entries:
        key = height.to_bytes(8, "big")
        entries.delete(key) if value is None else entries.put(key, value)


def test_every_block_was_decided(d: Datadir, capsys: pytest.CaptureFixture[str]) -> None:
    check(d.where, replaying=True)
    told = capsys.readouterr().out
    assert all(line.startswith("ok   ") for line in told.splitlines()), told
    assert "ok   block files     5 blocks, checksums and order are right\n" in told
    assert "ok   certificates    16 signatures, a quorum's for every block\n" in told
    assert "ok   replay          " in told


def test_a_wrong_certificate_is_a_finding(d: Datadir, capsys: pytest.CaptureFixture[str]) -> None:
    replace(d, 3, "certificates", b"")
    with pytest.raises(StoreDamaged) as caught:
        check(d.where, replaying=True)
    lines = capsys.readouterr().out.splitlines()
    assert [line for line in lines if not line.startswith("ok   ")] == [
        f"bad  certificates    {caught.value.message}"
    ]
    assert caught.value.cause.startswith(
        f"the commit certificate of block 3 in {d.where.store} does not prove that it was decided ("
    )
    assert lines[-1].startswith("ok   replay ")  # what does not depend on it goes on


def altered(certificate: Certificate, **changes: object) -> Certificate:
    fields = {name: getattr(certificate, name) for name in Certificate.__struct_fields__}
    return Certificate(**fields | changes)


def flipped(certificate: Certificate, number: int) -> Certificate:
    """One bit of one signature is another."""
    signatures = list(certificate.signatures)
    validator, signature = signatures[number]
    signatures[number] = (validator, bytes((signature[0] ^ 1,)) + signature[1:])
    return altered(certificate, signatures=tuple(signatures))


def prevotes(d: Datadir) -> Certificate:
    return certificate_of(2, d.value(2), d.salt, d.keys, type_=VoteType.PREVOTE)


WRONG: dict[str, tuple[Callable[[Datadir], bytes | None], str]] = {
    "missing": (lambda d: None, "it is missing"),
    "empty": (lambda d: b"", "truncated"),
    "noise": (lambda d: random.Random(1).randbytes(200), ""),
    "cut": (lambda d: encoded(d.signed(2, 0, 1))[:-1], "truncated"),
    "another message": (lambda d: encode(Committed(2)), "a message of another kind"),
    "prevotes": (lambda d: encoded(prevotes(d)), "it holds no precommits"),
    "of the next block": (lambda d: encoded(d.signed(3, 0, 1)), "at height 3"),
    "of another height": (
        lambda d: encoded(certificate_of(3, d.value(2), d.salt, d.keys)),
        "at height 3",
    ),
    "of another block": (
        lambda d: encoded(certificate_of(2, b"v" * 32, d.salt, d.keys)),
        f"for block {(b'v' * 32).hex()} at height 2",
    ),
    "prevotes called precommits": (
        lambda d: encoded(altered(prevotes(d), type=VoteType.PRECOMMIT)),
        "validator 0 has not signed",
    ),
    "of another round": (
        lambda d: encoded(altered(d.signed(2, 0, 1), round=1)),
        "validator 0 has not signed",
    ),
    "of another chain": (
        lambda d: encoded(d._replace(salt=bytes(16)).signed(2, 0, 1)),
        "validator 0 has not signed",
    ),
    "too little power": (lambda d: encoded(d.signed(2, 1, 2, 3)), "6 of 10 is no quorum"),
    "nobody": (lambda d: encoded(d.signed(2)), "0 of 10 is no quorum"),
    "somebody twice": (
        lambda d: encoded(altered(d.signed(2, 0, 1), signatures=d.signed(2, 0).signatures * 2)),
        "validators must ascend",
    ),
    "not in order": (
        lambda d: encoded(
            altered(d.signed(2, 0, 1), signatures=d.signed(2, 0, 1).signatures[::-1])
        ),
        "validators must ascend",
    ),
    "a validator too many": (
        lambda d: encoded(certificate_of(2, d.value(2), d.salt, d.keys | {4: d.keys[0]})),
        "no validator 4",
    ),
    "without signatures": (
        lambda d: encoded(altered(d.signed(2, 0, 1), signatures=((0, b""), (1, b"")))),
        "a signature has 64 bytes",
    ),
    "the first is forged": (lambda d: encoded(flipped(d.signed(2, 0, 1), 0)), "validator 0 has"),
    "the last is forged, beyond a quorum": (
        lambda d: encoded(flipped(d.signed(2, 0, 1, 2), 2)),
        "validator 2 has not signed",
    ),
    "each other's": (
        lambda d: encoded(certificate_of(2, d.value(2), d.salt, {0: d.keys[1], 1: d.keys[0]})),
        "validator 0 has not signed",
    ),
}


@pytest.mark.parametrize("name", WRONG)
def test_what_is_no_certificate(d: Datadir, name: str) -> None:
    make, told = WRONG[name]
    with closing(opened(d)) as store:
        assert check_certificates(d.where, d.genesis, store) == N_SIGNATURES
    replace(d, 2, "certificates", make(d))
    with closing(opened(d)) as store:
        with pytest.raises(StoreDamaged) as caught:
            check_certificates(d.where, d.genesis, store)
        assert check_blocks(d.where, d.genesis, store) == N_BLOCKS
    assert caught.value.cause.startswith(f"the commit certificate of block 2 in {d.where.store} ")
    assert told in caught.value.cause


def test_a_location_of_another_block(d: Datadir) -> None:
    """Each body checks for itself: what the store names decides which belongs where."""
    with closing(opened(d)) as store, closing(store._db.get_column_family("blocks")) as entries:
        second, third = (entries.get(height.to_bytes(8, "big")) for height in (2, 3))
    told = r"blocks-0000\d\.dat holds another block at \d+ than .* names for height 2; restore"
    for wrong in (third, third[:16] + second[16:]):  # with its id, or without
        replace(d, 2, "blocks", wrong)
        with closing(opened(d)) as store, pytest.raises(StoreDamaged, match=told):
            check_blocks(d.where, d.genesis, store)


def test_an_entry_that_is_gone(d: Datadir) -> None:
    replace(d, 2, "blocks", None)
    with closing(opened(d)) as store:
        for examine in (check_blocks, check_certificates):
            with pytest.raises(StoreDamaged, match="the entry of block 2 is missing"):
                examine(d.where, d.genesis, store)


def test_damage_counts_where_it_was_decided(d: Datadir) -> None:
    identity = genesis_id(d.genesis)
    with closing(opened(d)) as store, closing(BlockFiles(d.where.blocks, identity)) as files:
        committed = [store.block_location(height) for height in range(1, N_BLOCKS + 1)]
        others = [location for location, _ in files.scan() if location not in committed]
        assert len(others) == N_BLOCKS
        assert min(others) < committed[1] < max(others)
        for location in others:
            flip(files.path(location.file), location.end - 1)
        assert check_blocks(d.where, d.genesis, store) == N_BLOCKS
        path = files.path(committed[2].file)
        flip(path, committed[2].end - 1)
        told = f"{path} is damaged at offset {committed[2].offset}: the checksum is wrong; restore"
        with pytest.raises(StoreDamaged, match=told):
            check_blocks(d.where, d.genesis, store)


def flip(path: Path, offset: int) -> None:
    data = bytearray(path.read_bytes())
    data[offset] ^= 1
    path.write_bytes(data)
