"""The intake's half of the conveyor: items into trays, trays to workers, answers back to requests.

Data comes from the stage that owns sockets to the outside (it calls `offer`), goes into the input
segment (written here and nowhere else), to a worker as a descriptor, and comes back from the sink
with one code byte per item, which is handed to the request that the items belong to. Of the items
it looks at nothing: their lengths are given.

It owns the tray table (`Custody`) and the input segment. A new life of the intake is a new epoch
with new segments; requests that were not answered are lost with the old one.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import zmq

from pipeline.child import StageContext
from pipeline.control import PeerDied
from pipeline.custody import PRIORITIES, Custody, TrayState
from pipeline.descriptor import Kind, pack_descriptor, unpack_descriptor
from pipeline.fair import FairQueue
from pipeline.link import Outbox, drain, link_named, open_inbox
from pipeline.stage import Input
from pipeline.tray import U32, AdmissionSlots, InputSlots, Label

# A process that dies of one of these while it works on a tray blames the tray; SIGKILL (an
# operator, the out-of-memory killer, the supervisor's hang detection) blames nobody.
CRASH_SIGNALS = frozenset({4, 6, 7, 11})  # SIGILL, SIGABRT, SIGBUS, SIGSEGV
BURST = 256  # descriptors handled in one turn
ITEM_OVERHEAD_BYTES = 8  # what an item weighs in the queue beside its bytes
U32_MASK = 0xFFFF_FFFF
NO_LABEL = Label()
SPLIT_WAYS = 16  # parts of a killing tray: of 512 items one is found by five deaths, not by eleven


class Request(Protocol):
    """Whoever waits for the codes of some items."""

    def answer(self, first: int, codes: bytes) -> None:
        """Codes of the items `first`, `first` + 1, ...; each item is answered exactly once."""


@dataclass(slots=True)
class _Run:
    """Consecutive items of one request in one tray."""

    request: Request
    first: int  # number of the first item within the request
    items: int


@dataclass(slots=True)
class _Bulk:
    """A request on its way into trays, some of its items perhaps already in."""

    request: Request
    payload: memoryview
    ends: U32  # u32[n]: where each item ends in the payload
    label: Label  # of its first item
    taken: int = 0

    @property
    def next_label(self) -> Label:
        """The label of the next item to be taken."""
        kind, tag, first = self.label
        return Label(kind, tag, first + self.taken if tag else 0)


@dataclass(slots=True)
class _Filling:
    """The tray of one priority that is being filled."""

    tray: int
    generation: int
    label: Label
    items: int = 0
    bytes: int = 0

    @property
    def next_label(self) -> Label:
        """What the label of the next item must be."""
        kind, tag, first = self.label
        return Label(kind, tag, first + self.items if tag else 0)


class Intake:
    """Fills trays fairly, dispatches them on demand, and answers requests.

    `queues` has a queue for each priority, the most urgent first; the last one is that of the bulk.
    An item that kills workers is answered with `quarantine_code`, and `on_quarantine` is told its
    bytes.
    """

    def __init__(
        self,
        context: StageContext,
        sockets: zmq.Context[zmq.Socket[bytes]],
        queues: Sequence[FairQueue],
        *,
        worker_stage: str,
        quarantine_code: int,
        on_quarantine: Callable[[bytes], None],
    ) -> None:
        self._dims = context.dims
        topology = context.topology
        workers = context.stage_count(worker_stage)
        self._worker_stage = worker_stage
        self.custody = Custody(self._dims, workers, context.epoch)
        self._input = InputSlots(context.segments["input"].view, self._dims)
        self._admission = AdmissionSlots(context.segments["admission"].view, self._dims)
        work = link_named(topology, "work")
        self._work = [Outbox(sockets, work, index) for index in range(workers)]
        self._resend = Outbox(sockets, link_named(topology, "resend"))
        self._done_socket = open_inbox(sockets, link_named(topology, "done"))
        self._returns_socket = open_inbox(sockets, link_named(topology, "returns"))
        self.inputs = (
            Input(self._returns_socket, self._handle_returns),
            Input(self._done_socket, self._handle_done),
        )
        assert len(queues) == PRIORITIES
        self._queues = queues
        self._filling: list[_Filling | None] = [None] * PRIORITIES
        self._runs: list[list[_Run]] = [[] for _ in range(self._dims.trays)]
        # taken from the queues, not wholly in trays yet
        self._current: list[deque[_Bulk]] = [deque() for _ in range(PRIORITIES)]
        self._to_split: deque[tuple[int, int]] = deque()
        self._gathered_ns = 0  # when bulk that filled no tray was sent off last
        self._quarantine_code = quarantine_code
        self._on_quarantine = on_quarantine
        self.items_in = 0
        self.items_out = 0
        self.trays_redispatched = 0
        self.trays_split = 0
        self.items_quarantined = 0

    # -- in --------------------------------------------------------------------------------------

    def offer(
        self,
        source: bytes,
        request: Request,
        payload: memoryview,
        ends: U32,
        *,
        priority: int = PRIORITIES - 1,
        label: Label = NO_LABEL,
    ) -> bool:
        """Queue the items of one request for trays; False when this source must wait its turn.

        `payload` holds the items back to back; `ends` u32[n], n ≥ 1, says where each ends. No item
        is longer than `tray_bytes`; one that is longer than `fill_bytes` travels alone. `label` is
        that of the first item.
        """
        weight = len(payload) + ITEM_OVERHEAD_BYTES * len(ends)
        bulk = _Bulk(request, payload, ends, label)
        return self._queues[priority].offer(source, weight, bulk)

    @property
    def accepts_bulk(self) -> bool:
        """Whether there is room to take in more: not when the queue of the bulk is half full."""
        queue = self._queues[-1]
        return queue.pending_weight * 2 < queue.max_weight_total

    def pump(self, now_ns: int, *, gather_ns: int = 0) -> None:
        """Move queued items into trays, and trays to workers that ask; call after all inputs.

        Bulk that does not fill a tray is sent off `gather_ns` after the last such tray: the cost of
        a tray is the same for one item and for many.
        """
        if self._to_split:
            self._split_suspects()
        for priority, queue in enumerate(self._queues):
            current = self._current[priority]
            while current or queue.pending_weight:
                if not current:
                    taken = queue.take(self._dims.fill_bytes)
                    current.extend(item for _, _, item in taken)
                if not self._fill(current[0], priority):
                    break
                current.popleft()
        bulk = PRIORITIES - 1
        for priority, filling in enumerate(self._filling):
            if filling is None and priority != bulk:  # what is sealed goes out with the next one
                continue
            self._dispatch(priority)  # before less urgent trays take all the credit
            if filling is None or not self.custody.hungry(priority):
                continue
            if priority == bulk:
                if now_ns - self._gathered_ns < gather_ns:
                    continue
                self._gathered_ns = now_ns
            self._seal(priority)
            self._dispatch(priority)

    def deadline_ns(self, gather_ns: int) -> int | None:
        """When `pump` is due although nothing comes: what has gathered is to be sent off."""
        if self._filling[-1] is None or not self.custody.hungry(PRIORITIES - 1):
            return None
        return self._gathered_ns + gather_ns

    def _fill(self, bulk: _Bulk, priority: int) -> bool:
        """Copy items into trays; False when no tray is free and some items are left."""
        total = len(bulk.ends)
        while bulk.taken < total:
            filling = self._filling[priority]
            if filling is not None and filling.next_label != bulk.next_label:
                self._seal(priority)
                filling = None
            if filling is None:
                filling = self._begin(bulk.next_label, priority)
                if filling is None:
                    return False
            count = self._fit(bulk, filling)
            if count == 0:
                self._seal(priority)
                continue
            self._copy(bulk, filling, count)
            if filling.items == self._dims.max_items or filling.bytes >= self._dims.fill_bytes:
                self._seal(priority)
        return True

    def _begin(self, label: Label, priority: int) -> _Filling | None:
        """Take a free tray to fill, if there is one."""
        acquired = self.custody.acquire(priority)
        if acquired is None:
            return None
        filling = self._filling[priority] = _Filling(*acquired, label)
        self._input.headers[filling.tray][0] = filling.generation
        self._input.offsets[filling.tray][0] = 0
        self._input.set_label(filling.tray, label)
        return filling

    def _fit(self, bulk: _Bulk, filling: _Filling) -> int:
        """How many of the request's next items fit into the tray, by count and bytes."""
        first = bulk.taken
        begin = int(bulk.ends[first - 1]) if first else 0
        room_bytes = self._dims.fill_bytes - filling.bytes
        last = min(len(bulk.ends), first + self._dims.max_items - filling.items)
        if int(bulk.ends[last - 1]) - begin > room_bytes:
            last = int(np.searchsorted(bulk.ends, begin + room_bytes, side="right"))
        if last == first and filling.items == 0:
            return 1  # longer than a tray is filled: alone
        return last - first

    def _copy(self, bulk: _Bulk, filling: _Filling, count: int) -> None:
        first = bulk.taken
        begin = int(bulk.ends[first - 1]) if first else 0
        end = int(bulk.ends[first + count - 1])
        at = filling.bytes
        self._input.payloads[filling.tray][at : at + end - begin] = bulk.payload[begin:end]
        offsets = self._input.offsets[filling.tray]
        if count == 1:  # an idle node's case
            offsets[filling.items + 1] = at + end - begin
        else:
            np.add(  # modulo 2^32, so that it moves either way
                bulk.ends[first : first + count],
                np.uint32((at - begin) & U32_MASK),
                out=offsets[filling.items + 1 : filling.items + count + 1],
            )
        self._runs[filling.tray].append(_Run(bulk.request, first, count))
        filling.items += count
        filling.bytes += end - begin
        bulk.taken = first + count
        self.items_in += count

    def _seal(self, priority: int, crashes: int = 0) -> None:
        filling = self._filling[priority]
        if filling is None or filling.items == 0:
            return
        header = self._input.headers[filling.tray]
        header[1] = filling.items
        header[2] = filling.bytes
        self._input.set_sealed_ns(filling.tray, time.monotonic_ns())
        self._filling[priority] = None
        self.custody.seal(filling.tray, filling.items, crashes)

    def _dispatch(self, least: int) -> None:
        for descriptor in self.custody.dispatch(least):
            self._work[descriptor.worker].send(pack_descriptor(*descriptor))

    # -- back ------------------------------------------------------------------------------------

    def _handle_returns(self) -> int:
        answered = 0
        for frame in drain(self._returns_socket, BURST):
            message = unpack_descriptor(frame)
            if message.kind == Kind.HELLO:
                for descriptor in self.custody.sink_started(message.epoch):
                    self._resend.send(pack_descriptor(*descriptor))
                continue
            if self.custody.sink_returned(message):
                answered += self._answer(message.tray, message.generation)
        self.items_out += answered
        return answered

    def _answer(self, tray: int, generation: int) -> int:
        if self._admission.headers[tray][0] != generation:
            raise ValueError(f"the admission slot of tray {tray} is not of generation {generation}")
        items = sum(run.items for run in self._runs[tray])
        codes = self._admission.codes[tray][:items].tobytes()
        at = 0
        runs, self._runs[tray] = self._runs[tray], []
        for run in runs:
            run.request.answer(run.first, codes[at : at + run.items])
            at += run.items
        return items

    def _handle_done(self) -> int:
        frames = drain(self._done_socket, BURST)
        for frame in frames:
            message = unpack_descriptor(frame)
            if message.kind == Kind.READY:
                self.custody.worker_ready(message)
            else:
                again = self.custody.done(message)
                if again is not None:
                    self._resend.send(pack_descriptor(*again))
        return len(frames)

    # -- deaths ----------------------------------------------------------------------------------

    def peer_died(self, message: PeerDied) -> None:
        """A worker was reaped: dispatch its trays again, or split those that keep killing."""
        if message.stage != self._worker_stage:
            return
        crashed = message.signal in CRASH_SIGNALS
        death = self.custody.worker_died(message.index, message.incarnation, crashed)
        self.trays_redispatched += death.redispatched
        for descriptor in death.resend:
            self._resend.send(pack_descriptor(*descriptor))
        for tray in death.split:
            self._to_split.append((tray, self.custody.generation(tray)))

    def _split_suspects(self) -> None:
        for _ in range(len(self._to_split)):
            tray, generation = self._to_split.popleft()
            if self.custody.to_split(tray, generation) and not self._split(tray):
                self._to_split.append((tray, generation))

    def _split(self, tray: int) -> bool:
        """Copy a killing tray's items into others; False when fewer than two are free."""
        offsets = self._input.offsets[tray]
        items = self._input.headers[tray][1]
        if items == 1:
            self._quarantine(tray, bytes(self._input.payloads[tray][: int(offsets[1])]))
            return True
        parts: list[tuple[int, int]] = []
        while len(parts) < min(items, SPLIT_WAYS):
            acquired = self.custody.acquire(0)
            if acquired is None:
                break
            parts.append(acquired)
        if len(parts) < 2:
            for index, _ in parts:
                self.custody.release(index)
            return False
        runs, self._runs[tray] = self._runs[tray], []
        for number, part in enumerate(parts):
            begin = items * number // len(parts)
            end = items * (number + 1) // len(parts)
            self._copy_part(tray, part, begin, end)
            self._runs[part[0]] = _part_of_runs(runs, begin, end)
            self.custody.seal(part[0], end - begin, self.custody.crashes(tray) - 1)
        self._resend.send(pack_descriptor(*self.custody.split_done(tray)))
        self.trays_split += 1
        return True

    def _copy_part(self, tray: int, part: tuple[int, int], begin: int, end: int) -> None:
        target, generation = part
        offsets = self._input.offsets[tray]
        first, last = int(offsets[begin]), int(offsets[end])
        header = self._input.headers[target]
        header[0] = generation
        header[1] = end - begin
        header[2] = last - first
        self._input.set_sealed_ns(target, time.monotonic_ns())
        label = self._input.label(tray)
        if label.tag:
            label = label._replace(first=label.first + begin)
        self._input.set_label(target, label)
        self._input.payloads[target][: last - first] = self._input.payloads[tray][first:last]
        self._input.offsets[target][: end - begin + 1] = offsets[begin : end + 1] - offsets[begin]

    def _quarantine(self, tray: int, item: bytes) -> None:
        runs, self._runs[tray] = self._runs[tray], []
        self._resend.send(pack_descriptor(*self.custody.split_done(tray)))
        self.items_quarantined += 1
        self.items_out += 1
        self._on_quarantine(item)
        for run in runs:
            run.request.answer(run.first, bytes([self._quarantine_code]))

    # -- inspection ------------------------------------------------------------------------------

    @property
    def idle(self) -> bool:
        """Whether nothing is queued and every tray is free."""
        return (
            not any(self._current)
            and not any(queue.pending_weight for queue in self._queues)
            and not any(self._filling)
            and self.custody.idle
        )

    def tray_states(self) -> dict[TrayState, int]:
        """How many trays are in each state, for metrics."""
        return self.custody.states()

    def close(self) -> None:
        """Close the sockets."""
        for outbox in (*self._work, self._resend):
            outbox.close()
        self._done_socket.close()
        self._returns_socket.close()


def _part_of_runs(runs: list[_Run], begin: int, end: int) -> list[_Run]:
    """The runs of the items [begin, end) of a tray."""
    part: list[_Run] = []
    at = 0
    for run in runs:
        first, last = max(at, begin), min(at + run.items, end)
        if first < last:
            part.append(_Run(run.request, run.first + first - at, last - first))
        at += run.items
    return part
