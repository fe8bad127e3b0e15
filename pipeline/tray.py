"""Trays: fixed slots of shared memory in which items travel.

A tray is one slot, with the same number, in three kinds of segment: ``input`` (written by the
intake only), ``verdict-<k>`` (written by worker *k* only) and ``admission`` (written by the sink
only). Every process maps the segments that it does not write read-only. The bytes of an item are
written once, by the intake; what crosses ZeroMQ is a 40-byte descriptor, and its delivery is what
orders the memory: a writer finishes its slot before it sends, a reader touches the slot only after
it received.

Slot layouts (all offsets 64-byte aligned; words are u64, native order, written whole):

========== =============================== ===================== =====================
segment    header (64 bytes)               then                  then
========== =============================== ===================== =====================
input      generation, items, bytes,       offsets u32[items+1]  payload [tray_bytes]
           label[3], when sealed
verdict-k  generation, attempt, when done  [verdict_bytes]
admission  generation                      codes u8[max_items]
========== =============================== ===================== =====================

The label (kind, tag, first) says what the items are: three numbers that mean something to worker
and sink and nothing to the pipeline, but that all items of a tray share kind and tag, and that
those of one tag count on from `first`. The times, CLOCK_MONOTONIC in ns, are for metrics alone.

A verdict segment has two slots for each tray, for odd and even attempts: when worker *k* died after
it sent a tray and its successor judges the same filling again, the sink may still be reading the
first.

What kills this module's users: a descriptor whose generation the slot no longer carries is stale
and is dropped by whoever reads it; anything else that does not fit is a broken invariant and
raises.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from pipeline.descriptor import Descriptor
from pipeline.layout import HEADER_BYTES, TrayLayout
from pipeline.topology import TrayDims

U8 = npt.NDArray[np.uint8]
U32 = npt.NDArray[np.uint32]


class Label(NamedTuple):
    """What the items of a tray are: their kind, what they belong to (0: nothing in particular), and
    the number of the first of them within that.
    """

    kind: int = 0
    tag: int = 0
    first: int = 0


class InputSlots:
    """Views of every slot of the input segment, made once per attachment.

    `headers[t]` is u64[8] (generation, items, bytes, label[3], when sealed; a memoryview, whose
    words cost half as much as an array's), `offsets[t]` u32[max_items + 1], `payloads[t]` a
    memoryview of tray_bytes. Writable only in the intake.
    """

    def __init__(self, view: memoryview, dims: TrayDims) -> None:
        layout = TrayLayout(dims)
        begin = HEADER_BYTES + layout.offsets_bytes
        self.headers: list[memoryview] = []
        self.offsets: list[U32] = []
        self.payloads: list[memoryview] = []
        for tray in range(dims.trays):
            base = tray * layout.input_stride_bytes
            slot = view[base : base + layout.input_stride_bytes]
            self.headers.append(slot[:HEADER_BYTES].cast("Q"))
            self.offsets.append(np.frombuffer(slot, np.uint32, dims.max_items + 1, HEADER_BYTES))
            self.payloads.append(slot[begin : begin + dims.tray_bytes])

    def generation(self, tray: int) -> int:
        """The filling that the slot holds now."""
        return self.headers[tray][0]

    def label(self, tray: int) -> Label:
        """What the items of the filling are."""
        return Label._make(self.headers[tray][3:6].tolist())

    def set_label(self, tray: int, label: Label) -> None:
        """Say what the items of the filling are; only in the intake."""
        header = self.headers[tray]
        header[3], header[4], header[5] = label

    def sealed_ns(self, tray: int) -> int:
        """When the filling was complete."""
        return self.headers[tray][6]

    def set_sealed_ns(self, tray: int, now_ns: int) -> None:
        """Say when the filling was complete; only in the intake."""
        self.headers[tray][6] = now_ns


class VerdictSlots:
    """Views of every slot of one worker's verdict segment; writable only in that worker.

    A slot's header is u64[8] (generation, attempt, when done), its body a memoryview of
    verdict_bytes whose layout is the application's.
    """

    def __init__(self, view: memoryview, dims: TrayDims) -> None:
        stride = TrayLayout(dims).verdict_stride_bytes
        self._headers: list[memoryview] = []
        self._bodies: list[memoryview] = []
        for number in range(2 * dims.trays):
            slot = view[number * stride : (number + 1) * stride]
            self._headers.append(slot[:HEADER_BYTES].cast("Q"))
            self._bodies.append(slot[HEADER_BYTES : HEADER_BYTES + dims.verdict_bytes])

    @staticmethod
    def number(descriptor: Descriptor) -> int:
        """Which slot of the segment this attempt writes."""
        return 2 * descriptor.tray + (descriptor.attempt & 1)

    def claim(self, descriptor: Descriptor) -> memoryview:
        """The body to write the verdicts of this attempt into; only for the segment's writer."""
        number = self.number(descriptor)
        self._headers[number][0] = descriptor.generation
        self._headers[number][1] = descriptor.attempt
        return self._bodies[number]

    def finish(self, descriptor: Descriptor, now_ns: int) -> None:
        """Say when the verdicts of this attempt were complete; only for the segment's writer."""
        self._headers[self.number(descriptor)][2] = now_ns

    def judged_ns(self, descriptor: Descriptor) -> int:
        """When the verdicts in this attempt's slot were complete."""
        return self._headers[self.number(descriptor)][2]

    def body(self, descriptor: Descriptor) -> memoryview | None:
        """The verdicts of exactly this attempt, or None when the slot carries others by now."""
        number = self.number(descriptor)
        header = self._headers[number]
        if header[0] == descriptor.generation and header[1] == descriptor.attempt:
            return self._bodies[number]
        return None


class AdmissionSlots:
    """Views of every slot of the admission segment: `codes[t]` is u8[max_items]."""

    def __init__(self, view: memoryview, dims: TrayDims) -> None:
        stride = TrayLayout(dims).admission_stride_bytes
        self.headers: list[memoryview] = []
        self.codes: list[U8] = []
        for tray in range(dims.trays):
            slot = view[tray * stride : (tray + 1) * stride]
            self.headers.append(slot[:HEADER_BYTES].cast("Q"))
            self.codes.append(np.frombuffer(slot, np.uint8, dims.max_items, HEADER_BYTES))
