"""Good transactions read back from bytes and trays: as the reference decodes them."""

from __future__ import annotations

import random

import numpy as np
from chains import SmallChain, make_genesis
from hypothesis import given
from hypothesis import strategies as st

from node.exchange.verified import Arrived, from_columns, read_verified
from node.transaction import decode
from node.verification.columns import VerdictColumns


@given(st.integers(0, 2**32), st.integers(1, 8))
def test_transactions_are_read_as_they_decode(seed: int, count: int) -> None:
    chain = SmallChain(*make_genesis(12))
    block = chain.random_block(random.Random(seed), count)
    for got, raw, txid in zip(
        read_verified(block.txids, block.transactions),
        block.transactions,
        block.txids,
        strict=True,
    ):
        transaction = decode(raw, 5)
        assert got.raw == raw
        assert got.txid == txid
        assert got.outpoints == tuple(each.outpoint for each in transaction.inputs)
        assert got.owners == tuple(
            transaction.witnesses[each.witness].key for each in transaction.inputs
        )
        assert got.output_sum == transaction.output_sum


def test_many_inputs_of_one_owner() -> None:
    chain = SmallChain(*make_genesis(40))
    inputs = sorted(chain.ledger.outputs.items())[:12]
    raws = [chain.spend(inputs, [5] * 9), chain.spend(inputs[:1], [5])]
    first, second = read_verified([b"a" * 32, b"b" * 32], raws)
    assert first.outpoints == tuple(outpoint for outpoint, _ in inputs)
    assert first.owners == tuple(output[8:] for _, output in inputs)
    assert (first.output_sum, second.output_sum) == (45, 5)
    assert read_verified([], []) == []


def test_what_the_verifier_rejected_is_none() -> None:
    columns = VerdictColumns(memoryview(bytearray(VerdictColumns.layout_bytes(4, 400))), 4, 400)
    for item, code in enumerate((0, 48, 0)):
        columns.put(item, code, bytes((item,)) * 32, 1, 5)
    payload = bytearray(b"xaabbbcyyy")
    items = from_columns(columns, 3, memoryview(payload), np.array([1, 3, 6, 7], np.uint32))
    payload[:] = bytes(len(payload))
    assert items == [Arrived(bytes(32), b"aa"), None, Arrived(b"\2" * 32, b"c")]
