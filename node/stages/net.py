"""The stage that owns the sockets to the outside, and holds no cryptography at all.

Transactions come from clients over ingest (ZeroMQ ROUTER; a client is a DEALER), go into trays, and
come back with one verdict each, which answers the client. Of a transaction this stage knows its
length and nothing else. Peers and what they send are `node.peering`'s. It imports neither PyNaCl
nor Intel's library; a test looks for their files among the mappings of the running process.

It owns the ingest socket, the peers' and the input segment. Clients that flood get their share of
the trays (`pipeline.fair`); when no tray is free the socket is not read, and TCP pushes back. A
client that does not read its answers is dropped. What kills it: nothing that a client sends.

Every request that is read is one of ``requests``. It is answered, and then each of its items is
counted in ``items_in``, ``items_out`` and one of the verdicts, or it counts in
``requests_unheard``.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import zmq

from node import __version__, logs
from node.datadir import ensure_directory
from node.errors import ListenError
from node.network.hub import HubSettings
from node.network.identity import read_or_make_node_id
from node.params import (
    INGEST_INSIDE,
    INGEST_MAX_BYTES,
    INGEST_MAX_FRAME_BYTES,
    INGEST_MAX_TRANSACTIONS,
)
from node.peering import PEERING_METRICS, Peering
from node.settings import NodeSettings
from node.verdict import Verdict
from pipeline.child import StageContext
from pipeline.control import PeerDied, PeerStarted
from pipeline.custody import TrayState
from pipeline.fair import FairQueue
from pipeline.intake import Intake
from pipeline.link import (
    NOBLOCK,
    SNDMORE,
    Outbox,
    Socket,
    drain,
    has_input,
    link_named,
    open_inbox,
    receive_parts,
)
from pipeline.metrics import STAGE_METRICS, Kind, Metric, MetricSet, MetricWriter
from pipeline.stage import Input, Stage
from pipeline.tray import U32

BURST_WORDS = 64  # of consensus, in one turn
BURST_ORDERS = 8  # of the operator, in one turn
BURST_MESSAGES = 16  # client messages read in one turn, before answers go out again
MAX_UNANSWERED = 64  # requests of one client; the next one is answered BUSY
MAX_CLIENTS = 4096  # with unanswered requests at once
REST_US = 700  # for what comes together: an answer, a tray back, the next request
GATHER_NS = 5_000_000  # from one tray that is not full to the next, under load
REST_AMONG_PEERS_US = 4_000  # transactions come in many small pieces then, from all sides
GATHER_AMONG_PEERS_NS = 20_000_000
LOAD_NS = 10_000_000
LOAD_HOLD_NS = 100_000_000  # a commit keeps everything waiting for so long, then it all comes
LOAD_ITEMS = 16  # taken in within LOAD_NS mean load: work gathers, and the loop rests for a while
REQUEST_ID_BYTES = 8
CLIENT_QUEUE_MESSAGES = 2 * MAX_UNANSWERED  # answers that wait for a client that does not read
MIB = 1024 * 1024
QUEUE_MAX_BYTES = (2 * MIB, 8 * MIB, 8 * MIB)  # queued for trays, by priority, all sources together
QUEUE_QUANTUM_BYTES = 64 * 1024  # of one client, before it is another's turn
DROPPED_FORGET_TURNS = 20  # housekeeping turns (10 s) for which a dropped client is not heard

METRICS = MetricSet.of(
    STAGE_METRICS,
    MetricSet(
        "net",
        (
            Metric("requests", Kind.COUNTER, "messages", "Ingest messages read"),
            Metric("request_bytes", Kind.COUNTER, "bytes", "Transaction bytes read"),
            Metric(
                "items_lost", Kind.COUNTER, "items", "Taken in by a life that died, not answered"
            ),
            Metric("clients_dropped", Kind.COUNTER, "clients", "Clients dropped: did not read"),
            Metric("requests_unheard", Kind.COUNTER, "messages", "Of dropped clients: no answer"),
            Metric("answers_lost", Kind.COUNTER, "messages", "To clients gone or dropped"),
            Metric("trays_redispatched", Kind.COUNTER, "trays", "Trays dispatched again"),
            Metric("trays_split", Kind.COUNTER, "trays", "Trays split to find what kills"),
            Metric("items_quarantined", Kind.COUNTER, "items", "Transactions that kill verifiers"),
            Metric("clients_waiting", Kind.GAUGE, "clients", "Clients with unanswered requests"),
            Metric("queue_bytes", Kind.GAUGE, "bytes", "Queued for trays"),
            *PEERING_METRICS,
            *(
                Metric(f"trays_{state.name.lower()}", Kind.GAUGE, "trays", f"Trays {state.name}")
                for state in TrayState
            ),
            *(
                Metric(f"verdict_{verdict.name.lower()}", Kind.COUNTER, "items", "Answered so")
                for verdict in Verdict
            ),
        ),
    ),
)


def build(context: StageContext) -> Stage:
    """Make the stage; called once in its process."""
    return NetStage(context)


class _Request:
    """One ingest message on its way; collects the verdicts of its transactions."""

    __slots__ = ("_codes", "_missing", "_stage", "client", "id", "lengths", "payload")

    def __init__(
        self, stage: NetStage, client: bytes, id_: bytes, lengths: bytes, payload: bytes
    ) -> None:
        self._stage = stage
        self.client = client
        self.id = id_
        self.lengths = lengths  # u16[n]
        self.payload = payload  # to be passed on, or empty
        self._codes: bytearray | None = None
        self._missing = len(lengths) // 2

    def answer(self, first: int, codes: bytes) -> None:
        """Take the verdicts of some transactions; the last one sends the answer."""
        if self._codes is None:
            if len(codes) == self._missing:
                self._stage.answered(self, codes)
                return
            self._codes = bytearray(self._missing)
        self._codes[first : first + len(codes)] = codes
        self._missing -= len(codes)
        if self._missing == 0:
            self._stage.answered(self, bytes(self._codes))


class NetStage(Stage):
    """Ingest on one side, trays on the other."""

    def __init__(self, context: StageContext) -> None:
        settings = context.settings
        assert isinstance(settings, NodeSettings)
        self.metrics = MetricWriter(context.metrics.view, METRICS, incarnation=context.incarnation)
        _count_lost(self.metrics)
        self._log = logs.configure(settings.log_level, settings.log_format, "net")
        self._sockets: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
        self._ingest = _bind_ingest(self._sockets, settings.ingest_address)
        self._queues = [
            FairQueue(size, size, quantum=QUEUE_QUANTUM_BYTES) for size in QUEUE_MAX_BYTES
        ]
        self._intake = Intake(
            context,
            self._sockets,
            self._queues,
            worker_stage="verify",
            quarantine_code=Verdict.QUARANTINED,
            on_quarantine=self._quarantined,
        )
        self._say = open_inbox(self._sockets, link_named(context.topology, "say"))
        self._heard = Outbox(self._sockets, link_named(context.topology, "heard"))
        self._peering = Peering(
            settings,
            hub_settings(settings),
            self._intake,
            self._heard,
            self.metrics,
            self._log,
            context.epoch,
        )
        self._orders = _open_orders(self._sockets, context, settings)
        orders = () if self._orders is None else (Input(self._orders, self._handle_orders),)
        self.inputs = (
            *self._intake.inputs,
            Input(self._say, self._handle_say),
            Input(self._peering.fileno(), self._peering.poll),
            *orders,
            Input(self._ingest, self._handle_ingest, bulk=True),
        )
        self._unanswered: dict[bytes, int] = {}  # client -> requests that it waits for
        self._dropped: dict[bytes, int] = {}  # client -> housekeeping turns until it is heard again
        self._closing = False
        self._moved = 0  # items taken in when the window began
        self._window_ns = 0
        self._loaded_until_ns = 0
        self._loaded = False
        writer = self.metrics
        self._verdict_counters = {int(v): writer[f"verdict_{v.name.lower()}"] for v in Verdict}
        self._tray_gauges = {state: writer[f"trays_{state.name.lower()}"] for state in TrayState}
        self._requests = writer["requests"]
        self._requests_unheard = writer["requests_unheard"]
        self._answers_lost = writer["answers_lost"]
        self._request_bytes = writer["request_bytes"]
        self._items_in = writer["items_in"]
        self._items_out = writer["items_out"]

    # -- the loop's calls ------------------------------------------------------------------------

    def accepts_bulk(self) -> bool:
        """Read clients only while there is room for what they send."""
        return self._intake.accepts_bulk and not self._closing

    def after_inputs(self, now_ns: int) -> None:
        """Fill trays and dispatch them; pass on what was admitted."""
        if now_ns - self._window_ns >= LOAD_NS:
            moved = self._intake.items_in
            if moved - self._moved >= LOAD_ITEMS:
                self._loaded_until_ns = now_ns + LOAD_HOLD_NS
            self._loaded = now_ns < self._loaded_until_ns
            self._moved = moved
            self._window_ns = now_ns
        self._intake.pump(now_ns, gather_ns=self._gather_ns)
        self._peering.after_inputs(now_ns, bulk_open=self.accepts_bulk())

    def deadline_ns(self) -> int | None:
        """When what has gathered is to be sent off, or a peer to be pinged, dialled or given up."""
        deadlines = (self._intake.deadline_ns(self._gather_ns), self._peering.deadline_ns())
        return min((each for each in deadlines if each is not None), default=None)

    @property
    def _gather_ns(self) -> int:
        if not self._loaded:
            return 0
        return GATHER_AMONG_PEERS_NS if self._peering.count else GATHER_NS

    def rest_us(self) -> int:
        """Under load, let work gather: a turn costs the same for one tray and for several."""
        if not self._loaded:
            return 0
        return REST_AMONG_PEERS_US if self._peering.count else REST_US

    def peer_died(self, message: PeerDied) -> None:
        """Dispatch a dead verifier's trays again."""
        self._intake.peer_died(message)

    def peer_started(self, message: PeerStarted) -> None:
        """A new consensus process knows no peer."""
        if message.stage == self._heard.link.target:
            self._peering.consensus_started()

    def housekeeping(self, now_ns: int) -> None:
        """Publish the gauges and forget dropped clients in time."""
        self._peering.housekeeping()
        writer = self.metrics
        intake = self._intake
        for state, count in intake.tray_states().items():
            writer.set(self._tray_gauges[state], count)
        writer.set(writer["clients_waiting"], len(self._unanswered))
        writer.set(writer["queue_bytes"], sum(queue.pending_weight for queue in self._queues))
        writer.set(writer["trays_redispatched"], intake.trays_redispatched)
        writer.set(writer["trays_split"], intake.trays_split)
        writer.set(writer["items_quarantined"], intake.items_quarantined)
        for client in list(self._dropped):
            self._dropped[client] -= 1
            if self._dropped[client] <= 0:
                del self._dropped[client]

    def stop(self) -> None:
        """Read no more; what is in trays is still answered."""
        self._closing = True
        self._log.info("ingest_closed")

    def finished(self) -> bool:
        """Whether every transaction that was read is answered."""
        return self._intake.idle

    def close(self) -> None:
        """Close the sockets; answers under way are delivered."""
        self._peering.close()
        self._intake.close()
        self._say.close()
        self._heard.close()
        if self._orders is not None:
            self._orders.close()
        self._ingest.close()
        self._sockets.term()

    # -- consensus -------------------------------------------------------------------------------

    def _handle_say(self) -> int:
        frames = drain(self._say, BURST_WORDS)
        for frame in frames:
            self._peering.told(frame)
        return len(frames)

    def _handle_orders(self) -> int:
        assert self._orders is not None
        frames = drain(self._orders, BURST_ORDERS)
        for frame in frames:
            self._peering.ordered(frame)
        return len(frames)

    # -- clients ---------------------------------------------------------------------------------

    def _handle_ingest(self) -> int:
        handled = 0
        for _ in range(BURST_MESSAGES):
            if not (self.accepts_bulk() and has_input(self._ingest)):
                break
            handled += 1
            self._take(receive_parts(self._ingest))
        self.metrics.add(self._requests, handled)
        return handled

    def _take(self, frames: list[bytes]) -> None:
        """One client message."""
        client = frames[0]
        if client in self._dropped:
            self.metrics.add(self._requests_unheard, 1)
            return
        id_ = frames[1] if len(frames) > 1 else b""
        ends = transaction_ends(frames)
        if isinstance(ends, Verdict):
            self._refuse(client, id_[:REQUEST_ID_BYTES], ends)
            return
        payload = frames[3]
        unanswered = self._unanswered.get(client, 0)
        full = unanswered >= MAX_UNANSWERED or (
            not unanswered and len(self._unanswered) >= MAX_CLIENTS
        )
        # Kept until it is answered only for peers: the memory of a quick client is soon used again.
        kept = payload if self._peering.count else b""
        request = _Request(self, client, id_, frames[2], kept)
        if full or not self._intake.offer(client, request, memoryview(payload), ends):
            self._refuse(client, id_, Verdict.BUSY, len(ends))
            return
        self._unanswered[client] = unanswered + 1
        self.metrics.add(self._items_in, len(ends))
        self.metrics.add(self._request_bytes, len(payload))

    def answered(self, request: _Request, codes: bytes) -> None:
        """All verdicts of a request are there: send them."""
        self._unanswered[request.client] -= 1
        if not self._unanswered[request.client]:
            del self._unanswered[request.client]
        self.metrics.add(self._items_out, len(codes))
        self._count(codes)
        self._send(request.client, request.id, codes)
        if request.payload:
            self._peering.relay(request.lengths, memoryview(request.payload), codes)

    def _refuse(self, client: bytes, id_: bytes, verdict: Verdict, n_items: int = 1) -> None:
        """Answer a request as a whole, with one byte; one that cannot be read is one item."""
        self.metrics.add(self._items_in, n_items)
        self.metrics.add(self._items_out, n_items)
        self.metrics.add(self._verdict_counters[verdict], n_items)
        self._send(client, id_, bytes([verdict]))

    def _count(self, codes: bytes) -> None:
        counters = self._verdict_counters
        rest = len(codes)
        for code in set(codes):
            count = codes.count(code)
            self.metrics.add(counters[code], count)
            rest -= count
        assert rest == 0

    def _send(self, client: bytes, id_: bytes, codes: bytes) -> None:
        if client in self._dropped:
            self.metrics.add(self._answers_lost, 1)
            return
        try:
            send = self._ingest.send
            send(client, NOBLOCK | SNDMORE)
            send(id_, NOBLOCK | SNDMORE)
            send(codes, NOBLOCK)
        except zmq.Again:
            self._dropped[client] = DROPPED_FORGET_TURNS
            self.metrics.add(self.metrics["clients_dropped"], 1)
            self.metrics.add(self._answers_lost, 1)
            self._log.warning("client_dropped", reason="it does not read its answers")
        except zmq.ZMQError as error:
            if error.errno != zmq.EHOSTUNREACH:
                raise
            self.metrics.add(self._answers_lost, 1)

    def _quarantined(self, item: bytes) -> None:
        self._log.error("transaction_quarantined", size=len(item), item=item.hex())


