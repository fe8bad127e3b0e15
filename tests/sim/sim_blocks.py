"""Block bodies of the simulated chain, and the store of a node: bodies and decisions on its disk.

A body is 51 bytes with no transactions in it: what agreement needs of a block is that it has an id,
a parent, that everybody judges it alike, and that it can be missing. The store keeps two files of
records behind a checksum; what was not synced may be gone after a crash, and is then cut.
"""

from __future__ import annotations

import struct
import zlib
from hashlib import blake2b

from sim_disk import SimDisk
from sim_world import GENESIS_ID

from node.consensus import wire
from node.consensus.messages import Certified

BODIES = "bodies.log"
CHAIN = "chain.log"
_BODY = struct.Struct("<QQHB32s")
_HEAD = struct.Struct("<II")


def make_body(height: int, parent: bytes, builder: int, serial: int, valid: bool) -> bytes:
    """A block that no one else builds."""
    return _BODY.pack(height, serial, builder, valid, parent)


def body_id(body: bytes) -> bytes:
    """The value that stands for a body."""
    return blake2b(body, digest_size=32).digest()


def height_of(body: bytes) -> int:
    """The height that a body says it is for; 0 if it says none."""
    return _BODY.unpack(body)[0] if len(body) == _BODY.size else 0


def is_valid(body: bytes, height: int, parent: bytes) -> bool:
    """Judge a block against the chain that it extends."""
    if len(body) != _BODY.size:
        return False
    its_height, _, _, valid, its_parent = _BODY.unpack(body)
    return valid == 1 and its_height == height and its_parent == parent


class BlockStore:
    """What a node has on its disk besides the log; opening it reads what survived."""

    def __init__(self, disk: SimDisk) -> None:
        self._disk = disk
        existed = disk.names()
        self.bodies = {body_id(body): body for body in self._read(BODIES)}
        self.durable = set(self.bodies)
        self.chain: list[Certified] = []
        for record in self._read(CHAIN):
            decision = wire.decode(record)
            assert isinstance(decision, Certified)
            self.chain.append(decision)
        self._body_file = disk.append_to(BODIES)
        self._chain_file = disk.append_to(CHAIN)
        if BODIES not in existed or CHAIN not in existed:
            disk.sync_directory()
        self._body_file.sync()  # what a killed process wrote is read above, and counts from here
        self._chain_file.sync()

    @property
    def height(self) -> int:
        """The last height whose decision is here."""
        return len(self.chain)

    @property
    def tip(self) -> bytes:
        """The parent of the next block."""
        return self.chain[-1].certificate.value if self.chain else GENESIS_ID

    def write_body(self, body: bytes) -> None:
        """Write a body; it is durable after `sync_body`."""
        value = body_id(body)
        if value not in self.bodies:
            self._body_file.write(_record(body))
            self.bodies[value] = body

    def sync_body(self, value: bytes) -> None:
        """Make everything written durable, this body too."""
        if value not in self.durable:
            self._body_file.sync()
            self.durable.add(value)

    def write_decision(self, decision: Certified) -> None:
        """Write a decision; it is durable after `sync_decision`."""
        self._chain_file.write(_record(wire.encode(decision)))

    def sync_decision(self, decision: Certified) -> None:
        """Make a decision durable and the chain longer by it."""
        self._chain_file.sync()
        self.chain.append(decision)

    def _read(self, name: str) -> list[bytes]:
        if name not in self._disk.names():
            return []
        data = self._disk.read(name)
        records = []
        offset = 0
        while offset + _HEAD.size <= len(data):
            length, checksum = _HEAD.unpack_from(data, offset)
            record = data[offset + _HEAD.size : offset + _HEAD.size + length]
            if len(record) < length or not length or zlib.crc32(record) != checksum:
                break
            records.append(record)
            offset += _HEAD.size + length
        self._disk.truncate(name, offset)
        return records


def _record(content: bytes) -> bytes:
    return _HEAD.pack(len(content), zlib.crc32(content)) + content
