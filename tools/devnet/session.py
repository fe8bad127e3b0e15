"""A network from its making to its end, as ``timed devnet`` shows it.

Wishes of the command line come in, lines go to standard output: what is made, one for each node and
second, what came of the load. Owns the processes of nodes and load generators while it runs them,
and leaves none of them behind, whatever happens; what is on disk is the caller's.
"""

from __future__ import annotations

import math
import os
import time
from collections.abc import Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from rich.console import Console
from rich.live import Live
from rich.text import Text

from tools.devnet.chain import make_chain
from tools.devnet.errors import DevnetError
from tools.devnet.load import DRAIN_S, Load, shares
from tools.devnet.nodes import Network, Node, configure, init_nodes
from tools.devnet.places import places, shared_machine
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
                say(f"{len(self._places)} nodes run; Ctrl-C stops them. To watch them:")
                say(f"time-monitor {' '.join(str(place.datadir) for place in self._places)}")
                self._live(network)
            for failure in network.stop():
                self._wrong = True
                say(failure)
        return STATUS_FAILED if self._wrong or self._ended else 0

    def _make(self) -> None:
        wish = self._wish
        say(f"a chain of {wish.nodes} validators, {wish.transactions:,} payments signed")
        make_chain(self._chain, wish.nodes, WorkloadOptions(wish.transactions, seed="devnet"))
        init_nodes(self._places, self._chain)
        for place in self._places:
            others = [other.peer for other in self._places if other is not place]
            configure(place, others, shared_machine(wish.nodes, len(os.sched_getaffinity(0))))
            say(f"{place.name}  ingest {place.ingest}  peers {place.peer}  data {place.datadir}")

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
        for report in load.reports(LEFT_TO_LOAD_S if interrupted else DRAIN_S + LEFT_TO_LOAD_S):
            if interrupted and report.document is None:
                say(f"{report.share.place.name}  the load was broken off")
                continue
            self._wrong = self._wrong or bool(report.wrong)
            say(f"{report.share.place.name}  {report.line()}")


def say(what: str) -> None:
    """Tell whoever started the network; at once, for it may be a pipe."""
    print(what, flush=True)
