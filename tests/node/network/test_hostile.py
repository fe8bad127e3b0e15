"""What strangers do at the door, on raw sockets, and that the hub survives and says why."""

from __future__ import annotations

import struct

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from meeting import GENESIS, Meeting, Node, hello, join, node_id, packed

from node.network.doorstep import MAX_PENDING
from node.network.frames import UNKNOWN_MAX_BYTES, FrameType, Lane
from node.network.handshake import Refusal


def still_serves(meeting: Meeting, node: Node) -> None:
    """An honest peer can join and is heard."""
    honest = meeting.node(77, static=(node.address,))
    meeting.until(lambda: honest.here)
    honest.hub.send(honest.peer(), FrameType.PART, b"hello")
    meeting.until(lambda: b"hello" in node.bodies(FrameType.PART))


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"genesis_id": bytes(32)}, Refusal.WRONG_NETWORK),
        ({"version_min": 2, "version_max": 9}, Refusal.WRONG_VERSION),
        ({"version_min": 0, "version_max": 0}, Refusal.WRONG_VERSION),
        ({"node_id": node_id(1)}, Refusal.SELF),
        ({"magic": b"BTC!"}, Refusal.MALFORMED),
        ({"version_min": 3, "version_max": 1}, Refusal.MALFORMED),
        ({"genesis_id": b"short"}, Refusal.MALFORMED),
        ({"node_id": b""}, Refusal.MALFORMED),
        ({"session": bytes(17)}, Refusal.MALFORMED),
        ({"challenge": b""}, Refusal.MALFORMED),
        ({"lane": 3}, Refusal.MALFORMED),
        ({"lane": 2, "session": b"s" * 16}, Refusal.MALFORMED),
        ({"height": -1}, Refusal.MALFORMED),
        ({"agent": "a" * 65}, Refusal.MALFORMED),
        ({"agent": "\x1b[31m"}, Refusal.MALFORMED),
        ({"listen": "x" * 101}, Refusal.MALFORMED),
    ],
)
def test_refusals_name_their_reason_on_both_sides(
    meeting: Meeting, changes: dict[str, object], reason: Refusal
) -> None:
    node = meeting.node(1)
    stranger = meeting.stranger(node)
    stranger.say(hello(9, **changes))
    told, text, by = stranger.refusal()
    assert (told, by) == (reason, node_id(1))
    assert text
    assert node.log.of("connection_refused")[0]["reason"] == reason.name
    assert node.stats[f"refused_{reason.name.lower()}"] == 1
    meeting.pass_time(2)
    meeting.until(stranger.gone)
    assert not node.came
    still_serves(meeting, node)


@pytest.mark.parametrize(
    "garbage",
    [
        b"GET / HTTP/1.1\r\nHost: x\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(100),
        struct.pack("<IB", 0, 1),
        struct.pack("<IB", 0xFFFFFFFF, 1),
        struct.pack("<IB", 1026, 1),
        packed(FrameType.HELLO, b""),
        packed(FrameType.HELLO, b"\xc1" * 100),
        packed(FrameType.HELLO, b"\x91" * 1000),  # nested arrays
        packed(FrameType.HELLO, b"\xdd\xff\xff\xff\xff"),  # an array of 4 billion
        packed(FrameType.WELCOME, b""),
        packed(FrameType.PING, bytes(8)),
        packed(FrameType.AGREEMENT, bytes(10)),
        packed(99, b""),
    ],
)
def test_garbage_is_refused_as_malformed(meeting: Meeting, garbage: bytes) -> None:
    node = meeting.node(1)
    stranger = meeting.stranger(node)
    stranger.say(garbage)
    assert stranger.refusal()[0] is Refusal.MALFORMED
    stranger.say(bytes(100_000))  # whatever follows is not looked at
    still_serves(meeting, node)
    meeting.pass_time(2)
    meeting.until(stranger.gone)
    assert node.stats["malformed"] == 1


