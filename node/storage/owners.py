"""The unspent outputs once more, by owner: column family `addresses`.

Used by ``node.storage.chain``, which gives each block and its write batch, so the index is at the
height of the store, whatever kills the process. May be switched off, and is then empty. Switched
on it is built from all outputs; a death in the middle of that leaves it off, and the next opening
begins again.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice, repeat
from operator import delitem, setitem
from typing import Any

from rocksdict import WriteBatch

from node.block import Block
from node.storage.changes import ADDRESS_KEY_BYTES, address_changes
from node.storage.database import FILL_AT_ONCE, Database, exhaust
from node.storage.entries import META_ADDRESSES


class OwnerIndex:
    """The index of an open database; lets exceptions of RocksDB through."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self.on = database.rocks.get(META_ADDRESSES) is not None

    def switch(self, wanted: bool, outputs: Iterator[tuple[bytes, bytes]]) -> None:
        """Build the index from all (outpoint, output), or remove it; nothing if it is so."""
        if wanted == self.on:
            return
        rocks, handles = self._database.rocks, self._database.handles
        batch: Any = WriteBatch(raw_mode=True)
        batch.delete(META_ADDRESSES, handles["default"])
        batch.delete_range(b"", b"\xff" * (ADDRESS_KEY_BYTES + 1), handles["addresses"])
        rocks.write(batch, self._database.synced)
        self.on = False
        if not wanted:
            return
        while some := list(islice(outputs, FILL_AT_ONCE)):
            entries = sorted((output[8:] + outpoint, output[:8]) for outpoint, output in some)
            batch = WriteBatch(raw_mode=True)
            for key, amount in entries:
                batch.put(key, amount, handles["addresses"])
            rocks.write(batch)
        batch = WriteBatch(raw_mode=True)
        batch.put(META_ADDRESSES, b"", handles["default"])
        rocks.write(batch, self._database.synced)
        self.on = True

    def unspent_of(self, owner: bytes, after: bytes, at_most: int) -> list[tuple[bytes, int]]:
        """Return (outpoint, value) of an owner's outputs, ascending, from behind an outpoint on."""
        found: list[tuple[bytes, int]] = []
        first = owner + after
        cursor = self._database.families["addresses"].iter()
        cursor.seek(first)
        while cursor.valid() and len(found) < at_most:
            key = cursor.key()
            if not key.startswith(owner):
                break
            if key != first:
                found.append((key[len(owner) :], int.from_bytes(cursor.value(), "little")))
            cursor.next()
        cursor.status()  # an iterator that meets damage just ends: ask it why
        return found

    def put_block(self, batch: Any, block: Block) -> None:
        """Put into a batch what the transactions of a block (at least one) change."""
        owned, amounts, freed = address_changes(block)
        batch.set_default_column_family(self._database.handles["addresses"])
        exhaust(map(setitem, repeat(batch), owned, amounts))
        exhaust(map(delitem, repeat(batch), freed))

    def put_output(self, batch: Any, outpoint: bytes, output: bytes) -> None:
        """Put one more output into a batch: the reward."""
        batch.put(output[8:] + outpoint, output[:8], self._database.handles["addresses"])
