"""How each part of the surface is measured: a node life each, on a fresh copy of a data directory
(the unit of the service needs no node).

What is compared runs in phases in turns, within one life and one load, so that both sides see the
same node and the same minute. Every answer over JSON-RPC and every verdict is checked; nothing is
believed of a node that gave a wrong one, lost a process or did not stop with 0.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from tools.bench.caller import Caller, Counted, Run, Server, server_of
from tools.bench.errors import BenchFailed
from tools.bench.exposure import UNIT, exposure
from tools.bench.load import RunningLoad, verdict_latencies_ns
from tools.bench.nodes import RunningNode
from tools.bench.onlooker import Onlooker
from tools.bench.plan import BackendName, WorkloadNeed
from tools.bench.samples import NS_PER_US, Sample
from tools.bench.surface_plan import (
    BATCH,
    CLIENTS,
    LIVES,
    ORDER,
    SENDERS,
    STEADY_CLIENTS,
    STEADY_PER_S,
    SurfaceScale,
)
from tools.bench.trivial import Trivial
from tools.bench.workloads import Workbench

BLOCK_PATIENCE_S: Final = 5.0  # a node that makes no block for so long at full load has stopped
FINAL_PATIENCE_S: Final = 30.0
LOOK_S: Final = 0.01
LEAST_FRAMES_PER_S: Final = 1.0  # of the four that are asked for: less is no monitor
NS_PER_S: Final = 1_000_000_000

Measured = tuple[tuple[float, ...], dict[str, Any]]
"""The values of a subject's keys, and what they were made from."""

Wait = Callable[[float], None]


@dataclass(slots=True)
class Phase:
    """One side of a comparison for a while: ``wait`` lets time pass, ``detail`` is filled in."""

    wait: Wait = time.sleep
    detail: dict[str, Any] = field(default_factory=dict)


Side = Callable[[RunningNode], AbstractContextManager[Phase]]


@dataclass(frozen=True, slots=True)
class Surface:
    """What all subjects need: where nodes come from, whom calls are compared with, who calls."""

    bench: Workbench
    need: WorkloadNeed
    backend: BackendName
    scale: SurfaceScale
    trivial: Trivial
    caller: Caller

    @property
    def workload(self) -> Path:
        """The payments of the chain."""
        return self.bench.workload(self.need)

    @contextmanager
    def node(self, needed: WorkloadNeed | None = None) -> Iterator[RunningNode]:
        """A node of its own, ready; on the chain of the shared workload unless another is named."""
        sections: dict[str, dict[str, str | int]] = {"verify": {"backend": self.backend}}
        with (
            self.bench.datadir(needed or self.need, sections) as datadir,
            RunningNode(datadir) as node,
        ):
            yield node

    @contextmanager
    def load(self, node: RunningNode) -> Iterator[RunningLoad]:
        """The greatest load on a node, settled; it ends in order, with every verdict right."""
        per_s = self.scale.load_per_s
        options = () if per_s is None else ("--rate", str(per_s))
        with RunningLoad(node, self.workload, self.need.transactions, *options) as load:
            wait_block(node, load, time.sleep)
            time.sleep(self.scale.settle_s)
            yield load
            load.finish()


def calls(surface: Surface) -> Measured:
    """getblockcount over many connections, the node's and the bare handler's in turns."""
    found: dict[str, list[Counted]] = {"trivial": [], "node": []}
    cpu_ns = dict.fromkeys(("rpc", "consensus", "trivial"), 0)
    with surface.node() as node:
        make_block(surface, node)
        servers = {"trivial": surface.trivial.server, "node": server_of(node.datadir)}
        for side in ORDER:
            name = ("trivial", "node")[side]
            surface.caller.begin(Run(servers[name], CLIENTS))
            before, trivial_ns = node.sample(), surface.trivial.cpu_ns
            time.sleep(surface.scale.phase_s)
            counted = surface.caller.end()
            found[name].append(counted)
            if name == "node":
                after = node.sample()
                for process in ("rpc", "consensus"):
                    cpu_ns[process] += after.cpu_ns[process] - before.cpu_ns[process]
            else:
                cpu_ns["trivial"] += surface.trivial.cpu_ns - trivial_ns
    answers = {name: sum(each.answers for each in them) for name, them in found.items()}
    per_s = {name: rate(them) for name, them in found.items()}
    values = (
        per_s["node"] / per_s["trivial"],
        per_s["node"],
        per_s["trivial"],
        cpu_ns["rpc"] / NS_PER_US / answers["node"],
        cpu_ns["consensus"] / NS_PER_US / answers["node"],
        cpu_ns["trivial"] / NS_PER_US / answers["trivial"],
        sum(each.cpu_s for each in found["node"]) * 1e6 / answers["node"],
    )
    return values, {name: [each.as_json() for each in them] for name, them in found.items()}


