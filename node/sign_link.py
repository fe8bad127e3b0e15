"""What consensus and the signer say to each other: one frame each, over the two links between them.

Consensus asks for the signature of an own message (`encode_request`); the signer gives the message
back signed, or says why not, and says who it is whenever either of the two has started. A frame is
a kind u8 and what follows of it: the message as `node.consensus.wire` has it, before it for
a refusal the reason (length u16, UTF-8), or the validator's index (u16). Beside messages there is a
challenge of a peer[32] with the own node id[16], and behind these in the answer a signature[64].
Pure; whatever is not exactly such a frame is a `WireError`.
"""

from __future__ import annotations

from enum import IntEnum
from typing import Final, NamedTuple

import msgspec

from node.consensus.messages import Proposal, Vote
from node.consensus.signed_bytes import CHALLENGE_BYTES, NODE_ID_BYTES
from node.consensus.wire import MAX_VALIDATORS, WireError, decode, encode
from node.params import SIGNATURE_BYTES

MAX_REASON_BYTES: Final = 500
_NUMBER_BYTES: Final = 2

assert MAX_VALIDATORS < 1 << 8 * _NUMBER_BYTES
assert MAX_REASON_BYTES < 1 << 8 * _NUMBER_BYTES


class _Kind(IntEnum):
    REQUEST = 1
    SIGNED = 2
    REFUSED = 3
    IDENTITY = 4
    PROVE = 5
    PROVEN = 6


class Identity(msgspec.Struct, frozen=True):
    """The signer is up and signs for the validator with this index in the genesis."""

    validator: int


class Signed(msgspec.Struct, frozen=True):
    """The message that was asked for, with its signature."""

    message: Proposal | Vote


class Refused(msgspec.Struct, frozen=True):
    """The message that was asked for is not signed, and why (text for the operator)."""

    message: Proposal | Vote
    reason: str


class Prove(NamedTuple):
    """Show a peer that this validator runs the node with this id."""

    challenge: bytes  # 32 bytes that the peer has drawn
    node_id: bytes  # 16 bytes


class Proven(NamedTuple):
    """What was asked for, and the signature (64 bytes) over its `address_bytes`."""

    prove: Prove
    signature: bytes


Request = Proposal | Vote | Prove
Reply = Identity | Signed | Refused | Proven


def encode_request(message: Request) -> bytes:
    """Return the frame that asks for a signature of a message without one, or for a proof."""
    if isinstance(message, Prove):
        return _frame(_Kind.PROVE, _encode_prove(message))
    return _frame(_Kind.REQUEST, _encode_message(message, 0))


def decode_request(frame: bytes) -> Request:
    """Return the unsigned message that a frame asks to sign, or the proof; raises WireError."""
    kind, rest = _split(frame)
    if kind == _Kind.PROVE:
        return _decode_prove(rest)
    if kind != _Kind.REQUEST:
        raise WireError(f"no request: frame of kind {kind}")
    return _decode_message(rest, 0)


def encode_reply(reply: Reply) -> bytes:
    """Return the frame of a reply; a reason is cut to MAX_REASON_BYTES."""
    match reply:
        case Identity(validator):
            if not 0 <= validator < MAX_VALIDATORS:
                raise WireError(f"no validator: {validator}")
            return _frame(_Kind.IDENTITY, _number(validator))
        case Signed(message):
            return _frame(_Kind.SIGNED, _encode_message(message, SIGNATURE_BYTES))
        case Refused(message, reason):
            text = reason.encode("utf-8", "replace")[:MAX_REASON_BYTES]
            text = text.decode("utf-8", "ignore").encode()  # no character cut in two
            content = _number(len(text)) + text + _encode_message(message, 0)
            return _frame(_Kind.REFUSED, content)
        case Proven(prove, signature):
            _check_length(signature, SIGNATURE_BYTES)
            return _frame(_Kind.PROVEN, _encode_prove(prove) + signature)


def decode_reply(frame: bytes) -> Reply:
    """Return what the signer says in a frame; raises WireError."""
    kind, rest = _split(frame)
    match kind:
        case _Kind.IDENTITY:
            validator = int.from_bytes(rest, "little")
            if len(rest) != _NUMBER_BYTES or validator >= MAX_VALIDATORS:
                raise WireError(f"no validator: {rest[:8].hex()}")
            return Identity(validator)
        case _Kind.SIGNED:
            return Signed(_decode_message(rest, SIGNATURE_BYTES))
        case _Kind.REFUSED:
            end = _NUMBER_BYTES + int.from_bytes(rest[:_NUMBER_BYTES], "little")
            text = rest[_NUMBER_BYTES:end]
            if len(text) > MAX_REASON_BYTES:
                raise WireError("a reason that is too long")
            try:
                reason = text.decode("utf-8")
            except UnicodeDecodeError as error:
                raise WireError(f"a reason that is no text: {error}") from None
            return Refused(_decode_message(rest[end:], 0), reason)
        case _Kind.PROVEN:
            prove, signature = rest[:-SIGNATURE_BYTES], rest[-SIGNATURE_BYTES:]
            return Proven(_decode_prove(prove), signature)
        case _:
            raise WireError(f"no reply: frame of kind {kind}")


def _frame(kind: _Kind, content: bytes) -> bytes:
    return bytes((kind,)) + content


def _split(frame: bytes) -> tuple[int, bytes]:
    if not frame:
        raise WireError("an empty frame")
    return frame[0], frame[1:]


def _number(number: int) -> bytes:
    return number.to_bytes(_NUMBER_BYTES, "little")


def _encode_message(message: Proposal | Vote, signature_bytes: int) -> bytes:
    _check_signature(message, signature_bytes)
    return encode(message)


def _decode_message(data: bytes, signature_bytes: int) -> Proposal | Vote:
    message = decode(data)
    if not isinstance(message, Proposal | Vote):
        raise WireError(f"{type(message).__name__} is never signed")
    _check_signature(message, signature_bytes)
    return message


def _check_signature(message: Proposal | Vote, signature_bytes: int) -> None:
    _check_length(message.signature, signature_bytes)


def _check_length(signature: bytes, signature_bytes: int) -> None:
    if len(signature) != signature_bytes:
        raise WireError(f"a signature of {len(signature)} bytes, not {signature_bytes}")


def _encode_prove(prove: Prove) -> bytes:
    return _check_prove(prove.challenge + prove.node_id)


def _decode_prove(data: bytes) -> Prove:
    _check_prove(data)
    return Prove(data[:CHALLENGE_BYTES], data[CHALLENGE_BYTES:])


def _check_prove(data: bytes) -> bytes:
    if len(data) != CHALLENGE_BYTES + NODE_ID_BYTES:
        raise WireError(f"a challenge and a node id of {len(data)} bytes")
    return data
