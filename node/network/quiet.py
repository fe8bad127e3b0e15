"""Says a thing once and then how often it happened again, so that no peer can flood the log.

The switchboard's way to its log; pure but for the log that it is given.
"""

from __future__ import annotations

from typing import Any, Final

from node.network.settings import NS_PER_S
from pipeline.eventlog import Log

REPEAT_NS: Final = 60 * NS_PER_S  # the same event for the same reason at most so often
MAX_KEYS: Final = 256  # then those that were said longest ago are forgotten


class SparingLog:
    """A log that writes an event of the same key once a minute, with the count of the others."""

    def __init__(self, log: Log) -> None:
        self._log = log
        self._said: dict[tuple[str, str], list[int]] = {}  # key -> [when in ns, times since]

    def once(self, now_ns: int, key: str, event: str, *, warn: bool = True, **facts: Any) -> None:
        """Write an event of which there may be very many; `key` tells them apart."""
        entry = self._said.get((event, key))
        if entry is not None and now_ns - entry[0] < REPEAT_NS:
            entry[1] += 1
            return
        self._said.pop((event, key), None)
        if len(self._said) >= MAX_KEYS:
            del self._said[next(iter(self._said))]
        self._said[event, key] = [now_ns, 0]
        if entry is not None and entry[1]:
            facts["repeated"] = entry[1]
        if warn:
            self._log.warning(event, **facts)
        else:
            self._log.info(event, **facts)

    def info(self, event: str, **facts: Any) -> None:
        """Write an event that is rare by its nature."""
        self._log.info(event, **facts)

    def warning(self, event: str, **facts: Any) -> None:
        """Write an event that is rare by its nature and that the operator should know."""
        self._log.warning(event, **facts)
