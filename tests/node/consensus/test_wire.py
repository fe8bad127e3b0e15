"""Inputs as bytes: everything comes back, each has one encoding, nothing else is taken."""

from __future__ import annotations

import struct
from itertools import chain

import msgspec
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

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
    Timer,
    TimerElapsed,
    TimerKind,
    TransactionsWaiting,
    Vote,
    VoteType,
)
from node.consensus.wire import (
    MAX_HEIGHT,
    MAX_MESSAGE_BYTES,
    MAX_ROUND,
    MAX_VALIDATORS,
    WireError,
    decode,
    encode,
)

heights = st.integers(0, MAX_HEIGHT)
rounds = st.integers(0, MAX_ROUND)
values = st.binary(min_size=32, max_size=32)
validators = st.integers(0, MAX_VALIDATORS - 1)
signatures = st.just(b"") | st.binary(min_size=64, max_size=64)
types = st.sampled_from(VoteType)
certificates = st.builds(
    Certificate,
    types,
    heights,
    rounds,
    values,
    st.lists(st.tuples(validators, signatures), max_size=8).map(tuple),
)
timers = st.builds(Timer, st.sampled_from(TimerKind), heights, rounds)
everything = st.one_of(
    st.builds(
        Proposal,
        heights,
        rounds,
        values,
        st.integers(-1, MAX_ROUND),
        validators,
        st.none() | certificates,
        signatures,
    ),
    st.builds(Vote, types, heights, rounds, st.none() | values, validators, signatures),
    st.builds(Certified, certificates),
    st.builds(Started, heights),
    st.builds(TimerElapsed, timers),
    st.builds(TransactionsWaiting, heights),
    st.builds(BlockBuilt, heights, rounds, values),
    st.builds(BlockJudged, heights, values, st.booleans()),
    st.builds(BodyDurable, heights, values),
    st.builds(Committed, heights),
)

VALUE = b"v" * 32
SIGNATURE = b"s" * 64
CERTIFICATE = Certificate(VoteType.PREVOTE, 7, 1, VALUE, ((0, SIGNATURE), (3, SIGNATURE)))
ONE_OF_EACH: tuple[Input, ...] = (
    Proposal(7, 2, VALUE, 1, 3, CERTIFICATE, SIGNATURE),
    Proposal(7, 2, VALUE, -1, 3),
    Vote(VoteType.PRECOMMIT, 7, 2, None, 3, SIGNATURE),
    Certified(CERTIFICATE),
    Started(0),
    TimerElapsed(Timer(TimerKind.PACE, 7)),
    TransactionsWaiting(7),
    BlockBuilt(7, 2, VALUE),
    BlockJudged(7, VALUE, True),
    BodyDurable(7, VALUE),
    Committed(7),
)


@given(everything)
def test_everything_comes_back(message: Input) -> None:
    data = encode(message)
    assert decode(data) == message
    assert decode(memoryview(data)) == message


@given(st.binary(max_size=300))
@example(b"")
@example(b"\x91" * MAX_MESSAGE_BYTES)  # nested deeper than any stack
@example(b"\x92\xa7\x80tarted\x05")  # not UTF-8
def test_random_bytes_are_refused_or_are_the_one_encoding(data: bytes) -> None:
    try:
        message = decode(data)
    except WireError:
        return
    assert encode(message) == data


@given(st.sampled_from(ONE_OF_EACH), st.data())
def test_damaged_messages_are_refused_or_are_the_one_encoding(
    message: Input, data: st.DataObject
) -> None:
    damaged = bytearray(encode(message))
    for _ in range(data.draw(st.integers(1, 4))):
        at = data.draw(st.integers(0, len(damaged) - 1))
        damaged[at : at + data.draw(st.integers(0, 2))] = data.draw(st.binary(max_size=3))
        if not damaged:
            return
    try:
        found = decode(bytes(damaged))
    except WireError:
        return
    assert encode(found) == damaged


@pytest.mark.parametrize("message", ONE_OF_EACH, ids=lambda each: type(each).__name__)
def test_a_message_has_one_encoding(message: Input) -> None:
    data = encode(message)
    assert all(refused(data[:length]) for length in range(len(data)))
    assert refused(data + b"\0")
    assert refused(bytes([data[0] + 1]) + data[1:] + b"\0")  # one more element, one more field
    assert refused(b"\xdc" + struct.pack(">H", data[0] & 15) + data[1:])  # a longer form
    assert refused(bytes([data[0] - 1]) + data[1:])


def test_what_has_a_default_must_be_there() -> None:
    fields = msgspec.msgpack.decode(encode(Proposal(7, 2, VALUE, -1, 3)))
    assert fields[-2:] == [None, b""]
    assert refused(msgspec.msgpack.encode(fields[:-1]))
    assert refused(msgspec.msgpack.encode(fields[:-2]))
    assert decode(msgspec.msgpack.encode(fields)) == Proposal(7, 2, VALUE, -1, 3)


def test_a_longer_form_of_a_number_is_refused() -> None:
    data = encode(Started(5))
    assert data.endswith(b"\x05")
    assert refused(data[:-1] + b"\xcc\x05")
    assert refused(data[:-1] + b"\xcb" + struct.pack(">d", 5.0))
    assert refused(data[:-1] + b"\xa15")
    assert refused(data[:-1] + b"\xc3")


def test_the_deepest_nesting_is_an_error_like_any_other() -> None:
    data = encode(Vote(VoteType.PREVOTE, 1, 0, None, 3))
    assert refused(bytes([data[0] + 1]) + data[1:] + b"\x91" * 60_000 + b"\0")