def test_after_a_refusal_nothing_is_looked_at(meeting: Meeting) -> None:
    node = meeting.node(1)
    stranger = meeting.stranger(node)
    stranger.say(hello(9, genesis_id=bytes(32)) + hello(9) + b"and nonsense" * 100)
    assert stranger.refusal()[0] is Refusal.WRONG_NETWORK
    meeting.settle()
    assert len(stranger.frames()) == 1
    assert node.stats["malformed"] == 0


def test_silence_is_given_up(meeting: Meeting) -> None:
    node = meeting.node(1)
    silent, half = meeting.stranger(node), meeting.stranger(node)
    half.say(hello(9)[:20])
    meeting.settle()
    meeting.pass_time(4)
    meeting.settle()
    assert not silent.gone()
    meeting.pass_time(2)
    assert silent.refusal()[0] is half.refusal()[0] is Refusal.TIMEOUT
    meeting.pass_time(2)
    meeting.until(lambda: silent.gone() and half.gone())


def test_an_agreement_lane_without_its_bulk_lane_is_given_up(meeting: Meeting) -> None:
    node = meeting.node(1)
    stranger = meeting.stranger(node)
    stranger.say(hello(9))
    stranger.welcome()
    stranger.say(packed(FrameType.AGREEMENT, b"too early, and not looked at"))
    meeting.pass_time(11)
    meeting.until(stranger.gone)
    assert not node.came
    assert not node.frames
    assert not node.left


def test_a_byte_at_a_time_is_heard_all_the_same(meeting: Meeting) -> None:
    node = meeting.node(1)
    stranger = meeting.stranger(node)
    for byte in hello(9):
        stranger.say(bytes([byte]))
        meeting.turn()
    session = stranger.welcome().session
    bulk = meeting.stranger(node)
    bulk.say(hello(9, Lane.BULK, session=session))
    meeting.until(lambda: node.here)
    for byte in packed(FrameType.AGREEMENT, b"slow") + packed(FrameType.PING, b"12345678"):
        stranger.say(bytes([byte]))
        meeting.turn()
    meeting.until(lambda: node.bodies(FrameType.AGREEMENT) == [b"slow"])
    meeting.until(lambda: stranger.of(FrameType.PONG) == [b"12345678"])


@pytest.mark.parametrize(
    ("lane", "frame"),
    [
        (0, struct.pack("<IB", 0, 16)),
        (0, struct.pack("<IB", 0xFFFFFFFF, 16)),
        (0, struct.pack("<IB", 256 * 1024 + 2, 16)),
        (0, struct.pack("<IB", UNKNOWN_MAX_BYTES + 2, 200)),
        (0, packed(FrameType.TRANSACTIONS, b"on the wrong lane")),
        (1, packed(FrameType.AGREEMENT, b"on the wrong lane")),
        (0, hello(9)),
        (1, packed(FrameType.WELCOME)),
        (0, packed(FrameType.PING, b"short")),
        (0, packed(FrameType.STATUS, b"1234567")),
        (0, packed(FrameType.PROOF, bytes(65))),
    ],
)
def test_what_is_no_frame_costs_the_connection(meeting: Meeting, lane: int, frame: bytes) -> None:
    node = meeting.node(1)
    lanes = join(meeting, node, 9)
    lanes[lane].say(packed(16 if lane == 0 else 36, b"before") + frame + packed(16, b"after"))
    meeting.until(lambda: node.left)
    assert node.left[0][1].startswith("malformed: ")
    assert [body for _, _, body in node.frames] == [b"before"]
    meeting.until(lambda: lanes[0].gone() and lanes[1].gone())  # the one takes the other with it
    assert node.stats["malformed"] == 1


def test_the_second_malformed_frame_bans_the_address_and_nobody_else(meeting: Meeting) -> None:
    node = meeting.node(1)
    for _ in range(2):
        assert not node.hub.bans()
        lanes = join(meeting, node, 9, "127.0.0.9")
        lanes[0].say(packed(FrameType.HELLO))
        meeting.until(lambda: not node.here)
    assert list(node.hub.bans()) == ["127.0.0.9"]
    banned = meeting.stranger(node, "127.0.0.9")
    assert banned.refusal()[0] is Refusal.BANNED
    still_serves(meeting, node)
    assert node.hub.unban("127.0.0.9")
    assert not node.hub.unban("127.0.0.9")
    join(meeting, node, 9, "127.0.0.9")


