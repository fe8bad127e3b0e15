"""The benchmark of the node: all subjects in turns, round by round, and the outcome.

A round measures raw PyNaCl before and after every subject whose rate is divided by it, so that both
were seen in the same minute; the figures are medians over the rounds. Owns nothing but the order;
what runs is ``subjects``' business.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from tools.bench import raw
from tools.bench.core_cost import us_per_vote
from tools.bench.errors import BenchError
from tools.bench.figures import BY_KEY, medians, number, targets
from tools.bench.machine import describe
from tools.bench.plan import (
    COST_KEYS,
    BackendName,
    Measure,
    Scale,
    Subject,
    choose,
    estimate_s,
    first_guess,
    main_subject,
    need,
    needs,
)
from tools.bench.raw import Kind
from tools.bench.subjects import Measured, finality, flat_out, idle, overload
from tools.bench.workloads import Workbench

PROBE_S = 0.3
DIGITS = 4

Tell = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Outcome:
    """A finished benchmark: ``figures`` are medians, ``rounds`` hold what they are medians of."""

    figures: dict[str, float]
    machine: dict[str, Any]
    rounds: list[dict[str, Any]]
    scale: Scale
    missing: dict[str, str]

    def as_json(self, command: Sequence[str]) -> dict[str, Any]:
        """The outcome as one JSON-able object; ``command`` is the command line that it is of."""
        return {
            "figures": self.figures,
            "quick": self.scale.quick,
            "targets": targets(self.figures),
            "missing": self.missing,
            "machine": self.machine,
            "command": list(command),
            "scale": asdict(self.scale),
            "rounds": self.rounds,
        }

    @property
    def round_figures(self) -> list[dict[str, float]]:
        """The figures of each round."""
        return [one["figures"] for one in self.rounds]


def run(bench: Workbench, scale: Scale, only: Sequence[str], tell: Tell) -> Outcome:
    """Measure everything, or what ``only`` names; ``tell`` is given a line now and then.

    Raises BenchError if it cannot be done, BenchFailed if the node misbehaves.
    """
    found = describe(bench.work)
    backends, missing = _backends(tell)
    subjects = choose(only, backends)
    workloads = needs(subjects, scale, backends)
    raw_per_s = raw.measure(Kind.NACL, min(PROBE_S, scale.raw_s))
    minutes = estimate_s(subjects, scale, backends, raw_per_s) / 60
    tell(
        f"{len(subjects)} subjects, {scale.rounds} round(s), about {minutes:.0f} minutes"
        if minutes >= 1
        else f"{len(subjects)} subjects, {scale.rounds} round(s), less than a minute or so"
    )
    bench.check_space(list(workloads.values()))
    for one in workloads.values():
        bench.prepare(one, tell)
    bench.settle()
    turns = _Turns(bench, scale, backends, subjects, raw_per_s, tell)
    rounds = [turns.round(number) for number in range(1, scale.rounds + 1)]
    wanted = {key for subject in subjects for key in subject.keys}
    missing = {key: why for key, why in missing.items() if not only or key in wanted}
    return Outcome(medians([r["figures"] for r in rounds]), found, rounds, scale, missing)


def _backends(tell: Tell) -> tuple[tuple[BackendName, ...], dict[str, str]]:
    """The backends that work here, the fastest first; figures that cannot be had, and why."""
    try:
        raw.measure(Kind.MB8, 0.05)
    except BenchError as error:
        tell(f"without avx512: {error}")
        return ("nacl",), {key: str(error) for key in BY_KEY if "avx512" in key or "mb8" in key}
    return ("avx512", "nacl"), {}


@dataclass
class _Turns:
    """The state between the rounds: what rates were measured so far."""

    bench: Workbench
    scale: Scale
    backends: tuple[BackendName, ...]
    subjects: Sequence[Subject]
    raw_per_s: float
    tell: Tell
    _rates: dict[str, list[float]] = field(default_factory=dict)

    def round(self, turn: int) -> dict[str, Any]:
        """Measure every subject once."""
        figures: dict[str, float] = {"raw.fsync_ms": raw.fsync_ms(self.bench.work)}
        if "avx512" in self.backends:
            figures["raw.mb8_per_s"] = raw.measure(Kind.MB8, self.scale.raw_s)
        raws: list[float] = []
        if any(s.measure is Measure.FLAT_OUT for s in self.subjects):
            raws.append(raw.measure(Kind.NACL, self.scale.raw_s))
        details = {}
        for subject in self.subjects:
            measured = self._measure(subject)
            if subject.measure is Measure.FLAT_OUT:
                raws.append(raw.measure(Kind.NACL, self.scale.raw_s))
                figures |= self._of_rate(subject, measured, (raws[-2] + raws[-1]) / 2)
            else:
                figures |= measured.figures
            details[subject.name] = measured.detail
            self._tell(turn, subject, figures)
        if raws:
            figures["raw.nacl_per_s"] = statistics.fmean(raws)
        return {
            "round": turn,
            "figures": {key: round(figures[key], DIGITS) for key in BY_KEY if key in figures},
            "raw_nacl_per_s": [round(value, 1) for value in raws],
            "subjects": details,
        }

    def _measure(self, subject: Subject) -> Measured:
        if subject.measure is Measure.CORE:
            return Measured({"core.us_per_vote_100": us_per_vote()}, {})
        needed = need(subject, self.scale, self.backends)
        backend = subject.backend or self.backends[0]
        match subject.measure:
            case Measure.FLAT_OUT:
                guess = self._rate(subject)
                measured = flat_out(self.bench, subject, needed, backend, self.scale, guess)
                self._rates.setdefault(subject.name, []).append(measured.tx_per_s)
                return measured
            case Measure.OVERLOAD:
                return overload(self.bench, needed, backend, self.scale, self._main_rate())
            case Measure.FINALITY:
                return finality(self.bench, needed, backend, self.scale, self._main_rate())
            case Measure.IDLE:
                kind = Kind.SINGLE_AVX512 if backend == "avx512" else Kind.SINGLE_NACL
                alone = raw.measure(kind, self.scale.raw_s)
                return idle(self.bench, needed, backend, self.scale, alone)

    def _of_rate(self, subject: Subject, measured: Measured, raw_per_s: float) -> dict[str, float]:
        """The figures of a rate: absolute, beside raw, and the costs if this is the main one."""
        absolute, relative = subject.keys
        signatures_per_s = measured.tx_per_s * subject.inputs
        measured.detail["raw_nacl_per_s"] = round(raw_per_s, 1)
        costs: dict[str, float] = {}
        if subject is main_subject(self.backends):
            costs = {key: measured.figures[key] for key in COST_KEYS if key in measured.figures}
        return {absolute: measured.tx_per_s, relative: signatures_per_s / raw_per_s, **costs}

    def _rate(self, subject: Subject) -> float:
        """What a subject is expected to reach: as measured in this run, or a guess."""
        rates = self._rates.get(subject.name)
        return (
            statistics.median(rates)
            if rates
            else first_guess(subject, self.backends, self.raw_per_s)
        )

    def _main_rate(self) -> float:
        return self._rate(main_subject(self.backends))

    def _tell(self, turn: int, subject: Subject, figures: dict[str, float]) -> None:
        shown = [
            f"{key} {number(figures[key])} {BY_KEY[key].unit}"
            for key in subject.keys
            if key in figures
        ]
        self.tell(f"round {turn} of {self.scale.rounds}, {subject.name}: {', '.join(shown)}")
