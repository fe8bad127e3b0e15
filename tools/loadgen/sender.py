"""The sender: one loop that sends a workload to a node's ingest and hears what becomes of it.

Requests are slices of the mapped workload, sent when the timetable says so or as soon as there is
room; verdicts and "finalised" notifications go to the ledger as they come. The loop owns the
sockets and the table of unanswered requests, which is bounded by ``in_flight``; it waits on file
descriptors and never spins. A node that is killed and comes back is met again by ZeroMQ's
reconnection; what it lost is asked about again if ``resubmit`` says so, and is reported as missing
otherwise.
"""

from __future__ import annotations

import ctypes
import resource
import select
import signal
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from types import FrameType

import numpy as np
import numpy.typing as npt
import zmq
from zmq.utils.monitor import recv_monitor_message

from node.params import INGEST_MAX_BYTES, INGEST_MAX_TRANSACTIONS
from tools.loadgen.errors import LoadError
from tools.loadgen.expected import SHED, Ledger
from tools.loadgen.pace import NS_PER_S, Timetable
from tools.loadgen.report import Report, make_report
from tools.loadgen.workload_file import Workload

TOPIC_FINALISED = b"finalised"
SEQUENCE_BYTES = 4
MAX_IN_FLIGHT = 64  # a node's limit of unanswered requests for each client
MAX_CLIENTS = 64
MAX_RATE_PER_S = 10_000_000.0
WHOLE_REQUEST_REFUSALS = 128  # codes from here on may answer a whole request with one byte

GATHER_NS = 10_000_000  # flat out, while over half of the window is under way, if that is
GATHER_TRANSACTIONS = 4_096  # so many at least: a node takes longer for them
HOUSEKEEPING_NS = 100_000_000
SHED_PAUSE_NS = 200_000_000  # before a transaction that was refused for load is sent again
REPLIES_AT_ONCE = 64  # then sending gets its turn
NOTIFICATIONS_QUEUED = 1_000  # in the socket; at 160 KB for 5,000 transactions
PR_SET_TIMERSLACK = 29

# As plain integers: each operation on pyzmq's enumerations takes a microsecond.
NOBLOCK = int(zmq.NOBLOCK)
EVENTS = int(zmq.EVENTS)
POLLIN = int(zmq.POLLIN)

Indices = npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class LoadOptions:
    """How to send a workload.

    ``rate_per_s`` None is flat out: as fast as ``in_flight`` requests of ``batch`` transactions for
    each of ``clients`` sockets are answered, with at most ``max_unconfirmed`` admitted transactions
    that are not final yet (0: no limit). With a rate the loop is open, and a tick collects what
    fell due in ``tick_ms``. ``answer_timeout_s`` is how long a request may stay unanswered before
    it is repeated (``resubmit``) or given up; the run ends when all is final or nothing happened
    for ``drain_timeout_s``. Raises LoadError for impossible values.
    """

    directory: Path
    ingest: str
    notify: str
    rate_per_s: float | None = None
    duration_s: float | None = None
    first: int = 0
    count: int | None = None
    batch: int = 256
    in_flight: int = 32
    clients: int = 1
    tick_ms: float = 2.0
    max_unconfirmed: int = 50_000
    resubmit: bool = False
    allow_shedding: bool = False
    answer_timeout_s: float = 5.0
    drain_timeout_s: float = 15.0
    connect_timeout_s: float = 5.0

    def __post_init__(self) -> None:
        for name, value, low, high in (
            ("rate", self.rate_per_s, 0.001, MAX_RATE_PER_S),
            ("duration", self.duration_s, 0.001, 1e9),
            ("first", self.first, 0, 2**31),
            ("count", self.count, 1, 2**31),
            ("batch", self.batch, 1, INGEST_MAX_TRANSACTIONS),
            ("in-flight", self.in_flight, 1, MAX_IN_FLIGHT),
            ("clients", self.clients, 1, MAX_CLIENTS),
            ("tick-ms", self.tick_ms, 0.0, 1_000.0),
            ("max-unconfirmed", self.max_unconfirmed, 0, 2**31),
            ("answer-timeout", self.answer_timeout_s, 0.01, 1e6),
            ("drain-timeout", self.drain_timeout_s, 0.01, 1e6),
            ("connect-timeout", self.connect_timeout_s, 0.01, 1e6),
        ):
            if value is not None and not low <= value <= high:
                raise LoadError(f"--{name} {value:g} is impossible", f"give {low:g} to {high:g}")


