"""``time-monitor``: one or several nodes, seen live in a terminal, as one frame, or as JSON.

Arguments come in; what is shown goes to standard output. Exit status: 0 it was left, 2 the command
cannot be carried out, 128 + n signal n ended it, 1 the terminal is gone.
"""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Sequence
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Annotated, Final

import typer

from node import datadir
from node.commands.entry import locate
from node.errors import UsageError
from pipeline.errors import OperatorError
from pipeline.streams import let_go_of_lost_streams
from tools.monitor.frame import Size
from tools.monitor.session import Nodes, json_frames, json_once, live, once
from tools.monitor.terminal import Terminal
from tools.monitor.watch import Watch

LEAST_INTERVAL_S: Final = 0.25
MOST_INTERVAL_S: Final = 10.0
MAX_NODES: Final = 16
PLAIN_SIZE: Final = Size(120, 60)
"""Of a frame that does not go to a terminal; COLUMNS overrules the first."""

STATUS_GONE: Final = 1
STATUS_INTERRUPTED: Final = 130

app = typer.Typer(
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    help="Live view of running nodes; it only reads, and survives their restarts.",
    epilog="Inside, ? shows the keys.",
)


@app.command()
def monitor(
    directories: Annotated[
        list[Path] | None,
        typer.Argument(help="Data directories, one or several.", show_default=False),
    ] = None,
    where: Annotated[
        Path | None,
        typer.Option(
            "--datadir",
            help="The node's data directory [default: ~/.timecoin/NETWORK].",
            show_default=False,
        ),
    ] = None,
    network: Annotated[
        str | None,
        typer.Option(help="main, test or dev [default: main].", show_default=False),
    ] = None,
    interval: Annotated[
        float,
        typer.Option(help=f"Seconds between looks, {LEAST_INTERVAL_S:g} to {MOST_INTERVAL_S:g}."),
    ] = LEAST_INTERVAL_S,
    once: Annotated[bool, typer.Option("--once", help="Print one plain frame, and end.")] = False,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print a JSON document a look; with --once a single one.")
    ] = False,
    no_colour: Annotated[
        bool, typer.Option("--no-colour", "--no-color", help="As NO_COLOR in the environment.")
    ] = False,
) -> int:
    """Show running nodes live."""
    if not LEAST_INTERVAL_S <= interval <= MOST_INTERVAL_S:
        raise UsageError(
            f"--interval {interval:g} is impossible",
            f"give {LEAST_INTERVAL_S:g} to {MOST_INTERVAL_S:g} seconds",
        )
    with ExitStack() as stack:
        watches = [Watch(each) for each in _places(directories or [], where, network)]
        for watch in watches:
            stack.callback(watch.close)
        nodes = Nodes(watches)
        if as_json:
            return _json(nodes, interval, once)
        if once or not sys.stdout.isatty():
            _plain(nodes, interval)
            return 0
        if not sys.stdin.isatty():
            raise UsageError(
                "standard input is no terminal, so no key could be pressed",
                "run it without a redirection, or with --once",
            )
        if os.environ.get("TERM", "dumb") in ("", "dumb", "unknown"):
            raise UsageError(
                "this terminal is said to be a dumb one", "set TERM to what it is, or give --once"
            )
        terminal = stack.enter_context(Terminal(sys.stdin, sys.stdout, colour=not no_colour))
        return live(nodes, interval, terminal)


def _places(
    directories: Sequence[Path], where: Path | None, network: str | None
) -> list[datadir.Layout]:
    """The data directories that were named, each checked; raises an ``OperatorError``."""
    named: list[Path | None] = [*directories, *([where] if where is not None else [])]
    if len(named) > MAX_NODES:
        raise UsageError(f"{len(named)} data directories are too many", f"name {MAX_NODES} at most")
    places = [locate(each, network) for each in named or [None]]
    for place in places:
        datadir.check(place)
    return places


def _json(nodes: Nodes, interval_s: float, only_one: bool) -> int:
    if only_one:
        sys.stdout.buffer.write(json_once(nodes, interval_s) + b"\n")
    else:
        json_frames(nodes, interval_s, sys.stdout.buffer)
    return 0


def _plain(nodes: Nodes, interval_s: float) -> None:
    size = Size(*shutil.get_terminal_size((PLAIN_SIZE.columns, PLAIN_SIZE.rows)))
    if not sys.stdout.isatty():
        size = Size(size.columns, PLAIN_SIZE.rows)
    for line in once(nodes, interval_s, size):
        print(line)


def run(arguments: list[str]) -> int:
    """Run the command with these arguments; returns the exit status."""
    try:
        status = app(arguments, prog_name="time-monitor", standalone_mode=False)
    except OperatorError as error:
        return _complain(error.message, error.exit_status)
    except OSError as error:  # whoever read has seen enough, or the terminal is gone
        if not isinstance(error, BrokenPipeError):
            with suppress(OSError):
                _complain(f"{error}; is the terminal gone?", STATUS_GONE)
        return STATUS_GONE
    except KeyboardInterrupt:
        return STATUS_INTERRUPTED
    except Exception as error:
        # Typer's classes for wrong usage moved between its versions: told by what they carry.
        if hasattr(error, "format_message"):
            wrong = UsageError(error.format_message().rstrip("."), "see time-monitor --help")
            return _complain(wrong.message, wrong.exit_status)
        raise
    return status if isinstance(status, int) else 0


def _complain(message: str, status: int) -> int:
    print(f"time-monitor: {message}", file=sys.stderr)
    return status


def main() -> None:
    """The console script ``time-monitor``."""
    status = run(sys.argv[1:])
    let_go_of_lost_streams()
    sys.exit(status)


if __name__ == "__main__":
    main()
