"""Applies the sabotages of `sabotages.py` one by one and expects each to be noticed.

Every sabotage gets a copy of the packages and tests in a temporary directory. First the simulator
looks for a seed that fails, then the tests of agreement run; whoever fails first has killed it.
A sabotage that survives is a guard that nothing checks: exit status 1. So is one whose text is not
found exactly once, or an unharmed copy in which anything fails.

    python tests/mutants/run_mutants.py [--only NAME ...] [--jobs N] [--json FILE]
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass
from pathlib import Path

from sabotages import SABOTAGES, Sabotage

ROOT = Path(__file__).resolve().parents[2]
COPIED = ("node", "pipeline", "tools", "tests", "pyproject.toml")
SEEDS = 120  # that the simulator runs before the tests have their turn
LIMIT_S = 240  # a sabotage that makes something hang is noticed, too
TESTS = (
    "tests/node/consensus",
    "tests/node/test_agreement.py",
    "tests/node/test_wal.py",
    "tests/node/test_signer.py",
    "tests/node/test_signer_cuts.py",
)


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of one sabotage: who noticed ("" if nobody), and how long that took."""

    name: str
    killer: str
    took_s: float
    said: str


def main() -> int:
    """Run the command line; returns the exit status."""
    parser = argparse.ArgumentParser(description="Sabotage the code and see who notices.")
    parser.add_argument("--only", nargs="*", default=[], help="names of sabotages")
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--json", type=Path, help="write the figures to this file, too")
    options = parser.parse_args()
    chosen = [each for each in SABOTAGES if not options.only or each.name in options.only]
    if unknown := set(options.only) - {each.name for each in chosen}:
        parser.error(f"no sabotage is called {', '.join(sorted(unknown))}")
    unharmed = _try(None)
    if unharmed.killer:
        print(f"the unharmed code fails already ({unharmed.killer}):\n{unharmed.said}")
        return 1
    survivors = []
    with ThreadPoolExecutor(options.jobs) as pool:
        running = [pool.submit(_try, each) for each in chosen]
        for number, future in enumerate(as_completed(running), 1):
            outcome = future.result()
            killer = outcome.killer or "SURVIVED"
            print(
                f"{number:3}/{len(chosen)}  {outcome.name:42} {killer:10} {outcome.took_s:5.0f} s",
                flush=True,
            )
            if not outcome.killer:
                survivors.append(outcome.name)
    figures = {
        "sim.mutants": len(chosen),
        "sim.mutants_killed": len(chosen) - len(survivors),
    }
    if options.json:
        options.json.write_text(json.dumps({"figures": figures, "survivors": survivors}))
    print(f"{figures['sim.mutants_killed']} of {len(chosen)} noticed")
    return 1 if survivors else 0


def _try(sabotage: Sabotage | None) -> Outcome:
    name = "unharmed" if sabotage is None else sabotage.name
    began = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="mutant-") as directory:
        where = Path(directory)
        _copy(where)
        if sabotage is not None:
            _apply(sabotage, where)
        killer, said = _kill(where)
    return Outcome(name, killer, time.monotonic() - began, said)


def _copy(where: Path) -> None:
    ignored = shutil.ignore_patterns("__pycache__", ".hypothesis")
    for name in COPIED:
        if (ROOT / name).is_dir():
            shutil.copytree(ROOT / name, where / name, ignore=ignored)
        else:
            shutil.copy2(ROOT / name, where / name)


def _apply(sabotage: Sabotage, where: Path) -> None:
    path = where / sabotage.file
    text = path.read_text(encoding="utf-8")
    if text.count(sabotage.old) != 1:
        raise SystemExit(
            f"{sabotage.name}: its text is found {text.count(sabotage.old)} times in "
            f"{sabotage.file}; correct tests/mutants/sabotages.py"
        )
    path.write_text(text.replace(sabotage.old, sabotage.new), encoding="utf-8")


def _kill(where: Path) -> tuple[str, str]:
    """Who notices that the code below is wrong, and what it says; "" if nobody does."""
    simulator = ("tests/sim/sim_hunt.py", "--seeds", str(SEEDS), "--jobs", "1")
    tests = ("-m", "pytest", "-x", "-q", "-p", "no:cacheprovider", *TESTS)
    for killer, command in (("simulator", simulator), ("tests", tests)):
        environment = os.environ | {
            "PYTHONPATH": str(where),
            "PYTHONDONTWRITEBYTECODE": "1",
            "HYPOTHESIS_STORAGE_DIRECTORY": str(where / ".hypothesis"),
        }
        try:
            done = subprocess.run(
                [sys.executable, *command],
                cwd=where,
                env=environment,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
                timeout=LIMIT_S,
                check=False,
            )
        except subprocess.TimeoutExpired:
            return killer, f"took more than {LIMIT_S} s"
        if done.returncode:
            return killer, "\n".join(done.stdout.splitlines()[-15:])
    return "", ""


if __name__ == "__main__":
    sys.exit(main())
