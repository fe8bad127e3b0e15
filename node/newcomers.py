"""Transactions on their way into the mempool, as admission looks at them: singly or a tray at once.

Read from a tray's bytes and its ``VerdictColumns``, or back from an orphan's bytes; everything is
copied, so the tray may go. Handed to ``node.admission`` and forgotten.
"""

from __future__ import annotations

import struct
from bisect import bisect_right
from collections.abc import Sequence
from itertools import chain, pairwise, repeat
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

_U64 = struct.Struct("<Q")


class Newcomer(NamedTuple):
    """One verified transaction on its way into the pool; ``owners``: the witness key per input."""

    txid: bytes
    raw: bytes
    outpoints: tuple[bytes, ...]
    owners: Sequence[bytes]
    output_sum: int
    arrived_ms: int


def parse(txid: bytes, raw: bytes, arrived_ms: int) -> Newcomer:
    """Read a canonical, verified transaction back from its bytes."""
    n_inputs, n_outputs = raw[1], raw[2]
    outputs_at = TX_HEADER_BYTES + INPUT_BYTES * n_inputs
    witnesses_at = outputs_at + OUTPUT_BYTES * n_outputs
    outpoints = []
    owners = []
    for at in range(TX_HEADER_BYTES, outputs_at, INPUT_BYTES):
        outpoints.append(raw[at : at + OUTPOINT_BYTES])
        key_at = witnesses_at + WITNESS_BYTES * raw[at + OUTPOINT_BYTES]
        owners.append(raw[key_at : key_at + KEY_BYTES])
    output_sum = sum(
        _U64.unpack_from(raw, at)[0] for at in range(outputs_at, witnesses_at, OUTPUT_BYTES)
    )
    return Newcomer(txid, raw, tuple(outpoints), owners, output_sum, arrived_ms)


class TrayItems:
    """The passing transactions of one tray, as lists (for dictionaries) and arrays (for
    arithmetic).
    """

    __slots__ = (
        "_owner_keys",
        "count",
        "counts",
        "ends",
        "ids",
        "outpoints",
        "output_sums",
        "owners",
        "raws",
        "sizes",
        "spender_ids",
        "uniform",
    )

    def __init__(
        self,
        columns: VerdictColumns,
        n_items: int,
        passing: npt.NDArray[np.intp] | None,
        payload: memoryview,
        offsets: npt.NDArray[np.uint32],
    ) -> None:
        bounds = offsets[: n_items + 1].astype(np.int64)
        sizes = bounds[1:] - bounds[:-1]
        txids, counts = columns.txids[:n_items], columns.n_inputs[:n_items]
        output_sums = columns.output_sums[:n_items]
        if passing is None:
            first_size = int(sizes[0])
            if (sizes == first_size).all():
                self.raws: list[bytes] = np.frombuffer(
                    payload, dtype=f"V{first_size}", count=n_items, offset=int(bounds[0])
                ).tolist()
            else:
                places = bounds.tolist()
                copy = bytes(payload[: places[-1]])
                self.raws = [copy[start:end] for start, end in pairwise(places)]
        else:
            self.raws = [
                bytes(payload[start:end])
                for start, end in zip(
                    bounds[passing].tolist(), bounds[passing + 1].tolist(), strict=True
                )
            ]
            sizes, txids, counts = sizes[passing], txids[passing], counts[passing]
            output_sums = output_sums[passing]
        self.count = len(self.raws)
        self.sizes = sizes
        self.output_sums = output_sums
        self.ids: list[bytes] = txids.view(f"V{ID_BYTES}").ravel().tolist()
        fewest, most = int(counts.min()), int(counts.max())
        self.uniform = most if fewest == most else 0  # inputs of each, 0 where they differ
        self.counts: list[int] | None
        if self.uniform == 1:
            self.counts = None
            self.ends = range(1, self.count + 1)
            self.spender_ids = self.ids
        else:
            self.counts = counts.tolist()
            self.ends = np.cumsum(counts, dtype=np.int64).tolist()
            self.spender_ids = list(chain.from_iterable(map(repeat, self.ids, self.counts)))
        n_inputs = self.ends[-1]
        self.outpoints: list[bytes] = (
            columns.outpoints[:n_inputs].view(f"V{OUTPOINT_BYTES}").ravel().tolist()
        )
        self.owners = columns.owners[:n_inputs]
        self._owner_keys: list[bytes] | None = None

    def grouped(self) -> list[tuple[bytes, ...]]:
        """Return the outpoints as one tuple per transaction."""
        if self.counts is None:
            return list(zip(self.outpoints, strict=False))
        if self.uniform:
            return list(zip(*[iter(self.outpoints)] * self.uniform, strict=False))
        outpoints = self.outpoints
        return [
            tuple(outpoints[end - n : end]) for n, end in zip(self.counts, self.ends, strict=True)
        ]

    def belonging(self, inputs: list[int]) -> list[int]:
        """Return the transactions that these packed inputs belong to (repeats possible)."""
        if self.uniform == 1:
            return inputs
        return [bisect_right(self.ends, at) for at in inputs]

    def span(self, index: int) -> tuple[int, int]:
        """Return where the inputs of one transaction lie in the packed columns."""
        return self.ends[index - 1] if index else 0, self.ends[index]

    def newcomer(self, index: int, now_ms: int) -> Newcomer:
        """Return one transaction as a value, for the checks that look at it alone."""
        start, end = self.span(index)
        if self._owner_keys is None:
            self._owner_keys = self.owners.view(f"V{KEY_BYTES}").ravel().tolist()
        return Newcomer(
            self.ids[index],
            self.raws[index],
            tuple(self.outpoints[start:end]),
            self._owner_keys[start:end],
            int(self.output_sums[index]),
            now_ms,
        )
