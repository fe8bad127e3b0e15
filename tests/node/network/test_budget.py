"""Token buckets and back-off, with time and chance as arguments."""

from __future__ import annotations

from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from node.network.budget import SHORTEST_PAUSE_NS, Backoff, Budget, TokenBucket
from node.network.settings import NS_PER_S, LaneBudget, Rate


def test_a_burst_and_then_the_rate() -> None:
    bucket = TokenBucket(Rate(per_s=10, burst=5), 0)
    assert [bucket.spend(1, 0) for _ in range(4)] == [0] * 4
    assert bucket.spend(1, 0) > 0
    assert bucket.spend(0, NS_PER_S // 10) == 0
    assert bucket.spend(11, NS_PER_S // 10) == pytest.approx(NS_PER_S, rel=1e-6)
    assert bucket.spend(0, 100 * NS_PER_S) == 0
    assert bucket.spend(5, 100 * NS_PER_S) > 0  # no more than the burst was gathered


@given(
    per_s=st.integers(1, 10**9),
    burst=st.integers(1, 10**9),
    spent=st.lists(st.tuples(st.integers(0, 10**7), st.integers(0, NS_PER_S)), max_size=50),
)
def test_whoever_waits_as_told_gets_the_burst_and_the_rate(
    per_s: int, burst: int, spent: list[tuple[int, int]]
) -> None:
    bucket = TokenBucket(Rate(per_s=per_s, burst=burst), 0)
    now_ns = total = last = 0
    for tokens, rest_ns in spent:
        total += tokens
        last = tokens
        now_ns += bucket.spend(tokens, now_ns)
        assert total * NS_PER_S <= burst * NS_PER_S + now_ns * per_s + last * NS_PER_S
        assert bucket.spend(0, now_ns) == 0  # the wait that was told is enough
        now_ns += rest_ns


def test_a_clock_that_stands_or_goes_back_gives_nothing() -> None:
    bucket = TokenBucket(Rate(per_s=10, burst=1), 1_000)
    assert bucket.spend(1, 1_000) > 0
    assert bucket.spend(0, 0) > 0


def test_a_lane_pays_for_bytes_and_for_reads() -> None:
    budget = LaneBudget(
        bytes_rate=Rate(per_s=100, burst=1_000), frames_rate=Rate(per_s=10, burst=10)
    )
    lane = Budget(budget, 0)
    assert lane.spend(999, 1, 0) == 0
    assert lane.spend(1, 1, 0) == SHORTEST_PAUSE_NS
    lane = Budget(budget, 0)
    assert [lane.spend(1, 0, 0) for _ in range(9)] == [0] * 9
    assert lane.spend(1, 0, 0) > 0  # ten reads without a frame


@pytest.mark.parametrize("values", [{"per_s": 0, "burst": 1}, {"per_s": 1, "burst": 0}])
def test_a_rate_is_at_least_one(values: dict[str, int]) -> None:
    with pytest.raises(ValueError, match="at least 1"):
        Rate(**values)


@given(seed=st.integers(), first=st.integers(1, 10**9), factor=st.integers(1, 1_000))
def test_pauses_double_between_their_bounds(seed: int, first: int, factor: int) -> None:
    backoff = Backoff(first, first * factor)
    rng = Random(seed)
    for failure in range(1, 100):
        most = min(first << failure, first * factor)
        assert max(first, most // 2) <= backoff.failed(rng) <= max(first, most)
    backoff.succeeded()
    assert backoff.failed(rng) <= first * 2
    assert backoff.worst(rng) >= first * factor // 2


def test_chance_spreads_the_pauses() -> None:
    pauses = set()
    for seed in range(50):
        backoff = Backoff(NS_PER_S // 4, 30 * NS_PER_S)
        rng = Random(seed)
        pauses.add([backoff.failed(rng) for _ in range(10)][-1])
    assert len(pauses) == 50
    assert min(pauses) >= 15 * NS_PER_S
    assert max(pauses) <= 30 * NS_PER_S
