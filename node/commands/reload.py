"""What SIGHUP does to a running node: config.toml is read again, and applied as far as that goes.

Runs in the supervisor's process, between two turns of its loop. Of what has changed, the keys in
``APPLIED`` take effect at once; the others are named in one line of the log and wait for a restart.
A file that cannot be used changes nothing: the log says what is wrong with it. Nothing here ends
the node.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Final

import msgspec

from node.commands.loading import load_config
from node.config import Config, keys
from node.datadir import Layout
from node.genesis import Genesis
from pipeline.errors import OperatorError
from pipeline.eventlog import Log
from pipeline.loglevels import EVERYBODY

APPLIED: Final = frozenset({("log", "level")})
"""(section, key) of what a running node follows."""


class Reloading:
    """Knows with what a node was started, and what of it has been replaced since.

    ``set_levels`` changes levels of logs as `pipeline.supervisor.Supervisor.set_log_levels` does.
    """

    def __init__(
        self,
        where: Layout,
        genesis: Genesis,
        started_with: Config,
        log: Log,
        set_levels: Callable[[Mapping[str, str]], None],
    ) -> None:
        self._where = where
        self._genesis = genesis
        self._running = started_with
        self._log = log
        self._set_levels = set_levels

    def reload(self) -> None:
        """Read config.toml and apply what can be applied."""
        try:
            found = load_config(self._where, self._genesis)
        except (OperatorError, OSError) as error:
            self._log.error("configuration_not_reloaded", nothing_changed=True, why=str(error))
            return
        changed = changed_keys(self._running, found)
        applied = [key for key in changed if key in APPLIED]
        waiting = [key for key in changed if key not in APPLIED]
        if ("log", "level") in applied:
            # Also over levels that were set by hand: what the file says now is the newer word.
            self._set_levels({EVERYBODY: found.log.level})
            log = msgspec.structs.replace(self._running.log, level=found.log.level)
            self._running = msgspec.structs.replace(self._running, log=log)
        self._log.info("configuration_reloaded", applied=_names(applied))
        if waiting:
            self._log.warning("configuration_needs_a_restart", keys=_names(waiting))


def changed_keys(old: Config, new: Config) -> list[tuple[str, str]]:
    """(section, key) of everything in which two configurations differ."""
    before: Any = msgspec.to_builtins(old)
    after: Any = msgspec.to_builtins(new)
    return [(s, k) for s, k in keys() if before[s][k] != after[s][k]]


def _names(found: list[tuple[str, str]]) -> list[str]:
    return [f"{section}.{key}" for section, key in found]
