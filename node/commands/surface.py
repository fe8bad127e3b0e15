"""The command line of ``timed``: options, help, and how every error reaches the operator.

Arguments come in as a list, an exit status goes out. The commands themselves are imported only
when they are called, so that ``timed --help`` is quick and ``timed run`` carries nothing that it
does not use.
"""

from __future__ import annotations

import errno
import re
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Final

import typer

from node.commands import __version__
from node.config import RPC_PORTS
from node.datadir import Layout, default_datadir, layout
from node.errors import UsageError, from_os_error
from pipeline.errors import OPERATOR_EXIT_STATUS, OperatorError

INTERRUPTED_EXIT_STATUS: Final = 128 + 2
"""What shells report for a program that SIGINT ended."""

_CONTROL = re.compile(r"[\x00-\x1f\x7f]+")

app = typer.Typer(
    name="timed",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)

Datadir = Annotated[
    Path | None,
    typer.Option(
        "--datadir",
        help="The node's data directory [default: ~/.timecoin/NETWORK].",
        show_default=False,
    ),
]
Network = Annotated[
    str | None,
    typer.Option("--network", help="main, test or dev [default: main].", show_default=False),
]


def _print_version(asked: bool) -> None:
    if asked:
        print(f"timed {__version__}")
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool,
        typer.Option(
            "--version", help="Print the version and exit.", is_eager=True, callback=_print_version
        ),
    ] = False,
) -> None:
    """A payment node that never lets cryptography near its sockets."""


@app.command("init")
def _init(
    datadir: Datadir = None,
    network: Network = None,
    genesis: Annotated[
        Path | None,
        typer.Option(
            help="The chain's genesis.json, its genesis.alloc beside it; without, a new chain is "
            "made for dev.",
            show_default=False,
        ),
    ] = None,
    validator_key: Annotated[
        Path | None,
        typer.Option(help="The validator's key file; it is copied.", show_default=False),
    ] = None,
) -> None:
    """Make a data directory: configuration, genesis, key, store."""
    from node.commands import init

    init.init(_where(datadir, network), network, genesis, validator_key)


@app.command("run")
def _run(datadir: Datadir = None, network: Network = None) -> None:
    """Run the node until SIGTERM or Ctrl-C."""
    from node.commands import run as command

    raise typer.Exit(command.run(_where(datadir, network)))


@app.command("check")
def _check(
    datadir: Datadir = None,
    network: Network = None,
    replay: Annotated[
        bool,
        typer.Option("--replay", help="Recompute all outputs from the blocks and compare (slow)."),
    ] = False,
) -> None:
    """Say what is right and wrong with a data directory; the node must not be running."""
    from node.commands import check

    check.check(_where(datadir, network), replay)


@app.command("status")
def _status(
    datadir: Datadir = None,
    network: Network = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Show what the running node is doing."""
    from node.commands import status

    status.status(_where(datadir, network), as_json)


def run(arguments: Sequence[str]) -> int:
    """Run one command; returns the exit status. Operator errors are one line on standard error."""
    try:
        status = app(list(arguments), prog_name="timed", standalone_mode=False)
    except OperatorError as error:
        return _complain(error.message, error.exit_status)
    except KeyboardInterrupt:
        return _complain("interrupted; run it again", INTERRUPTED_EXIT_STATUS)
    except OSError as error:
        if error.errno == errno.EPIPE:  # whoever read our output has seen enough
            sys.stderr.close()
            return 1
        known = from_os_error(error, "a file")
        if known is None:
            raise
        return _complain(known.message)
    except Exception as error:
        # Wrong usage and aborts: typer's classes for them moved between its versions, so they are
        # told by what they carry.
        if hasattr(error, "format_message"):
            return _complain(f"{error.format_message().rstrip('.')}; see timed --help")
        if type(error).__name__ == "Abort":
            return _complain("interrupted; run it again", INTERRUPTED_EXIT_STATUS)
        raise
    return status if isinstance(status, int) else 0


def _complain(message: str, status: int = OPERATOR_EXIT_STATUS) -> int:
    print(f"timed: {_CONTROL.sub(' ', message)}", file=sys.stderr)
    return status


def _where(datadir: Path | None, network: str | None) -> Layout:
    if network is not None and network not in RPC_PORTS:
        raise UsageError(
            f"there is no network {network!r}", f"give --network {', '.join(RPC_PORTS)}"
        )
    return layout(default_datadir(network or "main") if datadir is None else datadir)
