"""Nodes to measure: a template of a data directory, copies of it, and a real node on each copy.

``make_template`` runs ``timed init`` once for each workload; ``clone`` copies it in milliseconds,
with hard links to what is never written again; ``RunningNode`` is ``timed run`` on a copy, started
until READY, sampled from outside, and stopped with SIGTERM. Owns the node's process: it is gone
when the context ends, whatever happened inside. What the node logs goes to a file beside its data
directory.
"""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Mapping
from contextlib import ExitStack
from itertools import count
from pathlib import Path
from types import TracebackType
from typing import Any, Final

from pipeline.errors import NoNodeError
from pipeline.status import ask_status, fetch_metrics
from tools.bench.errors import BenchError, BenchFailed
from tools.bench.process import cpu_ns, descendants, die_with_parent, pss_bytes, wait_gone
from tools.bench.samples import Sample
from tools.ports import free_ports

READY_TIMEOUT_S: Final = 120.0  # a cold disk and a large set
STOP_TIMEOUT_S: Final = 60.0
KILL_AFTER_S: Final = 5.0
LOG_TAIL_LINES: Final = 12

_NEVER_WRITTEN_AGAIN: Final = (".sst", ".alloc")
"""RocksDB's tables are written once and unlinked; the node only reads its allocations."""

_numbers = count()


def make_template(workload: Path, datadir: Path) -> None:
    """Make the data directory of a workload's chain; raises BenchError if that fails."""
    command = [sys.executable, "-m", "node", "init", "--datadir", str(datadir)]
    command += ["--genesis", str(workload / "genesis.json")]
    command += ["--validator-key", str(workload / "validator.key")]
    done = subprocess.run(
        command, capture_output=True, text=True, stdin=subprocess.DEVNULL, check=False,
        preexec_fn=die_with_parent,
    )  # fmt: skip
    if done.returncode:
        raise BenchError(f"timed init failed ({done.stderr.strip()})", "correct that first")


def clone(template: Path, datadir: Path) -> None:
    """Copy a data directory whose node does not run; raises FileExistsError if the target exists.

    Tables and allocations become hard links (copies where there are none), so a fresh copy neither
    costs disk writes that a measurement would wait for nor loses the page cache.
    """

    def copy(source: str, target: str) -> str:
        if source.endswith(_NEVER_WRITTEN_AGAIN):
            try:
                os.link(source, target)
                return target
            except OSError:
                pass
        return str(shutil.copy2(source, target))

    shutil.copytree(template, datadir, copy_function=copy)


def configure(datadir: Path, sections: Mapping[str, Mapping[str, str | int]]) -> None:
    """Write config.toml: these values, addresses that are free now, defaults for the rest."""
    listen, notify, rpc = free_ports(3)
    merged: dict[str, dict[str, str | int]] = {name: dict(keys) for name, keys in sections.items()}
    network = merged.setdefault("network", {})
    network["listen"] = f"tcp://127.0.0.1:{listen}"
    network["notify"] = f"tcp://127.0.0.1:{notify}"
    merged.setdefault("rpc", {}).setdefault("listen", f"127.0.0.1:{rpc}")
    lines = []
    for name, keys in merged.items():
        lines.append(f"[{name}]")
        for key, value in keys.items():
            lines.append(f"{key} = {value}" if isinstance(value, int) else f'{key} = "{value}"')
    (datadir / "config.toml").write_text("\n".join(lines) + "\n")


