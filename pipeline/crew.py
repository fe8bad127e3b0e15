"""One supervised process over all its incarnations: what is known of it, what can be read of it.

The supervisor owns one `Child` for each process of the topology and alone changes it; heartbeat and
metrics come from the process's shared memory, resident memory from /proc.
"""

from __future__ import annotations

import os
from contextlib import suppress
from enum import StrEnum
from typing import Any

from pipeline.control import Channel, Fatal
from pipeline.errors import MetricsError
from pipeline.metrics import ProcessMetricsLayout, ProcessMetricsReader
from pipeline.placement import ProcessSpec
from pipeline.restart import RestartPolicy
from pipeline.segment import MappedSegment, Segment, map_segment

HEARTBEAT = "heartbeat_ns"
PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")


class State(StrEnum):
    """Of one process."""

    WAITING = "waiting"  # to be started (again)
    STARTING = "starting"
    READY = "ready"
    ENDED = "ended"  # for good


class Child:
    """One process over all its incarnations; what belongs to the living one is None without one."""

    def __init__(self, spec: ProcessSpec, metrics: Segment) -> None:
        self.spec = spec
        self.policy = RestartPolicy(expendable=spec.expendable)
        self.state = State.WAITING
        self.incarnation = 0
        self.start_at_s = 0.0
        self.metrics = metrics
        self.metrics_map: MappedSegment = map_segment(metrics.fd, writable=False)
        self.reader = ProcessMetricsReader(
            self.metrics_map.view, ProcessMetricsLayout(spec.members)
        )
        self.process: Any = None
        self.pid: int | None = None
        self.pidfd = -1
        self.channel: Channel | None = None
        self.started_s = 0.0
        self.ready_s: float | None = None
        self.kill_at_s: float | None = None  # it was told, or must be assumed, to be gone by then
        self.killed_because: str | None = None
        self.fatal: Fatal | None = None
        self.messages = 0  # since the last tick
        self.infos = 0
        self.last_death: dict[str, Any] | None = None

    @property
    def name(self) -> str:
        """As the topology calls the process."""
        return self.spec.name

    @property
    def alive(self) -> bool:
        """Whether an incarnation of it runs, or is not reaped yet."""
        return self.process is not None

    def heartbeat_s(self) -> float:
        """The latest turn of its loop, 0 before the first."""
        newest = 0
        for reader in self.reader.readers.values():
            # A stage without the loop's own metrics, or one that wrote garbage, has no heartbeat.
            with suppress(KeyError, MetricsError):
                newest = max(newest, reader.read(HEARTBEAT))
        return newest / 1e9

    def turned_within(self, now_s: float, within_s: float) -> bool:
        """Whether it is ready and its loop has turned within so long, its own limit at most."""
        if self.ready_s is None:
            return False
        patience_s = min(within_s, self.spec.stall_ms / 1000)
        return now_s - max(self.ready_s, self.heartbeat_s()) <= patience_s

    def metrics_now(self) -> list[dict[str, Any]]:
        """A snapshot of each member that has declared its metrics."""
        try:
            return [snapshot.as_json() for snapshot in self.reader.snapshots()]
        except MetricsError:
            return []

    def rss_bytes(self) -> int:
        """Resident memory of the living incarnation, 0 when it is just gone."""
        try:
            with open(f"/proc/{self.pid}/statm") as file:
                return int(file.read().split()[1]) * PAGE_BYTES
        except (OSError, IndexError):
            return 0

    def status(self, now_s: float) -> dict[str, Any]:
        """What the control socket tells of it."""
        death = self.last_death
        if death is not None and "at_s" in death:
            death = {key: value for key, value in death.items() if key != "at_s"}
            death["ago_s"] = round(now_s - self.last_death["at_s"], 3) if self.last_death else 0
        return {
            "name": self.name,
            "members": self.spec.members,
            "state": self.state,
            "pid": self.pid,
            "incarnation": self.incarnation,
            "restarts": max(0, self.incarnation - 1),
            "uptime_s": round(now_s - self.started_s, 3) if self.alive else None,
            "rss_mb": self.rss_bytes() >> 20 if self.alive else 0,
            "cores": self.spec.cores,
            "nice": self.spec.nice,
            "last_death": death,
        }
