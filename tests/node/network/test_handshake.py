"""Bodies of the handshake: there and back, and nothing but HandshakeError for anything else."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from meeting import GENESIS, hello, node_id

from node.network.frames import HEAD_BYTES, MAX_BODY_BYTES, FrameType, Lane
from node.network.handshake import (
    AGENT_MAX_CHARACTERS,
    HandshakeError,
    Proof,
    Refusal,
    Welcome,
    common_version,
    decode_hello,
    decode_proof,
    decode_refuse,
    decode_welcome,
    encode,
    encode_proof,
    encode_refuse,
    judge_hello,
    judge_welcome,
)

DECODERS = [decode_hello, decode_welcome, decode_refuse, decode_proof]


def made_welcome(**changes: Any) -> Welcome:
    fields = {
        "version": 1,
        "node_id": node_id(2),
        "genesis_id": GENESIS,
        "session": b"s" * 16,
        "height": (1 << 64) - 1,
        "listen": "[::1]:1",
        "agent": "é" * AGENT_MAX_CHARACTERS,
        "challenge": bytes(32),
    }
    return Welcome(**(fields | changes))


def test_there_and_back() -> None:
    body = hello(5, Lane.BULK, listen="h:1", height=9, session=b"s" * 16)[HEAD_BYTES:]
    read = decode_hello(memoryview(body))
    assert (read.lane, read.listen, read.height, read.session) == (2, "h:1", 9, b"s" * 16)
    assert encode(read) == body
    welcome = made_welcome()
    assert decode_welcome(encode(welcome)) == welcome
    assert decode_proof(encode_proof(Proof(65_535, b"x" * 64))) == (65_535, b"x" * 64)


def test_what_a_later_version_appends_is_ignored() -> None:
    body = hello(5)[HEAD_BYTES:]
    assert body[0] == 0x90 + 11
    longer = bytes([0x90 + 12]) + body[1:] + b"\xa3new"
    assert decode_hello(longer) == decode_hello(body)


def test_everything_fits_into_its_frame() -> None:
    longest = hello(5, agent="\U0001f600" * 64, listen="x" * 100, height=(1 << 64) - 1)
    assert len(longest) - HEAD_BYTES <= MAX_BODY_BYTES[FrameType.HELLO]
    refuse = encode_refuse(Refusal.FULL, "\U0001f600" * 500, bytes(16))
    assert len(refuse) <= MAX_BODY_BYTES[FrameType.REFUSE]
    assert len(encode(made_welcome())) <= MAX_BODY_BYTES[FrameType.WELCOME]


def test_a_refusal_is_cut_and_made_harmless() -> None:
    reason, text, by = decode_refuse(encode_refuse(Refusal.FULL, "a\x1b[31m\n" * 100, b"b" * 16))
    assert reason is Refusal.FULL
    assert len(text) == 200
    assert text.startswith("a?[31m?a")
    assert by == b"b" * 16
    assert decode_refuse(b"\x92\x2a\xa0") == (None, "", b"")  # a reason of a later version
    assert decode_refuse(b"\x93\x04\xa0\xc4\x01x") == (Refusal.DUPLICATE, "", b"")


@pytest.mark.parametrize(
    "changes",
    [
        {"version": -1},
        {"version": 1 << 16},
        {"node_id": bytes(15)},
        {"genesis_id": bytes(31)},
        {"session": b""},
        {"challenge": bytes(33)},
        {"height": -1},
        {"agent": "a" * 65},
        {"agent": "\n"},
        {"listen": "x" * 101},
    ],
)
def test_a_welcome_that_is_none(changes: dict[str, Any]) -> None:
    with pytest.raises(HandshakeError, match="WELCOME"):
        decode_welcome(encode(made_welcome(**changes)))


def said_of(decode: Callable[[bytes], object], data: bytes) -> str:
    """What is wrong with a body, or nothing."""
    try:
        decode(data)
    except HandshakeError as error:
        return str(error)
    return ""


@pytest.mark.parametrize("decode", DECODERS)
@given(data=st.binary(max_size=200))
def test_nothing_but_handshake_errors(decode: Callable[[bytes], object], data: bytes) -> None:
    assert said_of(decode, data).isprintable()


@given(data=st.data())
def test_nor_for_what_is_nearly_right(data: st.DataObject) -> None:
    for body, decode in ((hello(5)[5:], decode_hello), (encode(made_welcome()), decode_welcome)):
        at = data.draw(st.integers(0, len(body) - 1))
        changed = body[:at] + bytes([data.draw(st.integers(0, 255))]) + body[at + 1 :]
        assert said_of(decode, changed).isprintable()
        assert said_of(decode, body[:at])


@pytest.mark.parametrize(
    ("low", "high", "common"),
    [(1, 1, 1), (0, 1, 1), (1, 9, 1), (0, 0, None), (2, 3, None)],
)
def test_the_greatest_version_that_both_know(low: int, high: int, common: int | None) -> None:
    read = decode_hello(hello(5, version_min=low, version_max=high)[HEAD_BYTES:])
    assert common_version(read) == common


def test_a_welcome_is_judged_like_a_hello() -> None:
    def reason(**changes: Any) -> Refusal | None:
        refusal = judge_welcome(made_welcome(**changes), GENESIS, node_id(1))
        return None if refusal is None else refusal[0]

    assert reason() is None
    assert reason(genesis_id=bytes(32)) is Refusal.WRONG_NETWORK
    assert reason(version=0) is reason(version=2) is Refusal.WRONG_VERSION
    assert reason(node_id=node_id(1)) is Refusal.SELF
    assert judge_hello(decode_hello(hello(5)[HEAD_BYTES:]), GENESIS, node_id(1)) is None
