"""Block files: the bodies of blocks, appended to plain files that any process may read.

The consensus stage appends a body and syncs it before anything depends on it; the chain store then
remembers where it lies. Readers (``rpc``, ``timed check``) open the same files without the store.
A crash can only leave a torn or uncommitted tail, which `BlockFiles.truncate` cuts at the next
start; anything else that does not check is damage, and stops the reader with the place and the
remedy.

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

from node.block import Block, BlockFormatError, BlockHeader, split_transactions
from node.genesis import MAX_BLOCK_BYTES, salt_of
from node.params import BLOCK_HEADER_BYTES
from node.storage.errors import (
    DAMAGED_REMEDY,
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
        self._hasher = IdHasher(salt_of(genesis_id))
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
        are then as before the call, but for a tail that `truncate` cuts.
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

    def truncate(self, end: BodyLocation | None) -> int:
        """Cut everything behind the record at ``end`` (None: all records); returns the bytes cut.

        For the start of the appender: ``end`` is the last block that the chain store committed.
        The record itself is checked, so a store that is ahead of its files is noticed:
        StoreDamaged.
        """
        self.close()
        if end is not None:
            self.read_header(end)
        keep = -1 if end is None else end.file
        cut = 0
        for number in reversed(self.files()):
            path = self.path(number)
            try:
                size = path.stat().st_size
                if size > FILE_HEAD_BYTES:
                    self._reader(number)  # never cut the files of another chain
                if number > keep:
                    path.unlink()
                    cut += max(0, size - FILE_HEAD_BYTES)
                elif end is not None and number == keep and size > end.end:
                    os.truncate(path, end.end)
                    _sync(path)
                    cut += size - end.end
            except OSError as error:
                raise store_error(error, path, "truncate") from error
        self.close()
        if self._directory.exists():
            _sync(self._directory)
        return cut

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
        payload = self._payload(location)
        header = BlockHeader.decode(payload[:BLOCK_HEADER_BYTES])
        try:
            transactions = split_transactions(payload[BLOCK_HEADER_BYTES:], header.n_transactions)
        except BlockFormatError as error:
            raise self._damaged(location.file, location.offset, str(error)) from error
        return Block(header, transactions, [self._hasher.txid(raw) for raw in transactions])

    def read_header(self, location: BodyLocation) -> BlockHeader:
        """Return the header of the block at a location, after checking the whole record."""
        return BlockHeader.decode(self._payload(location)[:BLOCK_HEADER_BYTES])

    def scan(self, end: BodyLocation | None = None) -> Iterator[tuple[BodyLocation, BlockHeader]]:
        """Yield every record in order of writing, checked, up to and including the one at ``end``.

        Without ``end``: up to the last complete record. What follows it is a torn tail if no
        complete record comes after, and damage if one does. Raises StoreDamaged.
        """
        files = self.files()
        if end is not None:
            files = [number for number in files if number <= end.file]
            if end.file not in files:
                raise self._damaged(end.file, end.offset, "the file is missing")
        if files != list(range(len(files))):
            missing = min(set(range(len(files))) - set(files))
            raise self._damaged(missing, 0, "the file is missing")
        for number in files:
            size = os.fstat(self._reader(number)).st_size
            if end is not None and number == end.file:
                size = min(size, end.end)
            offset = FILE_HEAD_BYTES
            while offset < size:
                location = self._record_at(number, offset, size)
                if location is None:
                    break
                yield location, self.read_header(location)
                offset = location.end
            if end is not None:
                if offset < (end.end if number == end.file else size):
                    raise self._damaged(number, offset, "no complete record begins here")
            elif offset < size and (number != files[-1] or self._record_after(number, offset)):
                raise self._damaged(number, offset, "no complete record, but later ones exist")

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
            self._directory.mkdir(mode=0o700, exist_ok=True)
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
                "install the version that wrote it",
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

    def _record_at(self, number: int, offset: int, size: int) -> BodyLocation | None:
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
            self._payload(location)
        except StoreDamaged:
            return None
        return location

    def _record_after(self, number: int, offset: int) -> bool:
        """Whether a complete record begins anywhere behind an offset of a file."""
        data = self._pread(number, self._roll_bytes + _MAX_PAYLOAD_BYTES, 0)
        found = data.find(RECORD_MAGIC, offset + 1)
        while found >= 0:
            if self._record_at(number, found, len(data)) is not None:
                return True
            found = data.find(RECORD_MAGIC, found + 1)
        return False

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
