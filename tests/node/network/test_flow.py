"""Bounds and pauses between real hubs: back-pressure, budgets, overflow, silence, fairness."""

from __future__ import annotations

import ctypes
import socket
import struct
import time
from select import select

import pytest
from meeting import Meeting, Node, join, node_id, packed

from node.network.connection import KEEPALIVE_EVERY_S, KEEPALIVE_S, KEEPALIVE_TRIES, Connection
from node.network.frames import FrameType
from node.network.reactor import FRAMES_PER_POLL, FRAMES_PER_TURN, STRANGERS
from node.network.settings import LaneBudget, Rate

BIG = b"t" * (200 * 1024)


def joined(meeting: Meeting, **settings: object) -> tuple[Node, Node]:
    a = meeting.node(1, **settings)
    b = meeting.node(2, static=(a.address,))
    meeting.until(lambda: a.here and b.here)
    return a, b


def test_closed_bulk_pushes_back_and_loses_nothing(meeting: Meeting) -> None:
    a, b = joined(meeting)
    a.hub.open_bulk(False)
    bodies = []
    while b.hub.send(b.peer(), FrameType.TRANSACTIONS, body := b"%08d" % len(bodies) + BIG):
        bodies.append(body)
        meeting.turn()
        assert len(bodies) < 1_000, "it is never full"
    meeting.settle()
    assert b.stats["relay_dropped"] == 1
    assert not a.frames  # not one
    b.hub.send(b.peer(), FrameType.AGREEMENT, b"votes are not behind it")
    meeting.until(lambda: a.frames)
    meeting.pass_time(26)  # nobody is given up for it
    meeting.settle()
    meeting.pass_time(16)
    meeting.settle()
    assert a.here
    assert b.here
    a.hub.open_bulk(True)
    meeting.until(lambda: len(a.frames) == 1 + len(bodies))
    assert a.bodies(FrameType.TRANSACTIONS) == bodies


def test_bulk_closes_between_two_frames_of_one_read(meeting: Meeting) -> None:
    node = meeting.node(1)
    _, bulk = join(meeting, node, 9)
    node.on_frame = lambda *_: node.hub.open_bulk(False)
    bulk.say(b"".join(packed(FrameType.PART, bytes([each])) for each in range(5)))
    meeting.until(lambda: node.frames)
    for count in range(1, 6):
        meeting.settle()
        assert len(node.frames) == count
        node.hub.open_bulk(True)
    meeting.settle()
    assert node.bodies(FrameType.PART) == [bytes([each]) for each in range(5)]


def test_a_peer_that_hangs_up_while_bulk_is_closed_is_noticed(meeting: Meeting) -> None:
    node = meeting.node(1)
    _, bulk = join(meeting, node, 9)
    node.hub.open_bulk(False)
    bulk.say(packed(FrameType.PART, b"unread"))
    meeting.settle()
    assert not node.frames
    bulk.socket.close()
    meeting.until(lambda: node.left)


@pytest.mark.parametrize("kind", [FrameType.PART, FrameType.AGREEMENT])
def test_whoever_does_not_read_what_matters_is_dropped(meeting: Meeting, kind: FrameType) -> None:
    node = meeting.node(1)
    join(meeting, node, 9)
    sent = 0
    while node.hub.send(node.peer(), kind, BIG):
        sent += len(BIG)
        meeting.turn()
        assert sent < 1 << 28, "it is never full"
    assert sent > (8 << 20 if kind is FrameType.AGREEMENT else 4 << 20) - len(BIG)
    assert not node.hub.send(node.peer(), kind, b"")
    meeting.until(lambda: not node.here)
    assert node.left[0][1].startswith("does not keep up")
    assert node.stats["overflows"] == 1


def test_small_frames_do_not_pile_up_either(meeting: Meeting) -> None:
    node = meeting.node(1)
    join(meeting, node, 9)
    sent = 0
    while node.hub.send(node.peer(), FrameType.TRANSACTIONS, b""):
        sent += 1
        assert sent < 100_000, "it is never full"
    assert node.here
    meeting.settle()


