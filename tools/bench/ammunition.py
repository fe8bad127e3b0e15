"""What hostile peers send: frames made of a chain's payments, before an attack begins.

A workload comes in, whole frames go out; pure but for keys and ids drawn at random.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from nacl.signing import SigningKey

from node.genesis import salt_of
from node.network.frames import FrameType, Lane, encode_frame
from node.network.handshake import CHALLENGE_BYTES, MAGIC, VERSION_MAX, VERSION_MIN, Hello, encode
from node.params import ID_BYTES, UNITS_PER_TIME
from node.peer_frames import Batch
from node.transaction import Output, build
from tools.loadgen.workload_file import Workload

BATCH: Final = 64  # transactions in a frame that is made here
PHANTOM_FRAMES: Final = 40
GARBAGE_BYTES: Final = 200  # of one item that is no transaction
PINGS: Final = b"".join(encode_frame(FrameType.PING, bytes(8))) * 16


@dataclass(frozen=True, slots=True)
class Ammunition:
    """Whole frames, and the genesis that greetings name.

    ``old``: payments that are final; ``garbage``: a batch in order of what is no transaction;
    ``phantoms``: payments in order, but of outputs that were never made.
    """

    genesis_id: bytes
    old: bytes
    garbage: bytes
    phantoms: tuple[bytes, ...]

    @staticmethod
    def of(workload: Workload, old: int) -> Ammunition:
        """Make it for the chain of a workload whose first ``old`` payments are final."""
        salt = salt_of(workload.genesis_id)
        return Ammunition(
            workload.genesis_id,
            batch([workload.transaction(number) for number in range(old)]),
            batch([os.urandom(GARBAGE_BYTES) for _ in range(BATCH)]),
            tuple(batch(phantoms(salt, BATCH)) for _ in range(PHANTOM_FRAMES)),
        )

    def hello(self, lane: Lane, node_id: bytes, session: bytes) -> bytes:
        """A valid greeting."""
        challenge = os.urandom(CHALLENGE_BYTES)
        hello = Hello(
            MAGIC, VERSION_MIN, VERSION_MAX, self.genesis_id, node_id, lane, session, 0, "",
            "hostile", challenge,
        )  # fmt: skip
        return b"".join(encode_frame(FrameType.HELLO, encode(hello)))


def phantoms(salt: bytes, wanted: int) -> list[bytes]:
    """Rightly signed payments of outputs that do not exist."""
    owner = SigningKey.generate()
    outputs = [Output(UNITS_PER_TIME, bytes(owner.verify_key))]
    return [build([(os.urandom(ID_BYTES) + b"\0", owner)], outputs, salt) for _ in range(wanted)]


def batch(items: Sequence[bytes]) -> bytes:
    """One TRANSACTIONS frame."""
    packed = Batch()
    packed.add(memoryview(b"".join(items)), np.array([len(each) for each in items], np.uint32))
    ((body, _),) = packed.bodies()
    return b"".join(encode_frame(FrameType.TRANSACTIONS, body))


def huge(kind: FrameType) -> bytes:
    """The beginning of a frame that claims to have 4 GiB."""
    return struct.pack("<IB", 0xFFFFFFFF, kind)
