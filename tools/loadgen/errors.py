"""What keeps a load from being made or sent; wrong answers of a node are findings, not errors."""

from __future__ import annotations


class LoadError(Exception):
    """Something that whoever called can put right: ``cause`` and ``remedy``, one line together."""

    def __init__(self, cause: str, remedy: str) -> None:
        super().__init__(f"{cause}; {remedy}")
        self.cause = cause
        self.remedy = remedy
