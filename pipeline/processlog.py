"""What a pipeline does with the log of one of its processes.

What a process logs is the application's business; but the level of it is changed from outside while
it runs, and somebody has to call it regularly and at its end. For that the application's logging
registers what it has set up (``register``), one for the process, and the run loop, or the
supervisor, calls it. A process that logs nothing registers nothing.
"""

from __future__ import annotations

from typing import Final, Protocol

LEVELS: Final = ("debug", "info", "warning", "error")
"""Of events, the least important first."""


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
