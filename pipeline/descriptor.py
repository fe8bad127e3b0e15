"""Descriptors: the 40 bytes that announce a tray, and the words between stages that concern none.

Made by whoever hands a tray on, read by whoever gets it; they cross ZeroMQ, the trays do not.
"""

from __future__ import annotations

import struct
from enum import IntEnum
from typing import NamedTuple


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
    priority: int = 0
    tray: int = 0
    worker: int = 0
    epoch: int = 0
    incarnation: int = 0
    attempt: int = 0
    items: int = 0
    generation: int = 0
    sequence: int = 0


_DESCRIPTOR = struct.Struct("<BBHHxxIIIIQQ")
DESCRIPTOR_BYTES = _DESCRIPTOR.size
assert DESCRIPTOR_BYTES == 40
pack_descriptor = _DESCRIPTOR.pack


def unpack_descriptor(frame: bytes) -> Descriptor:
    """Decode a descriptor; raises `struct.error` if the frame is not 40 bytes."""
    return Descriptor._make(_DESCRIPTOR.unpack(frame))
