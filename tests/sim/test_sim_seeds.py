"""The simulator's seeds, as many as a test run can afford; `make sim` runs far more."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from sim_hunt import EXPECTED, SEEDS_IN_TEST, hunt

HUNT = Path(__file__).with_name("sim_hunt.py")
COVERING_SEEDS = 300


@pytest.mark.timeout(900)
def test_no_seed_fails_and_everything_comes_about() -> None:
    """All cores; the first 300 seeds alone must bring about each kind of thing."""
    jobs = 2
    tally, _ = hunt(0, COVERING_SEEDS, None, jobs)
    assert tally.failures == []
    missing = [kind for kind in EXPECTED if not tally.seen[kind]]
    assert missing == []
    tally, _ = hunt(COVERING_SEEDS, SEEDS_IN_TEST - COVERING_SEEDS, None, jobs)
    assert tally.failures == []
    assert tally.seeds == SEEDS_IN_TEST - COVERING_SEEDS


def test_the_command_line_gives_figures() -> None:
    done = subprocess.run(
        [sys.executable, HUNT, "--seeds", "3", "--jobs", "1", "--json"],
        capture_output=True,
        text=True,
        check=True,
    )
    result = json.loads(done.stdout)
    assert result["seeds"] == 3
    assert result["violations"] == []
    assert result["figures"].keys() == {"sim.seeds_per_20_min"}
    assert result["seeds_per_20_min_is"] == "extrapolated from the rate"
