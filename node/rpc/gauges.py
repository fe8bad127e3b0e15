"""What the node's processes count, read in `rpc` where it lies, without asking any of them.

All of it is for /metrics. One of them methods use, too: the height of the chain, which clients ask
for more often than for anything else, and which `consensus` sets before it tells anybody of a block
and clears when it starts (`node.host`). The supervisor is asked once for where everything lies,
which holds for as long as this process lives (`pipeline.status`). Owns the mappings; they are
read-only and go with the process.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import Executor
from contextlib import suppress
from pathlib import Path
from typing import Final

from pipeline.errors import MetricsError, NoNodeError
from pipeline.metrics import MetricReader, StageSnapshot
from pipeline.status import fetch_metrics

TIMEOUT_S: Final = 2.0  # the supervisor answers at once, or something is wrong
LEDGER: Final = ("consensus", 0)


class Gauges:
    """The metrics of all processes of the node that works in a run directory."""

    def __init__(self, run_path: Path, executor: Executor) -> None:
        self._run_path = run_path
        self._executor = executor
        self._snapshots: list[Callable[[], list[StageSnapshot]]] = []
        self._height: MetricReader | None = None
        self._finding: asyncio.Task[None] | None = None

    async def snapshots(self) -> list[StageSnapshot]:
        """All of them; raises NoNodeError, MetricsError."""
        if not self._snapshots:
            await self._find()
        return [each for snapshots in self._snapshots for each in snapshots()]

    def height(self) -> int:
        """The height of the last committed block; 0 while nobody knows, also before the first."""
        if self._height is not None:
            return self._height.read("height")
        if self._finding is None or self._finding.done():
            self._finding = asyncio.get_running_loop().create_task(self._find_quietly())
        return 0

    async def _find_quietly(self) -> None:
        with suppress(NoNodeError, MetricsError):  # the next who wants to know asks again
            await self._find()

    async def _find(self) -> None:
        """Ask the supervisor where they lie; outside of the loop, because that waits."""
        loop = asyncio.get_running_loop()
        found = await loop.run_in_executor(
            self._executor, lambda: fetch_metrics(self._run_path, timeout_s=TIMEOUT_S)
        )
        self._snapshots = [each.reader.snapshots for each in found]
        for each in found:
            if LEDGER in each.reader.readers:
                self._height = each.reader.readers[LEDGER]
