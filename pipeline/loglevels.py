"""Which level the log of each process has, by the operator's last word.

The supervisor owns the one table; ``timed logging`` asks it, and a process that is started again
gets its level from here. Levels belong to processes: stages that share one share its level. Decided
purely; what is asked for is applied as a whole or not at all.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final

from pipeline.placement import ProcessSpec
from pipeline.processlog import LEVELS

SUPERVISOR: Final = "supervisor"
EVERYBODY: Final = "all"
MAX_CHANGES: Final = 200  # in one request: more than a request of the control socket can hold


class UnknownLevel(ValueError):
    """Somebody asked for a level or a process that does not exist; the text says what does."""


class LogLevels:
    """Process name (and ``SUPERVISOR``) -> level; all begin with ``level``."""

    def __init__(self, specs: Sequence[ProcessSpec], level: str) -> None:
        self._members = {spec.name: {stage for stage, _ in spec.members} for spec in specs}
        self._levels = dict.fromkeys([SUPERVISOR, *self._members], level)
        self._chosen: set[str] = set()  # somebody has set them since

    def __getitem__(self, process: str) -> str:
        return self._levels[process]

    def chosen(self, process: str) -> str | None:
        """The level that was set for a process, None if it still is the configuration's."""
        return self._levels[process] if process in self._chosen else None

    def as_dict(self) -> dict[str, str]:
        """All of them, the supervisor first."""
        return dict(self._levels)

    def writes(self, process: str, level: str) -> bool:
        """Whether events of a level are written for a process."""
        return LEVELS.index(level) >= LEVELS.index(self._levels[process])

    def change(self, wanted: Mapping[str, str]) -> list[str]:
        """Set levels by name of a process, of a stage, ``SUPERVISOR`` or ``EVERYBODY``, later
        names over earlier ones; returns the processes concerned, those that are given the level
        that they have among them.

        Raises UnknownLevel, and then nothing has changed.
        """
        if len(wanted) > MAX_CHANGES:
            raise UnknownLevel(f"{len(wanted)} changes at once; give {MAX_CHANGES} at most")
        found: dict[str, str] = {}
        for name, level in wanted.items():
            if level not in LEVELS:
                raise UnknownLevel(f"there is no level {level!r}; give {', '.join(LEVELS)}")
            found |= dict.fromkeys(self._named(name), level)
        self._levels |= found
        self._chosen |= found.keys()
        return list(found)

    def _named(self, name: str) -> list[str]:
        if name == EVERYBODY:
            return list(self._levels)
        if name in self._levels:
            return [name]
        found = [process for process, stages in self._members.items() if name in stages]
        if not found:
            stages = dict.fromkeys(s for each in self._members.values() for s in sorted(each))
            known = ", ".join(dict.fromkeys([EVERYBODY, *self._levels, *stages]))
            raise UnknownLevel(f"there is no stage or process {name!r}; give one of {known}")
        return found