def transaction_ends(frames: list[bytes]) -> U32 | Verdict:
    """Where each transaction of a client message ends, u32[n], or why it is refused as a whole.

    The message: [client][request id][lengths u16[n]][transactions].
    """
    if len(frames) != 4 or len(frames[1]) != REQUEST_ID_BYTES:
        return Verdict.BAD_REQUEST
    _, _, lengths, payload = frames
    n_items, odd = divmod(len(lengths), 2)
    if n_items > INGEST_MAX_TRANSACTIONS or len(payload) > INGEST_MAX_BYTES:
        return Verdict.TOO_LARGE
    if odd or n_items == 0:
        return Verdict.BAD_REQUEST
    ends = _ends(lengths, n_items)
    return ends if ends[-1] == len(payload) else Verdict.BAD_REQUEST


def _ends(lengths: bytes, n_items: int) -> U32:
    """Where each transaction ends; u32[n_items] from lengths u16[n_items]."""
    if n_items == 1:  # an idle node's case
        return np.array([int.from_bytes(lengths, "little")], np.uint32)
    return np.frombuffer(lengths, "<u2").cumsum(dtype=np.uint32)


def _count_lost(metrics: MetricWriter) -> None:
    """Count what earlier lives took in and did not answer; their clients send it again."""
    unanswered = metrics.value("items_in") - metrics.value("items_out")
    metrics.add(metrics["items_lost"], unanswered - metrics.value("items_lost"))