@dataclass(frozen=True, slots=True)
class Progress:
    """How far a run is; rates are of the time since the report before."""

    elapsed_s: float
    to_send: int
    sent: int
    answered: int
    accepted: int
    finalised: int
    unexpected: int
    in_flight: int
    sent_per_s: float
    finalised_per_s: float


@dataclass(slots=True, eq=False)
class _Request:
    """An unanswered request: a range sent for the first time, or indices that were sent before."""

    start: int
    stop: int
    indices: Indices | None
    sent_ns: int

    def all_indices(self) -> Indices:
        return np.arange(self.start, self.stop) if self.indices is None else self.indices


def run_load(
    options: LoadOptions, progress: Callable[[Progress], None] = lambda _progress: None
) -> Report:
    """Send a workload as the options say and return what came of it; blocks until the end.

    ``progress`` is called once a second, from this thread. Raises LoadError: no such workload,
    nothing to send, or no node to be reached.
    """
    workload = Workload.open(options.directory)
    count = min(options.count or workload.count, workload.count - options.first)
    if count <= 0:
        raise LoadError(
            f"the workload has {workload.count:,} transactions, none from {options.first:,} on",
            "lower --first, or prepare more",
        )
    ledger = Ledger(
        workload,
        options.first,
        count,
        resubmit=options.resubmit,
        allow_shedding=options.allow_shedding,
    )
    with zmq.Context() as context:
        loop = _Loop(options, workload, ledger, context, progress)
        try:
            loop.connect()
            loop.run()
        finally:
            loop.close()
    return loop.report()


