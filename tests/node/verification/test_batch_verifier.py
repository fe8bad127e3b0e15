"""The tray at a time gives what the codec and libsodium give one by one, on every byte string."""

from __future__ import annotations

import struct
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from nacl import bindings
from nacl.exceptions import BadSignatureError
from nacl.signing import SigningKey

from node.params import INPUT_BYTES, MAX_AMOUNT, OUTPUT_BYTES, TX_HEADER_BYTES, WITNESS_BYTES
from node.transaction import (
    Input,
    Output,
    Transaction,
    TransactionError,
    body_bytes,
    build,
    decode,
    sign,
    spend_message,
    txid,
)
from node.verdict import Verdict
from node.verification.batch import FEW_BYTES, BatchCounts, BatchVerifier
from node.verification.columns import VerdictColumns
from node.verification.nacl import NaclBackend
from node.verification.signatures import Backend

SALT = b"salt of a chain."
DUST = 1000
MAX_ITEMS = 300
TRAY_BYTES = 64 * 1024
VECTORISED, ONE_BY_ONE = 0, 1 << 30
OWNERS = [SigningKey(bytes([seed]) * 32) for seed in range(6)]
SEEDS = {bytes(owner.verify_key): owner for owner in OWNERS}
SHAPES = [(1, 2, 1), (1, 1, 1), (4, 2, 4), (2, 2, 1), (3, 1, 2), (5, 3, 5), (2, 4, 2), (9, 1, 3)]


def outpoint(n: int) -> bytes:
    # Few distinct leading bytes, and zeros at the end: what a careless comparison would trip over.
    return bytes([n % 3]) * 24 + struct.pack(">Q", n * 256) + bytes([0, 255, 0][n % 3 : n % 3 + 1])


def payment(number: int, n_inputs: int, n_outputs: int, n_owners: int) -> bytes:
    spent = [
        (outpoint(number * 1000 + i * 7 % 11 + i * 100), OWNERS[i % n_owners])
        for i in range(n_inputs)
    ]
    outputs = [Output(DUST + number + i, bytes([i]) * 32) for i in range(n_outputs)]
    return build(spent, outputs, SALT)


PAYMENTS = [payment(n, *SHAPES[n % len(SHAPES)]) for n in range(2 * len(SHAPES))]


class Judged(NamedTuple):
    """What must be in the columns for one item."""

    verdict: Verdict
    txid: bytes = bytes(32)
    transaction: Transaction | None = None
    n_signatures: int = 0


def judge(raw: bytes) -> Judged:
    """The plain reference: decode, then one signature after the other through PyNaCl."""
    try:
        transaction = decode(raw, DUST)
    except TransactionError as error:
        return Judged(error.verdict)
    identifier = txid(raw, SALT)
    for witness in transaction.witnesses:
        try:
            bindings.crypto_sign_open(witness.signature + spend_message(identifier), witness.key)
        except BadSignatureError:
            return Judged(Verdict.BAD_SIGNATURE, n_signatures=len(transaction.witnesses))
    return Judged(Verdict.ADMITTED, identifier, transaction, len(transaction.witnesses))


def tray(raws: list[bytes], lead: int = 0) -> tuple[memoryview, npt.NDArray[np.uint32]]:
    offsets = np.cumsum([lead, *map(len, raws)]).astype(np.uint32)
    memory = b"\x01" * lead + b"".join(raws) + b"\x01" * (TRAY_BYTES - int(offsets[-1]))
    return memoryview(memory), offsets


def used_columns() -> VerdictColumns:
    size_bytes = VerdictColumns.layout_bytes(MAX_ITEMS, TRAY_BYTES)
    return VerdictColumns(memoryview(bytearray(b"\xa5" * size_bytes)), MAX_ITEMS, TRAY_BYTES)


def verifier(backend: Backend, few_bytes: int) -> BatchVerifier:
    return BatchVerifier(backend, SALT, DUST, MAX_ITEMS, TRAY_BYTES, few_bytes=few_bytes)


