"""Every figure that the benchmark of the node can report: what it means, its floor and its aim.

The one declaration of keys; measurements name them, the JSON and the table are made from it. Pure:
values of the rounds come in, medians, verdicts and tables go out.
"""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Final

from rich.table import Table
from rich.text import Text

FINALITY_PACE_MS: Final = 100
"""Pace of the blocks whose finality is measured, of one node and of a network."""


class Better(StrEnum):
    """Which way a figure improves."""

    HIGHER = "higher"
    LOWER = "lower"


class Standing(StrEnum):
    """What a value means beside its floor and its aim; the value is what the table shows."""

    AIM = "aim met"
    FLOOR = "floor met"
    MISSED = "BELOW FLOOR"
    NONE = ""


@dataclass(frozen=True, slots=True)
class Figure:
    """One figure: ``floor`` must be reached, ``aim`` should be; None where nothing is asked."""

    key: str
    meaning: str
    unit: str
    better: Better
    floor: float | None = None
    aim: float | None = None

    def standing(self, value: float) -> Standing:
        """What ``value`` means beside floor and aim."""
        if self.floor is None or self.aim is None:
            return Standing.NONE
        if self._reaches(value, self.aim):
            return Standing.AIM
        return Standing.FLOOR if self._reaches(value, self.floor) else Standing.MISSED

    def _reaches(self, value: float, bound: float) -> bool:
        return value >= bound if self.better is Better.HIGHER else value <= bound


_HIGHER, _LOWER = Better.HIGHER, Better.LOWER

FIGURES: Final = (
    Figure("raw.nacl_per_s", "PyNaCl's crypto_sign_open on all cores at once", "1/s", _HIGHER),
    Figure("raw.mb8_per_s", "mb8 with its guards on all cores at once", "1/s", _HIGHER),
    Figure("raw.fsync_ms", "4 KiB written and synced, median", "ms", _LOWER),
    Figure("raw.echo_p50_ms", "ZeroMQ on loopback, there and back, nothing else", "ms", _LOWER),
    Figure("raw.echo_paused_p50_ms", "the same, 5 ms after the one before", "ms", _LOWER),
    Figure("node.1in.avx512.tx_per_s", "1-input payments finalised", "1/s", _HIGHER),
    Figure(
        "node.1in.avx512.vs_raw", "the same ÷ raw PyNaCl on all cores", "ratio", _HIGHER, 1.0, 1.6
    ),
    Figure("node.1in.nacl.tx_per_s", "1-input payments finalised with PyNaCl", "1/s", _HIGHER),
    Figure("node.1in.nacl.vs_raw", "the same ÷ raw PyNaCl", "ratio", _HIGHER, 0.60, 0.75),
    Figure("node.4in.avx512.tx_per_s", "4-input payments finalised", "1/s", _HIGHER),
    Figure(
        "node.4in.avx512.sigs_vs_raw", "their signatures ÷ raw PyNaCl", "ratio", _HIGHER, 2.0, 3.0
    ),
    Figure("node.4in.nacl.tx_per_s", "4-input payments finalised with PyNaCl", "1/s", _HIGHER),
    Figure("node.4in.nacl.sigs_vs_raw", "their signatures ÷ raw PyNaCl", "ratio", _HIGHER),
    Figure(
        "node.1in.avx512.tx_per_s_5m", "1-input payments, 5 million outputs in the set", "1/s",
        _HIGHER,
    ),
    Figure("node.1in.avx512.vs_raw_5m", "the same ÷ raw PyNaCl", "ratio", _HIGHER, 0.8, 1.4),
    Figure("net.cpu_us_per_tx", "CPU of net, flat out, 1 input", "µs", _LOWER, 2.0, 1.0),
    Figure("verify.cpu_us_per_tx", "CPU of all verifiers together", "µs", _LOWER),
    Figure("consensus.cpu_us_per_tx", "CPU of consensus", "µs", _LOWER),
    Figure("sign.cpu_us_per_tx", "CPU of the signer", "µs", _LOWER),
    Figure("rpc.cpu_us_per_tx", "CPU of rpc, which nobody asks", "µs", _LOWER),
    Figure("supervisor.cpu_us_per_tx", "CPU of the supervisor", "µs", _LOWER),
    Figure("generator.cpu_us_per_tx", "CPU of the load generator", "µs", _LOWER),
    Figure(
        "net.lag_p99_ms", "how late net's loop is, at 110 % offered load", "ms", _LOWER, 5.0, 2.0
    ),
    Figure("net.lag_max_ms", "the latest that it was", "ms", _LOWER, 50.0, 20.0),
    Figure(
        "idle.verdict_overhead_p50_ms", "one transaction after the other, beyond the signature",
        "ms", _LOWER, 1.0, 0.3,
    ),
    Figure("idle.verdict_p50_ms", "the same with its signature", "ms", _LOWER),
    Figure(
        "idle.verdict_paused_p50_ms", "the same, 5 ms after the verdict before: cores gone idle",
        "ms", _LOWER,
    ),
    Figure("idle.signature_us", "one signature, verified alone", "µs", _LOWER),
    Figure(
        "final.p50_ms",
        f"finality at half load, block pace {FINALITY_PACE_MS} ms, from intended sending", "ms",
        _LOWER, 200.0, 120.0,
    ),
    Figure("final.p99_ms", "the same, 99th percentile", "ms", _LOWER, 500.0, 250.0),
    Figure(
        "mem.pss_mb", "memory (PSS) of all processes, 1 million outputs, flat out", "MB", _LOWER,
        512.0, 350.0,
    ),
    Figure(
        "idle.cpu_percent", "CPU of all processes together, of one core", "%", _LOWER, 2.0, 0.5
    ),
    Figure(
        "core.us_per_vote_100", "agreement: handling one vote, 100 validators", "µs", _LOWER,
        30.0, 10.0,
    ),
    Figure("start.ready_s", "timed run until it takes transactions", "s", _LOWER),
    Figure("disk.store_mb", "store after the load, 1 million outputs at first", "MB", _LOWER),
    Figure("disk.block_bytes_per_tx", "block files, 1 input", "bytes", _LOWER),
)  # fmt: skip

