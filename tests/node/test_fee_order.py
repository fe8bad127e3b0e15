"""The order of fees against a sorted list."""

from __future__ import annotations

import random

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from node.fee_order import FeeOrder


def txid(number: int) -> bytes:
    return number.to_bytes(32, "big")


@given(
    rates=st.lists(st.integers(0, 5), min_size=1, max_size=30),
    count=st.integers(1, 40),
    gone=st.sets(st.integers(0, 29)),
)
def test_best_and_worst_are_the_ends_of_one_order(
    rates: list[int], count: int, gone: set[int]
) -> None:
    order = FeeOrder()
    for number, rate in enumerate(rates):
        assert order.append(txid(number), rate, 0) == number
    gone = {number for number in gone if number < len(rates)}
    order.discard_many(sorted(gone))
    ranked = sorted(set(range(len(rates))) - gone, key=lambda n: (-rates[n], n))
    assert len(order) == len(ranked)
    assert order.best(count) == [txid(n) for n in ranked[:count]]
    worst = []
    while (candidate := order.pop_worst(10_000)) is not None:
        worst.append(candidate[2])
    assert worst == [txid(n) for n in reversed(ranked)]


def test_rows_survive_sweeps_and_stay_bounded() -> None:
    rng = random.Random(1)
    order = FeeOrder()
    held: dict[int, tuple[int, int]] = {}
    for step in range(200):
        if rng.random() < 0.7:
            rates = np.array([rng.randrange(1_000) for _ in range(rng.randrange(1, 200))])
            ids = [txid(step * 1_000 + i) for i in range(len(rates))]
            for sequence, rate in zip(order.extend(ids, rates, step), rates, strict=True):
                held[sequence] = (int(rate), step)
        else:
            number = order.append(txid(step * 1_000), step, step)
            held[number] = (step, step)
        leaving = [sequence for sequence in held if rng.random() < 0.5]
        if rng.random() < 0.5:
            order.discard_many(leaving)
        else:
            for sequence in leaving:
                order.discard(sequence)
        for sequence in leaving:
            del held[sequence]
        if rng.random() < 0.1 and (worst := order.pop_worst(10_000)) is not None:
            assert worst[0] == min(rate for rate, _ in held.values())
            assert held[-worst[1]][0] == worst[0]  # not one whose row was swept away
            order.push([worst])
        assert order.row_count <= 2 * len(held) + 5_000
    assert len(order) == len(held) > 0
    assert {sequence: order.rate(sequence) for sequence in held} == {
        sequence: rate for sequence, (rate, _) in held.items()
    }
    assert order.arrivals_ms() == [time for _, (_, time) in sorted(held.items())]
    oldest = min(time for _, time in held.values())
    assert len(order.arrived_until(oldest, 10_000)) == sum(t == oldest for _, t in held.values())
    assert len(order.arrived_until(10_000, 3)) == 3


def test_newcomers_and_raised_rates_join_an_order_that_is_in_use() -> None:
    order = FeeOrder()
    numbers = [order.append(txid(n), 10 * n, 0) for n in range(1, 5)]
    assert order.pop_worst(10) is None
    assert order.pop_worst(11) == (10, -numbers[0], txid(1))
    order.append(txid(5), 5, 0)
    order.raise_rate(numbers[1], 100)
    ranked = []
    while (candidate := order.pop_worst(10_000)) is not None:
        ranked.append((candidate[0], candidate[2]))
    assert ranked == [(5, txid(5)), (30, txid(3)), (40, txid(4)), (100, txid(2))]
    order.forget_worst()
    assert order.pop_worst(10_000) == (5, -4, txid(5))


@pytest.mark.parametrize("count", [1, 5, 10_000])
def test_equal_rates_rank_by_arrival(count: int) -> None:
    order = FeeOrder()
    order.extend([txid(n) for n in range(6_000)], np.full(6_000, 7), 0)
    assert order.best(count) == [txid(n) for n in range(min(count, 6_000))]
