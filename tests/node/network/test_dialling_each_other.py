"""Who stays connected with whom: simultaneous dials, duplicates, half-open links, restarts."""

from __future__ import annotations

import socket
from itertools import product
from random import Random
from select import select

import pytest
from meeting import GENESIS, Meeting, Node, hello, join, node_id, packed

from node.network.frames import FrameType
from node.network.handshake import Refusal, Welcome, encode, encode_refuse
from tools.ports import free_ports


def pair(meeting: Meeting, first: int, second: int) -> tuple[Node, Node]:
    """Two nodes that dial each other."""
    ports = free_ports(2)
    return (
        meeting.node(first, listen=f"127.0.0.1:{ports[0]}", static=(f"127.0.0.1:{ports[1]}",)),
        meeting.node(second, listen=f"127.0.0.1:{ports[1]}", static=(f"127.0.0.1:{ports[0]}",)),
    )


def talk(meeting: Meeting, a: Node, b: Node) -> None:
    """A frame goes each way on each lane."""
    before = len(a.frames), len(b.frames)
    for node in (a, b):
        for kind in (FrameType.AGREEMENT, FrameType.PART):
            assert node.hub.send(node.peer(), kind, b"x")
    meeting.until(lambda: (len(a.frames), len(b.frames)) == (before[0] + 2, before[1] + 2))


@pytest.mark.parametrize("order", list(product((0, 1), repeat=5)))
def test_of_two_simultaneous_dials_one_stays(meeting: Meeting, order: tuple[int, ...]) -> None:
    nodes = pair(meeting, 1, 2)
    for chosen in order:  # every interleaving of the first steps
        meeting.turn([nodes[chosen]])
    meeting.until(lambda: all(len(each.here) == 1 for each in nodes))
    meeting.settle()
    talk(meeting, *nodes)
    a, b = nodes
    (at_a,), (at_b,) = a.here.values(), b.here.values()
    assert at_a.outbound is not at_b.outbound  # both mean the same connection
    assert at_a.protected
    assert at_b.protected
    meeting.pass_time(60)  # nobody dials a peer that is here
    meeting.settle()
    assert len(a.here) == len(b.here) == 1
    assert not [each for each in a.left + b.left if "both sides" not in each[1]]


def test_of_dials_that_cross_the_smaller_id_wins(meeting: Meeting) -> None:
    a, b = pair(meeting, 1, 2)
    for _ in range(2):  # both have dialled and said hello before either listens
        meeting.turn([a])
        meeting.turn([b])
    meeting.until(lambda: a.here and b.here)
    meeting.settle()
    assert next(iter(a.here.values())).outbound
    assert not next(iter(b.here.values())).outbound


def test_a_node_does_not_dial_itself_twice(meeting: Meeting) -> None:
    port = free_ports(1)[0]
    node = meeting.node(1, listen=f"127.0.0.1:{port}", static=(f"127.0.0.1:{port}",))
    meeting.until(lambda: node.stats["turned_away_self"])
    assert node.stats["refused_self"] == 1
    meeting.pass_time(100)
    meeting.settle()
    assert node.stats["dialled"] == 1
    assert node.log.of("dial_refused")[0]["reason"] == "SELF"


def test_whoever_only_says_that_it_is_this_node_is_dialled_again(meeting: Meeting) -> None:
    with socket.create_server(("127.0.0.1", 0)) as liar:
        node = meeting.node(1, static=(f"127.0.0.1:{liar.getsockname()[1]}",))
        for dials in (1, 2):
            meeting.settle()
            assert node.stats["dialled"] == dials
            with liar.accept()[0] as connection:
                connection.sendall(
                    packed(FrameType.REFUSE, encode_refuse(Refusal.SELF, "", node_id(1)))
                )
                meeting.until(lambda dials=dials: node.stats["turned_away_self"] == dials)
            meeting.pass_time(31)


def test_a_foreign_network_is_told_once_and_tried_again(meeting: Meeting) -> None:
    a = meeting.node(1)
    b = meeting.node(2, static=(a.address,), genesis_id=bytes(32))
    for tries in range(1, 5):
        meeting.until(lambda tries=tries: b.stats["turned_away_wrong_network"] >= tries)
        meeting.pass_time(8)
    assert len(b.log.of("dial_refused")) == 1
    assert len(a.log.of("connection_refused")) == 1
    assert not a.hub.bans()
    assert not b.hub.bans()


def test_a_second_node_of_the_same_id_is_refused_while_the_first_lives(meeting: Meeting) -> None:
    node = meeting.node(1)
    first, _ = join(meeting, node, 9)
    second = meeting.stranger(node)
    second.say(hello(9))
    assert second.refusal()[0] is Refusal.DUPLICATE
    meeting.until(lambda: first.of(FrameType.PING))  # it is asked whether it lives
    first.say(packed(FrameType.PONG, first.of(FrameType.PING)[0]))
    meeting.settle()
    meeting.pass_time(6)
    meeting.settle()
    assert node.here


