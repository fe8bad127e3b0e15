"""Inputs of agreement as bytes: what travels between validators, to the signer and into the log.

MessagePack arrays, tagged by the kind of input, written and read by msgspec. Each message has one
encoding, and `decode` takes no other: nothing missing, nothing more, no longer form of a number.
Both directions check what a type cannot say (lengths, ranges, counts), so that whatever was encoded
can be decoded; that a message makes sense is for `node.consensus.core` to say. Bytes from anybody
may come in here: all that can come of them is an input or a `WireError`.
"""

from __future__ import annotations

from typing import assert_never

import msgspec

from node.consensus.messages import (
    BlockBuilt,
    BlockJudged,
    BodyDurable,
    Certificate,
    Certified,
    Committed,
    Input,
    Proposal,
    Started,
    TimerElapsed,
    TransactionsWaiting,
    Vote,
)
from node.params import ID_BYTES, SIGNATURE_BYTES

MAX_HEIGHT = 2**63 - 1
MAX_ROUND = 2**31 - 1  # a valid round is signed as an i32 (`node.consensus.signed_bytes`)
MAX_VALIDATORS = 1024
# A proposal with a certificate, generously: per signature an array of an index and 64 bytes.
MAX_MESSAGE_BYTES = MAX_VALIDATORS * (SIGNATURE_BYTES + 8) + 512

_SIGNATURE_SIZES = (0, SIGNATURE_BYTES)  # 0: not signed yet

_write = msgspec.msgpack.Encoder().encode
_read = msgspec.msgpack.Decoder(Input).decode


class WireError(ValueError):
    """The bytes are no input of agreement, or the input is none that has bytes; says why."""


def encode(message: Input) -> bytes:
    """Return the bytes of an input, at most MAX_MESSAGE_BYTES; WireError if it is out of range."""
    _check(message)
    return _write(message)


def decode(data: bytes | memoryview) -> Input:
    """Return the input that has exactly these bytes; raises WireError and nothing else."""
    if len(data) > MAX_MESSAGE_BYTES:
        raise WireError(f"{len(data)} bytes are more than any message has")
    try:
        message: Input = _read(data)
    except (msgspec.MsgspecError, ValueError, RecursionError) as error:  # ValueError: not UTF-8
        raise WireError(str(error)) from error
    _check(message)
    if _write(message) != data:
        raise WireError("not the one encoding of this message")
    return message


def _check(message: Input) -> None:
    match message:
        case Vote():
            _check_height(message.height)
            _check_round(message.round)
            if message.value is not None:
                _check_value(message.value)
            _check_signer(message.validator, message.signature)
        case Proposal():
            _check_height(message.height)
            _check_round(message.round)
            _check_value(message.value)
            if message.valid_round != -1:
                _check_round(message.valid_round)
            _check_signer(message.validator, message.signature)
            if message.polka is not None:
                _check_certificate(message.polka)
        case Certified():
            _check_certificate(message.certificate)
        case TimerElapsed():
            _check_height(message.timer.height)
            _check_round(message.timer.round)
        case BlockBuilt():
            _check_height(message.height)
            _check_round(message.round)
            _check_value(message.value)
        case BlockJudged() | BodyDurable():
            _check_height(message.height)
            _check_value(message.value)
        case Started() | TransactionsWaiting() | Committed():
            _check_height(message.height)
        case _:
            assert_never(message)


def _check_certificate(certificate: Certificate) -> None:
    _check_height(certificate.height)
    _check_round(certificate.round)
    _check_value(certificate.value)
    if len(certificate.signatures) > MAX_VALIDATORS:
        raise WireError(f"a certificate of {len(certificate.signatures)} signatures")
    for validator, signature in certificate.signatures:
        _check_signer(validator, signature)


def _check_height(height: int) -> None:
    if not 0 <= height <= MAX_HEIGHT:
        raise WireError(f"no height: {height}")


def _check_round(round_: int) -> None:
    if not 0 <= round_ <= MAX_ROUND:
        raise WireError(f"no round: {round_}")


def _check_value(value: bytes) -> None:
    if len(value) != ID_BYTES:
        raise WireError(f"a value of {len(value)} bytes")


def _check_signer(validator: int, signature: bytes) -> None:
    if not 0 <= validator < MAX_VALIDATORS:
        raise WireError(f"no validator: {validator}")
    if len(signature) not in _SIGNATURE_SIZES:
        raise WireError(f"a signature of {len(signature)} bytes")
