"""The simulator's seeds, as many as a test run can afford; `make sim` runs far more."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from sim_hunt import EXPECTED, SEEDS_IN_TEST

HUNT = Path(__file__).with_name("sim_hunt.py")
COVERING_SEEDS = 300


def hunt(*arguments: object) -> dict[str, Any]:
    """What the command line says about its seeds, whatever came of them."""
    command = [sys.executable, HUNT, "--json", *map(str, arguments)]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=False)
    result: dict[str, Any] = json.loads(done.stdout)
    assert done.returncode == bool(result["violations"])
    return result


@pytest.mark.timeout(900)
def test_no_seed_fails_and_everything_comes_about() -> None:
    """All cores; the first 300 seeds alone must bring about each kind of thing."""
    result = hunt("--seeds", COVERING_SEEDS)
    assert result["violations"] == []
    assert [kind for kind in EXPECTED if not result["seen"].get(kind)] == []
    rest = SEEDS_IN_TEST - COVERING_SEEDS
    result = hunt("--first", COVERING_SEEDS, "--seeds", rest)
    assert result["violations"] == []
    assert result["seeds"] == rest


def test_the_command_line_gives_figures() -> None:
    result = hunt("--seeds", 3, "--jobs", 1)
    assert result["seeds"] == 3
    assert result["violations"] == []
    assert result["figures"].keys() == {"sim.seeds_per_20_min"}
    assert result["seeds_per_20_min_is"] == "extrapolated from the rate"
