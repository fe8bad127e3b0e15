"""``timed status``: what the running node is doing, asked of its supervisor.

What it has kept of others' misbehaviour is counted in its data directory.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from typing import Any, Final

import orjson
from rich.console import Console
from rich.table import Table
from rich.text import Text

from node import datadir
from node.datadir import Layout
from node.errors import NotRunning
from node.evidence import cases_of
from pipeline.errors import NoNodeError
from pipeline.status import ask_status

PLAIN_WIDTH: Final = 120
"""Columns of the table when it does not go to a terminal."""

_TIME: Final = ("busy_ns", "idle_ns", "backpressure_ns", "housekeeping_ns")
_SUMMARY: Final = ("height", "mempool_items", "orphans")
_STYLE: Final = {"running": "green", "ready": "green", "starting": "yellow", "degraded": "red"}


def status(where: Layout, as_json: bool) -> None:
    """Print the status of the node on a data directory.

    Raises ``NotRunning`` if there is none, ``DatadirError`` if that is no data directory.
    """
    datadir.check(where)
    answer = ask(where) | {"evidence": accused(where)}
    if as_json:
        sys.stdout.write(orjson.dumps(answer, option=orjson.OPT_INDENT_2).decode() + "\n")
        return
    console = Console(width=None if sys.stdout.isatty() else PLAIN_WIDTH, highlight=False)
    console.print(_headline(where, answer), soft_wrap=True)
    if answer["evidence"]["cases"]:
        console.print(_accusation(answer["evidence"]), style="red", soft_wrap=True)
    console.print(_table(answer))


def ask(where: Layout) -> dict[str, Any]:
    """The supervisor's answer; raises ``NotRunning`` if no node works on this data directory."""
    try:
        return ask_status(where.run)
    except NoNodeError as error:
        raise not_running(where, error) from None


def not_running(where: Layout, error: NoNodeError) -> NotRunning:
    """What an operator is told when nobody has answered."""
    if datadir.in_use(where):
        return NotRunning(
            f"the node on {where.root} does not answer ({error.message})",
            "it may be starting or stopping: try again, or look at its log",
        )
    return NotRunning(
        f"no node is running on {where.root}",
        f"start one with: timed run --datadir {where.root}",
    )


def accused(where: Layout) -> dict[str, Any]:
    """How many cases of misbehaviour the node has kept, and the validators concerned."""
    cases = cases_of(where)
    return {"cases": len(cases), "validators": sorted({case.validator for case in cases})}


def _accusation(evidence: Mapping[str, Any]) -> str:
    who = ", ".join(map(str, evidence["validators"]))
    return (
        f"validators that contradicted themselves: {who}  "
        f"cases {evidence['cases']:,} (see timed evidence)"
    )


def _headline(where: Layout, answer: Mapping[str, Any]) -> Text:
    state = str(answer["state"])
    facts = [
        f"process {answer['pid']}",
        f"up {_duration(answer['uptime_s'])}",
        f"data directory {where.root}",
    ]
    found = {
        name: value
        for snapshots in answer["metrics"].values()
        for snapshot in snapshots
        for name, value in snapshot["values"].items()
        if name in _SUMMARY
    }
    facts += [f"{name.replace('_', ' ')} {found[name]:,}" for name in _SUMMARY if name in found]
    return Text.assemble((state, _STYLE.get(state, "yellow")), "  ", "  ".join(facts))


def _table(answer: Mapping[str, Any]) -> Table:
    table = Table(box=None, pad_edge=False, header_style="bold")
    for name in ("process", "state"):
        table.add_column(name)
    numbers = ("pid", "up", "restarts", "MiB", "in", "out", "busy", "idle", "waiting", "lag max")
    for name in numbers:
        table.add_column(name, justify="right")
    table.add_column("last death")
    for process in answer["processes"]:
        state = str(process["state"])
        table.add_row(
            process["name"],
            Text(state, _STYLE.get(state, "yellow")),
            str(process["pid"] or "-"),
            "-" if process["uptime_s"] is None else _duration(process["uptime_s"]),
            str(process["restarts"]),
            str(process["rss_mb"]),
            *_work([entry["values"] for entry in answer["metrics"].get(process["name"], ())]),
            _death(process["last_death"]),
        )
    return table


def _work(values: Sequence[Mapping[str, Any]]) -> list[str]:
    """Items in and out, shares of the time since the start, and the worst lag of one process."""
    if not values:
        return ["-"] * 6
    spent = {name: sum(entry[name] for entry in values) for name in _TIME}
    total = sum(spent.values()) or 1
    return [
        f"{sum(entry['items_in'] for entry in values):,}",
        f"{sum(entry['items_out'] for entry in values):,}",
        f"{100 * (spent['busy_ns'] + spent['housekeeping_ns']) / total:.1f} %",
        f"{100 * spent['idle_ns'] / total:.1f} %",
        f"{100 * spent['backpressure_ns'] / total:.1f} %",
        f"{max(entry['lag_max_ns'] for entry in values) / 1e6:.1f} ms",
    ]


def _death(death: Mapping[str, Any] | None) -> str:
    return "" if death is None else f"{death['cause']}, {_duration(death['ago_s'])} ago"


def _duration(seconds: float) -> str:
    """3 s, 2 min 3 s, 5 h 2 min, 3 d 5 h."""
    whole = int(seconds)
    for unit, size, name, lesser in ((86_400, 3_600, "d", "h"), (3_600, 60, "h", "min")):
        if whole >= unit:
            return f"{whole // unit} {name} {whole % unit // size} {lesser}"
    return f"{whole // 60} min {whole % 60} s" if whole >= 60 else f"{whole} s"
