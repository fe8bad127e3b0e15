"""The transaction codec, one transaction at a time: the reference for what bytes are canonical.

Raw bytes come from wallets, blocks and tests; typed values, or a ``TransactionError`` with the
verdict, go back. ``node.verification.batch`` judges the same rules a tray at a time and must agree
with ``decode`` on every byte string. Nothing here keeps state, does I/O or verifies a signature,
and no cryptographic library beyond ``hashlib`` is imported: builders bring their own signing keys.

Layout, little-endian: header (version, inputs, outputs, witnesses: u8 each), inputs (txid[32],
output index u8, witness number u8), outputs (value u64, owner[32]), witnesses (public key[32],
signature[64]). The id covers everything before the witnesses.
"""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, NamedTuple

from node.params import (
    ID_BYTES,
    INPUT_BYTES,
    KEY_BYTES,
    MAX_AMOUNT,
    MAX_INPUTS,
    MAX_OUTPUTS,
    OUTPOINT_BYTES,
    OUTPUT_BYTES,
    PERSON_TXID,
    SALT_BYTES,
    SIGN_PREFIX_SPEND,
    SIGNATURE_BYTES,
    TX_HEADER_BYTES,
    TX_VERSION,
    WITNESS_BYTES,
)
from node.verdict import Verdict

if TYPE_CHECKING:
    from nacl.signing import SigningKey

_HEADER = struct.Struct("<4B")
_INPUT = struct.Struct(f"<{OUTPOINT_BYTES}sB")
_OUTPUT = struct.Struct(f"<Q{KEY_BYTES}s")
_WITNESS = struct.Struct(f"<{KEY_BYTES}s{SIGNATURE_BYTES}s")

assert _HEADER.size == TX_HEADER_BYTES
assert _INPUT.size == INPUT_BYTES
assert _OUTPUT.size == OUTPUT_BYTES
assert _WITNESS.size == WITNESS_BYTES


class TransactionError(Exception):
    """Bytes or values that are no transaction: a peer's or a wallet's fault, never the node's."""

    def __init__(self, verdict: Verdict, detail: str) -> None:
        super().__init__(f"{verdict.name}: {detail}")
        self.verdict = verdict
        self.detail = detail


class Input(NamedTuple):
    """One spent output: ``outpoint`` is txid[32] + output index u8; ``witness`` a number."""

    outpoint: bytes
    witness: int


class Output(NamedTuple):
    """One new output: ``value`` in units, ``owner`` the public key[32] that may spend it."""

    value: int
    owner: bytes

    def pack(self) -> bytes:
        """Return the 40-byte record that stores, blocks and allocations keep."""
        return _OUTPUT.pack(self.value, self.owner)


class Witness(NamedTuple):
    """One owner's consent: public key[32] and signature[64] of ``spend_message(txid)``."""

    key: bytes
    signature: bytes


class Transaction(NamedTuple):
    """A decoded transaction; ``encode`` gives back the bytes that it came from."""

    inputs: tuple[Input, ...]
    outputs: tuple[Output, ...]
    witnesses: tuple[Witness, ...]

    @property
    def output_sum(self) -> int:
        """Sum of the outputs' values, units."""
        return sum(output.value for output in self.outputs)


class IdHasher:
    """Transaction ids of one chain: BLAKE2b-256 (RFC 7693) with the state prepared once.

    ``salt`` is ``genesis_id[:16]``. Copying a prepared object costs less than setting one up.
    """

    __slots__ = ("_prepared",)

    def __init__(self, salt: bytes) -> None:
        if len(salt) != SALT_BYTES:
            raise ValueError(f"salt of {len(salt)} bytes, {SALT_BYTES} needed")
        self._prepared = hashlib.blake2b(digest_size=ID_BYTES, person=PERSON_TXID, salt=salt)

    def txid(self, raw: bytes | memoryview) -> bytes:
        """Return the id[32] of an encoded transaction."""
        return self.body_id(raw[: body_bytes(raw)])

    def body_id(self, body: bytes | memoryview) -> bytes:
        """Return the id[32] of a transaction given its bytes without the witnesses."""
        state = self._prepared.copy()
        state.update(body)
        return state.digest()

    def body_ids(self, bodies: Iterable[bytes | memoryview]) -> bytes:
        """Return the ids of ``n`` bodies back to back: ``n * 32`` bytes."""
        fresh = self._prepared.copy
        digests = []
        for body in bodies:
            state = fresh()
            state.update(body)
            digests.append(state.digest())
        return b"".join(digests)


