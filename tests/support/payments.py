"""Payments without signatures, for tests of what comes after verification.

``Chain`` is the chain's state in dictionaries (an ``OutputView``), ``pay`` makes canonical bytes
whose signatures are filler, ``tray`` lays them out as a tray with the columns that a verifier would
write.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from node.mempool import Mempool
from node.params import MIN_TX_BYTES
from node.transaction import IdHasher, Input, Output, Transaction, Witness, decode, encode
from node.verdict import Verdict
from node.verification.columns import VerdictColumns

SALT = bytes(range(16))
IDS = IdHasher(SALT)
ALICE, BOB, CAROL, MALLORY = (bytes([letter]) * 32 for letter in b"ABCM")


class Position(NamedTuple):
    """Where a final transaction is."""

    height: int
    position: int
    n_outputs: int


class Payment(NamedTuple):
    """One transaction: its id and its bytes."""

    txid: bytes
    raw: bytes

    def out(self, index: int = 0) -> bytes:
        """Return the outpoint[33] of one of its outputs."""
        return self.txid + bytes([index])


def pay(
    inputs: Iterable[tuple[bytes, bytes]],
    outputs: Sequence[tuple[int, bytes]],
    filler: int = 0,
) -> Payment:
    """Spend ``inputs`` (outpoint, owner) into ``outputs`` (value, owner).

    Two payments that differ in ``filler`` alone, or in the inputs' owners alone, have one txid and
    different witnesses.
    """
    numbers: dict[bytes, int] = {}
    numbered = [
        Input(outpoint, numbers.setdefault(owner, len(numbers)))
        for outpoint, owner in sorted(inputs)
    ]
    witnesses = [Witness(owner, bytes([filler]) * 64) for owner in numbers]
    transaction = Transaction(
        tuple(numbered), tuple(Output(*output) for output in outputs), tuple(witnesses)
    )
    raw = encode(transaction)
    return Payment(IDS.txid(raw), raw)


@dataclass
class Chain:
    """Final outputs and transactions, as the store would answer."""

    outputs: dict[bytes, bytes] = field(default_factory=dict)
    positions: dict[bytes, Position] = field(default_factory=dict)
    height: int = 0
    output_queries: int = 0

    def get_outputs(self, outpoints: list[bytes], /) -> list[bytes | None]:
        self.output_queries += len(outpoints)
        return list(map(self.outputs.get, outpoints))

    def find_transaction(self, txid: bytes, /) -> Position | None:
        return self.positions.get(txid)

    def fund(self, *outputs: tuple[int, bytes]) -> Payment:
        """Make a final transaction out of nothing with these outputs (value, owner)."""
        self.height += 1
        source = self.height.to_bytes(32, "big") + b"\0"
        payment = pay([(source, MALLORY)], outputs)
        self._put(payment, 0)
        return payment

    def apply(self, payments: Iterable[Payment]) -> None:
        """Make payments final, in one block."""
        self.height += 1
        for position, payment in enumerate(payments):
            for item in decode(payment.raw, 0).inputs:
                del self.outputs[item.outpoint]
            self._put(payment, position)

    def _put(self, payment: Payment, position: int) -> None:
        outputs = decode(payment.raw, 0).outputs
        for index, output in enumerate(outputs):
            self.outputs[payment.out(index)] = output.pack()
        self.positions[payment.txid] = Position(self.height, position, len(outputs))


class Tray(NamedTuple):
    """The arguments that ``Mempool.admit`` takes for one tray."""

    columns: VerdictColumns
    n_items: int
    payload: memoryview
    offsets: npt.NDArray[np.uint32]


def tray(raws: Sequence[bytes], rejected: Mapping[int, Verdict] | None = None) -> Tray:
    """Lay transactions out back to back, with the columns of a verifier that rejected some."""
    rejected = rejected or {}
    n_items = len(raws)
    payload = b"".join(raws)
    tray_bytes = max(len(payload), MIN_TX_BYTES)
    slot = bytearray(VerdictColumns.layout_bytes(max(n_items, 1), tray_bytes))
    columns = VerdictColumns(memoryview(slot), max(n_items, 1), tray_bytes)
    offsets = np.zeros(n_items + 1, dtype=np.uint32)
    offsets[1:] = np.cumsum([len(raw) for raw in raws])
    packed = 0
    for index, raw in enumerate(raws):
        if index in rejected:
            columns.codes[index] = rejected[index]
            continue
        transaction = decode(raw, 0)
        columns.txids[index] = np.frombuffer(IDS.txid(raw), dtype=np.uint8)
        columns.n_inputs[index] = len(transaction.inputs)
        columns.output_sums[index] = transaction.output_sum
        for item in transaction.inputs:
            columns.outpoints[packed] = np.frombuffer(item.outpoint, dtype=np.uint8)
            owner = transaction.witnesses[item.witness].key
            columns.owners[packed] = np.frombuffer(owner, dtype=np.uint8)
            packed += 1
    return Tray(columns, n_items, memoryview(payload), offsets)


def submit(
    pool: Mempool, *payments: Payment, now_ms: int = 0, one_by_one: bool = False
) -> list[Verdict]:
    codes = np.full(len(payments), 255, dtype=np.uint8)
    pool.admit(*tray([p.raw for p in payments]), now_ms, codes, one_by_one=one_by_one)
    return [Verdict(code) for code in codes.tolist()]


def admit(pool: Mempool, *payments: Payment, now_ms: int = 0) -> None:
    verdicts = submit(pool, *payments, now_ms=now_ms)
    assert set(verdicts) == {Verdict.ADMITTED}


def commit(pool: Mempool, chain: Chain, *payments: Payment) -> None:
    chain.apply(payments)
    pool.committed([p.txid for p in payments], [p.raw for p in payments])


def pending(pool: Mempool) -> list[bytes]:
    return [txid for txid, _, _ in pool.records()]
