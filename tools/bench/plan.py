"""What is measured: the subjects, the transactions that each needs, and how long it will take.

Pure. A subject is measured once in every round, in the order of the declaration, so that whatever
else the machine does in between falls on all of them alike.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from fnmatch import fnmatchcase
from typing import Final, Literal

from tools.bench.errors import BenchError

BackendName = Literal["avx512", "nacl"]


class Measure(StrEnum):
    """How a subject is measured."""

    FLAT_OUT = "flat out"
    OVERLOAD = "overload"
    FINALITY = "finality"
    IDLE = "idle"
    CORE = "core"  # no node, no workload: agreement's state machine alone


@dataclass(frozen=True, slots=True)
class Subject:
    """Something that is measured in every round; ``keys`` are the figures that it gives.

    ``backend`` None is the fastest one there is.
    """

    name: str
    measure: Measure
    keys: tuple[str, ...]
    inputs: Literal[1, 4] = 1
    backend: BackendName | None = None
    large_set: bool = False


SUBJECTS: Final = (
    Subject(
        "1in.avx512", Measure.FLAT_OUT, ("node.1in.avx512.tx_per_s", "node.1in.avx512.vs_raw"),
        backend="avx512",
    ),
    Subject(
        "1in.nacl", Measure.FLAT_OUT, ("node.1in.nacl.tx_per_s", "node.1in.nacl.vs_raw"),
        backend="nacl",
    ),
    Subject(
        "4in.avx512", Measure.FLAT_OUT,
        ("node.4in.avx512.tx_per_s", "node.4in.avx512.sigs_vs_raw"), inputs=4, backend="avx512",
    ),
    Subject(
        "4in.nacl", Measure.FLAT_OUT, ("node.4in.nacl.tx_per_s", "node.4in.nacl.sigs_vs_raw"),
        inputs=4, backend="nacl",
    ),
    Subject(
        "1in.avx512.5m", Measure.FLAT_OUT,
        ("node.1in.avx512.tx_per_s_5m", "node.1in.avx512.vs_raw_5m"), backend="avx512",
        large_set=True,
    ),
    Subject("overload", Measure.OVERLOAD, ("net.lag_p99_ms", "net.lag_max_ms")),
    Subject("finality", Measure.FINALITY, ("final.p50_ms", "final.p99_ms")),
    Subject(
        "idle", Measure.IDLE,
        ("idle.verdict_overhead_p50_ms", "idle.verdict_p50_ms", "idle.signature_us",
         "raw.echo_p50_ms", "raw.echo_paused_p50_ms", "idle.verdict_paused_p50_ms",
         "idle.cpu_percent", "start.ready_s"),
    ),
    Subject("core", Measure.CORE, ("core.us_per_vote_100",)),
)  # fmt: skip

COST_KEYS: Final = (
    "net.cpu_us_per_tx",
    "verify.cpu_us_per_tx",
    "consensus.cpu_us_per_tx",
    "sign.cpu_us_per_tx",
    "rpc.cpu_us_per_tx",
    "supervisor.cpu_us_per_tx",
    "generator.cpu_us_per_tx",
    "mem.pss_mb",
    "disk.store_mb",
    "disk.block_bytes_per_tx",
)
"""What the main subject gives besides: 1 input, the fastest backend, flat out."""

ROOM_PER_S: Final = {("avx512", 1): 100_000, ("avx512", 4): 40_000}
ROOM_NACL_PER_S: Final = {1: 40_000, 4: 12_000}
"""Transactions that a workload has for each second of a round: what no node will exceed here."""

SIZING_MARGIN: Final = 1.15


@dataclass(frozen=True, slots=True)
class Scale:
    """How much of everything: for real, or quick for trying the benchmark itself."""

    rounds: int = 3
    seconds: float = 10.0
    transactions: int = 300_000
    outputs: int = 1_000_000
    outputs_large: int = 5_000_000
    raw_s: float = 1.5
    settle_s: float = 3.0
    idle_s: float = 12.0
    idle_transactions: int = 2_000  # some seconds: a slow moment of the machine is no median
    pause_s: float = 0.005
    quick: bool = False

    def __post_init__(self) -> None:
        for name, value, low, high in (
            ("rounds", self.rounds, 1, 99),
            ("seconds", self.seconds, 0.1, 600),
            ("transactions", self.transactions, 500, 5_000_000),
        ):
            if not low <= value <= high:
                raise BenchError(f"--{name} {value:g} is impossible", f"give {low:g} to {high:g}")


QUICK: Final = Scale(
    rounds=1,
    seconds=1.0,
    transactions=5_000,
    outputs=20_000,
    outputs_large=60_000,
    raw_s=0.2,
    settle_s=0.5,
    idle_s=1.0,
    idle_transactions=50,
    quick=True,
)


@dataclass(frozen=True, slots=True)
class WorkloadNeed:
    """A workload that some subjects share."""

    name: str
    inputs: Literal[1, 4]
    transactions: int
    outputs: int


def choose(only: Sequence[str], backends: Sequence[BackendName]) -> list[Subject]:
    """The subjects that give a figure, or have a name, that matches one of the patterns ``only``
    (all without any), as far as there are the backends for them.

    What others are derived from comes along. Raises BenchError if nothing is left.
    """
    main = main_subject(backends)
    possible = [s for s in SUBJECTS if s.backend is None or s.backend in backends]
    chosen = [s for s in possible if not only or _matches(s, only, s is main)]
    if not chosen:
        names = ", ".join(subject.name for subject in possible)
        raise BenchError(
            f"nothing to measure matches {' '.join(only)}",
            f"give a figure's key or one of {names}, with * for any letters",
        )
    if main not in chosen and any(s.measure in _RELATIVE for s in chosen):
        chosen.insert(0, main)
    return chosen


_RELATIVE: Final = (Measure.OVERLOAD, Measure.FINALITY)


def _matches(subject: Subject, only: Sequence[str], is_main: bool) -> bool:
    names = (subject.name, *subject.keys, *(COST_KEYS if is_main else ()))
    return any(fnmatchcase(name, pattern) for name in names for pattern in only)


def main_subject(backends: Sequence[BackendName]) -> Subject:
    """The subject whose rate the others are fractions of, and whose rounds say what a node
    costs.
    """
    fastest = backends[0]
    return next(s for s in SUBJECTS if s.backend == fastest and s.inputs == 1 and not s.large_set)


def needs(
    subjects: Sequence[Subject], scale: Scale, backends: Sequence[BackendName]
) -> dict[str, WorkloadNeed]:
    """The workloads that some subjects send, by name."""
    sending = [subject for subject in subjects if subject.measure is not Measure.CORE]
    return {one.name: one for one in (need(s, scale, backends) for s in sending)}


def need(subject: Subject, scale: Scale, backends: Sequence[BackendName]) -> WorkloadNeed:
    """The workload that a subject sends."""
    per_s = (
        ROOM_PER_S["avx512", subject.inputs]
        if "avx512" in backends
        else ROOM_NACL_PER_S[subject.inputs]
    )
    count = max(scale.transactions, math.ceil(scale.seconds * per_s))
    if scale.quick:
        count = min(count, 4 * scale.transactions)
    outputs = scale.outputs_large if subject.large_set else scale.outputs
    name = f"{subject.inputs}in" + ("-large" if subject.large_set else "")
    return WorkloadNeed(name, subject.inputs, count, max(outputs, count * subject.inputs))


def first_guess(subject: Subject, backends: Sequence[BackendName], raw_per_s: float) -> float:
    """Finalised transactions per second to expect of a subject that was not measured yet."""
    backend = subject.backend or backends[0]
    signatures = raw_per_s * (0.7 if backend == "nacl" else 1.5 if subject.inputs == 1 else 3.0)
    return signatures / subject.inputs


def size(scale: Scale, rate_per_s: float, room: int) -> int:
    """How many transactions a round needs to last its seconds at this rate, within the workload."""
    wanted = max(scale.transactions, math.ceil(rate_per_s * scale.seconds * SIZING_MARGIN))
    return min(wanted, room)


def estimate_s(
    subjects: Sequence[Subject], scale: Scale, backends: Sequence[BackendName], raw_per_s: float
) -> float:
    """About how long everything will take, preparation included."""
    core_factor = raw_per_s / 44_000  # two cores of the machine on which the constants were timed
    per_signature_us = 12.0 if "avx512" in backends else 40.0
    total = 0.0
    for one in needs(subjects, scale, backends).values():
        total += one.transactions * one.inputs * per_signature_us / 1e6 / core_factor
        total += one.outputs * 6.0 / 1e6 + 3.0
    for subject in subjects:
        if subject.measure is Measure.CORE:
            continue
        rate = first_guess(subject, backends, raw_per_s)
        match subject.measure:
            case Measure.IDLE:
                lasts = scale.settle_s + scale.idle_s + 2 * scale.pause_s * scale.idle_transactions
            case Measure.FINALITY:
                lasts = size(scale, rate / 2, 2**31) / (rate / 2)
            case Measure.FLAT_OUT | Measure.OVERLOAD:
                lasts = size(scale, rate, 2**31) / rate
        total += scale.rounds * (lasts + 5.0 + 2 * scale.raw_s)
    return total
