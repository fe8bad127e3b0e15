"""The view model: everything that can be shown of one node, as plain values.

Built from what the monitor remembers of a node; drawn by `panes`, written out by `document`. Which
stages, processes, links and metrics there are comes from the topology and the declarations that
came with the snapshots, so nothing here goes stale when a stage is added. Pure.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from pipeline.topology import Role, Topology
from tools.monitor.figures import TRAYS, TRENDS, Agreement, agreement, keys_of, rejections
from tools.monitor.memory import Memory
from tools.monitor.observed import Observation
from tools.monitor.rates import Change, Quantiles, Shares

WAIT, SERVICE, LAG = "wait_us", "service_us", "loop_gap"
FINALITY = "final_ms"
_UNPRINTABLE = re.compile(r"[\x00-\x1f\x7f-\x9f\u200b-\u200f\u2028-\u202e\u2066-\u2069\ufeff]")


@dataclass(frozen=True, slots=True)
class ProcessRow:
    """One instance of a stage, in its process; None is what cannot be said now."""

    stage: str
    index: int
    role: str
    process: str
    state: str
    pid: int | None
    pinned: tuple[int, ...]  # cores; empty: any
    last_core: int | None
    uptime_s: float | None
    restarts: int
    memory_mb: int
    shares: Shares | None
    in_per_s: float | None
    out_per_s: float | None
    busy_us_per_item: float | None
    wait: Quantiles | None
    service: Quantiles | None
    lag: Quantiles | None
    last_death: str

    @property
    def label(self) -> str:
        """Of the instance, told from the process' name where several share that."""
        alone = self.process in (self.stage, f"{self.stage}-{self.index}")
        return self.process if alone else f"{self.process}/{self.stage}"


@dataclass(frozen=True, slots=True)
class StageBox:
    """A stage as a whole, for the conveyor."""

    name: str
    role: str
    count: int
    ready: int
    shares: Shares | None
    in_per_s: float | None
    out_per_s: float | None


@dataclass(frozen=True, slots=True)
class Flow:
    """What goes over a link; None where the stages do not tell."""

    link: str
    source: str
    target: str
    policy: str
    carries: str
    items_per_s: float | None


@dataclass(frozen=True, slots=True)
class Rejection:
    """Items that a stage turned away for one cause, since it counts."""

    stage: str
    cause: str
    total: int
    per_s: float | None


@dataclass(frozen=True, slots=True)
class Latency:
    """One declared histogram."""

    stage: str
    index: int
    name: str
    help: str
    lately: Quantiles | None


@dataclass(frozen=True, slots=True)
class Reading:
    """One declared counter or gauge."""

    stage: str
    index: int
    name: str
    unit: str
    help: str
    value: int
    per_s: float | None


@dataclass(frozen=True, slots=True)
class Event:
    """What the supervisor had to say."""

    unix_s: float
    level: str
    event: str
    facts: tuple[tuple[str, str], ...]


@dataclass(frozen=True, slots=True)
class NodeView:
    """Everything of one node. Where ``absent`` says why there is none, the rest is empty."""

    name: str
    unix_s: float
    absent: str | None
    state: str = ""
    pid: int | None = None
    uptime_s: float | None = None
    status_age_s: float = 0.0
    about: Mapping[str, str] = field(default_factory=dict)
    agreement: Agreement | None = None
    finality: Quantiles | None = None
    rows: tuple[ProcessRow, ...] = ()
    boxes: tuple[StageBox, ...] = ()
    flows: tuple[Flow, ...] = ()
    trays: tuple[tuple[str, int], ...] = ()
    rejections: tuple[Rejection, ...] = ()
    latencies: tuple[Latency, ...] = ()
    readings: tuple[Reading, ...] = ()
    events: tuple[Event, ...] = ()
    trends: Mapping[str, tuple[float | None, ...]] = field(default_factory=dict)


def describe(memory: Memory) -> NodeView:
    """The view of a node that was looked at, at least once."""
    look = memory.last
    assert look is not None, "it was looked at"
    trends = {name: tuple(memory.trend(name)) for name in TRENDS}
    recent, lately, topology = memory.recent(), memory.lately(), memory.topology()
    name = printable(look.name)
    if look.absent is not None or recent is None or lately is None:
        why = printable(look.absent or "nothing is known yet")
        return NodeView(name, look.unix_s, why, trends=trends)
    if topology is None:
        why = "its status is not understood; use the time-monitor of the version that runs there"
        return NodeView(name, look.unix_s, why, trends=trends)
    status = look.status
    rows = tuple(_rows(look, topology, recent, lately))
    sinks = keys_of(topology, Role.SINK)
    finalities = [each for key in sinks if (each := lately.quantiles(key, FINALITY))]
    return NodeView(
        name=name,
        unix_s=look.unix_s,
        absent=None,
        state=printable(status.get("state", "")),
        pid=status.get("pid"),
        uptime_s=status.get("uptime_s"),
        status_age_s=look.status_age_s,
        about={key: printable(value) for key, value in status.get("extra", {}).items()},
        agreement=agreement(look),
        finality=finalities[0] if finalities else None,
        rows=rows,
        boxes=tuple(_boxes(topology, rows, recent)),
        flows=tuple(_flows(topology, recent)),
        trays=tuple(_trays(look, topology)),
        rejections=tuple(_rejections(look, topology, recent)),
        latencies=tuple(_latencies(look, lately)),
        readings=tuple(_readings(look, recent)),
        events=tuple(_events(status.get("events", ()))),
        trends=trends,
    )


def printable(value: Any) -> str:
    """Text without what could move a cursor or turn the writing round."""
    return _UNPRINTABLE.sub("?", str(value))