def body_bytes(raw: bytes | memoryview) -> int:
    """Return the length of what the id covers, as the header's counts demand it.

    Raises ``TransactionError`` (``BAD_LENGTH``) when there is no header.
    """
    if len(raw) < TX_HEADER_BYTES:
        raise TransactionError(Verdict.BAD_LENGTH, f"{len(raw)} bytes are no header")
    return TX_HEADER_BYTES + INPUT_BYTES * raw[1] + OUTPUT_BYTES * raw[2]


def txid(raw: bytes | memoryview, salt: bytes) -> bytes:
    """Return the id[32] of an encoded transaction on the chain with this salt.

    Raises ``TransactionError`` (``BAD_LENGTH``) when there is no header.
    """
    return IdHasher(salt).txid(raw)


def spend_message(transaction_id: bytes) -> bytes:
    """Return the 47 bytes that every witness of the transaction signs."""
    return SIGN_PREFIX_SPEND + transaction_id


def decode(raw: bytes | memoryview, dust_limit: int) -> Transaction:
    """Decode one transaction and judge its encoding, rule by rule in the order of ``Verdict``.

    ``dust_limit`` in units (genesis). Signatures are not verified. Raises ``TransactionError`` with
    the first rule broken.
    """
    raw = bytes(raw)
    if len(raw) < TX_HEADER_BYTES:
        raise TransactionError(Verdict.BAD_LENGTH, f"{len(raw)} bytes are no header")
    version, n_inputs, n_outputs, n_witnesses = _HEADER.unpack_from(raw)
    if version != TX_VERSION:
        raise TransactionError(Verdict.BAD_VERSION, f"version {version}, {TX_VERSION} is known")
    if n_inputs == 0:
        raise TransactionError(Verdict.NO_INPUTS, "no inputs")
    if n_outputs == 0:
        raise TransactionError(Verdict.NO_OUTPUTS, "no outputs")
    if n_witnesses == 0:
        raise TransactionError(Verdict.NO_WITNESSES, "no witnesses")
    outputs_at = TX_HEADER_BYTES + n_inputs * INPUT_BYTES
    witnesses_at = outputs_at + n_outputs * OUTPUT_BYTES
    length = witnesses_at + n_witnesses * WITNESS_BYTES
    if len(raw) != length:
        raise TransactionError(Verdict.BAD_LENGTH, f"{len(raw)} bytes, the counts say {length}")
    transaction = Transaction(
        tuple(map(Input._make, _INPUT.iter_unpack(raw[TX_HEADER_BYTES:outputs_at]))),
        tuple(map(Output._make, _OUTPUT.iter_unpack(raw[outputs_at:witnesses_at]))),
        tuple(map(Witness._make, _WITNESS.iter_unpack(raw[witnesses_at:]))),
    )
    _check_witnesses(transaction)
    _check_inputs(transaction.inputs)
    _check_values(transaction, dust_limit)
    return transaction


def _check_witnesses(transaction: Transaction) -> None:
    used = 0
    for position, spent in enumerate(transaction.inputs):
        if spent.witness > used or spent.witness >= len(transaction.witnesses):
            raise TransactionError(
                Verdict.WITNESS_NUMBER,
                f"input {position} names witness {spent.witness}, {used} seen before it "
                f"of {len(transaction.witnesses)}",
            )
        if spent.witness == used:
            used += 1
    if used != len(transaction.witnesses):
        raise TransactionError(
            Verdict.WITNESS_UNUSED, f"{len(transaction.witnesses)} witnesses, {used} used"
        )
    if len({witness.key for witness in transaction.witnesses}) != len(transaction.witnesses):
        raise TransactionError(Verdict.WITNESS_REPEATED, "one key in two witnesses")


