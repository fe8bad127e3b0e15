"""The parts of a frame, each a function from a view to lines of a given width. Pure.

Columns of figures have fixed widths and stand at the right of their column, so that nothing jumps
when a figure changes; a table leaves out what has no room, the least important first.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, tzinfo
from typing import Final

from tools.monitor.conveyor import bar
from tools.monitor.figures import TRENDS
from tools.monitor.ink import (
    UNKNOWN,
    Line,
    amount,
    cell,
    duration,
    ending,
    fit,
    milliseconds,
    sparkline,
    whole_words,
    width,
)
from tools.monitor.keys import Navigation
from tools.monitor.rates import Quantiles
from tools.monitor.view import NodeView, ProcessRow

STATE_MANNERS: Final[Mapping[str, str]] = {
    "running": "good",
    "ready": "good",
    "degraded": "bad",
    "ended": "bad",
}
LEVEL_MARKS: Final[Mapping[str, tuple[str, str]]] = {
    "warning": ("!", "warn"),
    "error": ("x", "bad"),
}
BAR_COLUMNS: Final = 24
TIMES_COLUMNS: Final = 57
METRICS_COLUMNS: Final = 71
LEAST_MEANING: Final = 16
"""Columns; with less room, what a figure means is left out."""

SILENT_S: Final = 3.0
"""An older status is said to be old."""

_NODE_FIGURES: Final = (
    *(("height", 10), ("voting", 7), ("peers", 6), ("tx/s", 8), ("final ms", 13)),
)


@dataclass(frozen=True, slots=True)
class _Column:
    """One column of the table of processes; ``rank`` 0 is never left out."""

    title: str
    columns: int
    rank: int
    text: Callable[[ProcessRow], str]
    manner: Callable[[ProcessRow], str] = lambda row: ""
    left: bool = False


def _share(number: int) -> Callable[[ProcessRow], str]:
    return lambda row: UNKNOWN if row.shares is None else str(row.shares.whole()[number])


def _core(row: ProcessRow) -> str:
    """Where it is pinned to, or where it was seen last."""
    if row.pinned:
        return ",".join(map(str, row.pinned))
    return UNKNOWN if row.last_core is None else f"~{row.last_core}"


def quantile_pair(found: Quantiles | None) -> str:
    """Median and 99th percentile, "1.2/3.4"; above the last bound "+"."""
    if found is None:
        return UNKNOWN
    above = f"{milliseconds(found.above_ms)}+"
    return "/".join(
        above if each is None else milliseconds(each) for each in (found.p50_ms, found.p99_ms)
    )


def _restarts(row: ProcessRow) -> str:
    return "warn" if row.restarts else "dim"


_COLUMNS: Final = (
    _Column("process", 13, 0, lambda row: row.label, left=True),
    _Column("state", 8, 5, lambda r: r.state, lambda r: STATE_MANNERS.get(r.state, "warn"), True),
    _Column("pid", 8, 1, lambda row: UNKNOWN if row.pid is None else str(row.pid)),
    _Column("core", 5, 1, _core),
    _Column("busy", 4, 0, _share(0)),
    _Column("back", 4, 0, _share(1)),
    _Column("keep", 4, 0, _share(2)),
    _Column("idle", 4, 0, _share(3)),
    _Column("in/s", 7, 0, lambda row: amount(row.in_per_s)),
    _Column("out/s", 7, 0, lambda row: amount(row.out_per_s)),
    _Column("us/item", 7, 6, lambda row: amount(row.busy_us_per_item)),
    _Column("wait ms", 12, 4, lambda row: quantile_pair(row.wait)),
    _Column("service ms", 12, 4, lambda row: quantile_pair(row.service)),
    _Column("lag ms", 12, 4, lambda row: quantile_pair(row.lag)),
    _Column("died", 4, 1, lambda row: str(row.restarts), _restarts),
    _Column("MiB", 5, 2, lambda row: str(row.memory_mb)),
    _Column("up", 12, 7, lambda row: duration(row.uptime_s)),
    _Column("last death", 22, 8, lambda row: row.last_death, lambda row: "warn", True),
)
_BAR_RANK: Final = 3


def heading(title: str, columns: int) -> Line:
    """A section's first line."""
    return fit([("─ ", "dim"), (title, "title"), (" " + "─" * columns, "dim")], columns)


def spread(left: Line, right: Line, columns: int) -> Line:
    """Two parts of a line, at its ends; the left one is cut if there is no room for both."""
    return [*fit(left, max(0, columns - width(right))), *right]


def header(view: NodeView, state: Navigation, columns: int, place: str) -> list[Line]:
    """Three lines on the node as a whole; one if there is none."""
    where: Line = [
        (" timed ", "bold"),
        (f"{chain} " if (chain := view.about.get("chain")) else "", "title"),
    ]
    mood: Line = [("PAUSED ", "warn")] if state.paused else []
    if view.absent is not None:
        mood += [("not running", "bad"), (f"  {place} ", "dim")]
        return [_named(where, view.name, mood, columns)]
    manner = STATE_MANNERS.get(view.state, "warn")
    if view.status_age_s > SILENT_S:
        mood.append((f"supervisor silent for {duration(view.status_age_s)}  ", "bad"))
    mood += [(view.state, manner), (f"  up {duration(view.uptime_s)}", ""), (f"  {place}", "dim")]
    mood.append((" ", ""))
    return [_named(where, view.name, mood, columns), *_agreement(view, columns)]


