"""``timed logging``: how much each process of a running node logs, shown and changed.

Asks the supervisor over its control socket; what is set holds until the node stops, also for
processes that are started again, and until config.toml's log.level is changed and reloaded.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence

import orjson

from node import datadir
from node.commands.status import not_running
from node.datadir import Layout
from node.errors import UsageError
from pipeline.errors import NoNodeError, RequestRefused
from pipeline.status import ask_logging


def logging(where: Layout, changes: Sequence[str], as_json: bool) -> None:
    """Print the level of each process's log, after changes such as "net=debug".

    Raises ``UsageError`` for what is no change, or names a process or level that does not exist,
    ``NotRunning`` if there is no node, and what `datadir.check` raises.
    """
    wanted = dict(map(parse_change, changes))
    datadir.check(where)
    try:
        levels = ask_logging(where.run, wanted)
    except RequestRefused as refused:
        raise UsageError(refused.reason, "see timed logging for what there is") from None
    except NoNodeError as error:
        raise not_running(where, error) from None
    if as_json:
        sys.stdout.write(orjson.dumps(levels, option=orjson.OPT_INDENT_2).decode() + "\n")
        return
    width = max(map(len, levels))
    for process, level in levels.items():
        print(f"{process:<{width}}  {level}")


def parse_change(text: str) -> tuple[str, str]:
    """The two sides of "net=debug"; raises ``UsageError``."""
    name, equals, level = text.partition("=")
    if not (name and equals and level):
        raise UsageError(f"{text!r} is not STAGE=LEVEL", "write for example net=debug")
    return name, level