def test_nobody_keeps_a_static_peer_out_by_using_its_id(meeting: Meeting) -> None:
    port = free_ports(1)[0]
    node = meeting.node(1, static=(f"127.0.0.1:{port}",))
    rightful = meeting.node(2, listen=f"127.0.0.1:{port}")
    meeting.pass_time(31)
    meeting.until(lambda: node.here and rightful.here)  # now its id is known
    meeting.stop(rightful)
    meeting.until(lambda: not node.here)
    thief, _ = join(meeting, node, 2, "127.0.0.9")
    meeting.pass_time(31)
    rightful = meeting.node(2, listen=f"127.0.0.1:{port}")
    meeting.until(lambda: rightful.here and thief.gone())
    meeting.until(lambda: len(node.here) == 1)
    assert next(iter(node.here.values())).protected
    talk(meeting, node, rightful)


def test_a_static_peer_that_calls_takes_its_id_back(meeting: Meeting) -> None:
    ports = free_ports(2)
    node = meeting.node(
        1, listen=f"127.0.0.1:{ports[0]}", static=(f"127.0.0.1:{ports[1]}",), redial_first_ns=10**10
    )
    meeting.until(lambda: node.stats["dial_failures"])  # and so does not call for 10 s
    thief, _ = join(meeting, node, 2, "127.0.0.9")
    rightful = meeting.node(2, listen=f"127.0.0.1:{ports[1]}", static=(f"127.0.0.1:{ports[0]}",))
    meeting.until(lambda: rightful.here and thief.gone())
    talk(meeting, node, rightful)


def welcomes(meeting: Meeting, server: socket.socket, number: int) -> socket.socket:
    """Accept a hub's dial by hand and welcome it; the connection."""
    meeting.until(lambda: select([server], [], [], 0)[0])
    connection, _ = server.accept()
    meeting.settle()
    assert connection.recv(4_096)[4] == FrameType.HELLO
    welcome = Welcome(1, node_id(number), GENESIS, b"s" * 16, 0, "", "", bytes(32))
    connection.sendall(packed(FrameType.WELCOME, encode(welcome)))
    return connection


def test_an_open_peer_is_not_displaced_by_a_claim_to_have_dialled(meeting: Meeting) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        node = meeting.node(2, static=(f"127.0.0.1:{server.getsockname()[1]}",))
        with welcomes(meeting, server, 1), welcomes(meeting, server, 1):
            meeting.until(lambda: node.here)
            claim = meeting.stranger(node)
            claim.say(hello(1))  # the smaller id, but too late
            assert claim.refusal()[0] is Refusal.DUPLICATE
            assert node.here
            assert not node.left


