"""``timed bans``: whom the node refuses, and the operator's word that it shall not.

Works on the data directory's file of bans (`node.network.bans_file`), which a running node reads
again when it has changed.
"""

from __future__ import annotations

import sys
import time
from datetime import UTC, datetime
from typing import Any, Final

import orjson

from node import datadir
from node.datadir import Layout
from node.errors import DatadirError, UsageError
from node.network.address import is_numeric, plain_ip
from node.network.bans_file import BansFileError, Busy, lift, read_bans

BUSY_S: Final = 5.0  # the other one needs a millisecond
RETRY_S: Final = 0.05


def bans(where: Layout, to_lift: str | None, as_json: bool) -> None:
    """Print the bans, or lift that of an address (or of an IPv6 /64, as it is listed).

    Raises ``UsageError`` for what is no address or not banned, ``DatadirError`` for a file that
    cannot be read or written, and what `datadir.check` raises.
    """
    datadir.check(where)
    path = str(where.bans)
    try:
        if to_lift is None:
            found = read_bans(path, _now_ms())
        else:
            lifted = _lift(path, to_lift)
    except BansFileError as error:
        raise DatadirError(
            str(error), "correct or remove it: a file that is gone holds no bans"
        ) from None
    if to_lift is None:
        _print_all([_described(site, *ban) for site, ban in found.items()], as_json)
    elif as_json:
        _print_json({"lifted": lifted})
    else:
        running = "; the running node follows within 5 seconds" if datadir.in_use(where) else ""
        print(f"{lifted} is not banned any more{running}")


def _lift(path: str, text: str) -> str:
    host = plain_ip(text)
    if not is_numeric(text.partition("/")[0]):
        raise UsageError(f"{text!r} is no IP address", "give one as timed bans lists it, no port")
    deadline_s = time.monotonic() + BUSY_S
    while True:
        try:
            lifted = lift(path, host, _now_ms())
            break
        except Busy:
            if time.monotonic() >= deadline_s:
                raise DatadirError(
                    f"another process is writing {path}", "find it (fuser) and try again"
                ) from None
            time.sleep(RETRY_S)
    if lifted is None:
        raise UsageError(f"{text} is not banned", "see timed bans for those that are")
    return lifted


def _described(site: str, until_ms: int, reason: str) -> dict[str, Any]:
    until = datetime.fromtimestamp(until_ms / 1_000, UTC).isoformat(timespec="seconds")
    return {"address": site, "until_ms": until_ms, "until": until, "reason": reason}


def _print_all(found: list[dict[str, Any]], as_json: bool) -> None:
    found.sort(key=lambda each: each["until_ms"])
    if as_json:
        _print_json(found)
        return
    width = max((len(each["address"]) for each in found), default=0)
    for each in found:
        print(f"{each['address']:<{width}}  until {each['until']}  {each['reason']}")
    if not found:
        print("nobody is banned")


def _print_json(content: object) -> None:
    sys.stdout.write(orjson.dumps(content, option=orjson.OPT_INDENT_2).decode() + "\n")


def _now_ms() -> int:
    return time.time_ns() // 1_000_000
