"""Which coins a payment takes, what it pays for itself, and what comes back: pure arithmetic.

Coins come from the node's list of unspent outputs, prices from its policy and the genesis; a plan
goes to `tools.cli.paying`, which has it built by `node.transaction` and signed. All coins belong to
one key, so there is one witness, and sizes are exact before anything is signed.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from node.params import INPUT_BYTES, MAX_INPUTS, OUTPUT_BYTES, TX_HEADER_BYTES, WITNESS_BYTES
from node.policy import relay_fee
from tools.cli.amounts import format_amount
from tools.cli.errors import PaymentError


@dataclass(frozen=True, slots=True)
class Coin:
    """One unspent output of ours: outpoint[33] and value in units."""

    outpoint: bytes
    value: int


@dataclass(frozen=True, slots=True)
class Prices:
    """What a transaction must pay, in units: the chain's least fee, the node's fee per 1,000 bytes;
    and the least that an output may hold.
    """

    min_fee: int
    relay_fee_per_kb: int
    dust_limit: int

    def fee(self, inputs: int, outputs: int) -> int:
        """The least fee that this node relays for a transaction of one witness."""
        size = TX_HEADER_BYTES + inputs * INPUT_BYTES + outputs * OUTPUT_BYTES + WITNESS_BYTES
        return max(self.min_fee, relay_fee(size, self.relay_fee_per_kb))


@dataclass(frozen=True, slots=True)
class Plan:
    """A payment that works: ``amount`` goes to the payee, ``change`` comes back (0: no output), and
    ``fee`` is what remains, all in units.
    """

    coins: tuple[Coin, ...]
    amount: int
    fee: int
    change: int


def plan(coins: Sequence[Coin], amount: int, prices: Prices) -> Plan:
    """Choose coins for an amount: the smallest that suffices alone, else the largest together.

    What would come back below the dust limit goes to the fee. Raises PaymentError when the amount
    is dust, or the coins do not suffice, or too many of them are needed.
    """
    if amount < prices.dust_limit:
        raise PaymentError(
            f"{format_amount(amount)} TIME is less than an output may hold",
            f"pay {format_amount(prices.dust_limit)} at least",
        )
    ascending = sorted(coins, key=lambda coin: (coin.value, coin.outpoint))
    for coin in ascending:
        settled = _settle((coin,), coin.value, amount, prices)
        if settled is not None:
            return settled
    total = 0
    descending = ascending[::-1]
    for count, coin in enumerate(descending[:MAX_INPUTS], 1):
        total += coin.value
        settled = _settle(descending[:count], total, amount, prices)
        if settled is not None:
            return settled
    raise _too_little(descending, amount, prices)


def _settle(chosen: Sequence[Coin], total: int, amount: int, prices: Prices) -> Plan | None:
    """The payment out of these coins, with change or without; None if they do not suffice."""
    fee = prices.fee(len(chosen), 2)
    change = total - amount - fee
    if change >= prices.dust_limit and change > 0:
        return Plan(tuple(chosen), amount, fee, change)
    if total >= amount + prices.fee(len(chosen), 1):
        return Plan(tuple(chosen), amount, total - amount, 0)
    return None


def _too_little(coins: Sequence[Coin], amount: int, prices: Prices) -> PaymentError:
    have = sum(coin.value for coin in coins)
    fee = prices.fee(min(max(len(coins), 1), MAX_INPUTS), 1)
    if len(coins) > MAX_INPUTS and have >= amount + fee:
        most = sum(coin.value for coin in coins[:MAX_INPUTS]) - prices.fee(MAX_INPUTS, 1)
        return PaymentError(
            f"a payment takes {MAX_INPUTS} coins at most, and those of this wallet are too small",
            f"pay at most {format_amount(most)} TIME at once, or first to the wallet's own address",
        )
    return PaymentError(
        f"the wallet has {format_amount(have)} TIME, and {format_amount(amount)} with a fee of "
        f"{format_amount(fee)} are needed",
        f"pay {format_amount(have - fee)} at most, or wait until more is final"
        if have - fee >= prices.dust_limit
        else "wait until more is final",
    )
