"""Raw transactions of wallets: made without signatures, signed by and by, checked.

Pure functions of bytes, but for PyNaCl's signing: the keys come with the call and are gone with it.
An unsigned transaction has no witnesses. Signing numbers the witnesses by the owners of what is
spent, so it must know these; a signature that is still missing is 64 zeros, which no verifier takes
for one. The id covers the numbering: it is known from the first signing on.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from nacl.bindings import crypto_sign_open
from nacl.exceptions import BadSignatureError
from nacl.signing import SigningKey

from node.params import KEY_BYTES, SIGNATURE_BYTES
from node.rpc.shapes import take_apart
from node.transaction import (
    IdHasher,
    Input,
    Output,
    Transaction,
    Witness,
    body_bytes,
    encode,
    spend_message,
)

MISSING = bytes(SIGNATURE_BYTES)


class SignedBy(NamedTuple):
    """The transaction, and the inputs whose signature or owner is missing, with why."""

    raw: bytes
    missing: list[tuple[int, str]]


def unsigned(outpoints: Sequence[bytes], outputs: Sequence[tuple[int, bytes]]) -> bytes:
    """Return an unsigned transaction of outpoints[33] and (value, owner); inputs are sorted.

    Raises ValueError for values that the layout cannot hold.
    """
    return encode(
        Transaction(
            tuple(Input(outpoint, 0) for outpoint in sorted(outpoints)),
            tuple(Output(value, owner) for value, owner in outputs),
            (),
        )
    )


def sign(
    raw: bytes, owners: Mapping[bytes, bytes], keys: Mapping[bytes, SigningKey], salt: bytes
) -> SignedBy:
    """Sign what the keys can sign, and keep the good signatures that are there.

    ``owners`` maps outpoint[33] to owner[32], ``keys`` public to signing keys. Nothing is signed
    while an owner is unknown: its number is part of what is signed.
    """
    parts = take_apart(raw)
    inputs = sorted(parts.inputs)
    given = dict(parts.witnesses)
    spent = {
        outpoint: owners.get(outpoint)
        or (parts.witnesses[number][0] if number < len(parts.witnesses) else b"")
        for outpoint, number in inputs
    }
    unknown = [at for at, (outpoint, _) in enumerate(inputs) if not spent[outpoint]]
    if unknown:
        return SignedBy(raw, [(at, "Input not found or already spent") for at in unknown])
    numbers: dict[bytes, int] = {}
    numbered = []
    for outpoint, _ in inputs:
        owner = spent[outpoint]
        numbered.append(Input(outpoint, numbers.setdefault(owner, len(numbers))))
    outputs = tuple(Output(value, owner) for value, owner in parts.outputs)
    blank = Transaction(tuple(numbered), outputs, tuple(Witness(key, MISSING) for key in numbers))
    content = encode(blank)
    message = spend_message(IdHasher(salt).body_id(content[: body_bytes(content)]))
    signatures = {}
    for owner in numbers:
        if owner in keys:
            signatures[owner] = keys[owner].sign(message).signature
        elif is_signed(owner, given.get(owner, MISSING), message):
            signatures[owner] = given[owner]
        else:
            signatures[owner] = MISSING
    witnesses = tuple(Witness(owner, signatures[owner]) for owner in numbers)
    done = encode(Transaction(tuple(numbered), outputs, witnesses))
    return SignedBy(
        done,
        [
            (at, "Unable to sign input, its key is missing")
            for at, (outpoint, _) in enumerate(inputs)
            if signatures[spent[outpoint]] == MISSING
        ],
    )


def is_complete(raw: bytes) -> bool:
    """Whether there are witnesses, and none of them lacks its signature."""
    witnesses = take_apart(raw).witnesses
    return bool(witnesses) and all(signature != MISSING for _, signature in witnesses)


def all_signed(raw: bytes, txid: bytes) -> bool:
    """Whether all signatures of an encoded transaction are good, by the network's rule."""
    message = spend_message(txid)
    return all(is_signed(key, signature, message) for key, signature in take_apart(raw).witnesses)


def is_signed(key: bytes, signature: bytes, message: bytes) -> bool:
    """Whether a signature[64] of a key[32] is good, by libsodium's rule, which is the network's."""
    try:
        crypto_sign_open(signature + message, key)
    except (BadSignatureError, ValueError):
        return False
    return True


def key_of(text: str) -> SigningKey:
    """Return the key of a seed of 64 hexadecimal digits; raises ValueError for anything else."""
    seed = bytes.fromhex(text)
    if len(seed) != KEY_BYTES or len(text) != 2 * KEY_BYTES:
        raise ValueError("a seed has 64 hexadecimal digits")
    return SigningKey(seed)
