"""The codec: every rule of encoding on its own, ids, and what the builder promises."""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st
from nacl.signing import SigningKey

from node.params import (
    INPUT_BYTES,
    MAX_AMOUNT,
    OUTPUT_BYTES,
    PERSON_TXID,
    TX_HEADER_BYTES,
    WITNESS_BYTES,
)
from node.transaction import (
    IdHasher,
    Input,
    Output,
    Transaction,
    TransactionError,
    Witness,
    body_bytes,
    build,
    decode,
    encode,
    sign,
    spend_message,
    txid,
)
from node.verdict import Verdict

SALT = bytes(range(16))
DUST = 1000
ALICE, BOB = SigningKey(b"a" * 32), SigningKey(b"b" * 32)
POINTS = [bytes([n]) * 33 for n in range(1, 5)]
PAYMENTS = [Output(DUST, b"x" * 32), Output(5_000, b"y" * 32)]


def two_owners() -> bytes:
    return build([(POINTS[0], ALICE), (POINTS[1], BOB)], PAYMENTS, SALT)


def verdict_of(raw: bytes) -> Verdict:
    with pytest.raises(TransactionError) as caught:
        decode(raw, DUST)
    assert caught.value.verdict.name in str(caught.value)
    return caught.value.verdict


def test_bytes_lie_where_the_layout_says() -> None:
    raw = two_owners()
    assert raw[:4] == bytes([1, 2, 2, 2])
    assert raw[4:38] == POINTS[0] + b"\0"
    assert raw[38:72] == POINTS[1] + b"\1"
    assert raw[72:112] == struct.pack("<Q", DUST) + b"x" * 32
    assert raw[152:184] == bytes(ALICE.verify_key)
    assert len(raw) == 4 + 2 * 34 + 2 * 40 + 2 * 96


def test_id_covers_all_but_the_witnesses_and_signatures_verify() -> None:
    raw = two_owners()
    body = raw[: -2 * WITNESS_BYTES]
    expected = hashlib.blake2b(body, digest_size=32, person=PERSON_TXID, salt=SALT).digest()
    assert body_bytes(raw) == len(body)
    assert txid(raw, SALT) == IdHasher(SALT).txid(memoryview(raw)) == expected
    assert IdHasher(SALT).body_ids([body, body[:-1]])[:32] == expected
    assert txid(raw, SALT[::-1]) != expected
    assert len(spend_message(expected)) == 47
    for owner, witness in zip((ALICE, BOB), decode(raw, DUST).witnesses, strict=True):
        assert witness.key == bytes(owner.verify_key)
        owner.verify_key.verify(spend_message(expected), witness.signature)


def test_builder_sorts_inputs_and_gives_an_owner_one_witness() -> None:
    spent = [(POINTS[2], ALICE), (POINTS[0], BOB), (POINTS[1], ALICE)]
    transaction = decode(build(spent, PAYMENTS, SALT), DUST)
    assert [i.outpoint for i in transaction.inputs] == POINTS[:3]
    assert [i.witness for i in transaction.inputs] == [0, 1, 1]
    assert [w.key for w in transaction.witnesses] == [bytes(k.verify_key) for k in (BOB, ALICE)]
    assert transaction.output_sum == DUST + 5_000


