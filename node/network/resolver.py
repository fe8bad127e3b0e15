"""Looks up the names of static peers, in a thread, because the system's resolver waits.

The dialling asks and collects; a name that is being looked up is not asked for again. It owns the
thread, which is started with the first name and dies with the process: no answer of a name server,
however late, keeps a node from stopping.
"""

from __future__ import annotations

import socket
from queue import SimpleQueue
from threading import Thread
from typing import NamedTuple

from node.network.address import Address, plain_ip


class Answer(NamedTuple):
    """What a lookup gave."""

    address: Address  # as it was asked for
    hosts: tuple[str, ...]  # IPs; empty if there are none
    error: str


class Resolver:
    """Names to IPs."""

    def __init__(self) -> None:
        self._asked: SimpleQueue[Address] = SimpleQueue()
        self._answers: SimpleQueue[Answer] = SimpleQueue()
        self._waiting: set[Address] = set()
        self._thread: Thread | None = None

    @property
    def busy(self) -> bool:
        """Whether answers are to be expected."""
        return bool(self._waiting)

    def ask(self, address: Address) -> None:
        """Look up a host, unless that is under way."""
        if address in self._waiting:
            return
        self._waiting.add(address)
        self._asked.put(address)
        if self._thread is None:
            self._thread = Thread(target=self._work, name="resolver", daemon=True)
            self._thread.start()

    def answers(self) -> list[Answer]:
        """Return what has come."""
        found = []
        while not self._answers.empty():
            found.append(self._answers.get())
            self._waiting.discard(found[-1].address)
        return found

    def _work(self) -> None:
        while True:
            self._answers.put(look_up(self._asked.get()))


def look_up(address: Address) -> Answer:
    """Ask the system for the IPs of a host; waits for as long as it likes."""
    try:
        found = socket.getaddrinfo(address.host, address.port, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError) as error:
        return Answer(address, (), f"cannot look up {address.host} ({error})")
    hosts = dict.fromkeys(plain_ip(str(sockaddr[0])) for *_, sockaddr in found)
    return Answer(address, tuple(hosts), "")
