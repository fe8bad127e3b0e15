"""A node that is made up, with stages that no node has: what the monitor shows must follow it."""

from __future__ import annotations

from typing import Any

import msgspec

from pipeline.metrics import STAGE_METRICS, Kind, Metric, MetricSet, StageSnapshot
from pipeline.topology import LinkPolicy, LinkSpec, Role, StageSpec, Topology, TrayDims
from pipeline.traytimes import tray_times
from tools.monitor.memory import Memory
from tools.monitor.observed import Key, Observation

NS = 1_000_000_000
TOPOLOGY = Topology(
    stages=(
        StageSpec("gate", "x:y", Role.INTAKE),
        StageSpec("mill", "x:y", Role.WORKER, count=2),
        StageSpec("vault", "x:y", Role.SINK),
        StageSpec("clerk", "x:y", Role.SIDE, expendable=True),
    ),
    links=(
        LinkSpec("grist", "gate", "mill", LinkPolicy.BLOCK, 8, "trays"),
        LinkSpec("done", "mill", "gate", LinkPolicy.BLOCK, 8, "word of them"),
        LinkSpec("flour", "mill", "vault", LinkPolicy.BLOCK, 8, "trays"),
        LinkSpec("back", "vault", "gate", LinkPolicy.BLOCK, 8, "trays"),
        LinkSpec("ask", "vault", "clerk", LinkPolicy.DROP, 8, "questions"),
        LinkSpec("tell", "clerk", "vault", LinkPolicy.DROP, 8, "answers"),
    ),
    trays=TrayDims(trays=8, tray_bytes=64, fill_bytes=64, max_items=4, verdict_bytes=64),
)


def stage_set(name: str, *metrics: Metric) -> MetricSet:
    return MetricSet.of(STAGE_METRICS, MetricSet(name, metrics))


SETS = {
    "gate": stage_set(
        "gate",
        Metric("trays_free", Kind.GAUGE, "trays", "Free"),
        Metric("trays_out", Kind.GAUGE, "trays", "Out"),
        Metric("verdict_admitted", Kind.COUNTER, "items", "Answered so"),
        Metric("verdict_conflict", Kind.COUNTER, "items", "Answered so"),
        Metric("clients_dropped", Kind.COUNTER, "clients", "Did not read"),
    ),
    "mill": stage_set(
        "mill", Metric("signatures", Kind.COUNTER, "", "Verified"), *tray_times("grinding")
    ),
    "vault": stage_set(
        "vault",
        Metric("height", Kind.GAUGE, "blocks", "Height"),
        Metric("final_ms", Kind.HISTOGRAM, "ms", "Finality", (10, 100, 1_000)),
    ),
    "clerk": stage_set("clerk", Metric("answers", Kind.GAUGE, "", "Answers that wait")),
}


class World:
    """The made-up node; tests change what it counts and look at it."""

    def __init__(self) -> None:
        self.now_s = 100.0
        self.life = 1
        self.topology = TOPOLOGY
        self.keys: list[Key] = [
            (stage.name, index) for stage in TOPOLOGY.stages for index in range(stage.count)
        ]
        self.incarnations = dict.fromkeys(self.keys, 1)
        self.values: dict[Key, dict[str, Any]] = {key: fresh(key[0]) for key in self.keys}
        self.extra: dict[str, Any] = {"chain": "dev", "version": "1"}
        self.events: list[dict[str, Any]] = []
        self.deaths: dict[Key, str] = {}

    def add(self, stage: str, name: str, amount: int, index: int = 0) -> None:
        self.values[stage, index][name] += amount

    def observe(self, stage: str, name: str, value: int, times: int = 1, index: int = 0) -> None:
        """Count a value in a histogram."""
        histogram = self.values[stage, index][name]
        bounds = histogram["bounds"]
        at = next((n for n, bound in enumerate(bounds) if value <= bound), len(bounds))
        histogram["buckets"][at] += times
        histogram["count"] += times
        histogram["sum"] += value * times

    def spend(self, stage: str, seconds: float, busy: float = 0.25, index: int = 0) -> None:
        """Account for time: busy, a hundredth housekeeping, the rest idle."""
        self.add(stage, "busy_ns", int(seconds * busy * NS), index)
        self.add(stage, "housekeeping_ns", int(seconds * 0.01 * NS), index)
        self.add(stage, "idle_ns", int(seconds * (0.99 - busy) * NS), index)

    def die(self, stage: str, index: int = 0) -> None:
        """The process dies; the next one goes on with its counters."""
        self.incarnations[stage, index] += 1
        self.deaths[stage, index] = "SIGKILL"

    def status(self) -> dict[str, Any]:
        topology: dict[str, Any] = msgspec.json.decode(msgspec.json.encode(self.topology))
        return {
            "state": "running",
            "pid": 4_000,
            "uptime_s": self.now_s - 40,
            "topology": topology,
            "processes": [self._process(*key) for key in self.keys],
            "extra": self.extra,
            "events": self.events,
        }

    def look(self) -> Observation:
        return Observation(
            at_s=self.now_s,
            unix_s=1_700_000_000 + self.now_s,
            name="~/made-up",
            life=self.life,
            status=self.status(),
            snapshots={key: self._snapshot(*key) for key in self.keys},
            last_cores={"gate": 1},
        )

    def absent(self, why: str) -> Observation:
        return Observation(self.now_s, 1_700_000_000 + self.now_s, "~/made-up", why)

    def _process(self, stage: str, index: int) -> dict[str, Any]:
        many = TOPOLOGY.stage(stage).count > 1
        cause = self.deaths.get((stage, index))
        return {
            "name": f"{stage}-{index}" if many else stage,
            "members": [[stage, index]],
            "state": "ready",
            "pid": 4_001 + self.keys.index((stage, index)),
            "restarts": self.incarnations[stage, index] - 1,
            "uptime_s": 61.5,
            "rss_mb": 30,
            "cores": [2] if stage == "vault" else [],
            "last_death": None if cause is None else {"cause": cause},
        }

    def _snapshot(self, stage: str, index: int) -> StageSnapshot:
        values = {
            name: value | {"buckets": list(value["buckets"])} if isinstance(value, dict) else value
            for name, value in self.values[stage, index].items()
        }
        incarnation = self.incarnations[stage, index]
        pid = 4_001 + self.keys.index((stage, index))
        return StageSnapshot(stage, index, pid, incarnation, incarnation - 1, SETS[stage], values)


def fresh(stage: str) -> dict[str, Any]:
    """All metrics of a stage at zero."""
    values: dict[str, Any] = {}
    for metric in SETS[stage].metrics:
        values[metric.name] = 0
        if metric.kind is Kind.HISTOGRAM:
            buckets = [0] * (len(metric.buckets) + 1)
            values[metric.name] = {
                "bounds": list(metric.buckets),
                "buckets": buckets,
                "count": 0,
                "sum": 0,
            }
    return values


def remembered(*looks: Observation) -> Memory:
    memory = Memory()
    for look in looks:
        memory.observe(look)
    return memory
