"""The stage that does the cryptography: transactions and votes in trays, judged a tray at a time.

Trays come from ``net``; ids, verdicts and what admission needs of each transaction go into this
verifier's own verdict segment, and the tray goes on to ``consensus``. It keeps nothing, so it may
be killed at any moment. It is the only stage that loads Intel's library.
"""

from __future__ import annotations

import zmq

from node import logs
from node.genesis import validator_set
from node.items import ItemKind
from node.settings import NodeSettings
from node.verification.batch import BatchVerifier
from node.verification.columns import VerdictColumns
from node.verification.messages import MessageVerifier
from node.verification.proofs import ProofVerifier
from node.verification.select import select_backend
from pipeline.child import StageContext
from pipeline.metrics import STAGE_METRICS, Kind, Metric, MetricSet, MetricWriter
from pipeline.stage import Stage
from pipeline.tray import U32, Label
from pipeline.traytimes import TrayTimes, tray_times
from pipeline.worker import TrayWorker

METRICS = MetricSet.of(
    STAGE_METRICS,
    MetricSet(
        "verify",
        (
            Metric("trays", Kind.COUNTER, "trays", "Trays judged"),
            Metric("signatures", Kind.COUNTER, "signatures", "Signatures verified"),
            Metric("rejected", Kind.COUNTER, "items", "Items with bad encoding or signature"),
            *tray_times("judging it"),
        ),
    ),
)


def build(context: StageContext) -> Stage:
    """Make the stage; called once in its process."""
    return VerifyStage(context)


class VerifyStage(TrayWorker):
    """Judges trays with the backend that the configuration or the machine decides."""

    def __init__(self, context: StageContext) -> None:
        settings = context.settings
        assert isinstance(settings, NodeSettings)
        self.metrics = MetricWriter(context.metrics.view, METRICS, incarnation=context.incarnation)
        self._dims = context.dims
        backend = select_backend(settings.backend)
        self._transactions = BatchVerifier(
            backend,
            settings.salt,
            settings.genesis.dust_limit,
            self._dims.max_items,
            self._dims.tray_bytes,
            give_way=self.give_way,
        )
        validators = validator_set(settings.genesis)
        self._judges: dict[int, MessageVerifier | ProofVerifier] = {
            ItemKind.MESSAGE: MessageVerifier(backend, validators, settings.salt),
            ItemKind.PROOF: ProofVerifier(backend, validators, settings.salt),
        }
        self._columns: dict[int, VerdictColumns] = {}
        writer = self.metrics
        self._trays = writer["trays"]
        self._signatures = writer["signatures"]
        self._rejected = writer["rejected"]
        self._items_in = writer["items_in"]
        self._items_out = writer["items_out"]
        self._times = TrayTimes(writer)
        name = f"verify-{context.index}"
        log = logs.configure(settings.log_level, settings.log_format, name)
        log.info("verifier_started", backend=backend.name)
        self._sockets: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
        super().__init__(context, self._sockets)

    def judge(self, label: Label, payload: memoryview, offsets: U32, verdicts: memoryview) -> None:
        """Fill the tray's verdict columns."""
        columns = self._columns.get(id(verdicts))
        if columns is None:
            columns = VerdictColumns(verdicts, self._dims.max_items, self._dims.tray_bytes)
            self._columns[id(verdicts)] = columns
        judge = self._judges.get(label.kind, self._transactions)
        counts = judge.verify(payload, offsets, columns)
        writer = self.metrics
        writer.add(self._trays, 1)
        writer.add(self._signatures, counts.signatures)
        writer.add(self._rejected, counts.items - counts.passed)
        writer.add(self._items_in, counts.items)
        writer.add(self._items_out, counts.items)

    def judged_in(self, waited_ns: int, took_ns: int) -> None:
        """Count how long a tray waited and took."""
        self._times.observe(waited_ns, took_ns)

    def reattached(self) -> None:
        """Verdict slots are elsewhere now."""
        self._columns.clear()

    def close(self) -> None:
        """Close the sockets; trays under way are delivered."""
        super().close()
        self._sockets.term()
