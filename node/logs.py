"""Logging: one event a line on standard error, for people on a terminal and as JSON elsewhere.

Every process of the node configures it once (``configure``) and then uses the logger it gets: a
short event in plain words and facts as keywords (``log.info("block committed", height=7)``). Lines
of several processes share one standard error: each line is written by a single write and so stays
whole. Nothing that could spoil a line or a terminal gets through (control characters are escaped),
and values whose names say that they are secret are not written.
"""

from __future__ import annotations

import logging
import os
import re
import sys
from collections.abc import MutableMapping
from typing import Any, Final, TextIO

import orjson
import structlog
from structlog.typing import FilteringBoundLogger

MAX_VALUE_CHARACTERS: Final = 2_000
"""A longer value is cut: a log line is for reading."""

LEVELS: Final = ("debug", "info", "warning", "error")

_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029]")
_SECRET = re.compile(r"(secret|password|passphrase|seed|cookie|private|signing_?key)", re.I)
_LEVEL_MARK = {"debug": "·", "info": " ", "warning": "!", "error": "✗", "critical": "✗"}
_COLOUR = {"warning": "\x1b[33m", "error": "\x1b[31m", "critical": "\x1b[31m"}


def configure(
    level: str, log_format: str, process: str, stream: TextIO | None = None
) -> FilteringBoundLogger:
    """Set up logging of this process and return its logger.

    ``level`` is one of ``LEVELS``; ``log_format`` is "human", "json" or "auto" (human on a
    terminal); ``process`` names the process in every line ("net", "verify-0", "timed"). Standard
    error if no ``stream`` is given.
    """
    out = sys.stderr if stream is None else stream
    if log_format == "auto":
        log_format = "human" if out.isatty() else "json"
    coloured = log_format == "human" and out.isatty() and "NO_COLOR" not in os.environ
    structlog.configure(
        processors=[
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=log_format == "json"),
            _name_exception,
            _hide_secrets,
            _Human(coloured) if log_format == "human" else _json,
        ],
        wrapper_class=structlog.make_filtering_bound_logger(
            logging.getLevelNamesMapping()[level.upper()]
        ),
        logger_factory=lambda *_: _Lines(out),
        cache_logger_on_first_use=False,
    )
    logger: FilteringBoundLogger = structlog.get_logger(process=process)
    return logger


class _Lines:
    """Writes a line, newline included, by one write."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def msg(self, line: str) -> None:
        try:
            self._stream.write(line + "\n")
            self._stream.flush()
        except (BrokenPipeError, ValueError):  # whoever read the log is gone; the node goes on
            pass

    debug = info = warning = warn = error = critical = exception = fatal = msg


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
    """A value as a log line may hold it: bytes in hexadecimal, numbers as they are, the rest as
    text.
    """
    if value is None or isinstance(value, bool | int | float):
        return value
    text = value.hex() if isinstance(value, bytes | bytearray | memoryview) else str(value)
    if len(text) > MAX_VALUE_CHARACTERS:
        text = text[:MAX_VALUE_CHARACTERS] + "…"
    return text


def _escape(text: str) -> str:
    return _CONTROL.sub(lambda found: found[0].encode("unicode_escape").decode("ascii"), text)


def _json(_: Any, __: str, event: MutableMapping[str, Any]) -> str:
    first = {name: event.pop(name, None) for name in ("timestamp", "level", "process", "event")}
    return orjson.dumps(
        {name: _plain(value) for name, value in (first | dict(event)).items()},
        default=str,
        option=orjson.OPT_NON_STR_KEYS,
    ).decode("utf-8", "replace")


class _Human:
    """ "12:01:09 ! verify-0   was restarted  deaths=2 signal=SIGKILL", coloured on a terminal."""

    def __init__(self, coloured: bool) -> None:
        self._coloured = coloured

    def __call__(self, _: Any, __: str, event: MutableMapping[str, Any]) -> str:
        clock = str(event.pop("timestamp"))[11:19]
        level = str(event.pop("level"))
        process = str(event.pop("process", "-"))
        said = _escape(str(_plain(event.pop("event"))))
        facts = [f"{name}={_quote(_plain(value))}" for name, value in event.items()]
        line = "  ".join([f"{clock} {_LEVEL_MARK.get(level, ' ')} {process:<10} {said}", *facts])
        colour = _COLOUR.get(level)
        return f"{colour}{line}\x1b[0m" if self._coloured and colour else line


def _quote(value: object) -> str:
    text = _escape(str(value))
    return f'"{text}"' if " " in text or not text else text
