"""Logging: one event a line on standard error, for people on a terminal and as JSON elsewhere.

Every process of the node configures it once (``configure``) and then uses the logger it gets: a
short event in snake_case and facts as keywords (``log.info("block_committed", height=7)``). Lines
of several processes share one standard error: each line is written by a single write and so stays
whole. Nothing that could spoil a line or a terminal gets through (control characters are escaped),
and values whose names say that they are secret are not written.

The level can be changed while the process runs, and an event that comes again and again is counted
(``node.log_repeats``): for both, what is configured here is registered with
``pipeline.processlog``, whose calls come from the run loop. Where standard error is systemd's
journal, each line begins with its priority, as ``<4>``: the journal takes that off and keeps it
beside the line.
"""

from __future__ import annotations

import logging
import os
import re
import sys
import time
from collections.abc import Callable, Mapping, MutableMapping
from itertools import islice
from typing import TYPE_CHECKING, Any, Final, TextIO

import orjson

from node.log_repeats import Repeated, Repeats
from pipeline import processlog

if "rich" in sys.modules:
    import structlog
else:  # structlog would import it for tracebacks in colour, which are not drawn: 5 MB, 80 ms
    sys.modules["rich"] = None  # type: ignore[assignment]
    import structlog

    del sys.modules["rich"]

if TYPE_CHECKING:
    from structlog.typing import FilteringBoundLogger

MAX_VALUE_CHARACTERS: Final = 2_000
"""A longer value is cut: a log line is for reading."""

MAX_ENTRIES: Final = 64
"""Of a list or mapping, more are not written."""

JOURNAL_VARIABLE: Final = "JOURNAL_STREAM"
"""Device and inode of the journal's socket (systemd.exec(5))."""

_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029]")
_SECRET = re.compile(r"(secret|password|passphrase|seed|cookie|private|signing_?key)", re.I)
_PRIORITY = {"debug": 7, "info": 6, "warning": 4, "error": 3, "critical": 2}  # syslog(3)
_LEVEL_MARK = {"debug": "·", "info": " ", "warning": "!", "error": "✗", "critical": "✗"}
_COLOUR = {"warning": "\x1b[33m", "error": "\x1b[31m", "critical": "\x1b[31m"}


def configure(
    level: str,
    log_format: str,
    process: str,
    stream: TextIO | None = None,
    clock: Callable[[], float] = time.monotonic,
) -> FilteringBoundLogger:
    """Set up logging of this process and return its logger.

    ``level`` is one of ``processlog.LEVELS``, unless another was set for this process by then;
    ``log_format`` is "human", "json" or "auto" (human on a terminal); ``process`` names the process
    in every line ("net", "verify-0", "timed"). Standard error if no ``stream`` is given. ``clock``
    is that of the run loop.
    """
    out = sys.stderr if stream is None else stream
    if log_format == "auto":
        log_format = "human" if out.isatty() else "json"
    coloured = log_format == "human" and out.isatty() and "NO_COLOR" not in os.environ
    write: Callable[[Any, str, MutableMapping[str, Any]], str]
    write = _Human(coloured) if log_format == "human" else _json
    logger: FilteringBoundLogger = structlog.get_logger(process)
    process_log = _ProcessLog(logger, clock)
    structlog.configure(
        processors=[
            structlog.processors.add_log_level,
            _name_exception,
            process_log.admit,
            structlog.processors.TimeStamper(fmt="iso", utc=log_format == "json"),
            _name_source,
            _hide_secrets,
            _Journal(write) if is_journal(out, os.environ) else write,
        ],
        logger_factory=lambda *names: _Lines(out, str(names[0]) if names else process),
        cache_logger_on_first_use=False,
    )
    process_log.set_level(level)
    processlog.register(process_log)
    return logger


def is_journal(stream: TextIO, environment: Mapping[str, str]) -> bool:
    """Whether what is written to a stream goes to systemd's journal, as the environment says."""
    try:
        found = os.fstat(stream.fileno())
    except (OSError, ValueError):
        return False
    return environment.get(JOURNAL_VARIABLE) == f"{found.st_dev}:{found.st_ino}"


class _ProcessLog:
    """What the run loop may do with the logging of its process."""

    def __init__(self, logger: FilteringBoundLogger, clock: Callable[[], float]) -> None:
        self._logger = logger
        self._clock = clock
        self._repeats = Repeats()
        self._summing_up = False

    def set_level(self, level: str) -> None:
        """Write events of this level and above; what was held back is written first."""
        self.close()
        number = logging.getLevelNamesMapping()[level.upper()]
        structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(number))

    def housekeeping(self, now_s: float) -> None:
        """Write what was held back in windows that are over."""
        self._write(self._repeats.ended(now_s))

    def close(self) -> None:
        """Write all that was held back."""
        self._write(self._repeats.close())

    def admit(
        self, _: Any, level: str, event: MutableMapping[str, Any]
    ) -> MutableMapping[str, Any]:
        """A processor: drop an event that came too often."""
        if self._summing_up:
            return event
        facts = {name: value for name, value in event.items() if name not in ("event", "level")}
        if not self._repeats.admit(self._clock(), level, str(event["event"]), facts):
            raise structlog.DropEvent
        return event

    def _write(self, sums: list[Repeated]) -> None:
        self._summing_up = True
        try:
            for each in sums:
                facts = {**each.facts, "repeated": each.times, "within_s": each.within_s}
                self._logger.log(
                    logging.getLevelNamesMapping()[each.level.upper()], each.event, **facts
                )
        finally:
            self._summing_up = False


