"""Files as a program sees them that must survive a power cut: what is durable, and since when.

The write-ahead log and the signer write through `Files`; `Directory` is the real one, the
simulator brings its own. Two promises are all that a disk gives: the content of a file is durable
after `sync` of it, and a name that was created, renamed or removed is so after `sync_directory`.
Neither implies the other. It owns no data, only the descriptors of the open files it gave out.

A failed system call is raised as a StoreError that names the path and the remedy. After a failed
write or sync an open file refuses all further work: what the disk then holds is known only after
reading it again.
"""

from __future__ import annotations

import errno
import os
import stat
from pathlib import Path
from typing import Protocol

from node.storage.errors import StoreError, StoreFailed, store_error

FILE_MODE = 0o600
READ_BYTES = 1024 * 1024

# Never follow a link, never wait for the other end of a pipe, never leak into a child.
_OPEN = os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC


class AppendFile(Protocol):
    """A file that only grows; to be closed before its name is truncated, written or replaced."""

    @property
    def size_bytes(self) -> int:
        """How long the file is, what is not durable yet included."""

    def write(self, data: bytes) -> None:
        """Append all of the data; it is durable after `sync`."""

    def sync(self) -> None:
        """Make everything written durable."""

    def close(self) -> None:
        """Give the descriptor back; what was not synced may or may not become durable."""


class FixedFile(Protocol):
    """A file that keeps its size, written in place; to be closed before its name is replaced."""

    def write(self, offset: int, data: bytes) -> None:
        """Replace the bytes from an offset on; durable after `sync`, and until then a power cut
        may leave any part of them.
        """

    def sync(self) -> None:
        """Make everything written durable."""

    def close(self) -> None:
        """Give the descriptor back; what was not synced may or may not become durable."""


class Files(Protocol):
    """The plain files in one directory.

    A name is a single path component. An operation on a file that is not there raises
    FileNotFoundError, anything else that goes wrong StoreError.
    """

    def path(self, name: str) -> str:
        """Return how the operator knows this file; for messages."""

    def names(self) -> list[str]:
        """Return the names of all files, sorted."""

    def read(self, name: str) -> bytes:
        """Return the whole content of a file."""

    def append_to(self, name: str) -> AppendFile:
        """Open a file for appending; it is created (0600) if missing."""

    def update(self, name: str) -> FixedFile:
        """Open a file for writing in place."""

    def write(self, name: str, data: bytes) -> None:
        """Create a file (0600) or replace its content, in place and not durably."""

    def sync(self, name: str) -> None:
        """Make the content of a file durable, not its name."""

    def rename(self, old: str, new: str) -> None:
        """Give a file another name, atomically, in place of the one that has it."""

    def remove(self, name: str) -> None:
        """Remove a file."""

    def truncate(self, name: str, size_bytes: int) -> None:
        """Cut a file that is longer; durable after `sync`."""

    def sync_directory(self) -> None:
        """Make every name created, renamed and removed so far durable."""


