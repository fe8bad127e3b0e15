"""``timed devnet``: a network of validators on this machine, to look at and to try things on.

Reached through the entry point ``devnet`` of the group ``timed.commands``, because the node knows
nothing of its tools; ``python -m tools.devnet`` is the same. Arguments come in, a line for each
node and second goes to standard output. Whatever happens, it leaves no process behind. Exit status:
0 all went well until it was stopped, 1 a node ended by itself or the load was answered wrongly,
2 it cannot be carried out.
"""

from __future__ import annotations

import math
import os
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Annotated, Any, Final

import typer
from rich.console import Console
from rich.live import Live
from rich.text import Text

from node.errors import UsageError
from pipeline.errors import OperatorError
from pipeline.signals import STOP_SIGNALS
from tools.devnet.chain import make_chain
from tools.devnet.errors import DevnetError
from tools.devnet.load import DRAIN_S, Load, shares
from tools.devnet.nodes import Network, Node, configure, init_nodes
from tools.devnet.places import DEFAULT_BASE_PORT, Sections, places
from tools.devnet.probes import PAUSE_S, Probes
from tools.devnet.sight import Sight, line, sight
from tools.loadgen.workload import WorkloadOptions
from tools.loadgen.workload_file import Workload

STATUS_FAILED: Final = 1
LOAD_S: Final = 60
"""Seconds of load if nobody says how long the network shall run."""

MOST_TRANSACTIONS: Final = 1_200_000
"""Payments signed in advance, at most: they take half a gigabyte."""

FUNDED: Final = 1_000
"""Payments that are made where no load is asked for: something to send by hand."""

LEFT_TO_LOAD_S: Final = 3.0
"""For load generators to say what came of it, when the network is to stop now."""

TICK_S: Final = 1.0

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False, rich_markup_mode=None)


@dataclass(frozen=True, slots=True)
class Wish:
    """What the command line asks for."""

    nodes: int
    load_per_s: float | None
    directory: Path | None
    base_port: int
    seconds: float | None
    validators_only: bool

    def __post_init__(self) -> None:
        if self.seconds is not None and not 1 <= self.seconds <= 1e9:
            raise DevnetError(f"--seconds {self.seconds:g} is impossible", "give 1 to 1e9")
        if self.load_per_s is None:
            return
        if self.validators_only:
            raise DevnetError(
                "--validators-only makes no payments that --load could send",
                "leave one of the two out",
            )
        if not 1 <= self.load_per_s * self.load_s <= MOST_TRANSACTIONS:
            raise DevnetError(
                f"{self.load_per_s:g} payments a second for {self.load_s:g} seconds are "
                f"{self.load_per_s * self.load_s:,.0f}",
                f"ask for 1 to {MOST_TRANSACTIONS:,} payments: change --load or --seconds",
            )

    @property
    def load_s(self) -> float:
        """How long the load lasts."""
        return LOAD_S if self.seconds is None else self.seconds

    @property
    def loaded(self) -> int:
        """Payments that the load sends."""
        return 0 if self.load_per_s is None else math.ceil(self.load_per_s * self.load_s)

    @property
    def probes(self) -> int:
        """Payments that each node's probe may send."""
        return 0 if self.load_per_s is None else math.ceil(self.load_s / PAUSE_S)

    @property
    def transactions(self) -> int:
        """Payments to prepare."""
        if self.validators_only:
            return 1
        return self.loaded + self.nodes * self.probes or FUNDED


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
        _say(f"stopped; everything is in {root}" if keep else "stopped")
        return status
    except KeyboardInterrupt:  # before there was anything to stop
        _say("interrupted; nothing is left running")
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


