"""What ``time-bench surface`` measures: its figures, its subjects, and how much of everything.

Pure. Every floor is asked of two things that were measured side by side in one run, but for the
payments a second that wallets can send, the latency that they see, how long a start takes, and the
exposure of the unit, which is no measurement of time.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from fnmatch import fnmatchcase
from typing import Final

from tools.bench.errors import BenchError
from tools.bench.figures import Better, Figure
from tools.bench.plan import BackendName, WorkloadNeed

CLIENTS: Final = 32
"""Keep-alive connections that ask as fast as they are answered."""

STEADY_CLIENTS: Final = 8
STEADY_PER_S: Final = 100.0
"""Questions a second at maximum load: what a busy wallet asks, and a tiny part of what can be
answered, so that the latency is that of the load and not of the questions."""

SENDERS: Final = 4
"""Connections that send payments: one body is read while others are carried out."""

BATCH: Final = 200
"""Payments in a body of JSON-RPC."""

ORDER: Final = (0, 1, 1, 0)
"""Two sides of a comparison in phases: what changes steadily meanwhile falls on both alike."""

LIVES: Final = (ORDER, (1, 0, 0, 1))
"""Under load, where the store's compactions come at the same moments of each life of a node, and
last as long as a phase: each side has each place once. In one life alone, two sides that were the
same differed by a tenth.
"""

ROOM_PER_S: Final = {"avx512": 70_000, "nacl": 30_000}
"""Payments a second that no node will finalise here, for the size of the workload."""

CHANGE_S: Final = 2.0
"""Of load for each phase beside the measured time: to begin, to wait for a block at both ends."""

GOES_ON_S: Final = 3.0
"""Of load before the first phase and after the last."""

_HIGHER, _LOWER = Better.HIGHER, Better.LOWER

FIGURES: Final = (
    Figure(
        "rpc.getblockcount_vs_trivial", "getblockcount/s, 32 connections ÷ aiohttp's bare handler",
        "ratio", _HIGHER, 0.7, 0.9,
    ),
    Figure("rpc.getblockcount_per_s", "the node's", "1/s", _HIGHER),
    Figure("raw.http_per_s", "the bare handler's, in a process of its own", "1/s", _HIGHER),
    Figure("rpc.cpu_us_per_call", "CPU of rpc, each getblockcount", "µs", _LOWER),
    Figure("consensus.cpu_us_per_call", "CPU of consensus, each getblockcount", "µs", _LOWER),
    Figure("raw.http_cpu_us_per_call", "CPU of the bare handler's process", "µs", _LOWER),
    Figure("caller.cpu_us_per_call", "CPU of the client, asking the node", "µs", _LOWER),
    Figure(
        "rpc.p99_ms_at_max_load", "getblockcount, 100/s, from intended sending, node flat out",
        "ms", _LOWER, 25.0, 10.0,
    ),
    Figure("rpc.p50_ms_at_max_load", "the same, median", "ms", _LOWER),
    Figure("raw.http_p99_ms_at_max_load", "the bare handler at the same time", "ms", _LOWER),
    Figure("raw.http_p50_ms_at_max_load", "the same, median", "ms", _LOWER),
    Figure("rpc.max_load_tx_per_s", "payments finalised meanwhile", "1/s", _HIGHER),
    Figure(
        "rpc.send_per_s", "sendrawtransaction accepted, batches of 200 over 4 connections", "1/s",
        _HIGHER, 4_000.0, 10_000.0,
    ),
    Figure("rpc.cpu_us_per_sent", "CPU of rpc, each payment sent so", "µs", _LOWER),
    Figure("caller.cpu_us_per_sent", "CPU of the client, each payment", "µs", _LOWER),
    Figure(
        "rpc.flood_effect", "finalised flat out, 32 clients flooding rpc ÷ the bare handler",
        "ratio", _HIGHER, 0.9, 0.97,
    ),
    Figure("rpc.flooded_tx_per_s", "payments finalised, rpc flooded", "1/s", _HIGHER),
    Figure("raw.flooded_tx_per_s", "payments finalised, bare handler flooded", "1/s", _HIGHER),
    Figure("rpc.flood_calls_per_s", "what rpc answered of the flood", "1/s", _HIGHER),
    Figure("raw.flood_calls_per_s", "what the bare handler answered", "1/s", _HIGHER),
    Figure(
        "monitor.node_effect", "finalised flat out, time-monitor at 4 Hz ÷ without", "ratio",
        _HIGHER, 0.97, 0.99,
    ),
    Figure("monitor.tx_per_s", "payments finalised, watched", "1/s", _HIGHER),
    Figure("monitor.without_tx_per_s", "payments finalised, not watched", "1/s", _HIGHER),
    Figure("monitor.cpu_percent", "CPU of time-monitor, of one core", "%", _LOWER),
    Figure("monitor.frames_per_s", "frames that it drew", "1/s", _HIGHER),
    Figure(
        "start.ready_s", "timed run until it takes transactions, 1 million outputs", "s", _LOWER,
        3.0, 1.0,
    ),
    Figure(
        "systemd.exposure", "systemd-analyze security of systemd/timed.service", "of 10", _LOWER,
        2.0, 1.4,
    ),
)  # fmt: skip

BY_KEY: Final = {figure.key: figure for figure in FIGURES}

assert len(BY_KEY) == len(FIGURES)


class Subject(StrEnum):
    """What is measured, in this order, each in a node's life of its own; UNIT without a node."""

    CALLS = "calls"
    LATENCY = "latency"
    SENDING = "sending"
    FLOOD = "flood"
    MONITOR = "monitor"
    START = "start"
    UNIT = "unit"