def _named(where: Line, name: str, mood: Line, columns: int) -> Line:
    """The first line, with as much of the node's name as there is room for, from its end."""
    room = columns - width(where) - width(mood) - 1
    return spread([*where, (ending(name, room) if room > 1 else "", "")], mood, columns)


def _agreement(view: NodeView, columns: int) -> list[Line]:
    at = view.agreement
    assert at is not None, "a node that is there says where it is"

    def told(value: int | None, most: int) -> tuple[str, str]:
        return cell(UNKNOWN if value is None else f"{value:,}", most, "bold")

    first: Line = [
        *[(" height ", "dim"), told(at.height, 10), ("round ", "dim"), told(at.round, 3)],
        cell(at.step or UNKNOWN, 11),
        *[("voting ", "dim"), cell(_voting(at.voting, at.validators), 8, "bold")],
        *[("peers ", "dim"), told(at.peers, 4)],
        (at.sync, "good" if at.well else "warn"),
    ]
    second: Line = [
        *[(" mempool ", "dim"), told(at.mempool, 11)],
        *[("finality ", "dim"), cell(f"{quantile_pair(view.finality)} ms", 15, "bold")],
        ("p50/p99 of 30 s   ", "dim"),
        (" ".join(view.about.get(key, "") for key in ("version", "backend")), "dim"),
    ]
    return [fit(first, columns), fit(second, columns)]


def _voting(voting: int | None, validators: int | None) -> str:
    return UNKNOWN if voting is None or validators is None else f"{voting}/{validators}"


def processes(view: NodeView, state: Navigation, columns: int) -> list[Line]:
    """The table of processes, in the order that was chosen."""
    chosen, with_bar = _columns_for(columns)
    title: Line = [(" ", "")]
    for column in chosen:
        title += [cell(column.title, column.columns, "dim", right=not column.left), (" ", "")]
    lines = [title + ([("time", "dim")] if with_bar else [])]
    for row in arranged(view.rows, state):
        line: Line = [(" ", "")]
        for column in chosen:
            manner = "bad" if row.pid is None and not column.rank else column.manner(row)
            text = column.text(row)
            line += [cell(text, column.columns, manner, right=not column.left), (" ", "")]
        lines.append(line + (bar(row.shares, BAR_COLUMNS) if with_bar else []))
    return lines


def _columns_for(columns: int) -> tuple[list[_Column], bool]:
    """Those that there is room for, and whether there is for a bar of the time."""
    chosen = list(_COLUMNS)
    with_bar = True

    def needed() -> int:
        return 1 + sum(each.columns + 1 for each in chosen) + with_bar * BAR_COLUMNS

    for rank in range(max(each.rank for each in _COLUMNS), 0, -1):
        if needed() <= columns:
            break
        if rank == _BAR_RANK:
            with_bar = False
        chosen = [each for each in chosen if each.rank != rank]
    return chosen, with_bar


def arranged(rows: Sequence[ProcessRow], state: Navigation) -> list[ProcessRow]:
    """The rows in the chosen order; the largest figure comes first."""
    orders: Mapping[str, Callable[[ProcessRow], float]] = {
        "busy": lambda row: -(row.shares.busy if row.shares else -1),
        "in": lambda row: -(row.in_per_s or 0),
        "memory": lambda row: -row.memory_mb,
        "restarts": lambda row: -row.restarts,
    }
    if state.sort == "name":
        found = sorted(rows, key=lambda row: row.label)
    elif state.sort in orders:
        found = sorted(rows, key=orders[state.sort])
    else:
        found = list(rows)
    return found[::-1] if state.backwards else found


def trends(view: NodeView, columns: int, rows: int = 1) -> list[Line]:
    """How figures went, a second a column, each drawn over so many rows."""
    lines: list[Line] = []
    for name, unit in TRENDS.items():
        values = view.trends.get(name, ())
        known = [each for each in values[-columns:] if each is not None]
        now = values[-1] if values else None
        most = f" most {_figure(max(known, default=None), unit)}"
        beside: list[Line] = [
            [cell(f" {name}", 12, "dim"), cell(_figure(now, unit), 8, "bold", right=True)],
            [cell(" ", 12), cell("", 8)],
        ]
        for row, drawn in enumerate(sparkline(values, columns - 42, rows)):
            first = row == 0
            lines.append(
                [
                    *beside[min(row, 1)],
                    *[cell(f" {unit}" if first else "", 8, "dim"), (drawn, "trend")],
                    cell(most if first else "", 14, "dim"),
                ]
            )
    return lines


def _figure(value: float | None, unit: str) -> str:
    return milliseconds(value) if unit.startswith("ms") else amount(value)


