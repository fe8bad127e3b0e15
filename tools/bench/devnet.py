"""The benchmark of a network: real nodes on one machine that share its cores, measured in turns.

Every measurement starts a network on fresh copies of data directories, loads it with a load
generator for each node, watches it through the nodes' statuses, and stops it in order. Nothing is
believed of a network in which an answer was wrong, a process died or a node did not end with 0.
Owns the working directory's layout: ``devnet/N`` the chain of N validators and the templates of
their directories, ``runs/NUMBER`` a network's life.
"""

from __future__ import annotations

import os
import shutil
import statistics
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field
from itertools import count
from pathlib import Path
from typing import Any, Final

from tools.bench import cold_block, raw
from tools.bench.devnet_plan import (
    BLOCK_PATIENCE_S,
    CATCH_UP_PACE_MS,
    FLOOD_TURNS,
    HALF_LOAD,
    MODEST_LOAD,
    OVERLOAD,
    OVERLOAD_LIVES,
    DevnetScale,
    Subject,
    choose,
    figures,
    keys,
    prefix,
)
from tools.bench.errors import BenchError, BenchFailed
from tools.bench.figures import FINALITY_PACE_MS, medians, number, targets
from tools.bench.hostile import Hostile
from tools.bench.load import check_report
from tools.bench.machine import describe
from tools.bench.nodes import clone
from tools.bench.plan import BackendName
from tools.bench.raw import Kind
from tools.devnet.chain import make_chain
from tools.devnet.errors import DevnetError
from tools.devnet.load import Load, shares
from tools.devnet.nodes import Network, Node, configure, init_nodes, wait_ready
from tools.devnet.places import Place, Sections, places, shared_machine
from tools.devnet.sight import Sight, sight
from tools.loadgen.workload import WorkloadOptions

UNCONFIRMED: Final = 40_000
"""Admitted and not final, in the whole network, flat out: less than a mempool holds."""

BYTES_PER_PAYMENT: Final = 1_000
"""Of disk, for each node: its blocks, its store, and room for what the store rewrites."""

LOAD_TIMEOUT_S: Final = 300.0
CATCH_UP_TIMEOUT_S: Final = 300.0
ANSWER_S: Final = 5.0  # a supervisor takes no longer, however loaded the machine is
LOOK_S: Final = 0.05
LOOK_CLOSELY_S: Final = 0.01
OLD_PAYMENTS: Final = 128  # final before the hostile peers come, who send them again
DIGITS: Final = 4

Tell = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class DevnetOutcome:
    """A finished benchmark: ``figures`` are medians, ``rounds`` hold what they are medians of."""

    figures: dict[str, float]
    machine: dict[str, Any]
    rounds: list[dict[str, Any]]
    scale: DevnetScale
    backend: BackendName
    missing: dict[str, str]

    def as_json(self, command: Sequence[str]) -> dict[str, Any]:
        """The outcome as one JSON-able object; ``command`` is the command line that it is of."""
        return {
            "figures": self.figures,
            "quick": self.scale.quick,
            "targets": targets(self.figures, figures(self.scale.nodes, self.backend)),
            "missing": self.missing,
            "machine": self.machine,
            "command": list(command),
            "scale": asdict(self.scale),
            "rounds": self.rounds,
        }


