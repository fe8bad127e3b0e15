"""The stage that decides: admission to the mempool, agreement on blocks, the ledger, and its news.

Judged trays come from the verifiers and are admitted in order; every admission goes back to ``net``
with its tray. What it takes to agree on blocks is done by `node.host`, which this stage gives its
turns, its elapsed time and the signer's answers; what is final goes out over ZeroMQ, and never
before it is on disk (`node.notify`, which also tells of the mempool if somebody listens).

It owns the chain store, the block files, the write-ahead log and mempool.dat; it alone writes them.
The validator's key it never sees. What kills it: a full disk or a damaged file (the node stops and
says which), and any broken invariant.
"""

from __future__ import annotations

import time
from pathlib import Path

import numpy as np
import zmq

from node import logs, mempool_file
from node.answering import BUDGET_NS, Answering
from node.errors import NodeError
from node.exchange.verified import from_columns
from node.host import HOST_METRICS, NodeHost
from node.items import ItemKind
from node.mempool import Mempool
from node.mempool_totals import TOTALS_METRICS, MempoolTotals
from node.notify import Publisher
from node.peer_link import PeerLink
from node.query import NEWS, NewBlock, Told, encode
from node.settings import NodeSettings
from node.storage.chain import ChainStore
from node.verdict import Verdict
from node.verification.columns import VerdictColumns
from pipeline.child import StageContext
from pipeline.control import Attach
from pipeline.link import Outbox, drain, has_input, link_named, open_inbox
from pipeline.metrics import STAGE_METRICS, Kind, Metric, MetricSet, MetricWriter
from pipeline.sink import BULK_TRAYS, TraySink
from pipeline.stage import NS_PER_MS, Input, Stage
from pipeline.tray import U8, U32, Label
from pipeline.traytimes import TrayTimes, tray_times

BURST_WORDS = 32  # of peers, in one turn
BURST_ANSWERS = 8  # of the signer, handled in one turn

METRICS = MetricSet.of(
    STAGE_METRICS,
    MetricSet(
        "consensus",
        (
            *HOST_METRICS,
            *TOTALS_METRICS,
            Metric("mempool_bytes", Kind.GAUGE, "bytes", "Bytes of the transactions in it"),
            Metric("orphans", Kind.GAUGE, "items", "Transactions that wait for a parent"),
            Metric("say_lost", Kind.COUNTER, "words", "Words that net had no room for"),
            Metric("trays_repeated", Kind.COUNTER, "trays", "Further attempts, acknowledged only"),
            Metric("trays_stale", Kind.COUNTER, "trays", "Descriptors of fillings that are gone"),
            Metric("gaps_skipped", Kind.COUNTER, "trays", "Missing numbers given up"),
            *tray_times("admitting it"),
        ),
    ),
)


def build(context: StageContext) -> Stage:
    """Make the stage; called once in its process. Raises `NodeError` for what an operator must
    mend.
    """
    return ConsensusStage(context)


