"""What a run found: figures, counts and findings, as a table for people and as JSON for programs.

Made from the ledger once the run is over. Latencies go through HdrHistogram (microseconds, three
digits) in groups of equal values. ``figures`` is the flat object that all of the project's tools
write.
"""

from __future__ import annotations

import os
import platform
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import orjson
from hdrh.histogram import HdrHistogram
from rich.console import Console, Group, RenderableType
from rich.table import Table
from rich.text import Text

from tools.loadgen.expected import HELD_BELOW, Finding, Ledger
from tools.loadgen.pace import NS_PER_S

HIGHEST_LATENCY_US = 3_600_000_000  # an hour; longer ones count as that
LATENCY_DIGITS = 3
PERCENTILES = (50.0, 90.0, 99.0)
NS_PER_US = 1_000
US_PER_MS = 1_000


def latency_histogram(latencies_ns: npt.NDArray[np.int64]) -> HdrHistogram:
    """Return the histogram (us) of latencies in nanoseconds; those below 1 us count as 1 us."""
    histogram = HdrHistogram(1, HIGHEST_LATENCY_US, LATENCY_DIGITS)
    values_us = np.clip(latencies_ns // NS_PER_US, 1, HIGHEST_LATENCY_US)
    # Twelve significant bits are finer than the histogram's own buckets, and few values are left.
    shift = np.maximum(0, np.frexp(values_us.astype(np.float64))[1] - 12)
    values, counts = np.unique(values_us >> shift << shift, return_counts=True)
    for value, count in zip(values.tolist(), counts.tolist(), strict=True):
        histogram.record_value(value, count)
    return histogram


def latency_figures(name: str, latencies_ns: npt.NDArray[np.int64]) -> dict[str, float]:
    """Return ``{name}.p50_ms``, p90, p99 and max; nothing where there is no latency."""
    if not len(latencies_ns):
        return {}
    histogram = latency_histogram(latencies_ns)
    figures = {
        f"{name}.p{percentile:.0f}_ms": histogram.get_value_at_percentile(percentile) / US_PER_MS
        for percentile in PERCENTILES
    }
    figures[f"{name}.max_ms"] = histogram.get_max_value() / US_PER_MS
    return figures


def steady_rate(times_ns: npt.NDArray[np.int64]) -> float | None:
    """Return events per second between the first and the last tenth of them; None if too few."""
    if len(times_ns) < 10:
        return None
    ordered = np.sort(times_ns)
    low, high = len(ordered) // 10, len(ordered) - 1 - len(ordered) // 10
    span_ns = int(ordered[high] - ordered[low])
    between = int(np.count_nonzero((ordered > ordered[low]) & (ordered <= ordered[high])))
    return between * NS_PER_S / span_ns if span_ns > 0 else None


def per_second(times_ns: npt.NDArray[np.int64], start_ns: int) -> list[int]:
    """Return how many events fell into each second after the start."""
    if not len(times_ns):
        return []
    return [int(n) for n in np.bincount((times_ns - start_ns) // NS_PER_S)]


def machine() -> dict[str, Any]:
    """Return what figures depend on: processor, cores, system, Python."""
    model = ""
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                model = line.partition(":")[2].strip()
                break
    except OSError:
        pass  # another system: the rest says enough
    return {
        "processor": model or platform.processor(),
        "cores": len(os.sched_getaffinity(0)),
        "system": platform.platform(),
        "python": platform.python_version(),
    }


@dataclass(frozen=True, slots=True)
class Report:
    """The outcome of one run.

    ``counts`` are events and transactions, ``verdicts`` transactions by their latest verdict (they
    sum to ``counts["sent"]``), ``findings`` what was wrong. ``blocks`` maps heights to ids as
    announced; ``accepted_txids`` and ``final_txids`` are u8[n, 32], for whoever compares with the
    node's store.
    """

    workload: dict[str, Any]
    options: dict[str, Any]
    figures: dict[str, float]
    counts: dict[str, int]
    verdicts: dict[str, int]
    findings: tuple[Finding, ...]
    notes: tuple[Finding, ...]
    series: dict[str, list[int]]
    blocks: dict[int, bytes]
    accepted_txids: npt.NDArray[np.uint8]
    final_txids: npt.NDArray[np.uint8]

    @property
    def ok(self) -> bool:
        """Whether every answer was right and none is missing."""
        return not self.findings

    @property
    def rejected(self) -> dict[str, int]:
        """Transactions that the node did not take, by cause."""
        return {name: n for name, n in self.verdicts.items() if name not in _NOT_REJECTED}

    def to_json(self) -> bytes:
        """Return the report as indented JSON."""
        heights = sorted(self.blocks)
        document = {
            "figures": self.figures,
            "machine": machine(),
            "ok": self.ok,
            "counts": self.counts,
            "verdicts": self.verdicts,
            "rejected": self.rejected,
            "findings": [_finding(f) for f in self.findings],
            "notes": [_finding(f) for f in self.notes],
            "blocks": {
                "announced": len(heights),
                "first_height": heights[0] if heights else None,
                "last_height": heights[-1] if heights else None,
                "last_id": self.blocks[heights[-1]].hex() if heights else None,
            },
            "workload": self.workload,
            "options": self.options,
            "rounds": 1,
            "samples": self.series,
        }
        return orjson.dumps(document, option=orjson.OPT_INDENT_2 | orjson.OPT_APPEND_NEWLINE)

    def print(self, console: Console) -> None:
        """Write the report for people."""
        console.print(self.renderable())

    def renderable(self) -> RenderableType:
        """Return the report's tables and findings."""
        counts, figures = self.counts, self.figures
        totals = Table(title="transactions", title_justify="left", show_header=False)
        totals.add_column()
        totals.add_column(justify="right")
        for name in ("sent", "accepted", "rejected", "unanswered", "finalised"):
            totals.add_row(name, f"{counts[name]:,}")
        for name, n in self.rejected.items():
            totals.add_row(f"rejected: {name}", f"{n:,}")
        for name, label in _RATES.items():
            if name in figures:
                totals.add_row(label, f"{figures[name]:,.2f}" if figures[name] < 100
                               else f"{figures[name]:,.0f}")  # fmt: skip
        latencies = Table(title="latency, ms", title_justify="left")
        for heading in ("", "p50", "p90", "p99", "max"):
            latencies.add_column(heading, justify="right" if heading else "left")
        for name, label in _LATENCIES.items():
            if f"{name}.max_ms" in figures:
                latencies.add_row(
                    label,
                    *(f"{figures[f'{name}.{p}_ms']:,.2f}" for p in ("p50", "p90", "p99", "max")),
                )
        lines: list[RenderableType] = [totals]
        if latencies.row_count:
            lines.append(latencies)
        lines += [Text(f"note: {finding.line()}", style="yellow") for finding in self.notes]
        lines += [Text(f"WRONG: {finding.line()}", style="bold red") for finding in self.findings]
        lines.append(
            Text("every verdict is right, none is missing, none came twice", style="green")
            if self.ok
            else Text(f"FAILED: {len(self.findings)} kinds of wrong answers", style="bold red")
        )
        return Group(*lines)


_NOT_REJECTED = frozenset(("ADMITTED", "KNOWN", "FINAL", "ORPHANED", "NO_VERDICT"))
_RATES = {
    "load.sent_per_s": "sent/s",
    "load.accepted_per_s": "accepted/s",
    "load.finalised_per_s": "finalised/s",
    "load.finalised_steady_per_s": "finalised/s, without first and last tenth",
    "load.cpu_us_per_tx": "generator's CPU, us per transaction",
}
_LATENCIES = {
    "verdict": "verdict, from intended sending",
    "verdict_from_send": "verdict, from actual sending",
    "final": "finality, from intended sending",
}


def _finding(finding: Finding) -> dict[str, Any]:
    return {
        "fault": finding.fault.name,
        "count": finding.count,
        "meaning": finding.fault.value,
        "examples": list(finding.examples),
    }


def make_report(
    ledger: Ledger,
    *,
    intended_ns: npt.NDArray[np.int64],
    start_ns: int,
    cpu_ns: int,
    events: dict[str, int],
    options: dict[str, Any],
) -> Report:
    """Return the report of a finished run.

    ``intended_ns`` i64[count] is when each transaction should have been sent (by the ledger's
    clock), ``start_ns`` when the run began, ``cpu_ns`` what the generator's process used,
    ``events`` further counts.
    """
    judgement = ledger.conclude()
    sent = np.flatnonzero(ledger.sent_ns)
    answered = np.flatnonzero(ledger.verdict_ns)
    final = np.flatnonzero(ledger.final_ns)
    announced = np.flatnonzero((ledger.final_ns != 0) & ~ledger.final_by_verdict)
    accepted = np.flatnonzero(ledger.verdicts < HELD_BELOW)
    verdicts = ledger.verdict_counts()
    counts = {
        "sent": len(sent),
        "answered": len(answered),
        "accepted": len(accepted),
        "rejected": sum(n for name, n in verdicts.items() if name not in _NOT_REJECTED),
        "unanswered": verdicts.get("NO_VERDICT", 0),
        "finalised": len(final),
        "finalised_by_verdict": int(ledger.final_by_verdict.sum()),
        "finalised_foreign": ledger.n_foreign,
        "blocks": len(ledger.blocks),
        **events,
    }
    counts |= {f"fault.{f.fault.name.lower()}": f.count for f in judgement.findings}
    figures: dict[str, float] = {"load.elapsed_s": _until(ledger, start_ns) / NS_PER_S}
    for name, which, times in (
        ("sent", sent, ledger.sent_ns),
        ("accepted", accepted, ledger.verdict_ns),
        ("finalised", announced, ledger.final_ns),
    ):
        if len(which) and (span_ns := int(times[which].max()) - start_ns) > 0:
            figures[f"load.{name}_per_s"] = len(which) * NS_PER_S / span_ns
    steady = steady_rate(ledger.final_ns[announced])
    if steady is not None:
        figures["load.finalised_steady_per_s"] = steady
    if len(sent):
        figures["load.cpu_us_per_tx"] = cpu_ns / NS_PER_US / len(sent)
    figures |= latency_figures("verdict", (ledger.verdict_ns - intended_ns)[answered])
    figures |= latency_figures("verdict_from_send", (ledger.verdict_ns - ledger.sent_ns)[answered])
    figures |= latency_figures("final", (ledger.final_ns - intended_ns)[announced])
    window = ledger.workload.columns.txids[ledger.first : ledger.first + ledger.count]
    return Report(
        workload=ledger.workload.summary,
        options=options,
        figures={name: round(value, 4) for name, value in figures.items()},
        counts=counts,
        verdicts=verdicts,
        findings=judgement.findings,
        notes=judgement.notes,
        series={
            "sent_per_s": per_second(ledger.sent_ns[sent], start_ns),
            "answered_per_s": per_second(ledger.verdict_ns[answered], start_ns),
            "finalised_per_s": per_second(ledger.final_ns[announced], start_ns),
        },
        blocks=ledger.blocks,
        accepted_txids=window[accepted],
        final_txids=window[final],
    )


def _until(ledger: Ledger, start_ns: int) -> int:
    latest = max(int(times.max(initial=0)) for times in
                 (ledger.sent_ns, ledger.verdict_ns, ledger.final_ns))  # fmt: skip
    return max(0, latest - start_ns)