def test_pings_of_one_who_does_not_read_fill_nothing(meeting: Meeting) -> None:
    node = meeting.node(1)
    first, _ = join(meeting, node, 9)
    assert node.hub.send(node.peer(), FrameType.AGREEMENT, BIG)
    for _ in range(30):
        node.hub.send(node.peer(), FrameType.AGREEMENT, BIG)
    meeting.settle()  # the kernel's buffers are full
    ignored = node.stats["frames_ignored"]
    first.say(packed(FrameType.PING, bytes(8)) * 500)
    meeting.settle()
    assert node.stats["frames_ignored"] == ignored + 500
    assert node.here


def test_speed_is_met_with_pauses_never_with_a_ban(meeting: Meeting) -> None:
    slow = LaneBudget(
        bytes_rate=Rate(per_s=1 << 20, burst=1 << 20), frames_rate=Rate(per_s=100, burst=100)
    )
    node = meeting.node(1, bulk_budget=slow, agreement_budget=slow)
    lanes = join(meeting, node, 9)
    lanes[0].say(packed(FrameType.AGREEMENT, b"v") * 1_000)
    meeting.until(lambda: node.stats["pauses"])
    meeting.settle(only=[])
    assert len(node.frames) < 1_000
    for _ in range(20):
        lanes[0].say(packed(FrameType.PONG, bytes(8)))
        meeting.pass_time(1)
        meeting.settle()
    assert len(node.frames) == 1_000
    lanes[1].say(packed(FrameType.PART, bytes(1 << 17)) * 20)
    meeting.until(lambda: node.stats["pauses"] > 1)
    for _ in range(10):
        lanes[0].say(packed(FrameType.PONG, bytes(8)))
        meeting.pass_time(1)
        meeting.settle()
    assert len(node.frames) == 1_020
    assert node.here
    assert not node.hub.bans()


def test_floods_are_served_in_turns(meeting: Meeting) -> None:
    node = meeting.node(1)
    first, second, quiet = (join(meeting, node, each)[0] for each in (7, 8, 9))
    for mark, flooder in ((b"f", first), (b"s", second)):
        flooder.say(b"".join(packed(16, mark + b"%04d" % each) for each in range(5_000)))
    quiet.say(packed(FrameType.AGREEMENT, b"q"))
    meeting.rest(None)
    assert 0 < node.hub.poll(meeting.now_ns()) <= FRAMES_PER_POLL
    bodies = node.bodies(FrameType.AGREEMENT)
    assert b"q" in bodies
    assert len(bodies) <= 2 * FRAMES_PER_TURN + 1
    meeting.until(lambda: len(node.frames) == 10_001)
    bodies = node.bodies(FrameType.AGREEMENT)
    for mark in (b"f", b"s"):  # what waits for its turn is not touched by what others send
        assert [each for each in bodies if each[:1] == mark] == [
            mark + b"%04d" % each for each in range(5_000)
        ]


def test_agreement_with_protected_peers_goes_before_any_flood(meeting: Meeting) -> None:
    node = meeting.node(1)
    flooders = [join(meeting, node, number)[0] for number in range(10, 22)]
    quiet, _ = join(meeting, node, 9)
    (number,) = (each.number for each in node.here.values() if each.node_id == node_id(9))
    node.hub.protect(number)
    for flooder in flooders:
        flooder.say(packed(FrameType.AGREEMENT, b"f") * 1_000)
    meeting.rest(None)
    for number in range(3):
        quiet.say(packed(FrameType.AGREEMENT, b"q%d" % number))
        meeting.rest(None)
        assert node.hub.poll(meeting.now_ns()) > FRAMES_PER_POLL // STRANGERS  # much is left
        assert b"q%d" % number in node.bodies(FrameType.AGREEMENT)
    meeting.until(lambda: len(node.frames) == 12_003)