class ConsensusStage(TraySink):
    """Admission, agreement and ledger in one process: they share the mempool and the store."""

    def __init__(self, context: StageContext) -> None:
        settings = context.settings
        assert isinstance(settings, NodeSettings)
        self._settings = settings
        self.metrics = MetricWriter(context.metrics.view, METRICS, incarnation=context.incarnation)
        self._log = logs.configure(settings.log_level, settings.log_format, "consensus")
        self._dims = context.dims
        self._store = ChainStore(
            Path(settings.store_path),
            settings.genesis_id,
            cache_mb=settings.cache_mb,
            write_buffer_mb=settings.write_buffer_mb,
            address_index=settings.address_index,
        )
        if (older := self._store.upgraded_from) is not None:
            self._log.warning("store_upgraded", from_format=older)
        self._mempool = Mempool(self._store, settings.policy, settings.genesis.min_fee)
        self._totals = MempoolTotals(self.metrics, self._mempool)
        self._load_mempool()
        self._sockets: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
        self._publisher = Publisher(self._sockets, settings.notify_address, self._mempool.journal)
        self._sign = Outbox(self._sockets, link_named(context.topology, "sign"))
        self._signed = open_inbox(self._sockets, link_named(context.topology, "signed"))
        self._say = Outbox(self._sockets, link_named(context.topology, "say"))
        self._heard = open_inbox(self._sockets, link_named(context.topology, "heard"))
        self._columns: dict[int, VerdictColumns] = {}
        self._signing_until_ns: int | None = None
        self._host = NodeHost(
            settings,
            self._store,
            self._mempool,
            self._publisher,
            self._sign.send,
            PeerLink(self._say.send, first_check=_now_ms()),
            self.metrics,
            self._log,
        )
        super().__init__(context, self._sockets)
        self._host.peers.net_attached(context.epoch)
        self.inputs = (
            Input(self._signed, self._handle_signed),
            Input(self._heard, self._handle_heard),
            *self.tray_inputs,
            Input(self._publisher.socket, self._publisher.take_subscriptions),
            *self._rpc_inputs(context),
        )
        self._items_in = self.metrics["items_in"]
        self._times = TrayTimes(self.metrics)
        self._log.info("consensus_started", height=self._store.tip.height, pool=len(self._mempool))

    # -- the loop's calls ------------------------------------------------------------------------

    def attached(self, message: Attach) -> None:
        """A new intake: slots are elsewhere now."""
        self._columns.clear()
        super().attached(message)
        self._host.peers.net_attached(self._context.epoch)

    def after_inputs(self, now_ns: int) -> None:
        """Admit what is in order, then let agreement go on.

        No transactions while a signature of our own is about to come, which a turn full of
        admissions would keep waiting, three times a block.
        """
        due_ns = self._host.signature_due_ns()
        self._signing_until_ns = due_ns if due_ns is not None and now_ns < due_ns else None
        admitted = self.admit_ready(now_ns, BULK_TRAYS if self._signing_until_ns is None else 0)
        if admitted:
            self.metrics.add(self._items_in, admitted)
        if self._mempool.has_ready_orphans:
            self._mempool.adopt_ready()
        self._host.poll(now_ns)
        self._totals.publish()
        self._publisher.mempool_changed()

    def deadline_ns(self) -> int | None:
        """The next timer of agreement, or the next gap to skip."""
        deadlines = (self._signing_until_ns, self._host.deadline_ns(), super().deadline_ns())
        return min((each for each in deadlines if each is not None), default=None)

    def housekeeping(self, now_ns: int) -> None:
        """Expire old entries, publish the gauges."""
        self._mempool.expire(_now_ms())
        writer = self.metrics
        self._totals.publish()
        writer.set(writer["mempool_bytes"], self._mempool.size_bytes)
        writer.set(writer["orphans"], self._mempool.orphan_count)
        writer.set(writer["say_lost"], self._say.dropped)
        writer.set(writer["trays_repeated"], self.trays_repeated)
        writer.set(writer["trays_stale"], self.trays_stale)
        writer.set(writer["gaps_skipped"], self.gaps_skipped)
        self._host.housekeeping()
        if self._told is not None:
            self._answering.expire(now_ns)

    def close(self) -> None:
        """Save the mempool, close the store and the sockets."""
        path = Path(self._settings.mempool_path)
        try:
            saved = mempool_file.save(self._mempool, path, self._settings.genesis_id)
            self._log.info("mempool_saved", transactions=saved)
        except NodeError as error:
            self._log.error("mempool_not_saved", reason=error.message)
        self._host.close()
        self._store.close()
        super().close()
        self._sign.close()
        self._signed.close()
        if self._told is not None:
            self._asked.close()
            self._told.close()
        self._say.close()
        self._heard.close()
        self._publisher.close()
        self._sockets.term()

    # -- admission -------------------------------------------------------------------------------

    def admit(
        self,
        label: Label,
        payload: memoryview,
        offsets: U32,
        verdicts: memoryview,
        codes: U8,
    ) -> None:
        """Offer transactions to the mempool, give agreement its messages, and what was asked for
        to whoever asked.
        """
        columns = self._columns.get(id(verdicts))
        if columns is None:
            columns = VerdictColumns(verdicts, self._dims.max_items, self._dims.tray_bytes)
            self._columns[id(verdicts)] = columns
        if label.kind == ItemKind.TRANSACTION:
            self._mempool.admit(columns, len(codes), payload, offsets, _now_ms(), codes)
            self._totals.publish()
            return
        codes[:] = columns.codes[: len(codes)]
        if label.kind == ItemKind.FETCHED:
            items = from_columns(columns, len(codes), payload, offsets)
            self._host.peers.fetched(label.tag - 1, label.first, items)
        elif label.kind == ItemKind.PROOF:
            pass  # net protects whom it believes
        elif label.tag:
            self._host.peers.checked(label.tag - 1, good=not codes[0])
        else:
            for number in np.flatnonzero(codes == Verdict.ADMITTED).tolist():
                self._host.message(bytes(payload[offsets[number] : offsets[number + 1]]))

    def admitted_in(self, waited_ns: int, took_ns: int) -> None:
        """Count how long a tray waited and took."""
        self._times.observe(waited_ns, took_ns)

    def _load_mempool(self) -> None:
        path = Path(self._settings.mempool_path)
        report = mempool_file.load(self._mempool, path, self._settings.genesis_id, _now_ms())
        if report.ignored is not None:
            self._log.warning("mempool_not_reloaded", reason=report.ignored)
        self._totals.resume()  # and publish, before the file is gone, which holds them too
        path.unlink(missing_ok=True)

    # -- agreement -------------------------------------------------------------------------------

    def _handle_signed(self) -> int:
        frames = drain(self._signed, BURST_ANSWERS)
        for frame in frames:
            self._host.signer_says(frame)
        return len(frames)

    def _handle_heard(self) -> int:
        frames = drain(self._heard, BURST_WORDS)
        for frame in frames:
            self._host.peers.heard(frame)
        return len(frames)

    # -- rpc -------------------------------------------------------------------------------------

    def _rpc_inputs(self, context: StageContext) -> tuple[Input, ...]:
        """The link from ``rpc``, if the node has that stage."""
        self._told: Outbox | None = None
        if not self._settings.rpc.listen:
            return ()
        self._answering = Answering(self._store, self._mempool, self._host)
        self._asked = open_inbox(self._sockets, link_named(context.topology, "ask"))
        told = self._told = Outbox(self._sockets, link_named(context.topology, "told"))
        self._host.on_commit = lambda height, block_id: told.send(
            encode(Told(NEWS, NewBlock(height, block_id)))
        )
        return (Input(self._asked, self._handle_asked),)

    def _handle_asked(self) -> int:
        """Answer within the budget; what is left waits in the link for the next turn."""
        assert self._told is not None
        until_ns = time.monotonic_ns() + BUDGET_NS
        answered = 0
        while time.monotonic_ns() < until_ns and has_input(self._asked):
            answer = self._answering.answer(self._asked.recv(zmq.NOBLOCK))
            if answer is not None:
                self._told.send(answer)
            answered += 1
        return answered


def _now_ms() -> int:
    return time.time_ns() // NS_PER_MS
