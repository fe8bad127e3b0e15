"""Two hubs meet on real sockets: both lanes, frames both ways, and the end of it."""

from __future__ import annotations

import socket

import pytest
from meeting import Meeting, node_id

from node.network.frames import MAX_BODY_BYTES, FrameType


def test_two_hubs_meet_and_talk_on_both_lanes(meeting: Meeting) -> None:
    a = meeting.node(1, agent="a/1")
    a.hub.set_height(7)
    b = meeting.node(2, static=(a.address,), agent="b/1")
    meeting.until(lambda: a.here and b.here)
    (at_a,) = a.here.values()
    (at_b,) = b.here.values()
    assert (at_a.node_id, at_a.outbound, at_a.agent) == (node_id(2), False, "b/1")
    assert (at_b.node_id, at_b.outbound, at_b.address) == (node_id(1), True, a.address)
    assert (at_b.version, at_b.height, at_b.protected) == (1, 7, True)

    bodies = {
        FrameType.AGREEMENT: b"vote" * 10_000,
        FrameType.COMPACT: bytes(MAX_BODY_BYTES[FrameType.COMPACT]),
        FrameType.TRANSACTIONS: b"",
        FrameType.PART: b"p" * MAX_BODY_BYTES[FrameType.PART],
    }
    for kind, body in bodies.items():  # by name and by number
        assert a.hub.send(a.peer(), kind, body)
        assert b.hub.broadcast(int(kind), body) == 1
        assert b.hub.broadcast(kind, body, but=b.peer()) == 0
    meeting.until(lambda: len(a.frames) == len(b.frames) == len(bodies))
    assert {kind: body for _, kind, body in a.frames} == bodies
    assert {kind: body for _, kind, body in b.frames} == bodies


def test_two_hubs_meet_over_ipv6(meeting: Meeting) -> None:
    with socket.socket(socket.AF_INET6) as probe:
        try:
            probe.bind(("::1", 0))
        except OSError:
            pytest.skip("this machine has no IPv6")
    a = meeting.node(1, listen="[::1]:0")
    b = meeting.node(2, listen=None, static=(a.address,))
    meeting.until(lambda: a.here and b.here)
    assert b.hub.peers()[0].address == a.address
    assert a.address.startswith("[::1]:")
    assert a.hub.peers()[0].address.startswith("[::1]:")


def test_both_sides_learn_that_it_is_over(meeting: Meeting) -> None:
    a = meeting.node(1)
    b = meeting.node(2, static=(a.address,))
    meeting.until(lambda: a.here and b.here)
    number = b.peer()
    b.hub.disconnect(number, "enough")
    assert not b.hub.send(number, FrameType.PART, b"")
    assert b.here  # told in a poll, never from within a call
    meeting.until(lambda: b.left and a.left)
    assert b.left[0][1] == "enough"
    assert a.left[0][1] == "closed by the peer"
    meeting.until(lambda: a.here and b.here)  # it is static: dialled again
    assert b.peer() > number


def test_what_is_our_own_fault_is_raised(meeting: Meeting) -> None:
    a = meeting.node(1)
    b = meeting.node(2, static=(a.address,))
    meeting.until(lambda: a.here and b.here)
    with pytest.raises(ValueError, match="too long"):
        a.hub.send(a.peer(), FrameType.NOT_FOUND, bytes(17))
    with pytest.raises(KeyError):
        a.hub.send(a.peer(), FrameType.HELLO, b"")
