"""The command line of ``time-cli`` for people: a command for every method, wallets, completion.

The methods' commands are made of the table that the node itself answers by, so there is none
without its method, and help and completion say what the node would. Words come in from the shell;
what they mean is decided in `tools.cli.arguments`, what comes of it is printed by `tools.cli.show`.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated, Final

import typer

from node import __version__
from node.errors import UsageError
from node.rpc.method import Method
from node.rpc.methods import METHODS
from pipeline.errors import OperatorError
from tools.cli.arguments import parameters
from tools.cli.passphrase import Source
from tools.cli.places import DEFAULT_WALLET, Place
from tools.cli.show import show
from tools.cli.transport import Client

MAX_STDIN_BYTES: Final = 64 * 1024 * 1024  # the largest body that a node can be told to take
FINAL_TIMEOUT_S: Final = 60.0

app = typer.Typer(
    name="time-cli",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    epilog="Exit status: 0 done; 1 the node refused; 2 it could not be asked, or not like this.",
)
wallet_app = typer.Typer(
    no_args_is_help=True, rich_markup_mode=None, help="Keys to be paid at and to pay with."
)
app.add_typer(wallet_app, name="wallet")

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
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON on a terminal, too.")]
WalletName = Annotated[
    str, typer.Argument(metavar="[NAME]", help="The wallet's name, or a path with a slash.")
]
PassphraseFile = Annotated[
    Path | None,
    typer.Option(
        help="Read the passphrase from this file, which nobody else may use (mode 0600).",
        show_default=False,
    ),
]
PassphraseFd = Annotated[
    int | None,
    typer.Option(help="Read the passphrase from this descriptor.", min=0, show_default=False),
]


def _print_version(asked: bool) -> None:
    if asked:
        print(f"time-cli {__version__}")
        raise typer.Exit


@app.callback()
def _options(
    context: typer.Context,
    datadir: Datadir = None,
    network: Network = None,
    rpc: Annotated[
        str | None,
        typer.Option(
            metavar="ADDRESS:PORT",
            help="Where the node answers [default: what its config.toml says].",
            show_default=False,
        ),
    ] = None,
    user: Annotated[
        str | None,
        typer.Option(help="A user of the node's rpcauth, instead of the cookie."),
    ] = None,
    password_file: Annotated[
        Path | None,
        typer.Option(help="The file with the user's password (mode 0600).", show_default=False),
    ] = None,
    as_json: AsJson = False,
    version: Annotated[
        bool,
        typer.Option(
            "--version", help="Print the version and exit.", is_eager=True, callback=_print_version
        ),
    ] = False,
) -> None:
    """Call the methods of a running node, and pay.

    time-cli METHOD [PARAMETER ...] [NAME=VALUE ...]; see time-cli METHOD --help.
    """
    context.obj = (Place(datadir, network, rpc, user, password_file), as_json)


def _place(context: typer.Context, datadir: Path | None, network: str | None) -> Place:
    before: Place = context.obj[0]
    return Place(datadir, network).merged(before)


def _is_json(context: typer.Context, as_json: bool) -> bool:
    return as_json or bool(context.obj[1])


# -- wallets -------------------------------------------------------------------------------------


@wallet_app.command("new")
def _new(
    context: typer.Context,
    name: WalletName = DEFAULT_WALLET,
    datadir: Datadir = None,
    network: Network = None,
    passphrase_file: PassphraseFile = None,
    passphrase_fd: PassphraseFd = None,
    as_json: AsJson = False,
) -> None:
    """Make a wallet: a new key, encrypted under a passphrase. Prints its address."""
    from tools.cli import wallet_commands

    source = Source(passphrase_file, passphrase_fd)
    place = _place(context, datadir, network)
    wallet_commands.new(place, name, source, as_json=_is_json(context, as_json))


@wallet_app.command("address")
def _address(
    context: typer.Context,
    name: WalletName = DEFAULT_WALLET,
    datadir: Datadir = None,
    network: Network = None,
    as_json: AsJson = False,
) -> None:
    """Print a wallet's address."""
    from tools.cli import wallet_commands

    place = _place(context, datadir, network)
    wallet_commands.address(place, name, as_json=_is_json(context, as_json))


