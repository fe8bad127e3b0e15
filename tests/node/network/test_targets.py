"""When static peers are due."""

from __future__ import annotations

from random import Random

from node.network.address import Address
from node.network.settings import NS_PER_S
from node.network.targets import RECHECK_NS, STABLE_NS, Targets

A, B = Address("1.1.1.1", 1), Address("2.2.2.2", 2)
FIRST, LONGEST = NS_PER_S // 4, 30 * NS_PER_S


def test_everybody_is_due_at_first_and_once() -> None:
    targets = Targets([A, B, A], FIRST, LONGEST, 7)
    assert [each.address for each in targets.due(7)] == [A, B]
    assert targets.deadline_ns == 7
    for each in targets.due(7):
        each.busy = True
    assert targets.due(1 << 60) == []
    assert targets.deadline_ns is None


def test_failures_slow_down_and_a_stable_connection_forgets_them() -> None:
    targets = Targets([A], FIRST, LONGEST, 0)
    rng = Random(1)
    (target,) = targets.static
    now_ns = 0
    for _ in range(20):
        targets.failed(target, now_ns, rng)
        assert targets.due(now_ns) == []
        assert targets.deadline_ns == target.due_ns
        assert now_ns + FIRST <= target.due_ns <= now_ns + LONGEST
        now_ns = target.due_ns
        assert targets.due(now_ns) == [target]
    targets.ended(target, STABLE_NS - 1, now_ns, rng)
    assert target.due_ns >= now_ns + LONGEST // 2
    targets.ended(target, STABLE_NS, now_ns, rng)
    assert target.due_ns <= now_ns + 2 * FIRST
    targets.punish(target, now_ns, rng)
    assert target.due_ns >= now_ns + LONGEST // 2


def test_a_peer_that_came_by_itself_is_looked_after() -> None:
    targets = Targets([A], FIRST, LONGEST, 0)
    (target,) = targets.static
    targets.there_already(target, 5)
    assert targets.deadline_ns == 5 + RECHECK_NS
    target.mute = True
    assert targets.due(1 << 60) == []
    assert targets.deadline_ns is None


def test_static_targets_are_found_by_the_ip_that_a_name_has() -> None:
    targets = Targets([A, Address("a.name", 3)], FIRST, LONGEST, 0)
    assert targets.static_at(A) is targets.static[0]
    assert targets.static_at(Address("1.1.1.1", 2)) is None
    assert targets.static_at(Address("3.3.3.3", 3)) is None
    targets.static[1].host = "3.3.3.3"
    assert targets.static_at(Address("3.3.3.3", 3)) is targets.static[1]
    assert targets.is_static_site("3.3.3.3")
    assert not targets.is_static_site("3.3.3.4")
    assert not targets.passing(B, 0).static