class _Loop:
    """The state of one run."""

    def __init__(
        self,
        options: LoadOptions,
        workload: Workload,
        ledger: Ledger,
        context: zmq.Context[zmq.Socket[bytes]],
        progress: Callable[[Progress], None],
    ) -> None:
        self._options = options
        self._ledger = ledger
        self._progress = progress
        self._data = workload.data
        self._lengths = workload.lengths_wire
        self._offsets = workload.offsets
        self._first = options.first
        longest = int(workload.columns.lengths[self._first : self._first + ledger.count].max())
        self._batch = min(options.batch, INGEST_MAX_BYTES // longest)
        self._window = options.in_flight * options.clients
        self._timetable = None if options.rate_per_s is None else Timetable(options.rate_per_s)
        self._gathers = (
            self._timetable is None and self._window * self._batch >= 2 * GATHER_TRANSACTIONS
        )
        self._tick_ns = int(options.tick_ms * 1e6)
        self._answer_ns = int(options.answer_timeout_s * NS_PER_S)
        self._drain_ns = int(options.drain_timeout_s * NS_PER_S)

        self._clients: list[zmq.Socket[bytes]] = []
        for _ in range(options.clients):
            client = context.socket(zmq.DEALER)
            client.setsockopt(zmq.SNDHWM, 2 * options.in_flight)
            client.setsockopt(zmq.RCVHWM, 4 * options.in_flight)
            self._clients.append(client)
        self._news: zmq.Socket[bytes] = context.socket(zmq.SUB)
        self._news.setsockopt(zmq.RCVHWM, NOTIFICATIONS_QUEUED)
        for sock in (*self._clients, self._news):
            sock.setsockopt(zmq.LINGER, 0)
            sock.setsockopt(zmq.RECONNECT_IVL, 50)
            sock.setsockopt(zmq.RECONNECT_IVL_MAX, 500)
        self._monitors: list[zmq.Socket[bytes]] = []

        self._next = 0  # the first transaction that was never sent
        self._stop_at = ledger.count
        self._interrupted = False
        self._requests = 0
        self._outstanding: dict[bytes, _Request] = {}
        self._superseded: dict[bytes, _Request] = {}  # repeated or given up; answers may still come
        self._repeats: deque[tuple[int, Indices]] = deque()  # (not before, which)
        self._written_off = 0  # unconfirmed ones that no longer hold up the rest
        self._last_send_ns = 0
        self._blocked_until_ns = 0
        self._start_ns = 0
        self._cpu_ns = 0
        self._events = {
            "requests": 0,
            "resubmitted": 0,
            "late_verdicts": 0,
            "disconnects": 0,
            "reconnects": 0,
            "timed_out": 0,
        }

    # Connecting.

    def connect(self) -> None:
        """Connect and wait until both ends have shaken hands, so that no notification is missed."""
        deadline = time.monotonic() + self._options.connect_timeout_s
        events = zmq.EVENT_HANDSHAKE_SUCCEEDED | zmq.EVENT_DISCONNECTED
        self._news.subscribe(TOPIC_FINALISED)
        pairs = [(self._news, self._options.notify, "--notify")]
        pairs += [(client, self._options.ingest, "--ingest") for client in self._clients]
        for sock, endpoint, option in pairs:
            monitor = sock.get_monitor_socket(events)
            self._monitors.append(monitor)
            try:
                sock.connect(endpoint)
            except zmq.ZMQError as error:
                raise LoadError(
                    f"{endpoint} is no endpoint to connect to ({error.strerror})",
                    f"give {option} as tcp://ADDRESS:PORT",
                ) from None
        for monitor, (_, endpoint, option) in zip(self._monitors, pairs, strict=True):
            while True:
                left_ms = int((deadline - time.monotonic()) * 1_000)
                if left_ms <= 0 or not monitor.poll(left_ms):
                    raise LoadError(
                        f"no node answers at {endpoint} "
                        f"within {self._options.connect_timeout_s:g} s",
                        f"start the node (timed run), or correct {option}",
                    )
                if recv_monitor_message(monitor)["event"] == zmq.EVENT_HANDSHAKE_SUCCEEDED:
                    break

    def close(self) -> None:
        """Close all sockets; what is still queued is dropped."""
        for sock in (*self._clients, self._news):
            if self._monitors:
                sock.disable_monitor()
            sock.close(0)
        for monitor in self._monitors:
            monitor.close(0)

    # The loop.

    def run(self) -> None:
        """Send and listen until everything is settled or nothing moves any more.

        An interrupt ends the sending; a second one ends the run.
        """
        with _fine_timers():
            used = resource.getrusage(resource.RUSAGE_SELF)
            self._start_ns = time.monotonic_ns()
            with self._hearing_interrupts(), suppress(KeyboardInterrupt):
                self._run()
            end = resource.getrusage(resource.RUSAGE_SELF)
            self._cpu_ns = int(
                (end.ru_utime + end.ru_stime - used.ru_utime - used.ru_stime) * NS_PER_S
            )

    @contextmanager
    def _hearing_interrupts(self) -> Iterator[None]:
        """Let the loop see the first interrupt between two turns: what was sent is counted."""
        if signal.getsignal(signal.SIGINT) is not signal.default_int_handler:
            yield  # ignored, or somebody else's
            return

        def heard(number: int, frame: FrameType | None) -> None:
            if self._interrupted:
                signal.default_int_handler(number, frame)
            self._interrupted = True

        former = signal.signal(signal.SIGINT, heard)
        try:
            yield
        finally:
            signal.signal(signal.SIGINT, former)

    def _run(self) -> None:
        ledger = self._ledger
        descriptors = [_descriptor(sock) for sock in (*self._clients, self._news)]
        now = self._start_ns
        housekeeping_ns = now
        progress_ns = now + NS_PER_S
        moved = (-1, -1)
        moved_ns = asked_ns = now
        stop_ns = (
            None
            if self._options.duration_s is None
            else self._start_ns + int(self._options.duration_s * NS_PER_S)
        )
        before = (now, 0, 0)
        while True:
            self._receive_verdicts()
            self._receive_news()
            now = time.monotonic_ns()
            if self._interrupted or (stop_ns is not None and now >= stop_ns):
                self._stop_at = min(self._stop_at, self._next)
            self._send(now)
            if due := now >= housekeeping_ns:
                housekeeping_ns = now + HOUSEKEEPING_NS
                self._watch_connections()
                self._expire(now)
                idle = self._next < self._stop_at and not (
                    self._outstanding or self._repeats or ledger.n_unconfirmed
                )
                if (ledger.n_answered, ledger.n_final) != moved or idle:
                    moved, moved_ns = (ledger.n_answered, ledger.n_final), now
                if now - moved_ns > self._answer_ns and now - asked_ns > self._answer_ns:
                    asked_ns = now
                    self._unblock(now)
                if now - moved_ns > self._drain_ns:
                    self._events["timed_out"] = 1
                    return
            if now >= progress_ns:
                progress_ns = now + NS_PER_S
                before = self._tell(now, before)
            if (
                self._next >= self._stop_at
                and (due or not ledger.n_unconfirmed)
                and self._settled()
            ):
                return
            self._wait(descriptors, min(housekeeping_ns, progress_ns))

    def _settled(self) -> bool:
        if self._outstanding or self._repeats:
            return False
        # Counters are sums, in which one wrong answer may hide another; the arrays are exact.
        return not len(self._ledger.unconfirmed()) and not len(self._ledger.unanswered())

    def _wait(self, descriptors: list[int], until_ns: int) -> None:
        """Wait for something to read, or until the next thing is due."""
        if self._gathers and 2 * len(self._outstanding) > self._window:
            # The node has work enough. Let news gather: a cold wake-up costs more than handling it.
            time.sleep(GATHER_NS / NS_PER_S)
            return
        until_ns = min(until_ns, self._due_ns(time.monotonic_ns()))
        # ZeroMQ's descriptors tell of changes only: whoever waits on them must have looked before.
        if any(_readable(sock) for sock in (*self._clients, self._news)):
            return
        left_ns = until_ns - time.monotonic_ns()
        if left_ns > 0:
            select.select(descriptors, (), (), left_ns / NS_PER_S)

    def _due_ns(self, now: int) -> int:
        """When there is something to send, unless an answer makes room earlier."""
        never = now + NS_PER_S
        if len(self._outstanding) >= self._window:
            return never
        due = self._repeats[0][0] if self._repeats else never
        if self._next < self._stop_at:
            if self._timetable is not None:
                intended = self._start_ns + self._timetable.due_ns(self._next)
                due = min(due, max(intended, self._last_send_ns + self._tick_ns))
            elif self._has_room():
                due = now
        return max(due, self._blocked_until_ns)

    # Sending.

    def _has_room(self) -> bool:
        limit = self._options.max_unconfirmed
        return not limit or self._ledger.n_unconfirmed - self._written_off < limit

    def _send(self, now: int) -> None:
        if now < self._blocked_until_ns:
            return
        while self._repeats and self._repeats[0][0] <= now:
            if len(self._outstanding) >= self._window or not self._send_repeat(now):
                return
        stop = self._stop_at
        if self._timetable is not None:
            if now < self._last_send_ns + self._tick_ns:
                return
            stop = min(stop, self._timetable.due(now - self._start_ns))
        while self._next < stop and len(self._outstanding) < self._window:
            if self._timetable is None and not self._has_room():
                return
            start = self._next
            end = min(start + self._batch, stop)
            first, last = self._first + start, self._first + end
            offsets = self._offsets
            payload = self._data[int(offsets[first]) : int(offsets[last])]
            request = _Request(start, end, None, now)
            if not self._submit(request, self._lengths[2 * first : 2 * last], payload):
                return
            self._ledger.sent(start, end, now)
            self._next = end
            self._last_send_ns = now

    def _send_repeat(self, now: int) -> bool:
        _, indices = self._repeats[0]
        places = indices + self._first
        lengths = b"".join([self._lengths[2 * i : 2 * i + 2] for i in places.tolist()])
        starts, ends = self._offsets[places].tolist(), self._offsets[places + 1].tolist()
        payload = b"".join([self._data[a:b] for a, b in zip(starts, ends, strict=True)])
        if not self._submit(_Request(0, len(indices), indices, now), lengths, payload):
            return False
        self._repeats.popleft()
        self._events["resubmitted"] += len(indices)
        return True

    def _submit(
        self, request: _Request, lengths: bytes | memoryview, payload: bytes | memoryview
    ) -> bool:
        """Send a request; False if the socket takes none at the moment (no connection)."""
        self._requests += 1
        request_id = self._requests.to_bytes(8, "little")
        client = self._clients[self._requests % len(self._clients)]
        try:
            # Copies: below 64 KB ZeroMQ's bookkeeping of a borrowed buffer costs more than the
            # copy.
            client.send_multipart((request_id, lengths, payload), NOBLOCK)
        except zmq.Again:
            self._blocked_until_ns = request.sent_ns + 10_000_000
            return False
        self._outstanding[request_id] = request
        self._events["requests"] += 1
        return True

    def _repeat(self, indices: Indices, not_before_ns: int) -> None:
        for start in range(0, len(indices), self._batch):
            self._repeats.append((not_before_ns, indices[start : start + self._batch]))

    # Listening.

    def _receive_verdicts(self) -> None:
        for client in self._clients:
            # Asking first: to be told by an exception that there is nothing takes 26 us.
            for _ in range(REPLIES_AT_ONCE):
                if not _readable(client):
                    break
                self._on_reply(client.recv_multipart(NOBLOCK), time.monotonic_ns())

    def _on_reply(self, frames: list[bytes], now: int) -> None:
        ledger = self._ledger
        if len(frames) != 2:
            ledger.unasked(1, f"a reply of {len(frames)} frames")
            return
        request_id, codes = frames
        request = self._outstanding.pop(request_id, None)
        late = request is None
        if request is None:
            request = self._superseded.pop(request_id, None)
            if request is None:
                ledger.unasked(len(codes), f"request {int.from_bytes(request_id, 'little')}")
                return
            self._events["late_verdicts"] += len(codes)
        size = request.stop - request.start
        if len(codes) != size:
            if len(codes) == 1 and codes[0] >= WHOLE_REQUEST_REFUSALS:
                codes *= size
            elif len(codes) > size:
                ledger.unasked(len(codes) - size, f"{len(codes)} verdicts for {size} transactions")
                codes = codes[:size]
        if request.indices is None and not late:
            ledger.answered(request.start, request.start + len(codes), codes, now)
        else:
            ledger.answered_again(
                request.all_indices()[: len(codes)], np.frombuffer(codes, np.uint8), now
            )
        if self._options.resubmit and not late and not _SHED_BYTES.isdisjoint(codes):
            got = np.frombuffer(codes, np.uint8)
            refused = request.all_indices()[: len(codes)][np.isin(got, list(SHED))]
            self._repeat(refused, now + SHED_PAUSE_NS)

    def _receive_news(self) -> None:
        while _readable(self._news):
            frames = self._news.recv_multipart(NOBLOCK)
            if frames[0] != TOPIC_FINALISED:  # subscriptions are by prefix
                continue
            if len(frames) != 3 or len(frames[2]) != SEQUENCE_BYTES:
                self._ledger.malformed("a notification without body or sequence number")
                continue
            sequence = int.from_bytes(frames[2], "little")
            self._ledger.announced(frames[1], sequence, time.monotonic_ns())

    # Housekeeping.

    def _expire(self, now: int) -> None:
        """Repeat or give up what has waited too long; the table is in sending order."""
        expired = []
        for request_id, request in self._outstanding.items():
            if request.sent_ns + self._answer_ns > now:
                break
            expired.append(request_id)
        for request_id in expired:
            request = self._outstanding.pop(request_id)
            self._superseded[request_id] = request
            if self._options.resubmit:
                self._repeat(request.all_indices(), now)

    def _unblock(self, now: int) -> None:
        """Nothing moves: ask again about what is open, or send more without waiting for it."""
        unconfirmed = self._ledger.unconfirmed()
        if not self._options.resubmit:
            self._written_off = self._ledger.n_unconfirmed
            return
        self._written_off = self._ledger.n_unconfirmed - len(unconfirmed)
        if not self._outstanding and not self._repeats:
            self._repeat(np.union1d(unconfirmed, self._ledger.unanswered()), now)

    def _watch_connections(self) -> None:
        for monitor in self._monitors:
            while monitor.poll(0):
                event = recv_monitor_message(monitor)["event"]
                up = event == zmq.EVENT_HANDSHAKE_SUCCEEDED
                self._events["reconnects" if up else "disconnects"] += 1

    def _tell(self, now: int, before: tuple[int, int, int]) -> tuple[int, int, int]:
        ledger = self._ledger
        span_s = (now - before[0]) / NS_PER_S
        self._progress(
            Progress(
                elapsed_s=(now - self._start_ns) / NS_PER_S,
                to_send=self._stop_at,
                sent=self._next,
                answered=ledger.n_answered,
                accepted=ledger.n_held,
                finalised=ledger.n_final,
                unexpected=ledger.n_unexpected,
                in_flight=len(self._outstanding),
                sent_per_s=(self._next - before[1]) / span_s,
                finalised_per_s=(ledger.n_final - before[2]) / span_s,
            )
        )
        return now, self._next, ledger.n_final

    def report(self) -> Report:
        """Judge the run and return its report."""
        options = self._options
        intended = self._ledger.sent_ns
        if self._timetable is not None:
            intended = self._start_ns + self._timetable.intended_ns(self._ledger.count)
        return make_report(
            self._ledger,
            intended_ns=intended,
            start_ns=self._start_ns,
            cpu_ns=self._cpu_ns,
            events=self._events,
            options={
                name: str(value) if isinstance(value, Path) else value
                for name in options.__dataclass_fields__
                for value in (getattr(options, name),)
            },
        )


_SHED_BYTES = frozenset(int(code) for code in SHED)


def _descriptor(sock: zmq.Socket[bytes]) -> int:
    return int(sock.getsockopt(zmq.FD))


def _readable(sock: zmq.Socket[bytes]) -> bool:
    return bool(int(sock.getsockopt(EVENTS)) & POLLIN)


@contextmanager
def _fine_timers() -> Iterator[None]:
    """Let short waits of this thread end on time: the kernel may add 50 us by default."""
    libc = ctypes.CDLL(None, use_errno=True)
    libc.prctl(PR_SET_TIMERSLACK, 1_000, 0, 0, 0)
    try:
        yield
    finally:
        libc.prctl(PR_SET_TIMERSLACK, 0, 0, 0, 0)  # 0: back to the thread's default
