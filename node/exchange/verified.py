"""Transactions whose encoding and signatures are known to be good, as judging a block needs them.

Fetched ones come out of a tray with their verdicts and are kept as id and bytes (`Arrived`); the
mempool's are bytes as well. When their block is judged they are read again, thousands at once and
with arrays (`read_verified`). Everything is copied; it owns nothing.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import pairwise
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from node.params import (
    ID_BYTES,
    INPUT_BYTES,
    KEY_BYTES,
    OUTPOINT_BYTES,
    OUTPUT_BYTES,
    TX_HEADER_BYTES,
    WITNESS_BYTES,
)
from node.verification.columns import VerdictColumns

_OUTPOINT = np.dtype(f"V{OUTPOINT_BYTES}")
_KEY = np.dtype(f"V{KEY_BYTES}")
_VALUE = np.dtype("<u8")


class Arrived(NamedTuple):
    """A transaction that a verifier has found good: its id[32] and its bytes."""

    txid: bytes
    raw: bytes


class VerifiedTx(NamedTuple):
    """A good transaction; `outpoints`[33] and `owners`[32] (witness keys) go by input, units."""

    raw: bytes
    txid: bytes
    outpoints: tuple[bytes, ...]
    owners: tuple[bytes, ...]
    output_sum: int


def from_columns(
    columns: VerdictColumns,
    n_items: int,
    payload: memoryview,
    offsets: npt.NDArray[np.uint32],
) -> list[Arrived | None]:
    """Return the items of a tray, None for those that the verifier rejected.

    Item i is ``payload[offsets[i]:offsets[i + 1]]``. Nothing of the tray is referred to afterwards.
    """
    ids = columns.txids[:n_items].tobytes()
    codes = columns.codes[:n_items].tobytes()
    bounds = pairwise(offsets[: n_items + 1].tolist())
    return [
        None if code else Arrived(ids[at : at + ID_BYTES], bytes(payload[start:end]))
        for code, at, (start, end) in zip(
            codes, range(0, n_items * ID_BYTES, ID_BYTES), bounds, strict=True
        )
    ]


def read_verified(txids: Sequence[bytes], raws: Sequence[bytes]) -> list[VerifiedTx]:
    """Read good transactions, given with their ids, all at once."""
    if not raws:
        return []
    body = np.frombuffer(b"".join(raws), np.uint8)
    lengths = np.fromiter(map(len, raws), np.int64, len(raws))
    starts = np.cumsum(lengths) - lengths
    n_inputs = body[starts + 1].astype(np.int64)
    n_outputs = body[starts + 2].astype(np.int64)
    inputs_at = _runs(starts + TX_HEADER_BYTES, n_inputs, INPUT_BYTES)
    outputs_from = starts + TX_HEADER_BYTES + INPUT_BYTES * n_inputs
    witnesses_from = outputs_from + OUTPUT_BYTES * n_outputs
    numbers = body[inputs_at + OUTPOINT_BYTES].astype(np.int64)
    keys_at = np.repeat(witnesses_from, n_inputs) + WITNESS_BYTES * numbers
    values = _items(body, _runs(outputs_from, n_outputs, OUTPUT_BYTES), _VALUE)
    sums = np.add.reduceat(values, np.cumsum(n_outputs) - n_outputs)
    return list(
        map(
            VerifiedTx._make,
            zip(
                raws,
                txids,
                _grouped(_items(body, inputs_at, _OUTPOINT).tolist(), n_inputs),
                _grouped(_items(body, keys_at, _KEY).tolist(), n_inputs),
                sums.tolist(),
                strict=True,
            ),
        )
    )


def _runs(
    starts: npt.NDArray[np.int64], counts: npt.NDArray[np.int64], step: int
) -> npt.NDArray[np.int64]:
    """Offsets of counts[i] items, ``step`` bytes apart from starts[i] on."""
    ends = np.cumsum(counts)
    numbers = np.arange(int(ends[-1])) - np.repeat(ends - counts, counts)
    offsets: npt.NDArray[np.int64] = np.repeat(starts, counts) + step * numbers
    return offsets


def _items(
    body: npt.NDArray[np.uint8], at: npt.NDArray[np.int64], kind: np.dtype[np.generic]
) -> npt.NDArray[np.generic]:
    """The items of a kind that begin at these offsets of ``body``, copied out."""
    every_offset: npt.NDArray[np.generic] = np.ndarray(
        (len(body) - kind.itemsize + 1,), kind, body, strides=(1,)
    )
    return every_offset[at]


def _grouped(items: list[bytes], counts: npt.NDArray[np.int64]) -> Iterator[tuple[bytes, ...]]:
    """The items as one tuple per transaction."""
    fewest, most = int(counts.min()), int(counts.max())
    if fewest == most:
        return zip(*[iter(items)] * most, strict=True)
    ends = [0, *np.cumsum(counts).tolist()]
    return (tuple(items[start:end]) for start, end in pairwise(ends))
