"""How an own block grows and shrinks with what the network can keep up with."""

from __future__ import annotations

from node.block_limit import LEAST, TARGET_MS, BlockLimit


def test_it_begins_with_all_that_a_block_may_hold() -> None:
    assert BlockLimit(50_000).transactions == 50_000
    assert BlockLimit(10).transactions == 10


def test_it_follows_the_pace() -> None:
    limit = BlockLimit(50_000)
    limit.decided(40_000, 8_000)  # 5 in a millisecond
    assert limit.transactions == 5 * TARGET_MS
    for _ in range(30):
        limit.decided(limit.transactions, limit.transactions / 20)
    assert 19 * TARGET_MS < limit.transactions <= 20 * TARGET_MS


def test_it_never_leaves_its_bounds() -> None:
    limit = BlockLimit(50_000)
    limit.decided(1_000, 1_000_000)
    assert limit.transactions == LEAST
    for _ in range(50):
        limit.decided(limit.transactions, 0)
    assert limit.transactions == 50_000
    small = BlockLimit(10)
    small.decided(10, 1_000_000)
    assert small.transactions == 10


def test_small_blocks_say_nothing() -> None:
    limit = BlockLimit(50_000)
    limit.decided(100, 300)
    limit.decided(0, 300)
    assert limit.transactions == 50_000