def refused(data: bytes) -> bool:
    try:
        decode(data)
    except WireError:
        return True
    return False


def with_signatures(*pairs: tuple[int, bytes]) -> Certificate:
    return Certificate(VoteType.PREVOTE, 7, 1, VALUE, pairs)


OUT_OF_RANGE: dict[str, list[Input]] = {
    "no height": [
        Vote(VoteType.PREVOTE, -1, 0, None, 0),
        Proposal(2**63, 0, VALUE, -1, 0),
        Certified(Certificate(VoteType.PREVOTE, -1, 0, VALUE, ())),
        Started(-1),
        TimerElapsed(Timer(TimerKind.PACE, -1)),
        TransactionsWaiting(2**64),
        BlockBuilt(-1, 0, VALUE),
        BlockJudged(-1, VALUE, True),
        BodyDurable(-1, VALUE),
        Committed(-1),
    ],
    "no round": [
        Vote(VoteType.PREVOTE, 1, -1, None, 0),
        Proposal(1, 2**31, VALUE, -1, 0),
        Proposal(1, 0, VALUE, -2, 0),
        Proposal(1, 0, VALUE, 2**31, 0),
        Certified(Certificate(VoteType.PREVOTE, 1, -1, VALUE, ())),
        TimerElapsed(Timer(TimerKind.PROPOSE, 1, -1)),
        BlockBuilt(1, -1, VALUE),
    ],
    "a value of": [
        Vote(VoteType.PREVOTE, 1, 0, b"", 0),
        Vote(VoteType.PREVOTE, 1, 0, b"v" * 31, 0),
        Proposal(1, 0, b"v" * 33, -1, 0),
        Certified(Certificate(VoteType.PREVOTE, 1, 0, b"v", ())),
        BlockBuilt(1, 0, b""),
        BlockJudged(1, b"v" * 64, True),
        BodyDurable(1, b""),
    ],
    "no validator": [
        Vote(VoteType.PREVOTE, 1, 0, None, -1),
        Proposal(1, 0, VALUE, -1, MAX_VALIDATORS),
        Certified(with_signatures((-1, SIGNATURE))),
    ],
    "a signature of": [
        Vote(VoteType.PREVOTE, 1, 0, None, 0, b"s"),
        Proposal(1, 0, VALUE, -1, 0, None, b"s" * 65),
        Proposal(1, 0, VALUE, -1, 0, with_signatures((0, b"s" * 63))),
        Certified(with_signatures((0, SIGNATURE), (1, b"s"))),
    ],
    "a certificate of 1025": [
        Certified(with_signatures(*[(0, b"")] * (MAX_VALIDATORS + 1))),
        Proposal(1, 0, VALUE, -1, 0, with_signatures(*[(0, b"")] * (MAX_VALIDATORS + 1))),
    ],
}


@pytest.mark.parametrize("reason", OUT_OF_RANGE)
def test_what_is_out_of_range_has_no_bytes(reason: str) -> None:
    for message in OUT_OF_RANGE[reason]:
        with pytest.raises(WireError, match=reason):
            encode(message)
        if reason != "no height" or not isinstance(message, TransactionsWaiting):
            with pytest.raises(WireError, match=reason):
                decode(msgspec.msgpack.encode(message))


def test_numbers_that_no_machine_word_holds_are_refused() -> None:
    assert refused(msgspec.msgpack.encode(TransactionsWaiting(2**64 - 1)))
    assert refused(encode(Started(5))[:-1] + b"\xcf" + b"\xff" * 8)


def test_unknown_kinds_are_refused() -> None:
    for fields in (["nothing", 1], [3, 1], [], 5, None, {"is": "started", "height": 1}):
        assert refused(msgspec.msgpack.encode(fields))
    for kind in (0, 3, 255):
        assert refused(msgspec.msgpack.encode(["vote", kind, 1, 0, None, 0, b""]))


def test_the_largest_message_fits_and_nothing_larger_is_read() -> None:
    pairs = tuple((index, SIGNATURE) for index in range(MAX_VALIDATORS))
    polka = Certificate(VoteType.PREVOTE, MAX_HEIGHT, MAX_ROUND, VALUE, pairs)
    largest = Proposal(
        MAX_HEIGHT, MAX_ROUND, VALUE, MAX_ROUND, MAX_VALIDATORS - 1, polka, SIGNATURE
    )
    data = encode(largest)
    assert len(data) <= MAX_MESSAGE_BYTES
    assert decode(data) == largest
    with pytest.raises(WireError, match="more than any message has"):
        decode(bytes(MAX_MESSAGE_BYTES + 1))


def test_an_announced_size_costs_no_memory() -> None:
    data = encode(Certified(Certificate(VoteType.PREVOTE, 1, 0, VALUE, ())))
    assert data.endswith(b"\x90")
    for announced in (2**16, 2**28, 2**32 - 1):
        assert refused(data[:-1] + b"\xdd" + struct.pack(">I", announced))
        assert refused(data[:-34] + b"\xc6" + struct.pack(">I", announced) + VALUE + b"\x90")


def test_what_is_no_input_is_a_mistake_of_ours() -> None:
    with pytest.raises(AssertionError):
        encode(Timer(TimerKind.PACE, 1))  # type: ignore[arg-type]


def test_every_kind_of_input_is_tried() -> None:
    tried = {type(message) for message in ONE_OF_EACH}
    assert tried == set(Input.__args__)
    assert tried == {type(message) for message in chain(*OUT_OF_RANGE.values())}
