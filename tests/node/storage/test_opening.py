"""Opening a store: every trouble is named, and an older format is brought up to date."""

from __future__ import annotations

import os
import random
from pathlib import Path

import pytest
from bodies import apart, block_of, run_apart
from chains import SmallChain
from rocksdict import Options, Rdict
from stores import ALLOCATIONS, GENESIS, ID, NOWHERE, SALT, by_owner, create, indexed, opened

from node.genesis import (
    supply_at,
)
from node.storage.chain import ChainStore
from node.storage.errors import (
    ForeignStore,
    NewerStore,
    OlderStore,
    StoreDamaged,
    StoreError,
    StoreLocked,
    StoreMissing,
    StoreUnwritable,
)


def test_a_missing_store(tmp_path: Path) -> None:
    with pytest.raises(StoreMissing, match=r"no store at .*; run `timed init`"):
        opened(tmp_path / "store")
    assert os.listdir(tmp_path) == []
    (tmp_path / "store").mkdir()
    with pytest.raises(StoreMissing, match="is empty"):
        opened(tmp_path / "store")
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(StoreError, match="Not a directory"):
        opened(tmp_path / "file")


def test_a_foreign_store(tmp_path: Path) -> None:
    path = create(tmp_path)
    with pytest.raises(ForeignStore, match=f"genesis {ID.hex()[:16]}, not to 0000.*; use another"):
        ChainStore(path, bytes(32))
    opened(path).close()  # and the lock is free again


def test_a_newer_store(tmp_path: Path) -> None:
    path = create(tmp_path)
    store = opened(path)
    store._db.put(b"format", (4).to_bytes(4, "little"))
    store.close()
    told = "format 4, and this version knows 3; install .* or restore the backup made before it did"
    with pytest.raises(NewerStore, match=told):
        opened(path)


@pytest.mark.parametrize("how", ["family", "number"])
def test_an_older_store(tmp_path: Path, how: str) -> None:
    path = create(tmp_path)
    if how == "family":  # as format 1 was
        families = {name: Options(raw_mode=True) for name in Rdict.list_cf(str(path))}
        database = Rdict(str(path), Options(raw_mode=True), column_families=families)
        for name in ("certificates", "heights", "addresses"):
            database.drop_column_family(name)
        database.put(b"format", (1).to_bytes(4, "little"))
        database.close()
        del database
    else:
        store = opened(path)
        store._db.put(b"format", (1).to_bytes(4, "little"))
        store.close()
    told = f"{path} was made by an older version .*; make a new data directory with `timed init`"
    with pytest.raises(OlderStore, match=told):
        opened(path)


def test_a_family_of_a_newer_version(tmp_path: Path) -> None:
    path = create(tmp_path)
    store = opened(path)
    family = store._db.create_column_family("snapshots", Options(raw_mode=True))
    family.close()
    store.close()
    told = f"{path} was written by a newer version .*snapshots.*; install .* or restore the backup"
    with pytest.raises(NewerStore, match=told):
        opened(path)


HOLD = """
import sys
from pathlib import Path
from node.storage.chain import ChainStore
store = ChainStore(Path(sys.argv[1]), bytes.fromhex(sys.argv[2]))
print("open", flush=True)
import signal
signal.pause()
"""


def test_a_store_in_use(tmp_path: Path) -> None:
    path = create(tmp_path)
    with apart(HOLD, path, ID.hex()) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "open\n"
        with pytest.raises(StoreLocked, match=f"{path} is in use by process {process.pid}; stop"):
            opened(path)
        process.kill()
    store = opened(path)
    with pytest.raises(StoreLocked, match="in use by this process"):
        opened(path)
    store.close()
    opened(path).close()


