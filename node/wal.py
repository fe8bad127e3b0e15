"""The write-ahead log of agreement: what it was told since the last block, for after a crash.

`node.agreement` appends every input that changed the core's state, syncs before an own message
leaves, and replays the height that was under way when it starts. One file, ``wal.log``; heights
that are committed go when it has grown beyond 1 MiB. It owns that file (and ``wal.new`` while
making it). What kills it: a disk that fails, a log that is damaged, of another chain or of a newer
version, and a height that needs more than 64 MiB.

What holds, however the power fails: `recover` gives every record that a `sync` has returned for, in
order, and then perhaps some that were never synced, without a gap. Each record tells up to which
offset the file was durable when the record was made, and each sync leaves a mark (a record without
content, not synced itself) behind. So a byte that does not check is *damage*, and stops the node,
if any whole record further back proves that it was durable; otherwise it is the torn or holed tail
of a write that nobody relied on, and is cut. All that was synced is proven by the mark, or by
anything that was written later. Left unproven, and cut in silence, is only damage to the records of
the very last sync if a power cut took its mark as well: two faults at once. A file that is gone, or
replaced by an earlier state of itself, is not noticed; the signer's memory stands against that.

File: head of 64 bytes (magic[8], version u32, zeros[4], genesis id[32], BLAKE2b-128 of these 48),
then records. Record: magic[4], length of the content u32, durable offset u64, height u64,
BLAKE2b-128 of the record's offset u64, the fields before and the content[16], content
(`node.consensus.wire`). All little-endian.
"""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Iterator
from typing import TYPE_CHECKING, NamedTuple

from node.consensus.messages import Input
from node.consensus.wire import MAX_MESSAGE_BYTES, WireError, decode, encode
from node.errors import NodeError
from node.params import ID_BYTES
from node.storage.errors import DAMAGED_REMEDY

if TYPE_CHECKING:  # whose operations they are; the log itself performs none
    from node.durable import AppendFile, Files

FILE = "wal.log"
NEW_FILE = "wal.new"
FILE_FORMAT = 1
FILE_MAGIC = b"TIMEWAL\0"
RECORD_MAGIC = b"\xb1TWR"  # no ASCII text and no UTF-8 begins with it
CHECKSUM_BYTES = 16
KEEP_BYTES = 1024 * 1024  # a file up to this size is not cut when a height is over
MAX_FILE_BYTES = 64 * 1024 * 1024  # some thousand rounds of 100 validators; read as a whole
BUFFER_BYTES = 256 * 1024  # what is kept in memory at most, without a sync

_HEAD = struct.Struct(f"<8sI4x{ID_BYTES}s")
_RECORD = struct.Struct("<4sIQQ")
_OFFSET = struct.Struct("<Q")

HEAD_BYTES = _HEAD.size + CHECKSUM_BYTES
RECORD_HEAD_BYTES = _RECORD.size + CHECKSUM_BYTES

assert HEAD_BYTES == 64
assert HEAD_BYTES < KEEP_BYTES < MAX_FILE_BYTES
assert RECORD_HEAD_BYTES + MAX_MESSAGE_BYTES < BUFFER_BYTES


class WalError(NodeError):
    """A log that the operator has to look at; the cause names its path."""


class WalDamaged(WalError):
    """Bytes that were durable are wrong, so that what this node promised is not known any more."""


class ForeignWal(WalError):
    """The log belongs to another chain (another genesis)."""


class NewerWal(WalError):
    """The log was written in a format that this version does not know."""


class WalFull(WalError):
    """One height has needed more than a log may hold."""


class _Record(NamedTuple):
    offset: int
    end: int
    durable: int  # the file was durable up to here when the record was made
    height: int
    content: memoryview  # empty for a mark


