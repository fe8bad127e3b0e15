"""The validator's key file: one Ed25519 seed, readable by its owner and by nobody else.

``timed init`` creates it. In a running node one process alone reads it, the one that signs: once,
at its start, and it holds the file locked for its life (`hold_key_file`), so that no second process
signs with the same file, under whatever name. The lock is the kernel's (flock): it belongs to the
file, not to its name, and goes with the process however that dies. A copy is another file: that
nobody starts a second node with a copy of the key is up to the operator. A service can get it from
its manager instead (`node.credentials`); then root may own it.

The file is text, so that an operator can tell it from damage:
``timed-validator-key 1 <64 hexadecimal digits>``.
"""

from __future__ import annotations

import ctypes
import fcntl
import os
import resource
import stat
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Final

from nacl.signing import SigningKey

from node import credentials
from node.errors import NodeError
from node.params import KEY_BYTES

if TYPE_CHECKING:
    from node.genesis import Genesis

KEY_FILE_TAG = "timed-validator-key"
KEY_FILE_VERSION = "1"
KEY_FILE_MAX_BYTES = 4096

LOCK_WAIT_S: Final = 2.0
"""How long a starting signer waits for a predecessor that was killed while its disk was busy."""

_LOCK_RETRY_S: Final = 0.05
_PR_SET_DUMPABLE: Final = 4  # Linux, prctl(2)


class KeyFileError(NodeError):
    """A key file that may not be used as it is."""


class KeyInUse(KeyFileError):
    """Another process signs with this key file."""


def create_key_file(path: Path, seed: bytes) -> SigningKey:
    """Write a new key file (mode 0600) for this 32-byte seed, durably, and return its key.

    Raises KeyFileError when the file exists already or cannot be written.
    """
    if len(seed) != KEY_BYTES:
        raise ValueError(f"a seed has {KEY_BYTES} bytes, not {len(seed)}")
    line = f"{KEY_FILE_TAG} {KEY_FILE_VERSION} {seed.hex()}\n".encode()
    try:
        fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    except FileExistsError:
        raise KeyFileError(
            f"{path} exists and a validator key is never overwritten", "move it away first"
        ) from None
    except OSError as error:
        raise KeyFileError(
            f"cannot create {path} ({error.strerror})", "check its directory and who owns it"
        ) from error
    try:
        with open(fd, "wb") as file:
            os.fchmod(fd, 0o600)
            file.write(line)
            file.flush()
            os.fsync(fd)
        directory = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            os.fsync(directory)
        finally:
            os.close(directory)
    except OSError as error:
        path.unlink(missing_ok=True)
        raise KeyFileError(f"cannot write {path} ({error.strerror})", "free some space") from error
    return SigningKey(seed)


def read_key_file(path: Path) -> SigningKey:
    """Return the key in a key file.

    Raises KeyFileError when the file is missing, is a link or no regular file, belongs to another
    user, can be used by group or others, or does not hold exactly one key.
    """
    with _opened(path) as fd:
        return _read(fd, path)


def check_key_file(path: Path) -> None:
    """Check everything about a key file but what is in it, which is not read.

    Raises KeyFileError as `read_key_file` does.
    """
    with _opened(path):
        return


@contextmanager
def hold_key_file(path: Path, wait_s: float = LOCK_WAIT_S) -> Iterator[SigningKey]:
    """Hold a key file for this process alone, and give the key in it.

    Raises KeyInUse when another process still holds it after `wait_s`, and KeyFileError as
    `read_key_file` does.
    """
    with _opened(path) as fd:
        _lock(fd, path, wait_s)
        yield _read(fd, path)


def forbid_dumps() -> None:
    """Keep this process's memory to itself: no core dumps, and no look into it by its own user.

    Linux, prctl(2): a process that is not dumpable cannot be traced, nor its memory be read, by
    any process but root's. Raises OSError if the system refuses.
    """
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(_PR_SET_DUMPABLE, *[ctypes.c_ulong(0)] * 4) != 0:
        raise OSError(ctypes.get_errno(), "prctl(PR_SET_DUMPABLE)")


