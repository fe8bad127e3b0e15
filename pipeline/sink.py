"""The sink's half of the conveyor: judged trays, in order, each filling once, then back to the
intake.

Descriptors come from workers over `judged` and, after a restart of either side, from the intake
over `resend`. Trays of one priority are admitted in the order in which the intake numbered them; a
number that does not come is waited for (`pipeline.order`), then skipped (a late tray is admitted
when it comes). The sink writes one code byte per item into the admission segment and returns the
descriptor; the bytes of items that it keeps must be copied before.

Each filling (generation) is admitted once, whatever attempts of it arrive; further attempts are
only acknowledged, so that the intake knows that nobody will read the tray any more.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, field

import zmq

from pipeline.child import StageContext
from pipeline.control import Attach
from pipeline.custody import PRIORITIES
from pipeline.descriptor import Descriptor, Kind, pack_descriptor, unpack_descriptor
from pipeline.link import Outbox, drain, link_named, open_inbox
from pipeline.order import Order
from pipeline.stage import Input, Stage
from pipeline.tray import U8, U32, AdmissionSlots, InputSlots, Label, VerdictSlots

BURST = 256  # descriptors taken from a link in one turn, so that none hides an urgent one
BULK_TRAYS = 3  # trays of the least urgent priority admitted in one turn; other inputs come between


@dataclass(slots=True)
class _Epoch:
    """What the sink knows of one life of the intake."""

    accepted: list[int]  # per tray: the last generation admitted
    orders: list[Order] = field(default_factory=lambda: [Order() for _ in range(PRIORITIES)])


class TraySink(Stage):
    """A stage that admits judged trays; subclasses say how, in `admit`."""

    def __init__(self, context: StageContext, sockets: zmq.Context[zmq.Socket[bytes]]) -> None:
        self._context = context
        topology = context.topology
        self._judged_socket = open_inbox(sockets, link_named(topology, "judged"))
        self._resend_socket = open_inbox(sockets, link_named(topology, "resend"))
        self._returns = Outbox(sockets, link_named(topology, "returns"))
        self.tray_inputs = (
            Input(self._resend_socket, self._handle_resend),
            Input(self._judged_socket, self._handle_judged),
        )
        self.inputs = self.tray_inputs
        self.trays_repeated = 0
        self.trays_stale = 0
        self._more = False  # bulk to admit
        self._attach()

    def admit(
        self,
        label: Label,
        payload: memoryview,
        offsets: U32,
        verdicts: memoryview,
        codes: U8,
    ) -> None:
        """Admit the items of one tray: one code each into `codes` (u8[items]), in item order.

        `label`, `payload`, `offsets` and `verdicts` are as in `TrayWorker.judge`, and valid during
        the call only.
        """
        raise NotImplementedError

    def admitted_in(self, waited_ns: int, took_ns: int) -> None:
        """Told of each tray once it is given back: how long it waited since it was judged, how long
        admission took.
        """

    def attached(self, message: Attach) -> None:
        """A new intake: new segments, and its numbers begin again."""
        self._attach()

    def deadline_ns(self) -> int | None:
        """The earliest time at which a gap is skipped; now if there is more to admit."""
        if self._more:
            return 0
        deadlines = [order.deadline_ns() for order in self._epoch.orders]
        return min((each for each in deadlines if each is not None), default=None)

    def close(self) -> None:
        """Close the sockets; returns under way are delivered."""
        self._judged_socket.close()
        self._resend_socket.close()
        self._returns.close()

    @property
    def gaps_skipped(self) -> int:
        """How many sequence numbers were given up in this epoch."""
        return sum(order.gaps_skipped for order in self._epoch.orders)

    def admit_ready(self, now_ns: int, bulk_trays: int = BULK_TRAYS) -> int:
        """Admit the trays whose turn has come, the most urgent first, of the least urgent ones a
        few; returns how many items that was.
        """
        items = 0
        *urgent, bulk = self._epoch.orders
        for order in urgent:
            while (descriptor := order.take(now_ns)) is not None:
                items += self._admit_one(descriptor)
        self._more = False
        for _ in range(bulk_trays):
            descriptor = bulk.take(now_ns)
            if descriptor is None:
                return items
            items += self._admit_one(descriptor)
        self._more = bulk_trays > 0
        return items

    def _attach(self) -> None:
        context = self._context
        dims = context.dims
        workers = [name for name in context.segments if name.startswith("verdict-")]
        self._input = InputSlots(context.segments["input"].view, dims)
        self._admission = AdmissionSlots(context.segments["admission"].view, dims)
        self._verdicts = [
            VerdictSlots(context.segments[f"verdict-{index}"].view, dims)
            for index in range(len(workers))
        ]
        self._epoch = _Epoch([0] * dims.trays)
        hello = Descriptor(Kind.HELLO, epoch=context.epoch, incarnation=context.incarnation)
        self._returns.send(pack_descriptor(*hello))

    def _handle_judged(self) -> int:
        frames = drain(self._judged_socket, BURST)
        for frame in frames:
            self._arrived(unpack_descriptor(frame))
        return len(frames)

    def _handle_resend(self) -> int:
        frames = drain(self._resend_socket, BURST)
        for frame in frames:
            message = unpack_descriptor(frame)
            if message.epoch != self._context.epoch:
                continue
            order = self._epoch.orders[message.priority]
            if message.kind == Kind.START:
                order.start(message.sequence)
            elif message.kind == Kind.SKIP:
                order.skip(message.sequence)
            else:
                self._arrived(message)
        return len(frames)

    def _arrived(self, message: Descriptor) -> None:
        if message.epoch != self._context.epoch:
            return
        if message.generation <= self._epoch.accepted[message.tray]:
            self.trays_repeated += 1
            self._give_back(message, items=0)
            return
        if self._input.generation(message.tray) != message.generation:
            self.trays_stale += 1
            return
        order = self._epoch.orders[message.priority]
        waiting = order.find(message.sequence)
        order.put(message)
        if waiting is not None and waiting.attempt != message.attempt:
            self._give_back(waiting, items=0)

    def _admit_one(self, message: Descriptor) -> int:
        tray = message.tray
        verdicts = self._verdicts[message.worker].body(message)
        if (
            verdicts is None
        ):  # a later attempt is being judged into the slot: it will come by itself
            self.trays_stale += 1
            self._give_back(message, items=0)
            return 0
        began_ns = time.monotonic_ns()
        self._epoch.accepted[tray] = message.generation
        self._admission.headers[tray][0] = message.generation
        self.admit(
            self._input.label(tray),
            self._input.payloads[tray],
            self._input.offsets[tray][: message.items + 1],
            verdicts,
            self._admission.codes[tray][: message.items],
        )
        ended_ns = time.monotonic_ns()
        waited_ns = began_ns - self._verdicts[message.worker].judged_ns(message)
        self._give_back(message, items=1)
        self.admitted_in(waited_ns, ended_ns - began_ns)
        return message.items

    def _give_back(self, message: Descriptor, items: int) -> None:
        self._returns.send(pack_descriptor(*message._replace(kind=Kind.RETURN, items=items)))
