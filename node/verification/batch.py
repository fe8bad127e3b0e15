"""Judges a tray of transactions at once: encoding, id and signatures, by NumPy over its bytes.

A verifier hands in the tray as ``net`` filled it; the verdict columns are written, counts go back.
The object owns its scratch memory, one per process, and keeps nothing between trays. It trusts
nobody about the transactions, and ``net`` about nothing: offsets outside the tray raise
``ValueError``, which kills the verifier.

All items are laid out as flat, ragged arrays (every input, every output, every witness of the tray
in a row each), so the cost does not depend on how many different shapes a tray holds. A few items
alone are cheaper one by one, with the codec of ``node.transaction``; both ways agree on every byte
string.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from node.params import (
    ID_BYTES,
    INPUT_BYTES,
    KEY_BYTES,
    MAX_AMOUNT,
    OUTPOINT_BYTES,
    OUTPUT_BYTES,
    TX_HEADER_BYTES,
    TX_VERSION,
    WITNESS_BYTES,
)
from node.transaction import (
    IdHasher,
    Transaction,
    TransactionError,
    Witness,
    decode,
    spend_message,
)
from node.verdict import Verdict
from node.verification.columns import VerdictColumns
from node.verification.signatures import Backend, Bytes, Flags, SignatureTable

Index = npt.NDArray[np.intp]

FEW_BYTES = 3000
"""Trays up to this size, each item counted 256 bytes longer, go item by item: that takes about as
long as the fixed cost of the vectorised way (6 transactions of 1 input, 3 of 4; measured)."""

_ITEM_SURCHARGE_BYTES = 256

_HEADER_FIELDS = 4
_KEY_MIX = np.uint64(0x9E3779B97F4A7C15)  # 2^64 / golden ratio: spreads item numbers over 64 bits

_SIZES_BYTES = np.array([0, INPUT_BYTES, OUTPUT_BYTES, WITNESS_BYTES])  # by header field

assert _HEADER_FIELDS == TX_HEADER_BYTES == len(_SIZES_BYTES)


class BatchCounts(NamedTuple):
    """What one tray held: items, those of them that passed, signatures verified."""

    items: int
    passed: int
    signatures: int


class _Tray(NamedTuple):
    """One tray's bytes, as elements of every size that start at every byte."""

    headers: npt.NDArray[np.uint32]
    values: npt.NDArray[np.uint64]
    octets: Bytes
    outpoints: npt.NDArray[np.void]
    witnesses: npt.NDArray[np.void]


class _Items(NamedTuple):
    """Items whose length fits their header; their inputs, outputs, witnesses in flat arrays."""

    bodies: list[tuple[int, int]]  # per item: the bytes that its id covers
    n_inputs: Index
    n_witnesses: Index
    first_inputs: Index  # per item: where its inputs begin in the flat arrays
    first_witnesses: Index
    input_items: Index  # per input: its item
    output_items: Index
    witness_items: Index
    outpoints: npt.NDArray[np.void]  # per input
    numbers: Index  # per input: its witness number
    values: npt.NDArray[np.uint64]  # per output
    output_sums: npt.NDArray[np.uint64]  # per item; wraps where a value is out of bounds


