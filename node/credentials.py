"""Secrets that the service manager hands to the node: systemd's credentials (systemd.exec(5)).

With ``LoadCredential=validator.key:...`` in its unit the node finds the file in a directory that
``CREDENTIALS_DIRECTORY`` names, in memory that is never swapped, and the data directory holds no
key at all. Such a file belongs to the user of the service, or to root with an access list that
lets that user read and nobody else: both are read-only. Reads the environment and files' metadata;
owns nothing.
"""

from __future__ import annotations

import os
import stat
import struct
from collections.abc import Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Final

VALIDATOR_KEY: Final = "validator.key"
"""Name of the credential, and of the file in a data directory, with the validator's key."""

_DIRECTORY_VARIABLE: Final = "CREDENTIALS_DIRECTORY"
_ROOT: Final = 0

# Linux, acl(5) as the extended attribute holds it (include/uapi/linux/posix_acl_xattr.h).
_ACL_ATTRIBUTE: Final = "system.posix_acl_access"
_ACL_VERSION: Final = 2
_ACL_HEADER: Final = struct.Struct("<I")
_ACL_ENTRY: Final = struct.Struct("<HHI")  # tag, permissions, id
_ACL_USER_OBJECT: Final = 0x01
_ACL_USER: Final = 0x02
_ACL_MASK: Final = 0x10
_ACL_READ: Final = 4


def find(name: str, environment: Mapping[str, str] = os.environ) -> Path | None:
    """The path of a credential, None if the node was given none of that name."""
    directory = _directory(environment)
    if directory is None or not os.path.lexists(directory / name):
        return None
    return directory / name


def is_one(path: Path, environment: Mapping[str, str] = os.environ) -> bool:
    """Whether a path is that of a credential."""
    return path.parent == _directory(environment)


def is_private(fd: int, user: int) -> bool:
    """Whether an open credential of root's is for this user alone to read, and nobody's to write.

    Root's own access does not count.
    """
    found = os.fstat(fd)
    mode = stat.S_IMODE(found.st_mode)
    if found.st_uid != _ROOT or mode & ~0o440:
        return False
    if mode & 0o040 == 0:
        return True
    # With an access list the group's bits show its mask: the list itself has to be looked at.
    entries = list(_access_list(fd))
    allowed = {(tag, id_) for tag, bits, id_ in entries if bits and tag != _ACL_MASK}
    users = {id_ for tag, id_ in allowed if tag == _ACL_USER}
    kinds = {tag for tag, _ in allowed}
    read_only = all(bits & ~_ACL_READ == 0 for _, bits, _ in entries)
    return (
        bool(entries) and read_only and users <= {user} and kinds <= {_ACL_USER_OBJECT, _ACL_USER}
    )


def _directory(environment: Mapping[str, str]) -> Path | None:
    text = environment.get(_DIRECTORY_VARIABLE, "")
    return Path(text) if os.path.isabs(text) else None


def _access_list(fd: int) -> Iterator[tuple[int, int, int]]:
    """The entries of a file's access list: tag, permissions, id; none if it has no list."""
    data = b""
    with suppress(OSError):  # no list, or a file system that knows none
        data = os.getxattr(fd, _ACL_ATTRIBUTE)
    if len(data) < _ACL_HEADER.size or _ACL_HEADER.unpack_from(data)[0] != _ACL_VERSION:
        return
    body = data[_ACL_HEADER.size :]
    if len(body) % _ACL_ENTRY.size == 0:
        yield from _ACL_ENTRY.iter_unpack(body)
