"""How fast a peer may send, and how soon to try it again: pure, with time as an argument.

Speed is no offence. A lane that is over its budget is merely not read until it has paid back, so
TCP slows the sender down. Used by the reactor (`Budget`) and for static peers (`Backoff`).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from node.network.settings import NS_PER_S, LaneBudget, Rate

if TYPE_CHECKING:
    from random import Random

SHORTEST_PAUSE_NS: Final = 20_000_000  # so that a lane at its limit does not wake the loop all day
MAX_DOUBLINGS: Final = 32


class TokenBucket:
    """Tokens that come back with time, up to a burst; a debt is paid back first.

    Times may be equal or go back, which gives nothing.
    """

    __slots__ = ("_at_ns", "_burst", "_level", "_per_s")

    def __init__(self, rate: Rate, now_ns: int) -> None:
        self._per_s = rate.per_s
        self._burst = rate.burst * NS_PER_S
        self._level = self._burst  # in tokens / NS_PER_S: exact, no rounding ever accumulates
        self._at_ns = now_ns

    def spend(self, tokens: int, now_ns: int) -> int:
        """Take tokens that were used, and return for how many ns none are left (0: go on)."""
        passed_ns = now_ns - self._at_ns
        level = self._level
        if passed_ns > 0:
            self._at_ns = now_ns
            level += passed_ns * self._per_s
            if level > self._burst:
                level = self._burst
        level -= tokens * NS_PER_S
        self._level = level
        return 0 if level > 0 else -level // self._per_s + 1


class Budget:
    """The budget of one lane of one peer, in bytes and frames."""

    __slots__ = ("_bytes", "_frames")

    def __init__(self, budget: LaneBudget, now_ns: int) -> None:
        self._bytes = TokenBucket(budget.bytes_rate, now_ns)
        self._frames = TokenBucket(budget.frames_rate, now_ns)

    def spend(self, n_bytes: int, n_frames: int, now_ns: int) -> int:
        """Charge one read, and return for how many ns the lane is to be left alone (0: none)."""
        pause_ns = max(
            self._bytes.spend(n_bytes, now_ns),
            # A read costs as much as a frame, or a byte at a time would be the cheapest flood.
            self._frames.spend(max(n_frames, 1), now_ns),
        )
        return max(pause_ns, SHORTEST_PAUSE_NS) if pause_ns else 0


class Backoff:
    """When to try again after failures in a row: pauses double and are spread by chance.

    Each pause lies between half of the doubled one and all of it, and within first and longest; so
    nodes that lost each other at the same moment do not all come back at the same moment.
    """

    __slots__ = ("_failures", "_first_ns", "_longest_ns")

    def __init__(self, first_ns: int, longest_ns: int) -> None:
        self._first_ns = first_ns
        self._longest_ns = longest_ns
        self._failures = 0

    @property
    def failures(self) -> int:
        """How many in a row."""
        return self._failures

    def failed(self, rng: Random) -> int:
        """Count a failure and return the pause in ns."""
        self._failures += 1
        doublings = min(self._failures, MAX_DOUBLINGS)
        most_ns = min(self._first_ns << doublings, self._longest_ns)
        return max(self._first_ns, rng.randint(most_ns // 2, most_ns))

    def worst(self, rng: Random) -> int:
        """Count a failure as if there had been many, and return the pause in ns."""
        self._failures = MAX_DOUBLINGS
        return self.failed(rng)

    def succeeded(self) -> None:
        """Begin anew."""
        self._failures = 0
