"""The RocksDB of the store: its column families, their options, and how it is opened.

Opened by ``node.storage.chain`` in the consensus stage alone, created by
``node.storage.creation``. Owns the directory's lock while it is open; lets exceptions of RocksDB
through, which callers explain (``node.storage.causes``).
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from typing import Any

from rocksdict import (
    BlockBasedOptions,
    Cache,
    DataBlockIndexType,
    DBCompressionType,
    DBRecoveryMode,
    Options,
    Rdict,
    WriteOptions,
)

WAL_BYTES = 64 << 20  # what an opening after a crash has to read again, at most: about a second
FILL_AT_ONCE = 20_000  # entries that an opening fills in, per write
MEMTABLES_AT_ONCE = 32  # of the index by owner, written out together
SMALL_BUFFER_BYTES = 1 << 20  # of families that get one entry a block


class Settings:
    """RocksDB options of the seven families, sharing one block cache."""

    def __init__(self, cache_mb: int, write_buffer_mb: int) -> None:
        self._cache = Cache(cache_mb << 20)
        self._write_buffer_bytes = write_buffer_mb << 20

    def families(self, *, create: bool) -> dict[str, Any]:
        """Options by name of family, all but `default`."""
        # per transaction of one input and two outputs: three output keys, one index key
        return {
            "outputs": self.options(self._write_buffer_bytes * 3 // 4, create=create),
            "transactions": self.options(self._write_buffer_bytes // 4, create=create),
            "blocks": self.options(SMALL_BUFFER_BYTES, create=create),
            "certificates": self.options(SMALL_BUFFER_BYTES, create=create),
            "heights": self.options(SMALL_BUFFER_BYTES, create=create),
            "addresses": self._by_owner(self._write_buffer_bytes // 2, create=create),
        }

    def _by_owner(self, write_buffer_bytes: int, *, create: bool) -> Any:
        """Options of the index by owner, which is written with every block and seldom read.

        Putting a key into a memtable is a search in it, and what that costs is the memory that is
        not in a processor's cache: many small memtables halve it. Written out together, they make
        tables as large as one memtable would. A question seeks in each, which is nothing. Memtables
        that large batches make larger than they should be are still bounded: by WAL_BYTES.
        """
        options = self.options(write_buffer_bytes // MEMTABLES_AT_ONCE, create=create)
        options.set_min_write_buffer_number_to_merge(MEMTABLES_AT_ONCE)
        options.set_max_write_buffer_number(2 * MEMTABLES_AT_ONCE)
        options.set_memtable_prefix_bloom_ratio(0)  # nothing is looked up by its whole key
        options.set_memtable_whole_key_filtering(False)
        return options

    def options(
        self, write_buffer_bytes: int, *, create: bool, families: bool | None = None
    ) -> Any:
        """Options of one family; ``families``: create those that are missing (as ``create``)."""
        table = BlockBasedOptions()
        table.set_block_cache(self._cache)
        table.set_bloom_filter(10, False)
        table.set_format_version(5)
        table.set_data_block_index_type(DataBlockIndexType.binary_and_hash())
        table.set_data_block_hash_ratio(0.75)
        options = Options(raw_mode=True)
        options.create_if_missing(create)
        options.create_missing_column_families(create if families is None else families)
        options.set_block_based_table_factory(table)
        options.set_compression_type(DBCompressionType.none())  # keys are hashes
        options.set_write_buffer_size(write_buffer_bytes)
        # Most gets miss the memtable: a bloom filter there halves their cost.
        options.set_memtable_prefix_bloom_ratio(0.05)
        options.set_memtable_whole_key_filtering(True)
        options.set_allow_concurrent_memtable_write(False)  # one writer: 10 % cheaper
        # Never forget a committed block: only a torn end of the log is cut, damage is an error.
        options.set_wal_recovery_mode(DBRecoveryMode.tolerate_corrupted_tail_records())
        options.set_max_total_wal_size(WAL_BYTES)
        options.set_level_zero_file_num_compaction_trigger(8)  # half the rewriting of the default
        options.set_max_background_jobs(2)
        options.set_keep_log_file_num(2)
        options.set_max_log_file_size(1 << 20)
        return options


class Database:
    """The open database; one thread of one process uses it.

    ``rocks`` reads the family `default` and writes batches, ``families`` reads each other family,
    ``handles`` name them all in a write batch, ``synced`` makes a write durable.
    """

    def __init__(self, path: Path, settings: Settings, *, add_families: bool) -> None:
        options = settings.families(create=False)
        self.rocks: Any = Rdict(
            str(path),
            settings.options(SMALL_BUFFER_BYTES, create=False, families=add_families),
            column_families=options,
        )
        self.families: dict[str, Any] = {
            name: self.rocks.get_column_family(name) for name in options
        }
        self.handles: dict[str, Any] = {
            name: self.rocks.get_column_family_handle(name) for name in ("default", *options)
        }
        self.synced = synced()

    def close(self) -> None:
        """Close it and let go of its lock.

        RocksDB writes out what is in memory first, and a full disk has no room for that: it is in
        the log of the store already, and read from there at the next opening.
        """
        for each in (*self.families.values(), self.rocks):
            with suppress(Exception):  # the binding raises nothing more exact
                each.close()
        self.handles.clear()  # every handle keeps the database alive, and with it the lock


def synced() -> WriteOptions:
    """Options of a write that is durable when it returns."""
    options = WriteOptions()
    options.sync = True
    return options


def exhaust(calls: Iterable[object]) -> None:
    """Make the calls that an iterator stands for."""
    deque(calls, maxlen=0)