def _rows(
    look: Observation, topology: Topology, recent: Change, lately: Change
) -> Iterator[ProcessRow]:
    roles = {stage.name: stage.role for stage in topology.stages}
    for process in look.status.get("processes", ()):
        name = process["name"]
        for stage, index in process["members"]:
            key = (stage, index)
            snapshot = look.snapshots.get(key)
            death = process["last_death"]
            working = process["pid"] is not None
            yield ProcessRow(
                stage=stage,
                index=index,
                role=str(roles.get(stage, Role.SIDE)),
                process=name,
                state=process["state"],
                pid=process["pid"],
                pinned=tuple(process["cores"]),
                last_core=look.last_cores.get(name),
                uptime_s=process["uptime_s"],
                restarts=max(process["restarts"], snapshot.restarts if snapshot else 0),
                memory_mb=process["rss_mb"],
                shares=recent.shares(key) if working else None,
                in_per_s=recent.per_s(key, "items_in"),
                out_per_s=recent.per_s(key, "items_out"),
                busy_us_per_item=recent.busy_us_per_item(key),
                wait=lately.quantiles(key, WAIT),
                service=lately.quantiles(key, SERVICE),
                lag=lately.quantiles(key, LAG),
                last_death="" if death is None else printable(death["cause"]),
            )


def _boxes(topology: Topology, rows: tuple[ProcessRow, ...], recent: Change) -> Iterator[StageBox]:
    for stage in topology.stages:
        keys = [(stage.name, index) for index in range(stage.count)]
        yield StageBox(
            name=stage.name,
            role=str(stage.role),
            count=stage.count,
            ready=sum(row.stage == stage.name and row.state == "ready" for row in rows),
            shares=recent.mean_shares(keys),
            in_per_s=recent.sum_per_s(keys, "items_in"),
            out_per_s=recent.sum_per_s(keys, "items_out"),
        )


def _flows(topology: Topology, recent: Change) -> Iterator[Flow]:
    for link in topology.links:
        yield Flow(
            link.name,
            link.source,
            link.target,
            str(link.policy),
            link.carries,
            _items_per_s(topology, recent, link.name),
        )


def _items_per_s(topology: Topology, recent: Change, name: str) -> float | None:
    """Items over a link, as far as roles and the ends' counters tell.

    The circle of trays: all that a worker takes in came from the intake, all that it puts out goes
    to the sink, and what the sink takes in it returns. Elsewhere a link carries what its target
    takes in, or its source puts out, if that has no other link.
    """
    link = next(each for each in topology.links if each.name == name)
    source, target = topology.stage(link.source), topology.stage(link.target)
    ring = {
        (Role.INTAKE, Role.WORKER): (target.name, "items_in"),
        (Role.WORKER, Role.SINK): (source.name, "items_out"),
        (Role.SINK, Role.INTAKE): (source.name, "items_in"),
    }
    told: tuple[str, str] | None = None
    if (source.role, target.role) in ring:
        same = [
            each
            for each in topology.links
            if (each.source, each.target, each.policy) == (link.source, link.target, link.policy)
        ]
        if same[0] is link and link.policy == "block":
            told = ring[source.role, target.role]
    elif target.role is Role.SIDE and _alone(topology, target=target.name):
        told = target.name, "items_in"
    elif source.role is Role.SIDE and _alone(topology, source=source.name):
        told = source.name, "items_out"
    if told is None:
        return None
    stage, counter = told
    keys = [(stage, index) for index in range(topology.stage(stage).count)]
    return recent.sum_per_s(keys, counter)


def _alone(topology: Topology, source: str = "", target: str = "") -> bool:
    return sum(source == link.source or target == link.target for link in topology.links) == 1


def _trays(look: Observation, topology: Topology) -> Iterator[tuple[str, int]]:
    """How many trays are in each state: the gauges of the intake that are called so."""
    for key in keys_of(topology, Role.INTAKE):
        snapshot = look.snapshots.get(key)
        if snapshot is None:
            continue
        for metric in snapshot.metrics.metrics:
            if metric.kind == "gauge" and metric.name.startswith(TRAYS):
                yield metric.name.removeprefix(TRAYS), int(snapshot.values[metric.name])


def _rejections(look: Observation, topology: Topology, recent: Change) -> Iterator[Rejection]:
    for stage in topology.stages:
        keys = [(stage.name, n) for n in range(stage.count) if (stage.name, n) in look.snapshots]
        if not keys:
            continue
        metrics = look.snapshots[keys[0]].metrics.metrics
        counters = [metric.name for metric in metrics if metric.kind == "counter"]
        for name, cause in rejections(counters):
            total = sum(int(look.snapshots[key].values.get(name, 0)) for key in keys)
            yield Rejection(stage.name, cause, total, recent.sum_per_s(keys, name))


def _latencies(look: Observation, lately: Change) -> Iterator[Latency]:
    for (stage, index), snapshot in look.snapshots.items():
        for metric in snapshot.metrics.metrics:
            if metric.kind == "histogram":
                found = lately.quantiles((stage, index), metric.name)
                yield Latency(stage, index, metric.name, printable(metric.help), found)


def _readings(look: Observation, recent: Change) -> Iterator[Reading]:
    for key, snapshot in look.snapshots.items():
        for metric in snapshot.metrics.metrics:
            if metric.kind == "histogram":
                continue
            counts = metric.kind == "counter"
            yield Reading(
                *key,
                name=metric.name,
                unit=metric.unit,
                help=printable(metric.help),
                value=int(snapshot.values[metric.name]),
                per_s=recent.per_s(key, metric.name) if counts else None,
            )


def _events(told: Any) -> Iterator[Event]:
    for each in told:
        facts = tuple((printable(k), printable(v)) for k, v in each["facts"].items())
        yield Event(each["unix_s"], each["level"], printable(each["event"]), facts)