class DevnetBench:
    """Chains, templates of data directories, and networks on copies of them."""

    def __init__(self, work: Path, scale: DevnetScale, backend: BackendName, *, keep: bool) -> None:
        self.work = work
        self.scale = scale
        self.backend = backend
        self.room = scale.room(backend)
        self._keep = keep
        self._runs = count()

    def prepare(self, nodes: int, tell: Tell) -> None:
        """Make the chain of so many validators and their data directories.

        Raises BenchError if there is no space, or it cannot be done.
        """
        needed = self.room * BYTES_PER_PAYMENT * (nodes + 1)
        free = shutil.disk_usage(self.work).free
        if free < needed:
            raise BenchError(
                f"{needed // 1_000_000:,} MB are needed, {self.work} has {free // 1_000_000:,} MB",
                "free some space there, or name another directory with --work",
            )
        tell(f"a chain of {nodes} validator(s), {self.room:,} payments signed")
        home = self._home(nodes)
        shutil.rmtree(home, ignore_errors=True)
        try:
            make_chain(self.chain(nodes), nodes, WorkloadOptions(self.room, seed="bench"))
            init_nodes(places(home, nodes, 0), self.chain(nodes))
        except DevnetError as error:
            raise BenchError(error.cause, error.remedy) from None
        os.sync()  # so that no measurement pays for it

    def chain(self, nodes: int) -> Path:
        """Where the payments of a network lie."""
        return self._home(nodes) / "chain"

    @contextmanager
    def network(self, nodes: int, extra: Sections) -> Iterator[Network]:
        """A network on fresh copies, ready.

        Raises BenchFailed if a node does not start, loses a process or does not end with 0.
        """
        run = self.work / "runs" / str(next(self._runs))
        shutil.rmtree(run, ignore_errors=True)
        network = Network(places(run, nodes, 0))
        try:
            for node in network.nodes:
                self._settle(node.place, [other.place for other in network.nodes], extra)
            with network:
                network.start()
                _wait_ready(network.nodes)
                yield network
                check_lives(network)
                if failures := network.stop():
                    raise BenchFailed("; ".join(failures))
        finally:
            if not self._keep:
                shutil.rmtree(run, ignore_errors=True)

    def renew(self, network: Network, node: Node, extra: Sections) -> None:
        """Put a fresh copy in the place of a node's data directory; it must not run."""
        shutil.rmtree(node.place.root)
        self._settle(node.place, [other.place for other in network.nodes], extra)

    @contextmanager
    def datadir(self, nodes: int) -> Iterator[Path]:
        """A fresh copy of the first node's data directory, of which no node runs."""
        run = self.work / "runs" / str(next(self._runs))
        shutil.rmtree(run, ignore_errors=True)
        first = places(self._home(nodes), nodes, 0)[0]
        try:
            run.mkdir(parents=True)
            clone(first.datadir, run / first.datadir.name)
            yield run / first.datadir.name
        finally:
            if not self._keep:
                shutil.rmtree(run, ignore_errors=True)

    def clean(self) -> None:
        """Remove everything that was made here, and the directory if nothing else is in it."""
        if self._keep:
            return
        for name in ("runs", "devnet"):
            shutil.rmtree(self.work / name, ignore_errors=True)
        with suppress(OSError):
            self.work.rmdir()

    def _home(self, nodes: int) -> Path:
        return self.work / "devnet" / str(nodes)

    def _settle(self, place: Place, everybody: Sequence[Place], extra: Sections) -> None:
        template = self._home(len(everybody)) / place.name / place.datadir.name
        place.root.mkdir(parents=True)
        clone(template, place.datadir)
        shared = shared_machine(len(everybody), len(os.sched_getaffinity(0)))
        merged = {name: dict(values) for name, values in shared.items()}
        for name, values in ({"verify": {"backend": self.backend}} | dict(extra)).items():
            merged.setdefault(name, {}).update(values)
        configure(place, [other.peer for other in everybody if other != place], merged)


def run(
    work: Path, scale: DevnetScale, only: Sequence[str], tell: Tell, *, keep: bool
) -> DevnetOutcome:
    """Measure everything, or what ``only`` names; ``tell`` is given a line now and then.

    Raises BenchError if it cannot be done, BenchFailed if a network misbehaves.
    """
    found = describe(work)
    backend = _backend(tell)
    subjects, missing = choose(only, scale.nodes, backend)
    bench = DevnetBench(work, scale, backend, keep=keep)
    try:
        tell(f"{len(subjects)} subjects, {scale.rounds} round(s), networks of {scale.nodes}")
        sizes = {1 if subject is Subject.ALONE else scale.nodes for subject in subjects}
        for nodes in sorted(sizes):
            bench.prepare(nodes, tell)
        turns = _Turns(bench, subjects, tell)
        rounds = [turns.round(turn) for turn in range(1, scale.rounds + 1)]
    finally:
        bench.clean()
    declared = figures(scale.nodes, backend, scale.catch_up_blocks)
    of_rounds = [one["figures"] for one in rounds]
    found_figures = medians(of_rounds, declared) | pooled(of_rounds, prefix(scale.nodes))
    return DevnetOutcome(found_figures, found, rounds, scale, backend, missing)


