"""Whom to dial and when: static peers for ever, others while there are too few.

Pure, with time and chance as arguments; the dialler asks, the doorstep tells what came of it. It
owns the targets, one for each static address and one for each address of the book that is being
tried.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Final

from node.network.address import Address
from node.network.budget import Backoff
from node.network.settings import NS_PER_S

if TYPE_CHECKING:
    from random import Random

STABLE_NS: Final = 10 * NS_PER_S  # a connection that lived so long makes earlier failures history
MAX_STATIC: Final = 400  # twice what the configuration may name
RECHECK_NS: Final = NS_PER_S  # whether a peer that came by itself is still there


class Target:
    """An address that is dialled."""

    __slots__ = ("address", "backoff", "busy", "due_ns", "host", "mute", "node_id", "static")

    def __init__(self, address: Address, static: bool, backoff: Backoff, due_ns: int) -> None:
        self.address = address
        self.host = address.host  # the IP when the address is a name and was looked up
        self.static = static
        self.backoff = backoff
        self.due_ns = due_ns
        self.busy = False  # dialling or connected
        self.node_id = b""  # who is there, once that is known
        self.mute = False  # it is this node itself


class Targets:
    """The static targets and their pauses."""

    def __init__(
        self, static: Iterable[Address], first_ns: int, longest_ns: int, now_ns: int
    ) -> None:
        self._first_ns = first_ns
        self._longest_ns = longest_ns
        self.static = [
            Target(each, True, Backoff(first_ns, longest_ns), now_ns)
            for each in dict.fromkeys(static)
        ]

    def due(self, now_ns: int) -> list[Target]:
        """Return the static targets to dial now."""
        return [
            each
            for each in self.static
            if each.due_ns <= now_ns and not each.busy and not each.mute
        ]

    def add(self, address: Address, now_ns: int) -> bool:
        """Keep up a connection to one more address; False if it is one of them."""
        if len(self.static) >= MAX_STATIC or any(each.address == address for each in self.static):
            return False
        backoff = Backoff(self._first_ns, self._longest_ns)
        self.static.append(Target(address, True, backoff, now_ns))
        return True

    def forget(self, address: Address) -> bool:
        """Dial an address no more; False if it was not among the static ones."""
        before = len(self.static)
        self.static = [each for each in self.static if each.address != address]
        return len(self.static) < before

    def passing(self, address: Address, now_ns: int) -> Target:
        """Return a target for one attempt at an address that is not static."""
        return Target(address, False, Backoff(self._first_ns, self._longest_ns), now_ns)

    def static_at(self, address: Address) -> Target | None:
        """The static target that listens at this IP and port."""
        for each in self.static:
            if each.host == address.host and each.address.port == address.port:
                return each
        return None

    def is_static_site(self, host: str) -> bool:
        """Whether a static target has this IP."""
        return any(each.host == host for each in self.static)

    def failed(self, target: Target, now_ns: int, rng: Random) -> None:
        """No connection came of it, or none that lasted."""
        target.busy = False
        target.due_ns = now_ns + target.backoff.failed(rng)

    def ended(self, target: Target, lived_ns: int, now_ns: int, rng: Random) -> None:
        """A connection is over; one that lasted is dialled again with the shortest pause."""
        if lived_ns >= STABLE_NS:
            target.backoff.succeeded()
        self.failed(target, now_ns, rng)

    def punish(self, target: Target, now_ns: int, rng: Random) -> None:
        """Leave it alone for the longest pause."""
        target.busy = False
        target.due_ns = now_ns + target.backoff.worst(rng)

    def there_already(self, target: Target, now_ns: int) -> None:
        """The node at this address is connected by its own doing."""
        target.busy = False
        target.due_ns = now_ns + RECHECK_NS

    @property
    def deadline_ns(self) -> int | None:
        """When the next static target is due."""
        return min(
            (each.due_ns for each in self.static if not each.busy and not each.mute),
            default=None,
        )