class _Journal:
    """Puts the priority before what another one renders (sd-daemon(3))."""

    def __init__(self, render: Callable[[Any, str, MutableMapping[str, Any]], str]) -> None:
        self._render = render

    def __call__(self, logger: Any, name: str, event: MutableMapping[str, Any]) -> str:
        priority = _PRIORITY.get(str(event["level"]), _PRIORITY["info"])
        return f"<{priority}>{self._render(logger, name, event)}"


class _Lines:
    """Writes a line, newline included, by one write."""

    def __init__(self, stream: TextIO, source: str) -> None:
        self._stream = stream
        self.source = source

    def msg(self, line: str) -> None:
        try:
            self._stream.write(line + "\n")
            self._stream.flush()
        except (OSError, ValueError):  # nobody reads the log, or its disk is full; the node goes on
            pass

    debug = info = warning = warn = error = critical = exception = fatal = msg


def _name_source(
    logger: _Lines, _: str, event: MutableMapping[str, Any]
) -> MutableMapping[str, Any]:
    event["source"] = logger.source
    return event


def _name_exception(_: Any, __: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    """An exception becomes one value: its type, its text, and where it was raised."""
    given = event.pop("exc_info", None)
    if not given:
        return event
    error = given if isinstance(given, BaseException) else sys.exc_info()[1]
    if error is not None:
        trace = error.__traceback__
        while trace is not None and trace.tb_next is not None:
            trace = trace.tb_next
        where = ""
        if trace is not None:
            code = trace.tb_frame.f_code
            where = f" ({os.path.basename(code.co_filename)}:{trace.tb_lineno} {code.co_name})"
        event["exception"] = f"{type(error).__name__}: {error}{where}"
    return event


def _hide_secrets(_: Any, __: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    for name in event:
        if _SECRET.search(name):
            event[name] = "[hidden]"
    return event


def _plain(value: object) -> object:
    """A value as JSON has it: bytes in hexadecimal, and as text what JSON does not know."""
    if value is None or isinstance(value, bool | float):
        return value
    if isinstance(value, int) and -(2**63) <= value < 2**63:
        return value
    if isinstance(value, Mapping):
        return {str(name): _plain(each) for name, each in islice(value.items(), MAX_ENTRIES)}
    if isinstance(value, list | tuple):
        return [_plain(each) for each in value[:MAX_ENTRIES]]
    text = value.hex() if isinstance(value, bytes | bytearray | memoryview) else str(value)
    if len(text) > MAX_VALUE_CHARACTERS:
        text = text[:MAX_VALUE_CHARACTERS] + "…"
    return text.encode("utf-8", "backslashreplace").decode(
        "utf-8"
    )  # lone surrogates, of file names


def _escape(text: str) -> str:
    return _CONTROL.sub(lambda found: found[0].encode("unicode_escape").decode("ascii"), text)


def _json(_: Any, __: str, event: MutableMapping[str, Any]) -> str:
    first = {name: event.pop(name, None) for name in ("timestamp", "level", "source", "event")}
    line = orjson.dumps({name: _plain(value) for name, value in (first | dict(event)).items()})
    return _CONTROL.sub(lambda found: f"\\u{ord(found[0]):04x}", line.decode("utf-8"))


class _Human:
    """A line for people: clock, mark of the level, source, event, facts; coloured on a terminal.

    "12:01:09 ! timed      process_died  process=verify-0  cause=SIGKILL"
    """

    def __init__(self, coloured: bool) -> None:
        self._coloured = coloured

    def __call__(self, _: Any, __: str, event: MutableMapping[str, Any]) -> str:
        clock = str(event.pop("timestamp"))[11:19]
        level = str(event.pop("level"))
        source = str(event.pop("source"))
        said = _escape(str(_plain(event.pop("event"))))
        facts = [f"{name}={_quote(_plain(value))}" for name, value in event.items()]
        line = "  ".join([f"{clock} {_LEVEL_MARK.get(level, ' ')} {source:<10} {said}", *facts])
        colour = _COLOUR.get(level)
        return f"{colour}{line}\x1b[0m" if self._coloured and colour else line


def _quote(value: object) -> str:
    if isinstance(value, dict):
        return ",".join(f"{name}:{_quote(each)}" for name, each in value.items())
    if isinstance(value, list):
        return ",".join(_quote(each) for each in value)
    text = _escape(str(value))
    return f'"{text}"' if " " in text or not text else text
