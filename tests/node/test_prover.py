"""Challenges on their way to the signer: one at a time, in time, and for peers that are there."""

from __future__ import annotations

from node.prover import MAX_WAITING, PACE_NS, Prover
from node.sign_link import Prove, Proven, decode_request

ME = b"me".ljust(16)


class World:
    """The signer and the peers."""

    def __init__(self, validator: int | None = 7) -> None:
        self.asked: list[Prove] = []
        self.answers: list[tuple[int, int, bytes]] = []
        self.now_ns = 0
        self.prover = Prover(self._ask, lambda *answer: self.answers.append(answer))
        if validator is not None:
            self.prover.signer_started(validator)

    def _ask(self, frame: bytes) -> None:
        request = decode_request(frame)
        assert isinstance(request, Prove)
        self.asked.append(request)

    def challenged(self, *peers: int) -> None:
        for peer in peers:
            self.prover.challenged(peer, peer.to_bytes(32, "big"), ME)

    def turn(self, later_ns: int = PACE_NS) -> list[int]:
        """Some time later: whose challenges are asked to be signed."""
        self.now_ns += later_ns
        self.prover.elapse(self.now_ns)
        asked, self.asked = self.asked, []
        assert all(each.node_id == ME for each in asked)
        return [int.from_bytes(each.challenge, "big") for each in asked]

    def sign(self, number: int) -> None:
        self.prover.signed(Proven(Prove(number.to_bytes(32, "big"), ME), bytes([number]) * 64))


def test_one_at_a_time_and_not_too_often() -> None:
    world = World()
    world.challenged(1, 2)
    assert world.turn() == [1]
    assert world.turn() == []  # the signer has one
    world.sign(1)
    assert world.prover.deadline_ns() is not None
    assert world.turn() == [2]
    world.challenged(3)
    world.sign(2)
    assert world.turn(PACE_NS - 1) == []
    assert world.turn(1) == [3]
    world.sign(3)
    assert world.prover.deadline_ns() is None
    assert world.answers == [(n, 7, bytes([n]) * 64) for n in (1, 2, 3)]


def test_nothing_is_asked_before_the_signer_has_said_who_it_is() -> None:
    world = World(validator=None)
    world.challenged(1)
    assert world.prover.deadline_ns() is None
    assert world.turn() == []
    world.prover.signer_started(3)
    assert world.turn() == [1]
    world.sign(1)
    assert world.answers[0][:2] == (1, 3)


def test_a_new_signer_is_asked_again() -> None:
    world = World()
    world.challenged(1)
    assert world.turn() == [1]
    world.prover.signer_started(7)
    assert world.turn() == [1]
    world.sign(1)
    world.sign(1)  # the predecessor's answer came, too
    assert len(world.answers) == 1


def test_who_has_gone_gets_no_signature() -> None:
    world = World()
    world.challenged(1, 2, 3)
    assert world.turn() == [1]
    world.prover.connected([3])
    world.sign(1)
    assert world.answers == []
    assert world.turn() == [3]


def test_what_waits_is_bounded() -> None:
    world = World(validator=None)
    world.challenged(*range(1, MAX_WAITING + 10))
    assert len(world.prover._waiting) == MAX_WAITING
    world.challenged(1)
    assert len(world.prover._waiting) == MAX_WAITING
