"""How a command is found, and how every error reaches the operator.

Arguments come in as a list, an exit status goes out. People's commands are typer's
(``node.commands.surface``); ``run`` alone is parsed here by argparse, because its process lives on
as the supervisor and should carry nothing that it does not use.
"""

from __future__ import annotations

import argparse
import errno
import re
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Final, NoReturn

from node.config import RPC_PORTS
from node.datadir import Layout, default_datadir, layout
from node.errors import UsageError, from_os_error
from pipeline.errors import OPERATOR_EXIT_STATUS, OperatorError

INTERRUPTED_EXIT_STATUS: Final = 128 + 2
"""What shells report for a program that SIGINT ended."""

_CONTROL = re.compile(r"[\x00-\x1f\x7f]+")


def run(arguments: Sequence[str]) -> int:
    """Run one command; returns the exit status. Operator errors are one line on standard error."""
    try:
        return _run(list(arguments))
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


def locate(datadir: Path | None, network: str | None) -> Layout:
    """The data directory that the two options mean; raises ``UsageError`` for an unknown
    network.
    """
    if network is not None and network not in RPC_PORTS:
        raise UsageError(
            f"there is no network {network!r}", f"give --network {', '.join(RPC_PORTS)}"
        )
    return layout(default_datadir(network or "main") if datadir is None else datadir)


def _run(arguments: list[str]) -> int:
    if arguments[:1] == ["run"]:
        options = _run_options().parse_args(arguments[1:])
        where = locate(options.datadir, options.network)
        from node.commands import run as command

        return command.run(where)
    from node.commands import surface

    return surface.run(arguments or ["--help"])


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise UsageError(message, f"see {self.prog} --help")


def _run_options() -> argparse.ArgumentParser:
    parser = _Parser(prog="timed run", description="Run the node until SIGTERM or Ctrl-C.")
    parser.add_argument(
        "--datadir", type=Path, help="the node's data directory [default: ~/.timecoin/NETWORK]"
    )
    parser.add_argument("--network", help="main, test or dev [default: main]")
    return parser


def _complain(message: str, status: int = OPERATOR_EXIT_STATUS) -> int:
    print(f"timed: {_CONTROL.sub(' ', message)}", file=sys.stderr)
    return status