BY_KEY: Final = {figure.key: figure for figure in FIGURES}

assert len(BY_KEY) == len(FIGURES)


def medians(
    rounds: Sequence[Mapping[str, float]], declared: Sequence[Figure] = FIGURES
) -> dict[str, float]:
    """The median of each figure over the rounds that have it, in the order of the declaration.

    Raises KeyError for a figure that is not declared.
    """
    values: dict[str, list[float]] = {figure.key: [] for figure in declared}
    for one in rounds:
        for key, value in one.items():
            values[key].append(value)
    return {key: round(statistics.median(found), 4) for key, found in values.items() if found}


def targets(
    figures: Mapping[str, float], declared: Sequence[Figure] = FIGURES
) -> dict[str, dict[str, Any]]:
    """Floor, aim and standing of every figure that has them, JSON-able; ``value`` may be None."""
    found: dict[str, dict[str, Any]] = {}
    for figure in declared:
        if figure.floor is None:
            continue
        value = figures.get(figure.key)
        found[figure.key] = {
            "meaning": figure.meaning,
            "unit": figure.unit,
            "better": figure.better,
            "floor": figure.floor,
            "aim": figure.aim,
            "value": value,
            "standing": "not measured" if value is None else figure.standing(value),
        }
    return found


def table(
    figures: Mapping[str, float],
    rounds: Sequence[Mapping[str, float]],
    title: str,
    declared: Sequence[Figure] = FIGURES,
) -> Table:
    """The figures for people, with the range over the rounds."""
    shown = Table(title=title, title_justify="left")
    for heading in ("figure", "median", "range", "unit", "floor", "aim", "", "meaning"):
        right = heading in ("median", "range", "floor", "aim")
        shown.add_column(heading, justify="right" if right else "left", no_wrap=heading == "figure")
    for figure in declared:
        if figure.key not in figures:
            continue
        values = [one[figure.key] for one in rounds if figure.key in one]
        standing = figure.standing(figures[figure.key])
        shown.add_row(
            figure.key,
            number(figures[figure.key]),
            f"{number(min(values))} .. {number(max(values))}" if len(values) > 1 else "",
            figure.unit,
            "" if figure.floor is None else number(figure.floor),
            "" if figure.aim is None else number(figure.aim),
            Text(standing, _STYLES[standing]),
            figure.meaning,
        )
    return shown


_STYLES: Final = {
    Standing.AIM: "green",
    Standing.FLOOR: "yellow",
    Standing.MISSED: "bold red",
    Standing.NONE: "",
}


def number(value: float) -> str:
    """A figure with about three digits that count."""
    if abs(value) >= 100:
        return f"{value:,.0f}"
    return f"{value:.1f}" if abs(value) >= 10 else f"{value:.2f}"
