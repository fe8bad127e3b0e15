"""What RocksDB says went wrong, as the errors of the store.

RocksDB reports in words alone; here they become one of ``node.storage.errors``, each with cause
and remedy. Used wherever the store's modules call the database; owns nothing.
"""

from __future__ import annotations

import fcntl
import os
import struct
from pathlib import Path

from rocksdict import AccessType, DbClosedError, Options, Rdict

from node.storage.entries import META_FORMAT, OLDEST_FORMAT, STORE_FORMAT
from node.storage.errors import (
    DAMAGED_REMEDY,
    DENIED_REMEDY,
    FAILED_REMEDY,
    FULL_REMEDY,
    NEWER_REMEDY,
    NewerStore,
    OlderStore,
    StoreDamaged,
    StoreError,
    StoreFailed,
    StoreFull,
    StoreLocked,
    StoreUnwritable,
)

# how the parts of RocksDB that return text name what errno names (strerror, and its own words)
_FULL_WORDS = ("No space left on device", "File too large", "Disk quota exceeded", "Space limit")
_DENIED_WORDS = ("Permission denied", "Read-only file system", "Operation not permitted")
_DAMAGE_WORDS = ("Corruption", "No such file or directory", "does not exist")


def explain(error: Exception, path: Path, doing: str) -> StoreError:
    """The StoreError for what RocksDB reports, which it does in words alone."""
    if isinstance(error, StoreError):
        return error
    text = " ".join(str(error).split())
    cause = f"cannot {doing} {path} ({text})"
    if isinstance(error, DbClosedError):
        return StoreFailed(f"{path} is closed", FAILED_REMEDY)
    if "lock hold by current process" in text or "While lock file" in text:
        holder = _lock_holder(path / "LOCK")
        return StoreLocked(f"{path} is in use by {holder}", "stop it first")
    if any(words in text for words in _FULL_WORDS):
        return StoreFull(cause, FULL_REMEDY)
    if any(words in text for words in _DENIED_WORDS):
        return StoreUnwritable(cause, DENIED_REMEDY)
    if "Column family not found" in text:  # before the format is read
        return _lacking_families(path)
    if "Column families not opened" in text or "Unknown Footer version" in text:
        return NewerStore(f"{path} was written by a newer version ({text})", NEWER_REMEDY)
    if any(words in text for words in _DAMAGE_WORDS):
        return StoreDamaged(cause, DAMAGED_REMEDY)
    return StoreFailed(cause, FAILED_REMEDY)


def _lacking_families(path: Path) -> StoreError:
    """Why there are fewer families than there should be: an older version, or damage."""
    try:
        version = format_of(path)
    except Exception as error:
        return StoreDamaged(f"{path} is damaged ({error})", DAMAGED_REMEDY)
    if 0 < version < OLDEST_FORMAT:
        return older(path)
    return StoreDamaged(f"{path} is damaged: parts of it are missing", DAMAGED_REMEDY)


def format_of(path: Path) -> int:
    """The format of a store with whatever families there are, 0 if it has none; only reads it."""
    families = {name: Options(raw_mode=True) for name in Rdict.list_cf(str(path))}
    options = Options(raw_mode=True)
    database = Rdict(str(path), options, families, access_type=AccessType.read_only())
    try:
        return int.from_bytes(database.get(META_FORMAT) or b"", "little")
    finally:
        database.close()


def older(path: Path) -> OlderStore:
    return OlderStore(
        f"{path} was made by an older version and lacks what format {STORE_FORMAT} holds",
        "make a new data directory with `timed init`",
    )


def _lock_holder(lock: Path) -> str:
    """Who holds the lock on RocksDB's lock file, as the kernel tells it."""
    question = struct.pack("hhqqi4x", fcntl.F_WRLCK, os.SEEK_SET, 0, 0, 0)
    try:
        with lock.open("r+b") as file:
            kind, _, _, _, pid = struct.unpack(
                "hhqqi4x", fcntl.fcntl(file, fcntl.F_GETLK, question)
            )
    except OSError:
        return "another process"
    # a process does not conflict with its own locks: unlocked then means that it is ours
    return f"process {pid}" if kind != fcntl.F_UNLCK and pid > 0 else "this process already"