class BatchVerifier:
    """Judges trays of up to ``max_items`` transactions in ``tray_bytes`` bytes.

    ``salt`` is ``genesis_id[:16]``; ``dust_limit`` in units comes from the genesis. ``give_way`` is
    called in the middle of a long tray, every millisecond or so; it must not use this verifier.
    """

    def __init__(
        self,
        backend: Backend,
        salt: bytes,
        dust_limit: int,
        max_items: int,
        tray_bytes: int,
        *,
        few_bytes: int = FEW_BYTES,
        give_way: Callable[[], None] = lambda: None,
    ) -> None:
        self._backend = backend
        self._give_way = give_way
        self._hasher = IdHasher(salt)
        self._dust_limit = dust_limit
        self._dust = np.uint64(dust_limit)
        self._max_items = max_items
        self._tray_bytes = tray_bytes
        self._few_bytes = few_bytes
        self._table = SignatureTable(tray_bytes // WITNESS_BYTES, max_items)
        self._witnesses = self._table.witnesses.view(f"V{WITNESS_BYTES}").ravel()
        self._keys: npt.NDArray[np.void] = np.ndarray(
            self._table.capacity, f"V{KEY_BYTES}", self._table.limbs, strides=(WITNESS_BYTES,)
        )
        self._counting: Index = np.arange(max(tray_bytes // INPUT_BYTES, max_items) + 1)

    def verify(
        self, payload: memoryview, offsets: npt.NDArray[np.uint32], out: VerdictColumns
    ) -> BatchCounts:
        """Judge the ``n`` items of a tray and write their verdict columns.

        Item ``i`` is ``payload[offsets[i]:offsets[i + 1]]``; ``offsets`` u32[n + 1]. Raises
        ``ValueError`` for offsets that descend or leave the tray, and for too many items.
        """
        n_items = len(offsets) - 1
        if not 0 <= n_items <= self._max_items:
            raise ValueError(f"{n_items} items, at most {self._max_items} fit a tray")
        begin, end = int(offsets[0]), int(offsets[-1])
        if end > payload.nbytes or end - begin > self._tray_bytes:
            raise ValueError(f"offsets leave the tray of {payload.nbytes} bytes")
        if end - begin + n_items * _ITEM_SURCHARGE_BYTES <= self._few_bytes:
            return self._one_by_one(payload, offsets.tolist(), out)
        bounds = offsets.astype(np.intp)
        starts, lengths = bounds[:-1], bounds[1:] - bounds[:-1]
        if lengths.min() < 0:
            raise ValueError("offsets descend")
        return self._together(payload, starts, lengths, out)

    # one by one

    def _one_by_one(
        self, payload: memoryview, bounds: list[int], out: VerdictColumns
    ) -> BatchCounts:
        decoded: list[tuple[int, Transaction, bytes]] = []
        for item, (begin, end) in enumerate(pairwise(bounds)):
            if end < begin:
                raise ValueError("offsets descend")
            raw = bytes(payload[begin:end])
            try:
                transaction = decode(raw, self._dust_limit)
            except TransactionError as error:
                out.put_rejected(item, error.verdict)
                continue
            body = raw[: len(raw) - WITNESS_BYTES * len(transaction.witnesses)]
            decoded.append((item, transaction, self._hasher.body_id(body)))
        valid = self._valid_few([(each.witnesses, txid) for _, each, txid in decoded])
        n_inputs = n_passed = n_signatures = 0
        for (item, transaction, txid), good in zip(decoded, valid, strict=True):
            n_signatures += len(transaction.witnesses)
            if not good:
                out.put_rejected(item, Verdict.BAD_SIGNATURE)
                continue
            inputs, witnesses = transaction.inputs, transaction.witnesses
            out.put(item, Verdict.ADMITTED, txid, len(inputs), transaction.output_sum)
            out.put_inputs(
                n_inputs,
                b"".join([spent.outpoint for spent in inputs]),
                b"".join([witnesses[spent.witness].key for spent in inputs]),
            )
            n_inputs += len(inputs)
            n_passed += 1
        return BatchCounts(len(bounds) - 1, n_passed, n_signatures)

    def _valid_few(self, signed: list[tuple[tuple[Witness, ...], bytes]]) -> list[bool]:
        """Whether all witnesses of each (witnesses, txid) are valid."""
        witnesses = [witness for each, _ in signed for witness in each]
        if len(witnesses) == 1:  # an idle node's case: the table would cost half of the signature
            (witness,) = witnesses
            message = spend_message(signed[0][1])
            return [self._backend.verify_alone(witness.key, witness.signature, message)]
        table = self._table
        if witnesses:
            packed = b"".join([witness.key + witness.signature for witness in witnesses])
            table.witnesses[: len(witnesses)].reshape(-1)[:] = np.frombuffer(packed, np.uint8)
            ids = b"".join([txid for _, txid in signed])
            table.ids[: len(signed)] = np.frombuffer(ids, np.uint8).reshape(-1, ID_BYTES)
        message_of = [at for at, (each, _) in enumerate(signed) for _ in each]
        passed: list[bool] = self._passing(np.array(message_of, np.intp), len(signed)).tolist()
        return passed

    # together

    def _together(
        self, payload: memoryview, starts: Index, lengths: Index, out: VerdictColumns
    ) -> BatchCounts:
        n_items = len(starts)
        tray = _elements(payload)
        headers = tray.headers[np.minimum(starts, len(tray.headers) - 1)]
        counts = headers.view(np.uint8).reshape(n_items, _HEADER_FIELDS).astype(np.intp)
        codes = _header_codes(counts, lengths)
        live = self._counting[:n_items]
        if codes.any():
            live = np.flatnonzero(codes == 0)
            starts, counts = starts[live], counts[live]
        items = self._lay_out(tray, starts, counts)
        broken = self._encoding_codes(items)
        if broken is not None:
            codes[live] = broken
            sound = broken == 0
            live, starts, counts = live[sound], starts[sound], counts[sound]
            items = self._lay_out(tray, starts, counts)
        ids = self._hasher.body_ids([payload[begin:end] for begin, end in items.bodies])
        self._table.ids[: len(live)] = np.frombuffer(ids, dtype=np.uint8).reshape(-1, ID_BYTES)
        passed = self._passing(items.witness_items, len(live))
        codes[live[~passed]] = Verdict.BAD_SIGNATURE
        self._write(items, live, passed, codes, out)
        return BatchCounts(n_items, int(passed.sum()), len(items.witness_items))

    def _lay_out(self, tray: _Tray, starts: Index, counts: Index) -> _Items:
        """Find every input, output and witness of the items; copy the witnesses into the table."""
        n_inputs, n_outputs, n_witnesses = counts[:, 1], counts[:, 2], counts[:, 3]
        inputs_begin = starts + TX_HEADER_BYTES
        outputs_begin = inputs_begin + n_inputs * INPUT_BYTES
        witnesses_begin = outputs_begin + n_outputs * OUTPUT_BYTES
        input_items, first_inputs, inputs_at = self._flat(inputs_begin, n_inputs, INPUT_BYTES)
        output_items, first_outputs, outputs_at = self._flat(outputs_begin, n_outputs, OUTPUT_BYTES)
        witness_items, first_witnesses, witnesses_at = self._flat(
            witnesses_begin, n_witnesses, WITNESS_BYTES
        )
        self._witnesses[: len(witnesses_at)] = tray.witnesses[witnesses_at]
        values = tray.values[outputs_at]
        return _Items(
            bodies=list(zip(starts.tolist(), witnesses_begin.tolist(), strict=True)),
            n_inputs=n_inputs,
            n_witnesses=n_witnesses,
            first_inputs=first_inputs,
            first_witnesses=first_witnesses,
            input_items=input_items,
            output_items=output_items,
            witness_items=witness_items,
            outpoints=tray.outpoints[inputs_at],
            numbers=tray.octets[inputs_at + OUTPOINT_BYTES].astype(np.intp),
            values=values,
            output_sums=np.add.reduceat(values, first_outputs) if len(values) else values,
        )

    def _flat(self, begins: Index, counts: Index, size_bytes: int) -> tuple[Index, Index, Index]:
        """Number runs of elements through: each element's item, each run's first, the offsets."""
        n_items = len(counts)
        ends = np.cumsum(counts)
        total = int(ends[-1]) if n_items else 0
        if total == n_items:  # one each
            items = self._counting[:n_items]
            return items, items, begins
        firsts = ends - counts
        items = np.repeat(self._counting[:n_items], counts)
        offsets = (begins - firsts * size_bytes)[items] + self._counting[:total] * size_bytes
        return items, firsts, offsets

    def _encoding_codes(self, items: _Items) -> Bytes | None:
        """Return the codes of broken encoding rules, u8 per item; None when all are kept."""
        n_items = len(items.n_inputs)
        codes = np.zeros(n_items, dtype=np.uint8)
        # The last rule first, so that the verdict is what is written last.
        if items.values.size:
            if items.values.max() > MAX_AMOUNT or items.output_sums.max() > MAX_AMOUNT:
                codes[items.output_sums > MAX_AMOUNT] = Verdict.AMOUNT_TOO_LARGE
                codes[items.output_items[items.values > MAX_AMOUNT]] = Verdict.AMOUNT_TOO_LARGE
            if items.values.min() < self._dust:
                codes[items.output_items[items.values < self._dust]] = Verdict.DUST_OUTPUT
        if len(items.outpoints) > n_items:
            _mark_unordered(items, codes)
        if len(items.witness_items) > n_items:
            self._mark_repeated_keys(items, codes)
        # Lifted by 256 an item, the running maximum starts afresh with each.
        lift = self._counting[:n_items] * 256
        lifted = items.numbers + lift[items.input_items]
        running = np.maximum.accumulate(lifted)
        used = running[items.first_inputs + items.n_inputs - 1] - lift + 1
        codes[used < items.n_witnesses] = Verdict.WITNESS_UNUSED
        codes[used > items.n_witnesses] = Verdict.WITNESS_NUMBER
        allowed = np.empty_like(running)
        allowed[1:] = running[:-1] + 1
        allowed[items.first_inputs] = lift
        codes[items.input_items[lifted > allowed]] = Verdict.WITNESS_NUMBER
        return codes if codes.any() else None

    def _mark_repeated_keys(self, items: _Items, codes: Bytes) -> None:
        # Equal keys have equal first words; only where such a pair is seen, keys are compared.
        n_witnesses = len(items.witness_items)
        words = self._table.limbs[:n_witnesses, 0] + items.witness_items.view(np.uint64) * _KEY_MIX
        words.sort()
        if not (words[1:] == words[:-1]).any():
            return
        keys = self._keys[:n_witnesses].tolist()
        for item in np.flatnonzero(items.n_witnesses > 1).tolist():
            first, count = int(items.first_witnesses[item]), int(items.n_witnesses[item])
            if len(set(keys[first : first + count])) != count:
                codes[item] = Verdict.WITNESS_REPEATED

    def _passing(self, message_of: Index, n_messages: int) -> Flags:
        """Which of the items whose ids are in the table have only valid signatures."""
        passed = np.ones(n_messages, dtype=np.bool_)
        if len(message_of):
            table, backend, count = self._table, self._backend, len(message_of)
            table.point(message_of)
            valid = np.empty(count, dtype=np.bool_)
            for first in range(0, count, backend.at_once):
                if first:
                    self._give_way()
                part = min(backend.at_once, count - first)
                valid[first : first + part] = backend.verify(table, part, first)
            passed[message_of[~valid]] = False
        return passed

    def _write(
        self, items: _Items, live: Index, passed: Flags, codes: Bytes, out: VerdictColumns
    ) -> None:
        n_items = len(codes)
        out.codes[:n_items] = codes
        ids = self._table.ids[: len(live)]
        owners = self._keys[items.first_witnesses[items.input_items] + items.numbers]
        if len(live) == n_items and passed.all():
            out.txids[:n_items] = ids
            out.n_inputs[:n_items] = items.n_inputs
            out.output_sums[:n_items] = items.output_sums
            outpoints = items.outpoints
        else:
            rows, kept = live[passed], passed[items.input_items]
            for column, passing in (
                (out.txids, ids),
                (out.n_inputs, items.n_inputs),
                (out.output_sums, items.output_sums),
            ):
                column[:n_items] = 0
                column[rows] = passing[passed]
            outpoints, owners = items.outpoints[kept], owners[kept]
        out.outpoints[: len(outpoints)] = outpoints.view(np.uint8).reshape(-1, OUTPOINT_BYTES)
        out.owners[: len(owners)] = owners.view(np.uint8).reshape(-1, KEY_BYTES)


def _elements(payload: memoryview) -> _Tray:
    def from_every_byte(element: str) -> npt.NDArray[Any]:
        last = payload.nbytes - np.dtype(element).itemsize
        return np.ndarray(max(last + 1, 0), element, payload, strides=(1,))

    return _Tray(
        headers=from_every_byte("<u4"),
        values=from_every_byte("<u8"),
        octets=from_every_byte("u1"),
        outpoints=from_every_byte(f"V{OUTPOINT_BYTES}"),
        witnesses=from_every_byte(f"V{WITNESS_BYTES}"),
    )


def _header_codes(counts: Index, lengths: Index) -> Bytes:
    """Return the codes of what a header alone tells, u8 per item: zero where length and it agree.

    ``counts`` [n, 4]: version, inputs, outputs, witnesses.
    """
    demanded = counts @ _SIZES_BYTES + TX_HEADER_BYTES
    codes = np.zeros(len(counts), dtype=np.uint8)
    if ((demanded == lengths) & (counts[:, 0] == TX_VERSION) & (counts.min(axis=1) > 0)).all():
        return codes
    # The last rule first, so that the verdict is what is written last.
    codes[demanded != lengths] = Verdict.BAD_LENGTH
    codes[counts[:, 3] == 0] = Verdict.NO_WITNESSES
    codes[counts[:, 2] == 0] = Verdict.NO_OUTPUTS
    codes[counts[:, 1] == 0] = Verdict.NO_INPUTS
    codes[counts[:, 0] != TX_VERSION] = Verdict.BAD_VERSION
    codes[lengths < TX_HEADER_BYTES] = Verdict.BAD_LENGTH
    return codes


def _mark_unordered(items: _Items, codes: Bytes) -> None:
    # As "S" NumPy compares them like bytes objects: all have the same length.
    outpoints = items.outpoints.view(f"S{OUTPOINT_BYTES}")
    rising = outpoints[:-1] < outpoints[1:]
    wrong = np.flatnonzero(~rising & (items.input_items[:-1] == items.input_items[1:]))
    if not wrong.size:
        return
    equal = outpoints[wrong] == outpoints[wrong + 1]
    codes[items.input_items[wrong[equal]]] = Verdict.DUPLICATE_INPUT
    codes[items.input_items[wrong[~equal]]] = Verdict.INPUTS_UNSORTED
