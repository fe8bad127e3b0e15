"""A seed is a run: the same trace in every process, whatever Python's hash seed, traced or not."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from sim_run import run_seed, run_traced

HERE = Path(__file__).parent
SEEDS = (1, 9, 25, 43)
PROGRAM = (
    "import sim_run, sys; print(*(sim_run.run_traced(int(s)).trace_hash for s in sys.argv[1:]))"
)


def hashes(hash_seed: str) -> str:
    path = os.pathsep.join((str(HERE), str(HERE.parent.parent)))
    environment = {**os.environ, "PYTHONHASHSEED": hash_seed, "PYTHONPATH": path}
    command = [sys.executable, "-c", PROGRAM, *map(str, SEEDS)]
    return subprocess.run(
        command, env=environment, capture_output=True, text=True, check=True
    ).stdout


def test_the_hash_seed_changes_nothing() -> None:
    first = hashes("0")
    assert len(set(first.split())) == len(SEEDS)
    assert hashes("12345") == first
    assert hashes("random") == first


def test_a_trace_changes_nothing() -> None:
    lines: list[str] = []
    traced = run_traced(SEEDS[0], lines.append)
    plain = run_seed(SEEDS[0])
    assert (plain.steps, plain.seen, plain.heights) == (traced.steps, traced.seen, traced.heights)
    assert plain.trace_hash == ""
    assert len(lines) > 100
    assert all(line[11] == " " for line in lines)  # time, node, what
