"""Frames between consensus and the signer: one encoding each, and nothing else is taken."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from node.consensus.messages import Certificate, Committed, Proposal, Vote, VoteType
from node.consensus.wire import WireError, encode
from node.sign_link import (
    MAX_REASON_BYTES,
    Identity,
    Prove,
    Proven,
    Refused,
    Reply,
    Signed,
    decode_reply,
    decode_request,
    encode_reply,
    encode_request,
)

VALUE = bytes(range(32))
SIGNATURE = bytes(range(64))
VOTE = Vote(VoteType.PRECOMMIT, 5, 2, VALUE, 1)
NIL = Vote(VoteType.PREVOTE, 2**63 - 1, 2**31 - 1, None, 1023)
POLKA = Certificate(VoteType.PREVOTE, 5, 1, VALUE, tuple((n, SIGNATURE) for n in range(1024)))
PROPOSALS = [Proposal(5, 2, VALUE, -1, 0), Proposal(5, 2, VALUE, 1, 0, POLKA)]
MESSAGES = [VOTE, NIL, *PROPOSALS]
PROVE = Prove(bytes(range(32)), bytes(range(16)))


def signed(message: Proposal | Vote) -> Proposal | Vote:
    return msgspec.structs.replace(message, signature=SIGNATURE)


REPLIES: list[Reply] = [
    Identity(0),
    Identity(1023),
    *(Signed(signed(message)) for message in MESSAGES),
    Refused(VOTE, ""),
    Refused(NIL, "already signed; something else"),
    Refused(VOTE, "ä" * (MAX_REASON_BYTES // 2)),
    Proven(PROVE, SIGNATURE),
]


@pytest.mark.parametrize("message", [*MESSAGES, PROVE])
def test_requests_come_back_as_they_were(message: Proposal | Vote | Prove) -> None:
    assert decode_request(encode_request(message)) == message


@pytest.mark.parametrize("reply", REPLIES)
def test_replies_come_back_as_they_were(reply: Reply) -> None:
    assert decode_reply(encode_reply(reply)) == reply


def test_a_long_reason_is_cut_between_characters() -> None:
    found = decode_reply(encode_reply(Refused(VOTE, "a" + "ä" * MAX_REASON_BYTES)))
    assert found == Refused(VOTE, "a" + "ä" * ((MAX_REASON_BYTES - 1) // 2))
    assert decode_reply(encode_reply(Refused(VOTE, "\ud800"))) == Refused(VOTE, "?")


def test_a_request_carries_no_signature_and_an_answer_does() -> None:
    for encoder, wrong in [
        (encode_request, signed(VOTE)),
        (encode_reply, Signed(VOTE)),
        (encode_reply, Refused(signed(VOTE), "")),
        (encode_reply, Identity(1024)),
        (encode_reply, Identity(-1)),
        (encode_request, PROVE._replace(challenge=bytes(31))),
        (encode_request, PROVE._replace(node_id=bytes(17))),
        (encode_reply, Proven(PROVE, SIGNATURE[1:])),
        (encode_reply, Proven(PROVE._replace(node_id=b""), SIGNATURE)),
    ]:
        taker: Any = encoder
        with pytest.raises(WireError):
            taker(wrong)


@pytest.mark.parametrize(
    "frame",
    [
        b"",
        b"\0" + encode(VOTE),
        b"\1",
        b"\1" + encode(signed(VOTE)),
        b"\1" + encode(Committed(1)),
        b"\1" + encode(VOTE) + b"\0",
        b"\1" + encode(VOTE)[:-1],
        b"\5" + encode(VOTE),
        b"\5",
        b"\5" + bytes(47),
        b"\5" + bytes(49),
        encode_reply(Proven(PROVE, SIGNATURE)),
        encode(VOTE),
        encode_reply(Signed(signed(VOTE))),
        encode_reply(Identity(1)),
    ],
)
def test_what_is_no_request_is_refused(frame: bytes) -> None:
    with pytest.raises(WireError):
        decode_request(frame)


@pytest.mark.parametrize(
    "frame",
    [
        b"",
        b"\2",
        b"\2" + encode(VOTE),
        b"\2" + encode(Committed(1)),
        b"\3",
        b"\3\0",
        b"\3\0\0",
        b"\3\2\0\xff\xff" + encode(VOTE),
        b"\3\0\0" + encode(signed(VOTE)),
        b"\3\xff\xff" + encode(VOTE),
        b"\3" + (MAX_REASON_BYTES + 1).to_bytes(2, "little") + b"a" * 501 + encode(VOTE),
        b"\4",
        b"\4\0",
        b"\4\0\4",
        b"\4\0\0\0",
        b"\5",
        b"\6",
        b"\6" + bytes(64),
        b"\6" + bytes(111),
        b"\6" + bytes(113),
        b"\7",
        encode_request(VOTE),
        encode_request(PROVE),
    ],
)
def test_what_is_no_reply_is_refused(frame: bytes) -> None:
    with pytest.raises(WireError):
        decode_reply(frame)


@given(
    st.binary(max_size=200) | st.sampled_from([encode_request(m) for m in (*MESSAGES[:3], PROVE)]),
    st.data(),
)
def test_only_what_was_encoded_is_decoded(frame: bytes, data: st.DataObject) -> None:
    """Any bytes, and any frame with a byte changed: an exact message, or an error."""
    if frame:
        at = data.draw(st.integers(0, len(frame) - 1))
        frame = frame[:at] + bytes((data.draw(st.integers(0, 255)),)) + frame[at + 1 :]
    try:
        message = decode_request(frame)
    except WireError:
        return
    assert encode_request(message) == frame


@given(
    st.sampled_from([encode_reply(reply) for reply in REPLIES if reply != REPLIES[5]]), st.data()
)
def test_only_replies_that_were_encoded_are_decoded(frame: bytes, data: st.DataObject) -> None:
    at = data.draw(st.integers(0, len(frame) - 1))
    frame = frame[:at] + bytes((data.draw(st.integers(0, 255)),)) + frame[at + 1 :]
    try:
        reply = decode_reply(frame)
    except WireError:
        return
    assert encode_reply(reply) == frame
