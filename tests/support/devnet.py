"""Networks of real nodes for the tests: started, killed, frozen, parted, and compared afterwards.

`Devnet` makes a network as `timed devnet` does (a genesis with as many validators, a data directory
each, free ports) below a directory of the test. With ``proxied`` every node reaches every other
one through a link of its own (`tcp_proxy`), named "0>1" for node 0 dialling node 1, that the test
can cut, delay and swallow. Who is among ``strangers`` (number -> loopback address) dials the others
through such links, which come from that address; no other node has it in its configuration. What a
test asks of the chains, it asks of the stores, after the nodes have stopped.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from itertools import permutations
from pathlib import Path
from typing import Any

import psutil
from tcp_proxy import HOST, Direction, Proxies

from node.consensus.messages import Certified
from node.consensus.wire import decode
from node.exchange.outbox import LIE
from node.genesis import Genesis, genesis_id, supply_at
from node.storage.chain import ChainStore
from tools.devnet.chain import make_chain
from tools.devnet.load import Load, Report, shares
from tools.devnet.nodes import Network, Node, configure, init_nodes
from tools.devnet.places import Place, places, shared_machine
from tools.devnet.sight import Sight, sight
from tools.loadgen.workload import WorkloadOptions
from tools.loadgen.workload_file import Workload

DEADLINE_S = 60.0
STOP_S = 30.0
LOG_LINES = 40


def wait_until(condition: Callable[[], Any], deadline_s: float = DEADLINE_S, what: str = "") -> Any:
    """Poll a condition until it gives something true, which is returned; fails at the deadline."""
    until_s = time.monotonic() + deadline_s
    while not (found := condition()):
        assert time.monotonic() < until_s, f"not in time: {what or 'the condition'}"
        time.sleep(0.05)
    return found


class Devnet:
    """A network that is not running at first; a context manager that leaves no process behind.

    Keywords are sections of config.toml that all nodes have, as ``block={"pace_ms": 50}``.
    """

    def __init__(
        self,
        root: Path,
        nodes: int,
        *,
        transactions: int = 2_000,
        seed: str = "tests",
        proxied: bool = False,
        strangers: Mapping[int, str] | None = None,
        **sections: dict[str, Any],
    ) -> None:
        self.chain = root / "chain"
        options = WorkloadOptions(transactions, seed=seed)
        self.genesis: Genesis = make_chain(self.chain, nodes, options)
        self.workload = Workload.open(self.chain)
        self.places: Sequence[Place] = places(root, nodes, 0)
        self.network = Network(self.places)
        self._strangers = dict(strangers or {})
        self.proxies = Proxies() if proxied or self._strangers else None
        self._proxied = proxied
        self._frozen: dict[int, list[psutil.Process]] = {}
        self._sent = 0
        try:
            self._make(sections)
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> Devnet:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
        self._tell_logs()

    def _tell_logs(self) -> None:
        """Print how the log of every node ends: pytest shows that of a test that failed."""
        for place in self.places:
            if place.log.exists():
                lines = place.log.read_text(errors="replace").splitlines()
                print(f"-- {place.name}, {len(lines)} lines", *lines[-LOG_LINES:], sep="\n")

    def close(self) -> None:
        """Whatever happened: no process is left."""
        with ExitStack() as stack:
            if self.proxies is not None:
                stack.callback(self.proxies.close)
            for node in self.network.nodes:
                stack.callback(node.kill)  # SIGKILL ends what is frozen, too

    # -- life and death --------------------------------------------------------------------------

    @property
    def nodes(self) -> list[Node]:
        """All nodes; their numbers are their places in it."""
        return self.network.nodes

    def launch(self, *numbers: int) -> None:
        """Start some nodes, or all; waits for nothing."""
        for number in self._some(numbers):
            self.nodes[number].start()

    def start(self, *numbers: int) -> None:
        """Start some nodes, or all, and wait until all their processes are ready."""
        self.launch(*numbers)
        for number in self._some(numbers):
            wait_until(lambda number=number: self._is_ready(number), what=f"node {number} is ready")

    def stop(self, *numbers: int) -> None:
        """Stop some nodes, or all that run, in order; each must end with status 0."""
        stopping = [self.nodes[n] for n in self._some(numbers) if self.nodes[n].running]
        for node in stopping:
            node.terminate()
        for node in stopping:
            assert node.wait(STOP_S) == 0, f"{node.place.name}: {node.ended() or 'it still runs'}"

    def kill(self, *numbers: int) -> None:
        """SIGKILL to every process of a node; returns when none is left."""
        for number in numbers:
            self._frozen.pop(number, None)
            self.nodes[number].kill()

    def freeze(self, number: int) -> None:
        """SIGSTOP to every process of a node: it is there, and does nothing."""
        supervisor = psutil.Process(self.nodes[number].pid)
        supervisor.suspend()  # first: it would take frozen stages for dead ones
        everything = [supervisor, *supervisor.children(recursive=True)]
        for process in everything[1:]:
            process.suspend()
        self._frozen[number] = everything

    def thaw(self, number: int) -> None:
        """SIGCONT to every process of a frozen node."""
        for process in reversed(self._frozen.pop(number)):
            with suppress(psutil.NoSuchProcess):
                process.send_signal(signal.SIGCONT)

    # -- lines between the nodes ---------------------------------------------------------------

    def part(self, *groups: Iterable[int]) -> None:
        """Cut every link between nodes of different groups."""
        for name in self._between(groups):
            self._links.cut(name)

    def swallow(self, *groups: Iterable[int]) -> None:
        """Turn every link between nodes of different groups into a black hole."""
        for name in self._between(groups):
            self._links.black_hole(name)

    def slow(self, delay_ms: float, *directions: Direction) -> None:
        """Delay every link between all nodes."""
        for name in self._links.names:
            self._links.delay(name, delay_ms, *directions)

    def heal(self) -> None:
        """Make all links good again."""
        self._links.heal()

    # -- what is seen of the nodes ---------------------------------------------------------------

    def sight(self, number: int) -> Sight:
        """What a node says of itself; it must answer."""
        status = wait_until(self.nodes[number].status, what=f"node {number} answers")
        return sight(status)

    def metrics(self, number: int, stage: str) -> dict[str, Any]:
        """The metrics of a node's stage (of its first instance), name -> value."""
        status = wait_until(self.nodes[number].status, what=f"node {number} answers")
        for snapshots in status["metrics"].values():
            for one in snapshots:
                if (one["stage"], one["index"]) == (stage, 0):
                    values: dict[str, Any] = one["values"]
                    return values
        raise KeyError(stage)

    def height(self, number: int) -> int:
        """The height of a node's last committed block."""
        return self.sight(number).height

    def wait_height(self, height: int, *numbers: int, deadline_s: float = DEADLINE_S) -> None:
        """Wait until some nodes, or all, have committed a height."""
        for number in self._some(numbers):
            wait_until(
                lambda number=number: self._shown_height(number) >= height,
                deadline_s,
                f"node {number} at height {height}",
            )

    def wait_blocks(self, count: int, *numbers: int, deadline_s: float = DEADLINE_S) -> int:
        """Wait until some nodes, or all, are so many blocks above the highest of them now;
        returns that height.
        """
        some = self._some(numbers)
        goal = max(self.height(number) for number in some) + count
        self.wait_height(goal, *some, deadline_s=deadline_s)
        return goal

    # -- load ------------------------------------------------------------------------------------

    def load(
        self, count: int, *to: int, rate_per_s: float | None = None, options: Sequence[str] = ()
    ) -> Load:
        """Send the next ``count`` payments of the chain to some nodes, or all, in a context."""
        targets = [self.places[number] for number in self._some(to)]
        parts = shares(targets, count, rate_per_s, self._sent)
        assert self._sent + count <= self.workload.count, "the chain has no more payments"
        self._sent += count
        return Load(self.chain, parts, *options)

    def send(
        self, count: int, *to: int, rate_per_s: float | None = None, options: Sequence[str] = ()
    ) -> list[Report]:
        """Send payments and wait until the nodes have answered; every answer must be right."""
        with self.load(count, *to, rate_per_s=rate_per_s, options=options) as load:
            reports = load.reports(2 * DEADLINE_S)
        for report in reports:
            assert report.document is not None, report.line()
            assert not report.wrong, report.line()
        return reports

    # -- what is on disk, once nodes have stopped ------------------------------------------------

    def compare_chains(self, *numbers: int) -> int:
        """Compare the chains of some nodes, or all, block by block; returns the lowest height.

        Up to there they must have the same blocks, with certificates, and nodes of one height the
        same outputs.
        """
        return compare_chains([self.places[n] for n in self._some(numbers)], self.genesis)

    def check_value(self, *numbers: int) -> None:
        """The outputs of each node are worth what genesis and rewards gave."""
        for number in self._some(numbers):
            with ExitStack() as stack:
                store = _opened(self.places[number], self.genesis, stack)
                assert store.supply() == supply_at(self.genesis, store.tip.height)

    def judge_signatures(self) -> int:
        """No validator has signed two values in one place, as far as the certificates of all nodes
        tell, and no node accuses another of a lie; returns how many signatures that is.
        """
        said: dict[tuple[int, int, int, int], bytes | None] = {}
        for place in self.places:
            with self.opened(place.number) as store:
                for height in range(1, store.tip.height + 1):
                    raw = store.certificate(height)
                    assert raw is not None
                    certified = decode(raw)
                    assert isinstance(certified, Certified)
                    of = certified.certificate
                    for validator, _ in of.signatures:
                        where = (validator, of.height, of.round, int(of.type))
                        assert said.setdefault(where, of.value) == of.value, (
                            f"validator {validator} has signed twice: {where}"
                        )
            for event in self.events(place.number):
                accuses = event["event"] in ("misbehaviour", "agreement_broken")
                # one who was frozen has let others wait: that is worth less than a lie
                accuses = accuses or (event["event"] == "peer_blamed" and event["points"] >= LIE)
                assert not accuses, f"{place.name} accuses an honest one: {event}"
        return len(said)

    def judge_payments(self) -> None:
        """Everything that was sent is final, on every node."""
        ids = self.workload.columns.txids[: self._sent]
        for place in self.places:
            with self.opened(place.number) as store:
                lost = [n for n, each in enumerate(ids) if not store.find_transaction(bytes(each))]
            assert not lost, f"{len(lost)} payments are not final on {place.name}: {lost[:5]}"

    def events(self, number: int) -> Iterator[dict[str, Any]]:
        """What a node's log tells."""
        with self.places[number].log.open(errors="replace") as log:
            for line in log:
                if line.startswith("{"):
                    yield json.loads(line)

    @contextmanager
    def opened(self, number: int) -> Iterator[ChainStore]:
        """The chain of a node that does not run, in a context."""
        with ExitStack() as stack:
            yield _opened(self.places[number], self.genesis, stack)

    def check(self, *numbers: int) -> None:
        """`timed check --replay` has nothing to say against some nodes, or all."""
        for number in self._some(numbers):
            command = [sys.executable, "-m", "node", "check", "--replay"]
            command += ["--datadir", str(self.places[number].datadir)]
            done = subprocess.run(command, capture_output=True, text=True, check=False)
            assert done.returncode == 0, done.stdout + done.stderr

    # --------------------------------------------------------------------------------------------

    def _make(self, sections: dict[str, dict[str, Any]]) -> None:
        shared = shared_machine(len(self.places), len(os.sched_getaffinity(0)))
        merged = {name: dict(keys) for name, keys in shared.items()}
        merged.setdefault("block", {})["pace_ms"] = 100
        if self.proxies is not None:  # nobody shall find a way round the links
            merged.setdefault("network", {})["max_outbound"] = 0
        for name, keys in sections.items():
            merged.setdefault(name, {}).update(keys)
        init_nodes(self.places, self.chain)
        addresses = {place.number: place.peer for place in self.places}
        for place in self.places:
            others = [other for other in addresses if other not in {place.number, *self._strangers}]
            peers = [self._address(place.number, other, addresses[other]) for other in others]
            configure(place, peers, merged)

    def _address(self, dialler: int, other: int, address: str) -> str:
        source = self._strangers.get(dialler)
        if self.proxies is None or not (self._proxied or source):
            return address
        return self.proxies.link(f"{dialler}>{other}", address, source or HOST)

    @property
    def _links(self) -> Proxies:
        assert self.proxies is not None, "the network is not proxied"
        return self.proxies

    def _between(self, groups: Iterable[Iterable[int]]) -> list[str]:
        return [
            f"{one}>{other}"
            for some, others in permutations([tuple(group) for group in groups], 2)
            for one in some
            for other in others
        ]

    def _some(self, numbers: Sequence[int]) -> Sequence[int]:
        return numbers or range(len(self.places))

    def _is_ready(self, number: int) -> bool:
        node = self.nodes[number]
        assert node.ended() is None, f"{node.place.name} {node.ended()}"
        return node.ready()

    def _shown_height(self, number: int) -> int:
        node = self.nodes[number]
        assert node.ended() is None, f"{node.place.name} {node.ended()}"
        status = node.status()
        return -1 if status is None else sight(status).height


def compare_chains(some: Sequence[Place], genesis: Genesis) -> int:
    """Compare the chains of stopped nodes; see `Devnet.compare_chains`."""
    with ExitStack() as stack:
        stores = [_opened(place, genesis, stack) for place in some]
        lowest = min(store.tip.height for store in stores)
        for height in range(1, lowest + 1):
            ids = [store.block_id(height).hex() for store in stores]
            assert len(set(ids)) == 1, f"different blocks at height {height}: {ids}"
        digests: dict[int, set[bytes]] = {}
        for store in stores:
            for height in range(1, store.tip.height + 1):
                assert store.certificate(height), f"no certificate at height {height}"
            digests.setdefault(store.tip.height, set()).add(store.output_set_digest())
        differing = [height for height, found in digests.items() if len(found) > 1]
        assert not differing, f"equal chains, different outputs at height {differing}"
    return lowest


def _opened(place: Place, genesis: Genesis, stack: ExitStack) -> ChainStore:
    store = ChainStore(place.datadir / "store", genesis_id(genesis))
    stack.callback(store.close)
    return store
