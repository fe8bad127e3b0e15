"""``timed devnet``: a network of validators on this machine, to look at and to try things on.

Reached through the entry point ``devnet`` of the group ``timed.commands``, because the node knows
nothing of its tools; ``python -m tools.devnet`` is the same. Arguments come in, a line for each
node and second goes to standard output. Whatever happens, it leaves no process behind. Exit status:
0 all went well until it was stopped, 1 a node ended by itself or the load was answered wrongly,
2 it cannot be carried out.
"""

from __future__ import annotations

import shutil
import signal
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from types import FrameType
from typing import Annotated, Any

import typer

from node.errors import UsageError
from pipeline.errors import OperatorError
from pipeline.signals import STOP_SIGNALS
from tools.devnet.errors import DevnetError
from tools.devnet.places import DEFAULT_BASE_PORT
from tools.devnet.session import Session, Wish, say

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False, rich_markup_mode=None)


@app.command()
def devnet(
    nodes: Annotated[int, typer.Option(help="How many validators, each of power 1.")] = 4,
    load: Annotated[
        float | None,
        typer.Option(help="Payments per second, spread over all nodes.", show_default=False),
    ] = None,
    directory: Annotated[
        Path | None,
        typer.Option(
            help="Where everything is put and kept: a new directory [default: a temporary one].",
            show_default=False,
        ),
    ] = None,
    base_port: Annotated[
        int, typer.Option(help="The first port; ten for each node. 0: any that are free.")
    ] = DEFAULT_BASE_PORT,
    seconds: Annotated[
        float | None,
        typer.Option(help="Stop after so long [default: at Ctrl-C].", show_default=False),
    ] = None,
    validators_only: Annotated[
        bool,
        typer.Option("--validators-only", help="Only the nodes: no payments are made or sent."),
    ] = False,
) -> int:
    """Run a network of validators on this machine until Ctrl-C.

    Shows height, round, peers, mempool, rate and finality of every node each second. Finality is
    that of single payments that are sent to each node beside the load; without --load it is not
    known. The load lasts 60 seconds unless --seconds says otherwise.
    """
    wish = Wish(nodes, load, directory, base_port, seconds, validators_only)
    root = _root(wish.directory)
    keep = directory is not None
    try:
        with _interruptible():
            status = Session(wish, root).run()
        keep = keep or status != 0
        say(f"stopped; everything is in {root}" if keep else "stopped")
        return status
    except KeyboardInterrupt:  # before there was anything to stop
        say("interrupted; nothing is left running")
        return 0
    except BaseException:
        keep = True  # for the logs, of which the error may name one
        raise
    finally:
        if not keep:
            shutil.rmtree(root, ignore_errors=True)
        elif directory is None:
            with suppress(OSError):
                root.rmdir()  # nothing was made in it yet


@contextmanager
def _interruptible() -> Iterator[None]:
    """Let every stop signal end the network as Ctrl-C does."""
    former = {number: signal.getsignal(number) for number in STOP_SIGNALS}
    for number in STOP_SIGNALS:
        if number != signal.SIGHUP or former[number] is not signal.SIG_IGN:  # nohup
            signal.signal(number, _interrupt)
    try:
        yield
    finally:
        for number, handler in former.items():
            signal.signal(number, handler)


def _interrupt(_number: int, _frame: FrameType | None) -> Any:
    raise KeyboardInterrupt


def _root(asked: Path | None) -> Path:
    """The network's directory: the one that was asked for, or one for the time being."""
    if asked is None:
        return Path(tempfile.mkdtemp(prefix="timed-devnet-"))
    root = asked.absolute()
    try:
        root.mkdir(parents=True, exist_ok=True)
        if any(root.iterdir()):
            raise DevnetError(
                f"{root} is not empty", f"give a new --directory, or delete that one (rm -r {root})"
            )
    except OSError as error:
        raise DevnetError(f"cannot make {root} ({error.strerror})", "correct --directory") from None
    return root


def run(arguments: list[str]) -> int:
    """Run the command with these arguments; returns the exit status.

    Raises an ``OperatorError`` for whatever the caller can put right.
    """
    try:
        status = app(arguments, prog_name="timed devnet", standalone_mode=False)
    except OperatorError:
        raise
    except Exception as error:
        # Typer's classes for wrong usage moved between its versions: told by what they carry.
        if hasattr(error, "format_message"):
            raise UsageError(
                error.format_message().rstrip("."), "see timed devnet --help"
            ) from None
        raise
    return status if isinstance(status, int) else 0


def main() -> None:
    """``python -m tools.devnet``."""
    try:
        status = run(sys.argv[1:])
    except OperatorError as error:
        print(f"timed: {error.message}", file=sys.stderr)
        status = error.exit_status
    sys.exit(status)


if __name__ == "__main__":
    main()
