"""The conveyor as a picture: intake, worker and sink with what flows between them.

Drawn from the view's boxes and flows, whose roles say where they belong; links beside the circle of
trays are a list. Pure.
"""

from __future__ import annotations

from typing import Final

from tools.monitor.ink import UNKNOWN, Line, cell, per_second
from tools.monitor.rates import Shares
from tools.monitor.view import Flow, NodeView, StageBox

RING: Final = ("intake", "worker", "sink")
GLYPHS: Final = {"busy": "█", "backpressure": "▒", "housekeeping": "▓", "idle": "·"}
LEAST_WIRE: Final = 13
MOST_WIRE: Final = 30
MOST_BOX: Final = 46
LINK_COLUMNS: Final = 40
MANNER_OF_IDLE: Final = "dim"


def bar(shares: Shares | None, columns: int) -> Line:
    """A stage's time as a bar of so many columns: busy, backpressure, housekeeping, idle."""
    if shares is None:
        return [(" " * columns, "")]
    parts = (shares.busy, shares.backpressure, shares.housekeeping)
    line: Line = []
    used, total = 0, 0.0
    for name, share in zip(GLYPHS, parts, strict=False):
        total += share
        end = min(columns, round(total * columns / 100))
        line.append((GLYPHS[name] * (end - used), name))
        used = end
    line.append((GLYPHS["idle"] * (columns - used), MANNER_OF_IDLE))
    return line


def draw(view: NodeView, columns: int) -> list[Line]:
    """The circle of trays in five lines; nothing if the topology has none."""
    stations = [next((box for box in view.boxes if box.role == role), None) for role in RING]
    if any(box is None for box in stations):
        return []
    boxes = [box for box in stations if box is not None]
    wire = max(LEAST_WIRE, min(MOST_WIRE, (columns - 3 * MOST_BOX) // 2))
    inside = min(MOST_BOX, (columns - 2 * wire) // 3) - 4
    lines: list[Line] = [[], [], [], []]
    for number, box in enumerate(boxes):
        if number:
            _wire(lines, _between(view, boxes[number - 1], box), wire)
        _box(lines, box, inside)
    lines.append(_return(_between(view, boxes[-1], boxes[0]), inside, wire))
    return lines


def side_links(view: NodeView, columns: int, *, known_only: bool) -> list[Line]:
    """The links beside the circle, as many in a line as have room."""
    ring = {box.name for box in view.boxes if box.role in RING}
    shown = [
        flow
        for flow in view.flows
        if (flow.items_per_s is not None or not known_only)
        and not (flow.source in ring and flow.target in ring and flow.items_per_s is not None)
    ]
    a_line = max(1, columns // LINK_COLUMNS)
    return [
        [piece for flow in shown[at : at + a_line] for piece in _link(flow)]
        for at in range(0, len(shown), a_line)
    ]


def tray_line(view: NodeView) -> Line:
    """How many trays are in each state."""
    line: Line = [(" trays ", "dim")]
    for state, count in view.trays:
        line += [(f" {state} ", "dim"), cell(f"{count:,}", 4, right=False)]
    return line if view.trays else []


def _box(lines: list[Line], box: StageBox, inside: int) -> None:
    name = box.name if box.count == 1 else f"{box.name} x{box.count}"
    short = box.ready < box.count
    told = f"{box.ready} of {box.count} ready" if short else f"in {per_second(box.in_per_s)}"
    busy = UNKNOWN if box.shares is None else f"{box.shares.whole()[0]}%"
    manner = "bad" if short else "bold"
    title, _ = cell(f" {name} ", min(len(name) + 2, inside))
    lines[0] += [("╭─", "dim"), (title, manner), ("─" * (inside + 1 - len(title)) + "╮", "dim")]
    lines[1] += [("│ ", "dim"), *bar(box.shares, inside - 5), cell(busy, 5, right=True)]
    lines[1].append((" │", "dim"))
    lines[2] += [("│ ", "dim"), cell(told, inside, "bad" if short else ""), (" │", "dim")]
    corner = {"intake": inside // 2, "sink": inside // 2}.get(box.role)
    bottom = "─" * (inside + 2)
    if corner is not None:
        bottom = bottom[:corner] + "┬" + bottom[corner + 1 :]
    lines[3].append((f"╰{bottom}╯", "dim"))


def _wire(lines: list[Line], flow: Flow | None, columns: int) -> None:
    name = "" if flow is None else f" {flow.link} "
    rate = "" if flow is None else per_second(flow.items_per_s)
    moving = bool(flow and flow.items_per_s)
    lines[0].append((" " * columns, ""))
    lines[1].append(
        (f"─{name}".ljust(columns - 1, "─")[: columns - 1] + "▶", "busy" if moving else "dim")
    )
    lines[2].append(cell(rate.center(columns), columns))
    lines[3].append((" " * columns, ""))


def _return(flow: Flow | None, inside: int, wire: int) -> Line:
    """Back from the sink to the intake, below the boxes."""
    start = inside // 2 + 1
    length = 2 * (inside + 4) + 2 * wire - 1
    told = "" if flow is None else f" {flow.link} {per_second(flow.items_per_s)} "
    moving = bool(flow and flow.items_per_s)
    drawn = "╰◀" + told.center(length - 1, "─") + "╯"
    return [(" " * start, ""), (drawn, "busy" if moving else "dim")]


def _between(view: NodeView, source: StageBox, target: StageBox) -> Flow | None:
    ends = (source.name, target.name)
    found = [flow for flow in view.flows if (flow.source, flow.target) == ends]
    known = [flow for flow in found if flow.items_per_s is not None]
    return next(iter(known or found), None)


def _link(flow: Flow) -> Line:
    told = per_second(flow.items_per_s)
    drawn = f" {flow.source} ─{flow.link}▶ {flow.target}"
    manner = "dim" if not flow.items_per_s else ""
    return [cell(drawn, LINK_COLUMNS - 11, manner), cell(told, 9, manner, right=True), ("  ", "")]