@pytest.mark.parametrize("pattern", ["CURRENT", "MANIFEST-*", "*.sst"])
@pytest.mark.parametrize("how", ["missing", "cut", "flipped"])
def test_damage(tmp_path: Path, pattern: str, how: str) -> None:
    """Found at opening or, at the latest, by a reader of all outputs, which `timed check` is."""
    path = create(tmp_path)
    victims = sorted(path.glob(pattern))
    assert victims
    for victim in victims:
        data = victim.read_bytes()
        if how == "missing":
            victim.unlink()
        elif how == "cut":
            victim.write_bytes(data[: len(data) // 2])
        else:
            victim.write_bytes(bytes(byte ^ 0x55 for byte in data))
    with pytest.raises(StoreDamaged, match=f"{path}.*; restore the data directory"):
        opened(path)


@pytest.mark.parametrize("value", [None, b"?"])
def test_a_missing_block_entry(tmp_path: Path, value: bytes | None) -> None:
    path = create(tmp_path)
    store = opened(path)
    previous = ID
    for height in (1, 2):
        store.commit(block_of([], SALT, height=height, previous=previous), NOWHERE, b"")
        previous = store.tip.block_id
    for height in (1, 2):
        key = height.to_bytes(8, "big")
        for family in ("blocks", "certificates"):
            entries = store._db.get_column_family(family)
            entries.delete(key)
            if value is not None and family == "blocks":
                entries.put(key, value)
            entries.close()
        assert store.certificate(height) is None
        with pytest.raises(StoreDamaged, match=f"the entry of block {height} is missing or"):
            store.block_location(height)
    store.close()
    with pytest.raises(StoreDamaged, match="the entry of block 2 is missing or"):
        opened(path)


@pytest.mark.parametrize("key", [b"format", b"genesis", b"issue", b"tip"])
def test_missing_entries(tmp_path: Path, key: bytes) -> None:
    path = create(tmp_path)
    store = opened(path)
    store._db.put(key, b"?")
    store.close()
    with pytest.raises(StoreDamaged):
        opened(path)


UNWRITABLE = """
import sys
from pathlib import Path
from bodies import without_rights
from node.storage.chain import ChainStore
from node.storage.errors import StoreError
without_rights()
try:
    ChainStore(Path(sys.argv[1]), bytes.fromhex(sys.argv[2])).close()
except StoreError as error:
    print(type(error).__name__, error.message)
"""


@pytest.mark.parametrize(("name", "mode"), [(".", 0o000), (".", 0o500), ("LOCK", 0o000)])
def test_no_permission(tmp_path: Path, name: str, mode: int) -> None:
    path = create(tmp_path)
    (path / name).chmod(mode)
    told = run_apart(UNWRITABLE, path, ID.hex())
    (path / name).chmod(0o700)
    assert told.startswith(f"{StoreUnwritable.__name__} cannot open {path}")
    assert "Permission denied" in told
    assert told.endswith("give the node's user read and write access to it\n")


def test_a_store_of_format_2_gets_what_it_lacks(tmp_path: Path) -> None:
    chain = SmallChain(GENESIS, ALLOCATIONS)
    path = create(tmp_path)
    store = opened(path)
    ids = []
    for number in range(3):
        block = chain.random_block(random.Random(number), 3)
        chain.ledger.apply(block)
        store.commit(block, NOWHERE, b"")
        ids.append(store.tip.block_id)
    store._db.put(b"format", (2).to_bytes(4, "little"))
    store._db.delete(b"addresses")
    store.close()
    families = {name: Options(raw_mode=True) for name in Rdict.list_cf(str(path))}
    database = Rdict(str(path), Options(raw_mode=True), column_families=families)
    for name in ("heights", "addresses"):
        database.drop_column_family(name)
    database.close()
    del database
    for upgraded_from in (2, None):
        store = ChainStore(path, ID, cache_mb=4, write_buffer_mb=4, address_index=True)
        assert store.upgraded_from == upgraded_from
        assert [store.height_of(each) for each in ids] == [1, 2, 3]
        assert store.height_of(ID) is None
        assert indexed(store) == by_owner(store)
        assert store.issued == supply_at(GENESIS, 3)
        store.close()
