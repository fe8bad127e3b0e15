"""How a benchmark ends without figures: it cannot be done, the node failed, or enough is enough."""

from __future__ import annotations


class BenchError(Exception):
    """Something that whoever called can put right: ``cause`` and ``remedy``, one line together."""

    def __init__(self, cause: str, remedy: str) -> None:
        super().__init__(f"{cause}; {remedy}")


class BenchInterrupted(Exception):
    """Somebody wants the benchmark to end now; everything was stopped and removed."""


class BenchFailed(Exception):
    """What was measured misbehaved, so its speed means nothing; the message says how."""
