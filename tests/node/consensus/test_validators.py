"""Power and turns: what is enough, and that everybody proposes as often as its power is worth."""

from __future__ import annotations

from collections import Counter
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from node.consensus.validators import ValidatorSet

POWERS = st.lists(st.integers(1, 10**12), min_size=1, max_size=100)


@pytest.mark.parametrize(
    ("total", "quorum", "skip"),
    [(1, 1, 1), (2, 2, 1), (3, 3, 2), (4, 3, 2), (6, 5, 3), (7, 5, 3), (10, 7, 4), (100, 67, 34)],
)
def test_what_is_enough(total: int, quorum: int, skip: int) -> None:
    validators = ValidatorSet([1] * total)
    assert validators.total == validators.n == total
    powers = range(total + 1)
    assert [validators.quorum(power) for power in powers] == [each >= quorum for each in powers]
    assert [validators.skip(power) for power in powers] == [each >= skip for each in powers]


@given(POWERS)
def test_two_quorums_share_a_skip_set(powers: list[int]) -> None:
    validators = ValidatorSet(powers)
    least = 2 * validators.total // 3 + 1
    assert validators.quorum(least)
    assert not validators.quorum(least - 1)
    assert validators.skip(2 * least - validators.total)


def test_powers_and_keys_are_by_validator() -> None:
    keys = [b"k" * 32, b"l" * 32]
    validators = ValidatorSet([3, 5], keys)
    assert (validators.n, validators.total) == (2, 8)
    assert [validators.power(0), validators.power(1)] == [3, 5]
    assert validators.keys == tuple(keys)
    assert ValidatorSet([3, 5]).keys == ()


@pytest.mark.parametrize(
    ("powers", "keys"), [([], []), ([1, 0], []), ([1, -1, 5], []), ([1, 1], [b"k" * 32])]
)
def test_sets_that_cannot_vote_are_refused(powers: list[int], keys: list[bytes]) -> None:
    with pytest.raises(ValueError, match="every validator has"):
        ValidatorSet(powers, keys)


def test_the_first_turns_of_four_equals() -> None:
    validators = ValidatorSet([1] * 4)
    assert [validators.proposer(1, round_) for round_ in range(8)] == [2, 1, 3, 0, 2, 1, 3, 0]
    assert [validators.proposer(height, 0) for height in range(8)] == [0, 2, 1, 3, 0, 2, 1, 3]


def test_a_turn_depends_on_the_sum_of_height_and_round() -> None:
    validators = ValidatorSet([5, 1, 4, 2, 7])
    for height in range(1, 40):
        assert validators.proposer(height + 3, 2) == validators.proposer(height, 5)


@given(POWERS, st.integers(1, 2**64), st.integers(0, 2**32))
def test_there_is_always_a_proposer(powers: list[int], height: int, round_: int) -> None:
    assert 0 <= ValidatorSet(powers).proposer(height, round_) < len(powers)


@given(
    st.lists(st.integers(1, 50), min_size=1, max_size=20), st.integers(1, 10**9), st.integers(1, 9)
)
def test_every_window_has_each_as_often_as_its_power(
    powers: list[int], start: int, bits: int
) -> None:
    """The discrepancy of the sequence is below (log2(window) + 2) / window for any interval."""
    validators = ValidatorSet(powers)
    window = 1 << bits
    turns = Counter(validators.proposer(start, round_) for round_ in range(window))
    for validator, power in enumerate(powers):
        due = Fraction(power * window, validators.total)
        assert abs(turns[validator] - due) <= 2 * (bits + 2)


def test_whoever_has_almost_nothing_has_its_turn_too() -> None:
    validators = ValidatorSet([97, 1, 1, 1])
    turns = Counter(validators.proposer(1, round_) for round_ in range(400))
    assert set(turns) == {0, 1, 2, 3}
    assert all(2 <= turns[each] <= 6 for each in (1, 2, 3))
