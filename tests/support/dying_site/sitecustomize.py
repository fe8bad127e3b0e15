"""Kills the process that commits: its directory goes first on PYTHONPATH of that one node.

Python imports it in every process of the node. The one that is about to apply the block of height
TIMED_DIES_AT, which it has announced already, waits until the file TIMED_DIES_WHEN is there (who
heard of the block makes it), renames it to one that ends with ".died", and dies of SIGKILL. Once.
"""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path
from typing import Any

from node.candidates import Candidates

AT = int(os.environ["TIMED_DIES_AT"])
WHEN = Path(os.environ["TIMED_DIES_WHEN"])
DIED = WHEN.with_suffix(".died")
DEADLINE_S = 60.0
_commit = Candidates.commit


def _die_once(self: Any, value: bytes, block: Any, certificate: bytes) -> None:
    if block.header.height == AT and not DIED.exists():
        deadline_s = time.monotonic() + DEADLINE_S
        while not WHEN.exists() and time.monotonic() < deadline_s:
            time.sleep(0.01)
        WHEN.rename(DIED)
        os.kill(os.getpid(), signal.SIGKILL)
    _commit(self, value, block, certificate)


Candidates.commit = _die_once  # type: ignore[method-assign]