class RunningNode:
    """A node on a data directory; entering starts it, leaving stops it.

    ``ready_s`` is how long it took to be ready. A node that does not become ready, loses a process,
    or does not end with status 0 is a BenchFailed.
    """

    def __init__(self, datadir: Path) -> None:
        self.datadir = datadir
        self.ready_s = 0.0
        self._log = datadir.with_name(datadir.name + ".log")
        self._process: subprocess.Popen[bytes] | None = None
        self._pids: dict[str, int] = {}
        self._mapped = ExitStack()
        self._readers: list[Any] = []

    def __enter__(self) -> RunningNode:
        try:
            self._start()
            return self
        except BaseException:
            self._kill()
            raise

    def __exit__(
        self, kind: type[BaseException] | None, _: BaseException | None, __: TracebackType | None
    ) -> None:
        try:
            if kind is None:
                self._stop()
        finally:
            self._kill()

    def sample(self, *, memory: bool = False) -> Sample:
        """Look at all processes now; ``memory`` too costs some milliseconds of their time."""
        try:
            return Sample(
                at_ns=time.monotonic_ns(),
                cpu_ns={name: cpu_ns(pid) for name, pid in self._pids.items()},
                stages={
                    (found.stage, found.index): found.values
                    for reader in self._readers
                    for found in reader.snapshots()
                },
                pss_bytes=pss_bytes(self._pids.values()) if memory else None,
            )
        except ProcessLookupError as error:
            raise self._failed(
                f"a process of the node died while it was measured ({error})"
            ) from None

    def _start(self) -> None:
        name = f"time-bench-{os.getpid()}-{next(_numbers)}"
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as ready, self._log.open("wb") as log:
            ready.bind("\0" + name)
            ready.settimeout(0.1)
            began = time.monotonic()
            self._process = subprocess.Popen(
                [sys.executable, "-m", "node", "run", "--datadir", str(self.datadir)],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env={**os.environ, "NOTIFY_SOCKET": "@" + name},
                start_new_session=True,  # Ctrl-C is ours; the node is stopped in order
                preexec_fn=die_with_parent,
            )
            while True:
                try:
                    if b"READY=1" in ready.recv(4096):
                        break
                except TimeoutError:
                    if self._process.poll() is not None:
                        raise self._failed("the node did not start") from None
                    if time.monotonic() - began > READY_TIMEOUT_S:
                        raise self._failed("the node did not become ready") from None
            self.ready_s = time.monotonic() - began
        self._look_inside()

    def _look_inside(self) -> None:
        assert self._process is not None
        run = self.datadir / "run"
        status = self._ask()
        self._pids = {process["name"]: process["pid"] for process in status["processes"]}
        self._pids["supervisor"] = self._process.pid
        helpers = set(descendants(self._process.pid)) - set(self._pids.values())
        self._pids |= {f"supervisor-{number}": pid for number, pid in enumerate(sorted(helpers))}
        for one in fetch_metrics(run):
            self._mapped.callback(one.segment.close)
            self._mapped.callback(one.reader.close)
            self._readers.append(one.reader)

    def _ask(self) -> dict[str, Any]:
        try:
            return ask_status(self.datadir / "run")
        except NoNodeError as error:
            raise self._failed(f"the node does not answer ({error})") from None

    def _stop(self) -> None:
        assert self._process is not None
        restarted = [p["name"] for p in self._ask()["processes"] if p["restarts"]]
        if restarted:
            raise self._failed(f"{', '.join(restarted)} died and was started again")
        self._process.send_signal(signal.SIGTERM)
        try:
            status = self._process.wait(STOP_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            raise self._failed(f"the node did not stop within {STOP_TIMEOUT_S:g} s") from None
        if status:
            raise self._failed(f"the node ended with status {status}")

    def _kill(self) -> None:
        """Make sure that nothing of the node is left."""
        self._readers.clear()
        self._mapped.close()
        process, self._process = self._process, None
        if process is None:
            return
        if process.poll() is None:
            below = descendants(process.pid)
            try:
                process.send_signal(signal.SIGTERM)
                process.wait(KILL_AFTER_S)
            except subprocess.TimeoutExpired:
                pass
            finally:  # it does not hear, or a second Ctrl-C
                process.kill()
                process.wait()
                wait_gone(below, KILL_AFTER_S)  # they die with it

    def _failed(self, why: str) -> BenchFailed:
        try:
            tail = self._log.read_text(errors="replace").splitlines()[-LOG_TAIL_LINES:]
        except OSError:
            tail = []
        return BenchFailed("\n  ".join([f"{why}; the end of {self._log}:", *tail]))
