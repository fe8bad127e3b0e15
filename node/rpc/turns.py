"""asyncio inside the stage loop: the stage's turn is also a turn of the event loop.

The pipeline's run loop owns the process, as it does in every stage: it polls, charges time, obeys
the supervisor. The HTTP server needs an event loop; this is a standard one whose selector never
waits. When nothing is ready, the loop stops instead, and says until when there is nothing to do;
its descriptor is polled with the stage's other inputs, and the next turn goes on. One thread, so
links, metrics and server share state without locks; the price is one more call of epoll a turn.
"""

from __future__ import annotations

import asyncio
import selectors
import time
from typing import Final

MAX_ROUNDS: Final = 64  # of the event loop in one turn, so that links are read in between
NS_PER_S: Final = 1_000_000_000


class _Selector(selectors.EpollSelector):
    """Asks, never waits; stops its loop when there is nothing to do."""

    def __init__(self) -> None:
        super().__init__()
        self.loop: asyncio.AbstractEventLoop | None = None
        self.rounds = 0
        self.due_ns: int | None = None

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        events = super().select(0)
        self.rounds += 1
        busy = bool(events) or (timeout is not None and timeout <= 0)
        if busy and self.rounds < MAX_ROUNDS:
            return events
        assert self.loop is not None
        self.loop.stop()  # after the callbacks of these events
        now_ns = time.monotonic_ns()
        if busy:
            self.due_ns = now_ns
        else:
            self.due_ns = None if timeout is None else now_ns + int(timeout * NS_PER_S)
        return events


class Turns:
    """An event loop that runs when it is told to, and as long as something is ready."""

    def __init__(self) -> None:
        self._selector = _Selector()
        self.loop = asyncio.SelectorEventLoop(self._selector)
        self._selector.loop = self.loop

    def fileno(self) -> int:
        """The descriptor that is readable when `run` has something to do."""
        return self._selector.fileno()

    def run(self) -> int:
        """Run what is ready, a bounded part of it; returns how many rounds that took."""
        self._selector.rounds = 0
        self.loop.run_forever()
        return self._selector.rounds

    def deadline_ns(self) -> int | None:
        """When `run` has something to do even if nothing arrives (CLOCK_MONOTONIC)."""
        return self._selector.due_ns

    def close(self) -> None:
        """Cancel what still runs and close the loop."""
        for task in asyncio.all_tasks(self.loop):
            task.cancel()
        self.run()
        self.loop.close()
