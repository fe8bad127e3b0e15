"""What the supervisor answers on its control socket: status, metrics, and the levels of the logs.

Reads the children, which the supervisor alone changes; the one thing that a client can change here
are levels, and only a user who may enter the run directory is a client. Owns the last status, which
is repeated for a moment so that eager watchers cost little.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final, Protocol

import msgspec

from pipeline.control import MetricsAnswer, MetricsSegment, Reply
from pipeline.crew import Child
from pipeline.loglevels import UnknownLevel
from pipeline.metrics import ProcessMetricsLayout
from pipeline.topology import Topology

STATUS_CACHE_S: Final = 0.1


class Supervised(Protocol):
    """What is asked of the supervisor."""

    @property
    def state(self) -> str:
        """Of the whole pipeline: starting, running, degraded or stopping."""

    @property
    def epoch(self) -> int:
        """Of the trays' segments."""

    def recent_events(self) -> list[dict[str, Any]]:
        """The last events of the supervisor's log, oldest first."""

    def log_levels(self) -> dict[str, str]:
        """Process -> level of its log."""

    def set_log_levels(self, wanted: Mapping[str, str]) -> None:
        """Change them; raises UnknownLevel."""


class Answers:
    """Answers requests; ``extra`` gives what the application adds to the status."""

    def __init__(
        self,
        supervised: Supervised,
        topology: Topology,
        children: Sequence[Child],
        extra: Callable[[], Mapping[str, Any]] | None,
        began_s: float,
    ) -> None:
        self._supervised = supervised
        self._topology = topology
        self._children = children
        self._extra = extra
        self._began_s = began_s
        self._last_status: tuple[float, bytes] | None = None

    def answer(self, request: Mapping[str, Any], now_s: float, clients_dropped: int) -> Reply:
        """The reply to a request; of one that is not understood, what can be asked."""
        match request.get("ask"):
            case "status":
                return Reply(self._status_line(now_s, clients_dropped))
            case "metrics":
                return self._metrics()
            case "logging":
                return self._logging(request.get("set", {}))
            case _:
                return _refusal('ask for "status", "metrics" or "logging"')

    def status(self, now_s: float, clients_dropped: int) -> dict[str, Any]:
        """How everything is."""
        extra: Mapping[str, Any] = {}
        if self._extra is not None:
            try:
                extra = self._extra()
            except Exception as error:
                extra = {"error": f"{type(error).__name__}: {error}"}
        return {
            "state": self._supervised.state,
            "pid": os.getpid(),
            "uptime_s": round(now_s - self._began_s, 3),
            "epoch": self._supervised.epoch,
            "topology": self._topology,
            "processes": [child.status(now_s) for child in self._children],
            "metrics": {child.name: child.metrics_now() for child in self._children},
            "control_clients_dropped": clients_dropped,
            "events": self._supervised.recent_events(),
            "extra": extra,
        }

    def _status_line(self, now_s: float, clients_dropped: int) -> bytes:
        if self._last_status is None or now_s - self._last_status[0] >= STATUS_CACHE_S:
            self._last_status = now_s, msgspec.json.encode(self.status(now_s, clients_dropped))
        return self._last_status[1]

    def _metrics(self) -> Reply:
        segments = [
            MetricsSegment(child.name, layout.members, layout.region_bytes)
            for child in self._children
            for layout in [ProcessMetricsLayout(child.spec.members)]
        ]
        fds = [child.metrics.readonly_fd() for child in self._children]
        return Reply(msgspec.json.encode(MetricsAnswer(segments)), fds)

    def _logging(self, wanted: object) -> Reply:
        try:
            changes = msgspec.convert(wanted, dict[str, str])
            if changes:
                self._supervised.set_log_levels(changes)
        except msgspec.ValidationError:
            return _refusal("levels are set by an object of names and levels")
        except UnknownLevel as error:
            return _refusal(str(error))
        return Reply(msgspec.json.encode({"levels": self._supervised.log_levels()}))


def _refusal(why: str) -> Reply:
    return Reply(msgspec.json.encode({"error": why}))
