"""The transactions that are sent and the data directories that they are sent to, made once.

``time-load prepare`` makes a workload, ``timed init`` the data directory of its chain; every
measurement then works on a copy of that. A workload that lies there already, made from the same
options, is used again. Owns the working directory's layout: ``workloads/NAME``, ``templates/NAME``
and ``runs/NUMBER``, one for each node life.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from itertools import count
from pathlib import Path
from typing import Any, Final

import orjson

from tools.bench.errors import BenchError
from tools.bench.nodes import clone, configure, make_template
from tools.bench.plan import WorkloadNeed
from tools.bench.process import die_with_parent
from tools.loadgen.workload_file import SUMMARY_NAME

BYTES_PER_INPUT: Final = 300  # of a workload: a transaction of one input, its share of the index
BYTES_PER_OUTPUT: Final = 200  # its record in the allocations, twice, and in the store, with room


class Workbench:
    """A working directory; ``keep`` leaves everything in it."""

    def __init__(self, work: Path, *, keep: bool = False) -> None:
        self.work = work
        self._keep = keep
        self._runs = count()

    def check_space(self, needs: list[WorkloadNeed]) -> None:
        """Raise BenchError unless the workloads and a node at work will fit on the disk."""
        wanted = sum(
            n.transactions * n.inputs * BYTES_PER_INPUT * 3 + n.outputs * BYTES_PER_OUTPUT
            for n in needs
        )
        free = shutil.disk_usage(self.work).free
        if free < wanted:
            raise BenchError(
                f"{wanted // 1_000_000:,} MB are needed, {self.work} has {free // 1_000_000:,} MB",
                "free some space there, or name another directory with --work",
            )

    def prepare(self, needed: WorkloadNeed, tell: Callable[[str], None]) -> None:
        """Make a workload and the data directory of its chain."""
        directory = self.workload(needed)
        wanted = {
            "transactions": needed.transactions,
            "kind": f"{needed.inputs}in",
            "outputs": needed.outputs,
            "seed": "bench",
        }
        if not _holds(directory, wanted):
            tell(f"preparing {needed.transactions:,} payments with {needed.inputs} input(s)")
            shutil.rmtree(directory, ignore_errors=True)
            command = [sys.executable, "-m", "tools.loadgen", "prepare", str(directory)]
            command += [part for key, value in wanted.items() for part in (f"--{key}", str(value))]
            done = subprocess.run(
                command, capture_output=True, text=True, stdin=subprocess.DEVNULL, check=False,
                preexec_fn=die_with_parent,
            )  # fmt: skip
            if done.returncode:
                raise BenchError(
                    f"time-load prepare failed ({done.stderr.strip().splitlines()[-1:]})",
                    "correct that first",
                )
        template = self._template(needed)
        tell(f"making a chain of {needed.outputs:,} outputs")
        shutil.rmtree(template, ignore_errors=True)
        template.parent.mkdir(exist_ok=True)
        make_template(directory, template)

    @staticmethod
    def settle() -> None:
        """Let everything written so far reach the disk, so that no measurement pays for it."""
        os.sync()

    def workload(self, needed: WorkloadNeed) -> Path:
        """Where a workload lies."""
        return self.work / "workloads" / needed.name

    def _template(self, needed: WorkloadNeed) -> Path:
        return self.work / "templates" / needed.name

    @contextmanager
    def datadir(
        self, needed: WorkloadNeed, sections: Mapping[str, Mapping[str, str | int]]
    ) -> Iterator[Path]:
        """A fresh data directory for one node life, removed after it."""
        run = self.work / "runs" / str(next(self._runs))
        shutil.rmtree(run, ignore_errors=True)
        run.mkdir(parents=True)
        try:
            datadir = run / "node"
            clone(self._template(needed), datadir)
            configure(datadir, sections)
            yield datadir
        finally:
            if not self._keep:
                shutil.rmtree(run, ignore_errors=True)

    def clean(self) -> None:
        """Remove everything that was made here, and the directory if nothing else is in it."""
        if self._keep:
            return
        for name in ("runs", "templates", "workloads"):
            shutil.rmtree(self.work / name, ignore_errors=True)
        with suppress(OSError):
            self.work.rmdir()


def _holds(directory: Path, wanted: Mapping[str, Any]) -> bool:
    """Whether a workload made from these options lies there, complete."""
    try:
        summary = orjson.loads((directory / SUMMARY_NAME).read_bytes())
    except (OSError, ValueError):
        return False
    others = {"bad_signatures": 0.0, "double_spends": 0.0, "chain": "dev"}
    return all(summary.get(key) == value for key, value in {**wanted, **others}.items())