def latency(surface: Surface) -> Measured:
    """How long a question takes at a steady rate while the node takes the greatest load; the bare
    handler is asked at the same time, by a client of its own.
    """
    with surface.node() as node, surface.load(node) as load:
        log = node.datadir.with_name("caller.log")
        with Caller(log) as other:
            for caller, server in (
                (surface.caller, server_of(node.datadir)),
                (other, surface.trivial.server),
            ):
                caller.begin(Run(server, STEADY_CLIENTS, STEADY_PER_S))
            finalised = finalised_while(node, load, surface.scale.seconds, time.sleep)
            asked, bare = surface.caller.end(), other.end()
    values = (
        asked.latency_ms["p99"],
        asked.latency_ms["p50"],
        bare.latency_ms["p99"],
        bare.latency_ms["p50"],
        finalised.per_s,
    )
    return values, {
        "per_s": STEADY_PER_S,
        "node": asked.as_json(),
        "trivial": bare.as_json(),
        "finalised": finalised.as_json(),
    }


def sending(surface: Surface) -> Measured:
    """Payments that wallets send over JSON-RPC: accepted a second; all of them become final."""
    with surface.node() as node:
        run = Run(
            server_of(node.datadir), SENDERS, workload=str(surface.workload), batch=BATCH
        )  # fmt: skip
        first = node.sample()
        surface.caller.begin(run)
        before = node.sample()
        time.sleep(surface.scale.seconds)
        after = node.sample()
        counted = surface.caller.end()
        wait_final(node, first, counted.units_in_all)
    accepted = counted.per_s * (after.at_ns - before.at_ns) / NS_PER_S
    rpc_us = (after.cpu_ns["rpc"] - before.cpu_ns["rpc"]) / NS_PER_US / accepted
    return (counted.per_s, rpc_us, counted.cpu_us), {"counted": counted.as_json()}


def flood(surface: Surface) -> Measured:
    """Payments finalised flat out while clients flood rpc, beside the same flood elsewhere."""
    trivial, rpc = compare(
        surface,
        lambda node: _flooding(surface, surface.trivial.server),
        lambda node: _flooding(surface, server_of(node.datadir)),
    )
    flooded = [
        sum(each["calls"]["answers"] for each in side.details)
        / sum(each["calls"]["elapsed_s"] for each in side.details)
        for side in (rpc, trivial)
    ]
    detail = {"trivial": trivial.as_json(), "rpc": rpc.as_json()}
    return (rpc.per_s / trivial.per_s, rpc.per_s, trivial.per_s, *flooded), detail


def monitor(surface: Surface) -> Measured:
    """Payments finalised flat out with a time-monitor attached, beside those without."""
    alone, watched = compare(surface, lambda node: _alone(), lambda node: _watched(node.datadir))
    seconds = sum(each["seconds"] for each in watched.details)
    cpu_percent = 100.0 * sum(each["cpu_s"] for each in watched.details) / seconds
    frames_per_s = sum(each["frames"] for each in watched.details) / seconds
    if frames_per_s < LEAST_FRAMES_PER_S:
        raise BenchFailed(f"time-monitor drew {frames_per_s:.2f} frames a second, which is none")
    values = (watched.per_s / alone.per_s, watched.per_s, alone.per_s, cpu_percent, frames_per_s)
    return values, {"without": alone.as_json(), "watched": watched.as_json()}


def start(surface: Surface) -> Measured:
    """How long ``timed run`` takes until the node is ready, as ``time-bench node`` measures it."""
    needed = surface.scale.start_need
    with surface.node(needed) as node:
        return (node.ready_s,), {"outputs": needed.outputs}


def unit(surface: Surface) -> Measured:
    """What systemd thinks of the unit."""
    return (exposure(UNIT),), {"unit": str(UNIT)}


@contextmanager
def _alone() -> Iterator[Phase]:
    yield Phase()


