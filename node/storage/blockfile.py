"""Block files: the bodies of blocks, appended to plain files that any process may read.

The consensus stage appends a body and syncs it before its precommit leaves; once a block is
committed the chain store remembers where its body lies. Of several bodies of one height at most
one is committed: the others stay where they are, and no reader minds them, because locations come
from the store and never from the order in the files. Readers (``rpc``, ``timed check``) open the
same files without the store. Behind the last committed body a crash may leave anything; the next
start keeps what is whole and may yet be decided, and cuts the rest (`BlockFiles.recover`). A
committed body that does not check is damage, and stops the reader with the place and the remedy.

File ``blocks-NNNNN.dat``: a head of 64 bytes (magic[8], version u32, file number u32, genesis
id[32], zeros) and records. Record: magic[4], length u32 of what follows the checksum, BLAKE2b-128
of that[16], header[128], transactions back to back. All little-endian. A file is closed at 256
MiB.
"""

from __future__ import annotations

import hashlib
import os
import re
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from node.block import Block, BlockFormatError, BlockHeader, block_id, split_transactions
from node.genesis import MAX_BLOCK_BYTES, salt_of
from node.params import BLOCK_HEADER_BYTES
from node.storage.errors import (
    DAMAGED_REMEDY,
    NEWER_REMEDY,
    ForeignStore,
    NewerStore,
    StoreDamaged,
    StoreError,
    StoreFailed,
    store_error,
)
from node.transaction import IdHasher

FILE_FORMAT = 1
FILE_MAGIC = b"TIMEBLKS"
FILE_HEAD_BYTES = 64
ROLL_BYTES = 256 * 1024 * 1024
RECORD_MAGIC = b"\xb1TBR"  # no ASCII text and no UTF-8 begins with it
CHECKSUM_BYTES = 16
MAX_FILES = 100_000  # five digits in the name
MAX_OPEN_READERS = 16

_FILE_NAME = re.compile(r"blocks-([0-9]{5})\.dat")
_FILE_HEAD = struct.Struct("<8sII32s16x")
_RECORD_HEAD = struct.Struct("<4sI16s")
_MAX_PAYLOAD_BYTES = BLOCK_HEADER_BYTES + MAX_BLOCK_BYTES

RECORD_HEAD_BYTES = _RECORD_HEAD.size

assert _FILE_HEAD.size == FILE_HEAD_BYTES
assert FILE_HEAD_BYTES + RECORD_HEAD_BYTES + _MAX_PAYLOAD_BYTES < ROLL_BYTES


class BodyLocation(NamedTuple):
    """Where a block's record lies: number of the file, offset and length of the record in bytes."""

    file: int
    offset: int
    length: int

    @property
    def end(self) -> int:
        """Offset of the first byte after the record."""
        return self.offset + self.length


