"""The stage that wallets speak to: JSON-RPC, metrics and health over HTTP.

What the ledger knows it asks ``consensus`` (links ``ask`` and ``told``), what blocks hold it reads
from their files, transactions it submits through ingest like every client, and orders about peers
go to ``net`` (link ``order``). It owns the HTTP socket, the cookie file and its connections, and
nothing that anybody else needs: it may be killed at any moment, and nobody waits for it. What ends
it for good, without ending the node: an address that cannot be had, a data directory that cannot be
written.
"""

from __future__ import annotations

import gc
import os
import signal
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import zmq

from node import logs
from node.address import prefix_of
from node.params import INGEST_INSIDE
from node.query import Status, Statuses, StatusesAre
from node.rpc.asking import Asking
from node.rpc.auth import Authenticator, Cookie
from node.rpc.calls import Calls
from node.rpc.gauges import Gauges
from node.rpc.methods import METHODS as RPC_METHODS
from node.rpc.pages import Pages
from node.rpc.server import Server
from node.rpc.services import Services
from node.rpc.submitting import MAX_MESSAGES, Submitter
from node.rpc.turns import Turns
from node.rpc.waiting import Finalities
from node.settings import NodeSettings
from node.storage.blockfile import BlockFiles
from pipeline.child import StageContext
from pipeline.control import PeerStarted
from pipeline.link import Outbox, drain, has_input, link_named, open_inbox
from pipeline.metrics import STAGE_METRICS, Kind, Metric, MetricSet, MetricWriter
from pipeline.stage import Input, Stage

BURST_ANSWERS = 64  # of consensus, in one turn
BURST_VERDICTS = 16  # messages of net
GARBAGE_AFTER = 20_000  # objects: aiohttp makes many a request and few cycles; 700 cost a tenth
THREADS = 2  # for what waits: the supervisor's socket, the file of bans, many signatures

METRICS = MetricSet.of(
    STAGE_METRICS,
    MetricSet(
        "rpc",
        (
            Metric("requests", Kind.COUNTER, "requests", "HTTP requests"),
            Metric("requests_refused", Kind.COUNTER, "requests", "Answered with an HTTP error"),
            Metric("calls", Kind.COUNTER, "calls", "JSON-RPC calls, each of a batch"),
            Metric("calls_failed", Kind.COUNTER, "calls", "Answered with an error"),
            Metric("passwords_refused", Kind.COUNTER, "requests", "Without a right password"),
            Metric("connections", Kind.GAUGE, "connections", "Connections now"),
            Metric("connections_refused", Kind.GAUGE, "connections", "Closed: too many, this life"),
            Metric("connections_cut_off", Kind.GAUGE, "connections", "Too slow, this life"),
            Metric("questions_lost", Kind.GAUGE, "frames", "That consensus had no room for"),
        ),
    ),
)


def build(context: StageContext) -> Stage:
    """Make the stage; called once in its process. Raises `NodeError` for what an operator must
    mend.
    """
    return RpcStage(context)


