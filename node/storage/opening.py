"""Opening a store that is there: what can be said before RocksDB, its format, and older formats.

Called by ``node.storage.chain``; reads and, for an older format, writes the database that it
opens. A death in the middle of filling in leaves the old format, and the next opening begins
again.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import NamedTuple

from rocksdict import Rdict, WriteBatch

from node.params import ID_BYTES
from node.storage.causes import format_of, older
from node.storage.creation import BUILDING_SUFFIX
from node.storage.database import FILL_AT_ONCE, Database, Settings
from node.storage.entries import (
    BLOCK_KEY,
    FORMAT,
    HEIGHT,
    ISSUE,
    META_FORMAT,
    META_GENESIS,
    META_ISSUE,
    META_TIP,
    OLDEST_FORMAT,
    STORE_FORMAT,
    TIP,
    Tip,
    damaged,
    read_block,
    read_meta,
)
from node.storage.errors import (
    DAMAGED_REMEDY,
    NEWER_REMEDY,
    ForeignStore,
    NewerStore,
    StoreDamaged,
    StoreMissing,
    store_error,
)

READ_AHEAD_BYTES = 128 * 1024  # Linux cuts one request to the read-ahead of the device


class Description(NamedTuple):
    """What a store says of itself: its tip, the reward of a block, the units allocated, and the
    older format that was brought up to date, None if it was none.
    """

    tip: Tip
    reward: int
    allocated: int
    upgraded_from: int | None


def check_place(path: Path) -> None:
    """Raise what there is to say without opening the database (which would create files)."""
    try:
        if "CURRENT" in (names := os.listdir(path)):
            return
    except FileNotFoundError:
        if path.with_name(path.name + BUILDING_SUFFIX).exists():
            raise StoreMissing(
                f"there is no store at {path}, only one whose creation was interrupted",
                "run `timed init` again",
            ) from None
        raise StoreMissing(f"there is no store at {path}", "run `timed init` first") from None
    except OSError as error:
        raise store_error(error, path, "open") from error
    if not names:
        raise StoreMissing(f"{path} is empty", "remove it and run `timed init`")
    raise StoreDamaged(f"{path} is damaged: its file CURRENT is missing", DAMAGED_REMEDY)


def open_database(path: Path, settings: Settings) -> Database:
    """Open the database of a store of this format, or of one that can be brought to it."""
    _read_ahead(path)
    return Database(path, settings, add_families=_may_lack_families(path))


def describe(database: Database, path: Path, genesis_id: bytes) -> Description:
    """Return what the store says of itself, brought to this format if it was older.

    Raises ForeignStore, NewerStore, OlderStore, StoreDamaged, and what RocksDB raises.
    """
    rocks = database.rocks
    version = read_meta(rocks, path, META_FORMAT, FORMAT)[0]
    if version > STORE_FORMAT:
        raise NewerStore(
            f"{path} has format {version}, and this version knows {STORE_FORMAT}",
            NEWER_REMEDY,
        )
    if version < OLDEST_FORMAT:
        raise older(path)
    found = rocks.get(META_GENESIS)
    if found is None or len(found) != ID_BYTES:
        raise damaged(path, "the genesis id is missing")
    if found != genesis_id:
        raise ForeignStore(
            f"{path} belongs to the chain with genesis {found.hex()[:16]},"
            f" not to {genesis_id.hex()[:16]}",
            "use another data directory or the right genesis.json",
        )
    reward, allocated = read_meta(rocks, path, META_ISSUE, ISSUE)
    height, time_ms, identity = read_meta(rocks, path, META_TIP, TIP)
    location = None
    if height:
        entry = database.families["blocks"].get(BLOCK_KEY.pack(height))
        location, recorded = read_block(entry, path, height)
        if recorded != identity:
            raise damaged(path, f"tip and block index disagree at height {height}")
    older_format = version if version < STORE_FORMAT else None
    if older_format is not None:
        _upgrade(database, path, height)
    return Description(Tip(height, identity, time_ms, location), reward, allocated, older_format)


def _may_lack_families(path: Path) -> bool:
    """Whether this is a store of format 2, which gets what it lacks."""
    return "heights" not in Rdict.list_cf(str(path)) and format_of(path) == OLDEST_FORMAT


def _upgrade(database: Database, path: Path, tip: int) -> None:
    """Fill in what format 2 did not keep: the heights by block id."""
    blocks, heights = database.families["blocks"], database.handles["heights"]
    height = 0
    while height < tip:
        batch = WriteBatch(raw_mode=True)
        for _ in range(min(FILL_AT_ONCE, tip - height)):
            height += 1
            _, identity = read_block(blocks.get(BLOCK_KEY.pack(height)), path, height)
            batch.put(identity, HEIGHT.pack(height), heights)
        database.rocks.write(batch)
    batch = WriteBatch(raw_mode=True)
    batch.put(META_FORMAT, FORMAT.pack(STORE_FORMAT), database.handles["default"])
    database.rocks.write(batch, database.synced)


def _read_ahead(path: Path) -> None:
    """Have the kernel read the newest tables into its page cache, up to half of the free memory.

    Without it the first payments after a start wait for the disk, one random read each: admission
    ran at a fifth of its rate for the first second (measured, 1 M outputs).
    """
    budget = os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") // 2
    tables = sorted(path.glob("*.sst"), key=lambda table: table.stat().st_mtime, reverse=True)
    for table in tables:
        fd = os.open(table, os.O_RDONLY | os.O_CLOEXEC)
        try:
            size = os.fstat(fd).st_size
            budget -= size
            if budget < 0:
                return
            for offset in range(0, size, READ_AHEAD_BYTES):
                os.posix_fadvise(fd, offset, READ_AHEAD_BYTES, os.POSIX_FADV_WILLNEED)
        finally:
            os.close(fd)
