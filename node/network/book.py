"""Addresses of nodes that may be dialled: what peers told, and who has accepted this node.

The upkeep adds what it hears and passes on what is good, the hub picks whom to dial; kept in a file
(`node.network.persisted`). Pure, in wall-clock milliseconds and with chance as an argument. Bounded
as a whole and per teller, so that one liar cannot fill it: whoever has accepted this node is the
last to go.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from typing import TYPE_CHECKING, Any, Final

from node.network.address import Address, AddressError, group_of, parse_address, worth_dialling

if TYPE_CHECKING:
    from random import Random

MAX_ADDRESSES: Final = 1_000
MAX_PER_TELLER: Final = 100  # never tried or never reached, by the neighbourhood that told them
FIRST_PAUSE_MS: Final = 60_000
LONGEST_PAUSE_MS: Final = 3_600_000
MAX_FAILURES: Final = 10  # in a row, without ever having been reached; then it is forgotten
PICK_TRIES: Final = 32

OWN = "127.0.0.1"  # the teller of what the own file tells


class _Entry:
    """What is known of an address."""

    __slots__ = ("failures", "reached_ms", "teller", "tried_ms")

    def __init__(self, teller: str) -> None:
        self.teller = teller
        self.reached_ms = 0  # 0: never
        self.tried_ms = 0
        self.failures = 0  # in a row


class AddressBook:
    """Up to `MAX_ADDRESSES` addresses; every operation is O(1) but those that list."""

    def __init__(self) -> None:
        self._entries: dict[Address, _Entry] = {}
        self._order: list[Address] = []  # for picking by chance
        self._place: dict[Address, int] = {}
        self._told: dict[str, int] = {}  # neighbourhood -> how many of its are in the book
        self.changed = False

    def __len__(self) -> int:
        return len(self._entries)

    def __iter__(self) -> Iterator[Address]:
        return iter(list(self._entries))

    def __contains__(self, address: Address) -> bool:
        return address in self._entries

    def add(self, address: Address, heard_from: str, rng: Random) -> bool:
        """Take in an address that a peer told; whether it is new and was taken."""
        if address in self._entries or not worth_dialling(address, heard_from):
            return False
        teller = group_of(heard_from)
        if self._told.get(teller, 0) >= MAX_PER_TELLER:
            return False
        if len(self._entries) >= MAX_ADDRESSES and not self._make_room(rng):
            return False
        self._insert(address, teller)
        return True

    def tried(self, address: Address, reached: bool, now_ms: int) -> None:
        """Tell what came of a dial."""
        entry = self._entries.get(address)
        if entry is None:
            if not reached or not worth_dialling(address, address.host):
                return
            if len(self._entries) >= MAX_ADDRESSES:
                worst = (each for each in self._order if not self._entries[each].reached_ms)
                self._remove(next(worst, self._order[0]))
            entry = self._insert(address, group_of(OWN))
        self.changed = True
        entry.tried_ms = now_ms
        if reached:
            entry.reached_ms = now_ms
            entry.failures = 0
            return
        entry.failures += 1
        if entry.failures >= MAX_FAILURES and not entry.reached_ms:
            self._remove(address)

    def pick(self, now_ms: int, rng: Random, avoid: Collection[Address]) -> Address | None:
        """Return an address to dial now, by chance, or None if a few draws find none."""
        for _ in range(PICK_TRIES if self._order else 0):
            address = self._order[rng.randrange(len(self._order))]
            if address not in avoid and self._due(self._entries[address], now_ms):
                return address
        return None

    def good(self, most: int, rng: Random) -> list[Address]:
        """Return addresses of nodes that have accepted this one, at most so many, by chance."""
        reached = [each for each, entry in self._entries.items() if entry.reached_ms]
        return rng.sample(reached, min(most, len(reached)))

    def to_json(self) -> Any:
        """What is worth keeping."""
        return [
            {"address": str(address), "reached_ms": entry.reached_ms}
            for address, entry in self._entries.items()
        ]

    def load(self, entries: Any) -> int:
        """Take in what `to_json` gave, or whatever the file holds; how many that were."""
        for entry in entries[:MAX_ADDRESSES] if isinstance(entries, list) else ():
            match entry:
                case {"address": str(text), "reached_ms": int(reached_ms)}:
                    self._load(text, reached_ms)
                case _:
                    pass
        return len(self._entries)

    def _load(self, text: str, reached_ms: int) -> None:
        try:
            address = parse_address(text)
        except AddressError:
            return
        if address not in self._entries and worth_dialling(address, OWN):
            self._insert(address, "").reached_ms = max(0, reached_ms)

    @staticmethod
    def _due(entry: _Entry, now_ms: int) -> bool:
        if not entry.failures:
            return True
        pause_ms = min(FIRST_PAUSE_MS << min(entry.failures - 1, 16), LONGEST_PAUSE_MS)
        return not 0 <= now_ms - entry.tried_ms < pause_ms

    def _insert(self, address: Address, teller: str) -> _Entry:
        entry = _Entry(teller)
        self._entries[address] = entry
        self._place[address] = len(self._order)
        self._order.append(address)
        self._told[teller] = self._told.get(teller, 0) + 1
        self.changed = True
        return entry

    def _remove(self, address: Address) -> None:
        entry = self._entries.pop(address)
        place = self._place.pop(address)
        last = self._order.pop()
        if last != address:
            self._order[place] = last
            self._place[last] = place
        self._told[entry.teller] -= 1
        if not self._told[entry.teller]:
            del self._told[entry.teller]
        self.changed = True

    def _make_room(self, rng: Random) -> bool:
        """Forget somebody by chance who was never reached; whether a few draws found one."""
        for _ in range(PICK_TRIES):
            address = self._order[rng.randrange(len(self._order))]
            if not self._entries[address].reached_ms:
                self._remove(address)
                return True
        return False
