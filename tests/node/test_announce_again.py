"""What waits for long is announced again: when, how often, how much at once."""

from __future__ import annotations

from itertools import chain, pairwise

from payments import ALICE, BOB, Chain, Payment, commit, pay, submit

from node.announce_again import AT_ONCE, AT_ONCE_BYTES, MARK_NS, PAUSES_NS, AnnounceAgain
from node.mempool import Mempool, PolicyLimits
from node.peer_frames import unpack_transactions

TURN_NS = 250_000_000
S = 1_000_000_000


class Announced:
    """A mempool of payments, and what is announced of it when."""

    def __init__(self, payments: int) -> None:
        self.chain = Chain()
        source = self.chain.fund(*[(100_000, ALICE)] * payments)
        self.pool = Mempool(self.chain, PolicyLimits(expiry_ms=3_600_000), 10)
        self.unsent = [
            pay([(source.out(index), ALICE)], [(90_000, BOB)], filler=index)
            for index in range(payments)
        ]
        self.now_ns = 7 * S
        self.frames: list[bytes] = []
        self.again = AnnounceAgain(self.pool, self.frames.append)

    def admit(self, count: int) -> list[Payment]:
        sent, self.unsent = self.unsent[:count], self.unsent[count:]
        submit(self.pool, *sent)
        assert all(each.txid in self.pool for each in sent)
        return sent

    def turn(self, *, heard: bool = True) -> list[bytes]:
        """What is announced in one turn."""
        self.now_ns += TURN_NS
        count = self.again.turn(self.now_ns, heard=heard)
        found = []
        for frame in self.frames:
            payload, ends = unpack_transactions(memoryview(frame))
            found += [bytes(payload[a:b]) for a, b in pairwise([0, *ends.tolist()])]
        self.frames.clear()
        assert len(found) == count
        return found

    def turns(self, for_ns: int, *, heard: bool = True) -> list[tuple[int, list[bytes]]]:
        """What is announced for a while: when, and what."""
        end_ns = self.now_ns + for_ns
        told = []
        while self.now_ns < end_ns:
            raws = self.turn(heard=heard)
            if raws:
                told.append((self.now_ns, raws))
        return told


def test_what_waits_is_announced_a_few_times_with_growing_pauses() -> None:
    world = Announced(2)
    world.turns(5 * S)
    began_ns = world.now_ns
    raws = [each.raw for each in world.admit(2)]
    told = world.turns(2_000 * S)
    assert [each for _, each in told] == [raws] * len(PAUSES_NS)
    times_ns = [began_ns, *(at_ns for at_ns, _ in told)]
    for pause_ns, (before_ns, after_ns) in zip(PAUSES_NS, pairwise(times_ns), strict=True):
        assert pause_ns <= after_ns - before_ns <= pause_ns + MARK_NS + 2 * TURN_NS


def test_what_is_final_is_not_announced() -> None:
    world = Announced(3)
    first, second, third = world.admit(3)
    commit(world.pool, world.chain, first, third)
    assert [raws for _, raws in world.turns(4 * S)] == [[second.raw]]
    commit(world.pool, world.chain, second)
    assert world.turns(2_000 * S) == []


def test_nothing_is_announced_to_nobody_and_all_of_it_later_the_oldest_first() -> None:
    world = Announced(2 * AT_ONCE + 50)
    raws = [each.raw for each in world.admit(2 * AT_ONCE + 50)]
    assert world.turns(1_000 * S, heard=False) == []
    told = [world.turn() for _ in range(3)]
    assert [len(each) for each in told] == [AT_ONCE, AT_ONCE, 50]
    assert list(chain.from_iterable(told)) == raws
    again = world.turns(PAUSES_NS[1] + 2 * S)
    assert list(chain.from_iterable(each for _, each in again)) == raws


def test_a_turn_is_bounded_in_bytes_too() -> None:
    class Large:
        next_number = 3_000

        def numbered(
            self, first: int, end: int, at_most: int, most_bytes: int
        ) -> tuple[list[bytes], int]:
            taken = min(at_most, end - first, -(-most_bytes // 10_000))
            return [bytes(10_000)] * taken, first + taken

    sizes: list[int] = []
    again = AnnounceAgain(Large(), lambda frame: sizes.append(len(frame)))
    for turn in range(20):
        before = len(sizes)
        again.turn(turn * TURN_NS, heard=True)
        assert sum(sizes[before:]) <= AT_ONCE_BYTES + 10_000 + 1_000
    assert len(sizes) > 10


def test_numbers_go_on_where_a_look_ended() -> None:
    world = Announced(30)
    sent = world.admit(30)
    commit(world.pool, world.chain, *sent[5:20])
    left = [each.raw for each in [*sent[:5], *sent[20:]]]
    found: list[bytes] = []
    at = 0
    while at < world.pool.next_number:
        raws, at = world.pool.numbered(at, world.pool.next_number, 4, 3 * len(left[0]))
        assert len(raws) <= 3
        found += raws
    assert found == left
