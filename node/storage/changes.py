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
    KEY_BYTES,
    OUTPOINT_BYTES,
    OUTPUT_BYTES,
    TX_HEADER_BYTES,
    WITNESS_BYTES,
)

POSITION_BYTES = 9
AMOUNT_BYTES = 8
ADDRESS_KEY_BYTES = KEY_BYTES + OUTPOINT_BYTES

_ID = np.dtype(f"V{ID_BYTES}")
_OUTPOINT = np.dtype(f"V{OUTPOINT_BYTES}")
_OUTPUT = np.dtype(f"V{OUTPUT_BYTES}")
_OWNER = np.dtype(f"V{KEY_BYTES}")
_AMOUNT = np.dtype(f"V{AMOUNT_BYTES}")
_ADDRESS_KEY = np.dtype(f"V{ADDRESS_KEY_BYTES}")
_POSITION = np.dtype([("height", "<u4"), ("position", "<u4"), ("n_outputs", "u1")])

assert _POSITION.itemsize == POSITION_BYTES


class StoreChanges(NamedTuple):
    """Keys and values of a block's transactions, the reward not included.

    ``spent``: outpoints of blocks below that are spent; ``created`` and ``values``: outpoints made
    and not spent at once, with their outputs; ``txids`` and ``positions``: all ids, and for each
    height u32, position u32, n_outputs u8. Outpoints have 33 bytes, outputs 40, ids 32, positions
    9.
    """

    spent: list[bytes]
    created: list[bytes]
    values: list[bytes]
    txids: list[bytes]
    positions: list[bytes]


def store_changes(block: Block) -> StoreChanges:
    """Return what the transactions of a block (at least one) change."""
    raws = block.transactions
    body = np.frombuffer(b"".join(raws), np.uint8)
    lengths = np.fromiter(map(len, raws), np.int64, len(raws))
    ids = np.frombuffer(b"".join(block.txids), np.uint8).reshape(-1, ID_BYTES)
    heads = _prefixes(ids)
    order = np.argsort(heads)
    starts = (np.cumsum(lengths) - lengths)[order]
    n_inputs = body[starts + 1].astype(np.int64)
    n_outputs = body[starts + 2].astype(np.int64)

    at, _ = _runs(starts + TX_HEADER_BYTES, n_inputs, INPUT_BYTES)
    spent = _items(body, at, _OUTPOINT)
    parents = _prefixes(spent.view(np.uint8).reshape(-1, OUTPOINT_BYTES))
    by_parent = np.argsort(parents)

    at, numbers = _runs(starts + TX_HEADER_BYTES + INPUT_BYTES * n_inputs, n_outputs, OUTPUT_BYTES)
    values: list[bytes] = _items(body, at, _OUTPUT).tolist()
    keys = np.empty((len(at), OUTPOINT_BYTES), np.uint8)
    keys[:, :ID_BYTES] = np.repeat(ids[order], n_outputs, axis=0)
    keys[:, ID_BYTES] = numbers
    created: list[bytes] = keys.view(_OUTPOINT).ravel().tolist()
    spent_list: list[bytes] = spent[by_parent].tolist()

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
    )


class AddressChanges(NamedTuple):
    """What a block's transactions change in the index by owner, the reward not included.

    ``created`` and ``spent`` are owner[32] + outpoint[33], ``amounts`` u64 for each created. An
    output that the same block spends is in both: whoever applies them puts first, then deletes.
    """

    created: list[bytes]
    amounts: list[bytes]
    spent: list[bytes]


def address_changes(block: Block) -> AddressChanges:
    """Return what the transactions of a block (at least one) change in the index by owner.

    The owner of a spent output is the key of the witness that its input names: that it is, the
    block's validity says.
    """
    raws = block.transactions
    body = np.frombuffer(b"".join(raws), np.uint8)
    lengths = np.fromiter(map(len, raws), np.int64, len(raws))
    starts = np.cumsum(lengths) - lengths
    n_inputs = body[starts + 1].astype(np.int64)
    n_outputs = body[starts + 2].astype(np.int64)
    outputs_at = starts + TX_HEADER_BYTES + INPUT_BYTES * n_inputs
    witnesses_at = outputs_at + OUTPUT_BYTES * n_outputs

    at, _ = _runs(starts + TX_HEADER_BYTES, n_inputs, INPUT_BYTES)
    keys_at = np.repeat(witnesses_at, n_inputs) + WITNESS_BYTES * body[at + OUTPOINT_BYTES].astype(
        np.int64
    )
    spent = _address_keys(_items(body, keys_at, _OWNER), _items(body, at, _OUTPOINT))

    at, numbers = _runs(outputs_at, n_outputs, OUTPUT_BYTES)
    outpoints = np.empty((len(at), OUTPOINT_BYTES), np.uint8)
    ids = np.frombuffer(b"".join(block.txids), np.uint8).reshape(-1, ID_BYTES)
    outpoints[:, :ID_BYTES] = np.repeat(ids, n_outputs, axis=0)
    outpoints[:, ID_BYTES] = numbers
    created = _address_keys(
        _items(body, at + AMOUNT_BYTES, _OWNER), outpoints.view(_OUTPOINT).ravel()
    )
    by_owner = _by_prefix(created)
    return AddressChanges(
        created[by_owner].tolist(),
        _items(body, at, _AMOUNT)[by_owner].tolist(),
        spent[_by_prefix(spent)].tolist(),
    )


def _address_keys(
    owners: npt.NDArray[np.void], outpoints: npt.NDArray[np.void]
) -> npt.NDArray[np.void]:
    keys = np.empty((len(owners), ADDRESS_KEY_BYTES), np.uint8)
    keys[:, :KEY_BYTES] = owners.view(np.uint8).reshape(-1, KEY_BYTES)
    keys[:, KEY_BYTES:] = outpoints.view(np.uint8).reshape(-1, OUTPOINT_BYTES)
    return keys.view(_ADDRESS_KEY).ravel()


def _by_prefix(keys: npt.NDArray[np.void]) -> npt.NDArray[np.intp]:
    return np.argsort(_prefixes(keys.view(np.uint8).reshape(-1, ADDRESS_KEY_BYTES)))


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
