"""Amounts, and which coins a payment takes: exact to the unit."""

from __future__ import annotations

from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st
from nacl.signing import SigningKey

from node.params import MAX_AMOUNT, MAX_INPUTS
from node.policy import relay_fee
from node.transaction import Output, build
from tools.cli.amounts import format_amount, parse_amount, units_of
from tools.cli.errors import PaymentError
from tools.cli.payment import Coin, Plan, Prices, plan

PRICES = Prices(min_fee=1_000, relay_fee_per_kb=20_000, dust_limit=500)


@given(st.integers(1, MAX_AMOUNT))
def test_an_amount_written_and_read_is_the_same(units: int) -> None:
    text = format_amount(units)
    assert parse_amount(text) == units
    assert units_of(Decimal(text)) == units
    assert Decimal(text) * 10**8 == units


@pytest.mark.parametrize(
    ("text", "units"),
    [("1", 10**8), ("0.1", 10**7), ("12.5", 1_250_000_000), ("0.00000001", 1), ("007", 7 * 10**8)],
)
def test_amounts_that_people_write(text: str, units: int) -> None:
    assert parse_amount(text) == units


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("0.123456789", "9 places"),
        ("1.000000000", "9 places"),
        ("1e3", "not an amount"),
        ("1,5", "not an amount"),
        ("-1", "not an amount"),
        ("1.", "not an amount"),
        (".5", "not an amount"),
        ("", "not an amount"),
        ("NaN", "not an amount"),
        ("\u0661", "not an amount"),
        ("0", "amount of 0"),
        ("0.00", "amount of 0"),
        ("100000000.00000001", "more than a payment can hold"),
        ("9" * 400, "not an amount"),
    ],
)
def test_what_is_no_amount_says_why(text: str, named: str) -> None:
    with pytest.raises(PaymentError, match=named):
        parse_amount(text)


@pytest.mark.parametrize("told", ["1.5", 1.5, None, Decimal("1e-9"), Decimal("NaN"), Decimal(-1)])
def test_what_the_node_must_not_say(told: object) -> None:
    with pytest.raises(ValueError, match="not an amount"):
        units_of(told)


def test_what_the_node_may_say() -> None:
    assert units_of(3) == 3 * 10**8
    assert units_of(Decimal("0.10")) == 10**7
    assert units_of(Decimal("1E+1")) == 10**9


# -- coins ---------------------------------------------------------------------------------------


def coins(*values: int) -> list[Coin]:
    return [Coin(bytes([number]) * 33, value) for number, value in enumerate(values)]


def test_the_smallest_coin_that_suffices_alone() -> None:
    found = plan(coins(9_000_000, 50_000, 60_000, 10), 45_000, PRICES)
    fee = PRICES.fee(1, 2)
    assert found == Plan((coins(0, 50_000)[1],), 45_000, fee, 5_000 - fee)


def test_the_largest_together_when_none_suffices() -> None:
    found = plan(coins(30_000, 10_000, 40_000, 20_000), 60_000, PRICES)
    assert [coin.value for coin in found.coins] == [40_000, 30_000]


def test_change_that_would_be_dust_goes_to_the_fee() -> None:
    fee = PRICES.fee(1, 1)
    a_second_output = PRICES.fee(1, 2) - fee
    assert a_second_output == 800
    for left in (0, 1, a_second_output + PRICES.dust_limit - 1):
        (coin,) = coins(20_000 + fee + left)
        assert plan([coin], 20_000, PRICES) == Plan((coin,), 20_000, fee + left, 0)


@given(
    values=st.lists(st.integers(1, 10**9), max_size=40),
    amount=st.integers(500, 10**10),
    per_kb=st.sampled_from([0, 1, 1_000, 10**7]),
    min_fee=st.sampled_from([0, 1_000]),
)
def test_every_plan_balances_and_pays_what_it_must(
    values: list[int], amount: int, per_kb: int, min_fee: int
) -> None:
    prices = Prices(min_fee, per_kb, 500)
    try:
        found = plan(coins(*values), amount, prices)
    except PaymentError:
        most = sorted(values, reverse=True)
        assert all(
            sum(most[:count]) < amount + prices.fee(count, 1) for count in range(1, len(most) + 1)
        )
        return
    assert sum(coin.value for coin in found.coins) == amount + found.fee + found.change
    assert found.amount == amount
    assert found.change == 0 or found.change >= prices.dust_limit
    key = SigningKey(b"k" * 32)
    outputs = [Output(amount, b"p" * 32)] + [Output(found.change, b"c" * 32)] * (found.change > 0)
    raw = build([(coin.outpoint, key) for coin in found.coins], outputs, b"s" * 16)
    least = max(min_fee, relay_fee(len(raw), per_kb))
    assert found.fee >= least
    assert found.change == 0 or found.fee == least


def test_change_at_the_dust_limit_comes_back() -> None:
    fee = PRICES.fee(1, 2)
    (coin,) = coins(20_000 + fee + PRICES.dust_limit)
    assert plan([coin], 20_000, PRICES) == Plan((coin,), 20_000, fee, PRICES.dust_limit)


def test_the_larger_of_the_two_least_fees_is_paid() -> None:
    assert Prices(min_fee=0, relay_fee_per_kb=20_000, dust_limit=1).fee(1, 2) == 214 * 20
    assert Prices(min_fee=5_000, relay_fee_per_kb=20_000, dust_limit=1).fee(1, 2) == 5_000
    assert Prices(min_fee=0, relay_fee_per_kb=1, dust_limit=1).fee(1, 2) == 1


def test_too_little_says_what_is_there_and_what_is_needed() -> None:
    with pytest.raises(PaymentError) as caught:
        plan(coins(150_000_000), 200_000_000, PRICES)
    fee = PRICES.fee(1, 1)
    for part in ("1.50000000", "2.00000000", format_amount(fee)):
        assert part in caught.value.message
    assert f"pay {format_amount(150_000_000 - fee)} at most" in caught.value.message
    with pytest.raises(PaymentError, match=r"has 0\.00000000 TIME.*wait until"):
        plan([], 200_000_000, PRICES)


def test_too_many_small_coins_say_so() -> None:
    many = [Coin(number.to_bytes(33, "big"), 10_000) for number in range(MAX_INPUTS + 45)]
    with pytest.raises(PaymentError, match=f"{MAX_INPUTS} coins at most") as caught:
        plan(many, 2_700_000, PRICES)
    most = caught.value.remedy.split()[3]
    assert len(plan(many, parse_amount(most), PRICES).coins) == MAX_INPUTS


def test_dust_is_not_paid() -> None:
    with pytest.raises(PaymentError, match=r"0\.00000500"):
        plan(coins(10**9), 499, PRICES)
