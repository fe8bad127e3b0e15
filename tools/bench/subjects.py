"""How each kind of subject is measured: one node life each, on a fresh copy of a data directory.

A real node is started, loaded by a real load generator (or asked one thing at a time), sampled, and
stopped in order; what comes out are the round's figures and everything that they were made from.
Nothing is believed of a node that gave a wrong verdict, lost a process or did not stop with 0.
"""

from __future__ import annotations

import statistics
import time
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from tools.bench import echo
from tools.bench.figures import FINALITY_PACE_MS
from tools.bench.load import LoadResult, run_load, verdict_latencies_ns
from tools.bench.nodes import RunningNode
from tools.bench.plan import BackendName, Scale, Subject, WorkloadNeed, size
from tools.bench.process import directory_bytes
from tools.bench.samples import NS_PER_MS, cpu_percent, cpu_us_per_tx, lag, loaded
from tools.bench.workloads import Workbench

OVERLOAD = 1.1
HALF_LOAD = 0.5
OVERLOAD_CLIENTS = 4  # 128 requests under way: the queue at the socket is always full
BYTES_PER_MB = 1_000_000
MS_PER_S = 1_000
US_PER_S = 1_000_000


@dataclass(frozen=True, slots=True)
class Measured:
    """One subject in one round: ``figures`` by their keys, ``detail`` what they were made from."""

    figures: dict[str, float]
    detail: dict[str, Any]
    tx_per_s: float = 0.0


def flat_out(
    bench: Workbench,
    subject: Subject,
    needed: WorkloadNeed,
    backend: BackendName,
    scale: Scale,
    guess_per_s: float,
) -> Measured:
    """Finalised payments per second, as fast as the node takes them, and what that costs.

    A round that was too short, because the node is faster than was guessed, is measured again with
    more transactions. ``figures`` are the costs; what the rate means is the caller's business.
    """
    transactions = size(scale, guess_per_s, needed.transactions)
    measured, result = _flat_out(bench, needed, backend, transactions)
    longer = size(scale, result.per_s, needed.transactions)
    if result.elapsed_s < scale.seconds and longer > transactions:
        too_short = measured.detail
        measured, result = _flat_out(bench, needed, backend, longer)
        measured.detail["repeated_because_short"] = {
            key: too_short[key] for key in ("transactions", "elapsed_s", "tx_per_s")
        }
    measured.detail["short"] = (
        result.elapsed_s < scale.seconds or result.finalised < scale.transactions
    )
    measured.detail["inputs"] = subject.inputs
    return measured


def _flat_out(
    bench: Workbench, needed: WorkloadNeed, backend: BackendName, transactions: int
) -> tuple[Measured, LoadResult]:
    with bench.datadir(needed, {"verify": {"backend": backend}}) as datadir:
        with RunningNode(datadir) as node:
            ready_s = node.ready_s
            result = run_load(node, bench.workload(needed), transactions, memory=True)
        store_bytes = directory_bytes(datadir / "store")
        block_bytes = directory_bytes(datadir / "blocks")
    during = loaded(result.samples)
    costs = cpu_us_per_tx(during[0], during[-1])
    costs["generator"] = float(result.report["figures"]["load.cpu_us_per_tx"])
    memory = [sample.pss_bytes / BYTES_PER_MB for sample in during if sample.pss_bytes is not None]
    figures = {f"{name}.cpu_us_per_tx": value for name, value in costs.items()}
    # A load too short for a look meanwhile was looked at when it had just ended.
    last = result.samples[-1].pss_bytes
    figures["mem.pss_mb"] = max([*memory, *([last / BYTES_PER_MB] if last and not memory else [])])
    figures["disk.store_mb"] = store_bytes / BYTES_PER_MB
    figures["disk.block_bytes_per_tx"] = block_bytes / result.finalised
    detail = {
        **_load_detail(result),
        "backend": backend,
        "outputs": needed.outputs,
        "start_ready_s": round(ready_s, 3),
        "cpu_us_per_tx": _rounded(costs),
        "pss_mb": [round(value, 1) for value in memory],
        "net_lag": asdict(lag(during[0], during[-1], "net")),
        "store_bytes": store_bytes,
        "block_bytes": block_bytes,
    }
    return Measured(figures, detail, result.per_s), result