@wallet_app.command("balance")
def _balance(
    context: typer.Context,
    name: WalletName = DEFAULT_WALLET,
    datadir: Datadir = None,
    network: Network = None,
    as_json: AsJson = False,
) -> None:
    """Print what a wallet can spend now."""
    from tools.cli import wallet_commands

    place = _place(context, datadir, network)
    wallet_commands.balance(place, name, as_json=_is_json(context, as_json))


@wallet_app.command("list")
def _list(
    context: typer.Context,
    datadir: Datadir = None,
    network: Network = None,
    as_json: AsJson = False,
) -> None:
    """List the wallets of the chain."""
    from tools.cli import wallet_commands

    place = _place(context, datadir, network)
    wallet_commands.listing(place, as_json=_is_json(context, as_json))


@app.command("send")
def _send(
    context: typer.Context,
    address: Annotated[str, typer.Argument(help="Whom to pay.")],
    amount: Annotated[str, typer.Argument(help="How many TIME, with at most 8 places.")],
    wallet: Annotated[
        str, typer.Option(metavar="NAME", help="The wallet to pay from.")
    ] = DEFAULT_WALLET,
    datadir: Datadir = None,
    network: Network = None,
    passphrase_file: PassphraseFile = None,
    passphrase_fd: PassphraseFd = None,
    timeout: Annotated[
        float, typer.Option(help="Seconds to wait until it is final.", min=0.0)
    ] = FINAL_TIMEOUT_S,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask before paying.")] = False,
    as_json: AsJson = False,
) -> None:
    """Pay somebody, wait until the payment is final, and say how long that took."""
    from tools.cli import wallet_commands

    wallet_commands.send(
        _place(context, datadir, network),
        wallet,
        address,
        amount,
        Source(passphrase_file, passphrase_fd),
        timeout_s=timeout,
        confirmed=yes,
        as_json=_is_json(context, as_json),
    )


# -- methods -------------------------------------------------------------------------------------


def _parameter_names(context: typer.Context, incomplete: str) -> list[str]:
    """What the shell offers behind a method: its parameters by name."""
    for method in METHODS:
        if method.name == context.info_name:
            names = (f"{param.name}=" for param in method.params)
            return [name for name in names if name.startswith(incomplete)]
    return []


Words = Annotated[
    list[str] | None,
    typer.Argument(metavar="PARAMETER", autocompletion=_parameter_names, show_default=False),
]
Stdin = Annotated[
    bool,
    typer.Option(
        "--stdin",
        help="Read further parameters from standard input, one a line: whatever must not be seen "
        "on a command line, such as keys.",
    ),
]


def _command_of(method: Method) -> None:
    """Make the command that calls a method."""

    def call(
        context: typer.Context,
        words: Words = None,
        datadir: Datadir = None,
        network: Network = None,
        stdin: Stdin = False,
        as_json: AsJson = False,
    ) -> None:
        params = parameters(method, words or [], _more_words() if stdin else [])
        result = Client(_place(context, datadir, network).access()).call(method.name, params)
        show(result, as_json=_is_json(context, as_json))

    app.command(
        method.name,
        help=_unwrapped(method.help),
        short_help=method.about.partition(".")[0],
        context_settings={"ignore_unknown_options": True},  # -1 is a parameter
    )(call)


def _unwrapped(text: str) -> str:
    """A help text whose lines stay as they are."""
    return "\n\n".join(f"\b\n{part}" for part in text.strip().split("\n\n"))


def _more_words() -> list[str]:
    text = sys.stdin.read(MAX_STDIN_BYTES + 1)
    if len(text) > MAX_STDIN_BYTES:
        raise UsageError(
            f"more than {MAX_STDIN_BYTES:,} characters on standard input", "send less at once"
        )
    return text.splitlines()


for _method in METHODS:
    _command_of(_method)


def run(arguments: list[str]) -> int:
    """Run one of the commands; returns the exit status. Raises ``UsageError`` for wrong usage."""
    try:
        status = app(arguments, prog_name="time-cli", standalone_mode=False)
    except OperatorError:
        raise
    except Exception as error:
        # Typer's classes for wrong usage and aborts moved between its versions: they are told by
        # what they carry.
        if type(error).__name__ == "NoArgsIsHelpError":
            error.show()  # type: ignore[attr-defined]
            return 0
        if hasattr(error, "format_message"):
            raise UsageError(error.format_message().rstrip("."), "see time-cli --help") from None
        if type(error).__name__ == "Abort":
            raise KeyboardInterrupt from None
        raise
    return status if isinstance(status, int) else 0
