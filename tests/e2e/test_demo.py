"""``make demo``, small: it succeeds, says when something is wrong, and leaves nothing running."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import psutil

ROOT = Path(__file__).parents[2]


def start(directory: Path, *options: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "tools.demo", "--directory", str(directory), *options],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )


def left_over(directory: Path) -> list[list[str]]:
    """Command lines of processes that work in the directory."""
    found = []
    for process in psutil.process_iter():
        try:
            if str(directory) in " ".join(process.cmdline()) or process.cwd().startswith(
                str(directory)
            ):
                found.append(process.cmdline())
        except (psutil.NoSuchProcess, psutil.AccessDenied, psutil.ZombieProcess):
            continue
    return found


def test_a_demonstration_ends_well(tmp_path: Path) -> None:
    small = ("--nodes", "4", "--seconds", "5", "--load", "100")
    with start(tmp_path / "demo", *small) as process:
        output, _ = process.communicate(timeout=110)
    assert process.returncode == 0, output
    for told in ("$ timed devnet --nodes 4", "node-3", "every answer right", "all is well"):
        assert told in output
    assert output.count("ok   block files") == 4
    assert left_over(tmp_path) == []


def test_an_interrupted_demonstration_leaves_nothing_running(tmp_path: Path) -> None:
    with start(tmp_path / "demo", "--nodes", "2", "--seconds", "60", "--load", "50") as process:
        assert process.stdout is not None
        for line in process.stdout:
            if "nodes run" in line:
                break
        os.killpg(process.pid, signal.SIGINT)
        process.communicate(timeout=60)
    assert process.returncode == 130
    assert left_over(tmp_path) == []