def overload(
    bench: Workbench, needed: WorkloadNeed, backend: BackendName, scale: Scale, rate_per_s: float
) -> Measured:
    """How late net's loop is when 110 % of what the node can do (``rate_per_s``) is offered.

    The node may refuse what is too much, but must say so; every other verdict has to be right.
    """
    offered = OVERLOAD * rate_per_s
    transactions = size(scale, offered, needed.transactions)
    with (
        bench.datadir(needed, {"verify": {"backend": backend}}) as datadir,
        RunningNode(datadir) as node,
    ):
        result = run_load(
            node, bench.workload(needed), transactions, "--rate", f"{offered:.3f}",
            "--clients", str(OVERLOAD_CLIENTS), "--allow-shedding",
        )  # fmt: skip
    during = loaded(result.samples)
    found = lag(during[0], during[-1], "net")
    detail = {
        **_load_detail(result),
        "backend": backend,
        "offered_per_s": round(offered, 1),
        "refused": result.report["rejected"],
        "lag": {stage: asdict(lag(during[0], during[-1], stage)) for stage in ("net", "consensus")},
    }
    return Measured(
        {"net.lag_p99_ms": found.p99_ms, "net.lag_max_ms": found.max_ms}, detail, result.per_s
    )


def finality(
    bench: Workbench, needed: WorkloadNeed, backend: BackendName, scale: Scale, rate_per_s: float
) -> Measured:
    """Time from intended sending to the announcement of the block, at half of ``rate_per_s``."""
    offered = HALF_LOAD * rate_per_s
    transactions = size(scale, offered, needed.transactions)
    sections: dict[str, dict[str, str | int]] = {
        "verify": {"backend": backend},
        "block": {"pace_ms": FINALITY_PACE_MS},
    }
    with bench.datadir(needed, sections) as datadir, RunningNode(datadir) as node:
        result = run_load(node, bench.workload(needed), transactions, "--rate", f"{offered:.3f}")
    report = result.report["figures"]
    detail = {
        **_load_detail(result),
        "backend": backend,
        "offered_per_s": round(offered, 1),
        "pace_ms": FINALITY_PACE_MS,
    }
    figures = {key: float(report[key]) for key in ("final.p50_ms", "final.p99_ms")}
    return Measured(figures, detail, result.per_s)


def idle(
    bench: Workbench,
    needed: WorkloadNeed,
    backend: BackendName,
    scale: Scale,
    signatures_per_s: float,
) -> Measured:
    """What a node uses that has nothing to do, then how fast it answers one transaction at a time.

    ``signatures_per_s`` is the backend's rate with one signature at a time.
    """
    with (
        bench.datadir(needed, {"verify": {"backend": backend}}) as datadir,
        RunningNode(datadir) as node,
    ):
        time.sleep(scale.settle_s)
        before = node.sample()
        time.sleep(scale.idle_s)
        after = node.sample(memory=True)
        workload, count = bench.workload(needed), scale.idle_transactions
        latencies_ms = verdict_latencies_ns(node, workload, 0, count, 0.0) / NS_PER_MS
        paused_ms = verdict_latencies_ns(node, workload, count, count, scale.pause_s) / NS_PER_MS
    signature_ms = MS_PER_S / signatures_per_s
    verdict_ms = statistics.median(latencies_ms.tolist())
    figures = {
        "idle.verdict_p50_ms": verdict_ms,
        "idle.verdict_paused_p50_ms": statistics.median(paused_ms.tolist()),
        "raw.echo_p50_ms": echo.p50_ms(count, 0.0),
        "raw.echo_paused_p50_ms": echo.p50_ms(count, scale.pause_s),
        "idle.signature_us": US_PER_S / signatures_per_s,
        "idle.verdict_overhead_p50_ms": verdict_ms - signature_ms,
        "idle.cpu_percent": cpu_percent(before, after),
        "start.ready_s": node.ready_s,
    }
    assert after.pss_bytes is not None
    detail = {
        "backend": backend,
        "outputs": needed.outputs,
        "idle_s": (after.at_ns - before.at_ns) / NS_PER_MS / MS_PER_S,
        "cpu_ms": {
            name: round((after.cpu_ns[name] - spent) / NS_PER_MS, 3)
            for name, spent in before.cpu_ns.items()
        },
        "pss_mb": round(after.pss_bytes / BYTES_PER_MB, 1),
        "verdicts": len(latencies_ms),
        "verdict_ms": {
            name: round(float(np.percentile(latencies_ms, q)), 4)
            for name, q in (("min", 0), ("p50", 50), ("p90", 90), ("p99", 99), ("max", 100))
        },
    }
    return Measured(figures, detail)


def _load_detail(result: LoadResult) -> dict[str, Any]:
    return {
        "transactions": result.finalised,
        "elapsed_s": round(result.elapsed_s, 3),
        "tx_per_s": round(result.per_s, 1),
        "load": result.report["figures"],
        "watcher_cpu_percent": round(result.watcher_cpu_percent, 2),
        "finalised_each_second": result.report["samples"]["finalised_per_s"],
    }


def _rounded(values: dict[str, float]) -> dict[str, float]:
    return {name: round(value, 4) for name, value in values.items()}
