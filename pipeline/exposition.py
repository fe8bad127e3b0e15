"""Metrics for readers outside: Prometheus' page, and the table in ARCHITECTURE.md.

Both are made from the declarations and from snapshots (``pipeline.metrics``); values in, text out.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

from pipeline.errors import MetricsError
from pipeline.metrics import Kind, Metric, MetricSet, StageSnapshot

# The page's own family; no set may declare it.
_RESTARTS = Metric(
    "restarts", Kind.COUNTER, "", "Writers of the stage's metrics after the first one"
)


def prometheus_text(snapshots: Iterable[StageSnapshot], namespace: str = "pipeline") -> str:
    """The snapshots in Prometheus' text exposition format 0.0.4, labelled by stage and index.

    A metric that several stages declare is one family with the first one's help. Raises
    MetricsError if two stages declare one name as different kinds.
    """
    families: dict[str, tuple[str, list[str]]] = {}
    for snapshot in snapshots:
        labels = f'stage="{_escape_label(snapshot.stage)}",index="{snapshot.index}"'
        rows = [(_RESTARTS, snapshot.restarts)]
        rows += [(metric, snapshot.values[metric.name]) for metric in snapshot.metrics.metrics]
        for metric, value in rows:
            family = f"{namespace}_{metric.family}"
            if family not in families:
                head = f"# HELP {family} {_escape_help(metric.help)}"
                families[family] = (metric.kind, [head, f"# TYPE {family} {metric.kind}"])
            kind, lines = families[family]
            if kind != metric.kind:
                raise MetricsError(
                    f"metric {metric.name} is a {kind} in one stage and a {metric.kind} in "
                    f"another; rename one"
                )
            lines += _samples(family, labels, metric, value)
    return "".join(f"{line}\n" for _, lines in families.values() for line in lines)


def markdown_table(*sets: MetricSet) -> str:
    """The declarations as one Markdown table; a metric that several sets share is listed once."""
    lines = ["| metric | kind | unit | set | meaning |", "|---|---|---|---|---|"]
    listed: set[Metric] = set()
    for one in sets:
        for metric in one.metrics:
            if metric in listed:
                continue
            listed.add(metric)
            kind: str = metric.kind
            if metric.buckets:
                kind += f", {len(metric.buckets)} bounds {metric.buckets[0]}..{metric.buckets[-1]}"
            meaning = metric.help.replace("|", "\\|")
            lines.append(f"| `{metric.name}` | {kind} | {metric.unit} | {one.name} | {meaning} |")
    return "\n".join(lines) + "\n"


def _samples(family: str, labels: str, metric: Metric, value: Any) -> Iterator[str]:
    if metric.kind is not Kind.HISTOGRAM:
        yield f"{family}{{{labels}}} {value}"
        return
    seen = 0
    for bound, held in zip([*value["bounds"], "+Inf"], value["buckets"], strict=True):
        seen += held
        yield f'{family}_bucket{{{labels},le="{bound}"}} {seen}'
    yield f"{family}_sum{{{labels}}} {value['sum']}"
    yield f"{family}_count{{{labels}}} {value['count']}"


def _escape_help(text: str) -> str:
    return text.replace("\\", "\\\\").replace("\n", "\\n")


def _escape_label(text: str) -> str:
    return _escape_help(text).replace('"', '\\"')
