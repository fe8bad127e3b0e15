"""Hunts for disagreement: runs seeds on all cores until one fails, or time or numbers are up.

    python tests/sim/sim_hunt.py --seeds 1000          these many, from --first (0) on
    python tests/sim/sim_hunt.py --minutes 20          as many as fit
    python tests/sim/sim_hunt.py --replay 4711         one seed, with its trace

A seed that fails is printed with the command that replays it, and the exit status is 1. The only
clock is for progress, for `--minutes` and for a seed that never ends; no seed depends on it.
"""

from __future__ import annotations

import argparse
import gc
import json
import os
import signal
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any, TextIO

HERE = Path(__file__).resolve().parent
for place in (HERE, HERE.parent.parent):
    if str(place) not in sys.path:
        sys.path.insert(0, str(place))

import multiprocess  # noqa: E402
from multiprocess.connection import wait  # noqa: E402
from sim_run import Outcome, run_seed, run_traced  # noqa: E402

SEEDS_IN_TEST = 1000  # what the tests run, about a minute on two cores
WINDOW_S = 20 * 60  # in the name of the figure
SEEDS_PER_COLLECTION = 16
REPORT_S = 1.0  # between two words of a worker
LINE_S = 60.0  # between two lines of progress where nobody watches
SEED_LIMIT_S = 60  # of the processor; a seed takes a tenth of a second, this one never ends
MOST_FAILURES = 20  # after that many the hunt is over
UNENDING = 10**12  # seeds

# What must come about in the first few hundred seeds, or the hunt hunts nothing.
EXPECTED = (
    *("decided", "decided above round 0", "round above 0", "precommit", "nil precommit"),
    *("nil prevote", "locked", "locked again", "locked on another", "proposal with polka"),
    *("decision served", "evidence", "forgery dropped", "lie", "replayed", "stale polka"),
    *("body withheld", "body fetched again", "invalid block judged", "signer refuses, silent"),
    *("cut", "one-way cut", "killed", "lost power", "all lost power", "signer killed"),
    *("signer lost power", "signer lost its state", "log cut", "log recovered", "log lost"),
)


class Tally:
    """What a hunt has brought so far."""

    def __init__(self) -> None:
        self.seeds = 0
        self.steps = 0
        self.heights = 0
        self.highest_round = -1
        self.least_spare_rounds = 1_000_000
        self.seen: Counter[str] = Counter()
        self.failures: list[tuple[int, str]] = []

    def add(self, outcome: Outcome) -> None:
        """Count a seed."""
        self.seeds += 1
        self.steps += outcome.steps
        self.heights += outcome.heights
        self.highest_round = max(self.highest_round, outcome.most_rounds)
        self.least_spare_rounds = min(self.least_spare_rounds, outcome.spare_rounds)
        self.seen += outcome.seen
        if outcome.violation is not None:
            self.failures.append((outcome.seed, outcome.violation))

    def merge(self, other: Tally) -> None:
        """Count what somebody else has counted."""
        self.seeds += other.seeds
        self.steps += other.steps
        self.heights += other.heights
        self.highest_round = max(self.highest_round, other.highest_round)
        self.least_spare_rounds = min(self.least_spare_rounds, other.least_spare_rounds)
        self.seen += other.seen
        self.failures += other.failures


