"""The log that a supervisor writes to: structured events, given by the application.

The last of them are kept for whoever asks for the status, so that a monitor need not read logs.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from contextlib import suppress
from typing import Any, Final, Protocol

EVENTS_KEPT: Final = 40  # a restart of everything is 20 events; all together some KiB of the status
MAX_FACT_CHARACTERS: Final = 200  # of one value; a longer one is cut


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


def _plain(value: Any) -> Any:
    if value is None or isinstance(value, bool | int | float):
        return value
    text = ", ".join(map(str, value)) if isinstance(value, list | tuple) else str(value)
    return text[:MAX_FACT_CHARACTERS]
