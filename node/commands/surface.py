"""The command line of ``timed`` for people: options and help.

The commands themselves are imported only when they are called, so that ``timed --help`` is quick.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from node import __version__
from node.commands.entry import locate
from node.errors import UsageError
from pipeline.errors import OperatorError

app = typer.Typer(
    name="timed",
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

    init.init(locate(datadir, network), network, genesis, validator_key)


@app.command("run")
def _run(datadir: Datadir = None, network: Network = None) -> None:
    """Run the node until SIGTERM or Ctrl-C."""
    raise AssertionError("node.commands.entry parses this one")


@app.command("check")
def _check(
    datadir: Datadir = None,
    network: Network = None,
    replay: Annotated[
        bool,
        typer.Option("--replay", help="Recompute all outputs from the blocks and compare (slow)."),
    ] = False,
) -> None:
    """Say what is right and wrong with a data directory.

    The node must not be running on it.
    """
    from node.commands import check

    check.check(locate(datadir, network), replay)


@app.command("resume-signing")
def _resume(
    datadir: Datadir = None,
    network: Network = None,
    from_height: Annotated[
        int | None,
        typer.Option(
            help="The first height to sign at [default: two above the last block here].",
            show_default=False,
        ),
    ] = None,
    yes: Annotated[
        bool, typer.Option("--yes", help="I am certain; without it, nothing is changed.")
    ] = False,
) -> None:
    """Let a validator sign again whose record of what it signed is lost.

    Needed after a data directory was restored from a backup, if the others cannot decide without
    this validator; otherwise it begins by itself when two heights were decided without it. The
    node must not be running.
    """
    from node.commands import resume

    resume.resume(locate(datadir, network), from_height, confirmed=yes)


@app.command("status")
def _status(
    datadir: Datadir = None,
    network: Network = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Show what the running node is doing."""
    from node.commands import status

    status.status(locate(datadir, network), as_json)


@app.command("evidence")
def _evidence(
    datadir: Datadir = None,
    network: Network = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Show what proves that validators contradicted themselves, and check it.

    The node may be running or not.
    """
    from node.commands import evidence

    evidence.evidence(locate(datadir, network), as_json)


@app.command("bans")
def _bans(
    datadir: Datadir = None,
    network: Network = None,
    lift: Annotated[
        str | None,
        typer.Option(
            "--lift",
            metavar="ADDRESS",
            help="Lift the ban of this IP address; without, bans are listed.",
            show_default=False,
        ),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Show whose connections the node refuses, until when and why; or lift one of these bans.

    The node may be running or not; a running one follows within 5 seconds.
    """
    from node.commands import bans

    bans.bans(locate(datadir, network), lift, as_json)


@app.command("logging")
def _logging(
    changes: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[STAGE=LEVEL]...",
            help="A stage, a process, supervisor or all, and debug, info, warning or error.",
            show_default=False,
        ),
    ] = None,
    datadir: Datadir = None,
    network: Network = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Show how much the processes of the running node log, or change that until it stops."""
    from node.commands import logging

    logging.logging(locate(datadir, network), changes or [], as_json)


@app.command("peers")
def _peers(
    datadir: Datadir = None,
    network: Network = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Show whom the running node is connected to."""
    from node.commands import peers

    peers.peers(locate(datadir, network), as_json)


@app.command(
    "devnet",
    add_help_option=False,
    context_settings={"ignore_unknown_options": True, "allow_extra_args": True},
)
def _devnet(context: typer.Context) -> int:
    """Run a network of validators on this machine until Ctrl-C."""
    from node.commands import devnet

    return devnet.run(context.args)


def run(arguments: list[str]) -> int:
    """Run one of the commands; returns the exit status. Raises ``UsageError`` for wrong usage."""
    try:
        status = app(arguments, prog_name="timed", standalone_mode=False)
    except OperatorError:
        raise
    except Exception as error:
        # Typer's classes for wrong usage and aborts moved between its versions: they are told by
        # what they carry.
        if hasattr(error, "format_message"):
            raise UsageError(error.format_message().rstrip("."), "see timed --help") from None
        if type(error).__name__ == "Abort":
            raise KeyboardInterrupt from None
        raise
    return status if isinstance(status, int) else 0