def work(first: int, step: int, end: int, seconds: float | None, out: Any) -> None:
    """A worker: run every `step`-th seed, and say about once a second what came of them."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGVTALRM, _never_ends)
    gc.disable()  # a world is a few megabytes in circles
    began = said = time.monotonic()
    tally = Tally()
    for seed in range(first, end, step):
        signal.setitimer(signal.ITIMER_VIRTUAL, SEED_LIMIT_S)
        tally.add(run_seed(seed))
        signal.setitimer(signal.ITIMER_VIRTUAL, 0)
        if tally.seeds % SEEDS_PER_COLLECTION == 0:
            gc.collect()
        now = time.monotonic()
        if now - said > REPORT_S or tally.failures:
            out.send(tally)
            tally = Tally()
            said = now
        if seconds is not None and now - began > seconds:
            break
    out.send(tally)
    out.close()


def _never_ends(_signal: int, _frame: object) -> None:
    raise TimeoutError(f"the seed has not ended after {SEED_LIMIT_S} s of work")


def hunt(
    first: int, seeds: int | None, seconds: float | None, jobs: int, progress: TextIO | None = None
) -> tuple[Tally, float]:
    """Run seeds on so many processes; return what came of them, and how many seconds it took."""
    context = multiprocess.get_context("spawn")
    end = first + (UNENDING if seeds is None else seeds)
    began = time.monotonic()
    next_line_s = LINE_S
    tally = Tally()
    workers = {}
    for number in range(jobs):
        ours, theirs = context.Pipe(duplex=False)
        worker = context.Process(target=work, args=(first + number, jobs, end, seconds, theirs))
        worker.start()
        theirs.close()
        workers[ours] = worker
    try:
        while workers and len(tally.failures) < MOST_FAILURES:
            for ours in wait(list(workers)):
                try:
                    news = ours.recv()
                except EOFError:
                    worker = workers.pop(ours)
                    worker.join()
                    if worker.exitcode:
                        raise RuntimeError(f"a worker died: {worker.exitcode}") from None
                    continue
                tally.merge(news)
                if progress is not None:
                    for seed, violation in news.failures:
                        print(f"\n{describe_failure(seed, violation)}", file=progress)
                    elapsed_s = time.monotonic() - began
                    if progress.isatty() or elapsed_s >= next_line_s:
                        next_line_s = elapsed_s + LINE_S
                        _show(tally, elapsed_s, progress)
    finally:
        for worker in workers.values():
            worker.terminate()
            worker.join()
    if progress is not None:
        print(file=progress)
    return tally, time.monotonic() - began


def _show(tally: Tally, seconds: float, progress: TextIO) -> None:
    text = (
        f"{tally.seeds:,} seeds, {tally.heights:,} heights, {tally.steps:,} events in "
        f"{seconds:.0f} s: {len(tally.failures)} violations"
    )
    before, after = ("\r", "") if progress.isatty() else ("", "\n")
    print(before + text, end=after, file=progress, flush=True)


def describe_failure(seed: int, violation: str) -> str:
    """What happened, and the command that shows how."""
    return (
        f"seed {seed}: {violation}\n"
        f"  replay: make sim-replay SEED={seed}\n"
        f"  (that is: python tests/sim/sim_hunt.py --replay {seed})"
    )


def figures(tally: Tally, seconds: float, first: int, jobs: int) -> dict[str, Any]:
    """What was measured, as a document."""
    found: dict[str, float] = {}
    if not tally.failures:
        found["sim.seeds_per_20_min"] = round(tally.seeds / seconds * WINDOW_S)
        if first == 0 and tally.seeds >= SEEDS_IN_TEST:
            found["sim.seeds_in_test"] = SEEDS_IN_TEST
    return {
        "figures": found,
        "seeds_per_20_min_is": "measured" if seconds >= WINDOW_S else "extrapolated from the rate",
        "first_seed": first,
        "seeds": tally.seeds,
        "seconds": round(seconds, 1),
        "processes": jobs,
        "events": tally.steps,
        "heights": tally.heights,
        "highest_round_after_healing": tally.highest_round,
        "least_rounds_to_the_bound": tally.least_spare_rounds,
        "seen": dict(sorted(tally.seen.items())),
        "violations": [{"seed": seed, "what": what} for seed, what in sorted(tally.failures)],
    }


def replay(seed: int) -> int:
    """Print a seed's trace and what came of it; return the exit status."""
    outcome = run_traced(seed, print)
    print(f"trace hash {outcome.trace_hash}")
    if outcome.violation is None:
        print(f"seed {seed}: no violation, {outcome.heights} heights in {outcome.steps:,} events")
        return 0
    print(f"seed {seed}: {outcome.violation}")
    return 1


def main(arguments: list[str] | None = None) -> int:
    """The command line; returns the exit status."""
    parser = argparse.ArgumentParser(description="Hunt for disagreement, seed by seed.")
    parser.add_argument("--seeds", type=int, help="how many (default: as many as --minutes allow)")
    parser.add_argument("--minutes", type=float, help="for how long (default: 20 without --seeds)")
    parser.add_argument("--first", type=int, default=0, help="the first seed (default: 0)")
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1, help="processes")
    parser.add_argument("--json", action="store_true", help="print figures as JSON")
    parser.add_argument("--replay", type=int, metavar="SEED", help="run one seed with its trace")
    chosen = parser.parse_args(arguments)
    if chosen.replay is not None:
        try:
            return replay(chosen.replay)
        except BrokenPipeError:  # a pager that was left
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            return 1
    minutes = 20.0 if chosen.seeds is None and chosen.minutes is None else chosen.minutes
    seconds = None if minutes is None else minutes * 60
    jobs = max(1, chosen.jobs)
    tally, took_s = hunt(chosen.first, chosen.seeds, seconds, jobs, sys.stderr)
    result = figures(tally, took_s, chosen.first, jobs)
    if chosen.json:
        print(json.dumps(result, indent=2))
    else:
        rate = tally.seeds / took_s
        print(
            f"{tally.seeds:,} seeds in {took_s:.0f} s on {jobs} processes: {rate:.1f}/s, "
            f"{rate * WINDOW_S:,.0f} in 20 minutes; violations: {len(tally.failures)}"
        )
        for seed, violation in sorted(tally.failures):
            print(describe_failure(seed, violation))
    return 1 if tally.failures else 0


if __name__ == "__main__":
    sys.exit(main())
