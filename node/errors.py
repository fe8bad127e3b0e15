"""What can be wrong with a node that its operator can put right.

Raised by everything that reads what an operator wrote, placed or set up; caught in one place
(``node.__main__`` in the parent, ``pipeline.child`` in a stage), where it becomes one line on
standard error and exit status 2. An error that only a programmer can put right never is one of
these.
"""

from __future__ import annotations

import errno

from pipeline.errors import OperatorError


class NodeError(OperatorError):
    """Something that the operator can put right: what is wrong, and what to do about it."""

    def __init__(self, cause: str, remedy: str) -> None:
        super().__init__(f"{cause}; {remedy}")
        self.cause = cause
        self.remedy = remedy

    def __reduce__(self) -> tuple[type[NodeError], tuple[str, str]]:
        return type(self), (self.cause, self.remedy)


class UsageError(NodeError):
    """A command was given what it cannot work with."""


class ConfigError(NodeError):
    """config.toml cannot be used as it is."""


class DatadirError(NodeError):
    """The data directory is missing, foreign, newer, damaged, unwritable or full."""


class NodeRunning(NodeError):
    """Another process works on this data directory."""


class NotRunning(NodeError):
    """No node answers for this data directory."""


class ListenError(NodeError):
    """An address that the node shall listen on cannot be had."""


class CheckFailed(NodeError):
    """Several checks of a data directory failed; each was reported already."""


class PreflightError(NodeError):
    """The verification backend did not survive being tried."""


_CAUSES = {
    errno.ENOSPC: ("no space left on the device of {0}", "free some space and try again"),
    errno.EDQUOT: ("the disk quota of {0} is used up", "raise the quota or free some space"),
    errno.EFBIG: (
        "{0} would exceed the limit on file sizes",
        "raise it (ulimit -f) and try again",
    ),
    errno.EACCES: ("no permission for {0}", "run as the user that owns it, or change its owner"),
    errno.EPERM: ("no permission for {0}", "run as the user that owns it, or change its owner"),
    errno.EROFS: (
        "{0} is on a read-only file system",
        "mount it writable or use another --datadir",
    ),
    errno.ENOENT: ("{0} does not exist", "check the path"),
    errno.EEXIST: ("{0} is there already and is no directory", "give another --datadir"),
    errno.ENOTDIR: ("a part of the path {0} is not a directory", "check the path"),
    errno.EISDIR: ("{0} is a directory where a file belongs", "move it away"),
    errno.ELOOP: ("{0} is a symbolic link", "put the file itself there"),
    errno.ENAMETOOLONG: ("the path {0} is too long", "use a shorter --datadir"),
    errno.EMFILE: ("too many open files at {0}", "raise the limit (ulimit -n 4096)"),
    errno.EIO: ("the device of {0} reports an input/output error", "check the disk (dmesg)"),
}


def from_os_error(error: OSError, path: str) -> NodeError | None:
    """The operator's view of a failed file operation on ``path``; None if it is not his to mend."""
    if error.errno not in _CAUSES:
        return None
    cause, remedy = _CAUSES[error.errno]
    return DatadirError(cause.format(error.filename or path), remedy)
