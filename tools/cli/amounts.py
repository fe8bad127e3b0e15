"""Amounts as people write them, in TIME with at most eight places, and as the coin counts them.

Text in, units out, and back; a float never occurs. Pure.
"""

from __future__ import annotations

import re
from typing import Final

from node.params import MAX_AMOUNT, UNITS_PER_TIME
from tools.cli.errors import PaymentError

PLACES: Final = 8
_AMOUNT: Final = re.compile(r"([0-9]{1,16})(?:\.([0-9]*))?")

assert 10**PLACES == UNITS_PER_TIME


def parse_amount(text: str) -> int:
    """Return the units of an amount to pay, "12.5" or "12".

    Raises PaymentError: not a plain decimal number, more than eight places, nothing, or more than
    any output can hold.
    """
    found = _AMOUNT.fullmatch(text)
    if found is None or text.endswith("."):
        raise PaymentError(
            f"{text[:40]!r} is not an amount", "write it in TIME with a decimal point, as 12.5"
        )
    whole, places = found[1], found[2] or ""
    if len(places) > PLACES:
        raise PaymentError(
            f"{text[:40]} has {len(places)} places after the point, and there are {PLACES}",
            f"1 unit is 0.{1:0{PLACES}d} TIME, and nothing is smaller",
        )
    units = int(whole) * UNITS_PER_TIME + int(places.ljust(PLACES, "0"))
    if units == 0:
        raise PaymentError("an amount of 0 cannot be paid", "write how many TIME to pay")
    if units > MAX_AMOUNT:
        raise PaymentError(
            f"{text[:40]} TIME is more than a payment can hold",
            f"pay {format_amount(MAX_AMOUNT)} at most",
        )
    return units


def format_amount(units: int) -> str:
    """Return an amount of units in TIME with its eight places."""
    whole, rest = divmod(units, UNITS_PER_TIME)
    return f"{whole}.{rest:0{PLACES}d}"


def units_of(number: object) -> int:
    """Return the units of an amount that the node has told, as its JSON says it.

    ``number`` is an int or a Decimal. Raises ValueError for anything else, or a part of a unit.
    """
    found = _AMOUNT.fullmatch(f"{number:f}") if hasattr(number, "as_integer_ratio") else None
    if found is None or isinstance(number, float) or len((found[2] or "").rstrip("0")) > PLACES:
        raise ValueError(f"{number!r} is not an amount")
    return int(found[1]) * UNITS_PER_TIME + int((found[2] or "")[:PLACES].ljust(PLACES, "0"))