@contextmanager
def _watched(datadir: Path) -> Iterator[Phase]:
    with Onlooker(datadir) as onlooker:
        onlooker.wait_ready()
        began_s, cpu_ns, frames = time.monotonic(), onlooker.cpu_ns, onlooker.frames
        phase = Phase(onlooker.wait)
        yield phase
        phase.detail = {
            "seconds": time.monotonic() - began_s,
            "cpu_s": (onlooker.cpu_ns - cpu_ns) / NS_PER_S,
            "frames": onlooker.frames - frames,
        }
        onlooker.stop()


@contextmanager
def _flooding(surface: Surface, server: Server) -> Iterator[Phase]:
    surface.caller.begin(Run(server, CLIENTS))
    phase = Phase()
    yield phase
    phase.detail = {"calls": surface.caller.end().as_json()}


# -- payments that become final while something goes on ------------------------------------------


@dataclass(frozen=True, slots=True)
class Finalised:
    """Payments that became final from the coming of one block to that of another."""

    payments: int
    elapsed_s: float

    @property
    def per_s(self) -> float:
        """A second."""
        return self.payments / self.elapsed_s

    def as_json(self) -> dict[str, float]:
        """For the detail of a round."""
        return {
            "payments": self.payments,
            "elapsed_s": round(self.elapsed_s, 4),
            "per_s": round(self.per_s, 1),
        }


@dataclass(slots=True)
class SideSum:
    """All phases of one side."""

    phases: list[Finalised] = field(default_factory=list)
    details: list[dict[str, Any]] = field(default_factory=list)

    @property
    def per_s(self) -> float:
        """Payments a second over all of them."""
        return sum(each.payments for each in self.phases) / sum(
            each.elapsed_s for each in self.phases
        )

    def as_json(self) -> list[dict[str, Any]]:
        """For the detail of a round: a row a phase."""
        return [
            phase.as_json() | detail
            for phase, detail in zip(self.phases, self.details, strict=True)
        ]


def compare(surface: Surface, *sides: Side) -> list[SideSum]:
    """What became final with each of the two sides, in phases in turns, in two lives of a node."""
    sums = [SideSum() for _ in sides]
    for order in LIVES:
        with surface.node() as node, surface.load(node) as load:
            for number in order:
                with sides[number](node) as phase:
                    phase.wait(surface.scale.begin_s)
                    finalised = finalised_while(node, load, surface.scale.phase_s, phase.wait)
                sums[number].phases.append(finalised)
                sums[number].details.append(phase.detail)
    return sums


def finalised_while(node: RunningNode, load: RunningLoad, seconds: float, wait: Wait) -> Finalised:
    """What becomes final in so many seconds or a little more, from one block to another."""
    first = wait_block(node, load, wait)
    wait(seconds)
    last = wait_block(node, load, wait)
    payments = last.total("consensus", "items_out") - first.total("consensus", "items_out")
    return Finalised(payments, (last.at_ns - first.at_ns) / NS_PER_S)


def wait_block(node: RunningNode, load: RunningLoad, wait: Wait) -> Sample:
    """Wait until more of a load is final; returns the node as it was then. Raises BenchFailed."""
    before = node.sample().total("consensus", "items_out")
    deadline_s = time.monotonic() + BLOCK_PATIENCE_S
    while (now := node.sample()).total("consensus", "items_out") == before:
        load.check()
        if time.monotonic() > deadline_s:
            raise BenchFailed(f"nothing became final for {BLOCK_PATIENCE_S:g} s")
        wait(LOOK_S)
    return now


def make_block(surface: Surface, node: RunningNode) -> None:
    """Let a payment become final: a chain without a block is not what anybody asks about."""
    before = node.sample()
    verdict_latencies_ns(node, surface.workload, 0, 1, 0.0)
    wait_final(node, before, 1)


def wait_final(node: RunningNode, first: Sample, payments: int) -> None:
    """Wait until so many payments more than at first are final; raises BenchFailed."""
    goal = first.total("consensus", "items_out") + payments
    deadline_s = time.monotonic() + FINAL_PATIENCE_S
    while (final := node.sample().total("consensus", "items_out")) != goal:
        if final > goal or time.monotonic() > deadline_s:
            raise BenchFailed(f"{payments:,} payments were accepted, {final:,} are final")
        time.sleep(LOOK_S)


def rate(found: Sequence[Counted]) -> float:
    """Units a second over several runs."""
    return sum(each.units for each in found) / sum(each.elapsed_s for each in found)
