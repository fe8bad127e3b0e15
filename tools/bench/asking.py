"""The client of JSON-RPC for measurements: one loop over keep-alive connections, without a library.

It costs a few microseconds a question, so that what is measured is the server. `flat_out` asks as
fast as it is answered, `steadily` at a rate, timed from when a question was due. Sockets are
blocking and read only when something is there: a request of 100 KB waits for the server to read
it, which is right. Owns its connections; control comes through `Control`.
"""

from __future__ import annotations

import select
import socket
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final, Self

from hdrh.histogram import HdrHistogram

from tools.bench.questions import Questions, WrongAnswer, cut_answer

ANSWER_S: Final = 20.0  # longer than a node takes to give up
HIGHEST_US: Final = 60_000_000
DIGITS: Final = 3
READ_BYTES: Final = 256 * 1024
NS_PER_S: Final = 1_000_000_000
NS_PER_US: Final = 1_000


@dataclass(slots=True)
class Control:
    """How a run is begun and ended: ``begun`` is called once every connection has had an answer,
    ``wanted`` whenever ``fd`` is readable, and says whether to go on.
    """

    fd: int
    wanted: Callable[[], bool]
    begun: Callable[[], None]


@dataclass(slots=True)
class Tally:
    """What was answered between the beginning and the wish to end, and in all."""

    histogram: HdrHistogram = field(
        default_factory=lambda: HdrHistogram(1, HIGHEST_US, DIGITS)  # microseconds
    )
    answers: int = 0
    units: int = 0
    units_in_all: int = 0
    began_ns: int = 0
    ended_ns: int = 0
    cpu_s: float = 0.0
    _cpu_began_s: float = 0.0

    def begin(self) -> None:
        """Count from here."""
        self.histogram.reset()
        self.answers = self.units = 0
        self.began_ns = time.monotonic_ns()
        self._cpu_began_s = time.process_time()

    def end(self) -> None:
        """Count to here."""
        self.ended_ns = time.monotonic_ns()
        self.cpu_s = time.process_time() - self._cpu_began_s

    def count(self, units: int, took_ns: int) -> None:
        """An answer, after so long."""
        self.units_in_all += units
        if not self.ended_ns:
            self.answers += 1
            self.units += units
            self.histogram.record_value(min(max(1, took_ns // NS_PER_US), HIGHEST_US))


class Connection:
    """One connection, with one question under way at most."""

    __slots__ = ("_received", "number", "since_ns", "sock")

    def __init__(self, host: str, port: int) -> None:
        self.sock = socket.create_connection((host, port), ANSWER_S)
        self.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._received = b""
        self.number = -1
        self.since_ns = 0

    def ask(self, number: int, request: bytes, since_ns: int) -> None:
        """Send a question that was due at that time."""
        self.number, self.since_ns = number, since_ns
        self.sock.sendall(request)

    def hear(self) -> bytes | None:
        """Read what is there; returns an answer's body when it is complete."""
        data = self.sock.recv(READ_BYTES)
        if not data:
            raise WrongAnswer("the server closed a connection")
        received = self._received + data if self._received else data
        body = cut_answer(received)
        self._received = received if body is None else b""
        return body


class Asking:
    """So many connections to one server; close them by leaving the context."""

    def __init__(self, host: str, port: int, connections: int, questions: Questions) -> None:
        self._questions = questions
        self._tally = Tally()
        self._connections: dict[int, Connection] = {}
        try:
            for _ in range(connections):
                one = Connection(host, port)
                self._connections[one.sock.fileno()] = one
        except BaseException:
            self.__exit__()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        for each in self._connections.values():
            each.sock.close()
        self._connections.clear()

    def flat_out(self, control: Control) -> Tally:
        """Ask over all connections as fast as they are answered, until an end is wanted or there
        is nothing more to ask. Raises WrongAnswer, OSError.
        """
        tally = self._tally
        silent = set(self._connections)  # until their first answer
        under_way = sum(self._ask_next(one) for one in self._connections.values())
        with select.epoll() as poller:
            poller.register(control.fd, select.EPOLLIN)
            for fd in self._connections:
                poller.register(fd, select.EPOLLIN)
            while under_way:
                ready = poller.poll(ANSWER_S)
                if not ready:
                    raise WrongAnswer(f"no answer within {ANSWER_S:g} s")
                for fd, _ in ready:
                    if fd == control.fd:
                        if not tally.ended_ns and not control.wanted():
                            tally.end()
                            poller.unregister(control.fd)
                        continue
                    one = self._connections[fd]
                    if not self._heard(one):
                        continue
                    if silent:
                        silent.discard(fd)
                        if not silent:
                            tally.begin()
                            control.begun()
                    if tally.ended_ns or not self._ask_next(one):
                        under_way -= 1
        if silent:
            raise WrongAnswer("there was too little to ask")
        if not tally.ended_ns:
            tally.end()
        return tally

    def steadily(self, per_s: float, control: Control) -> Tally:
        """Ask so many times a second, over whichever connection is free; what finds none waits,
        and its time counts. Raises WrongAnswer, OSError.
        """
        tally = self._tally
        gap_ns = int(NS_PER_S / per_s)
        free = list(self._connections.values())
        waiting: deque[int] = deque()  # bounded: answers come within ANSWER_S, or it is over
        tally.begin()
        control.begun()
        next_ns = tally.began_ns
        while True:
            now_ns = time.monotonic_ns()
            while next_ns <= now_ns and not tally.ended_ns:
                waiting.append(next_ns)
                next_ns += gap_ns
            while waiting and free:
                self._ask_next(free.pop(), waiting.popleft())
            if tally.ended_ns and len(free) == len(self._connections):
                return tally
            fds = [fd for fd, one in self._connections.items() if one.number >= 0]
            if not tally.ended_ns:
                fds.append(control.fd)
            wait_s = ANSWER_S if tally.ended_ns else (next_ns - time.monotonic_ns()) / NS_PER_S
            # select, not epoll: it waits by the microsecond.
            ready, _, _ = select.select(fds, [], [], max(0.0, wait_s))
            if tally.ended_ns and not ready:
                raise WrongAnswer(f"no answer within {ANSWER_S:g} s")
            for fd in ready:
                if fd == control.fd:
                    if not control.wanted():
                        tally.end()
                        waiting.clear()
                elif self._heard(one := self._connections[fd]):
                    one.number = -1
                    free.append(one)

    def _ask_next(self, one: Connection, due_ns: int = 0) -> bool:
        found = self._questions.next()
        if found is None:
            return False
        one.ask(*found, due_ns or time.monotonic_ns())
        return True

    def _heard(self, one: Connection) -> bool:
        body = one.hear()
        if body is None:
            return False
        took_ns = time.monotonic_ns() - one.since_ns
        self._tally.count(self._questions.judge(one.number, body), took_ns)
        return True