KEYS: Final = {
    Subject.CALLS: (
        "rpc.getblockcount_vs_trivial", "rpc.getblockcount_per_s", "raw.http_per_s",
        "rpc.cpu_us_per_call", "consensus.cpu_us_per_call", "raw.http_cpu_us_per_call",
        "caller.cpu_us_per_call",
    ),
    Subject.LATENCY: (
        "rpc.p99_ms_at_max_load", "rpc.p50_ms_at_max_load", "raw.http_p99_ms_at_max_load",
        "raw.http_p50_ms_at_max_load", "rpc.max_load_tx_per_s",
    ),
    Subject.SENDING: ("rpc.send_per_s", "rpc.cpu_us_per_sent", "caller.cpu_us_per_sent"),
    Subject.FLOOD: (
        "rpc.flood_effect", "rpc.flooded_tx_per_s", "raw.flooded_tx_per_s",
        "rpc.flood_calls_per_s", "raw.flood_calls_per_s",
    ),
    Subject.MONITOR: (
        "monitor.node_effect", "monitor.tx_per_s", "monitor.without_tx_per_s",
        "monitor.cpu_percent", "monitor.frames_per_s",
    ),
    Subject.START: ("start.ready_s",),
    Subject.UNIT: ("systemd.exposure",),
}  # fmt: skip
"""The figures that each subject gives."""

_SENT_PER_S: Final = 40_000  # over JSON-RPC: more than one Python process can read
_QUICK_PER_S: Final = 4_000.0  # enough to see that everything works