def test_a_poll_is_bounded_however_many_have_something_to_say(meeting: Meeting) -> None:
    node = meeting.node(1)
    lanes = [join(meeting, node, number)[0] for number in range(10, 22)]
    for lane in lanes:
        lane.say(packed(FrameType.AGREEMENT) * 1_000)
    for _ in range(3):
        assert 0 < node.hub.poll(meeting.now_ns()) < FRAMES_PER_POLL + FRAMES_PER_TURN
    meeting.until(lambda: len(node.frames) == 12_000)


def test_silent_peers_are_pinged_and_then_given_up(meeting: Meeting) -> None:
    node = meeting.node(1)
    silent, _ = join(meeting, node, 9)
    meeting.pass_time(9)
    meeting.settle()
    assert not silent.of(FrameType.PING)
    meeting.pass_time(1)
    meeting.until(lambda: silent.of(FrameType.PING))
    silent.say(packed(FrameType.PONG, silent.of(FrameType.PING)[0]))
    meeting.settle()
    meeting.pass_time(11)
    meeting.until(lambda: len(silent.of(FrameType.PING)) == 2)
    meeting.pass_time(14)
    meeting.settle()
    assert node.here
    meeting.pass_time(2)
    meeting.until(lambda: not node.here)
    assert node.left[0][1].startswith("silent for")
    assert node.stats["silent"] == 1


def test_honest_peers_outlive_any_silence(meeting: Meeting) -> None:
    a, b = joined(meeting)
    for _ in range(10):
        meeting.pass_time(12)
        meeting.settle()
    meeting.pass_time(600)  # as if the machine had slept
    meeting.settle()
    assert a.here
    assert b.here
    assert not a.left
    assert not b.left


def test_a_peer_that_takes_nothing_is_given_up(meeting: Meeting) -> None:
    node = meeting.node(1)
    first, _ = join(meeting, node, 9)
    for _ in range(40):
        node.hub.send(node.peer(), FrameType.TRANSACTIONS, BIG)
        meeting.turn()
    assert node.stats["relay_dropped"]
    for _ in range(14):
        first.say(packed(FrameType.PING, bytes(8)))  # alive, but it never reads
        meeting.settle()
        meeting.pass_time(9)
    meeting.until(lambda: not node.here)
    assert node.left[0][1].startswith("takes nothing")


def test_a_peer_that_is_slow_but_takes_something_stays(meeting: Meeting) -> None:
    node = meeting.node(1)
    first, second = join(meeting, node, 9)
    for _ in range(6):
        for _ in range(40):  # something always waits for it
            node.hub.send(node.peer(), FrameType.TRANSACTIONS, BIG)
            meeting.turn()
        meeting.pass_time(50)
        first.say(packed(FrameType.PING, bytes(8)))
        second.socket.recv(1 << 20)
        meeting.settle()
    assert node.here


def test_heights_are_told_seldom_and_the_last_one_counts(meeting: Meeting) -> None:
    node = meeting.node(1)
    first, _ = join(meeting, node, 9, height=5)
    assert node.hub.peers()[0].height == 5
    meeting.pass_time(1)
    for height in range(1, 100):
        node.hub.set_height(height)
        meeting.turn()
    meeting.settle()
    meeting.pass_time(1)
    meeting.settle()
    told = [struct.unpack("<Q", each)[0] for each in first.of(FrameType.STATUS)]
    assert told[0] == 1
    assert told[-1] == 99
    assert len(told) <= 4
    first.say(packed(FrameType.STATUS, struct.pack("<Q", 1 << 63)))
    meeting.until(lambda: node.frames)
    assert node.hub.peers()[0].height == 1 << 63
    assert node.frames[0][1] is FrameType.STATUS


