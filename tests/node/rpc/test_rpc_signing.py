"""Raw transactions: unsigned, half signed and whole, and what they become on the way."""

from __future__ import annotations

import hashlib

import pytest
from nacl.signing import SigningKey

from node.params import MAX_TX_BYTES
from node.rpc import shapes, signing
from node.rpc.jsonrpc import Code, RpcError
from node.transaction import Output, build, decode, txid

SALT = bytes(range(16))
KEYS = [
    SigningKey(hashlib.blake2b(b"signer %d" % number, digest_size=32).digest())
    for number in range(3)
]
PUBLIC = [bytes(key.verify_key) for key in KEYS]
OUTPOINTS = [bytes([number]) * 32 + b"\0" for number in (3, 1, 2)]
OWNERS = dict(zip(OUTPOINTS, (PUBLIC[0], PUBLIC[1], PUBLIC[0]), strict=True))
OUTPUTS = [(1_000, PUBLIC[2]), (2_000, PUBLIC[0])]


def keys(*numbers: int) -> dict[bytes, SigningKey]:
    return {PUBLIC[number]: KEYS[number] for number in numbers}


def test_signed_at_once_it_is_what_a_wallet_builds() -> None:
    made = signing.unsigned(OUTPOINTS, OUTPUTS)
    assert not signing.is_complete(made)
    signed = signing.sign(made, OWNERS, keys(0, 1), SALT)
    assert signed.missing == []
    outputs = [Output(*each) for each in OUTPUTS]
    spent = [(outpoint, keys(0, 1)[OWNERS[outpoint]]) for outpoint in OUTPOINTS]
    assert signed.raw == build(spent, outputs, SALT)
    assert signing.is_complete(signed.raw)
    assert signing.all_signed(signed.raw, txid(signed.raw, SALT))


@pytest.mark.parametrize("order", [(0, 1), (1, 0)])
def test_signed_by_and_by_it_is_the_same(order: tuple[int, int]) -> None:
    made = signing.unsigned(OUTPOINTS, OUTPUTS)
    first = signing.sign(made, OWNERS, keys(order[0]), SALT)
    assert not signing.is_complete(first.raw)
    assert not signing.all_signed(first.raw, txid(first.raw, SALT))
    spent = sorted(OUTPOINTS)
    unsigned_inputs = [at for at, each in enumerate(spent) if OWNERS[each] == PUBLIC[order[1]]]
    assert [at for at, _ in first.missing] == unsigned_inputs
    # the owners are known from the witnesses by now
    second = signing.sign(first.raw, {}, keys(order[1]), SALT)
    assert second == signing.sign(made, OWNERS, keys(0, 1), SALT)
    decode(second.raw, 1)


def test_nothing_is_signed_while_an_owner_is_unknown() -> None:
    made = signing.unsigned(OUTPOINTS, OUTPUTS)
    known = {OUTPOINTS[0]: PUBLIC[0]}
    raw, missing = signing.sign(made, known, keys(0, 1), SALT)
    assert raw == made
    assert [at for at, _ in missing] == [0, 1]


def test_a_wrong_signature_is_not_kept() -> None:
    made = signing.sign(signing.unsigned(OUTPOINTS, OUTPUTS), OWNERS, keys(0, 1), SALT).raw
    wrong = bytearray(made)
    wrong[-1] ^= 1
    again = signing.sign(bytes(wrong), OWNERS, {}, SALT)
    assert len(again.missing) in (1, 2)
    assert not signing.all_signed(bytes(wrong), txid(made, SALT))


@pytest.mark.parametrize(
    "raw",
    [
        *(b"", b"\1", b"\2\1\1\0" + bytes(74), b"\1\1\1\0" + bytes(73), b"\1\1\1\0" + bytes(75)),
        *(b"\1\0\1\0" + bytes(40), b"\1\1\0\0" + bytes(34), b"\1" * (MAX_TX_BYTES + 1)),
    ],
)
def test_bytes_that_are_no_transaction(raw: bytes) -> None:
    with pytest.raises(RpcError) as caught:
        shapes.take_apart(raw)
    assert caught.value.code == Code.DESERIALIZATION_ERROR


def test_keys_are_seeds() -> None:
    assert signing.key_of(bytes(KEYS[0]).hex()) == KEYS[0]
    for wrong in ("", "00" * 31, "zz" * 32, "0 " * 32, " " + "00" * 32):
        with pytest.raises(ValueError, match=r"."):
            signing.key_of(wrong)
