"""The pages beside JSON-RPC: metrics for Prometheus, and the words that probes look for.

Metrics are those that all stages have declared, read where they lie (`node.rpc.gauges`). /healthz
says that this process turns, /readyz that the ledger answers and the node is not catching up.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from node.query import Overview, OverviewIs
from node.rpc.jsonrpc import RpcError
from pipeline.errors import MetricsError, NoNodeError
from pipeline.exposition import prometheus_text

if TYPE_CHECKING:
    from node.rpc.server import Page
    from node.rpc.services import Services

METRICS_TYPE: Final = "text/plain; version=0.0.4; charset=utf-8"
TEXT: Final = "text/plain; charset=utf-8"
NAMESPACE: Final = "timed"


class Pages:
    """The pages by their paths."""

    def __init__(self, services: Services) -> None:
        self._services = services
        self.by_path: dict[str, Page] = {
            "/metrics": self._metrics,
            "/healthz": self._health,
            "/readyz": self._readiness,
        }

    async def _metrics(self) -> tuple[int, str, bytes]:
        try:
            snapshots = await self._services.gauges.snapshots()
            return 200, METRICS_TYPE, prometheus_text(snapshots, NAMESPACE).encode()
        except (NoNodeError, MetricsError) as error:
            return 503, TEXT, f"{error}\n".encode()

    async def _health(self) -> tuple[int, str, bytes]:
        return 200, TEXT, b"ok\n"

    async def _readiness(self) -> tuple[int, str, bytes]:
        try:
            found = await self._services.asking.ask(Overview(), OverviewIs)
        except RpcError:
            return 503, TEXT, b"the ledger does not answer\n"
        if found.validator is None:
            return 503, TEXT, b"starting\n"
        if found.behind:
            return 503, TEXT, b"catching up\n"
        return 200, TEXT, b"ready\n"
