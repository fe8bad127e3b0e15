"""A small chain and its store, made and opened."""

from __future__ import annotations

from pathlib import Path

from chains import make_genesis

from node.genesis import (
    Genesis,
    genesis_id,
    salt_of,
)
from node.storage.blockfile import BodyLocation
from node.storage.chain import ChainStore, output_set_digest

GENESIS, ALLOCATIONS = make_genesis(600)
ID = genesis_id(GENESIS)
SALT = salt_of(ID)
NOWHERE = BodyLocation(0, 64, 152)


def create(directory: Path, genesis: Genesis = GENESIS, data: bytes = ALLOCATIONS) -> Path:
    (directory / "genesis.alloc").write_bytes(data)
    ChainStore.create(directory / "store", genesis, directory / "genesis.alloc")
    return directory / "store"


def opened(path: Path) -> ChainStore:
    return ChainStore(path, ID, cache_mb=4, write_buffer_mb=4)


def digest(outputs: dict[bytes, bytes]) -> bytes:
    return output_set_digest(sorted(outputs.items()))


def by_owner(store: ChainStore) -> dict[bytes, dict[bytes, int]]:
    """What the index by owner must hold, from the outputs themselves."""
    found: dict[bytes, dict[bytes, int]] = {}
    for outpoint, output in store.iterate_outputs():
        found.setdefault(output[8:], {})[outpoint] = int.from_bytes(output[:8], "little")
    return found


def indexed(store: ChainStore) -> dict[bytes, dict[bytes, int]]:
    """What the index by owner does hold."""
    return {owner: dict(store.unspent_of(owner, b"", 10_000)) for owner in by_owner(store)}
