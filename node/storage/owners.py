"""The unspent outputs once more, by owner: column family `addresses`.

Used by ``node.storage.chain``, which gives each block and its write batch, so the index is at the
height of the store, whatever kills the process. A new store has it. May be switched off, and is
then empty. Switched on again it is built from all outputs; a death in the middle of that leaves it
off, and the next opening begins again.

A key has the owner's first eight bytes only, and no value: a commit pays for every byte, a question
reads the outputs themselves, and there sees whose they are.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice, repeat
from operator import delitem, setitem
from typing import Any

from rocksdict import WriteBatch

from node.storage.changes import OWNER_KEY_BYTES, OWNER_PREFIX_BYTES
from node.storage.database import FILL_AT_ONCE, Database, exhaust
from node.storage.entries import META_ADDRESSES

COMPLETE = bytes((OWNER_KEY_BYTES,))  # what META_ADDRESSES is then; else the keys are not these
_END = b"\xff" * 128  # above every key there ever was


class OwnerIndex:
    """The index of an open database; lets exceptions of RocksDB through."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self.on: bool = database.rocks.get(META_ADDRESSES) == COMPLETE

    def switch(self, wanted: bool, outputs: Iterator[tuple[bytes, bytes]]) -> None:
        """Build the index from all (outpoint, output), or remove it; nothing if it is so."""
        if wanted == self.on and (wanted or self._is_empty()):
            return
        rocks, handles = self._database.rocks, self._database.handles
        batch: Any = WriteBatch(raw_mode=True)
        batch.delete(META_ADDRESSES, handles["default"])
        batch.delete_range(b"", _END, handles["addresses"])
        rocks.write(batch, self._database.synced)
        self.on = False
        if not wanted:
            return
        while some := list(islice(outputs, FILL_AT_ONCE)):
            keys = sorted(owner_key(output[8:], outpoint) for outpoint, output in some)
            batch = WriteBatch(raw_mode=True)
            for key in keys:
                batch.put(key, b"", handles["addresses"])
            rocks.write(batch)
        batch = WriteBatch(raw_mode=True)
        batch.put(META_ADDRESSES, COMPLETE, handles["default"])
        rocks.write(batch, self._database.synced)
        self.on = True

    def unspent_of(self, owner: bytes, after: bytes, at_most: int) -> list[tuple[bytes, int]]:
        """Return (outpoint, value) of an owner's outputs, ascending, from behind an outpoint on."""
        found: list[tuple[bytes, int]] = []
        if not self.on:  # and what is there may be half of it
            return found
        first = owner_key(owner, after)
        cursor = self._database.families["addresses"].iter()
        cursor.seek(first)
        if cursor.valid() and cursor.key() == first:
            cursor.next()
        while outpoints := _next_outpoints(cursor, owner, at_most - len(found)):
            outputs = self._database.families["outputs"].get(outpoints)
            for outpoint, output in zip(outpoints, outputs, strict=True):
                if output is not None and output[8:] == owner:
                    found.append((outpoint, int.from_bytes(output[:8], "little")))
        cursor.status()  # an iterator that meets damage just ends: ask it why
        return found

    def put_block(self, batch: Any, owned: list[bytes], freed: list[bytes]) -> None:
        """Put into a batch the keys that `store_changes` gives."""
        batch.set_default_column_family(self._database.handles["addresses"])
        exhaust(map(setitem, repeat(batch), owned, repeat(b"")))
        exhaust(map(delitem, repeat(batch), freed))

    def put_output(self, batch: Any, outpoint: bytes, output: bytes) -> None:
        """Put one more output into a batch: the reward."""
        key = owner_key(output[8:], outpoint)
        batch.put(key, b"", self._database.handles["addresses"])

    def _is_empty(self) -> bool:
        cursor = self._database.families["addresses"].iter()
        cursor.seek_to_first()
        return not cursor.valid()


def owner_key(owner: bytes, outpoint: bytes) -> bytes:
    """The key of an output in the index."""
    return owner[:OWNER_PREFIX_BYTES] + outpoint


def _next_outpoints(cursor: Any, owner: bytes, at_most: int) -> list[bytes]:
    """The next outpoints under an owner's prefix, that owner's or another's."""
    outpoints: list[bytes] = []
    while len(outpoints) < at_most and cursor.valid():
        key = cursor.key()
        if not key.startswith(owner[:OWNER_PREFIX_BYTES]):
            break
        outpoints.append(key[OWNER_PREFIX_BYTES:])
        cursor.next()
    return outpoints