def test_a_height_that_changes_during_the_handshake_is_told(meeting: Meeting) -> None:
    for steps in range(1, 12):
        a = meeting.node(1)
        b = meeting.node(2, static=(a.address,))
        for step in range(steps):
            meeting.turn([(a, b)[step % 2]])
        a.hub.set_height(100 + steps)
        b.hub.set_height(200 + steps)
        meeting.pass_time(1)
        meeting.until(lambda a=a, b=b: a.here and b.here)
        meeting.pass_time(1)
        meeting.settle()
        assert a.hub.peers()[0].height == 200 + steps
        assert b.hub.peers()[0].height == 100 + steps
        meeting.stop(b)
        meeting.stop(a)


def test_what_is_sent_between_polls_makes_the_descriptor_readable(meeting: Meeting) -> None:
    a, b = joined(meeting)
    meeting.settle()
    assert not select([a.hub.fileno()], [], [], 0)[0]
    a.hub.send(a.peer(), FrameType.AGREEMENT, b"x")
    assert select([a.hub.fileno()], [], [], 0)[0]
    meeting.until(lambda: b.frames)
    meeting.settle()
    a.hub.send(a.peer(), FrameType.AGREEMENT, b"y")
    a.hub.flush()
    meeting.until(lambda: len(b.frames) == 2, only=[b])  # a is not polled again


def test_a_quiet_hub_has_nothing_to_do(meeting: Meeting) -> None:
    a, b = joined(meeting)
    meeting.settle()
    for node in (a, b):
        assert node.hub.poll(meeting.now_ns()) == 0
        deadline_ns = node.hub.deadline_ns()
        assert deadline_ns is not None
        assert deadline_ns > meeting.now_ns() + 100_000_000
    assert meeting.turn() == 0


def lanes(node: Node) -> list[Connection]:
    """The agreement and the bulk lane of the only peer."""
    return list(node.hub._board.peers.by_number[node.peer()].connections())


def go_deaf(connection: Connection) -> None:
    """Let no segment in any more, as when the path is gone: the kernel acknowledges nothing."""
    drop_all = ctypes.create_string_buffer(struct.pack("HBBI", 0x06, 0, 0, 0))  # BPF: return 0
    program = struct.pack("@HP", 1, ctypes.addressof(drop_all))
    attach_filter = 26  # SO_ATTACH_FILTER, which Python does not name
    connection.socket.setsockopt(socket.SOL_SOCKET, attach_filter, program)


def test_a_bulk_lane_that_dies_alone_is_noticed(meeting: Meeting) -> None:
    a, b = joined(meeting, ping_after_ns=500_000_000, gone_after_ns=1_500_000_000)
    go_deaf(lanes(b)[1])
    assert a.hub.send(a.peer(), FrameType.TRANSACTIONS, BIG)
    meeting.until(lambda: not a.here)
    assert a.left[0][1].startswith("acknowledges nothing")
    assert a.stats["silent"] == 1


def test_a_bulk_lane_that_is_held_back_is_not_dead(meeting: Meeting) -> None:
    a, b = joined(meeting, ping_after_ns=500_000_000, gone_after_ns=1_500_000_000)
    b.hub.open_bulk(False)
    while a.hub.send(a.peer(), FrameType.TRANSACTIONS, BIG):
        meeting.turn()
    assert a.stats["relay_dropped"]
    end = time.monotonic() + 5.5  # the kernel asks more and more seldom, and is answered
    meeting.until(lambda: time.monotonic() > end)
    assert a.here
    assert b.here


def test_a_dead_path_is_noticed_within_30_s_when_nothing_is_sent(meeting: Meeting) -> None:
    a, b = joined(meeting)
    options = (socket.TCP_KEEPIDLE, socket.TCP_KEEPINTVL, socket.TCP_KEEPCNT)
    for lane in lanes(a) + lanes(b):
        assert lane.socket.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE)
        set_ = tuple(lane.socket.getsockopt(socket.IPPROTO_TCP, each) for each in options)
        assert set_ == (KEEPALIVE_S, KEEPALIVE_EVERY_S, KEEPALIVE_TRIES)
    assert KEEPALIVE_S + KEEPALIVE_EVERY_S * KEEPALIVE_TRIES <= 30