class Wal:
    """The log in a directory; `recover` comes first.

    `genesis_id` (32 bytes) is written into the file. Raises StoreError when the disk fails; nothing
    more can then be done with it. `keep_bytes` and `max_bytes` are the limits of the file's size.
    """

    def __init__(
        self,
        files: Files,
        genesis_id: bytes,
        *,
        keep_bytes: int = KEEP_BYTES,
        max_bytes: int = MAX_FILE_BYTES,
    ) -> None:
        self._files = files
        self._genesis_id = genesis_id
        self._keep_bytes = keep_bytes
        self._max_bytes = max_bytes
        self._file: AppendFile | None = None
        self._durable = 0  # the file is, up to here
        self._clean_bytes = 0  # its size when there is nothing to sync
        self._buffer: list[tuple[int, bytes]] = []  # height, content; not in the file yet
        self._buffer_bytes = 0

    def recover(self, height: int) -> list[Input]:
        """Open or make the log and return its records of exactly this height, in order.

        The torn tail of an interrupted write is cut; all that is returned is durable. Raises
        WalDamaged, ForeignWal and NewerWal; the file is then as it was.
        """
        self.close()
        files = self._files
        if FILE not in files.names():
            self._create()
            return []
        file = files.append_to(FILE)
        try:
            size = file.size_bytes
            if size > self._max_bytes + RECORD_HEAD_BYTES:  # the last mark may lie beyond
                raise self._damaged(self._max_bytes, f"it has {size} bytes, more than a log")
            data = files.read(FILE)
            self._check_head(data)
            found = []
            end = HEAD_BYTES
            for record in _records(data):
                end = record.end
                if record.height == height and record.content:
                    found.append(self._decode(record))
            if end < size:
                self._check_tail(data, end)
                file.close()
                files.truncate(FILE, end)
                file = files.append_to(FILE)
            file.sync()  # a process that was killed may have left what was never synced
            files.sync_directory()
        except BaseException:
            file.close()
            raise
        self._opened_at(file, end)
        return found

    def append(self, height: int, message: Input) -> None:
        """Add a record; it is durable after `sync`. Raises WalFull, and then nothing was added."""
        content = encode(message)
        size = self._opened().size_bytes + self._buffer_bytes + RECORD_HEAD_BYTES + len(content)
        if size > self._max_bytes:
            raise WalFull(
                f"{self._files.path(FILE)} holds all of {self._max_bytes} bytes, and height"
                f" {height} is not decided",
                "restore the data directory from a node that has decided this height",
            )
        self._buffer.append((height, content))
        self._buffer_bytes += RECORD_HEAD_BYTES + len(content)
        if self._buffer_bytes > BUFFER_BYTES:
            self._flush()

    def sync(self) -> None:
        """Make everything appended durable."""
        self._flush()
        file = self._opened()
        if file.size_bytes == self._clean_bytes:
            return
        file.sync()
        self._durable = file.size_bytes
        file.write(_record(self._durable, self._durable, 0, b""))
        self._clean_bytes = file.size_bytes

    def begin_height(self, height: int) -> None:
        """Forget what belongs to lower heights, which are committed, if it is worth the while."""
        self._buffer = [each for each in self._buffer if each[0] >= height]
        self._buffer_bytes = sum(RECORD_HEAD_BYTES + len(each[1]) for each in self._buffer)
        file = self._opened()
        if file.size_bytes <= self._keep_bytes:
            return
        file.close()
        self._files.truncate(FILE, HEAD_BYTES)
        file = self._files.append_to(FILE)
        file.sync()  # before anything comes where the old records were
        self._opened_at(file, HEAD_BYTES)

    def close(self) -> None:
        """Close the file; what was appended and not synced is lost."""
        if self._file is not None:
            self._file.close()
        self._file = None
        self._buffer = []
        self._buffer_bytes = 0

    # -- writing ---------------------------------------------------------------------------------

    def _opened(self) -> AppendFile:
        if self._file is None:
            raise ValueError("the log is not open; recover comes first")
        return self._file

    def _opened_at(self, file: AppendFile, size_bytes: int) -> None:
        self._file = file
        self._durable = self._clean_bytes = size_bytes

    def _create(self) -> None:
        """Make the file under another name, so that there is never one without a whole head."""
        files = self._files
        head = _HEAD.pack(FILE_MAGIC, FILE_FORMAT, self._genesis_id)
        files.write(NEW_FILE, head + _digest(head))
        files.sync(NEW_FILE)
        files.rename(NEW_FILE, FILE)
        files.sync_directory()
        self._opened_at(files.append_to(FILE), HEAD_BYTES)

    def _flush(self) -> None:
        """Write the buffer; as one piece, and the file tells where it lies."""
        if not self._buffer:
            return
        file = self._opened()
        offset = file.size_bytes
        parts = []
        for height, content in self._buffer:
            parts.append(_record(offset, self._durable, height, content))
            offset += len(parts[-1])
        self._buffer = []
        self._buffer_bytes = 0
        file.write(b"".join(parts))

    # -- reading ---------------------------------------------------------------------------------

    def _check_head(self, data: bytes) -> None:
        head, checksum = data[: _HEAD.size], data[_HEAD.size : HEAD_BYTES]
        if head[: len(FILE_MAGIC)] != FILE_MAGIC or _digest(head) != checksum:
            raise self._damaged(0, "its head is not that of a log")
        _, version, genesis_id = _HEAD.unpack(head)
        path = self._files.path(FILE)
        if version > FILE_FORMAT:
            raise NewerWal(
                f"{path} has format {version}, and this version knows {FILE_FORMAT}",
                "install the version that wrote it",
            )
        if genesis_id != self._genesis_id:
            raise ForeignWal(
                f"{path} belongs to the chain with genesis {genesis_id.hex()[:16]},"
                f" not to {self._genesis_id.hex()[:16]}",
                "use another data directory or the right genesis.json",
            )

    def _check_tail(self, data: bytes, end: int) -> None:
        """Raise WalDamaged if a whole record proves that something behind `end` was durable."""
        at = data.find(RECORD_MAGIC, end + 1)
        while at >= 0:
            record = _record_at(data, at, proving=end)
            if record is not None:
                raise self._damaged(
                    end, f"no record begins there, and it was durable up to {record.durable}"
                )
            at = data.find(RECORD_MAGIC, at + 1)

    def _decode(self, record: _Record) -> Input:
        try:
            return decode(record.content)
        except WireError as error:
            raise self._damaged(record.offset, f"the record is no input ({error})") from error

    def _damaged(self, offset: int, what: str) -> WalDamaged:
        return WalDamaged(
            f"{self._files.path(FILE)} is damaged at offset {offset}: {what}", DAMAGED_REMEDY
        )