class Directory:
    """The files in a real directory, which has to exist; links in it are not followed."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def path(self, name: str) -> str:
        """Return the full path of a file."""
        return str(self._at(name))

    def names(self) -> list[str]:
        """Return the names of all plain files, sorted."""
        try:
            with os.scandir(self._path) as entries:
                return sorted(each.name for each in entries if each.is_file(follow_symlinks=False))
        except OSError as error:
            raise store_error(error, self._path, "list") from error

    def read(self, name: str) -> bytes:
        """Return the whole content of a file."""
        path = self._at(name)
        fd = _open(path, os.O_RDONLY, "read")
        try:
            size = os.fstat(fd).st_size
            parts = []
            while part := os.read(fd, max(size, READ_BYTES)):
                parts.append(part)
        except OSError as error:
            raise store_error(error, path, "read") from error
        finally:
            os.close(fd)
        return parts[0] if len(parts) == 1 else b"".join(parts)

    def append_to(self, name: str) -> AppendFile:
        """Open a file for appending; it is created (0600) if missing."""
        path = self._at(name)
        fd = _open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, "open")
        return _AppendFile(path, fd, os.fstat(fd).st_size)

    def update(self, name: str) -> FixedFile:
        """Open a file for writing in place."""
        path = self._at(name)
        fd = _open(path, os.O_WRONLY, "open")
        return _FixedFile(path, fd, os.fstat(fd).st_size)

    def write(self, name: str, data: bytes) -> None:
        """Create a file (0600) or replace its content, in place and not durably."""
        path = self._at(name)
        fd = _open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, "write")
        try:
            os.fchmod(fd, FILE_MODE)  # it may have been there, and open to others
            _write_all(fd, data)
        except OSError as error:
            raise store_error(error, path, "write") from error
        finally:
            os.close(fd)

    def sync(self, name: str) -> None:
        """Make the content of a file durable, not its name."""
        path = self._at(name)
        fd = _open(path, os.O_RDONLY, "sync")
        try:
            os.fsync(fd)
        except OSError as error:
            raise store_error(error, path, "sync") from error
        finally:
            os.close(fd)

    def rename(self, old: str, new: str) -> None:
        """Give a file another name, atomically, in place of the one that has it."""
        target = self._at(new)
        try:
            os.replace(self._at(old), target)
        except FileNotFoundError:
            raise
        except OSError as error:
            raise store_error(error, target, "rename a file to") from error

    def remove(self, name: str) -> None:
        """Remove a file."""
        path = self._at(name)
        try:
            os.unlink(path)
        except FileNotFoundError:
            raise
        except OSError as error:
            raise store_error(error, path, "remove") from error

    def truncate(self, name: str, size_bytes: int) -> None:
        """Cut a file that is longer; durable after `sync`."""
        path = self._at(name)
        fd = _open(path, os.O_WRONLY, "truncate")
        try:
            if os.fstat(fd).st_size > size_bytes:
                os.ftruncate(fd, size_bytes)
        except OSError as error:
            raise store_error(error, path, "truncate") from error
        finally:
            os.close(fd)

    def sync_directory(self) -> None:
        """Make every name created, renamed and removed so far durable."""
        try:
            fd = os.open(self._path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            try:
                os.fsync(fd)
            finally:
                os.close(fd)
        except OSError as error:
            raise store_error(error, self._path, "sync") from error

    def _at(self, name: str) -> Path:
        if not name or "/" in name or "\0" in name or name in (".", ".."):
            raise ValueError(f"not the name of a file: {name!r}")
        return self._path / name


class _OpenFile:
    """What both real kinds of open file share: after a failure nothing more is done."""

    def __init__(self, path: Path, fd: int, size_bytes: int) -> None:
        self._path = path
        self._fd = fd
        self._size_bytes = size_bytes
        self._failed = False

    def sync(self) -> None:
        self._check_usable()
        try:
            os.fdatasync(self._fd)
        except OSError as error:
            self._failed = True
            raise store_error(error, self._path, "sync") from error

    def close(self) -> None:
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    def _check_usable(self) -> None:
        if self._fd < 0:
            raise ValueError(f"{self._path} was closed")
        if self._failed:
            raise StoreFailed(
                f"an earlier write to {self._path} failed, so nothing more is written",
                "start the node again",
            )


class _AppendFile(_OpenFile):
    """The real `AppendFile`."""

    @property
    def size_bytes(self) -> int:
        return self._size_bytes

    def write(self, data: bytes) -> None:
        self._check_usable()
        try:
            _write_all(self._fd, data)
        except OSError as error:
            self._failed = True
            raise store_error(error, self._path, "write") from error
        self._size_bytes += len(data)


class _FixedFile(_OpenFile):
    """The real `FixedFile`."""

    def write(self, offset: int, data: bytes) -> None:
        self._check_usable()
        if not 0 <= offset <= offset + len(data) <= self._size_bytes:
            raise ValueError(f"{self._path} has {self._size_bytes} bytes and keeps them")
        try:
            while data:
                written = os.pwrite(self._fd, data, offset)
                offset, data = offset + written, data[written:]
        except OSError as error:
            self._failed = True
            raise store_error(error, self._path, "write") from error


def _open(path: Path, flags: int, doing: str) -> int:
    try:
        fd = os.open(path, flags | _OPEN, FILE_MODE)
    except FileNotFoundError as error:
        if flags & os.O_CREAT:  # then it is the directory that is missing
            raise store_error(error, path, doing) from error
        raise
    except OSError as error:
        if error.errno in (errno.ELOOP, errno.ENXIO, errno.EISDIR):
            raise _not_plain(path) from error
        raise store_error(error, path, doing) from error
    if not stat.S_ISREG(os.fstat(fd).st_mode):
        os.close(fd)
        raise _not_plain(path)
    return fd


def _not_plain(path: Path) -> StoreError:
    return StoreFailed(f"{path} is not a plain file", "put the file itself there, or move it away")


def _write_all(fd: int, data: bytes) -> None:
    written = os.write(fd, data)
    if written < len(data):  # a signal or a full disk: finish or learn why not
        rest = memoryview(data)[written:]
        while rest:
            rest = rest[os.write(fd, rest) :]
