"""What can go wrong between the node and its disk, each with its cause and remedy in one line.

Raised by ``node.storage.chain`` and ``node.storage.blockfile``; printed by whoever started the
process that owns the store, which then exits with status 2: none of these is cured by trying
again.
"""

from __future__ import annotations

import errno
from pathlib import Path

from node.errors import NodeError

FULL_REMEDY = "free some space (or raise the quota or ulimit -f), then start again"
DENIED_REMEDY = "give the node's user read and write access to it"
FAILED_REMEDY = "check the disk and the kernel's log, then start again"
NEWER_REMEDY = "install the version that wrote it, or restore the backup made before it did"
DAMAGED_REMEDY = "restore the data directory from a backup or another node"


class StoreError(NodeError):
    """A store or block file that the operator has to look at; the cause names its path."""


class StoreMissing(StoreError):
    """There is no store, or only the remains of one whose creation was interrupted."""


class StoreExists(StoreError):
    """A store is to be created where one already is."""


class ForeignStore(StoreError):
    """The store or the block files belong to another chain (another genesis)."""


class NewerStore(StoreError):
    """The files were written in a format that this version does not know."""


class OlderStore(StoreError):
    """The files were written in a format that this version no longer reads."""


class StoreLocked(StoreError):
    """Another process has the store open."""


class StoreDamaged(StoreError):
    """Bytes are missing or wrong where a crash cannot have made them so."""


class StoreFull(StoreError):
    """The disk, a quota or a limit on file size leaves no room."""


class StoreUnwritable(StoreError):
    """The directory or a file in it may not be read or written by this user."""


class StoreFailed(StoreError):
    """The disk or the database reported an error that is none of the others."""


_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
_DENIED = {errno.EACCES, errno.EPERM, errno.EROFS}


def store_error(error: OSError, path: Path, doing: str) -> StoreError:
    """Return the error to raise for a failed system call on a path (doing: "write", "open")."""
    cause = f"cannot {doing} {path} ({error.strerror or error})"
    if error.errno in _FULL:
        return StoreFull(cause, FULL_REMEDY)
    if error.errno in _DENIED:
        return StoreUnwritable(cause, DENIED_REMEDY)
    return StoreFailed(cause, FAILED_REMEDY)
