"""The worker's half of the conveyor: ask for trays, judge them, hand them to the sink.

Descriptors come from the intake over `work`. The items are read from the input segment (mapped
read-only), verdicts are written into this worker's own verdict segment, and two descriptors leave:
the tray to the sink over `judged`, then word of it to the intake over `done`. The worker keeps
nothing: it may be killed at any moment, and the intake dispatches what it held again.

Urgent trays wait neither for those that came before them nor for the one in work: a judge that
takes long calls `give_way` between two pieces of its work.
"""

from __future__ import annotations

import time
from operator import attrgetter

import zmq

from pipeline.child import StageContext
from pipeline.control import Attach
from pipeline.custody import URGENT, URGENT_CREDIT, WORKER_CREDIT
from pipeline.descriptor import Descriptor, Kind, pack_descriptor, unpack_descriptor
from pipeline.link import Outbox, drain, has_input, link_named, open_inbox
from pipeline.stage import Input, Stage
from pipeline.tray import U32, InputSlots, Label, VerdictSlots


class TrayWorker(Stage):
    """A stage that judges trays; subclasses say how, in `judge`."""

    def __init__(self, context: StageContext, sockets: zmq.Context[zmq.Socket[bytes]]) -> None:
        self._context = context
        topology = context.topology
        self._socket = open_inbox(sockets, link_named(topology, "work"), context.index)
        self._done = Outbox(sockets, link_named(topology, "done"))
        self._judged = Outbox(sockets, link_named(topology, "judged"))
        self.inputs = (Input(self._socket, self._handle_work),)
        self._in_hand: list[Descriptor] = []
        self._attach()

    def judge(self, label: Label, payload: memoryview, offsets: U32, verdicts: memoryview) -> None:
        """Judge the items of one tray, which are what its label says.

        `offsets` is u32[items + 1] into `payload`; item *i* is `payload[offsets[i]:offsets[i +
        1]]`. `verdicts` is the tray's verdict slot, `verdict_bytes` long, whose layout the subclass
        defines.
        """
        raise NotImplementedError

    def give_way(self) -> None:
        """Judge the urgent trays that have come meanwhile; for `judge` to call where its work can
        be interrupted by another `judge`.

        Costs a microsecond or two when nothing has come. Trays that may kill a worker come to one
        that holds nothing else, never in between.
        """
        if has_input(self._socket):
            self._take()
            while any(work.priority == URGENT for work in self._in_hand):
                self._work()

    def judged_in(self, waited_ns: int, took_ns: int) -> None:
        """Told of each tray once it is on its way to the sink: how long it waited since it was
        filled, how long judging took.
        """

    def reattached(self) -> None:
        """The segments are new: forget addresses of the old ones."""

    def after_inputs(self, now_ns: int) -> None:
        """Judge what came in the middle of the work and had to wait for this turn."""
        if self._in_hand:
            self._work()

    def deadline_ns(self) -> int | None:
        """Now, if something is in hand."""
        return 0 if self._in_hand else None

    def attached(self, message: Attach) -> None:
        """Work for the new epoch; what is left of the old one is ignored."""
        self._attach()
        self.reattached()

    def close(self) -> None:
        """Close the sockets."""
        self._socket.close()
        self._done.close()
        self._judged.close()

    def _attach(self) -> None:
        context = self._context
        self._in_hand.clear()  # of another epoch: its slots are gone
        self._input = InputSlots(context.segments["input"].view, context.dims)
        own = context.segments[f"verdict-{context.index}"]
        self._verdicts = VerdictSlots(own.view, context.dims)
        ready = Descriptor(
            Kind.READY,
            worker=context.index,
            epoch=context.epoch,
            incarnation=context.incarnation,
            items=WORKER_CREDIT,
        )
        self._done.send(pack_descriptor(*ready))

    def _handle_work(self) -> int:
        """Judge what is in hand, the most urgent first, whenever it came; but a turn ends, however
        much comes meanwhile.
        """
        handled = 0
        for _ in range(WORKER_CREDIT):
            self._take()
            if not self._in_hand:
                break
            handled += self._work()
        for _ in range(len(self._in_hand)):
            if self._in_hand:  # some of it may have been urgent, and gone first
                handled += self._work()
        return handled

    def _take(self) -> None:
        frames = drain(self._socket, WORKER_CREDIT + URGENT_CREDIT)
        self._in_hand += [work for work in map(unpack_descriptor, frames) if self._is_mine(work)]

    def _work(self) -> int:
        """Judge the most urgent tray, and among those the first, and hand it on."""
        work = min(self._in_hand, key=attrgetter("priority"))
        self._in_hand.remove(work)
        began_ns = time.monotonic_ns()
        self.judge(
            self._input.label(work.tray),
            self._input.payloads[work.tray],
            self._input.offsets[work.tray][: work.items + 1],
            self._verdicts.claim(work),
        )
        ended_ns = time.monotonic_ns()
        self._verdicts.finish(work, ended_ns)
        waited_ns = began_ns - self._input.sealed_ns(work.tray)
        self._judged.send(pack_descriptor(*work._replace(kind=Kind.JUDGED)))
        self.judged_in(waited_ns, ended_ns - began_ns)
        self._done.send(pack_descriptor(*work._replace(kind=Kind.DONE)))
        return work.items

    def _is_mine(self, work: Descriptor) -> bool:
        """Whether the descriptor is for this life of this worker and the filling is still there."""
        return (
            work.epoch == self._context.epoch
            and work.incarnation == self._context.incarnation
            and self._input.generation(work.tray) == work.generation
        )
