"""``timed peers``: whom the running node is connected to.

The process that owns the sockets keeps a file about them (`node.peers_file`); the supervisor says
which process that is, so that what a killed one has left is not taken for the truth.
"""

from __future__ import annotations

import sys
import time
from typing import Final

import msgspec
import orjson
from rich.console import Console
from rich.table import Table

from node import datadir
from node.commands.status import PLAIN_WIDTH, ask
from node.datadir import Layout
from node.errors import NotRunning
from node.peers_file import PeersSeen, read_peers

FRESH_S: Final = 5.0  # for a process that has just started to write its first
RETRY_S: Final = 0.1

_COLUMNS: Final = (
    ("peer", "right"),
    ("address", "left"),
    ("direction", "left"),
    ("height", "right"),
    ("agent", "left"),
    ("slot", "left"),
    ("validator", "right"),
    ("score", "right"),
)


def peers(where: Layout, as_json: bool) -> None:
    """Print the peers of the node on a data directory.

    Raises ``NotRunning`` if there is none, and what `datadir.check` raises.
    """
    datadir.check(where)
    found = _fresh(where)
    if as_json:
        rows = msgspec.to_builtins(found.peers)
        sys.stdout.write(orjson.dumps(rows, option=orjson.OPT_INDENT_2).decode() + "\n")
        return
    console = Console(width=None if sys.stdout.isatty() else PLAIN_WIDTH, highlight=False)
    console.print(_table(found) if found.peers else "no peer is connected", markup=False)


def _fresh(where: Layout) -> PeersSeen:
    deadline_s = time.monotonic() + FRESH_S
    while True:
        processes = ask(where)["processes"]
        found = read_peers(where.run)
        if found is not None and any(each["pid"] == found.pid for each in processes):
            return found
        if time.monotonic() >= deadline_s:
            raise NotRunning(
                f"the node on {where.root} does not tell its peers",
                "its process net may be starting again: look at timed status",
            )
        time.sleep(RETRY_S)


def _table(found: PeersSeen) -> Table:
    table = Table(box=None, pad_edge=False, header_style="bold")
    for name, justify in _COLUMNS:
        table.add_column(name, justify="right" if justify == "right" else "left")
    for each in found.peers:
        table.add_row(
            str(each.number),
            each.address,
            each.direction,
            f"{each.height:,}",
            each.agent,
            "protected" if each.protected else "common",
            "-" if each.validator is None else str(each.validator),
            str(each.score),
        )
    return table
