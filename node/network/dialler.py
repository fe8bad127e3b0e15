"""Dials whoever is due: static peers, and nodes from the book while there are too few.

The hub calls `tick` in every poll; `node.network.calling` does the rest. It owns the resolver for
static peers that are given by name, and the time of the next look into the book.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from node.network.address import is_numeric
from node.network.resolver import Resolver
from node.network.settings import NS_PER_S

if TYPE_CHECKING:
    from node.network.address import Address
    from node.network.calling import Calling
    from node.network.doorstep import Doorstep
    from node.network.switchboard import Switchboard
    from node.network.targets import Target

MAX_DIALLING: Final = 8  # from the book at once
LOOK_EVERY_NS: Final = NS_PER_S // 2
RESOLVER_EVERY_NS: Final = NS_PER_S // 20  # how often its answers are looked for


class Dialler:
    """Keeps up the connections that this node wants."""

    def __init__(self, board: Switchboard, door: Doorstep, calling: Calling) -> None:
        self._board = board
        self._door = door
        self._calling = calling
        self._look_ns = board.now_ns
        self._resolver = Resolver()
        self._resolving: dict[Address, Target] = {}

    def tick(self) -> None:
        """Dial what is due."""
        board = self._board
        for target in board.targets.due(board.now_ns):
            self._dial_static(target)
        if self._resolving:
            self._take_answers()
        if board.now_ns >= self._look_ns:
            self._look_ns = board.now_ns + LOOK_EVERY_NS
            self._look_into_book()

    def deadline_ns(self) -> int | None:
        """When `tick` may have something to do."""
        board = self._board
        deadlines = [board.targets.deadline_ns]
        if self._resolving:
            deadlines.append(board.now_ns + RESOLVER_EVERY_NS)
        if board.settings.max_outbound and len(board.book):
            deadlines.append(self._look_ns)
        return min((each for each in deadlines if each is not None), default=None)

    def _dial_static(self, target: Target) -> None:
        board = self._board
        peer = board.peers.of_id(target.node_id)
        if peer is not None and peer.static:
            board.targets.there_already(target, board.now_ns)
        elif is_numeric(target.address.host):
            self._calling.dial(target, target.address.host)
        else:
            target.busy = True
            self._resolving[target.address] = target
            self._resolver.ask(target.address)

    def _take_answers(self) -> None:
        for answer in self._resolver.answers():
            target = self._resolving.pop(answer.address)
            if answer.hosts:  # a name may have several; each failure is the next one's turn
                host = answer.hosts[target.backoff.failures % len(answer.hosts)]
                self._calling.dial(target, host)
            else:
                self._door.not_reached(target, answer.error)

    def _look_into_book(self) -> None:
        board = self._board
        dialling = self._door.dialling_others()
        connected = sum(each.outbound and not each.static for each in board.peers)
        if dialling >= MAX_DIALLING or connected + dialling >= board.settings.max_outbound:
            return
        address = board.book.pick(board.now_ms, board.rng, self._known())
        if address is None or board.bans.banned(address.host, board.now_ms):
            return
        self._calling.dial(board.targets.passing(address, board.now_ns), address.host)

    def _known(self) -> set[Address]:
        """Addresses that there is no need to dial: own, static, being dialled, connected."""
        board = self._board
        known = {each.address for each in board.targets.static}
        known.update(self._door.dialling_addresses())
        known.update(each.listen for each in board.peers if each.listen is not None)
        if board.listening is not None:
            known.add(board.listening)
        return known
