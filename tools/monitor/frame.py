"""A whole frame: the parts that the chosen pane has, laid out for the terminal's size.

Views and what a person has chosen come in, exactly as many lines as the terminal has rows go out;
`Frame` makes them a renderable of rich. Pure.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import tzinfo
from textwrap import wrap
from typing import Final

from rich.console import Console, ConsoleOptions, RenderResult
from rich.segment import Segment

from tools.monitor import panes
from tools.monitor.conveyor import GLYPHS, draw, side_links, tray_line
from tools.monitor.ink import ASCII, STYLES, Line, clip, fit, plain, width
from tools.monitor.keys import PANES, SORTS, Navigation
from tools.monitor.view import NodeView

LEAST_COLUMNS: Final = 60
LEAST_ROWS: Final = 12
WIDE_COLUMNS: Final = 150
"""From here on, two parts stand side by side."""

TALL_ROWS: Final = 40
REJECTED_ROWS: Final = 8
TREND_ROWS: Final = 3

FOOTER_HELP: Final = "  ? help  q quit "

HELP: Final = (
    "1 .. 8      a pane; Tab and Shift-Tab, or the arrows, go through them",
    f"s           sort the processes by: {', '.join(SORTS)}",
    "r           the other way round",
    "n, N        the next node, the one before",
    "up, down    scroll; Page Up, Page Down, Home, End",
    "p, space    pause, and go on",
    "? or h      this page; any key leaves it",
    "q, Ctrl-C   quit",
    "",
    "busy        time spent on input that had arrived",
    "back        backpressure: waiting because a receiver is full",
    "keep        housekeeping: timers, orders of the supervisor, metrics",
    "idle        waiting for input. The four sum to 100 %, over two seconds",
    f"time        the same as a bar: busy {GLYPHS['busy']}  back {GLYPHS['backpressure']}  "
    f"keep {GLYPHS['housekeeping']}  idle {GLYPHS['idle']}",
    "core        where the process is pinned; ~1: not pinned, seen last on core 1",
    "wait        of a tray, until the stage takes it up; service: until it is done",
    "lag         how late the loop turned. Each p50/p99 of the last half minute",
    "died        how often it was started again",
    "MiB         resident memory, with the trays that it has touched",
)


@dataclass(frozen=True, slots=True)
class Size:
    """Of the terminal, in characters."""

    columns: int
    rows: int


class Frame:
    """Lines as rich renders them; ``ascii_only`` for terminals that do not speak UTF-8."""

    def __init__(self, lines: Sequence[Line], *, ascii_only: bool = False) -> None:
        self._lines = lines
        self._ascii_only = ascii_only

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        for number, line in enumerate(self._lines):
            if number:
                yield Segment.line()
            for text, manner in line:
                yield Segment(text.translate(ASCII) if self._ascii_only else text, STYLES[manner])


def compose(
    views: Sequence[NodeView], state: Navigation, size: Size, zone: tzinfo | None
) -> list[Line]:
    """The frame, each line as wide as the terminal."""
    if size.columns < LEAST_COLUMNS or size.rows < LEAST_ROWS:
        told = f"too small: {size.columns}x{size.rows} of {LEAST_COLUMNS}x{LEAST_ROWS}"
        return [fit(line, size.columns) for line in [[(told, "warn")], *[[]] * (size.rows - 1)]]
    view = views[min(state.node, len(views) - 1)]
    place = f"{state.node + 1} of {len(views)}" if len(views) > 1 else ""
    top = panes.header(view, state, size.columns, place)
    room = size.rows - len(top) - 1
    body = _body(views, view, state, Size(size.columns, room), zone)
    lines = [*top, *body[:room], *[[] for _ in range(room - len(body))]]
    lines.append(_footer(state, len(views), size.columns))
    return [clip(line, size.columns) for line in lines]


def trimmed(lines: Sequence[Line]) -> list[str]:
    """The lines as plain text without what is blank at their ends, for a pipe."""
    texts = [plain(line).rstrip() for line in lines]
    while texts and not texts[-1]:
        texts.pop()
    return texts


def _body(
    views: Sequence[NodeView], view: NodeView, state: Navigation, room: Size, zone: tzinfo | None
) -> list[Line]:
    columns = room.columns
    if state.help:
        return [panes.heading("keys and words", columns), *([(f"   {each}", "")] for each in HELP)]
    if state.pane == "nodes":
        return _list("nodes", panes.nodes(views, state, columns), state, room, head=1)
    if view.absent is not None:
        return _absent(views, view, state, columns)
    match state.pane:
        case "processes":
            return _list(_by(state), panes.processes(view, state, columns), state, room, head=1)
        case "flow":
            return _flow(view, state, columns)
        case "rejected":
            return _list("rejected", panes.rejected(view), state, room, head=1)
        case "times":
            return _list("times, in ms", panes.times(view, columns), state, room, head=1)
        case "metrics":
            return _list("metrics", panes.metrics(view, columns), state, room, head=1)
        case "events":
            return _list("events", panes.events(view, zone), state, room, head=0)
        case _:
            wide = columns >= WIDE_COLUMNS and room.rows >= TALL_ROWS
            return (_wide_overview if wide else _overview)(view, state, room, zone)


def _by(state: Navigation) -> str:
    order = "" if state.sort == SORTS[0] else f", by {state.sort}"
    return f"processes{order}{', backwards' if state.backwards else ''}"


def _list(title: str, lines: list[Line], state: Navigation, room: Size, head: int) -> list[Line]:
    """A part that can be longer than the room: what is scrolled to, below its head."""
    kept, rest = lines[:head], lines[head:]
    shown = max(1, room.rows - 1 - head)
    offset = min(state.offset, max(0, len(rest) - shown))
    more = f"  {offset + 1} to {min(len(rest), offset + shown)} of {len(rest)}"
    title += more if len(rest) > shown else ""
    return [panes.heading(title, room.columns), *kept, *rest[offset : offset + shown]]


def _absent(
    views: Sequence[NodeView], view: NodeView, state: Navigation, columns: int
) -> list[Line]:
    reason = wrap(str(view.absent), columns - 6)
    told: list[Line] = [[], *([(f"   {each}", "warn")] for each in reason), []]
    told.append([("   trying again every second", "dim")])
    if len(views) > 1:
        told += [[], panes.heading("nodes", columns), *panes.nodes(views, state, columns)]
    return told


def _flow(view: NodeView, state: Navigation, columns: int) -> list[Line]:
    lines = [panes.heading("conveyor", columns), *draw(view, columns), tray_line(view), []]
    lines += [panes.heading("other links", columns), *side_links(view, columns, known_only=False)]
    return [*lines, [], panes.heading(_by(state), columns), *panes.processes(view, state, columns)]


def _overview(view: NodeView, state: Navigation, room: Size, zone: tzinfo | None) -> list[Line]:
    """Everything in one column; what has no room is left out, from the end."""
    columns = room.columns
    conveyor = [*draw(view, columns), *([tray_line(view)] if view.trays else [])]
    parts = [
        [panes.heading(_by(state), columns), *panes.processes(view, state, columns)],
        [panes.heading("conveyor", columns), *conveyor],
        [panes.heading("trends", columns), *panes.trends(view, columns)],
    ]
    lines: list[Line] = []
    for part in parts:
        if len(lines) + len(part) <= room.rows:
            lines += part
    left = room.rows - len(lines)
    if left >= 2:
        told = panes.events(view, zone)
        lines += [panes.heading("events", columns), *told[: left - 1]]
    return lines


def _wide_overview(
    view: NodeView, state: Navigation, room: Size, zone: tzinfo | None
) -> list[Line]:
    columns = room.columns
    half = columns // 2
    conveyor = [*draw(view, columns), tray_line(view), *side_links(view, columns, known_only=True)]
    lines = [
        panes.heading(_by(state), columns),
        *panes.processes(view, state, columns),
        [],
        panes.heading("conveyor", columns),
        *conveyor,
        [],
    ]
    left = [panes.heading("trends", half - 2), *panes.trends(view, half - 2, TREND_ROWS), []]
    right = [panes.heading("rejected", columns - half)]
    right += [*panes.rejected(view)[: REJECTED_ROWS + 1], []]
    below = room.rows - len(lines)
    rest = Size(half - 2, below - len(left))
    left += _list("events", panes.events(view, zone), state, rest, head=0)
    rest = Size(columns - half, below - len(right))
    right += _list("times, in ms", panes.times(view, columns - half), Navigation(), rest, head=1)
    return [*lines, *beside(left[:below], right[:below], half)]


def beside(left: Sequence[Line], right: Sequence[Line], columns: int) -> list[Line]:
    """Two parts side by side, the right one beginning at a column."""
    rows = max(len(left), len(right))
    return [
        [
            *clip(left[number] if number < len(left) else [], columns - 2),
            ("  ", ""),
            *(right[number] if number < len(right) else []),
        ]
        for number in range(rows)
    ]


def _footer(state: Navigation, nodes: int, columns: int) -> Line:
    keys: Line = []
    for number, pane in enumerate(PANES if nodes > 1 else PANES[:-1], 1):
        chosen = pane == state.pane and not state.help
        keys += [(" ", ""), (f"{number} {pane}", "chosen" if chosen else "dim")]
    short = width(keys) + len(FOOTER_HELP) > columns
    return panes.spread(keys, [(" ? " if short else FOOTER_HELP, "dim")], columns)
