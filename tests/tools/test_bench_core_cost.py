"""The cost of a vote: what is divided by what."""

from __future__ import annotations

from itertools import count

import pytest

from tools.bench.core_cost import us_per_vote


def test_the_time_of_whole_heights_is_shared_out_to_their_votes() -> None:
    ticks = count(0, 56_000)  # nanoseconds: each height takes one tick
    assert us_per_vote(7, 3, lambda: next(ticks)) == pytest.approx(56 / 14)
