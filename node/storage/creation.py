"""The store of a new chain, made from its genesis and the allocation file.

Called through `ChainStore.create` by `timed init` and the tools. Owns the directory with ".tmp"
appended while it builds; a death at any moment leaves that directory, which the next attempt
removes, and no store.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from rocksdict import IngestExternalFileOptions, Rdict, SstFileWriter, WriteBatch

from node.genesis import Genesis, allocation_txid, genesis_id, read_allocations, salt_of
from node.params import ALLOCATIONS_PER_ID, ID_BYTES, OUTPUT_BYTES
from node.storage.causes import explain
from node.storage.changes import AMOUNT_BYTES, OWNER_KEY_BYTES, OWNER_PREFIX_BYTES
from node.storage.database import SMALL_BUFFER_BYTES, Settings, synced
from node.storage.entries import (
    FORMAT,
    ISSUE,
    META_ADDRESSES,
    META_FORMAT,
    META_GENESIS,
    META_ISSUE,
    META_TIP,
    POSITION,
    STORE_FORMAT,
    TIP,
)
from node.storage.errors import StoreError, StoreExists, store_error
from node.storage.owners import COMPLETE

BUILDING_SUFFIX = ".tmp"


def create_store(path: Path, genesis: Genesis, allocations: Path) -> None:
    """Build the store of a new chain from its genesis and the allocation file.

    It appears under ``path`` complete and durable, or not at all: it is built beside, under the
    name with ".tmp" appended, and renamed. What an interrupted attempt left there is removed
    first. Raises GenesisError (allocations) and StoreError.
    """
    if path.exists():
        raise StoreExists(f"{path} exists", "use it, or move it away before creating a new chain")
    data = read_allocations(allocations, genesis)
    building = path.with_name(path.name + BUILDING_SUFFIX)
    try:
        if building.exists():
            shutil.rmtree(building)
        building.mkdir(mode=0o700)
        _build(building, genesis, data)
        for name in os.listdir(building):
            _sync(building / name)
        _sync(building)
        os.rename(building, path)
        _sync(path.parent)
    except StoreError:
        raise
    except OSError as error:
        raise store_error(error, path, "create") from error
    except Exception as error:
        raise explain(error, path, "create") from error


def _build(path: Path, genesis: Genesis, allocations: bytes) -> None:
    identity = genesis_id(genesis)
    settings = Settings(8, 8)
    database = Rdict(
        str(path),
        settings.options(SMALL_BUFFER_BYTES, create=True),
        column_families=settings.families(create=True),
    )
    try:
        if allocations:
            _ingest(path, database, settings, allocations, salt_of(identity))
        batch = WriteBatch(raw_mode=True)
        batch.put(META_FORMAT, FORMAT.pack(STORE_FORMAT))
        batch.put(META_ADDRESSES, COMPLETE)
        batch.put(META_GENESIS, identity)
        batch.put(META_ISSUE, ISSUE.pack(genesis.reward, genesis.allocations.total))
        batch.put(META_TIP, TIP.pack(0, genesis.time_ms, identity))
        database.write(batch, synced())
    finally:
        database.close()


def _ingest(path: Path, database: Any, settings: Settings, allocations: bytes, salt: bytes) -> None:
    """Write the allocations as sorted tables and let the database take them over as they are."""
    count = -(-len(allocations) // (ALLOCATIONS_PER_ID * OUTPUT_BYTES))
    txids = [allocation_txid(number, salt) for number in range(count)]
    indices = [bytes((index,)) for index in range(ALLOCATIONS_PER_ID)]
    names = ("outputs", "transactions", "addresses")
    tables = []
    for name in names:
        table = SstFileWriter(settings.options(SMALL_BUFFER_BYTES, create=True))
        table.open(str(path / f"{name}.ingest"))
        tables.append(table)
    outputs, index, addresses = tables
    for txid, number in sorted(zip(txids, range(count), strict=True)):
        start = number * ALLOCATIONS_PER_ID * OUTPUT_BYTES
        end = min(start + ALLOCATIONS_PER_ID * OUTPUT_BYTES, len(allocations))
        offsets = range(start, end, OUTPUT_BYTES)
        for offset, suffix in zip(offsets, indices, strict=False):
            outputs[txid + suffix] = allocations[offset : offset + OUTPUT_BYTES]
        index[txid] = POSITION.pack(0, number, len(offsets))
    for key in _owner_keys(allocations, txids):
        addresses[key] = b""
    moving = IngestExternalFileOptions()
    moving.set_move_files(True)
    for name, table in zip(names, tables, strict=True):
        table.finish()
        family = database.get_column_family(name)
        family.ingest_external_file([str(path / f"{name}.ingest")], moving)
        family.close()


def _owner_keys(allocations: bytes, txids: Sequence[bytes]) -> list[bytes]:
    """The keys of all allocations in the index by owner, ascending; ``txids`` by number."""
    outputs = np.frombuffer(allocations, np.uint8).reshape(-1, OUTPUT_BYTES)
    numbers, indices = np.divmod(np.arange(len(outputs)), ALLOCATIONS_PER_ID)
    keys = np.empty((len(outputs), OWNER_KEY_BYTES), np.uint8)
    keys[:, :OWNER_PREFIX_BYTES] = outputs[:, AMOUNT_BYTES:][:, :OWNER_PREFIX_BYTES]
    ids = np.frombuffer(b"".join(txids), np.uint8).reshape(-1, ID_BYTES)
    keys[:, OWNER_PREFIX_BYTES:-1] = ids[numbers]
    keys[:, -1] = indices
    strings = np.sort(keys.view(f"S{OWNER_KEY_BYTES}").ravel())
    ordered: list[bytes] = strings.view(f"V{OWNER_KEY_BYTES}").tolist()  # S would lose zeros
    return ordered


def _sync(path: Path) -> None:
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
