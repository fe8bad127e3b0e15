"""What keys mean: bytes of a terminal become names, and names change what is shown.

Sans-I/O: `decode` takes what was read at once, `press` returns the next state. An escape sequence
that is not known is nothing.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from typing import Final

PANES: Final = (
    *("overview", "processes", "flow", "rejected", "times", "metrics", "events", "nodes"),
)
SORTS: Final = ("table", "busy", "in", "memory", "restarts", "name")

_SEQUENCES: Final = {
    b"\x1b[A": "up",
    b"\x1b[B": "down",
    b"\x1b[C": "right",
    b"\x1b[D": "left",
    b"\x1bOA": "up",
    b"\x1bOB": "down",
    b"\x1bOC": "right",
    b"\x1bOD": "left",
    b"\x1b[Z": "back-tab",
    b"\x1b[5~": "page-up",
    b"\x1b[6~": "page-down",
    b"\x1b[H": "home",
    b"\x1b[F": "end",
}
_TOKEN = re.compile(
    rb"\x1b\[[0-9;?]*[ -/]*[@-~]|\x1bO.|\x1b.?|[\xc2-\xf4][\x80-\xbf]*|.", re.DOTALL
)
_CONTROLS: Final = {b"\t": "tab", b"\x03": "quit", b"\x04": "quit", b"\x0c": "redraw"}
_SCROLLS: Final = {"up": -1, "down": 1, "k": -1, "j": 1, "page-up": -10, "page-down": 10}
_FAR: Final = 100_000


@dataclass(frozen=True, slots=True)
class Navigation:
    """What a person has chosen to see; ``node`` counts from 0, ``offset`` in lines of a list."""

    pane: str = PANES[0]
    sort: str = SORTS[0]
    backwards: bool = False
    paused: bool = False
    help: bool = False
    node: int = 0
    offset: int = 0
    quit: bool = False


def decode(data: bytes) -> list[str]:
    """The keys in what was read: printable ones by themselves, others by name."""
    keys = []
    for token in _TOKEN.findall(data):
        if token in _SEQUENCES:
            keys.append(_SEQUENCES[token])
        elif token in _CONTROLS:
            keys.append(_CONTROLS[token])
        elif token == b"\x1b":
            keys.append("escape")
        elif len(token) == 1 and b" " <= token < b"\x7f":
            keys.append(token.decode())
    return keys


def press(state: Navigation, key: str, nodes: int) -> Navigation:
    """The state after a key, where ``nodes`` are watched."""
    if key in ("q", "quit"):
        return replace(state, quit=True)
    if state.help:  # any key closes it
        return replace(state, help=False)
    panes = PANES if nodes > 1 else PANES[:-1]
    here = panes.index(state.pane) if state.pane in panes else 0
    if key.isdigit() and 1 <= int(key) <= len(panes):
        return replace(state, pane=panes[int(key) - 1], offset=0)
    match key:
        case "?" | "h":
            return replace(state, help=True)
        case "p" | " ":
            return replace(state, paused=not state.paused)
        case "tab" | "right":
            return replace(state, pane=panes[(here + 1) % len(panes)], offset=0)
        case "back-tab" | "left":
            return replace(state, pane=panes[here - 1], offset=0)
        case "s":
            after = SORTS[(SORTS.index(state.sort) + 1) % len(SORTS)]
            return replace(state, sort=after, offset=0)
        case "r":
            return replace(state, backwards=not state.backwards, offset=0)
        case "n":
            return replace(state, node=(state.node + 1) % nodes, offset=0)
        case "N":
            return replace(state, node=(state.node - 1) % nodes, offset=0)
        case "home":
            return replace(state, offset=0)
        case "end":
            return replace(state, offset=_FAR)
        case _:
            return replace(state, offset=max(0, state.offset + _SCROLLS.get(key, 0)))
