"""The monitor at work: looks at nodes, remembers, shows, and does what keys say.

Three ways: `live` in a terminal, `frames` of JSON, and `once`. Watches come in and are closed by
whoever made them; the exit status goes out. What a person has chosen is kept here.
"""

from __future__ import annotations

import signal
import time
from collections.abc import Sequence
from datetime import datetime, tzinfo
from typing import IO, Final

from tools.monitor.document import document
from tools.monitor.frame import Size, compose, trimmed
from tools.monitor.keys import PANES, Navigation, press
from tools.monitor.memory import Memory
from tools.monitor.terminal import Terminal
from tools.monitor.view import NodeView, describe
from tools.monitor.watch import Watch

ONCE_S: Final = 1.0
"""Between the two looks of a single frame, at least: several blocks' time."""

STATUS_ENDED: Final = 128
"""Plus a signal's number: what shells report for a program that it ended."""


class Nodes:
    """The nodes that are watched, each with what is remembered of it."""

    def __init__(self, watches: Sequence[Watch]) -> None:
        self._watched = [(watch, Memory()) for watch in watches]

    def look(self) -> list[NodeView]:
        """Look at each of them."""
        views = []
        for watch, memory in self._watched:
            memory.observe(watch.look())
            views.append(describe(memory))
        return views

    def look_twice(self, apart_s: float) -> list[NodeView]:
        """Look, wait, and look again, so that there are rates."""
        self.look()
        time.sleep(apart_s)
        return self.look()

    def __len__(self) -> int:
        return len(self._watched)


def once(nodes: Nodes, interval_s: float, size: Size) -> list[str]:
    """One frame of each node as plain lines; of several, a table of them first."""
    views = nodes.look_twice(max(interval_s, ONCE_S))
    states = [Navigation(node=number) for number in range(len(views))]
    if len(views) > 1:
        states.insert(0, Navigation(pane=PANES[-1]))
    lines: list[str] = []
    for state in states:
        without_keys = compose(views, state, size, local_zone())[:-1]
        lines += [*([""] if lines else []), *trimmed(without_keys)]
    return lines


def json_once(nodes: Nodes, interval_s: float) -> bytes:
    """One document."""
    return document(nodes.look_twice(max(interval_s, ONCE_S)))


def json_frames(nodes: Nodes, interval_s: float, out: IO[bytes]) -> None:
    """A document a refresh, until nobody reads them (BrokenPipeError) or a signal comes."""
    nodes.look()
    due_s = time.monotonic() + interval_s
    while True:
        time.sleep(max(0.0, due_s - time.monotonic()))
        due_s = max(due_s + interval_s, time.monotonic())
        out.write(document(nodes.look()) + b"\n")
        out.flush()


def live(nodes: Nodes, interval_s: float, terminal: Terminal) -> int:
    """Show the nodes until somebody wants an end; returns the exit status."""
    state = Navigation()
    zone = local_zone()
    views = nodes.look()
    due_s = time.monotonic() + interval_s
    while True:
        terminal.show(compose(views, state, terminal.size(), zone))
        happened = terminal.wait(due_s - time.monotonic())
        for key in happened.keys:
            state = press(state, key, len(nodes))
        if state.quit or happened.ended_by == signal.SIGINT:
            return 0
        if happened.ended_by is not None:
            return STATUS_ENDED + happened.ended_by
        now_s = time.monotonic()
        if now_s >= due_s:
            due_s = max(due_s + interval_s, now_s)
            if not state.paused:
                views = nodes.look()


def local_zone() -> tzinfo | None:
    """The zone that clocks of this machine show."""
    return datetime.now().astimezone().tzinfo
