"""Looking at a node: its shared memory at every look, its supervisor once a second at most.

A `Watch` is given a data directory; `look` returns an observation, whether a node runs there or
not. Owns the read-only mappings of the node's metrics and a descriptor of its supervisor's process,
which tells at once when that ends. Takes no lock and writes nothing, so the node does not notice;
what it costs the supervisor is one question a second. Nothing that a node does ends it: whoever is
gone is looked for again.
"""

from __future__ import annotations

import os
import select
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import Any, Final

from node.datadir import Layout
from pipeline.errors import MetricsError, NoNodeError
from pipeline.metrics import StageSnapshot
from pipeline.status import ProcessMetrics, ask_status, fetch_metrics
from tools.monitor.observed import Key, Observation

ASK_EVERY_S: Final = 1.0
ASK_TIMEOUT_S: Final = 0.3
"""The screen stands still while the supervisor is waited for."""

BUSY_PAUSE_S: Final = 4.0
"""Longer than usual until a supervisor is asked again that did not answer."""

_LAST_CORE_FIELD: Final = 36
"""Of /proc/<pid>/stat, counted behind the name (proc_pid_stat(5): field 39)."""


class Watch:
    """One node, over all its lives; ``clock`` and ``unix_clock`` give seconds."""

    def __init__(
        self,
        where: Layout,
        clock: Callable[[], float] = time.monotonic,
        unix_clock: Callable[[], float] = time.time,
    ) -> None:
        self._where = where
        self._clock = clock
        self._unix_clock = unix_clock
        self._name = _short(str(where.root))
        self._attached: list[ProcessMetrics] = []
        self._pidfd = -1
        self._life = 0
        self._ask_at_s = 0.0
        self._status: Mapping[str, Any] = {}
        self._status_at_s = 0.0
        self._last_cores: dict[str, int] = {}
        self._absent = "nothing is known yet"

    def look(self) -> Observation:
        """What there is to see now."""
        now_s = self._clock()
        if self._pidfd >= 0 and select.select([self._pidfd], [], [], 0)[0]:
            self._let_go("its supervisor has ended")
        if now_s >= self._ask_at_s:
            self._ask_at_s = now_s + ASK_EVERY_S
            self._ask()
        if self._pidfd < 0:
            return Observation(now_s, self._unix_clock(), self._name, self._absent)
        return Observation(
            now_s,
            self._unix_clock(),
            self._name,
            None,
            self._life,
            self._status,
            self._snapshots(),
            dict(self._last_cores),
            now_s - self._status_at_s,
        )

    def close(self) -> None:
        """Let go of everything."""
        self._let_go("no longer watched")

    def _ask(self) -> None:
        """Ask for the status, and for the metrics of a supervisor that was not known."""
        try:
            status = ask_status(self._where.run, timeout_s=ASK_TIMEOUT_S)
            if self._pidfd < 0 or status["pid"] != self._status.get("pid"):
                self._attach(int(status["pid"]))
        except NoNodeError as error:
            if self._pidfd < 0:
                self._absent = error.message
            else:  # it is there and does not answer: what is not read would gather at its socket
                self._ask_at_s += BUSY_PAUSE_S
            return
        except OSError as error:  # it ended between the answer and now
            self._let_go(f"its supervisor has just ended ({error.strerror})")
            return
        self._status = {name: value for name, value in status.items() if name != "metrics"}
        self._status_at_s = self._clock()
        for process in status["processes"]:
            core = _last_core(process["pid"])
            if core is not None:
                self._last_cores[process["name"]] = core

    def _attach(self, pid: int) -> None:
        self._let_go("")
        pidfd = os.pidfd_open(pid)
        try:
            self._attached = fetch_metrics(self._where.run, timeout_s=ASK_TIMEOUT_S)
        except BaseException:
            os.close(pidfd)
            raise
        self._pidfd = pidfd
        self._life += 1

    def _let_go(self, why: str) -> None:
        for process in self._attached:
            process.reader.close()
            process.segment.close()
        self._attached = []
        if self._pidfd >= 0:
            os.close(self._pidfd)
            self._pidfd = -1
        self._status = {}
        self._last_cores.clear()
        self._absent = why

    def _snapshots(self) -> dict[Key, StageSnapshot]:
        found: dict[Key, StageSnapshot] = {}
        for process in self._attached:
            with suppress(MetricsError):  # laid out anew at this moment
                for snapshot in process.reader.snapshots():
                    found[snapshot.stage, snapshot.index] = snapshot
        return found


def _last_core(pid: int | None) -> int | None:
    """The core that a process ran on last; None if it is gone."""
    try:
        with open(f"/proc/{pid}/stat", encoding="ascii", errors="replace") as file:
            return int(file.read().rpartition(")")[2].split()[_LAST_CORE_FIELD])
    except (OSError, IndexError, ValueError):
        return None


def _short(path: str) -> str:
    home = os.path.expanduser("~")
    return "~" + path[len(home) :] if home != "/" and path.startswith(home + "/") else path
