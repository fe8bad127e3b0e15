"""Admission: judges verified transactions against chain, mempool and policy, and inserts the good ones.

Trays come from the verifiers (bytes and ``VerdictColumns``), outputs from the chain's store, one
multi-get a tray; verdict codes go into the tray's admission slot. Judged in two steps. What only the chain
decides (owners, sums, fees) is computed for the whole tray in arrays. What the mempool decides happens in
the order of the tray: runs of transactions that touch nothing held are inserted together, every other
one by itself. Both ways give the same verdicts and the same pool. Orphans whose parent arrived are judged
when the tray is done, within a budget, so that no transaction can buy a long stall.

Order of the checks: known or final, inputs found, owners, sums, minimum fee, relay fee, conflict and
replacement, ancestors, room. Owns nothing but the rules; a store that fails is the caller's to handle,
and leaves the pool as it was.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from itertools import chain, repeat
from typing import NamedTuple, Protocol

import numpy as np
import numpy.typing as npt

from node.orphans import Orphan, OrphanPool
from node.params import (
    ID_BYTES,
    INPUT_BYTES,
    KEY_BYTES,
    MAX_AMOUNT,
    OUTPOINT_BYTES,
    OUTPUT_BYTES,
    TX_HEADER_BYTES,
    WITNESS_BYTES,
)
from node.policy import RATE_BYTES, PolicyLimits, fee_rate, relay_fee
from node.pool import FEE, Pool
from node.verdict import Verdict
from node.verification.columns import VerdictColumns

_ADOPTED_INPUTS = 2_048  # inputs of orphans judged per call: some milliseconds of the store's time
_U64 = struct.Struct("<Q")
_NO_OUTPUT = bytes(OUTPUT_BYTES)
_MISSING = 255  # stands in the codes of chain facts for "an input was not in the store"

_ADMITTED = int(Verdict.ADMITTED)
_KNOWN = int(Verdict.KNOWN)

assert _MISSING not in Verdict.__members__.values()
assert OUTPUT_BYTES % 8 == 0
assert KEY_BYTES == OUTPUT_BYTES - 8

Codes = npt.NDArray[np.uint8]


class TransactionPosition(Protocol):
    """Where a final transaction is: block height, position in it, number of its outputs."""

    @property
    def height(self) -> int: ...
    @property
    def position(self) -> int: ...
    @property
    def n_outputs(self) -> int: ...


class OutputView(Protocol):
    """The chain's state as the mempool reads it, with every block that it was told of applied.

    ``get_outputs``: the 40-byte output of each outpoint[33], None where there is none (any more).
    ``find_transaction``: the position of a final transaction, None if the id is not final. It must know
    the ids of genesis allocations and rewards as well: else a spent one of their outputs looks like an
    output whose transaction has yet to arrive, and its double spend waits as an orphan.
    """

    def get_outputs(self, outpoints: list[bytes], /) -> list[bytes | None]: ...
    def find_transaction(self, txid: bytes, /) -> TransactionPosition | None: ...


class Newcomer(NamedTuple):
    """One verified transaction on its way into the pool; ``owners`` are the witness keys per input."""

    txid: bytes
    raw: bytes
    outpoints: tuple[bytes, ...]
    owners: Sequence[bytes]
    output_sum: int
    arrived_ms: int


class _Funding(NamedTuple):
    """What the inputs of a newcomer bring: its fee, and which entries of the pool it spends from."""

    fee: int
    parents: tuple[bytes, ...]


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


class _Tray:
    """The passing transactions of one tray, as lists (for dictionaries) and arrays (for arithmetic)."""

    __slots__ = (
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
                self.raws = [
                    copy[start:end] for start, end in zip(places, places[1:], strict=False)
                ]
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
            self.spender_ids = list(
                chain.from_iterable(map(repeat, self.ids, self.counts))
            )
        n_inputs = self.ends[-1]
        self.outpoints: list[bytes] = (
            columns.outpoints[:n_inputs].view(f"V{OUTPOINT_BYTES}").ravel().tolist()
        )
        self.owners = columns.owners[:n_inputs]

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

    def span(self, index: int) -> tuple[int, int]:
        """Return where the inputs of one transaction lie in the packed columns."""
        return self.ends[index - 1] if index else 0, self.ends[index]
