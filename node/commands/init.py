"""``timed init``: make a data directory.

Everything that was given is read and checked first, so that a mistake leaves nothing behind. Then
the directory is filled and, last of all, marked as complete: one that was interrupted in between
is told from a good one, and nothing in it is ever used.
"""

from __future__ import annotations

import os
import shutil
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
from nacl.signing import SigningKey

from node import config, datadir
from node.address import encode_address, prefix_of
from node.datadir import Layout
from node.durable import Directory
from node.errors import UsageError
from node.genesis import (
    Genesis,
    Validator,
    describe_allocations,
    encode_allocations,
    genesis_id,
    genesis_to_json,
    read_allocations,
    read_genesis,
    salt_of,
)
from node.keys import create_key_file, read_key_file
from node.params import KEY_BYTES, UNITS_PER_TIME
from node.signer import STATE_NAME, closed_up_to, write_state
from node.storage.chain import ChainStore

DEV_ALLOCATIONS: Final = 10
DEV_ALLOCATION: Final = 100_000 * UNITS_PER_TIME
DEV_MIN_FEE: Final = 100
DEV_DUST_LIMIT: Final = 100
DEV_REWARD: Final = UNITS_PER_TIME
DEV_BLOCK_BYTES: Final = 16 * 1024 * 1024
DEV_BLOCK_TRANSACTIONS: Final = 50_000


@dataclass(frozen=True, slots=True)
class _Chain:
    genesis: Genesis
    allocations: bytes
    key: SigningKey
    key_is_new: bool


def init(
    where: Layout, network: str | None, genesis_path: Path | None, key_path: Path | None
) -> None:
    """Make a data directory for a chain; prints what was made and what to do next.

    Raises ``DatadirError`` (in use, unwritable, full), ``UsageError``, and what reading a genesis
    or a key raises. After any of them nothing is left behind.
    """
    if genesis_path is None:
        chain = _own_chain(network, key_path)
    else:
        chain = _given_chain(network, genesis_path, key_path)
    existed = where.root.exists()
    datadir.create(where)
    try:
        _fill(where, chain)
    except BaseException:
        _undo(where, existed)
        raise
    _tell(where, chain)


def _given_chain(network: str | None, genesis_path: Path, key_path: Path | None) -> _Chain:
    genesis = read_genesis(genesis_path)
    if network is not None and config.network_of(genesis.chain) != network:
        raise UsageError(
            f"{genesis_path} is the genesis of chain {genesis.chain!r}, not of network {network}",
            f"give --network {config.network_of(genesis.chain)} or another --genesis",
        )
    allocations = read_allocations(genesis_path.with_name("genesis.alloc"), genesis)
    if key_path is None:
        raise UsageError(
            f"{genesis_path} names its validators, and no key was given",
            "give the file of one's key with --validator-key",
        )
    key = read_key_file(key_path)
    public = bytes(key.verify_key).hex()
    if public not in [validator.key for validator in genesis.validators]:
        raise UsageError(
            f"the key in {key_path} is not that of a validator of {genesis_path}",
            "give the --validator-key that belongs to this genesis",
        )
    return _Chain(genesis, allocations, key, key_path is None)


def _own_chain(network: str | None, key_path: Path | None) -> _Chain:
    if network != "dev":
        raise UsageError(
            f"the {network or 'main'} network's genesis is not part of timed",
            "give it with --genesis FILE, or make a chain of your own with --network dev",
        )
    key = SigningKey(os.urandom(KEY_BYTES)) if key_path is None else read_key_file(key_path)
    owner = bytes(key.verify_key)
    allocations = encode_allocations(
        np.full(DEV_ALLOCATIONS, DEV_ALLOCATION, np.uint64),
        np.tile(np.frombuffer(owner, np.uint8), (DEV_ALLOCATIONS, 1)),
    )
    genesis = Genesis(
        chain="dev",
        time_ms=time.time_ns() // 1_000_000,
        min_fee=DEV_MIN_FEE,
        dust_limit=DEV_DUST_LIMIT,
        reward=DEV_REWARD,
        max_block_bytes=DEV_BLOCK_BYTES,
        max_block_transactions=DEV_BLOCK_TRANSACTIONS,
        validators=(Validator(key=owner.hex(), power=1),),
        allocations=describe_allocations(allocations),
    )
    return _Chain(genesis, allocations, key, key_path is None)


def _fill(where: Layout, chain: _Chain) -> None:
    network = config.network_of(chain.genesis.chain)
    datadir.write_new(where.config, config.example(network).encode())
    datadir.write_new(where.genesis, genesis_to_json(chain.genesis))
    datadir.write_new(where.allocations, chain.allocations)
    create_key_file(where.validator_key, bytes(chain.key))
    ChainStore.create(where.store, chain.genesis, where.allocations)
    identity = genesis_id(chain.genesis)
    write_state(
        Directory(where.signer),
        closed_up_to(0),  # nothing was signed yet
        salt_of(identity),
        bytes(chain.key.verify_key),
    )
    datadir.finish(where, identity)


def _undo(where: Layout, existed: bool) -> None:
    """Take away what was made in a directory that was empty before."""
    if not existed:
        shutil.rmtree(where.root, ignore_errors=True)
        return
    for entry in where.root.iterdir():
        if entry.is_dir() and not entry.is_symlink():
            shutil.rmtree(entry, ignore_errors=True)
        else:
            entry.unlink(missing_ok=True)


def _tell(where: Layout, chain: _Chain) -> None:
    genesis = chain.genesis
    address = encode_address(bytes(chain.key.verify_key), prefix_of(genesis.chain))
    total = genesis.allocations.total
    print(f"data directory  {where.root}")
    print(f"chain           {genesis.chain} {genesis_id(genesis).hex()}")
    print(f"validator       {address}")
    print(
        f"outputs         {genesis.allocations.count:,}, "
        f"{total // UNITS_PER_TIME:,}.{total % UNITS_PER_TIME:08} TIME"
    )
    print(f"configuration   {where.config}")
    if not chain.key_is_new:
        print("signs           from height 1 on; if this key signed on this chain before, delete")
        print(f"                {where.signer / STATE_NAME} first,")
        print("                and never run two nodes with one key")
    print(f"start it with   timed run --datadir {where.root}")
