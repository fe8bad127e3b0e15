"""What was seen of a node at one moment: the values between looking and reckoning.

Made by `tools.monitor.watch` from shared memory and the supervisor's status, or by tests from
files; taken in by `tools.monitor.memory`. Values only.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pipeline.metrics import StageSnapshot

Key = tuple[str, int]
"""A stage and the number of its instance."""


@dataclass(frozen=True, slots=True)
class Observation:
    """One look at one node.

    ``at_s`` is CLOCK_MONOTONIC, ``unix_s`` the time of day, ``name`` what the node is called on the
    screen. ``absent`` says why nobody answers and is None while a node runs; then ``life`` tells
    one supervisor from the next and ``status`` is its latest answer, without the metrics, which are
    in ``snapshots``; it is ``status_age_s`` old. ``last_cores`` maps a process to the core that it
    last ran on.
    """

    at_s: float
    unix_s: float
    name: str
    absent: str | None = None
    life: int = 0
    status: Mapping[str, Any] = field(default_factory=dict)
    snapshots: Mapping[Key, StageSnapshot] = field(default_factory=dict)
    last_cores: Mapping[str, int] = field(default_factory=dict)
    status_age_s: float = 0.0
