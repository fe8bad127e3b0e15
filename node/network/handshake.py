"""The handshake: what two nodes tell each other before anything else, and why one refuses.

Pure: `node.network.answering` and `node.network.calling` send and receive the bodies that are made
and read here. Bodies are msgpack arrays; a later version may append fields to them, which are
ignored. A foreign network is no offence, merely another network.
"""

from __future__ import annotations

import struct
from enum import IntEnum
from typing import Final, NamedTuple

import msgspec

from node.network.frames import Lane

MAGIC: Final = b"TIME"
VERSION_MIN: Final = 1
VERSION_MAX: Final = 1
NODE_ID_BYTES: Final = 16
SESSION_BYTES: Final = 16
GENESIS_ID_BYTES: Final = 32
CHALLENGE_BYTES: Final = 32
SIGNATURE_BYTES: Final = 64
AGENT_MAX_CHARACTERS: Final = 64
TEXT_MAX_CHARACTERS: Final = 200
ADDRESS_MAX_CHARACTERS: Final = 100  # a host name and a port
HEIGHT_MAX: Final = (1 << 64) - 1
NO_SESSION: Final = bytes(SESSION_BYTES)

_PROOF = struct.Struct(f"<H{SIGNATURE_BYTES}s")


class Refusal(IntEnum):
    """Why a node does not want a connection."""

    WRONG_NETWORK = 1
    WRONG_VERSION = 2
    SELF = 3
    DUPLICATE = 4
    FULL = 5
    BANNED = 6
    MALFORMED = 7
    TIMEOUT = 8


class HandshakeError(ValueError):
    """A body of the handshake is not what it should be; the message tells what."""


class Hello(msgspec.Struct, frozen=True, array_like=True):
    """What the one who dials says first, on either lane."""

    magic: bytes
    version_min: int
    version_max: int
    genesis_id: bytes
    node_id: bytes
    lane: int
    session: bytes  # zeros on the agreement lane
    height: int
    listen: str  # "host:port", or "" of a node that does not listen
    agent: str
    challenge: bytes


class Welcome(msgspec.Struct, frozen=True, array_like=True):
    """The answer of the one who was dialled."""

    version: int
    node_id: bytes
    genesis_id: bytes
    session: bytes
    height: int
    listen: str
    agent: str
    challenge: bytes


class Refuse(msgspec.Struct, frozen=True, array_like=True):
    """The other answer. It tells who refuses, so that a dialler knows whom it has reached."""

    reason: int
    text: str
    node_id: bytes = b""


class Proof(NamedTuple):
    """A validator's claim to be one; the signature is over the challenge of the other side."""

    validator: int
    signature: bytes


_ENCODER = msgspec.msgpack.Encoder()
_HELLO = msgspec.msgpack.Decoder(Hello)
_WELCOME = msgspec.msgpack.Decoder(Welcome)
_REFUSE = msgspec.msgpack.Decoder(Refuse)


def encode(message: Hello | Welcome | Refuse) -> bytes:
    """Return the body of a frame."""
    return _ENCODER.encode(message)


def decode_hello(body: bytes | memoryview) -> Hello:
    """Read a HELLO; raises HandshakeError for anything that is none."""
    try:
        hello = _HELLO.decode(body)
    except (msgspec.MsgspecError, ValueError, RecursionError) as error:
        raise HandshakeError(f"HELLO: {_cut(str(error))}") from None
    if hello.magic != MAGIC:
        raise HandshakeError("HELLO: another protocol")
    if not 0 <= hello.version_min <= hello.version_max <= 0xFFFF:
        raise HandshakeError("HELLO: versions out of order")
    if hello.lane not in (Lane.AGREEMENT, Lane.BULK):
        raise HandshakeError("HELLO: an unknown lane")
    _check_party("HELLO", hello)
    return hello


def decode_welcome(body: bytes | memoryview) -> Welcome:
    """Read a WELCOME; raises HandshakeError for anything that is none."""
    try:
        welcome = _WELCOME.decode(body)
    except (msgspec.MsgspecError, ValueError, RecursionError) as error:
        raise HandshakeError(f"WELCOME: {_cut(str(error))}") from None
    if not 0 <= welcome.version <= 0xFFFF:
        raise HandshakeError("WELCOME: no version")
    _check_party("WELCOME", welcome)
    return welcome