@pytest.mark.parametrize(
    ("spent", "outputs"),
    [
        ([], PAYMENTS),
        ([(POINTS[0], ALICE)], []),
        ([(POINTS[0], ALICE)] * 2, PAYMENTS),
        ([(bytes([n // 255, n % 255]) * 16 + b"0", ALICE) for n in range(256)], PAYMENTS),
        ([(POINTS[0], ALICE)], [PAYMENTS[0]] * 256),
        ([(POINTS[0][:-1], ALICE)], PAYMENTS),
        ([(POINTS[0], ALICE)], [Output(DUST, b"short")]),
        ([(POINTS[0], ALICE)], [Output(2**64, b"x" * 32)]),
        ([(POINTS[0], ALICE)], [Output(-1, b"x" * 32)]),
    ],
)
def test_builder_refuses_what_has_no_encoding(
    spent: list[tuple[bytes, SigningKey]], outputs: list[Output]
) -> None:
    with pytest.raises(ValueError, match=r"\d|spent|layout"):
        build(spent, outputs, SALT)


def test_salt_must_have_16_bytes() -> None:
    with pytest.raises(ValueError, match="salt of 15 bytes"):
        IdHasher(SALT[:-1])


@pytest.mark.parametrize(
    ("change", "verdict"),
    [
        (lambda raw: b"", Verdict.BAD_LENGTH),
        (lambda raw: raw[:3], Verdict.BAD_LENGTH),
        (lambda raw: b"\2\0\0", Verdict.BAD_LENGTH),
        (lambda raw: raw[:-1], Verdict.BAD_LENGTH),
        (lambda raw: raw + b"\0", Verdict.BAD_LENGTH),
        (lambda raw: b"\0" + raw[1:], Verdict.BAD_VERSION),
        (lambda raw: b"\2\0\0\0", Verdict.BAD_VERSION),
        (lambda raw: b"\1\0\0\0", Verdict.NO_INPUTS),
        (lambda raw: b"\1\1\0\0", Verdict.NO_OUTPUTS),
        (lambda raw: b"\1\1\1\0", Verdict.NO_WITNESSES),
        (lambda raw: b"\1\1\1\1", Verdict.BAD_LENGTH),
    ],
)
def test_header_rules(change: Callable[[bytes], bytes], verdict: Verdict) -> None:
    assert verdict_of(change(two_owners())) is verdict


def made(inputs: list[tuple[int, int]], keys: list[bytes], values: list[int]) -> bytes:
    return encode(
        Transaction(
            tuple(Input(POINTS[point], number) for point, number in inputs),
            tuple(Output(value, b"o" * 32) for value in values),
            tuple(Witness(key, b"s" * 64) for key in keys),
        )
    )


A, B = b"A" * 32, b"B" * 32


@pytest.mark.parametrize(
    ("inputs", "keys", "values", "verdict"),
    [
        ([(0, 1)], [A, B], [DUST], Verdict.WITNESS_NUMBER),
        ([(0, 0), (1, 2)], [A, B], [DUST], Verdict.WITNESS_NUMBER),
        ([(0, 0), (1, 1)], [A], [DUST], Verdict.WITNESS_NUMBER),
        ([(0, 255)], [A], [DUST], Verdict.WITNESS_NUMBER),
        ([(0, 0)], [A, B], [DUST], Verdict.WITNESS_UNUSED),
        ([(0, 0), (1, 1)], [A, A], [DUST], Verdict.WITNESS_REPEATED),
        ([(0, 0), (0, 0)], [A], [DUST], Verdict.DUPLICATE_INPUT),
        ([(1, 0), (0, 0)], [A], [DUST], Verdict.INPUTS_UNSORTED),
        ([(1, 0), (1, 0), (0, 0)], [A], [DUST], Verdict.INPUTS_UNSORTED),
        ([(0, 0)], [A], [DUST, DUST - 1], Verdict.DUST_OUTPUT),
        ([(0, 0)], [A], [0], Verdict.DUST_OUTPUT),
        ([(0, 0)], [A], [MAX_AMOUNT + 1], Verdict.AMOUNT_TOO_LARGE),
        ([(0, 0)], [A], [2**64 - 1, 2**64 - 1, DUST], Verdict.AMOUNT_TOO_LARGE),
        ([(0, 0)], [A], [MAX_AMOUNT, DUST], Verdict.AMOUNT_TOO_LARGE),
        # the first rule broken is the verdict
        ([(1, 1), (0, 0)], [A, A], [0], Verdict.WITNESS_NUMBER),
        ([(1, 0), (0, 0)], [A, A], [0], Verdict.WITNESS_UNUSED),
        ([(1, 0), (0, 1)], [A, A], [0], Verdict.WITNESS_REPEATED),
        ([(1, 0), (0, 0)], [A], [0], Verdict.INPUTS_UNSORTED),
        ([(0, 0), (0, 0)], [A], [0], Verdict.DUPLICATE_INPUT),
        ([(0, 0)], [A], [MAX_AMOUNT + 1, 0], Verdict.DUST_OUTPUT),
    ],
)
def test_rules_of_content(
    inputs: list[tuple[int, int]], keys: list[bytes], values: list[int], verdict: Verdict
) -> None:
    assert verdict_of(made(inputs, keys, values)) is verdict


def test_limits_themselves_are_allowed() -> None:
    assert decode(made([(0, 0)], [A], [MAX_AMOUNT - DUST, DUST]), DUST).output_sum == MAX_AMOUNT
    everything = sign(
        [Input(bytes([0] * 32 + [n]), 0) for n in range(255)],
        [Output(DUST, b"o" * 32)] * 255,
        [ALICE],
        SALT,
    )
    assert len(decode(everything, DUST).inputs) == 255


@given(st.binary(max_size=400) | st.builds(lambda b: b"\1\1\1\1" + b, st.binary(max_size=200)))
def test_any_bytes_decode_to_themselves_or_are_refused(raw: bytes) -> None:
    try:
        transaction = decode(raw, 0)
    except TransactionError:
        return
    assert encode(transaction) == raw


@given(st.integers(0, TX_HEADER_BYTES + 2 * (INPUT_BYTES + OUTPUT_BYTES) - 1), st.integers(1, 255))
def test_every_byte_before_the_witnesses_changes_the_id(at: int, flip: int) -> None:
    raw = memoryview(bytearray(two_owners()))
    before = IdHasher(SALT).body_id(raw[: body_bytes(raw)])
    end = body_bytes(raw)
    raw[at] ^= flip
    assert IdHasher(SALT).body_id(raw[:end]) != before
