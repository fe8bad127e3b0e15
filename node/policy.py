"""Mempool policy: this node's own limits on what it holds and relays.

The numbers come from the configuration and go to the mempool's parts. Policy is a node's choice and
never part of block validity, so two nodes with different limits still agree on every block. Pure
arithmetic on integers; an impossible limit is a ``ValueError`` when the value is made.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeVar

from node.params import MAX_AMOUNT, MAX_TX_BYTES

if TYPE_CHECKING:  # part of the settings, which processes without arrays have too
    import numpy as np
    import numpy.typing as npt

RATE_BYTES = 1000  # fee rates are units per 1,000 bytes of transaction, witnesses included
MAX_RELAY_FEE_PER_KB = MAX_AMOUNT // 100  # far beyond sense, and its products fit 63 bits


@dataclass(frozen=True, slots=True)
class PolicyLimits:
    """What one node admits to its mempool; every field is configurable.

    Counts are transactions, ``*_bytes`` are bytes of raw transactions (the process needs about four
    times as much memory for small ones), fees are units, times are milliseconds. Raises
    ``ValueError`` naming the field whose value is impossible.
    """

    max_count: int = 200_000
    max_bytes: int = 48 * 1024 * 1024
    relay_fee_per_kb: int = 0  # least fee rate, units per 1,000 bytes
    max_ancestors: int = 25  # longest family in the mempool, the transaction itself included
    replacement_increment: int = 1_000  # units a replacement must pay beyond all that it replaces
    expiry_ms: int = 3_600_000
    max_orphans: int = 10_000
    max_orphan_bytes: int = 4 * 1024 * 1024
    max_replaced: int = 100  # transactions, descendants included, that one replacement may remove

    def __post_init__(self) -> None:
        least = {
            "max_count": 1,
            "max_bytes": MAX_TX_BYTES,
            "relay_fee_per_kb": 0,
            "max_ancestors": 1,
            "replacement_increment": 1,
            "expiry_ms": 1,
            "max_orphans": 0,
            "max_orphan_bytes": 0,
            "max_replaced": 1,
        }
        for name, low in least.items():
            value = getattr(self, name)
            if value < low:
                raise ValueError(f"mempool limit {name} is {value}; set it to {low} or more")
        if self.relay_fee_per_kb > MAX_RELAY_FEE_PER_KB:
            raise ValueError(
                f"mempool limit relay_fee_per_kb is {self.relay_fee_per_kb}; "
                f"set it to {MAX_RELAY_FEE_PER_KB} or less"
            )


Sizes = TypeVar("Sizes", int, "npt.NDArray[np.int64]")


def relay_fee(size_bytes: Sizes, relay_fee_per_kb: int) -> Sizes:
    """Least fee in units for ``size_bytes`` of transaction (or each of an array), rounded up."""
    return -(-size_bytes * relay_fee_per_kb // RATE_BYTES)


def fee_rate(fee: int, size_bytes: int) -> int:
    """Fee rate in units per 1,000 bytes, rounded down; fees above ``MAX_AMOUNT`` rank as that."""
    return min(fee, MAX_AMOUNT) * RATE_BYTES // size_bytes


# Both functions take arrays too (node.admission), and then compute in 64 bits.
assert MAX_AMOUNT * RATE_BYTES < 2**64
assert MAX_RELAY_FEE_PER_KB * MAX_TX_BYTES + RATE_BYTES < 2**63
