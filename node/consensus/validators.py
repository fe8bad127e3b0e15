"""Who votes, with what power, and whose turn it is to propose.

Keys and powers come from genesis and never change; the core, the tally and the certificates ask
what power is enough (arXiv 1807.04938, section 3: more than two thirds, more than a third). It owns
nothing else and does no I/O.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from itertools import accumulate

SEQUENCE_BITS = 64


class ValidatorSet:
    """The validators of one chain, in the order of its genesis.

    `powers` are positive integers, `keys` public keys of 32 bytes (or none, where nobody checks
    signatures). Raises ValueError for a set that cannot vote.
    """

    def __init__(self, powers: Sequence[int], keys: Sequence[bytes] = ()) -> None:
        if not powers or min(powers) < 1:
            raise ValueError("every validator has a power of at least 1, and there is at least one")
        if keys and len(keys) != len(powers):
            raise ValueError("every validator has one key")
        self.n = len(powers)
        self.keys = tuple(keys)
        self._powers = tuple(powers)
        self._upto = tuple(accumulate(powers))
        self.total = self._upto[-1]

    def power(self, validator: int) -> int:
        """The voting power of one validator."""
        return self._powers[validator]

    def quorum(self, power: int) -> bool:
        """Whether this is more than two thirds of all power (the paper's 2f + 1)."""
        return 3 * power > 2 * self.total

    def skip(self, power: int) -> bool:
        """Whether this is more than a third of all power (f + 1): somebody honest is in it."""
        return 3 * power > self.total

    def proposer(self, height: int, round_: int) -> int:
        """Who proposes in a round: in any run of rounds about as often as its share of the power.

        The van der Corput sequence in base 2 (of low discrepancy) at height + round, scaled to the
        total power. It needs no state, so every validator knows every proposer at once.
        """
        index = (height + round_) % (1 << SEQUENCE_BITS)
        mirrored = int(f"{index:0{SEQUENCE_BITS}b}"[::-1], 2)
        return bisect_right(self._upto, mirrored * self.total >> SEQUENCE_BITS)