def validator_index(public_key: bytes, genesis: Genesis, path: Path) -> int:
    """Return which validator of the chain has this key; raises KeyFileError if none has."""
    for index, validator in enumerate(genesis.validators):
        if validator.key_bytes == public_key:
            return index
    raise KeyFileError(
        f"the key in {path} is not a validator's of this chain", "put the right key file there"
    )


@contextmanager
def _opened(path: Path) -> Iterator[int]:
    """The descriptor of a key file that nobody but its owner can use."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except FileNotFoundError:
        raise KeyFileError(
            f"there is no validator key at {path}", "restore it or run `timed init`"
        ) from None
    except OSError as error:
        raise KeyFileError(
            f"cannot open {path} ({error.strerror})", "put the key file itself there, not a link"
        ) from error
    try:
        status = os.fstat(fd)
        if not stat.S_ISREG(status.st_mode):
            raise KeyFileError(f"{path} is not a regular file", "put the key file itself there")
        if credentials.is_one(path) and credentials.is_private(fd, os.geteuid()):
            yield fd
            return
        if status.st_uid != os.geteuid():
            raise KeyFileError(
                f"{path} belongs to user {status.st_uid}, and the node runs as {os.geteuid()}",
                f"chown {os.geteuid()} {path}",
            )
        if status.st_mode & 0o077:
            raise KeyFileError(
                f"others may use {path} (mode {stat.S_IMODE(status.st_mode):04o})",
                f"chmod 600 {path}",
            )
        yield fd
    finally:
        os.close(fd)


def _lock(fd: int, path: Path, wait_s: float) -> None:
    deadline_s = time.monotonic() + wait_s
    while True:
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return
        except BlockingIOError:
            if time.monotonic() >= deadline_s:
                holder = _holder(fd)
                by = f" (process {holder})" if holder else ""
                raise KeyInUse(
                    f"another process{by} signs with the key file {path} already",
                    "stop that node first; two that sign with one key would contradict each other "
                    "and be found out",
                ) from None
        except OSError as error:
            raise KeyFileError(
                f"cannot lock {path} ({error.strerror})", "keep it on a local file system"
            ) from error
        time.sleep(_LOCK_RETRY_S)


def _holder(fd: int) -> int | None:
    """The process that holds a file's lock, if the system tells (Linux, proc_locks(5))."""
    inode = str(os.fstat(fd).st_ino)
    try:
        lines = Path("/proc/locks").read_text("ascii", "replace").splitlines()
    except OSError:
        return None
    for fields in map(str.split, lines):
        # "1: FLOCK  ADVISORY  WRITE 1234 08:01:5678 0 EOF"; the device's number differs from
        # st_dev's on some file systems, so it is not compared
        if len(fields) >= 6 and fields[1] == "FLOCK" and fields[5].rpartition(":")[2] == inode:
            return int(fields[4]) if fields[4].isdigit() and fields[4] != "0" else None
    return None


def _read(fd: int, path: Path) -> SigningKey:
    return SigningKey(_parse(os.read(fd, KEY_FILE_MAX_BYTES), path))


def _parse(data: bytes, path: Path) -> bytes:
    fields = data.decode("ascii", "replace").split()
    if len(fields) == 3 and fields[0] == KEY_FILE_TAG:
        if fields[1] != KEY_FILE_VERSION:
            raise KeyFileError(
                f"{path} has format {fields[1][:16]}, and this version knows {KEY_FILE_VERSION}",
                "install the version that wrote it",
            )
        digits = fields[2]
        if len(digits) == 2 * KEY_BYTES and not set(digits) - set("0123456789abcdef"):
            return bytes.fromhex(digits)
    raise KeyFileError(f"{path} does not hold a validator key", "restore it from a backup")
