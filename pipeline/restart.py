"""When to start a dead process again, and when to give up: decided purely, from times of birth and
death.

The supervisor tells a ``RestartPolicy`` of each death of its process and does what it says. The
clock is an argument; nothing here can fail.
"""

from __future__ import annotations

from dataclasses import dataclass

# The first restart is immediate, because most deaths are single: then pauses double, so that a
# process that cannot live costs neither the machine nor the log.
FIRST_PAUSE_S = 0.1
LONGEST_PAUSE_S = 5.0
HEALTHY_LIFE_S = 30.0  # after so long a ready life, earlier deaths are forgotten

# Restarting does not help when a process never gets ready, or never stays it. With the pauses above
# the first is known after about 2 seconds of trying, the second after about 70.
MAX_UNREADY_DEATHS = 5
MAX_SHORT_LIVES = 20
SHORT_LIFE_S = 5.0

assert SHORT_LIFE_S < HEALTHY_LIFE_S
assert MAX_UNREADY_DEATHS < MAX_SHORT_LIVES


@dataclass(frozen=True, slots=True)
class Restart:
    """Start it again after a pause."""

    pause_s: float


@dataclass(frozen=True, slots=True)
class GiveUp:
    """Starting it again does not help; ``reason`` completes "the process ..."."""

    reason: str


class RestartPolicy:
    """The deaths of one process; an ``expendable`` one is started again for ever."""

    def __init__(self, *, expendable: bool) -> None:
        self._expendable = expendable
        self._deaths = 0  # since it was last healthy
        self._unready = 0  # in a row
        self._short = 0  # in a row

    def died(self, now_s: float, ready_s: float | None) -> Restart | GiveUp:
        """Judge a death now of a process that was ready since ``ready_s``, or never."""
        life_s = 0.0 if ready_s is None else now_s - ready_s
        if life_s >= HEALTHY_LIFE_S:
            self._deaths = 0
        self._deaths += 1
        self._unready = self._unready + 1 if ready_s is None else 0
        self._short = self._short + 1 if life_s < SHORT_LIFE_S else 0
        if not self._expendable:
            if self._unready >= MAX_UNREADY_DEATHS:
                return GiveUp(f"died {self._unready} times in a row before it was ready")
            if self._short >= MAX_SHORT_LIVES:
                return GiveUp(
                    f"died {self._short} times in a row within {SHORT_LIFE_S:g} s of being ready"
                )
        if self._deaths == 1:
            return Restart(0.0)
        doublings = min(self._deaths - 2, 16)
        return Restart(min(FIRST_PAUSE_S * 2**doublings, LONGEST_PAUSE_S))
