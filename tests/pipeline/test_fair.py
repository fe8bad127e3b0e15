"""The fair queue: nothing lost, order kept, shares equal, bounds held."""

from __future__ import annotations

from collections import defaultdict, deque
from itertools import combinations

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from pipeline.fair import FairQueue

QUANTUM = 8
HEAVIEST = 20

# A busy machine is no failure.
RELAXED = settings(deadline=None, max_examples=60, suppress_health_check=[HealthCheck.too_slow])


def names(count: int) -> st.SearchStrategy[bytes]:
    return st.integers(0, count - 1).map(lambda number: b"source-%d" % number)


class Life(RuleBasedStateMachine):
    """Any order of offers and takes, against plain lists of what must still be queued."""

    def __init__(self) -> None:
        super().__init__()
        self.queue = FairQueue(100, 40, max_sources=4, quantum=QUANTUM)
        self.model: dict[bytes, deque[tuple[int, int]]] = defaultdict(deque)
        self.number = 0

    def weight(self, source: bytes) -> int:
        return sum(weight for weight, _ in self.model[source])

    @property
    def total(self) -> int:
        return sum(self.weight(source) for source in list(self.model))

    @property
    def active(self) -> int:
        return sum(bool(items) for items in self.model.values())

    @rule(
        source=names(6),
        weights=st.lists(st.integers(1, 12) | st.just(41), min_size=1, max_size=6),
    )
    def offer(self, source: bytes, weights: list[int]) -> None:
        for weight in weights:
            fits = (
                self.weight(source) + weight <= 40
                and self.total + weight <= 100
                and (bool(self.model[source]) or self.active < 4)
            )
            assert self.queue.offer(source, weight, self.number) == fits
            if fits:
                self.model[source].append((weight, self.number))
            self.number += 1

    @rule(budget=st.integers(-1, 20))
    def take(self, budget: int) -> None:
        before = self.total
        taken = self.queue.take(budget)
        for source, weight, item in taken:
            assert self.model[source].popleft() == (weight, item)
        weights = [weight for _, weight, _ in taken]
        assert sum(weights) >= min(budget, before)
        assert not weights or sum(weights[:-1]) < budget  # only the last one may exceed it

    @invariant()
    def it_knows_what_it_holds(self) -> None:
        assert self.queue.pending_weight == self.total
        assert self.queue.sources == self.active

    def teardown(self) -> None:
        self.take(1000)
        assert self.total == 0


TestLife = Life.TestCase
TestLife.settings = RELAXED


backlogs = st.lists(
    st.lists(st.integers(1, HEAVIEST), min_size=1, max_size=40), min_size=2, max_size=5
)


def filled(backlog: list[list[int]]) -> FairQueue:
    queue = FairQueue(10**6, 10**6, quantum=QUANTUM)
    for source, weights in enumerate(backlog):
        for number, weight in enumerate(weights):
            assert queue.offer(b"%d" % source, weight, number)
    return queue


@RELAXED
@given(backlogs, st.lists(st.integers(1, 30)))
def test_how_a_budget_is_portioned_does_not_change_the_order(
    backlog: list[list[int]], budgets: list[int]
) -> None:
    at_once = filled(backlog).take(10**6)
    queue = filled(backlog)
    in_portions = [one for budget in budgets for one in queue.take(budget)]
    assert in_portions + queue.take(10**6) == at_once


@RELAXED
@given(backlogs)
def test_backlogged_sources_are_served_alike(backlog: list[list[int]]) -> None:
    """From any moment to any later one, while both sources have something queued."""
    heaviest = max(weight for weights in backlog for weight in weights)
    order = [(int(source), weight) for source, weight, _ in filled(backlog).take(10**6)]
    for a, b in combinations(range(len(backlog)), 2):
        left = {a: len(backlog[a]), b: len(backlog[b])}
        ahead = [0]  # what a was served more than b, after each item
        for source, weight in order:
            if source not in left:
                continue
            left[source] -= 1
            if left[source] == 0:
                break
            ahead.append(ahead[-1] + (weight if source == a else -weight))
        assert max(map(abs, ahead)) < QUANTUM + heaviest  # since both began
        assert max(ahead) - min(ahead) < QUANTUM + 2 * heaviest  # over any interval


@RELAXED
@given(st.integers(1, 200), st.integers(1, HEAVIEST))
def test_a_newcomer_waits_for_one_visit_of_each_other_source(flood: int, weight: int) -> None:
    queue = FairQueue(10**6, 10**6, quantum=QUANTUM)
    for number in range(flood):
        for source in (b"a", b"b", b"c"):
            queue.offer(source, 1, number)
    queue.take(flood)
    assert queue.offer(b"new", weight, "here")
    visits = -(-weight // QUANTUM)
    served = queue.take(10**6)
    before = [source for source, *_ in served].index(b"new")
    assert before <= visits * 3 * QUANTUM


def test_a_source_that_comes_back_brings_no_credit() -> None:
    queue = FairQueue(1000, 1000, quantum=10)
    queue.offer(b"a", 1, "first")
    assert len(queue.take(100)) == 1  # nine of its quantum are unspent, and lost
    for number in range(20):
        queue.offer(b"a", 1, number)
        queue.offer(b"b", 1, number)
    assert [source for source, *_ in queue.take(40)] == 2 * ([b"a"] * 10 + [b"b"] * 10)


def test_a_flooder_fills_its_share_and_no_more() -> None:
    queue = FairQueue(100, 30)
    assert [queue.offer(b"flood", 10, n) for n in range(4)] == [True, True, True, False]
    assert queue.offer(b"other", 30, 0)
    assert queue.offer(b"third", 30, 0)
    assert not queue.offer(b"fourth", 11, 0)  # the total
    assert queue.offer(b"fourth", 10, 0)


def test_what_is_taken_makes_room_in_its_sources_share() -> None:
    queue = FairQueue(100, 30)
    assert [queue.offer(b"a", 10, n) for n in range(4)] == [True, True, True, False]
    assert queue.take(1) == [(b"a", 10, 0)]
    assert [queue.offer(b"a", 10, n) for n in (4, 5)] == [True, False]


def test_an_item_heavier_than_a_share_is_refused_and_leaves_no_trace() -> None:
    queue = FairQueue(100, 30)
    assert not queue.offer(b"a", 31, 0)
    assert (queue.sources, queue.pending_weight) == (0, 0)


def test_the_number_of_sources_is_bounded() -> None:
    queue = FairQueue(100, 30, max_sources=2)
    assert queue.offer(b"a", 1, 0)
    assert queue.offer(b"b", 1, 0)
    assert not queue.offer(b"c", 1, 0)
    assert queue.offer(b"a", 1, 1)
    queue.take(2)
    queue.take(1)
    assert queue.offer(b"c", 1, 0)


@pytest.mark.parametrize("weight", [0, -5])
def test_a_weightless_item_is_an_error(weight: int) -> None:
    with pytest.raises(ValueError, match="at least 1"):
        FairQueue(10, 10).offer(b"a", weight, 0)


@pytest.mark.parametrize("bounds", [(0, 1), (1, 0)])
def test_bounds_are_positive(bounds: tuple[int, int]) -> None:
    with pytest.raises(ValueError, match="at least 1"):
        FairQueue(*bounds)
