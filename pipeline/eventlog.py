"""The log that a supervisor writes to: structured events, given by the application."""

from __future__ import annotations

from contextlib import suppress
from typing import Any, Protocol


class Log(Protocol):
    """Structured events, as structlog's bound loggers take them."""

    def info(self, event: str, **values: Any) -> Any: ...
    def warning(self, event: str, **values: Any) -> Any: ...
    def error(self, event: str, **values: Any) -> Any: ...


class QuietLog:
    """The application's log, whose failure (a closed pipe) must not end the supervisor."""

    def __init__(self, log: Log) -> None:
        self._log = log

    def info(self, event: str, **values: Any) -> None:
        with suppress(OSError):
            self._log.info(event, **values)

    def warning(self, event: str, **values: Any) -> None:
        with suppress(OSError):
            self._log.warning(event, **values)

    def error(self, event: str, **values: Any) -> None:
        with suppress(OSError):
            self._log.error(event, **values)
