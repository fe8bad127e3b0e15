"""How a benchmark ends without figures: it could not be carried out, or the node failed it."""

from __future__ import annotations


class BenchError(Exception):
    """Something that whoever called can put right: ``cause`` and ``remedy``, one line together."""

    def __init__(self, cause: str, remedy: str) -> None:
        super().__init__(f"{cause}; {remedy}")


class BenchFailed(Exception):
    """What was measured misbehaved, so its speed means nothing; the message says how."""