class Session:
    """One network, from its making to its end."""

    def __init__(self, wish: Wish, root: Path) -> None:
        self._wish = wish
        self._chain = root / "chain"
        self._places = places(root, wish.nodes, wish.base_port)
        self._before: dict[int, Sight] = {}
        self._ended: dict[int, str] = {}
        self._wrong = False

    def run(self) -> int:
        """Make, start, watch and stop; returns the exit status."""
        self._make()
        with Network(self._places) as network:
            with suppress(KeyboardInterrupt):
                network.start()
                network.wait_ready()
                _say(f"{len(self._places)} nodes run; Ctrl-C stops them")
                self._live(network)
            for failure in network.stop():
                self._wrong = True
                _say(failure)
        return STATUS_FAILED if self._wrong or self._ended else 0

    def _make(self) -> None:
        wish = self._wish
        _say(f"a chain of {wish.nodes} validators, {wish.transactions:,} payments signed")
        make_chain(self._chain, wish.nodes, WorkloadOptions(wish.transactions, seed="devnet"))
        init_nodes(self._places, self._chain)
        for place in self._places:
            others = [other.peer for other in self._places if other is not place]
            configure(place, others, sections(wish.nodes))
            _say(f"{place.name}  ingest {place.ingest}  peers {place.peer}  data {place.datadir}")

    def _live(self, network: Network) -> None:
        """Watch the network, under load if that is asked for, until it is time to stop."""
        wish = self._wish
        with ExitStack() as stack:
            load = probes = None
            if wish.load_per_s is not None:
                parts = shares(self._places, wish.loaded, wish.load_per_s)
                load = stack.enter_context(
                    Load(self._chain, parts, "--allow-shedding", "--drain-timeout", f"{DRAIN_S:g}")
                )
                workload = Workload.open(self._chain)
                probes = Probes(self._places, workload, wish.loaded, wish.probes)
                stack.callback(probes.close)
                probes.start()
            interrupted = False
            try:
                self._watch(network.nodes, probes)
            except KeyboardInterrupt:
                interrupted = True
            if load is not None:
                self._conclude(load, interrupted)

    def _watch(self, nodes: Sequence[Node], probes: Probes | None) -> None:
        began_s = time.monotonic()
        end_s = math.inf if self._wish.seconds is None else began_s + self._wish.seconds
        console = Console(highlight=False)
        with ExitStack() as stack:
            live = None
            if console.is_terminal:
                live = stack.enter_context(Live(console=console, auto_refresh=False))
            tick_s = began_s
            while (now_s := time.monotonic()) < end_s:
                lines = [self._line(node, now_s - began_s, probes) for node in nodes]
                if live is not None:
                    live.update(Text("\n".join(lines), overflow="crop", no_wrap=True), refresh=True)
                else:
                    print("\n".join(lines), flush=True)
                tick_s = max(tick_s + TICK_S, now_s)
                time.sleep(max(0.0, min(tick_s, end_s) - time.monotonic()))

    def _line(self, node: Node, elapsed_s: float, probes: Probes | None) -> str:
        return f"{elapsed_s:5.0f} s  {node.place.name}  {self._what(node, probes)}"

    def _what(self, node: Node, probes: Probes | None) -> str:
        place = node.place
        if (how := node.ended()) is not None:
            self._ended[place.number] = how
            return how
        if (status := node.status()) is None:
            return "does not answer"
        now, before = sight(status), self._before.get(place.number)
        self._before[place.number] = now
        return line(now, before, None if probes is None else probes.final_ms(place))

    def _conclude(self, load: Load, interrupted: bool) -> None:
        load.stop()
        for report in load.reports(LEFT_TO_LOAD_S if interrupted else DRAIN_S):
            if interrupted and report.document is None:
                _say(f"{report.share.place.name}  the load was broken off")
                continue
            self._wrong = self._wrong or bool(report.wrong)
            _say(f"{report.share.place.name}  {report.line()}")


def sections(nodes: int) -> Sections:
    """What nodes that share a machine are configured with: none takes cores for itself."""
    if nodes == 1:
        return {}
    workers = max(1, len(os.sched_getaffinity(0)) // nodes)
    return {"pipeline": {"cores": "off"}, "verify": {"workers": workers}}


def _say(what: str) -> None:
    print(what, flush=True)


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