def test_a_dial_that_was_welcomed_replaces_even_an_open_one(meeting: Meeting) -> None:
    """The other side has seen both and chosen: it dropped the one that is open here."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        listen = f"127.0.0.1:{server.getsockname()[1]}"
        node = meeting.node(1, static=(listen,))
        meeting.turn()  # it dials
        first, _ = join(meeting, node, 2, listen=listen)
        with welcomes(meeting, server, 2), welcomes(meeting, server, 2):
            meeting.until(lambda: node.left and node.here)
            meeting.until(first.gone)
        assert node.left[0][1] == "both sides have dialled"
        assert node.came[1].outbound


def test_a_half_open_link_makes_way_for_the_node_that_came_back(meeting: Meeting) -> None:
    node = meeting.node(1)
    lanes = join(meeting, node, 9)  # and from now on says nothing, as after a power cut
    (old,) = node.here
    second = meeting.stranger(node)
    second.say(hello(9))
    assert second.refusal()[0] is Refusal.DUPLICATE
    meeting.pass_time(6)
    meeting.until(lambda: not node.here)
    assert "in its name" in node.left[0][1]
    meeting.until(lanes[0].gone)
    join(meeting, node, 9)
    assert node.peer() > old


def test_a_static_peer_that_restarts_is_found_again(meeting: Meeting) -> None:
    a = meeting.node(1)
    port = a.port
    b = meeting.node(2, static=(a.address,))
    meeting.until(lambda: a.here and b.here)
    meeting.stop(a)
    meeting.until(lambda: b.left)
    meeting.until(lambda: b.stats["dial_failures"] >= 3)
    assert len(b.log.of("peer_not_reached")) == 1
    a = meeting.node(1, listen=f"127.0.0.1:{port}")
    meeting.pass_time(31)  # the longest pause
    meeting.until(lambda: a.here and b.here)
    talk(meeting, a, b)


def test_dialling_a_peer_that_is_away_never_ends_and_slows_down(meeting: Meeting) -> None:
    node = meeting.node(1, static=(f"127.0.0.1:{free_ports(1)[0]}",))
    for _ in range(300):  # five minutes
        meeting.turn()
        meeting.turn()
        meeting.pass_time(1)
    first = node.stats["dial_failures"]
    assert 15 <= first <= 30  # 0.25 s doubling up to 15..30 s
    meeting.pass_time(31)
    meeting.until(lambda: node.stats["dial_failures"] > first)


def test_static_peers_may_be_named(meeting: Meeting) -> None:
    a = meeting.node(1)
    b = meeting.node(2, static=(f"localhost:{a.port}", "no.such.name.invalid:1"))
    meeting.until(lambda: a.here and b.here and b.log.of("peer_not_reached"))
    talk(meeting, a, b)


def test_a_node_that_accepts_and_says_nothing_is_given_up(meeting: Meeting) -> None:
    with socket.create_server(("127.0.0.1", 0)) as mute:
        node = meeting.node(1, static=(f"127.0.0.1:{mute.getsockname()[1]}",))
        meeting.settle()
        meeting.pass_time(6)
        meeting.until(lambda: node.stats["dial_failures"])
        assert node.log.of("peer_not_reached")[0]["why"] == "no answer"


@pytest.mark.parametrize(
    "answer",
    [
        b"SSH-2.0-OpenSSH\r\n",
        packed(FrameType.WELCOME, b"\x90"),
        packed(FrameType.REFUSE, b"\x90"),
        packed(FrameType.REFUSE, b"\x93\xcd\xff\xff\xa0\xc0"),
        packed(FrameType.REFUSE, b"\x92\xcd\xff\xff\xa1\x1b"),
        hello(5),
    ],
)
def test_a_node_that_answers_nonsense_is_given_up(meeting: Meeting, answer: bytes) -> None:
    with socket.create_server(("127.0.0.1", 0)) as odd:
        node = meeting.node(1, static=(f"127.0.0.1:{odd.getsockname()[1]}",))
        meeting.settle()
        with odd.accept()[0] as connection:
            connection.sendall(answer)
            meeting.until(lambda: node.stats["dial_failures"])
    assert not node.came
    assert not node.hub.bans()  # a static peer never is


def test_one_lane_lost_is_both_lost(meeting: Meeting) -> None:
    node = meeting.node(1)
    for number, lane in ((8, 0), (9, 1)):
        lanes = join(meeting, node, number)
        lanes[lane].socket.close()
        meeting.until(lambda: not node.here)
        meeting.until(lanes[1 - lane].gone)
    assert [each[0].node_id for each in node.left] == [node_id(8), node_id(9)]


def test_many_nodes_that_all_dial_all(meeting: Meeting) -> None:
    ports = free_ports(6)
    addresses = [f"127.0.0.1:{each}" for each in ports]
    nodes = [
        meeting.node(
            number,
            listen=address,
            static=tuple(each for each in addresses if each != address),
        )
        for number, address in enumerate(addresses, 1)
    ]

    def complete() -> bool:
        return all(len(each.here) == len(nodes) - 1 for each in nodes)

    meeting.until(complete)
    meeting.settle()
    meeting.pass_time(40)
    meeting.settle()
    assert complete()
    for node in nodes:
        assert node.hub.broadcast(FrameType.AGREEMENT, node.settings.node_id) == len(nodes) - 1
    meeting.until(lambda: all(len(each.frames) == len(nodes) - 1 for each in nodes))


@pytest.mark.parametrize("seed", range(3))
def test_whatever_happens_they_find_each_other_again(meeting: Meeting, seed: int) -> None:
    rng = Random(seed)
    addresses = [f"127.0.0.1:{port}" for port in free_ports(5)]
    nodes = [
        meeting.node(number, listen=address, static=tuple(set(addresses) - {address}))
        for number, address in enumerate(addresses, 1)
    ]
    for _ in range(150):
        at = rng.randrange(len(nodes))
        node = nodes[at]
        match rng.choice(["talk", "talk", "drop", "stop", "wait", "late", "shut", "blame"]):
            case "talk":
                node.hub.broadcast(rng.choice([FrameType.PART, FrameType.AGREEMENT]), bytes(9_999))
            case "drop" if node.here:
                node.hub.disconnect(rng.choice(list(node.here)), "for no reason")
            case "stop":
                nodes[at] = meeting.restart(node)
            case "wait":
                meeting.pass_time(rng.random() * 6)
            case "late":
                meeting.pass_time(rng.random() * 40)
            case "shut":
                node.hub.open_bulk(rng.random() < 0.5)
            case "blame" if node.here:
                node.hub.blame(rng.choice(list(node.here)), rng.randrange(60), "for no reason")
        for _ in range(rng.randrange(8)):
            meeting.turn([rng.choice(nodes)])
    for node in nodes:
        node.hub.open_bulk(True)

    def complete() -> bool:
        meeting.pass_time(0.1)
        return all(len(each.here) == len(nodes) - 1 for each in nodes)

    meeting.until(complete)
    meeting.settle()
    for node in nodes:
        node.frames.clear()
        for kind in (FrameType.PART, FrameType.AGREEMENT):
            assert node.hub.broadcast(kind, b"here") == len(nodes) - 1
    meeting.until(lambda: all(len(each.frames) == 2 * (len(nodes) - 1) for each in nodes))
    assert not any(each.hub.bans() for each in nodes)
    assert not [each.log.lines for each in nodes if each.stats["malformed"]]
