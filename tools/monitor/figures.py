"""The node in a few figures: what certain metrics mean, whichever stage declares them.

Metrics are found by name and role in the snapshots; no stage is known here by its name. Pure.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Final

from node.consensus.core import Step
from node.verdict import Verdict
from pipeline.topology import Role, Topology
from tools.monitor.observed import Key, Observation
from tools.monitor.rates import Change, Quantiles

TRENDS: Final[Mapping[str, str]] = {
    "final": "tx/s",
    "signatures": "sig/s",
    "loop lag": "ms p99",
    "finality": "ms p50",
}
"""What is drawn over time, and its unit."""

REJECTING: Final = frozenset(
    {"rejected", "refused", "dropped", "lost", "unwanted", "blamed", "quarantined", "failed"}
)
"""A counter with one of these words in its name counts what was turned away or went wrong."""

REJECTED: Final = "rejected"
ALL_CAUSES: Final = "all causes together"
"""Of a counter of this name; elsewhere in the circle the same items are counted by cause."""

VERDICT: Final = "verdict_"
"""Counters of answers begin so; those of verdicts that do not hold the item are rejections."""

TRAYS: Final = "trays_"

READY: Final = "ready"
"""The state of a process that works."""


@dataclass(frozen=True, slots=True)
class Agreement:
    """Where agreement is; None where no stage has said it yet."""

    height: int | None
    round: int | None
    step: str | None
    voting: int | None
    validators: int | None
    peers: int | None
    mempool: int | None
    sync: str
    well: bool


def keys_of(topology: Topology, role: Role) -> list[Key]:
    """The instances of the stages with a role."""
    return [
        (stage.name, index)
        for stage in topology.stages
        if stage.role is role
        for index in range(stage.count)
    ]


def gauge(look: Observation, name: str) -> int | None:
    """A gauge by name, of the first stage that declares it and is ready; None if none is: what a
    dead stage has left, or one that starts has not set yet, is no figure.
    """
    states = _states(look)
    for key, snapshot in look.snapshots.items():
        if states.get(key) == READY and _has(snapshot.values, name):
            return int(snapshot.values[name])
    return None


def _has(values: Mapping[str, Any], name: str) -> bool:
    return name in values and not isinstance(values[name], Mapping)


def _states(look: Observation) -> dict[Key, str]:
    """The state of the process of each stage."""
    return {
        (stage, index): process["state"]
        for process in look.status.get("processes", ())
        for stage, index in process["members"]
    }


def agreement(look: Observation) -> Agreement:
    """What the metrics say of heights, rounds and peers."""
    step = gauge(look, "step")
    known = {each.value: each.name.lower().replace("_", " ") for each in Step}
    sync, well = _sync(look)
    return Agreement(
        height=gauge(look, "height"),
        round=gauge(look, "round"),
        step=None if step is None else known.get(step, str(step)),
        voting=gauge(look, "validators_voting"),
        validators=gauge(look, "validators"),
        peers=gauge(look, "peers"),
        mempool=gauge(look, "mempool_items"),
        sync=sync,
        well=well,
    )


def _sync(look: Observation) -> tuple[str, bool]:
    """Whether the node is where the others are, in two words."""
    height, best = gauge(look, "height"), gauge(look, "peers_height")
    voting, validators = gauge(look, "validators_voting"), gauge(look, "validators")
    if height is None:
        states = _states(look)
        deciding = [
            key for key, snapshot in look.snapshots.items() if _has(snapshot.values, "height")
        ]
        return next((states[key] for key in deciding if key in states), "not known"), False
    if gauge(look, "behind"):
        return f"{max(0, (best or 0) - height):,} behind", False
    if validators and voting is not None and 3 * voting <= 2 * validators:
        return "waits for votes", False
    return "in step", True


def trend_values(topology: Topology, change: Change) -> dict[str, float | None]:
    """The figures of ``TRENDS`` now."""
    sinks, workers = keys_of(topology, Role.SINK), keys_of(topology, Role.WORKER)
    lags = [change.quantiles(key, "loop_gap") for key in keys_of(topology, Role.INTAKE)]
    finalities = [change.quantiles(key, "final_ms") for key in sinks]
    return {
        "final": change.sum_per_s(sinks, "items_out"),
        "signatures": change.sum_per_s(workers, "signatures"),
        "loop lag": max((_or_above(each, "p99_ms") for each in lags if each), default=None),
        "finality": max((_or_above(each, "p50_ms") for each in finalities if each), default=None),
    }


def rejections(names: Iterable[str]) -> list[tuple[str, str]]:
    """Of the names of a stage's counters those that count rejections, each with its cause."""
    held = {verdict.name.lower() for verdict in Verdict if verdict.held}
    found = []
    for name in names:
        if name.startswith(VERDICT):
            if (cause := name.removeprefix(VERDICT)) not in held:
                found.append((name, cause.replace("_", " ")))
        elif not REJECTING.isdisjoint(name.split("_")):
            found.append((name, ALL_CAUSES if name == REJECTED else name.replace("_", " ")))
    return found


def _or_above(found: Quantiles, which: str) -> float:
    value: Any = getattr(found, which)
    return found.above_ms if value is None else float(value)
