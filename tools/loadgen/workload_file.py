"""The files of a workload: how transactions and what is known of them lie on disk.

``tools.loadgen.workload`` writes them, the sender maps them read-only; nothing is parsed per
transaction.

- ``transactions.dat``: the transactions back to back, in sending order.
- ``transactions.idx``: a header of 64 bytes (magic[8], version u32, reserved u32, count u64, bytes
  of the data file u64, genesis id[32]), then one column after another, each starting at a multiple
  of 64 bytes: ids u8[n, 32]; partner i32[n], the index of the transaction that spends the same
  outputs, or -1; parent i32[n], the index of the transaction whose output is spent, or -1; lengths
  u16[n], as the wire wants them; kinds u8[n] (``Truth``); expected u8[n], the verdict to compare
  answers with (0 for both of a pair).
- ``workload.json``: what was asked for, for people; written last, so its presence says "complete".

Beside them lie ``genesis.json``, ``genesis.alloc`` and ``validator.key`` for the node.
"""

from __future__ import annotations

import mmap
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from enum import IntEnum
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import orjson

from node.genesis import Genesis, GenesisError, genesis_id, read_genesis
from node.params import ID_BYTES
from tools.loadgen.errors import LoadError

DATA_NAME = "transactions.dat"
INDEX_NAME = "transactions.idx"
SUMMARY_NAME = "workload.json"
GENESIS_NAME = "genesis.json"
ALLOCATIONS_NAME = "genesis.alloc"
KEY_NAME = "validator.key"

INDEX_MAGIC = b"TLOADIDX"
INDEX_VERSION = 1
COLUMN_ALIGNMENT = 64
MAX_TRANSACTIONS = 20_000_000  # i32 indices with room, and an index of 1 GB

_HEADER = struct.Struct("<8sIIQQ32s")
_COLUMNS: tuple[tuple[str, str, int], ...] = (
    ("txids", "u1", ID_BYTES),
    ("partner", "<i4", 1),
    ("parent", "<i4", 1),
    ("lengths", "<u2", 1),
    ("kinds", "u1", 1),
    ("expected", "u1", 1),
)

assert _HEADER.size == COLUMN_ALIGNMENT


class Truth(IntEnum):
    """What is true of a transaction, whatever a node says."""

    GOOD = 0  # valid: admitted and finalised
    BAD_SIGNATURE = 1  # one of its signatures is not valid
    RIVAL = 2  # valid, and so is its partner, but only one of the two can be final


@dataclass(frozen=True, slots=True)
class Columns:
    """Views of the index, writable while it is made and read-only afterwards."""

    txids: npt.NDArray[np.uint8]
    partner: npt.NDArray[np.int32]
    parent: npt.NDArray[np.int32]
    lengths: npt.NDArray[np.uint16]
    kinds: npt.NDArray[np.uint8]
    expected: npt.NDArray[np.uint8]


def index_bytes(count: int) -> int:
    """Return the size of the index of ``count`` transactions."""
    return _places(count)[1]


def _places(count: int) -> tuple[dict[str, int], int]:
    places = {}
    at = _HEADER.size
    for name, kind, width in _COLUMNS:
        places[name] = at
        size = count * width * np.dtype(kind).itemsize
        at += -(-size // COLUMN_ALIGNMENT) * COLUMN_ALIGNMENT
    return places, at


def columns(buffer: mmap.mmap, count: int) -> Columns:
    """Return the columns of an index of ``count`` transactions in this mapping."""
    places, _ = _places(count)
    views = {}
    for name, kind, width in _COLUMNS:
        view = np.frombuffer(buffer, kind, count * width, places[name])
        views[name] = view.reshape(count, width) if width > 1 else view
    return Columns(**views)


def pack_header(count: int, data_bytes: int, chain_id: bytes) -> bytes:
    """Return the header of an index."""
    return _HEADER.pack(INDEX_MAGIC, INDEX_VERSION, 0, count, data_bytes, chain_id)


class Workload:
    """A workload on disk, mapped read-only; cheap to open and to hand to several senders.

    ``data`` are all transactions back to back, ``offsets`` i64[count + 1] their places in it,
    ``lengths_wire`` the lengths as ingest requests carry them (2 bytes each), ``expected_codes``
    one byte each. ``summary`` is what ``workload.json`` says.
    """

    def __init__(
        self,
        directory: Path,
        genesis: Genesis,
        summary: dict[str, Any],
        index: mmap.mmap,
        data: mmap.mmap,
        count: int,
    ) -> None:
        self.directory = directory
        self.genesis = genesis
        self.genesis_id = genesis_id(genesis)
        self.summary = summary
        self.count = count
        self.columns = columns(index, count)
        self.data = memoryview(data)
        self.offsets = np.zeros(count + 1, np.int64)
        np.cumsum(self.columns.lengths, out=self.offsets[1:])
        self.lengths_wire = memoryview(index)[_places(count)[0]["lengths"] :][: 2 * count]
        self.expected_codes = self.columns.expected.tobytes()

    @staticmethod
    def open(directory: Path) -> Workload:
        """Map the workload in a directory; raises LoadError if there is none, or a damaged one."""
        remake = f"make it again with: time-load prepare {directory}"
        if not (directory / SUMMARY_NAME).is_file():
            raise LoadError(f"{directory} holds no complete workload", remake)
        try:
            summary = orjson.loads((directory / SUMMARY_NAME).read_bytes())
            genesis = read_genesis(directory / GENESIS_NAME)
            index = _map(directory / INDEX_NAME)
            data = _map(directory / DATA_NAME)
        except OSError as error:
            raise LoadError(f"cannot read {error.filename}: {error.strerror}", remake) from None
        except (GenesisError, ValueError) as error:  # ValueError: not JSON, or an empty file
            raise LoadError(f"the workload in {directory} is damaged: {error}", remake) from None
        if len(index) < _HEADER.size or index[: len(INDEX_MAGIC)] != INDEX_MAGIC:
            raise LoadError(f"{directory / INDEX_NAME} is no index of a workload", remake)
        _, version, _, count, data_bytes, chain_id = _HEADER.unpack_from(index)
        if version != INDEX_VERSION:
            raise LoadError(f"the workload has format {version}, known is {INDEX_VERSION}", remake)
        if chain_id != genesis_id(genesis):
            raise LoadError(f"{directory / GENESIS_NAME} is not the workload's", remake)
        if len(index) != index_bytes(count) or len(data) != data_bytes:
            raise LoadError(f"the workload in {directory} was cut", remake)
        workload = Workload(directory, genesis, summary, index, data, count)
        if int(workload.offsets[-1]) != data_bytes:
            raise LoadError(f"the index in {directory} does not fit its transactions", remake)
        return workload

    def transaction(self, index: int) -> bytes:
        """Return the bytes of one transaction."""
        return bytes(self.data[int(self.offsets[index]) : int(self.offsets[index + 1])])

    def transactions(self) -> Iterator[bytes]:
        """Yield the bytes of every transaction, in sending order."""
        return map(self.transaction, range(self.count))


def _map(path: Path) -> mmap.mmap:
    with path.open("rb") as file:
        return mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ)
