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
addresses     owner[:8], outpoint[33] -> nothing: the unspent outputs once more, by owner; may be
              switched off, and is then empty
default       "format" u32; "addresses" u8, the length of that index's keys if it is complete;
              "genesis" id[32]; "issue" reward u64, allocated u64; "tip" height u64, time_ms u64,
              block id[32]
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator
from itertools import repeat
from operator import delitem, setitem
from pathlib import Path
from typing import Any

from rocksdict import WriteBatch

from node.block import Block, TxPosition, block_id, encode_output, reward_txid
from node.genesis import Genesis, reward_between, salt_of
from node.params import ID_BYTES, MAX_AMOUNT
from node.storage.blockfile import BodyLocation
from node.storage.causes import explain
from node.storage.changes import store_changes
from node.storage.creation import create_store
from node.storage.database import Database, Settings, exhaust
from node.storage.entries import (
    BLOCK,
    BLOCK_KEY,
    HEIGHT,
    META_TIP,
    POSITION,
    TIP,
    Tip,
    read_block,
)
from node.storage.errors import StoreError, StoreFailed
from node.storage.opening import check_place, describe, open_database
from node.storage.owners import OwnerIndex


class ChainStore:
    """The store of one chain, opened for reading and writing; one thread of one process uses it.

    ``cache_mb`` bounds the block cache, ``write_buffer_mb`` the memtables being filled (while one
    is being flushed, twice that). ``address_index`` switches the index by owner on (it is built
    from all outputs) or off (it is removed); None leaves it as it is. Raises StoreMissing,
    StoreLocked, ForeignStore, NewerStore, OlderStore, StoreDamaged, StoreFull, StoreUnwritable,
    StoreFailed; each names the path, the cause and the remedy.
    """

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
        self._database: Database | None = None
        check_place(path)
        try:
            database = open_database(path, Settings(cache_mb, write_buffer_mb))
            self._use(database)
            found = describe(database, path, genesis_id)
            self._tip, self._reward, self._allocated, self._upgraded_from = found
            self._owners = OwnerIndex(database)
            if address_index is not None:
                self._owners.switch(address_index, self.iterate_outputs())
        except StoreError:
            self.close()
            raise
        except Exception as error:
            self.close()
            raise explain(error, path, "open") from error

    @staticmethod
    def create(path: Path, genesis: Genesis, allocations: Path) -> None:
        """Build the store of a new chain from its genesis and the allocation file.

        It appears under ``path`` complete and durable, or not at all (`create_store`). Raises
        GenesisError (allocations) and StoreError.
        """
        create_store(path, genesis, allocations)

    # Queries

    @property
    def upgraded_from(self) -> int | None:
        """The older format that opening this store brought up to date, None if it was none."""
        return self._upgraded_from

    @property
    def tip(self) -> Tip:
        """The last committed block."""
        return self._tip

    def get_outputs(self, outpoints: list[bytes]) -> list[bytes | None]:
        """Return the unspent output (40 bytes) at each outpoint (33 bytes), or None, in order."""
        try:
            if len(outpoints) == 1:  # alone, for half of what a list of one costs
                return [self._get_output(outpoints[0])]
            found: list[bytes | None] = self._get_output(outpoints)
        except Exception as error:
            raise explain(error, self._path, "read") from error
        return found

    def find_transaction(self, txid: bytes) -> TxPosition | None:
        """Return the position of a final transaction, allocation id or reward, or None."""
        try:
            value = self._get_transaction(txid)
        except Exception as error:
            raise explain(error, self._path, "read") from error
        return None if value is None else TxPosition(*POSITION.unpack(value))

    def block_location(self, height: int) -> BodyLocation:
        """Return where the body of the block at a height (1..tip) lies; KeyError at others."""
        return self._committed(height)[0]

    def block_id(self, height: int) -> bytes:
        """Return the id of the block at a height (1..tip); KeyError at others."""
        return self._committed(height)[1]

    def height_of(self, identity: bytes) -> int | None:
        """Return the height of the committed block with this id, or None."""
        try:
            value = self._families["heights"].get(identity)
        except Exception as error:
            raise explain(error, self._path, "read") from error
        if value is None:
            return None
        (height,) = HEIGHT.unpack(value)
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
        return self._owners.on

    def unspent_of(self, owner: bytes, after: bytes, at_most: int) -> list[tuple[bytes, int]]:
        """Return (outpoint, value) of an owner's outputs, ascending, from behind an outpoint on.

        ``after`` is an outpoint[33] or b"". Empty when there is no index.
        """
        try:
            return self._owners.unspent_of(owner, after, at_most)
        except Exception as error:
            raise explain(error, self._path, "read") from error

    def certificate(self, height: int) -> bytes | None:
        """Return the commit certificate of the block at a height, as it was given to `commit`.

        None at height 0, where nothing was voted on, and above the tip.
        """
        if not 0 < height <= self._tip.height:
            return None
        try:
            value: bytes | None = self._families["certificates"].get(BLOCK_KEY.pack(height))
        except Exception as error:
            raise explain(error, self._path, "read") from error
        return value

    def iterate_outputs(self) -> Iterator[tuple[bytes, bytes]]:
        """Yield every (outpoint, output), in ascending order of outpoints, as of the call."""
        cursor = self._families["outputs"].iter()
        try:
            cursor.seek_to_first()
            while cursor.valid():
                yield cursor.key(), cursor.value()
                cursor.next()
            cursor.status()  # an iterator that meets damage just ends: ask it why
        except Exception as error:
            raise explain(error, self._path, "read") from error

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
        if self._database is None:
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
            raise explain(error, self._path, "write") from error
        self._tip = Tip(header.height, identity, header.time_ms, location)

    def close(self) -> None:
        """Close the store; nothing is lost when a process dies without it."""
        if self._database is None:
            return
        self._get_output = self._get_transaction = self._refuse
        self._database.close()
        self._database = None

    def _refuse(self, _: object) -> Any:
        raise StoreFailed(f"{self._path} is closed", "open it again")

    def _batch(
        self, block: Block, identity: bytes, location: BodyLocation, certificate: bytes
    ) -> Any:
        """The write batch of a block, family by family, in the order that `store_changes` gives."""
        header = block.header
        batch: Any = WriteBatch(raw_mode=True)
        if block.transactions:
            changes = store_changes(block, owners=self._owners.on)
            batch.set_default_column_family(self._handles["outputs"])
            exhaust(map(delitem, repeat(batch), changes.spent))
            exhaust(map(setitem, repeat(batch), changes.created, changes.values))
            batch.set_default_column_family(self._handles["transactions"])
            exhaust(map(setitem, repeat(batch), changes.txids, changes.positions))
            if self._owners.on:
                self._owners.put_block(batch, changes.owned, changes.freed)
        reward = header.fees + reward_between(self._reward, self._allocated, header.height)
        if reward:
            txid = reward_txid(header.height, header.previous, self._salt)
            output = encode_output(reward, header.proposer)
            batch.put(txid + b"\0", output, self._handles["outputs"])
            position = POSITION.pack(header.height, len(block.transactions), 1)
            batch.put(txid, position, self._handles["transactions"])
            if self._owners.on:
                self._owners.put_output(batch, txid + b"\0", output)
        key = BLOCK_KEY.pack(header.height)
        batch.put(key, BLOCK.pack(*location, identity), self._handles["blocks"])
        batch.put(key, certificate, self._handles["certificates"])
        batch.put(identity, HEIGHT.pack(header.height), self._handles["heights"])
        batch.put(
            META_TIP, TIP.pack(header.height, header.time_ms, identity), self._handles["default"]
        )
        return batch

    def _use(self, database: Database) -> None:
        self._database = database
        self._db = database.rocks
        self._families = database.families
        self._handles = database.handles
        self._get_output = self._families["outputs"].get
        self._get_transaction = self._families["transactions"].get
        self._synced = database.synced

    def _committed(self, height: int) -> tuple[BodyLocation, bytes]:
        if not 0 < height <= self._tip.height:
            raise KeyError(height)
        return self._block(height)

    def _block(self, height: int) -> tuple[BodyLocation, bytes]:
        try:
            value = self._families["blocks"].get(BLOCK_KEY.pack(height))
        except Exception as error:
            raise explain(error, self._path, "read") from error
        return read_block(value, self._path, height)


def output_set_digest(outputs: Iterable[tuple[bytes, bytes]]) -> bytes:
    """Return BLAKE2b-256 over outpoints and outputs that come in ascending order of outpoints."""
    state = hashlib.blake2b(digest_size=ID_BYTES)
    for outpoint, output in outputs:
        state.update(outpoint + output)
    return state.digest()
