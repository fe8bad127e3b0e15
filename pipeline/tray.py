"""Trays: fixed slots of shared memory in which items travel, and the descriptors that announce
them.

A tray is one slot, with the same number, in three kinds of segment: ``input`` (written by the
intake only), ``verdict-<k>`` (written by worker *k* only) and ``admission`` (written by the sink
only). Every process maps the segments that it does not write read-only. The bytes of an item are
written once, by the intake; what crosses ZeroMQ is a 40-byte descriptor, and its delivery is what
orders the memory: a writer finishes its slot before it sends, a reader touches the slot only after
it received.

Slot layouts (all offsets 64-byte aligned; words are u64, native order, written whole):

========== ======================================= ======================= ===========================
segment    header (64 bytes)                       then                    then
========== ======================================= ======================= ===========================
input      generation, items, bytes                offsets u32[items+1]    payload [tray_bytes]
verdict-k  generation, attempt                     [verdict_bytes]
admission  generation                              codes u8[max_items]
========== ======================================= ======================= ===========================

A verdict segment has two slots for each tray, for odd and even attempts: when worker *k* died after
it sent a tray and its successor judges the same filling again, the sink may still be reading the
first.

What kills this module's users: a descriptor whose generation the slot no longer carries is stale
and is dropped by whoever reads it; anything else that does not fit is a broken invariant and
raises.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from enum import IntEnum
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from pipeline.topology import TrayDims

HEADER_BYTES = 64
ALIGN_BYTES = 64
PAGE_BYTES = 4096

U8 = npt.NDArray[np.uint8]
U32 = npt.NDArray[np.uint32]
U64 = npt.NDArray[np.uint64]


class Kind(IntEnum):
    """What a descriptor says. The comment names who sends it to whom."""

    WORK = 1  # intake -> worker: judge this tray
    READY = 2  # worker -> intake: (re)started and attached to this epoch; `items` is its credit
    DONE = 3  # worker -> intake: judged, and handed to the sink
    JUDGED = 4  # worker -> sink: the verdicts of this attempt are in the slot
    RETURN = 5  # sink -> intake: consumed; `items` is 1 when the admission slot holds the codes
    HELLO = 6  # sink -> intake: (re)started, attached to this epoch
    START = 7  # intake -> sink: the lowest sequence of this priority that is still to come
    RESEND = 8  # intake -> sink: judged by a worker, not yet returned by a sink
    SKIP = 9  # intake -> sink: this sequence will never come (its tray was split)


class Descriptor(NamedTuple):
    """One message between stages: which tray, and which try of which filling of it.

    `epoch` numbers the life of the intake, `generation` the filling of the tray within it,
    `attempt` the dispatch of that filling to a worker, `incarnation` the life of that worker.
    `sequence` orders the trays of one `priority` (0 is the most urgent).
    """

    kind: int
    priority: int
    tray: int
    worker: int
    epoch: int
    incarnation: int
    attempt: int
    items: int
    generation: int
    sequence: int


_DESCRIPTOR = struct.Struct("<BBHHxxIIIIQQ")
DESCRIPTOR_BYTES = _DESCRIPTOR.size
assert DESCRIPTOR_BYTES == 40
pack_descriptor = _DESCRIPTOR.pack


def unpack_descriptor(frame: bytes) -> Descriptor:
    """Decode a descriptor; raises `struct.error` if the frame is not 40 bytes."""
    return Descriptor._make(_DESCRIPTOR.unpack(frame))


def _aligned(size_bytes: int, to_bytes: int = ALIGN_BYTES) -> int:
    return -(-size_bytes // to_bytes) * to_bytes


@dataclass(frozen=True, slots=True)
class TrayLayout:
    """Sizes and offsets of the slots of all three segments, derived from the dimensions."""

    dims: TrayDims

    @property
    def offsets_bytes(self) -> int:
        """Bytes of the offsets table of an input slot."""
        return _aligned(4 * (self.dims.max_items + 1))

    @property
    def input_stride_bytes(self) -> int:
        """Bytes of one input slot; slots begin on page boundaries."""
        return _aligned(HEADER_BYTES + self.offsets_bytes + self.dims.tray_bytes, PAGE_BYTES)

    @property
    def verdict_stride_bytes(self) -> int:
        """Bytes of one verdict slot; slots begin on page boundaries."""
        return _aligned(HEADER_BYTES + self.dims.verdict_bytes, PAGE_BYTES)

    @property
    def admission_stride_bytes(self) -> int:
        """Bytes of one admission slot."""
        return _aligned(HEADER_BYTES + self.dims.max_items)

    def segment_bytes(self, name: str) -> int:
        """Size of the segment called `name` ("input", "verdict-<k>", "admission")."""
        if name == "input":
            return self.input_stride_bytes * self.dims.trays
        if name == "admission":
            return self.admission_stride_bytes * self.dims.trays
        if name.startswith("verdict-"):
            return self.verdict_stride_bytes * self.dims.trays * 2
        raise ValueError(f"no tray segment is called {name!r}")


class InputSlots:
    """Views of every slot of the input segment, made once per attachment.

    `headers[t]` is u64[8] (generation, items, bytes), `offsets[t]` u32[max_items + 1],
    `payloads[t]` a memoryview of tray_bytes, `arrays[t]` the same bytes as u8. Writable only in the
    intake.
    """

    def __init__(self, view: memoryview, dims: TrayDims) -> None:
        layout = TrayLayout(dims)
        begin = HEADER_BYTES + layout.offsets_bytes
        self.headers: list[U64] = []
        self.offsets: list[U32] = []
        self.payloads: list[memoryview] = []
        self.arrays: list[U8] = []
        for tray in range(dims.trays):
            base = tray * layout.input_stride_bytes
            slot = view[base : base + layout.input_stride_bytes]
            self.headers.append(np.frombuffer(slot, np.uint64, 8))
            self.offsets.append(np.frombuffer(slot, np.uint32, dims.max_items + 1, HEADER_BYTES))
            payload = slot[begin : begin + dims.tray_bytes]
            self.payloads.append(payload)
            self.arrays.append(np.frombuffer(payload, np.uint8))

    def generation(self, tray: int) -> int:
        """The filling that the slot holds now."""
        return int(self.headers[tray][0])


class VerdictSlots:
    """Views of every slot of one worker's verdict segment; writable only in that worker.

    A slot's header is u64[8] (generation, attempt), its body a memoryview of verdict_bytes whose
    layout is the application's.
    """

    def __init__(self, view: memoryview, dims: TrayDims) -> None:
        stride = TrayLayout(dims).verdict_stride_bytes
        self._headers: list[U64] = []
        self._bodies: list[memoryview] = []
        for number in range(2 * dims.trays):
            slot = view[number * stride : (number + 1) * stride]
            self._headers.append(np.frombuffer(slot, np.uint64, 8))
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

    def body(self, descriptor: Descriptor) -> memoryview | None:
        """The verdicts of exactly this attempt, or None when the slot carries others by now."""
        number = self.number(descriptor)
        header = self._headers[number]
        if header[0] == descriptor.generation and header[1] == descriptor.attempt:
            return self._bodies[number]
        return None


class AdmissionSlots:
    """Views of every slot of the admission segment: `codes[t]` is u8[max_items]; the sink writes."""

    def __init__(self, view: memoryview, dims: TrayDims) -> None:
        stride = TrayLayout(dims).admission_stride_bytes
        self.headers: list[U64] = []
        self.codes: list[U8] = []
        for tray in range(dims.trays):
            slot = view[tray * stride : (tray + 1) * stride]
            self.headers.append(np.frombuffer(slot, np.uint64, 8))
            self.codes.append(np.frombuffer(slot, np.uint8, dims.max_items, HEADER_BYTES))
