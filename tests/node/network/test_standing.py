"""How peers stand with a hub: blame and bans, slots and who is safe, proofs, addresses, files."""

from __future__ import annotations

import json
from pathlib import Path

import msgspec
from meeting import Meeting, hello, join, node_id, packed

from node.network.frames import FrameType
from node.network.handshake import Proof, Refusal, encode_proof


def test_blame_adds_up_to_a_ban_of_the_address(meeting: Meeting) -> None:
    node = meeting.node(1)
    first, _ = join(meeting, node, 8, "127.0.0.9")
    join(meeting, node, 9, "127.0.0.9")
    join(meeting, node, 10, "127.0.0.10")
    guilty = next(each.number for each in node.hub.peers() if each.node_id == node_id(8))
    node.hub.blame(guilty, 99, "bad signature")
    meeting.settle()
    assert len(node.here) == 3
    node.hub.blame(guilty, 1, "bad signature")
    assert not node.hub.send(guilty, FrameType.PART, b"")
    meeting.until(lambda: len(node.here) == 1)
    assert [each[1] for each in node.left] == ["banned: bad signature"] * 2
    assert next(iter(node.here.values())).node_id == node_id(10)
    assert node.hub.bans()["127.0.0.9"][1] == "bad signature"
    meeting.until(first.gone)
    meeting.pass_time(24 * 3600 - 60)
    meeting.settle()
    assert meeting.stranger(node, "127.0.0.9").refusal()[0] is Refusal.BANNED
    meeting.pass_time(120)
    meeting.settle()
    join(meeting, node, 8, "127.0.0.9")


def test_blame_is_forgiven_in_time(meeting: Meeting) -> None:
    node = meeting.node(1)
    join(meeting, node, 8, "127.0.0.9")
    node.hub.blame(node.peer(), 99, "odd")
    meeting.pass_time(120)
    meeting.turn()
    node.hub.blame(node.peer(), 2, "odd")
    assert not node.hub.bans()
    node.hub.blame(node.peer(), 2, "odd")
    assert node.hub.bans()


def test_a_static_peer_is_left_alone_for_a_while_and_never_banned(meeting: Meeting) -> None:
    a = meeting.node(1)
    b = meeting.node(2, static=(a.address,))
    meeting.until(lambda: a.here and b.here)
    b.hub.blame(b.peer(), 100, "bad block")
    meeting.until(lambda: b.left and a.left)
    assert b.left[0][1] == "misbehaved: bad block"
    assert not b.hub.bans()
    meeting.pass_time(14)
    meeting.settle()
    assert not b.here
    meeting.pass_time(17)
    meeting.until(lambda: b.here)


def test_bans_outlive_a_restart(meeting: Meeting, tmp_path: Path) -> None:
    path = tmp_path / "bans.json"
    node = meeting.node(1, bans_path=str(path))
    node.hub.ban("127.0.0.9", "by hand")
    node = meeting.restart(node)
    assert node.hub.bans()["127.0.0.9"][1] == "by hand"
    assert meeting.stranger(node, "127.0.0.9").refusal()[0] is Refusal.BANNED
    assert json.loads(path.read_text())[0]["site"] == "127.0.0.9"
    assert path.stat().st_mode & 0o777 == 0o600
    path.write_bytes(b"\x00not json")
    node = meeting.restart(node)
    assert not node.hub.bans()
    assert "not JSON" in node.log.of("file_ignored")[0]["why"]


def test_a_file_that_cannot_be_written_stops_nothing(meeting: Meeting, tmp_path: Path) -> None:
    node = meeting.node(1, bans_path=str(tmp_path / "missing" / "bans.json"))
    node.hub.ban("127.0.0.9", "by hand")
    meeting.pass_time(6)
    node.hub.poll(meeting.now_ns())
    assert "cannot write" in node.log.of("file_not_written")[0]["why"]
    assert node.hub.bans()


def test_slots_are_limited_and_static_peers_need_none(meeting: Meeting) -> None:
    b = meeting.node(2)
    node = meeting.node(1, max_inbound=2, static=(b.address,))
    join(meeting, node, 8)
    join(meeting, node, 9)
    late = meeting.stranger(node)
    late.say(hello(10))
    assert late.refusal()[0] is Refusal.FULL
    meeting.until(lambda: len(node.here) == 3)
    assert b.here


def test_a_static_peer_is_known_when_it_calls(meeting: Meeting) -> None:
    b = meeting.node(2)
    node = meeting.node(1, max_inbound=0, static=(b.address,))
    address = b.address
    meeting.until(lambda: b.here and node.here)
    meeting.stop(b)
    meeting.until(lambda: not node.here)
    meeting.node(2, listen=address, static=(node.address,))
    meeting.until(lambda: node.here)
    assert next(iter(node.here.values())).protected


