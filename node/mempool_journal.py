"""What came into the mempool and what left it, in order: for those who want to be told.

The pool notes every change; `node.notify` takes what was noted and publishes it, and turns noting
on and off. While nobody listens a change is one addition, however many transactions it concerns:
the pool takes in 50,000 a second. What is noted and not taken yet is bounded by the work of a turn
of the stage that owns the pool, which takes it in every turn. Pure; lives and dies with the pool.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Final, NamedTuple

ADDED: Final = b"A"
REMOVED: Final = b"R"


class Change(NamedTuple):
    """Transactions that came (`ADDED`) or left (`REMOVED`) together.

    The first of `txids` has the number `sequence`, the next one the number after it; `raws` are
    their bytes in the same order, and empty for those that left.
    """

    label: bytes
    sequence: int
    txids: Sequence[bytes]
    raws: Sequence[bytes]


class Journal:
    """The changes of one mempool, numbered from 1 in each life of the process.

    `came` and `went` count the transactions that were admitted and that left without a block.
    Leaving into a block takes a number, too, but is not noted: the block tells it.
    """

    __slots__ = ("_changes", "_into_blocks", "came", "went")

    def __init__(self) -> None:
        self.came = 0
        self.went = 0
        self._into_blocks = 0
        self._changes: list[Change] | None = None

    @property
    def sequence(self) -> int:
        """The number that the next change will have."""
        return 1 + self.came + self.went + self._into_blocks

    @property
    def listening(self) -> bool:
        """Whether changes are noted."""
        return self._changes is not None

    def listen(self, wanted: bool) -> None:
        """Note changes from now on, or none any more; what was noted is forgotten with that."""
        if not wanted:
            self._changes = None
        elif self._changes is None:
            self._changes = []

    def take(self) -> Sequence[Change]:
        """Return what was noted since the last call."""
        changes = self._changes
        if not changes:
            return ()
        self._changes = []
        return changes

    def added(self, txids: Sequence[bytes], raws: Sequence[bytes]) -> None:
        """Transactions were admitted."""
        if self._changes is not None:
            self._changes.append(Change(ADDED, self.sequence, txids, raws))
        self.came += len(txids)

    def removed(self, txids: Collection[bytes]) -> None:
        """Transactions left, and not into a block."""
        if self._changes is not None and txids:
            self._changes.append(Change(REMOVED, self.sequence, tuple(txids), ()))
        self.went += len(txids)

    def left_into_block(self, count: int) -> None:
        """So many left into a block."""
        self._into_blocks += count