def _check_inputs(inputs: tuple[Input, ...]) -> None:
    # A descending pair anywhere outranks an equal one: order is what a wallet fixes first.
    repeated = False
    for position in range(1, len(inputs)):
        before, after = inputs[position - 1].outpoint, inputs[position].outpoint
        if before > after:
            raise TransactionError(
                Verdict.INPUTS_UNSORTED, f"input {position} sorts before input {position - 1}"
            )
        repeated |= before == after
    if repeated:
        raise TransactionError(Verdict.DUPLICATE_INPUT, "one output spent twice")


def _check_values(transaction: Transaction, dust_limit: int) -> None:
    for position, output in enumerate(transaction.outputs):
        if output.value < dust_limit:
            raise TransactionError(
                Verdict.DUST_OUTPUT, f"output {position} holds {output.value} < {dust_limit} units"
            )
    total = transaction.output_sum
    if total > MAX_AMOUNT:  # a single value above the bound is covered: values are not negative
        raise TransactionError(Verdict.AMOUNT_TOO_LARGE, f"outputs of {total} units in all")


def encode(transaction: Transaction) -> bytes:
    """Return the transaction's bytes; whether they are canonical is ``decode``'s to say.

    Raises ``ValueError`` for values that the layout cannot hold.
    """
    return _body(transaction.inputs, transaction.outputs, len(transaction.witnesses)) + b"".join(
        _exact(w.key, KEY_BYTES) + _exact(w.signature, SIGNATURE_BYTES)
        for w in transaction.witnesses
    )


def _exact(field: bytes, length: int) -> bytes:
    if len(field) != length:  # struct would cut or pad it silently
        raise ValueError(f"field of {len(field)} bytes, {length} needed")
    return field


def _body(inputs: Sequence[Input], outputs: Sequence[Output], n_witnesses: int) -> bytes:
    try:
        return b"".join(
            (
                _HEADER.pack(TX_VERSION, len(inputs), len(outputs), n_witnesses),
                *(_INPUT.pack(_exact(i.outpoint, OUTPOINT_BYTES), i.witness) for i in inputs),
                *(_OUTPUT.pack(o.value, _exact(o.owner, KEY_BYTES)) for o in outputs),
            )
        )
    except struct.error as error:
        raise ValueError(f"value outside the layout: {error}") from error


def build(
    inputs: Iterable[tuple[bytes, SigningKey]], outputs: Sequence[Output], salt: bytes
) -> bytes:
    """Return a signed, canonical transaction that spends ``inputs`` (outpoint[33], owner's key).

    Sorts the inputs, gives each distinct owner one witness and signs with PyNaCl. Limits of the
    genesis (dust) are not checked here. Raises ``ValueError`` for no or too many inputs or outputs,
    a repeated outpoint or values that the layout cannot hold.
    """
    spent = sorted(inputs, key=lambda item: item[0])
    if not 1 <= len(spent) <= MAX_INPUTS:
        raise ValueError(f"{len(spent)} inputs, 1..{MAX_INPUTS} possible")
    if not 1 <= len(outputs) <= MAX_OUTPUTS:
        raise ValueError(f"{len(outputs)} outputs, 1..{MAX_OUTPUTS} possible")
    if len({outpoint for outpoint, _ in spent}) != len(spent):
        raise ValueError("one output spent twice")
    owners: dict[bytes, tuple[int, SigningKey]] = {}
    numbered = []
    for outpoint, owner in spent:
        number, _ = owners.setdefault(bytes(owner.verify_key), (len(owners), owner))
        numbered.append(Input(outpoint, number))
    body = _body(numbered, outputs, len(owners))
    message = spend_message(IdHasher(salt).body_id(body))
    return body + b"".join(
        key + owner.sign(message).signature for key, (_, owner) in owners.items()
    )


def sign(
    inputs: Sequence[Input], outputs: Sequence[Output], owners: Sequence[SigningKey], salt: bytes
) -> bytes:
    """Return a transaction with exactly these inputs, in this order; ``owners[n]`` signs witness n.

    Unlike ``build`` it neither sorts nor numbers, so tests can make what ``decode`` must reject.
    Raises ``ValueError`` for values that the layout cannot hold.
    """
    body = _body(inputs, outputs, len(owners))
    message = spend_message(IdHasher(salt).body_id(body))
    return body + b"".join(
        bytes(owner.verify_key) + owner.sign(message).signature for owner in owners
    )
