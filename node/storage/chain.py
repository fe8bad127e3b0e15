"""The chain store: which outputs are unspent, where transactions and blocks lie, and the tip.

One RocksDB that the consensus stage alone opens. A committed block arrives with the location of
its body in the block files and the certificate of its decision; everything that it changes goes
into one synced write batch, so the store is always exactly at some height, whatever kills the
process. Bodies are never read here, certificates never decoded. Queries come from the mempool
(`get_outputs`, `find_transaction`) and, through consensus, from the RPC and from peers that catch
up (`certificate`).

Column families (all integers little-endian unless said):
outputs       outpoint[33] -> value u64, owner[32]
transactions  txid[32] -> height u32, position u32, n_outputs u8 (allocations and rewards too)
blocks        height u64 big-endian -> file u32, offset u64, length u32, block id[32]
certificates  height u64 big-endian -> commit certificate, as `node.consensus.wire` encodes it
heights       block id[32] -> height u64
addresses     owner[32], outpoint[33] -> value u64: the unspent outputs once more, by owner; may be
              switched off, and is then empty
default       "format" u32; "addresses" present if that index is complete; "genesis" id[32];
              "issue" reward u64, allocated u64; "tip" height u64,
              time_ms u64, block id[32]
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import shutil
import struct
from collections import deque
from collections.abc import Iterable, Iterator
from itertools import islice, repeat
from operator import delitem, setitem
from pathlib import Path
from typing import Any, NamedTuple

from rocksdict import (
    AccessType,
    BlockBasedOptions,
    Cache,
    DataBlockIndexType,
    DbClosedError,
    DBCompressionType,
    DBRecoveryMode,
    IngestExternalFileOptions,
    Options,
    Rdict,
    SstFileWriter,
    WriteBatch,
    WriteOptions,
)

from node.block import Block, TxPosition, block_id, encode_output, reward_txid
from node.genesis import (
    Genesis,
    allocation_txid,
    genesis_id,
    read_allocations,
    reward_between,
    salt_of,
)
from node.params import (
    ALLOCATIONS_PER_ID,
    ID_BYTES,
    MAX_AMOUNT,
    OUTPUT_BYTES,
)
from node.storage.blockfile import BodyLocation
from node.storage.changes import (
    ADDRESS_KEY_BYTES,
    POSITION_BYTES,
    address_changes,
    store_changes,
)
from node.storage.errors import (
    DAMAGED_REMEDY,
    DENIED_REMEDY,
    FAILED_REMEDY,
    FULL_REMEDY,
    ForeignStore,
    NewerStore,
    OlderStore,
    StoreDamaged,
    StoreError,
    StoreExists,
    StoreFailed,
    StoreFull,
    StoreLocked,
    StoreMissing,
    StoreUnwritable,
    store_error,
)

STORE_FORMAT = 3  # 1 kept no certificates; 2 no heights by id: they are filled in
OLDEST_FORMAT = 2
READ_AHEAD_BYTES = 128 * 1024  # Linux cuts one request to the read-ahead of the device
BUILDING_SUFFIX = ".tmp"
WAL_BYTES = 64 << 20  # what an opening after a crash has to read again, at most: about a second

_META_FORMAT = b"format"
_META_GENESIS = b"genesis"
_META_ISSUE = b"issue"
_META_TIP = b"tip"
_META_ADDRESSES = b"addresses"

FILL_AT_ONCE = 20_000  # entries of an index that is being built, per write

_FORMAT = struct.Struct("<I")
_ISSUE = struct.Struct("<QQ")
_TIP = struct.Struct("<QQ32s")
_POSITION = struct.Struct("<IIB")
_BLOCK = struct.Struct("<IQI32s")
_BLOCK_KEY = struct.Struct(">Q")
_HEIGHT = struct.Struct("<Q")


# how the parts of RocksDB that return text name what errno names (strerror, and its own words)
_FULL_WORDS = ("No space left on device", "File too large", "Disk quota exceeded", "Space limit")
_DENIED_WORDS = ("Permission denied", "Read-only file system", "Operation not permitted")
_DAMAGE_WORDS = ("Corruption", "No such file or directory", "does not exist")

assert _POSITION.size == POSITION_BYTES


class Tip(NamedTuple):
    """The last committed block; at height 0 the genesis, which has no body."""

    height: int
    block_id: bytes
    time_ms: int
    location: BodyLocation | None


class ChainStore:
    """The store of one chain, opened for reading and writing; one thread of one process uses it.

    ``cache_mb`` bounds the block cache, ``write_buffer_mb`` the memtables being filled (while one
    is being flushed, twice that). ``address_index`` switches the index by owner on (it is built
    from all outputs) or off (it is removed); None leaves it as it is. Raises StoreMissing,
    StoreLocked, ForeignStore, NewerStore, OlderStore, StoreDamaged, StoreFull, StoreUnwritable,
    StoreFailed; each names the path, the cause and the remedy.
    """

    _outputs: Any
    _transactions: Any
    _blocks: Any
    _certificates: Any
    _heights: Any
    _addresses: Any

    def __init__(
        self,
        path: Path,
        genesis_id: bytes,
        *,
        cache_mb: int = 64,
        write_buffer_mb: int = 32,
        address_index: bool | None = None,
    ) -> None:
        self._path = path
        self._salt = salt_of(genesis_id)
        self._failed = False
        self._tip: Tip
        self._db: Any = None
        self._has_addresses = False
        _check_place(path)
        try:
            _read_ahead(path)
            self._open(_Settings(cache_mb, write_buffer_mb))
            self._read_meta(genesis_id)
            self._switch_addresses(address_index)
        except StoreError:
            self.close()
            raise
        except Exception as error:
            self.close()
            raise _explain(error, path, "open") from error

    @staticmethod
    def create(path: Path, genesis: Genesis, allocations: Path) -> None:
        """Build the store of a new chain from its genesis and the allocation file.

        It appears under ``path`` complete and durable, or not at all: it is built beside, under
        the name with ".tmp" appended, and renamed. What an interrupted attempt left there is
        removed first. Raises GenesisError (allocations) and StoreError.
        """
        if path.exists():
            raise StoreExists(
                f"{path} exists", "use it, or move it away before creating a new chain"
            )
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
            raise _explain(error, path, "create") from error

    # Queries

    @property
    def tip(self) -> Tip:
        """The last committed block."""
        return self._tip

    def get_outputs(self, outpoints: list[bytes]) -> list[bytes | None]:
        """Return the unspent output (40 bytes) at each outpoint (33 bytes), or None, in order."""
        try:
            found: list[bytes | None] = self._get_output(outpoints)
        except Exception as error:
            raise _explain(error, self._path, "read") from error
        return found

    def find_transaction(self, txid: bytes) -> TxPosition | None:
        """Return the position of a final transaction, allocation id or reward, or None."""
        try:
            value = self._get_transaction(txid)
        except Exception as error:
            raise _explain(error, self._path, "read") from error
        return None if value is None else TxPosition(*_POSITION.unpack(value))

    def block_location(self, height: int) -> BodyLocation:
        """Return where the body of the block at a height (1..tip) lies; KeyError at others."""
        return self._committed(height)[0]

    def block_id(self, height: int) -> bytes:
        """Return the id of the block at a height (1..tip); KeyError at others."""
        return self._committed(height)[1]

    def height_of(self, identity: bytes) -> int | None:
        """Return the height of the committed block with this id, or None."""
        try:
            value = self._heights.get(identity)
        except Exception as error:
            raise _explain(error, self._path, "read") from error
        if value is None:
            return None
        (height,) = _HEIGHT.unpack(value)
        assert isinstance(height, int)
        return height

    @property
    def issued(self) -> int:
        """All units that there are: the allocations and every reward so far."""
        units: int = self._allocated + self._reward * self._tip.height
        return min(MAX_AMOUNT, units)

    @property
    def address_index(self) -> bool:
        """Whether `unspent_of` has answers."""
        return self._has_addresses

    def unspent_of(self, owner: bytes, after: bytes, at_most: int) -> list[tuple[bytes, int]]:
        """Return (outpoint, value) of an owner's outputs, ascending, from behind an outpoint on.

        ``after`` is an outpoint[33] or b"". Empty when there is no index.
        """
        found: list[tuple[bytes, int]] = []
        first = owner + after
        try:
            cursor = self._addresses.iter()
            cursor.seek(first)
            while cursor.valid() and len(found) < at_most:
                key = cursor.key()
                if not key.startswith(owner):
                    break
                if key != first:
                    found.append((key[len(owner) :], int.from_bytes(cursor.value(), "little")))
                cursor.next()
            cursor.status()
        except Exception as error:
            raise _explain(error, self._path, "read") from error
        return found

    def certificate(self, height: int) -> bytes | None:
        """Return the commit certificate of the block at a height, as it was given to `commit`.

        None at height 0, where nothing was voted on, and above the tip.
        """
        if not 0 < height <= self._tip.height:
            return None
        try:
            value: bytes | None = self._certificates.get(_BLOCK_KEY.pack(height))
        except Exception as error:
            raise _explain(error, self._path, "read") from error
        return value

    def iterate_outputs(self) -> Iterator[tuple[bytes, bytes]]:
        """Yield every (outpoint, output), in ascending order of outpoints, as of the call."""
        cursor = self._outputs.iter()
        try:
            cursor.seek_to_first()
            while cursor.valid():
                yield cursor.key(), cursor.value()
                cursor.next()
            cursor.status()  # an iterator that meets damage just ends: ask it why
        except Exception as error:
            raise _explain(error, self._path, "read") from error

    def output_set_digest(self) -> bytes:
        """Return BLAKE2b-256 over all outpoints and outputs in order: equal sets, equal digests."""
        return output_set_digest(self.iterate_outputs())

    def supply(self) -> int:
        """Return the sum of all unspent outputs, in units, by reading every one of them."""
        return sum(int.from_bytes(output[:8], "little") for _, output in self.iterate_outputs())

    # Commits

    def commit(self, block: Block, location: BodyLocation, certificate: bytes) -> None:
        """Apply a block that is valid on top of the tip, durably and as a whole.

        Its body must be durable at ``location`` already; ``certificate`` proves its decision and is
        kept as it is. Returns after the write was synced. Raises ValueError when the block does
        not follow the tip (ours: nothing is written), StoreError when the disk fails; the store
        must then be opened anew, at the old tip or the new one.
        """
        header = block.header
        if header.height != self._tip.height + 1 or header.previous != self._tip.block_id:
            raise ValueError(f"block {header.height} does not follow tip {self._tip.height}")
        if self._db is None:
            self._refuse(block)
        if self._failed:
            raise StoreFailed(
                f"an earlier write to {self._path} failed, so nothing more is written",
                "start the node again",
            )
        identity = block_id(header.encode(), self._salt)
        batch = self._batch(block, identity, location, certificate)
        try:
            self._db.write(batch, self._synced)
        except Exception as error:
            self._failed = True
            raise _explain(error, self._path, "write") from error
        self._tip = Tip(header.height, identity, header.time_ms, location)

    def close(self) -> None:
        """Close the store; nothing is lost when a process dies without it."""
        if self._db is None:
            return
        self._get_output = self._get_transaction = self._refuse
        for family in (
            self._outputs,
            self._transactions,
            self._blocks,
            self._certificates,
            self._heights,
            self._addresses,
        ):
            family.close()
        self._db.close()
        # every handle keeps the database alive, and with it the lock
        self._outputs_handle = self._transactions_handle = None
        self._blocks_handle = self._certificates_handle = self._default_handle = None
        self._heights_handle = self._addresses_handle = None
        self._db = None

    def _refuse(self, _: object) -> Any:
        raise StoreFailed(f"{self._path} is closed", "open it again")

    def _batch(
        self, block: Block, identity: bytes, location: BodyLocation, certificate: bytes
    ) -> Any:
        """The write batch of a block, family by family, in the order that `store_changes` gives."""
        header = block.header
        batch: Any = WriteBatch(raw_mode=True)
        if block.transactions:
            spent, created, values, ids, positions = store_changes(block)
            batch.set_default_column_family(self._outputs_handle)
            _exhaust(map(delitem, repeat(batch), spent))
            _exhaust(map(setitem, repeat(batch), created, values))
            batch.set_default_column_family(self._transactions_handle)
            _exhaust(map(setitem, repeat(batch), ids, positions))
            if self._has_addresses:
                owned, amounts, freed = address_changes(block)
                batch.set_default_column_family(self._addresses_handle)
                _exhaust(map(setitem, repeat(batch), owned, amounts))
                _exhaust(map(delitem, repeat(batch), freed))
        reward = header.fees + reward_between(self._reward, self._allocated, header.height)
        if reward:
            txid = reward_txid(header.height, header.previous, self._salt)
            output = encode_output(reward, header.proposer)
            batch.put(txid + b"\0", output, self._outputs_handle)
            position = _POSITION.pack(header.height, len(block.transactions), 1)
            batch.put(txid, position, self._transactions_handle)
            if self._has_addresses:
                owned_key = header.proposer + txid + b"\0"
                batch.put(owned_key, output[:8], self._addresses_handle)
        key = _BLOCK_KEY.pack(header.height)
        batch.put(key, _BLOCK.pack(*location, identity), self._blocks_handle)
        batch.put(key, certificate, self._certificates_handle)
        batch.put(identity, _HEIGHT.pack(header.height), self._heights_handle)
        batch.put(
            _META_TIP, _TIP.pack(header.height, header.time_ms, identity), self._default_handle
        )
        return batch

    # Opening

    def _open(self, settings: _Settings) -> None:
        self._db = Rdict(
            str(self._path),
            settings.options(1 << 20, create=False, families=self._may_lack_families()),
            column_families=settings.families(create=False),
        )
        self._heights = self._db.get_column_family("heights")
        self._addresses = self._db.get_column_family("addresses")
        self._heights_handle = self._db.get_column_family_handle("heights")
        self._addresses_handle = self._db.get_column_family_handle("addresses")
        self._outputs = self._db.get_column_family("outputs")
        self._transactions = self._db.get_column_family("transactions")
        self._blocks = self._db.get_column_family("blocks")
        self._certificates = self._db.get_column_family("certificates")
        self._outputs_handle = self._db.get_column_family_handle("outputs")
        self._transactions_handle = self._db.get_column_family_handle("transactions")
        self._blocks_handle = self._db.get_column_family_handle("blocks")
        self._certificates_handle = self._db.get_column_family_handle("certificates")
        self._default_handle = self._db.get_column_family_handle("default")
        self._get_output = self._outputs.get
        self._get_transaction = self._transactions.get
        self._synced = WriteOptions()
        self._synced.sync = True

    def _may_lack_families(self) -> bool:
        """Whether this is a store of format 2, which gets what it lacks."""
        lacks = "heights" not in Rdict.list_cf(str(self._path))
        return lacks and _format_of(self._path) == OLDEST_FORMAT

    def _upgrade(self) -> None:
        """Fill in what format 2 did not keep: the heights by block id."""
        height = 0
        while height < self._tip.height:
            batch: Any = WriteBatch(raw_mode=True)
            for _ in range(min(FILL_AT_ONCE, self._tip.height - height)):
                height += 1
                batch.put(self._block(height)[1], _HEIGHT.pack(height), self._heights_handle)
            self._db.write(batch)
        batch = WriteBatch(raw_mode=True)
        batch.put(_META_FORMAT, _FORMAT.pack(STORE_FORMAT), self._default_handle)
        self._db.write(batch, self._synced)

    def _switch_addresses(self, wanted: bool | None) -> None:
        """Build the index by owner, or remove it; what is interrupted begins again."""
        self._has_addresses = self._db.get(_META_ADDRESSES) is not None
        if wanted is None or wanted == self._has_addresses:
            return
        batch: Any = WriteBatch(raw_mode=True)
        batch.delete(_META_ADDRESSES, self._default_handle)
        batch.delete_range(b"", b"\xff" * (ADDRESS_KEY_BYTES + 1), self._addresses_handle)
        self._db.write(batch, self._synced)
        self._has_addresses = False
        if not wanted:
            return
        outputs = self.iterate_outputs()
        while some := list(islice(outputs, FILL_AT_ONCE)):
            entries = sorted((output[8:] + outpoint, output[:8]) for outpoint, output in some)
            batch = WriteBatch(raw_mode=True)
            for key, amount in entries:
                batch.put(key, amount, self._addresses_handle)
            self._db.write(batch)
        batch = WriteBatch(raw_mode=True)
        batch.put(_META_ADDRESSES, b"", self._default_handle)
        self._db.write(batch, self._synced)
        self._has_addresses = True

    def _read_meta(self, genesis_id: bytes) -> None:
        version = self._meta(_META_FORMAT, _FORMAT)[0]
        if version > STORE_FORMAT:
            raise NewerStore(
                f"{self._path} has format {version}, and this version knows {STORE_FORMAT}",
                "install the version that wrote it",
            )
        if version < OLDEST_FORMAT:
            raise _older(self._path)
        found = self._db.get(_META_GENESIS)
        if found is None or len(found) != ID_BYTES:
            raise self._damaged("the genesis id is missing")
        if found != genesis_id:
            raise ForeignStore(
                f"{self._path} belongs to the chain with genesis {found.hex()[:16]},"
                f" not to {genesis_id.hex()[:16]}",
                "use another data directory or the right genesis.json",
            )
        self._reward, self._allocated = self._meta(_META_ISSUE, _ISSUE)
        height, time_ms, identity = self._meta(_META_TIP, _TIP)
        location = None
        if height:
            location, recorded = self._block(height)
            if recorded != identity:
                raise self._damaged(f"tip and block index disagree at height {height}")
        self._tip = Tip(height, identity, time_ms, location)
        if version < STORE_FORMAT:
            self._upgrade()

    def _meta(self, key: bytes, layout: struct.Struct) -> tuple[Any, ...]:
        value = self._db.get(key)
        if value is None or len(value) != layout.size:
            raise self._damaged(f"the entry {key.decode()!r} is missing or has a wrong length")
        return layout.unpack(value)

    def _committed(self, height: int) -> tuple[BodyLocation, bytes]:
        if not 0 < height <= self._tip.height:
            raise KeyError(height)
        return self._block(height)

    def _block(self, height: int) -> tuple[BodyLocation, bytes]:
        try:
            value = self._blocks.get(_BLOCK_KEY.pack(height))
        except Exception as error:
            raise _explain(error, self._path, "read") from error
        if value is None or len(value) != _BLOCK.size:
            raise self._damaged(f"the entry of block {height} is missing or has a wrong length")
        file, offset, length, identity = _BLOCK.unpack(value)
        return BodyLocation(file, offset, length), identity

    def _damaged(self, what: str) -> StoreDamaged:
        return StoreDamaged(f"{self._path} is damaged: {what}", DAMAGED_REMEDY)


def output_set_digest(outputs: Iterable[tuple[bytes, bytes]]) -> bytes:
    """Return BLAKE2b-256 over outpoints and outputs that come in ascending order of outpoints."""
    state = hashlib.blake2b(digest_size=ID_BYTES)
    for outpoint, output in outputs:
        state.update(outpoint + output)
    return state.digest()


def _exhaust(calls: Iterable[object]) -> None:
    deque(calls, maxlen=0)


# Building and opening


class _Settings:
    """RocksDB options of the seven families, sharing one block cache."""

    def __init__(self, cache_mb: int, write_buffer_mb: int) -> None:
        self._cache = Cache(cache_mb << 20)
        self._write_buffer_bytes = write_buffer_mb << 20

    def families(self, *, create: bool) -> dict[str, Any]:
        # per transaction of one input and two outputs: three output keys, one index key
        return {
            "outputs": self.options(self._write_buffer_bytes * 3 // 4, create=create),
            "transactions": self.options(self._write_buffer_bytes // 4, create=create),
            "blocks": self.options(1 << 20, create=create),
            "certificates": self.options(1 << 20, create=create),
            "heights": self.options(1 << 20, create=create),
            "addresses": self.options(self._write_buffer_bytes // 2, create=create),
        }

    def options(
        self, write_buffer_bytes: int, *, create: bool, families: bool | None = None
    ) -> Any:
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


def _build(path: Path, genesis: Genesis, allocations: bytes) -> None:
    identity = genesis_id(genesis)
    settings = _Settings(8, 8)
    database = Rdict(
        str(path),
        settings.options(1 << 20, create=True),
        column_families=settings.families(create=True),
    )
    try:
        if allocations:
            _ingest(path, database, settings, allocations, salt_of(identity))
        batch = WriteBatch(raw_mode=True)
        batch.put(_META_FORMAT, _FORMAT.pack(STORE_FORMAT))
        batch.put(_META_GENESIS, identity)
        batch.put(_META_ISSUE, _ISSUE.pack(genesis.reward, genesis.allocations.total))
        batch.put(_META_TIP, _TIP.pack(0, genesis.time_ms, identity))
        synced = WriteOptions()
        synced.sync = True
        database.write(batch, synced)
    finally:
        database.close()


def _ingest(
    path: Path, database: Any, settings: _Settings, allocations: bytes, salt: bytes
) -> None:
    """Write the allocations as sorted tables and let the database take them over as they are."""
    count = -(-len(allocations) // (ALLOCATIONS_PER_ID * OUTPUT_BYTES))
    parents = sorted((allocation_txid(number, salt), number) for number in range(count))
    indices = [bytes((index,)) for index in range(ALLOCATIONS_PER_ID)]
    names = ("outputs", "transactions")
    tables = []
    for name in names:
        table = SstFileWriter(settings.options(1 << 20, create=True))
        table.open(str(path / f"{name}.ingest"))
        tables.append(table)
    outputs, index = tables
    for txid, number in parents:
        start = number * ALLOCATIONS_PER_ID * OUTPUT_BYTES
        end = min(start + ALLOCATIONS_PER_ID * OUTPUT_BYTES, len(allocations))
        offsets = range(start, end, OUTPUT_BYTES)
        for offset, suffix in zip(offsets, indices, strict=False):
            outputs[txid + suffix] = allocations[offset : offset + OUTPUT_BYTES]
        index[txid] = _POSITION.pack(0, number, len(offsets))
    moving = IngestExternalFileOptions()
    moving.set_move_files(True)
    for name, table in zip(names, tables, strict=True):
        table.finish()
        family = database.get_column_family(name)
        family.ingest_external_file([str(path / f"{name}.ingest")], moving)
        family.close()


# Errors


def _explain(error: Exception, path: Path, doing: str) -> StoreError:
    """The StoreError for what RocksDB reports, which it does in words alone."""
    if isinstance(error, StoreError):
        return error
    text = " ".join(str(error).split())
    cause = f"cannot {doing} {path} ({text})"
    if isinstance(error, DbClosedError):
        return StoreFailed(f"{path} is closed", FAILED_REMEDY)
    if "lock hold by current process" in text or "While lock file" in text:
        holder = _lock_holder(path / "LOCK")
        return StoreLocked(f"{path} is in use by {holder}", "stop it first")
    if any(words in text for words in _FULL_WORDS):
        return StoreFull(cause, FULL_REMEDY)
    if any(words in text for words in _DENIED_WORDS):
        return StoreUnwritable(cause, DENIED_REMEDY)
    if "Column family not found" in text:  # before the format is read
        return _lacking_families(path)
    if "Column families not opened" in text or "Unknown Footer version" in text:
        return NewerStore(cause, "install the version that wrote it")
    if any(words in text for words in _DAMAGE_WORDS):
        return StoreDamaged(cause, DAMAGED_REMEDY)
    return StoreFailed(cause, FAILED_REMEDY)


def _lacking_families(path: Path) -> StoreError:
    """Why there are fewer families than there should be: an older version, or damage."""
    try:
        version = _format_of(path)
    except Exception as error:
        return StoreDamaged(f"{path} is damaged ({error})", DAMAGED_REMEDY)
    if 0 < version < OLDEST_FORMAT:
        return _older(path)
    return StoreDamaged(f"{path} is damaged: parts of it are missing", DAMAGED_REMEDY)


def _format_of(path: Path) -> int:
    """The format of a store with whatever families there are, 0 if it has none; only reads it."""
    families = {name: Options(raw_mode=True) for name in Rdict.list_cf(str(path))}
    options = Options(raw_mode=True)
    database = Rdict(str(path), options, families, access_type=AccessType.read_only())
    try:
        return int.from_bytes(database.get(_META_FORMAT) or b"", "little")
    finally:
        database.close()


def _older(path: Path) -> OlderStore:
    return OlderStore(
        f"{path} was made by an older version and lacks what format {STORE_FORMAT} holds",
        "make a new data directory with `timed init`",
    )


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


def _check_place(path: Path) -> None:
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


def _lock_holder(lock: Path) -> str:
    """Who holds the lock on RocksDB's lock file, as the kernel tells it."""
    question = struct.pack("hhqqi4x", fcntl.F_WRLCK, os.SEEK_SET, 0, 0, 0)
    try:
        with lock.open("r+b") as file:
            kind, _, _, _, pid = struct.unpack(
                "hhqqi4x", fcntl.fcntl(file, fcntl.F_GETLK, question)
            )
    except OSError:
        return "another process"
    # a process does not conflict with its own locks: unlocked then means that it is ours
    return f"process {pid}" if kind != fcntl.F_UNLCK and pid > 0 else "this process already"


def _sync(path: Path) -> None:
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
