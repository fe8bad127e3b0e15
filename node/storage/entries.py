"""The store's small entries: what describes it as a whole, and where each block lies.

The layouts (listed in ``node.storage.chain``) of the column families `default`, `transactions`,
`blocks` and `heights`, and the reading of those that must be there, from an open `Database`. Owns
nothing.
What is missing or has a wrong length is `StoreDamaged`.
"""

from __future__ import annotations

import struct
from pathlib import Path
from typing import Any, NamedTuple

from node.storage.blockfile import BodyLocation
from node.storage.changes import POSITION_BYTES
from node.storage.errors import DAMAGED_REMEDY, StoreDamaged

STORE_FORMAT = 3  # 1 kept no certificates; 2 no heights by id: they are filled in
OLDEST_FORMAT = 2

META_FORMAT = b"format"
META_GENESIS = b"genesis"
META_ISSUE = b"issue"
META_TIP = b"tip"
META_ADDRESSES = b"addresses"

FORMAT = struct.Struct("<I")
ISSUE = struct.Struct("<QQ")
TIP = struct.Struct("<QQ32s")
POSITION = struct.Struct("<IIB")
BLOCK = struct.Struct("<IQI32s")
BLOCK_KEY = struct.Struct(">Q")
HEIGHT = struct.Struct("<Q")

assert POSITION.size == POSITION_BYTES


class Tip(NamedTuple):
    """The last committed block; at height 0 the genesis, which has no body."""

    height: int
    block_id: bytes
    time_ms: int
    location: BodyLocation | None


def damaged(path: Path, what: str) -> StoreDamaged:
    """The error for a store in which something is not as it must be."""
    return StoreDamaged(f"{path} is damaged: {what}", DAMAGED_REMEDY)


def read_meta(rocks: Any, path: Path, key: bytes, layout: struct.Struct) -> tuple[Any, ...]:
    """Return the fields of an entry of the family `default`."""
    value = rocks.get(key)
    if value is None or len(value) != layout.size:
        raise damaged(path, f"the entry {key.decode()!r} is missing or has a wrong length")
    return layout.unpack(value)


def read_block(value: bytes | None, path: Path, height: int) -> tuple[BodyLocation, bytes]:
    """Return what the entry of the block at a height says: where its body lies, and its id."""
    if value is None or len(value) != BLOCK.size:
        raise damaged(path, f"the entry of block {height} is missing or has a wrong length")
    file, offset, length, identity = BLOCK.unpack(value)
    return BodyLocation(file, offset, length), identity
