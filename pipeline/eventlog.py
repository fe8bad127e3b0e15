"""The logs of a pipeline's processes, as far as the pipeline has to do with them.

The supervisor writes structured events to a log that the application gives it (``Log``). What a
process itself logs is the application's business; but the level of it is changed from outside while
it runs, and somebody has to call it regularly and at its end. For that the application's logging
registers what it has set up (``register``), one for the process, and the run loop, or the
supervisor, calls it. A process that logs nothing registers nothing.

The supervisor's last events are kept for whoever asks for the status, so that a monitor need not
read logs.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from contextlib import suppress
from typing import Any, Final, Protocol

LEVELS: Final = ("debug", "info", "warning", "error")
"""Of events, the least important first."""

EVENTS_KEPT = 40  # a restart of everything is 20 events; all together some KiB of the status
MAX_FACT_CHARACTERS = 200  # of one value; a longer one is cut


class Log(Protocol):
    """Structured events, as structlog's bound loggers take them."""

    def info(self, event: str, **values: Any) -> Any: ...
    def warning(self, event: str, **values: Any) -> Any: ...
    def error(self, event: str, **values: Any) -> Any: ...


class QuietLog:
    """The application's log, whose failure (a closed pipe) must not end the supervisor.

    Remembers the last events: ``unix_clock`` gives their time in seconds.
    """

    def __init__(self, log: Log, unix_clock: Callable[[], float]) -> None:
        self._log = log
        self._unix_clock = unix_clock
        self._recent: deque[dict[str, Any]] = deque(maxlen=EVENTS_KEPT)

    def info(self, event: str, **values: Any) -> None:
        self._keep("info", event, values)
        with suppress(OSError):
            self._log.info(event, **values)

    def warning(self, event: str, **values: Any) -> None:
        self._keep("warning", event, values)
        with suppress(OSError):
            self._log.warning(event, **values)

    def error(self, event: str, **values: Any) -> None:
        self._keep("error", event, values)
        with suppress(OSError):
            self._log.error(event, **values)

    def recent(self) -> list[dict[str, Any]]:
        """The last ``EVENTS_KEPT`` events, oldest first: ``unix_s``, ``level``, ``event``, and
        ``facts``, whose values are numbers, truth values, None and short texts.
        """
        return list(self._recent)

    def _keep(self, level: str, event: str, values: dict[str, Any]) -> None:
        facts = {name: _plain(value) for name, value in values.items()}
        unix_s = round(self._unix_clock(), 3)
        self._recent.append({"unix_s": unix_s, "level": level, "event": event, "facts": facts})


class ProcessLog(Protocol):
    """The logging of a process; nothing of it may raise."""

    def set_level(self, level: str) -> None:
        """Write events of this level (of ``LEVELS``) and above from now on."""

    def housekeeping(self, now_s: float) -> None:
        """Do what has no hurry; called a few times a second, CLOCK_MONOTONIC."""

    def close(self) -> None:
        """Write what is still held back: the process ends."""


class _ThisProcess:
    """The one registered ``ProcessLog``, and the level that it was told before it existed."""

    log: ProcessLog | None = None
    level: str | None = None


def register(log: ProcessLog) -> None:
    """Let the run loop call this log; takes the place of an earlier one."""
    _ThisProcess.log = log
    if _ThisProcess.level is not None:
        log.set_level(_ThisProcess.level)


def set_level(level: str) -> None:
    """Set the level of this process's log, or of the one that it will register."""
    _ThisProcess.level = level
    if _ThisProcess.log is not None:
        _ThisProcess.log.set_level(level)


def housekeeping(now_s: float) -> None:
    """Give this process's log its time."""
    if _ThisProcess.log is not None:
        _ThisProcess.log.housekeeping(now_s)


def close() -> None:
    """Let this process's log write what it still holds back."""
    if _ThisProcess.log is not None:
        _ThisProcess.log.close()


def _plain(value: Any) -> Any:
    if value is None or isinstance(value, bool | int | float):
        return value
    text = ", ".join(map(str, value)) if isinstance(value, list | tuple) else str(value)
    return text[:MAX_FACT_CHARACTERS]