def test_a_proven_validator_keeps_its_slot(meeting: Meeting) -> None:
    node = meeting.node(1, max_inbound=2)
    join(meeting, node, 8)
    join(meeting, node, 9)
    node.hub.protect(next(iter(node.here)))
    assert [each.protected for each in node.hub.peers()] == [True, False]
    join(meeting, node, 10)  # it needs none of the common slots any more
    late = meeting.stranger(node)
    late.say(hello(11))
    assert late.refusal()[0] is Refusal.FULL


def test_a_validator_has_one_safe_slot(meeting: Meeting) -> None:
    node = meeting.node(1)
    for number, validator in ((8, 3), (9, 3), (10, 4)):
        first, _ = join(meeting, node, number)
        first.say(packed(FrameType.PROOF, encode_proof(Proof(validator, bytes(64)))))
        meeting.until(lambda: len(node.proofs) == len(node.here))
        assert node.proofs[-1][1] == validator
        node.hub.protect(node.proofs[-1][0].number)
    assert [each.protected for each in node.hub.peers()] == [False, True, True]


def test_whoever_never_brings_a_bulk_lane_loses_the_slot(meeting: Meeting) -> None:
    node = meeting.node(1, max_inbound=1)
    half = meeting.stranger(node)
    half.say(hello(8))
    half.welcome()
    join(meeting, node, 9)
    meeting.until(half.gone)
    assert not node.left


def test_blame_reaches_who_has_left(meeting: Meeting) -> None:
    node = meeting.node(1)
    first, _ = join(meeting, node, 8, "127.0.0.9")
    number = node.peer()
    first.socket.close()
    meeting.until(lambda: node.left)
    node.hub.blame(number, 100, "bad signature")
    node.hub.blame(12_345, 100, "whoever that was")
    assert list(node.hub.bans()) == ["127.0.0.9"]


def test_a_newcomer_from_elsewhere_gets_the_slot_of_the_crowd(meeting: Meeting) -> None:
    node = meeting.node(1, max_inbound=3)
    for number in (7, 8, 9):
        join(meeting, node, number, "127.0.0.5")
    join(meeting, node, 10, "127.9.0.5")
    meeting.until(lambda: len(node.here) == 3)
    assert node.left[0][0].node_id == node_id(9)
    assert node.left[0][1] == "lost its slot"
    assert node.stats["evicted"] == 1


def test_proofs_are_handed_on_with_the_challenge(meeting: Meeting) -> None:
    a = meeting.node(1)
    b = meeting.node(2, static=(a.address,))
    meeting.until(lambda: a.here and b.here)
    challenge = b.hub.challenge(b.peer())
    body = encode_proof(Proof(3, b"s" * 64))
    for _ in range(5):
        b.hub.send(b.peer(), FrameType.PROOF, body)
    b.hub.send(b.peer(), FrameType.AGREEMENT, b"after")
    meeting.until(lambda: a.frames)
    assert [each[1:] for each in a.proofs] == [(3, b"s" * 64, challenge)]  # one chance
    assert challenge != a.hub.challenge(a.peer())
    assert a.hub.challenge(99) is None


def test_nodes_find_each_other_through_one_that_all_know(meeting: Meeting) -> None:
    middle = meeting.node(1)
    nodes = []
    for number in (2, 3, 4):
        nodes.append(meeting.node(number, static=(middle.address,), max_outbound=4))
        meeting.until(lambda: len(middle.here) == len(nodes))
        meeting.settle()

    def connected() -> bool:
        meeting.pass_time(0.1)
        return all(len(each.here) == 3 for each in nodes)

    meeting.until(connected)
    assert [each.static for each in middle.hub._board.peers] == [False] * 3


def test_addresses_are_asked_for_taken_and_dialled(meeting: Meeting, tmp_path: Path) -> None:
    book = tmp_path / "book.json"
    hidden = meeting.node(5)
    helper = meeting.node(1)
    node = meeting.node(2, static=(helper.address,), max_outbound=2, book_path=str(book))
    helper.hub._board.book.tried(hidden.hub._board.listening, True, meeting.now_ms())
    meeting.until(lambda: hidden.here and len(node.here) == 2)
    assert {each.node_id for each in node.here.values()} == {node_id(1), node_id(5)}
    meeting.stop(helper)
    node = meeting.restart(node, static=())
    meeting.until(lambda: hidden.here and node.here)  # from the file
    known = {each["address"] for each in json.loads(book.read_text())}
    assert hidden.address in known


def test_addresses_are_given_once_a_minute(meeting: Meeting) -> None:
    node = meeting.node(1)
    _, bulk = join(meeting, node, 9)
    bulk.say(packed(FrameType.ADDRESSES_WANTED) * 3)
    meeting.until(lambda: bulk.of(FrameType.ADDRESSES))
    meeting.settle()
    assert [msgspec.msgpack.decode(each) for each in bulk.of(FrameType.ADDRESSES)] == [[]]
    assert node.stats["frames_ignored"] == 2
    meeting.pass_time(61)
    meeting.turn()
    bulk.say(packed(FrameType.ADDRESSES_WANTED))
    meeting.until(lambda: len(bulk.of(FrameType.ADDRESSES)) == 2)
