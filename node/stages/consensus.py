"""The stage that decides: admission to the mempool, agreement on blocks, the ledger, and its news.

Judged trays come from the verifiers and are admitted in order; every admission goes back to ``net``
with its tray. Agreement (`node.consensus`) is a pure state machine: this stage feeds it elapsed
timers and finished work, and performs the effects that it returns: build a block, make its body
durable, commit it, tell the world (ZeroMQ PUB) what is final, which is never said before it is on
disk.

It owns the chain store, the block files and mempool.dat; it alone writes them. What kills it: a
full disk or a damaged file (the node stops and says which), and any broken invariant.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable
from pathlib import Path
from typing import assert_never

import zmq

from node import logs, mempool_file
from node.block import Block, build_block
from node.consensus.effects import (
    BuildBlock,
    Commit,
    Effect,
    PersistBody,
    ReportMisbehaviour,
    RequestBlock,
    SetTimer,
    SignAndBroadcast,
)
from node.consensus.messages import (
    BlockBuilt,
    BodyDurable,
    Committed,
    Input,
    Started,
    Step,
    Timer,
    TimerElapsed,
)
from node.consensus.solo import SoloAgreement
from node.errors import NodeError
from node.mempool import Mempool
from node.notify import Publisher
from node.settings import NodeSettings
from node.storage.blockfile import BlockFiles, BodyLocation
from node.storage.chain import ChainStore
from node.verification.columns import VerdictColumns
from pipeline.child import StageContext
from pipeline.control import Attach
from pipeline.descriptor import Descriptor
from pipeline.metrics import STAGE_METRICS, Kind, Metric, MetricSet, MetricWriter
from pipeline.sink import TraySink
from pipeline.stage import NS_PER_MS, Stage
from pipeline.tray import U8, U32

MS_BUCKETS = (1, 2, 5, 10, 20, 50, 100, 200, 500, 1_000, 2_000, 5_000)
CONSERVED = (
    "admitted",
    "finalised",
    "evicted",
    "replaced",
    "expired",
    "conflicted",
    "lost_at_restart",
)

METRICS = MetricSet.of(
    STAGE_METRICS,
    MetricSet(
        "consensus",
        (
            Metric("height", Kind.GAUGE, "blocks", "Height of the last committed block"),
            Metric("blocks", Kind.COUNTER, "blocks", "Blocks committed"),
            Metric("mempool_items", Kind.GAUGE, "items", "Transactions in the mempool"),
            Metric("mempool_bytes", Kind.GAUGE, "bytes", "Their bytes"),
            Metric("orphans", Kind.GAUGE, "items", "Transactions that wait for a parent"),
            *(
                Metric(f"mempool_{name}", Kind.GAUGE, "items", f"Mempool entries {name}, this life")
                for name in CONSERVED
            ),
            Metric("trays_repeated", Kind.COUNTER, "trays", "Further attempts, acknowledged only"),
            Metric("trays_stale", Kind.COUNTER, "trays", "Descriptors of fillings that are gone"),
            Metric("gaps_skipped", Kind.COUNTER, "trays", "Missing numbers given up"),
            Metric("body_ms", Kind.HISTOGRAM, "ms", "Making a block's body durable", MS_BUCKETS),
            Metric("commit_ms", Kind.HISTOGRAM, "ms", "Committing a block", MS_BUCKETS),
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
        )
        self._bodies = BlockFiles(Path(settings.blocks_path), settings.genesis_id)
        self._bodies.truncate(self._store.tip.location)
        self._mempool = Mempool(self._store, settings.policy, settings.genesis.min_fee)
        self._load_mempool()
        self._sockets: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
        self._publisher = Publisher(self._sockets, settings.notify_address)
        self._proposer = settings.genesis.validators[0].key_bytes
        self._columns: dict[int, VerdictColumns] = {}
        self._candidate: tuple[bytes, Block] | None = None  # block id, block
        self._location: BodyLocation | None = None
        self._timers: dict[Step, tuple[int, Timer]] = {}  # step -> deadline, what for
        self._elapsed_ns: dict[Step, int] = {}  # when the step's timer last ran out
        self._agreement = SoloAgreement(settings.pace_ms, settings.empty_pace_ms)
        self._resolve_handles()
        super().__init__(context, self._sockets)
        self._log.info("consensus_started", height=self._store.tip.height, pool=len(self._mempool))
        self._tell(Started(self._store.tip.height))

    # -- the loop's calls ------------------------------------------------------------------------

    def attached(self, message: Attach) -> None:
        """A new intake: slots are elsewhere now."""
        self._columns.clear()
        super().attached(message)

    def after_inputs(self, now_ns: int) -> None:
        """Admit what is in order, then let elapsed timers drive agreement."""
        admitted = self.admit_ready(now_ns)
        if admitted:
            self.metrics.add(self._items_in, admitted)
        if self._mempool.has_ready_orphans:
            self._mempool.adopt_ready()
        due = [timer for deadline, timer in self._timers.values() if deadline <= now_ns]
        for timer in due:
            del self._timers[timer.step]
            self._elapsed_ns[timer.step] = now_ns
            self._tell(TimerElapsed(timer))

    def deadline_ns(self) -> int | None:
        """The next timer of agreement, or the next gap to skip."""
        deadlines = [deadline for deadline, _ in self._timers.values()]
        gap = super().deadline_ns()
        if gap is not None:
            deadlines.append(gap)
        return min(deadlines, default=None)

    def housekeeping(self, now_ns: int) -> None:
        """Expire old entries, publish the gauges."""
        self._mempool.expire(_now_ms())
        writer = self.metrics
        counters = self._mempool.counters
        for name in CONSERVED:
            writer.set(writer[f"mempool_{name}"], getattr(counters, name))
        writer.set(writer["mempool_items"], len(self._mempool))
        writer.set(writer["mempool_bytes"], self._mempool.size_bytes)
        writer.set(writer["orphans"], self._mempool.orphan_count)
        writer.set(writer["height"], self._store.tip.height)
        writer.set(writer["trays_repeated"], self.trays_repeated)
        writer.set(writer["trays_stale"], self.trays_stale)
        writer.set(writer["gaps_skipped"], self.gaps_skipped)

    def close(self) -> None:
        """Save the mempool, close the store and the sockets."""
        path = Path(self._settings.mempool_path)
        try:
            saved = mempool_file.save(self._mempool, path, self._settings.genesis_id)
            self._log.info("mempool_saved", transactions=saved)
        except NodeError as error:
            self._log.error("mempool_not_saved", reason=error.message)
        self._store.close()
        self._bodies.close()
        super().close()
        self._publisher.close()
        self._sockets.term()

    # -- admission -------------------------------------------------------------------------------

    def admit(
        self,
        descriptor: Descriptor,
        payload: memoryview,
        offsets: U32,
        verdicts: memoryview,
        codes: U8,
    ) -> None:
        """Offer a tray's transactions to the mempool."""
        columns = self._columns.get(id(verdicts))
        if columns is None:
            columns = VerdictColumns(verdicts, self._dims.max_items, self._dims.tray_bytes)
            self._columns[id(verdicts)] = columns
        self._mempool.admit(columns, descriptor.items, payload, offsets, _now_ms(), codes)

    def _load_mempool(self) -> None:
        path = Path(self._settings.mempool_path)
        report = mempool_file.load(self._mempool, path, self._settings.genesis_id, _now_ms())
        if report.ignored is not None:
            self._log.warning("mempool_not_reloaded", reason=report.ignored)
        path.unlink(missing_ok=True)

    # -- agreement -------------------------------------------------------------------------------

    def _tell(self, message: Input) -> None:
        """Give agreement an input, and perform what follows until nothing more does."""
        inputs = deque([message])
        while inputs:
            for effect in self._agreement.handle(inputs.popleft()):
                self._perform(effect, inputs.append)

    def _perform(self, effect: Effect, tell: Callable[[Input], None]) -> None:
        match effect:
            case BuildBlock(height, round_, allow_empty):
                tell(BlockBuilt(height, round_, self._build(height, allow_empty)))
            case PersistBody(value):
                self._persist(value)
                tell(BodyDurable(value))
            case SignAndBroadcast(message):
                tell(message)
            case SetTimer(timer, delay_ms):
                self._set_timer(timer, delay_ms)
            case Commit(height, _, value):
                self._commit(value)
                tell(Committed(height))
            case RequestBlock() | ReportMisbehaviour():
                raise RuntimeError(f"a network of one validator cannot want {effect!r}")
            case _:
                assert_never(effect)

    def _set_timer(self, timer: Timer, delay_ms: int) -> None:
        now = time.monotonic_ns()
        since = self._elapsed_ns.get(timer.step, now)
        self._timers[timer.step] = (max(now, since + delay_ms * NS_PER_MS), timer)

    def _build(self, height: int, allow_empty: bool) -> bytes | None:
        genesis = self._settings.genesis
        selection = self._mempool.select(genesis.max_block_bytes, genesis.max_block_transactions)
        if not selection.txids and not allow_empty:
            return None
        tip = self._store.tip
        block = build_block(
            height=height,
            time_ms=max(_now_ms(), tip.time_ms + 1),
            previous=tip.block_id,
            proposer=self._proposer,
            transactions=selection.transactions,
            txids=selection.txids,
            fees=selection.fees,
            salt=self._settings.salt,
        )
        value = block.id(self._settings.salt)
        self._candidate = (value, block)
        self._mempool.pin(selection.txids)
        return value

    def _block(self, value: bytes) -> Block:
        if self._candidate is None or self._candidate[0] != value:
            raise RuntimeError(f"block {value.hex()} is not the one that was built")
        return self._candidate[1]

    def _persist(self, value: bytes) -> None:
        began = time.monotonic_ns()
        block = self._block(value)
        self._location = self._bodies.append(block.header.encode(), block.transactions)
        self._bodies.sync()
        self.metrics.observe(self._body_ms, (time.monotonic_ns() - began) // NS_PER_MS)

    def _commit(self, value: bytes) -> None:
        began = time.monotonic_ns()
        block = self._block(value)
        assert self._location is not None, "the body is durable before the precommit"
        self._store.commit(block, self._location)
        self._publisher.finalised(value, block)
        self._mempool.committed(block.txids, block.transactions)
        self._candidate = self._location = None
        writer = self.metrics
        writer.observe(self._commit_ms, (time.monotonic_ns() - began) // NS_PER_MS)
        writer.add(self._blocks, 1)
        writer.add(self._items_out, len(block.txids))
        writer.set(self._height, block.header.height)

    def _resolve_handles(self) -> None:
        writer = self.metrics
        self._items_in = writer["items_in"]
        self._items_out = writer["items_out"]
        self._blocks = writer["blocks"]
        self._height = writer["height"]
        self._body_ms = writer["body_ms"]
        self._commit_ms = writer["commit_ms"]


def _now_ms() -> int:
    return time.time_ns() // NS_PER_MS
