"""Samples of a running node, and what two of them say about the time between.

A sample is what every process has used and counted so far; differences give rates, costs and lags.
Pure: numbers in, numbers out.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pipeline.metrics import percentile
from tools.bench.errors import BenchFailed

NS_PER_US = 1_000
NS_PER_MS = 1_000_000


@dataclass(frozen=True, slots=True)
class Sample:
    """One look at a node.

    ``cpu_ns`` by process ("net", "verify-0", "supervisor", ...), ``stages`` the metrics' values by
    (stage, index), ``pss_bytes`` of all processes together where that was looked at.
    """

    at_ns: int
    cpu_ns: Mapping[str, int]
    stages: Mapping[tuple[str, int], Mapping[str, Any]]
    pss_bytes: int | None = None

    def total(self, stage: str, name: str) -> int:
        """A counter of a stage, summed over its instances."""
        return sum(values[name] for (one, _), values in self.stages.items() if one == stage)


def loaded(samples: Sequence[Sample]) -> Sequence[Sample]:
    """The samples from the last one before the load to the first one with everything final.

    Raises BenchFailed if they show no load.
    """
    taken = [sample.total("net", "items_in") for sample in samples]
    final = [sample.total("consensus", "items_out") for sample in samples]
    begin = max((i for i, n in enumerate(taken) if n == taken[0]), default=0)
    end = next((i for i, n in enumerate(final) if n == final[-1]), 0)
    if begin >= end:
        raise BenchFailed("the node's counters show no load")
    return samples[begin : end + 1]


def cpu_us_per_tx(first: Sample, last: Sample) -> dict[str, float]:
    """CPU of each stage, and of the supervisor with its helpers, for each transaction of the load.

    All are divided by the same number, what ``net`` answered: what a stage itself counts may be
    something else, as signatures are in ``sign``. Instances of a stage are added up. Empty if
    nothing was answered.
    """
    transactions = last.total("net", "items_out") - first.total("net", "items_out")
    if transactions <= 0:
        return {}
    used_ns: dict[str, int] = {}
    for process, end_ns in last.cpu_ns.items():
        stage, dash, index = process.rpartition("-")
        name = stage if dash and index.isdigit() else process
        used_ns[name] = used_ns.get(name, 0) + end_ns - first.cpu_ns[process]
    return {name: spent_ns / NS_PER_US / transactions for name, spent_ns in used_ns.items()}


def cpu_percent(first: Sample, last: Sample) -> float:
    """CPU of all processes together between two samples, in percent of one core."""
    spent_ns = sum(last.cpu_ns.values()) - sum(first.cpu_ns.values())
    return 100.0 * spent_ns / (last.at_ns - first.at_ns)


@dataclass(frozen=True, slots=True)
class Lag:
    """How late a stage's loop was; an upper bound where the histogram knows no better."""

    p99_ms: float
    max_ms: float


def lag(first: Sample, last: Sample, stage: str) -> Lag:
    """Lag of the only instance of a stage between two samples.

    The 99th percentile is a bound of the histogram's bucket. The maximum is exact if it grew in
    this time; otherwise it was somewhere in the highest bucket in use. Raises BenchFailed if the
    loop was never active.
    """
    before, after = first.stages[stage, 0], last.stages[stage, 0]
    old, new = before["loop_gap"], after["loop_gap"]
    buckets = [b - a for a, b in zip(old["buckets"], new["buckets"], strict=True)]
    count = sum(buckets)
    if not count:
        raise BenchFailed(f"the loop of {stage} was never looked at")
    worst_ns = float(after["lag_max_ns"])
    if after["lag_max_ns"] <= before["lag_max_ns"]:
        highest = max(i for i, n in enumerate(buckets) if n)
        worst_ns = min(worst_ns, (*new["bounds"], math.inf)[highest])
    p99_ns = percentile({"bounds": new["bounds"], "buckets": buckets, "count": count}, 0.99)
    return Lag(min(p99_ns, worst_ns) / NS_PER_MS, worst_ns / NS_PER_MS)