def test_a_long_tray_gives_way_between_its_pieces(backend: Backend) -> None:
    """And whatever is done meanwhile, the verdicts are the same."""
    looks = 0

    def give_way() -> None:
        nonlocal looks
        looks += 1
        check(verifier(backend, 0), PAYMENTS[:3])

    judge_tray = BatchVerifier(backend, SALT, DUST, MAX_ITEMS, TRAY_BYTES, give_way=give_way)
    raws = [raw for raw in PAYMENTS if raw[3] == 1] * 50
    raws = raws[: min(MAX_ITEMS, TRAY_BYTES // max(map(len, raws)))]
    raws[-1] = raws[-1][:-1] + bytes([raws[-1][-1] ^ 1])
    check(judge_tray, raws)
    assert looks == (len(raws) - 1) // backend.at_once


def check(judge_tray: BatchVerifier, raws: list[bytes], lead: int = 0) -> list[Verdict]:
    payload, offsets = tray(raws, lead)
    columns = used_columns()
    counts = judge_tray.verify(payload, offsets, columns)
    expected = [judge(raw) for raw in raws]
    n = len(raws)
    passing = [e.transaction for e in expected if e.transaction is not None]
    assert columns.codes[:n].tolist() == [e.verdict for e in expected]
    assert columns.txids[:n].tobytes() == b"".join(e.txid for e in expected)
    assert columns.n_inputs[:n].tolist() == [
        len(e.transaction.inputs) if e.transaction else 0 for e in expected
    ]
    assert columns.output_sums[:n].tolist() == [
        e.transaction.output_sum if e.transaction else 0 for e in expected
    ]
    inputs = [(t, spent) for t in passing for spent in t.inputs]
    rows = len(inputs)
    assert columns.outpoints[:rows].tobytes() == b"".join(i.outpoint for _, i in inputs)
    assert columns.owners[:rows].tobytes() == b"".join(
        t.witnesses[i.witness].key for t, i in inputs
    )
    assert counts == BatchCounts(n, len(passing), sum(e.n_signatures for e in expected))
    for column, used in (
        (columns.codes, n),
        (columns.txids, n),
        (columns.n_inputs, n),
        (columns.output_sums, n),
        (columns.outpoints, rows),
        (columns.owners, rows),
    ):
        assert set(column[used:].tobytes()) <= {0xA5}, "wrote beyond the items"
    return [e.verdict for e in expected]


def put(raw: bytes, at: int, piece: bytes) -> bytes:
    return raw[:at] + piece + raw[at + len(piece) :]


def signed_again(raw: bytes) -> bytes:
    """The same bytes with signatures of the owners that are known."""
    end = body_bytes(raw) if len(raw) >= TX_HEADER_BYTES else len(raw)
    message = spend_message(txid(raw, SALT)) if end < len(raw) else b""
    for at in range(end, len(raw) - WITNESS_BYTES + 1, WITNESS_BYTES):
        owner = SEEDS.get(raw[at : at + 32])
        if owner is not None:
            raw = put(raw, at + 32, owner.sign(message).signature)
    return raw


@st.composite
def items(draw: st.DrawFn) -> bytes:
    raw = draw(st.sampled_from(PAYMENTS))
    n_inputs, n_outputs, n_witnesses = raw[1:4]
    outputs_at = TX_HEADER_BYTES + n_inputs * INPUT_BYTES
    witnesses_at = outputs_at + n_outputs * OUTPUT_BYTES

    def place(begin: int, size_bytes: int, count: int) -> int:
        return begin + size_bytes * draw(st.integers(0, count - 1))

    def field(kind: int) -> bytes:
        begin, size_bytes, count = (
            (TX_HEADER_BYTES, INPUT_BYTES, n_inputs),
            (outputs_at, OUTPUT_BYTES, n_outputs),
            (witnesses_at, WITNESS_BYTES, n_witnesses),
        )[kind]
        source, target = place(begin, size_bytes, count), place(begin, size_bytes, count)
        one, other = raw[source : source + size_bytes], raw[target : target + size_bytes]
        if draw(st.booleans()):
            return put(put(raw, source, other), target, one)  # swapped
        return put(raw, target, one)  # repeated

    for kind in draw(st.lists(st.integers(0, 11), max_size=2)):
        if len(raw) < witnesses_at + n_witnesses * WITNESS_BYTES:
            break
        match kind:
            case 0:
                raw = raw[: draw(st.integers(0, len(raw)))]
            case 1:
                raw += draw(st.binary(min_size=1, max_size=WITNESS_BYTES))
            case 2:
                at = draw(st.integers(0, len(raw) - 1))
                raw = put(raw, at, bytes([raw[at] ^ 1 << draw(st.integers(0, 7))]))
            case 3:
                raw = put(raw, draw(st.integers(0, 3)), bytes([draw(st.integers(0, 5))]))
            case 4:
                number = draw(st.integers(0, 5) | st.just(255))
                raw = put(raw, place(TX_HEADER_BYTES, INPUT_BYTES, n_inputs) + 33, bytes([number]))
            case 5 | 6 | 7:
                raw = field(kind - 5)
            case 8:
                bounds = [0, DUST - 1, DUST, MAX_AMOUNT, MAX_AMOUNT + 1, 2**63, 2**64 - 1]
                value = draw(st.sampled_from(bounds))
                raw = put(
                    raw, place(outputs_at, OUTPUT_BYTES, n_outputs), value.to_bytes(8, "little")
                )
            case 9:
                other = draw(st.sampled_from(PAYMENTS))
                raw = put(raw, place(witnesses_at, WITNESS_BYTES, n_witnesses) + 32, other[-64:])
            case 10:
                raw = draw(st.binary(max_size=120))
            case _:
                at = place(witnesses_at, WITNESS_BYTES, n_witnesses)
                raw = put(raw, at, bytes(OWNERS[draw(st.integers(0, 5))].verify_key))
    return signed_again(raw) if draw(st.booleans()) else raw


@pytest.mark.parametrize("few_bytes", [VECTORISED, ONE_BY_ONE])
@settings(max_examples=80)
@given(raws=st.lists(items(), max_size=24), lead=st.integers(0, 9))
def test_equals_the_reference(
    backend: Backend, few_bytes: int, raws: list[bytes], lead: int
) -> None:
    check(verifier(backend, few_bytes), raws, lead)


def broken_in_every_way() -> dict[Verdict, list[bytes]]:
    """Transactions that break one rule each, signed by their owners where one can sign."""
    points = [Input(outpoint(n), 0) for n in range(3, 12, 3)]
    second = Input(points[1].outpoint, 1)
    fine = [Output(DUST, b"o" * 32)]
    good = PAYMENTS[0]

    def made(
        inputs: list[Input], n_owners: int, outputs: list[Output], *, one_owner: bool = False
    ) -> bytes:
        owners = [OWNERS[0]] * n_owners if one_owner else OWNERS[:n_owners]
        return sign(inputs, outputs, owners, SALT)

    return {
        Verdict.BAD_LENGTH: [b"", b"\1", good[:3], good[:-1], good + b"\0", b"\1\1\1\1"],
        Verdict.BAD_VERSION: [put(good, 0, b"\2"), b"\0\0\0\0"],
        Verdict.NO_INPUTS: [made([], 1, fine), b"\1\0\0\0"],
        Verdict.NO_OUTPUTS: [made(points, 1, []), b"\1\1\0\0"],
        Verdict.NO_WITNESSES: [made(points, 0, fine), b"\1\1\1\0"],
        Verdict.WITNESS_NUMBER: [
            made([Input(points[0].outpoint, 1), second], 2, fine),
            made([points[0], Input(points[1].outpoint, 2)], 3, fine),
            made([points[0], second], 1, fine),
            made([Input(points[0].outpoint, 255)], 1, fine),
        ],
        Verdict.WITNESS_UNUSED: [made(points, 2, fine), made([points[0], second], 3, fine)],
        Verdict.WITNESS_REPEATED: [
            made([points[0], second], 2, fine, one_owner=True),
            sign(  # apart from each other
                [points[0], second, Input(points[2].outpoint, 2)],
                fine,
                [OWNERS[0], OWNERS[1], OWNERS[0]],
                SALT,
            ),
        ],
        Verdict.DUPLICATE_INPUT: [
            made([points[0]] * 2, 1, fine),
            made([*points, points[2]], 1, fine),
        ],
        Verdict.INPUTS_UNSORTED: [
            made(points[::-1], 1, fine),
            made([points[1]] * 2 + points, 1, fine),
        ],
        Verdict.DUST_OUTPUT: [
            made(points, 1, [*fine, Output(DUST - 1, b"o" * 32)]),
            made(points, 1, [Output(0, b"o" * 32), Output(MAX_AMOUNT + 1, b"o" * 32)]),
        ],
        Verdict.AMOUNT_TOO_LARGE: [
            made(points, 1, [Output(MAX_AMOUNT + 1, b"o" * 32)]),
            made(points, 1, [*fine, Output(MAX_AMOUNT, b"o" * 32)]),
            made(points, 1, [Output(2**64 - DUST, b"o" * 32), Output(2 * DUST, b"o" * 32)]),
        ],
        Verdict.BAD_SIGNATURE: [put(good, len(good) - 40, b"????"), put(good, 40, b"\x7f\x7f")],
    }


@pytest.mark.parametrize("few_bytes", [VECTORISED, ONE_BY_ONE])
def test_every_rule_alone_and_together(few_bytes: int) -> None:
    judge_tray = verifier(NaclBackend(), few_bytes)
    broken = broken_in_every_way()
    for verdict, raws in broken.items():
        for raw in raws:
            assert check(judge_tray, [raw]) == [verdict]
    together = [raw for raws in broken.values() for raw in (*raws, PAYMENTS[2])]
    check(judge_tray, together)
    check(judge_tray, together[::-1])


def test_scratch_memory_carries_nothing_over(backend: Backend) -> None:
    both_ways = verifier(backend, FEW_BYTES)
    assert set(check(both_ways, PAYMENTS)) == {Verdict.ADMITTED}
    for raws in (PAYMENTS[:1], PAYMENTS[3:4] * 2, PAYMENTS[::-1], [], PAYMENTS[2:13]):
        check(both_ways, raws)
        check(both_ways, [raw[:-1] + bytes([raw[-1] ^ 1]) for raw in raws])
        check(both_ways, [raw[:-1] for raw in raws])


@pytest.mark.parametrize("few_bytes", [VECTORISED, ONE_BY_ONE])
def test_full_trays(few_bytes: int, backend: Backend) -> None:
    judge_tray = verifier(backend, few_bytes)
    one_shape = [PAYMENTS[0]] * 256
    assert set(check(judge_tray, one_shape)) == {Verdict.ADMITTED}
    spoiled = [raw if n % 5 else raw[:-1] + b"\x7f" for n, raw in enumerate(one_shape)]
    assert check(judge_tray, spoiled).count(Verdict.BAD_SIGNATURE) == 52
    check(judge_tray, [b""] * MAX_ITEMS)
    check(judge_tray, [b"\1\1\1\1"] * MAX_ITEMS)


@pytest.mark.parametrize("few_bytes", [VECTORISED, ONE_BY_ONE])
def test_the_widest_transaction_and_the_most_witnesses(few_bytes: int) -> None:
    judge_tray = verifier(NaclBackend(), few_bytes)
    outputs = [Output(DUST, b"o" * 32)] * 255
    inputs = [Input(bytes(32) + bytes([n]), 0) for n in range(255)]
    wide = sign(inputs, outputs, OWNERS[:1], SALT)
    distinct = [SigningKey(bytes([n]) * 32) for n in range(255)]
    many = sign([Input(i.outpoint, n) for n, i in enumerate(inputs)], outputs[:1], distinct, SALT)
    assert check(judge_tray, [wide, many[:-1], PAYMENTS[2]])[0] is Verdict.ADMITTED
    assert check(judge_tray, [many]) == [Verdict.ADMITTED]


def test_keys_that_begin_alike_are_not_repeated_keys() -> None:
    judge_tray = verifier(NaclBackend(), VECTORISED)
    raw = PAYMENTS[2]
    at = body_bytes(raw)
    alike = put(raw, at + WITNESS_BYTES, raw[at : at + 31] + bytes([raw[at + 31] ^ 1]))
    same = put(raw, at + WITNESS_BYTES, raw[at : at + 32])
    assert check(judge_tray, [alike, same, raw]) == [
        Verdict.BAD_SIGNATURE,
        Verdict.WITNESS_REPEATED,
        Verdict.ADMITTED,
    ]


def test_one_bad_witness_set_does_not_taint_a_good_one(backend: Backend) -> None:
    good = PAYMENTS[0]
    bad = good[:-32] + bytes(32)
    for few_bytes in (VECTORISED, ONE_BY_ONE):
        assert check(verifier(backend, few_bytes), [bad, good, bad]) == [
            Verdict.BAD_SIGNATURE,
            Verdict.ADMITTED,
            Verdict.BAD_SIGNATURE,
        ]


@pytest.mark.parametrize(
    ("offsets", "match"),
    [
        ([0, TRAY_BYTES + 1], "leave the tray"),
        ([100, 50], "descend"),
        ([0, 5000, 4000, 6000], "descend"),
        ([0, 500, 400, 600], "descend"),
        ([0] * (MAX_ITEMS + 2), "items"),
        ([], "items"),
    ],
)
def test_offsets_outside_the_tray_are_refused(offsets: list[int], match: str) -> None:
    payload, _ = tray(PAYMENTS)
    with pytest.raises(ValueError, match=match):
        verifier(NaclBackend(), FEW_BYTES).verify(
            payload, np.array(offsets, dtype=np.uint32), used_columns()
        )