def hub_settings(settings: NodeSettings) -> HubSettings:
    """What the hub of this node needs to know; makes the node's name if it has none yet."""
    directory = Path(settings.network_path)
    ensure_directory(directory)
    return HubSettings(
        genesis_id=settings.genesis_id,
        node_id=read_or_make_node_id(directory / "node_id"),
        listen=settings.peer_listen or None,
        static=settings.peers,
        agent=f"timed/{__version__}",
        max_inbound=settings.max_inbound,
        max_outbound=settings.max_outbound,
        bans_path=str(directory / "bans.json"),
        book_path=str(directory / "addresses.json"),
    )


def _open_orders(
    sockets: zmq.Context[Socket], context: StageContext, settings: NodeSettings
) -> Socket | None:
    """The link from ``rpc``, if the node has that stage."""
    if not settings.rpc.listen:
        return None
    return open_inbox(sockets, link_named(context.topology, "order"))


def _bind_ingest(sockets: zmq.Context[zmq.Socket[bytes]], address: str) -> zmq.Socket[bytes]:
    socket: zmq.Socket[bytes] = sockets.socket(zmq.ROUTER)
    socket.linger = 200
    socket.router_mandatory = 1
    socket.maxmsgsize = INGEST_MAX_FRAME_BYTES  # of each frame; ZeroMQ ends the connection
    socket.rcvhwm = BURST_MESSAGES
    socket.sndhwm = CLIENT_QUEUE_MESSAGES
    socket.backlog = 1024
    try:
        socket.bind(INGEST_INSIDE)
        socket.bind(address)
    except zmq.ZMQError as error:
        raise ListenError(
            f"cannot listen for transactions on {address} ({error.strerror})",
            "stop what uses the port, or set network.listen in config.toml",
        ) from error
    return socket