def decode_refuse(body: bytes | memoryview) -> tuple[Refusal | None, str, bytes]:
    """Read a REFUSE: reason (None: of a later version), text, node id or b"".

    Raises HandshakeError for anything that is none.
    """
    try:
        refuse = _REFUSE.decode(body)
    except (msgspec.MsgspecError, ValueError, RecursionError) as error:
        raise HandshakeError(f"REFUSE: {_cut(str(error))}") from None
    reason = Refusal(refuse.reason) if refuse.reason in Refusal.__members__.values() else None
    node_id = refuse.node_id if len(refuse.node_id) == NODE_ID_BYTES else b""
    return reason, _cut(refuse.text), node_id


def encode_refuse(reason: Refusal, text: str, node_id: bytes) -> bytes:
    """Return the body of a REFUSE; the text is cut."""
    return encode(Refuse(int(reason), _cut(text), node_id))


def encode_proof(proof: Proof) -> bytes:
    """Return the body of a PROOF."""
    return _PROOF.pack(proof.validator, proof.signature)


def decode_proof(body: bytes | memoryview) -> Proof:
    """Read a PROOF; raises HandshakeError for anything that is none. The signature is unchecked."""
    if len(body) != _PROOF.size:
        raise HandshakeError(f"PROOF: {len(body)} bytes instead of {_PROOF.size}")
    return Proof(*_PROOF.unpack(body))


def common_version(hello: Hello) -> int | None:
    """Return the greatest version that both sides know, or None."""
    version = min(hello.version_max, VERSION_MAX)
    return version if version >= max(hello.version_min, VERSION_MIN) else None


def judge_hello(hello: Hello, genesis_id: bytes, node_id: bytes) -> tuple[Refusal, str] | None:
    """Return why a well-formed HELLO cannot be welcomed by this node, whoever else is there."""
    if hello.genesis_id != genesis_id:
        return Refusal.WRONG_NETWORK, _foreign(genesis_id, hello.genesis_id)
    if common_version(hello) is None:
        return (
            Refusal.WRONG_VERSION,
            f"this node speaks versions {VERSION_MIN} to {VERSION_MAX},"
            f" not {hello.version_min} to {hello.version_max}",
        )
    if hello.node_id == node_id:
        return Refusal.SELF, "this node has dialled itself"
    return None


def judge_welcome(
    welcome: Welcome, genesis_id: bytes, node_id: bytes
) -> tuple[Refusal, str] | None:
    """Return why a WELCOME is not one for this node."""
    if welcome.genesis_id != genesis_id:
        return Refusal.WRONG_NETWORK, _foreign(genesis_id, welcome.genesis_id)
    if not VERSION_MIN <= welcome.version <= VERSION_MAX:
        return Refusal.WRONG_VERSION, f"this node does not speak version {welcome.version}"
    if welcome.node_id == node_id:
        return Refusal.SELF, "this node has dialled itself"
    return None


def _foreign(own: bytes, other: bytes) -> str:
    return f"this is the network with genesis {own.hex()[:16]}, not {other.hex()[:16]}"


def _check_party(name: str, message: Hello | Welcome) -> None:
    sizes = (
        ("genesis id", message.genesis_id, GENESIS_ID_BYTES),
        ("node id", message.node_id, NODE_ID_BYTES),
        ("session", message.session, SESSION_BYTES),
        ("challenge", message.challenge, CHALLENGE_BYTES),
    )
    for what, value, size in sizes:
        if len(value) != size:
            raise HandshakeError(f"{name}: a {what} of {len(value)} bytes")
    if not 0 <= message.height <= HEIGHT_MAX:
        raise HandshakeError(f"{name}: no height")
    if len(message.agent) > AGENT_MAX_CHARACTERS or not message.agent.isprintable():
        raise HandshakeError(f"{name}: no agent")
    if len(message.listen) > ADDRESS_MAX_CHARACTERS or not message.listen.isprintable():
        raise HandshakeError(f"{name}: no address")


def _cut(text: str) -> str:
    return "".join(each if each.isprintable() else "?" for each in text[:TEXT_MAX_CHARACTERS])