def test_unknown_types_are_ignored_and_counted(meeting: Meeting) -> None:
    node = meeting.node(1)
    first, second = join(meeting, node, 9)
    first.say(packed(200, bytes(UNKNOWN_MAX_BYTES)) + packed(FrameType.AGREEMENT, b"known"))
    second.say(packed(0) + packed(255, b"?") + packed(FrameType.PART, b"known"))
    meeting.until(lambda: len(node.frames) == 2)
    assert node.stats["frames_unknown"] == 3
    assert node.here


def test_what_was_not_asked_for_is_ignored(meeting: Meeting) -> None:
    node = meeting.node(1, max_outbound=8)
    first, second = join(meeting, node, 9)
    second.say(packed(FrameType.ADDRESSES, b"\x91\xa9127.0.0.1") + packed(FrameType.PART))
    first.say(packed(FrameType.PONG, bytes(8)))
    meeting.until(lambda: len(node.frames) == 1)
    assert node.stats["frames_ignored"] == 1
    assert node.here


def test_a_crowd_at_the_door_keeps_nobody_out(meeting: Meeting) -> None:
    node = meeting.node(1)
    early = meeting.stranger(node, "127.0.0.3")
    meeting.settle()
    for _ in range(MAX_PENDING + 40):
        meeting.stranger(node, "127.0.0.66")
        meeting.turn()
    meeting.settle()
    assert node.stats["crowded_out"] == 41
    assert not early.gone()  # those of the crowd go first
    early.say(hello(3))
    early.welcome()
    still_serves(meeting, node)


def test_a_stranger_that_hangs_up_leaves_nothing(meeting: Meeting) -> None:
    node = meeting.node(1)
    for said in (b"", hello(9)[:7], hello(9)):
        for _ in range(3):
            stranger = meeting.stranger(node)
            stranger.say(said)
            meeting.turn()
            stranger.socket.close()
    meeting.settle()
    assert not node.came
    join(meeting, node, 9)  # the id is free again


def test_whoever_comes_and_goes_does_not_fill_the_log(meeting: Meeting) -> None:
    node = meeting.node(1)
    for number in range(10, 20):
        first, _ = join(meeting, node, number)
        first.socket.close()
        meeting.until(lambda: not node.here)
        meeting.stranger(node).say(hello(number, genesis_id=bytes(32)))
    meeting.settle()
    assert len(node.came) == 10
    assert len(node.log.of("peer_connected")) == len(node.log.of("peer_disconnected")) == 1
    assert len(node.log.of("connection_refused")) == 1


def test_a_session_belongs_to_who_got_it(meeting: Meeting) -> None:
    node = meeting.node(1)
    first = meeting.stranger(node, "127.0.0.8")
    first.say(hello(8))
    session = first.welcome().session
    for host, number in (("127.0.0.9", 8), ("127.0.0.8", 9)):
        thief = meeting.stranger(node, host)
        thief.say(hello(number, Lane.BULK, session=session))
        assert thief.refusal()[0] is Refusal.MALFORMED
    rightful = meeting.stranger(node, "127.0.0.8")
    rightful.say(hello(8, Lane.BULK, session=session))
    meeting.until(lambda: node.here)
    third = meeting.stranger(node, "127.0.0.8")
    third.say(hello(8, Lane.BULK, session=session))
    assert third.refusal()[0] is Refusal.MALFORMED
    assert node.here


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    data=st.lists(
        st.one_of(
            st.binary(max_size=200),
            st.builds(packed, st.integers(0, 255), st.binary(max_size=64)),
        ),
        max_size=8,
    ).map(b"".join),
    lane=st.sampled_from([None, 0, 1]),
)
def test_whatever_comes_the_hub_goes_on(data: bytes, lane: int | None) -> None:
    with Meeting() as meeting:
        node = meeting.node(1, genesis_id=GENESIS)
        stranger = meeting.stranger(node) if lane is None else join(meeting, node, 9)[lane]
        stranger.say(data)
        for _ in range(20):
            meeting.turn()
        join(meeting, node, 10, "127.0.0.10")