def _backend(tell: Tell) -> BackendName:
    try:
        raw.measure(Kind.MB8, 0.05)
    except BenchError as error:
        tell(f"without avx512: {error}")
        return "nacl"
    return "avx512"


@dataclass
class _Turns:
    """The state between the rounds: what rates were measured so far."""

    bench: DevnetBench
    subjects: Sequence[Subject]
    tell: Tell
    _rates: dict[Subject, list[float]] = field(default_factory=dict)

    def round(self, turn: int) -> dict[str, Any]:
        """Measure every subject once; raw PyNaCl before and after the load flat out."""
        scale, backend = self.bench.scale, self.bench.backend
        names = keys(scale.nodes, backend)
        values: dict[str, float] = {}
        details: dict[str, Any] = {}
        raws: list[float] = []
        for subject in self.subjects:
            if subject is Subject.FLAT_OUT:
                raws.append(raw.measure(Kind.NACL, scale.raw_s))
            measured, details[subject.value] = self._measure(subject)
            if subject is Subject.FLAT_OUT:
                raws.append(raw.measure(Kind.NACL, scale.raw_s))
                values["raw.nacl_per_s"] = statistics.fmean(raws)
                measured = (measured[0], measured[0] / values["raw.nacl_per_s"])
            values |= dict(zip(names[subject], measured, strict=True))
            shown = [f"{name} {number(values[name])}" for name in names[subject]]
            self.tell(f"round {turn} of {scale.rounds}, {subject}: {', '.join(shown)}")
        return {
            "round": turn,
            "figures": {key: round(value, DIGITS) for key, value in values.items()},
            "raw_nacl_per_s": [round(value, 1) for value in raws],
            "subjects": details,
        }

    def _measure(self, subject: Subject) -> tuple[tuple[float, ...], dict[str, Any]]:
        """The values of a subject's keys, and what they were made from."""
        bench = self.bench
        match subject:
            case Subject.ALONE | Subject.FLAT_OUT:
                nodes = 1 if subject is Subject.ALONE else bench.scale.nodes
                rate, detail = flat_out(bench, nodes, self._rate(subject))
                self._rates.setdefault(subject, []).append(rate)
                return (rate,), detail
            case Subject.FINALITY:
                return finality(bench, HALF_LOAD * self._rate(Subject.FLAT_OUT))
            case Subject.OVERLOAD:
                return overload(bench, OVERLOAD * self._rate(Subject.FLAT_OUT))
            case Subject.REJOIN:
                return rejoin(bench, HALF_LOAD * self._rate(Subject.FLAT_OUT))
            case Subject.CATCH_UP:
                alone = self._rate(Subject.ALONE)
                rate, detail = catch_up(bench, HALF_LOAD * self._rate(Subject.FLAT_OUT))
                return (rate, rate / alone), detail
            case Subject.COLD:
                return cold(bench)
            case Subject.FLOOD:
                return flood(bench, MODEST_LOAD * self._rate(Subject.FLAT_OUT))

    def _rate(self, subject: Subject) -> float:
        """What a subject reaches: as measured in this run, or a guess to begin with."""
        known = self._rates.get(subject)
        if known:
            return statistics.median(known)
        return self.bench.scale.guess_per_s(subject, self.bench.backend)


