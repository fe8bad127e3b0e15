"""What a block changes in the chain store, cut out of its bytes with arrays.

Called for every committed block by ``node.storage.chain``; a pure function of the block. It
believes the block: validity is the ledger's business. Items are taken as NumPy void items at
computed offsets, which costs a tenth of slicing them one by one, and are sorted by their first
eight bytes, because the memtables are skip lists: neighbours are cheap to insert one after the
other.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from node.block import Block
from node.params import (
    ID_BYTES,
    INPUT_BYTES,
    OUTPOINT_BYTES,
    OUTPUT_BYTES,
    TX_HEADER_BYTES,
    WITNESS_BYTES,
)

POSITION_BYTES = 9
AMOUNT_BYTES = 8
OWNER_PREFIX_BYTES = 8  # of a key in the index by owner: who shares it is told apart by the output
OWNER_KEY_BYTES = OWNER_PREFIX_BYTES + OUTPOINT_BYTES

_ID = np.dtype(f"V{ID_BYTES}")
_OUTPOINT = np.dtype(f"V{OUTPOINT_BYTES}")
_OUTPUT = np.dtype(f"V{OUTPUT_BYTES}")
_OWNER_PREFIX = np.dtype(f"V{OWNER_PREFIX_BYTES}")
_OWNER_KEY = np.dtype(f"V{OWNER_KEY_BYTES}")
_POSITION = np.dtype([("height", "<u4"), ("position", "<u4"), ("n_outputs", "u1")])

assert _POSITION.itemsize == POSITION_BYTES


class StoreChanges(NamedTuple):
    """Keys and values of a block's transactions, the reward not included.

    ``spent``: outpoints of blocks below that are spent; ``created`` and ``values``: outpoints made
    and not spent at once, with their outputs; ``txids`` and ``positions``: all ids, and for each
    height u32, position u32, n_outputs u8. Outpoints have 33 bytes, outputs 40, ids 32, positions
    9.

    ``owned`` and ``freed``: the keys, owner[:8] + outpoint[33], that come into the index by owner
    and leave it; empty where they were not asked for. An output that the same block spends is in
    both: whoever applies them puts first, then deletes.
    """

    spent: list[bytes]
    created: list[bytes]
    values: list[bytes]
    txids: list[bytes]
    positions: list[bytes]
    owned: list[bytes]
    freed: list[bytes]


def store_changes(block: Block, *, owners: bool) -> StoreChanges:
    """Return what the transactions of a block (at least one) change; ``owners``: by owner too.

    The owner of a spent output is the key of the witness that its input names: that it is, the
    block's validity says.
    """
    raws = block.transactions
    body = np.frombuffer(b"".join(raws), np.uint8)
    lengths = np.fromiter(map(len, raws), np.int64, len(raws))
    ids = np.frombuffer(b"".join(block.txids), np.uint8).reshape(-1, ID_BYTES)
    heads = _prefixes(ids)
    order = np.argsort(heads)
    starts = (np.cumsum(lengths) - lengths)[order]
    n_inputs = body[starts + 1].astype(np.int64)
    n_outputs = body[starts + 2].astype(np.int64)

    inputs_at, _ = _runs(starts + TX_HEADER_BYTES, n_inputs, INPUT_BYTES)
    spent = _items(body, inputs_at, _OUTPOINT)
    parents = _prefixes(spent.view(np.uint8).reshape(-1, OUTPOINT_BYTES))
    by_parent = np.argsort(parents)

    after_inputs = starts + TX_HEADER_BYTES + INPUT_BYTES * n_inputs
    outputs_at, numbers = _runs(after_inputs, n_outputs, OUTPUT_BYTES)
    values: list[bytes] = _items(body, outputs_at, _OUTPUT).tolist()
    keys = np.empty((len(outputs_at), OUTPOINT_BYTES), np.uint8)
    keys[:, :ID_BYTES] = np.repeat(ids[order], n_outputs, axis=0)
    keys[:, ID_BYTES] = numbers
    outpoints = keys.view(_OUTPOINT).ravel()
    created: list[bytes] = outpoints.tolist()
    spent_list: list[bytes] = spent[by_parent].tolist()

    owned: list[bytes] = []
    freed: list[bytes] = []
    if owners:
        witnesses_at = np.repeat(after_inputs + OUTPUT_BYTES * n_outputs, n_inputs)
        named = body[inputs_at + OUTPOINT_BYTES].astype(np.int64)
        owned = _owner_keys(body, outputs_at + AMOUNT_BYTES, outpoints)
        freed = _owner_keys(body, witnesses_at + WITNESS_BYTES * named, spent)

    positions = np.empty(len(raws), _POSITION)
    positions["height"] = block.header.height
    positions["position"] = order
    positions["n_outputs"] = n_outputs

    parents = parents[by_parent]
    heads = heads[order]
    nearest = np.minimum(np.searchsorted(heads, parents), len(heads) - 1)
    if (heads[nearest] == parents).any():  # perhaps a parent in this very block: look closely
        passing = set(spent_list).intersection(created)
        spent_list = [outpoint for outpoint in spent_list if outpoint not in passing]
        kept = [(k, v) for k, v in zip(created, values, strict=True) if k not in passing]
        created = [key for key, _ in kept]
        values = [value for _, value in kept]
    return StoreChanges(
        spent_list,
        created,
        values,
        ids[order].view(_ID).ravel().tolist(),
        positions.view(f"V{POSITION_BYTES}").tolist(),
        owned,
        freed,
    )


def _owner_keys(
    body: npt.NDArray[np.uint8],
    owners_at: npt.NDArray[np.int64],
    outpoints: npt.NDArray[np.void],
) -> list[bytes]:
    """Keys of the index by owner, in their order, of outpoints and where their owners lie."""
    prefixes = _items(body, owners_at, _OWNER_PREFIX)
    order = np.argsort(prefixes.view(">u8").astype(np.uint64))
    keys = np.empty((len(order), OWNER_KEY_BYTES), np.uint8)
    keys[:, :OWNER_PREFIX_BYTES] = prefixes[order].view(np.uint8).reshape(-1, OWNER_PREFIX_BYTES)
    keys[:, OWNER_PREFIX_BYTES:] = outpoints[order].view(np.uint8).reshape(-1, OUTPOINT_BYTES)
    listed: list[bytes] = keys.view(_OWNER_KEY).ravel().tolist()
    return listed


def _prefixes(rows: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint64]:
    """The first eight bytes of each row as a number that sorts like the bytes."""
    return np.ascontiguousarray(rows[:, :8]).view(">u8").ravel().astype(np.uint64)


def _runs(
    starts: npt.NDArray[np.int64], counts: npt.NDArray[np.int64], step: int
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """Offsets of counts[i] items, ``step`` bytes apart from starts[i] on, and their numbers."""
    ends = np.cumsum(counts)
    numbers = np.arange(int(ends[-1])) - np.repeat(ends - counts, counts)
    return np.repeat(starts, counts) + step * numbers, numbers


def _items(
    body: npt.NDArray[np.uint8], at: npt.NDArray[np.int64], kind: np.dtype[np.void]
) -> npt.NDArray[np.void]:
    """The items of a kind that begin at these offsets of ``body``, copied out."""
    every_offset: npt.NDArray[np.void] = np.ndarray(
        (len(body) - kind.itemsize + 1,), kind, body, strides=(1,)
    )
    return every_offset[at]