def _record(offset: int, durable: int, height: int, content: bytes) -> bytes:
    """The bytes of a record that will lie at an offset."""
    fields = _RECORD.pack(RECORD_MAGIC, len(content), durable, height)
    return b"".join((fields, _digest(_OFFSET.pack(offset), fields, content), content))


def _records(data: bytes) -> Iterator[_Record]:
    """The whole records from the head to the first that is not."""
    record = _record_at(data, HEAD_BYTES)
    while record is not None:
        yield record
        record = _record_at(data, record.end)


def _record_at(data: bytes, offset: int, *, proving: int = -1) -> _Record | None:
    """The whole record at an offset, if there is one (which proves that more was durable)."""
    start = offset + RECORD_HEAD_BYTES
    if start > len(data):
        return None
    magic, length, durable, height = _RECORD.unpack_from(data, offset)
    end = start + length
    if magic != RECORD_MAGIC or length > MAX_MESSAGE_BYTES or end > len(data):
        return None
    if not proving < durable <= offset:
        return None
    whole = memoryview(data)
    content = whole[start:end]
    fields = whole[offset : offset + _RECORD.size]
    if _digest(_OFFSET.pack(offset), fields, content) != data[start - CHECKSUM_BYTES : start]:
        return None
    return _Record(offset, end, durable, height, content)


def _digest(*parts: bytes | memoryview) -> bytes:
    digest = hashlib.blake2b(digest_size=CHECKSUM_BYTES)
    for part in parts:
        digest.update(part)
    return digest.digest()
