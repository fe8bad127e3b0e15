"""The validator's key file: one Ed25519 seed, readable by its owner and by nobody else.

``timed init`` creates it, the process that signs reads it once at start. The file is text, so that
an operator can tell it from damage: ``timed-validator-key 1 <64 hexadecimal digits>``.
"""

from __future__ import annotations

import os
import stat
from pathlib import Path

from nacl.signing import SigningKey

from node.errors import NodeError
from node.params import KEY_BYTES

KEY_FILE_TAG = "timed-validator-key"
KEY_FILE_VERSION = "1"
KEY_FILE_MAX_BYTES = 4096


class KeyFileError(NodeError):
    """A key file that may not be used as it is."""


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
        data = os.read(fd, KEY_FILE_MAX_BYTES)
    finally:
        os.close(fd)
    return SigningKey(_parse(data, path))


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