class BlockFiles:
    """The block files in one directory: one appender, any number of readers in any process.

    ``genesis_id`` (32 bytes) is written into every file and checked when one is opened. Reading
    needs no lock: a record never changes once a location for it was given out. The appender must
    be the process that holds the chain store. After a failed write or sync nothing more is
    appended, because what the disk holds is then unknown until the files are read again.
    """

    def __init__(self, directory: Path, genesis_id: bytes, *, roll_bytes: int = ROLL_BYTES) -> None:
        self._directory = directory
        self._genesis_id = genesis_id
        self._salt = salt_of(genesis_id)
        self._hasher = IdHasher(self._salt)
        self._roll_bytes = roll_bytes
        self._read_fds: dict[int, int] = {}
        self._file = -1  # the file appended to; -1: not opened yet
        self._fd = -1
        self._size = 0
        self._directory_dirty = False
        self._failed = False

    def path(self, file: int) -> Path:
        """Return the path of the file with this number."""
        return self._directory / f"blocks-{file:05d}.dat"

    # Appending

    def append(self, header: bytes, transactions: list[bytes]) -> BodyLocation:
        """Append a block and return where it lies; it is durable only after `sync`.

        ``header`` has 128 bytes. Raises StoreError (StoreFull, StoreUnwritable, ...): the files
        are then as before the call, but for a tail that `recover` cuts.
        """
        payload = b"".join((header, *transactions))
        if len(header) != BLOCK_HEADER_BYTES or len(payload) > _MAX_PAYLOAD_BYTES:
            raise ValueError("not a block: its header or its size is wrong")
        if self._fd < 0:
            self._open_last()
        record = (_RECORD_HEAD.pack(RECORD_MAGIC, len(payload), _checksum(payload)), payload)
        length = RECORD_HEAD_BYTES + len(payload)
        if self._size > FILE_HEAD_BYTES and self._size + length > self._roll_bytes:
            self.sync()
            self._start_file(self._file + 1)
        self._write(record)
        location = BodyLocation(self._file, self._size, length)
        self._size += length
        return location

    def sync(self) -> None:
        """Make everything appended so far durable.

        Raises StoreError; the records since the last sync are then to be taken as lost.
        """
        self._check_usable()
        if self._fd < 0:
            return
        try:
            os.fdatasync(self._fd)
            if self._directory_dirty:
                _sync(self._directory)
                self._directory_dirty = False
        except OSError as error:
            self._failed = True
            raise store_error(error, self.path(self._file), "sync") from error

    def recover(self, end: BodyLocation | None, height: int) -> dict[bytes, BodyLocation]:
        """Keep the bodies of the height that is being decided; returns block id -> location.

        For the start of the appender: ``end`` (None: nothing is committed) is the last block that
        the chain store committed, ``height`` the one above it. What lies behind ``end`` is read
        from the disk, not from memory that a failed write may have left, and everything from the
        first record on that is torn, or that no body of this height follows, is cut; what was kept
        is durable. The record at ``end`` is checked, so a store that is ahead of its files is
        noticed: StoreDamaged.
        """
        self.close()
        if end is not None:
            self.read_header(end)
        for number in self.files():
            if end is None or number >= end.file:
                self._settle(number)
        kept: dict[bytes, BodyLocation] = {}
        last = end
        for location, header in self.scan(end):
            if header.height == height:
                kept.setdefault(block_id(header.encode(), self._salt), location)
                last = location
        self._cut_behind(last)
        return kept

    # Reading

    def files(self) -> list[int]:
        """Return the numbers of the files that exist, ascending."""
        try:
            names = os.listdir(self._directory)
        except FileNotFoundError:
            return []
        except OSError as error:
            raise store_error(error, self._directory, "list") from error
        return sorted(int(m[1]) for name in names if (m := _FILE_NAME.fullmatch(name)))

    def read(self, location: BodyLocation) -> Block:
        """Return the block at a location that `append` or the chain store gave.

        Raises StoreDamaged when the record does not check, naming file, offset and remedy.
        """
        header, transactions = self.read_body(location)
        return Block(header, transactions, [self._hasher.txid(raw) for raw in transactions])

    def read_body(self, location: BodyLocation) -> tuple[BlockHeader, list[bytes]]:
        """Return header and transactions of the block at a location, without working out ids.

        Raises what `read` raises.
        """
        payload = self._payload(location)
        header = BlockHeader.decode(payload[:BLOCK_HEADER_BYTES])
        try:
            transactions = split_transactions(payload[BLOCK_HEADER_BYTES:], header.n_transactions)
        except BlockFormatError as error:
            raise self._damaged(location.file, location.offset, str(error)) from error
        return header, transactions

    def read_header(self, location: BodyLocation) -> BlockHeader:
        """Return the header of the block at a location, after checking the whole record."""
        return BlockHeader.decode(self._payload(location)[:BLOCK_HEADER_BYTES])

    def scan(self, after: BodyLocation | None = None) -> Iterator[tuple[BodyLocation, BlockHeader]]:
        """Yield every record behind the one at ``after`` (None: from the first on), checked.

        They come in order of writing, those of blocks that were never committed among them, and
        end at the first that is not complete: a torn tail, or damage, which only who knows the
        locations of the committed blocks can tell apart.
        """
        number, offset = (0, FILE_HEAD_BYTES) if after is None else (after.file, after.end)
        while self.path(number).exists() and not self._is_headless(number):
            size = os.fstat(self._reader(number)).st_size
            while (record := self._record_at(number, offset, size)) is not None:
                yield record
                offset = record[0].end
            if offset < size:
                return
            number, offset = number + 1, FILE_HEAD_BYTES

    def close(self) -> None:
        """Close all files; the next call opens them again."""
        for fd in self._read_fds.values():
            os.close(fd)
        self._read_fds.clear()
        if self._fd >= 0:
            os.close(self._fd)
        self._fd = self._file = -1

    # Details of appending

    def _open_last(self) -> None:
        self._check_usable()
        try:
            if not self._directory.exists():
                self._directory.mkdir(mode=0o700)
                _sync(self._directory.parent)
        except OSError as error:
            raise store_error(error, self._directory, "create") from error
        files = self.files()
        if not files:
            self._start_file(0)
            return
        self._reader(files[-1])  # checks the head
        path = self.path(files[-1])
        try:
            self._fd = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CLOEXEC)
            self._size = os.fstat(self._fd).st_size
        except OSError as error:
            raise store_error(error, path, "open") from error
        self._file = files[-1]

    def _start_file(self, number: int) -> None:
        path = self.path(number)
        if number >= MAX_FILES:
            raise StoreFailed(f"{path} would be one file too many", "upgrade the node")
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1
        flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
        try:
            self._fd = os.open(path, flags, 0o600)
        except OSError as error:
            raise store_error(error, path, "create") from error
        self._file = number
        self._size = 0
        self._directory_dirty = True
        try:
            self._write((_FILE_HEAD.pack(FILE_MAGIC, FILE_FORMAT, number, self._genesis_id),))
        except StoreError:
            path.unlink(missing_ok=True)
            raise
        self._size = FILE_HEAD_BYTES

    def _settle(self, number: int) -> None:
        """Sync a file and forget what the kernel holds of it, so that the disk itself is read."""
        path = self.path(number)
        try:
            fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
            try:
                os.fsync(fd)
                os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
            finally:
                os.close(fd)
        except OSError as error:
            raise store_error(error, path, "sync") from error

    def _cut_behind(self, last: BodyLocation | None) -> None:
        """Remove what follows the record at ``last`` (None: everything), durably."""
        keep = -1 if last is None else last.file
        numbers = self.files()
        for number in numbers:
            if number > keep and not self._is_headless(number):
                self._reader(number)  # never cut the files of another chain
        self.close()
        path = self._directory
        try:
            for number in reversed(numbers):
                path = self.path(number)
                if number > keep:
                    path.unlink()
                elif last is not None and number == keep and path.stat().st_size > last.end:
                    os.truncate(path, last.end)
                    _sync(path)
            if numbers:
                path = self._directory
                _sync(path)
        except OSError as error:
            raise store_error(error, path, "truncate") from error

    def _write(self, parts: tuple[bytes, ...]) -> None:
        self._check_usable()
        try:
            written = os.writev(self._fd, parts)
            if written < sum(map(len, parts)):  # a signal or a full disk: finish or learn why not
                rest = memoryview(b"".join(parts))[written:]
                while rest:
                    rest = rest[os.write(self._fd, rest) :]
        except OSError as error:
            self._failed = True
            os.ftruncate(self._fd, self._size)
            raise store_error(error, self.path(self._file), "write") from error

    def _check_usable(self) -> None:
        if self._failed:
            raise StoreFailed(
                f"an earlier write to {self._directory} failed, so nothing more is written",
                "start the node again",
            )

    # Details of reading

    def _reader(self, number: int) -> int:
        fd = self._read_fds.get(number, -1)
        if fd >= 0:
            return fd
        path = self.path(number)
        try:
            fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        except FileNotFoundError:
            raise self._damaged(number, 0, "the file is missing") from None
        except OSError as error:
            raise store_error(error, path, "open") from error
        try:
            self._check_head(number, os.pread(fd, FILE_HEAD_BYTES, 0))
        except OSError as error:
            os.close(fd)
            raise store_error(error, path, "read") from error
        except StoreError:
            os.close(fd)
            raise
        if len(self._read_fds) >= MAX_OPEN_READERS:
            os.close(self._read_fds.pop(next(iter(self._read_fds))))
        self._read_fds[number] = fd
        return fd

    def _check_head(self, number: int, head: bytes) -> None:
        path = self.path(number)
        if len(head) < FILE_HEAD_BYTES or head[:8] != FILE_MAGIC:
            raise self._damaged(number, 0, "the head of the file is not a block file's")
        _, version, found, genesis_id = _FILE_HEAD.unpack(head)
        if version > FILE_FORMAT:
            raise NewerStore(
                f"{path} has format {version}, and this version knows {FILE_FORMAT}",
                NEWER_REMEDY,
            )
        if genesis_id != self._genesis_id:
            raise ForeignStore(
                f"{path} belongs to the chain with genesis {genesis_id.hex()[:16]},"
                f" not to {self._genesis_id.hex()[:16]}",
                "use another data directory or the right genesis.json",
            )
        if version < FILE_FORMAT or found != number:
            raise self._damaged(number, 0, f"the head says file {found} in format {version}")

    def _pread(self, number: int, size: int, offset: int) -> bytes:
        try:
            return os.pread(self._reader(number), size, offset)
        except OSError as error:
            raise store_error(error, self.path(number), "read") from error

    def _payload(self, location: BodyLocation) -> bytes:
        data = self._pread(location.file, location.length, location.offset)
        if len(data) < location.length or len(data) < RECORD_HEAD_BYTES + BLOCK_HEADER_BYTES:
            raise self._damaged(location.file, location.offset, "the record is cut off")
        magic, length, checksum = _RECORD_HEAD.unpack_from(data)
        payload = data[RECORD_HEAD_BYTES:]
        if magic != RECORD_MAGIC or length != len(payload):
            raise self._damaged(location.file, location.offset, "no record begins here")
        if _checksum(payload) != checksum:
            raise self._damaged(location.file, location.offset, "the checksum is wrong")
        return payload

    def _record_at(
        self, number: int, offset: int, size: int
    ) -> tuple[BodyLocation, BlockHeader] | None:
        """The complete and checked record that begins at an offset, if one does."""
        head = self._pread(number, RECORD_HEAD_BYTES, offset)
        if len(head) < RECORD_HEAD_BYTES:
            return None
        magic, length, _ = _RECORD_HEAD.unpack(head)
        if magic != RECORD_MAGIC or not BLOCK_HEADER_BYTES <= length <= _MAX_PAYLOAD_BYTES:
            return None
        location = BodyLocation(number, offset, RECORD_HEAD_BYTES + length)
        if location.end > size:
            return None
        try:
            return location, self.read_header(location)
        except StoreDamaged:
            return None

    def _is_headless(self, number: int) -> bool:
        """Whether a crash left a file without its head, so that nothing in it was ever synced."""
        path = self.path(number)
        try:
            with path.open("rb", buffering=0) as file:
                head = file.read(FILE_HEAD_BYTES)
        except OSError as error:
            raise store_error(error, path, "open") from error
        return len(head) < FILE_HEAD_BYTES or not any(head)

    def _damaged(self, number: int, offset: int, what: str) -> StoreDamaged:
        return StoreDamaged(
            f"{self.path(number)} is damaged at offset {offset}: {what}", DAMAGED_REMEDY
        )


def _checksum(payload: bytes) -> bytes:
    return hashlib.blake2b(payload, digest_size=CHECKSUM_BYTES).digest()


def _sync(path: Path) -> None:
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