class RpcStage(Stage):
    """The HTTP server within the stage's turns (`node.rpc.turns` says how and why)."""

    def __init__(self, context: StageContext) -> None:
        settings = context.settings
        assert isinstance(settings, NodeSettings)
        gc.set_threshold(GARBAGE_AFTER)
        self.metrics = MetricWriter(context.metrics.view, METRICS, incarnation=context.incarnation)
        self._log = logs.configure(settings.log_level, settings.log_format, "rpc")
        self._sockets: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
        self._ask = Outbox(self._sockets, link_named(context.topology, "ask"))
        self._told = open_inbox(self._sockets, link_named(context.topology, "told"))
        self._order = Outbox(self._sockets, link_named(context.topology, "order"))
        self._ingest = _connect_ingest(self._sockets)
        self._asking = Asking(self._ask.send, context.incarnation)
        self._submitter = Submitter(self._submit)
        self._finalities = Finalities(self._statuses, settings.rpc.max_waits)
        self._asking.on_block = self._finalities.new_block
        self._executor = ThreadPoolExecutor(THREADS, "rpc")
        self._turns = Turns()
        self._bodies = BlockFiles(Path(settings.blocks_path), settings.genesis_id)
        services = Services(
            settings=settings,
            prefix=prefix_of(settings.genesis.chain),
            asking=self._asking,
            submitter=self._submitter,
            finalities=self._finalities,
            bodies=self._bodies,
            metrics=self.metrics,
            gauges=Gauges(Path(settings.run_path), self._executor),
            executor=self._executor,
            order=self._order.send,
            log=self._log,
            started_ns=time.monotonic_ns(),
            stop_node=lambda: os.kill(os.getppid(), signal.SIGTERM),
        )
        methods = {method.name: method for method in RPC_METHODS}
        self._cookie = Cookie(Path(settings.datadir))
        self._server = Server(
            self._turns.loop,
            settings.rpc,
            Authenticator(self._cookie.content, settings.rpc.rpcauth),
            Calls(services, methods),
            Pages(services).by_path,
            self.metrics,
            self._log,
        )
        self.inputs = (
            Input(self._told, self._handle_told),
            Input(self._ingest, self._handle_verdicts),
            Input(self._turns.fileno(), self._turn),
        )
        self._log.info("rpc_listens", address=settings.rpc.listen, methods=len(methods))

    # -- the loop's calls ------------------------------------------------------------------------

    def after_inputs(self, now_ns: int) -> None:
        """Let go on whoever got an answer, or whose time has come."""
        self._turns.run()

    def deadline_ns(self) -> int | None:
        """The next timer of the event loop."""
        return self._turns.deadline_ns()

    def peer_started(self, message: PeerStarted) -> None:
        """A new process may not have what the last one was sent."""
        if message.stage == self._ask.link.target:
            self._asking.ask_again()
        elif message.stage == self._order.link.target:
            self._submitter.send_again()

    def housekeeping(self, now_ns: int) -> None:
        """Publish the gauges."""
        self._server.publish(now_ns)
        self.metrics.set(self.metrics["questions_lost"], self._ask.dropped)

    def stop(self) -> None:
        """Let nobody in any more."""
        self._server.stop_listening()

    def close(self) -> None:
        """Close everything, and take the cookie away."""
        self._cookie.remove()
        self._server.close()
        self._turns.close()
        self._executor.shutdown(wait=False, cancel_futures=True)
        self._bodies.close()
        self._ask.close()
        self._told.close()
        self._order.close()
        self._ingest.close()
        self._sockets.term()

    # -- inputs ----------------------------------------------------------------------------------

    def _turn(self) -> int:
        """The event loop has something to do; `after_inputs` does it."""
        return 1

    def _handle_told(self) -> int:
        frames = drain(self._told, BURST_ANSWERS)
        for frame in frames:
            self._asking.take(frame)
        self.metrics.add(self.metrics["items_in"], len(frames))
        return len(frames)

    def _handle_verdicts(self) -> int:
        handled = 0
        while handled < BURST_VERDICTS and has_input(self._ingest):
            self._submitter.take(self._ingest.recv_multipart(zmq.NOBLOCK))
            handled += 1
        return handled

    def _submit(self, frames: list[bytes]) -> bool:
        try:
            self._ingest.send_multipart(frames, zmq.NOBLOCK)
        except zmq.Again:
            return False
        self.metrics.add(self.metrics["items_out"], len(frames[1]) // 2)
        return True

    async def _statuses(self, txids: Sequence[bytes]) -> Sequence[Status]:
        found = await self._asking.ask(Statuses(tuple(txids)), StatusesAre)
        return found.statuses


def _connect_ingest(sockets: zmq.Context[zmq.Socket[bytes]]) -> zmq.Socket[bytes]:
    socket: zmq.Socket[bytes] = sockets.socket(zmq.DEALER)
    socket.linger = 0
    socket.sndhwm = 2 * MAX_MESSAGES
    socket.connect(INGEST_INSIDE)
    return socket