def rejected(view: NodeView) -> list[Line]:
    """What was turned away, by cause; causes that never happened are left out."""
    lines: list[Line] = [[*_pair(" stage", 12), cell("total", 11, "dim", right=True)]]
    lines[0] += [cell("a second", 10, "dim", right=True), ("  cause", "dim")]
    happened = [each for each in view.rejections if each.total]
    for each in sorted(happened, key=lambda one: -one.total):
        manner = "warn" if each.per_s else ""
        lines.append(
            [
                cell(f" {each.stage}", 12),
                cell(f"{each.total:,}", 11, manner, right=True),
                cell(amount(each.per_s), 10, manner, right=True),
                (f"  {each.cause}", manner),
            ]
        )
    return lines if happened else [[(" nothing, of ", "dim"), *_causes(view)]]


def _causes(view: NodeView) -> Line:
    return [(f"{len(view.rejections)} causes that are counted", "dim")]


def _meaning(text: str, room: int) -> tuple[str, str]:
    """What a figure means, as far as there is room; nothing rather than half a word."""
    return ("" if room < LEAST_MEANING else f"  {whole_words(text, room - 2)}", "dim")


def times(view: NodeView, columns: int) -> list[Line]:
    """Every declared histogram with its quantiles of the last half minute."""
    lines: list[Line] = [[*_pair(" stage", 14), *_pair("histogram", 16)]]
    for title, size in (("values", 9), ("p50 ms", 9), ("p99 ms", 9)):
        lines[0].append(cell(title, size, "dim", right=True))
    lines[0].append(_meaning("meaning", columns - TIMES_COLUMNS))
    for each in view.latencies:
        found = each.lately
        above = "" if found is None else f">{milliseconds(found.above_ms)}"
        p50, p99 = (None, None) if found is None else (found.p50_ms, found.p99_ms)
        lines.append(
            [
                cell(f" {each.stage}-{each.index}", 14),
                cell(each.name, 16),
                cell(f"{found.count:,}" if found else "0", 9, right=True),
                cell(above if found and p50 is None else milliseconds(p50), 9, right=True),
                cell(above if found and p99 is None else milliseconds(p99), 9, right=True),
                _meaning(each.help, columns - TIMES_COLUMNS),
            ]
        )
    return lines


def metrics(view: NodeView, columns: int) -> list[Line]:
    """Every declared counter and gauge."""
    lines: list[Line] = [[*_pair(" stage", 14), *_pair("metric", 26)]]
    lines[0] += [cell("value", 22, "dim", right=True), cell("a second", 9, "dim", right=True)]
    lines[0].append(_meaning("meaning", columns - METRICS_COLUMNS))
    for each in view.readings:
        rate = "" if each.per_s is None else amount(each.per_s)
        lines.append(
            [
                cell(f" {each.stage}-{each.index}", 14),
                cell(each.name, 26),
                cell(f"{each.value:,}", 22, right=True),
                cell(rate, 9, right=True),
                _meaning(each.help, columns - METRICS_COLUMNS),
            ]
        )
    return lines


def events(view: NodeView, zone: tzinfo | None) -> list[Line]:
    """What the supervisor said, the latest first."""
    lines: list[Line] = []
    for each in reversed(view.events):
        mark, manner = LEVEL_MARKS.get(each.level, (" ", ""))
        clock = datetime.fromtimestamp(each.unix_s, UTC).astimezone(zone).strftime("%H:%M:%S")
        line: Line = [(f" {clock} ", "dim"), (f"{mark} ", manner), cell(each.event, 17, manner)]
        for name, value in each.facts:
            line += [(f" {name}=", "dim"), (value, manner)]
        lines.append(line)
    return lines or [[(" none", "dim")]]


def nodes(views: Sequence[NodeView], state: Navigation, columns: int) -> list[Line]:
    """A line for each node that is watched."""
    sizes = [size for _, size in _NODE_FIGURES]
    room = max(12, columns - sum(sizes) - 22)
    lines: list[Line] = [[*_pair("   node", room), *_pair("state", 12)]]
    lines[0] += [cell(title, size, "dim", right=True) for title, size in _NODE_FIGURES]
    for number, view in enumerate(views):
        mark = ">" if number == state.node else " "
        shown = f" {mark} {ending(view.name, room - 4)}"
        name = cell(shown, room, "bold" if mark == ">" else "")
        at = view.agreement
        if view.absent is not None or at is None:
            lines.append([name, cell("not running", 12, "bad"), (str(view.absent), "dim")])
            continue
        final = view.trends.get("final", ())
        figures = (
            UNKNOWN if at.height is None else f"{at.height:,}",
            _voting(at.voting, at.validators),
            UNKNOWN if at.peers is None else str(at.peers),
            amount(final[-1] if final else None),
            quantile_pair(view.finality),
        )
        line = [name, cell(view.state, 12, STATE_MANNERS.get(view.state, "warn"))]
        line += [cell(text, size, right=True) for text, size in zip(figures, sizes, strict=True)]
        lines.append([*line, (f"  {at.sync}", "good" if at.well else "warn")])
    return lines


def _pair(text: str, columns: int) -> Line:
    return [cell(text, columns, "dim")]