def flat_out(bench: DevnetBench, nodes: int, guess_per_s: float) -> tuple[float, dict[str, Any]]:
    """Payments finalised per second, as fast as the network takes them."""
    transactions = bench.scale.count(guess_per_s, bench.room)
    with bench.network(nodes, {}) as network:
        parts = shares([node.place for node in network.nodes], transactions, None)
        limit = max(1, UNCONFIRMED // nodes)
        with Load(bench.chain(nodes), parts, "--max-unconfirmed", str(limit)) as load:
            reports = believed(load)
    rate = _per_s(reports)
    return rate, {**_loads(reports), "tx_per_s": round(rate, 1), "nodes": nodes}


def finality(bench: DevnetBench, rate_per_s: float) -> tuple[tuple[float, float], dict[str, Any]]:
    """Milliseconds from intended sending to the announcement by the node that was sent to: the
    median of the nodes' medians, and the greatest of their 99th percentiles.
    """
    transactions = bench.scale.count(rate_per_s, bench.room)
    nodes = bench.scale.nodes
    with bench.network(nodes, {"block": {"pace_ms": FINALITY_PACE_MS}}) as network:
        parts = shares([node.place for node in network.nodes], transactions, rate_per_s)
        with Load(bench.chain(nodes), parts) as load:
            reports = believed(load)
    found = [report["figures"] for report in reports]
    median_ms = statistics.median(float(each["final.p50_ms"]) for each in found)
    worst_ms = max(float(each["final.p99_ms"]) for each in found)
    detail = {**_loads(reports), "offered_per_s": round(rate_per_s, 1), "pace_ms": FINALITY_PACE_MS}
    return (median_ms, worst_ms), detail


def overload(bench: DevnetBench, rate_per_s: float) -> tuple[tuple[float, float], dict[str, Any]]:
    """Rounds that failed in a thousand blocks, at the node that counts most of them, while one
    node is offered more than the network can take; and the blocks in which they were counted.

    One network after the other sends all payments there are, until there are blocks enough.
    """
    nodes = bench.scale.nodes
    blocks, failed = [0] * nodes, [0] * nodes
    lives: list[dict[str, Any]] = []
    while min(blocks) < bench.scale.overload_blocks and len(lives) < OVERLOAD_LIVES:
        with bench.network(nodes, {}) as network:
            parts = shares([network.nodes[0].place], bench.room, rate_per_s)
            before = [see(node) for node in network.nodes]
            with Load(bench.chain(nodes), parts, "--allow-shedding", "--clients", "4") as load:
                lives.append(_loads(believed(load)))
            after = [see(node) for node in network.nodes]
        for each, (old, new) in enumerate(zip(before, after, strict=True)):
            blocks[each] += new.blocks - old.blocks
            failed[each] += new.rounds_failed - old.rounds_failed
        if not all(blocks):
            raise BenchFailed(f"a node made no block while {nodes} nodes were overloaded: {blocks}")
    most, counted = max(zip(failed, blocks, strict=True), key=lambda each: each[0] / each[1])
    detail = {
        "lives": lives,
        "offered_per_s": round(rate_per_s, 1),
        "blocks": blocks,
        "rounds_failed": failed,
    }
    return (1000.0 * most / counted, counted), detail


def pooled(rounds: Sequence[dict[str, float]], net: str) -> dict[str, float]:
    """The failed rounds of all rounds together, of which a median would say 0; by key."""
    rate, count = f"{net}.rounds_above_0_per_1000", f"{net}.overload_blocks"
    measured = [(each[rate], each[count]) for each in rounds if rate in each]
    if not measured:
        return {}
    blocks = sum(count for _, count in measured)
    return {rate: round(sum(r * n for r, n in measured) / blocks, DIGITS), count: blocks}


def rejoin(bench: DevnetBench, half_per_s: float) -> tuple[tuple[float], dict[str, Any]]:
    """Seconds from the start of a node that was killed under load until it signs again at the
    height of the others, which go on meanwhile; one block below it counts, for that is under way.
    """
    scale = bench.scale
    rate_per_s = scale.rejoin_per_s(half_per_s, bench.room)
    with bench.network(scale.nodes, {}) as network:
        *others, victim = network.nodes
        parts = shares([node.place for node in others], bench.room, rate_per_s)
        with Load(bench.chain(scale.nodes), parts) as load:
            time.sleep(scale.settle_s)
            victim.kill()
            left_at = see(others[0]).height
            time.sleep(scale.away_s)
            began_s = time.monotonic()
            victim.start()
            signed: int | None = None  # by the node when it was up to date
            while True:
                status = victim.status()
                height = max(see(node).height for node in others)
                if status is not None and _height(status) >= height - 1:
                    if signed is not None and _signatures(status) > signed:
                        break
                    signed = _signatures(status) if signed is None else signed
                _go_on(victim, began_s)
                if load.done:
                    raise BenchFailed("the load was over before the node was back")
            took_s = time.monotonic() - began_s
            load.stop()
            reports = believed(load, whole=False)
    detail = {
        **_loads(reports),
        "offered_per_s": round(rate_per_s, 1),
        "away_s": scale.away_s,
        "killed_at_height": left_at,
        "back_at_height": height,
        "signatures": _signatures(status),
    }
    return (took_s,), detail


def catch_up(bench: DevnetBench, half_per_s: float) -> tuple[float, dict[str, Any]]:
    """Payments committed per second by a node that begins at genesis while the others rest, from
    when it is ready to their height, which is that of the scale at least.

    It was there while the blocks were made, and lost all it had: with a validator away, every
    fourth block waits for its proposal, and a thousand take minutes.
    """
    scale = bench.scale
    rate_per_s = scale.catch_up_per_s(half_per_s, bench.room)
    pace: Sections = {"block": {"pace_ms": CATCH_UP_PACE_MS}}
    with bench.network(scale.nodes, pace) as network:
        *others, late = network.nodes
        parts = shares([node.place for node in others], bench.room, rate_per_s)
        with Load(bench.chain(scale.nodes), parts) as load:
            while see(others[0]).height < scale.catch_up_blocks:
                if load.done:
                    raise BenchFailed(f"{scale.catch_up_blocks:,} blocks took longer than the load")
                time.sleep(LOOK_S)
            load.stop()
            reports = believed(load, whole=False)
        late.kill()
        bench.renew(network, late, pace)
        goal = max(see(node).height for node in others)
        late.start()
        _wait_ready([late])
        began_s = time.monotonic()
        first = see(late)
        while (now := see(late)).height < goal:
            _go_on(late, began_s)
        took_s = time.monotonic() - began_s
    rate = (now.finalised - first.finalised) / took_s
    detail = {
        **_loads(reports),
        "offered_per_s": round(rate_per_s, 1),
        "pace_ms": CATCH_UP_PACE_MS,
        "blocks": now.height - first.height,
        "payments": now.finalised - first.finalised,
        "took_s": round(took_s, 3),
    }
    return rate, detail


def cold(bench: DevnetBench) -> tuple[tuple[float], dict[str, Any]]:
    """Milliseconds from the bytes of a block of unseen payments to its judgement, median, in one
    process: an upper bound of what a node's verifiers do in parallel.
    """
    nodes, blocks = bench.scale.nodes, bench.scale.cold_blocks
    with bench.datadir(nodes) as datadir:
        took_ms = cold_block.validate_ms(bench.chain(nodes), datadir, bench.backend, blocks)
    detail = {"payments": cold_block.PAYMENTS, "ms": [round(each, 3) for each in took_ms]}
    return (statistics.median(took_ms),), detail


def flood(bench: DevnetBench, modest_per_s: float) -> tuple[tuple[float], dict[str, Any]]:
    """The network's block rate under a modest load while hostile peers work on its first node, as
    a share of the rate just before; mean of the turns.

    That node may refuse payments for load meanwhile, but must not give a wrong answer. Blocks are
    counted by its neighbour.
    """
    scale, chain = bench.scale, bench.chain(bench.scale.nodes)
    rate_per_s = scale.flood_per_s(modest_per_s, bench.room - OLD_PAYMENTS)
    turns: list[dict[str, Any]] = []
    with bench.network(scale.nodes, {}) as network:
        target, observer = network.nodes[0].place, network.nodes[-1]
        with Load(chain, shares([target], OLD_PAYMENTS, None)) as old:
            believed(old)
        everybody = [node.place for node in network.nodes]
        parts = shares(everybody, bench.room - OLD_PAYMENTS, rate_per_s, OLD_PAYMENTS)
        with Load(chain, parts, "--allow-shedding") as load:
            for _ in range(FLOOD_TURNS):
                time.sleep(scale.settle_s)
                quiet = block_rate(lambda: see(observer).height, scale.seconds)
                if not quiet:
                    raise BenchFailed("no blocks, although nobody is hostile")
                with Hostile(target.peer, chain, OLD_PAYMENTS, target.root / "hostile.log") as foes:
                    foes.wait_ready()
                    flooded = block_rate(lambda: see(observer).height, scale.seconds)
                    turns.append({"quiet": quiet, "flooded": flooded, "hostile": foes.stop()})
                if load.done:
                    raise BenchFailed("the load was over before the hostile peers were")
            load.stop()
            reports = believed(load, whole=False)
    detail = {**_loads(reports), "offered_per_s": round(rate_per_s, 1), "turns": turns}
    return (statistics.fmean(each["flooded"] / each["quiet"] for each in turns),), detail


def block_rate(
    height: Callable[[], int],
    seconds: float,
    clock: Callable[[], float] = time.monotonic,
    sleep: Callable[[float], None] = time.sleep,
) -> float:
    """Blocks per second, from the coming of one block to that of another so many seconds later or
    more; to the end of the patience if none comes.
    """

    def next_block() -> tuple[int, float]:
        before, patience_s = height(), clock() + BLOCK_PATIENCE_S
        while (now := height()) == before and clock() < patience_s:
            sleep(LOOK_CLOSELY_S)
        return now, clock()

    first, began_s = next_block()
    sleep(seconds)
    last, ended_s = next_block()
    return (last - first) / (ended_s - began_s)


def see(node: Node) -> Sight:
    """What a node says of itself; raises BenchFailed if it does not."""
    status = node.status(ANSWER_S)
    if status is None:
        raise BenchFailed(f"{node.place.name} does not answer; see {node.place.log}")
    return sight(status)


def check_lives(network: Network) -> None:
    """Raise BenchFailed if a node, or a process of one, has died."""
    for node in network.nodes:
        if (how := node.ended()) is not None:
            raise BenchFailed(f"{node.place.name} {how}")
        status = node.status(ANSWER_S) if node.running else None
        died = [p["name"] for p in status["processes"] if p["restarts"]] if status else []
        if died:
            raise BenchFailed(f"{', '.join(died)} of {node.place.name} died")


def _wait_ready(nodes: Sequence[Node]) -> None:
    try:
        wait_ready(nodes)
    except DevnetError as error:
        raise BenchFailed(f"{error.cause}; --keep would keep its log") from None


def _height(status: Mapping[str, Any]) -> int:
    """A node's height, -1 while it starts."""
    return sight(status).height if status["state"] == "running" else -1


def _signatures(status: Mapping[str, Any]) -> int:
    """How often its signer has signed in this life."""
    values = (one["values"] for each in status["metrics"].values() for one in each
              if one["stage"] == "sign")  # fmt: skip
    return sum(int(each.get("signatures", 0)) for each in values)


def _go_on(node: Node, began_s: float) -> None:
    """Wait a moment for a node that catches up; raises BenchFailed if there is no hope."""
    if (how := node.ended()) is not None:
        raise BenchFailed(f"{node.place.name} {how}")
    if time.monotonic() - began_s > CATCH_UP_TIMEOUT_S:
        raise BenchFailed(
            f"{node.place.name} did not reach the others within {CATCH_UP_TIMEOUT_S:.0f} s"
        )
    time.sleep(LOOK_S)


def believed(load: Load, *, whole: bool = True) -> list[dict[str, Any]]:
    """Wait for the load's end; its reports, if every answer was right and all became final.

    ``whole``: everything was to be sent. Raises BenchFailed.
    """
    documents = []
    for report in load.reports(LOAD_TIMEOUT_S):
        if report.document is None:
            raise BenchFailed(f"{report.share.place.name}: {report.line()}")
        sent = report.share.count if whole else int(report.document["counts"]["sent"])
        check_report(report.document, sent)
        documents.append(report.document)
    return documents


def _per_s(reports: Sequence[dict[str, Any]]) -> float:
    """Payments finalised by the time from the first sending to the last finalisation."""
    finalised = sum(int(report["counts"]["finalised"]) for report in reports)
    return finalised / max(float(report["figures"]["load.elapsed_s"]) for report in reports)


def _loads(reports: Sequence[dict[str, Any]]) -> dict[str, Any]:
    return {"loads": [{**report["counts"], **report["figures"]} for report in reports]}
