"""The benchmark of the node's surface: JSON-RPC, the monitor and the service, round by round.

Every subject is measured once in each round, each on a node of its own; the server that calls are
compared with and the client that calls both live as long as the benchmark. Figures are medians over
the rounds. Owns these two processes and the order; how things are measured is
``surface_subjects``' business.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from typing import Any, Final

from tools.bench import raw, surface_subjects
from tools.bench.caller import Caller
from tools.bench.errors import BenchError
from tools.bench.exposure import UNIT, exposure
from tools.bench.figures import medians, number, targets
from tools.bench.machine import describe
from tools.bench.plan import BackendName
from tools.bench.raw import Kind
from tools.bench.surface_plan import FIGURES, KEYS, Subject, SurfaceScale, choose
from tools.bench.surface_subjects import Measured, Surface
from tools.bench.trivial import Trivial
from tools.bench.workloads import Workbench

DIGITS: Final = 4

Tell = Callable[[str], None]

_MEASURES: Final[dict[Subject, Callable[[Surface], Measured]]] = {
    Subject.CALLS: surface_subjects.calls,
    Subject.LATENCY: surface_subjects.latency,
    Subject.SENDING: surface_subjects.sending,
    Subject.FLOOD: surface_subjects.flood,
    Subject.MONITOR: surface_subjects.monitor,
    Subject.START: surface_subjects.start,
    Subject.UNIT: surface_subjects.unit,
}


@dataclass(frozen=True, slots=True)
class SurfaceOutcome:
    """A finished benchmark: ``figures`` are medians, ``rounds`` hold what they are medians of."""

    figures: dict[str, float]
    machine: dict[str, Any]
    rounds: list[dict[str, Any]]
    scale: SurfaceScale
    backend: BackendName
    missing: dict[str, str]

    def as_json(self, command: Sequence[str]) -> dict[str, Any]:
        """The outcome as one JSON-able object; ``command`` is the command line that it is of."""
        return {
            "figures": self.figures,
            "quick": self.scale.quick,
            "targets": targets(self.figures, FIGURES),
            "missing": self.missing,
            "machine": self.machine,
            "command": list(command),
            "scale": {**asdict(self.scale), "backend": self.backend},
            "rounds": self.rounds,
        }


def run(
    bench: Workbench, scale: SurfaceScale, only: Sequence[str], tell: Tell
) -> SurfaceOutcome:  # fmt: skip
    """Measure everything, or what ``only`` names; ``tell`` is given a line now and then.

    Raises BenchError if it cannot be done, BenchFailed if what is measured misbehaves.
    """
    found = describe(bench.work)
    subjects, missing = _possible(choose(only), tell)
    backend = _backend(tell)
    needs = scale.needs(subjects, backend)
    minutes = scale.estimate_s(subjects, backend) / 60
    tell(f"{len(subjects)} subjects, {scale.rounds} round(s), about {max(1.0, minutes):.0f} min")
    bench.check_space(needs)
    for needed in needs:
        bench.prepare(needed, tell)
    bench.settle()
    with ExitStack() as stack:
        logs = bench.work / "runs"  # which goes when the benchmark does
        logs.mkdir(exist_ok=True)
        trivial = stack.enter_context(Trivial(logs / "trivial.log"))
        caller = stack.enter_context(Caller(logs / "caller.log"))
        shared = scale.need(subjects, backend)
        surface = Surface(bench, shared, backend, scale, trivial, caller)
        rounds = [_round(surface, subjects, turn, tell) for turn in range(1, scale.rounds + 1)]
    figures = medians([one["figures"] for one in rounds], FIGURES)
    return SurfaceOutcome(figures, found, rounds, scale, backend, missing)


def _possible(
    chosen: Sequence[Subject], tell: Tell
) -> tuple[list[Subject], dict[str, str]]:  # fmt: skip
    """The subjects that can be measured here; figures that cannot be had, and why."""
    if Subject.UNIT in chosen:
        try:
            exposure(UNIT)
        except BenchError as error:
            tell(f"without {Subject.UNIT}: {error}")
            return [each for each in chosen if each != Subject.UNIT], dict.fromkeys(
                KEYS[Subject.UNIT], str(error)
            )
    return list(chosen), {}


def _round(
    surface: Surface, subjects: Sequence[Subject], turn: int, tell: Tell
) -> dict[str, Any]:  # fmt: skip
    """Measure every subject once."""
    figures: dict[str, float] = {}
    details: dict[str, Any] = {}
    for subject in subjects:
        values, details[subject.value] = _MEASURES[subject](surface)
        figures |= dict(zip(KEYS[subject], values, strict=True))
        shown = [f"{key} {number(figures[key])}" for key in KEYS[subject]]
        tell(f"round {turn} of {surface.scale.rounds}, {subject}: {', '.join(shown)}")
    return {
        "round": turn,
        "figures": {key: round(value, DIGITS) for key, value in figures.items()},
        "subjects": details,
    }


def _backend(tell: Tell) -> BackendName:
    try:
        raw.measure(Kind.MB8, 0.05)
    except BenchError as error:
        tell(f"without avx512: {error}")
        return "nacl"
    return "avx512"