@dataclass(frozen=True, slots=True)
class SurfaceScale:
    """How much of everything; ``seconds`` is how long each side of a comparison is measured (in
    each of two lives under load), ``load_per_s`` the load beside it, None for the greatest that
    there is.
    """

    rounds: int = 3
    seconds: float = 10.0
    settle_s: float = 2.0  # of a load, before anything is measured
    begin_s: float = 0.5  # of a phase, before it is measured
    load_per_s: float | None = None
    start_outputs: int = 1_000_000
    quick: bool = False

    def __post_init__(self) -> None:
        for name, value, low, high in (
            ("rounds", self.rounds, 1, 99),
            ("seconds", self.seconds, 0.5, 120),
        ):
            if not low <= value <= high:
                raise BenchError(f"--{name} {value:g} is impossible", f"give {low:g} to {high:g}")

    @property
    def phase_s(self) -> float:
        """How long a phase of a comparison is measured."""
        return self.seconds * 2 / len(ORDER)

    def need(self, subjects: Sequence[Subject], backend: BackendName) -> WorkloadNeed:
        """The workload that these subjects share: as much as the greatest load could send."""
        loaded_s = {
            Subject.LATENCY: self.seconds + CHANGE_S,
            Subject.FLOOD: len(ORDER) * (self.phase_s + CHANGE_S),
            Subject.MONITOR: len(ORDER) * (self.phase_s + CHANGE_S),
        }
        longest_s = max((loaded_s.get(subject, 0.0) for subject in subjects), default=0.0)
        load_per_s = self.load_per_s or ROOM_PER_S[backend]
        loads = longest_s and (longest_s + GOES_ON_S) * load_per_s
        sent = self.seconds * _SENT_PER_S if Subject.SENDING in subjects else 0.0
        count = math.ceil(max(loads, sent, SENDERS * BATCH))
        return WorkloadNeed("surface", 1, count, count)

    @property
    def start_need(self) -> WorkloadNeed:
        """The chain on which a node is started: of its payments none is sent."""
        return WorkloadNeed("start", 1, 1, self.start_outputs)

    def needs(self, subjects: Sequence[Subject], backend: BackendName) -> list[WorkloadNeed]:
        """Everything that has to be prepared for these subjects."""
        sending = [each for each in subjects if each not in (Subject.START, Subject.UNIT)]
        shared = [self.need(sending, backend)] if sending else []
        return shared + ([self.start_need] if Subject.START in subjects else [])

    def estimate_s(self, subjects: Sequence[Subject], backend: BackendName) -> float:
        """About how long everything will take, preparation included."""
        needs = self.needs(subjects, backend)
        payments = max((each.transactions for each in needs), default=0)
        per_payment_us = 12.0 if backend == "avx512" else 40.0
        prepared_us = sum(each.transactions * per_payment_us + each.outputs * 6.0 for each in needs)
        life_s = 8.0 + payments * 3e-6  # a node's start and stop, on a chain of that size
        measured_s = {
            Subject.CALLS: 2 * self.seconds,
            Subject.SENDING: self.seconds,
            Subject.LATENCY: self.settle_s + self.seconds,
            Subject.FLOOD: self.settle_s + 2 * self.seconds + len(ORDER) * self.begin_s,
            Subject.MONITOR: self.settle_s + 2 * self.seconds + len(ORDER) * self.begin_s,
            Subject.START: 0.0,
            Subject.UNIT: 0.0,
        }
        lives = {Subject.FLOOD: len(LIVES), Subject.MONITOR: len(LIVES)}
        one_round_s = sum(
            lives.get(subject, 1) * (measured_s[subject] + life_s) for subject in subjects
        )
        return prepared_us / 1e6 + self.rounds * one_round_s


SURFACE_QUICK: Final = SurfaceScale(
    rounds=1, seconds=0.5, settle_s=0.2, begin_s=0.1, load_per_s=_QUICK_PER_S,
    start_outputs=20_000, quick=True,
)  # fmt: skip


def choose(only: Sequence[str]) -> list[Subject]:
    """The subjects that give a figure, or have a name, that matches one of the patterns ``only``
    (all without any).

    Raises BenchError if nothing is left.
    """
    chosen = [
        subject
        for subject in Subject
        if not only
        or any(fnmatchcase(name, pat) for name in (subject, *KEYS[subject]) for pat in only)
    ]
    if not chosen:
        raise BenchError(
            f"nothing to measure matches {' '.join(only)}",
            f"give a figure's key or one of {', '.join(Subject)}, with * for any letters",
        )
    return chosen
