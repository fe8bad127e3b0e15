"""COMPACTs that came before agreement asked for their block, kept as the bytes that they are.

A proposer announces its block before anybody can have heard of its proposal. What is kept costs a
hash of the header and no more until it is wanted; it may be lost, since whoever wants a block asks
for it. Bounded for each peer and in all, so a liar displaces mostly what it said itself.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from node.block import BlockHeader

MAX_OF_A_PEER = 2
MAX_BYTES = 32 << 20


@dataclass(slots=True)
class Announced:
    """A COMPACT, who sent it, and who else did."""

    header: BlockHeader
    body: bytes
    giver: int
    holders: dict[int, None] = field(default_factory=dict)


class Announcements:
    """What is announced, by block id."""

    def __init__(self) -> None:
        self._known: dict[bytes, Announced] = {}
        self._bytes = 0

    def __len__(self) -> int:
        return len(self._known)

    def add(self, peer: int, value: bytes, header: BlockHeader, body: bytes) -> None:
        """Keep the first COMPACT of a block, and who sent one."""
        known = self._known.get(value)
        if known is not None:
            known.holders[peer] = None
            return
        of_peer = [each for each, known in self._known.items() if known.giver == peer]
        if len(of_peer) >= MAX_OF_A_PEER:
            self.take(of_peer[0])
        self._known[value] = Announced(header, body, peer, {peer: None})
        self._bytes += len(body)
        while self._bytes > MAX_BYTES:
            self.take(next(iter(self._known)))

    def take(self, value: bytes) -> Announced | None:
        """Return what is known of a block, and keep it no longer."""
        known = self._known.pop(value, None)
        if known is not None:
            self._bytes -= len(known.body)
        return known

    def forget(self, height: int) -> None:
        """Drop what is of this height or below."""
        for value in [v for v, known in self._known.items() if known.header.height <= height]:
            self.take(value)

    def gone(self, peer: int) -> None:
        """A peer is no longer there."""
        for value, known in list(self._known.items()):
            known.holders.pop(peer, None)
            if known.giver == peer:
                self.take(value)
