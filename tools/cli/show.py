"""Results as people read them: tables on a terminal, JSON everywhere else.

What a method returned comes in as the bytes that the node wrote, and goes to standard output. How a
table looks follows from the shape of the result alone, so no method is known here. What peers may
have written into a result cannot steer the terminal: control characters are taken out.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any, Final

import msgspec
from rich.console import Console
from rich.measure import Measurement
from rich.table import Table
from rich.text import Text

from tools.cli.transport import decode

CONTROL: Final = re.compile(r"[\x00-\x09\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069\ud800-\udfff]")
"""Everything that is no character to be seen, but line breaks; turns of direction, too."""

SECONDS_SINCE_1970: Final = frozenset(
    {"time", "blocktime", "mediantime", "conntime", "lastsend", "lastrecv"}
    | {"ban_created", "banned_until", "timereceived"}
)

WIDEST: Final = 10_000  # columns, for measuring how wide a table would like to be
LAST_TIME: Final = 2**37  # the year 6325; nothing that a node says is later

_ENCODER: Final = msgspec.json.Encoder(decimal_format="number")


def show(result: bytes, *, as_json: bool, terminal: bool | None = None) -> None:
    """Print a result.

    ``as_json`` asks for its JSON as it is. Otherwise a terminal gets tables; a pipe gets JSON too,
    but a text without its quotes, as shells want it, and nothing for null.
    """
    if terminal is None:
        terminal = sys.stdout.isatty()
    if as_json or not terminal:
        sys.stdout.write(json_text(result, bare=not as_json))
    else:
        tables(decode(result), Console(highlight=False, markup=False, emoji=False))
    sys.stdout.flush()


def json_text(result: bytes, *, bare: bool) -> str:
    """Return a result as indented JSON, numbers as the node wrote them; ``bare``: a text without
    quotes, nothing for null.
    """
    if bare and result == b"null":
        return ""
    if bare and result.startswith(b'"'):
        return f"{decode(result).rstrip(chr(10))}\n"
    return msgspec.json.format(result, indent=2).decode() + "\n"


def tables(value: Any, console: Console) -> None:
    """Print a decoded result as tables."""
    match value:
        case None:
            pass
        case dict():
            _object(value, console)
        case list() if value and all(isinstance(each, dict) for each in value):
            _objects(value, console)
        case list():
            for each in value:
                console.print(_cell("", each), soft_wrap=True)
            if not value:
                console.print("(none)", style="dim")
        case _:
            console.print(_cell("", value), soft_wrap=True)


def _object(value: Mapping[str, Any], console: Console) -> None:
    """Two columns of what is simple, then a table for every list of objects."""
    table = Table(box=None, pad_edge=False, show_header=False)
    table.add_column(style="bold", no_wrap=True)
    table.add_column(overflow="fold")
    below: list[tuple[str, Sequence[Mapping[str, Any]]]] = []
    for name, each in _flat(value, ""):
        if isinstance(each, list) and each and all(isinstance(part, dict) for part in each):
            below.append((name, each))
        elif isinstance(each, list):
            table.add_row(_plain(name), Text("\n").join(_cell("", part) for part in each))
        else:
            table.add_row(_plain(name), _cell(name.rpartition(".")[2], each))
    console.print(table)
    for name, rows in below:
        console.print()
        console.print(_plain(name), style="bold underline")
        _objects(rows, console)


def _objects(values: Sequence[Mapping[str, Any]], console: Console) -> None:
    """A row for each object if that is not too wide for the terminal, else one below the other."""
    table = _rows(values)
    ample = console.options.update(max_width=WIDEST)
    if Measurement.get(console, ample, table).maximum <= console.width:
        console.print(table)
        return
    for number, value in enumerate(values):
        if number:
            console.print()
        _object(value, console)


def _rows(values: Sequence[Mapping[str, Any]]) -> Table:
    """One row an object, a column for everything that any of them has."""
    flat = [dict(_flat(value, "")) for value in values]
    table = Table(box=None, pad_edge=False, header_style="bold")
    names = list(dict.fromkeys(name for row in flat for name in row))
    for name in names:
        is_number = name not in SECONDS_SINCE_1970 and all(
            isinstance(row.get(name, 0), int | Decimal) and not isinstance(row.get(name), bool)
            for row in flat
        )
        table.add_column(
            _plain(name), justify="right" if is_number else "left", no_wrap=True, overflow="fold"
        )
    for row in flat:
        table.add_row(
            *(_cell(name.rpartition(".")[2], row[name]) if name in row else "-" for name in names)
        )
    return table


def _flat(value: Mapping[str, Any], before: str) -> list[tuple[str, Any]]:
    """The members of an object, those of objects in it with dotted names."""
    found: list[tuple[str, Any]] = []
    for name, each in value.items():
        if isinstance(each, dict) and each:
            found += _flat(each, f"{before}{name}.")
        else:
            found.append((before + name, each))
    return found


def _cell(name: str, value: Any) -> Text:
    match value:
        case None:
            return Text("-", "dim")
        case bool():
            return Text("yes" if value else "no")
        case int() if name in SECONDS_SINCE_1970 and 0 < value < LAST_TIME:
            return Text(f"{datetime.fromtimestamp(value, UTC):%Y-%m-%d %H:%M:%S} UTC")
        case Decimal():
            return Text(f"{value:f}")
        case list() | dict():
            return _plain(_ENCODER.encode(value).decode()) if value else Text("-", "dim")
        case _:
            return _plain(str(value))


def _plain(text: str) -> Text:
    return Text(CONTROL.sub(" ", text).rstrip("\n"))
