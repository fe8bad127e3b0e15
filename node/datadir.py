"""The data directory: what lies where, whose it is, and that one node at a time works in it.

``timed init`` makes the directory, every other command checks it here before touching anything
inside. Owns the FORMAT marker and the LOCK; knows the other files by name only. Nothing is
followed, repaired or overwritten by surprise: a symbolic link, a foreign or a newer directory is
an error that says what to do. The lock is the kernel's (flock): it goes with the process that
holds it, however that dies.
"""

from __future__ import annotations

import errno
import fcntl
import os
import re
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from node.errors import DatadirError, NodeRunning, from_os_error

FORMAT_VERSION: Final = 1
"""Of the directory's layout; raised when an older ``timed`` would not find its way. What lies in it
(store, block files, the signer's state, the mempool) has formats of its own."""

MIN_FREE_BYTES: Final = 64 * 1024 * 1024
"""Below this a node does not start: about ten seconds of blocks at full load."""

_MAY_BE_MISSING: Final = ("wal", "signer", "network", "evidence")
"""Backups may leave them out; whoever writes there makes them anew."""

_MAX_MARKER_BYTES: Final = 256
_MARKER = re.compile(r"timed (\d{1,9})(?: ([0-9a-f]{64}))?\n")


@dataclass(frozen=True, slots=True)
class Layout:
    """Absolute paths of everything in a data directory."""

    root: Path

    @property
    def config(self) -> Path:
        return self.root / "config.toml"

    @property
    def genesis(self) -> Path:
        return self.root / "genesis.json"

    @property
    def allocations(self) -> Path:
        return self.root / "genesis.alloc"

    @property
    def validator_key(self) -> Path:
        return self.root / "validator.key"

    @property
    def marker(self) -> Path:
        return self.root / "FORMAT"

    @property
    def unfinished(self) -> Path:
        """Lies there while ``timed init`` works, and after one that was interrupted."""
        return self.root / "INIT-UNFINISHED"

    @property
    def lock(self) -> Path:
        return self.root / "LOCK"

    @property
    def store(self) -> Path:
        return self.root / "store"

    @property
    def blocks(self) -> Path:
        return self.root / "blocks"

    @property
    def wal(self) -> Path:
        """The log of agreement; of no use on another machine."""
        return self.root / "wal"

    @property
    def signer(self) -> Path:
        """What the validator signed last; backups leave it out, an older copy is never put here."""
        return self.root / "signer"

    @property
    def network(self) -> Path:
        """What the node knows of others: addresses, bans, its own name among them."""
        return self.root / "network"

    @property
    def bans(self) -> Path:
        return self.network / "bans.json"

    @property
    def evidence(self) -> Path:
        """Proof that validators contradicted themselves."""
        return self.root / "evidence"

    @property
    def mempool(self) -> Path:
        return self.root / "mempool.dat"

    @property
    def run(self) -> Path:
        return self.root / "run"

    @property
    def control(self) -> Path:
        return self.run / "control.sock"


def layout(datadir: Path) -> Layout:
    """The layout below ``datadir``, made absolute (the directory itself may be a link)."""
    return Layout(datadir.expanduser().resolve())


def default_datadir(network: str) -> Path:
    """Where the data of ``network`` lies if nobody says otherwise."""
    return Path("~/.timecoin").expanduser() / network


def ensure_directory(path: Path) -> None:
    """Make a directory (0700) that a backup may have left out, durably; raises ``DatadirError``."""
    try:
        with suppress(FileExistsError):
            path.mkdir(mode=0o700)
        sync_directory(path.parent)
    except OSError as error:
        raise from_os_error(error, str(path)) or error from None


def create(where: Layout) -> None:
    """Make an empty data directory (0700) and mark it as unfinished.

    Raises ``DatadirError`` if there is something in it already, or it cannot be made.
    """
    root = where.root
    try:
        root.mkdir(mode=0o700, parents=True, exist_ok=True)
        found = sorted(os.listdir(root))
        if where.unfinished.name in found:
            raise DatadirError(
                f"an earlier timed init in {root} was interrupted",
                f"delete that directory (rm -r {root}) and run timed init again",
            )
        if where.marker.name in found:
            raise DatadirError(
                f"{root} is a data directory already", "use it, or give another --datadir"
            )
        if found:
            raise DatadirError(
                f"{root} is not empty (it has {found[0]!r})", "give a new or empty --datadir"
            )
        root.chmod(0o700)
        write_new(where.unfinished, b"timed init did not finish here\n")
        check_space(root)
        for directory in (
            where.blocks,
            where.wal,
            where.signer,
            where.network,
            where.evidence,
            where.run,
        ):
            directory.mkdir(mode=0o700)
    except OSError as error:
        raise from_os_error(error, str(root)) or error from None


def finish(where: Layout, genesis_id: bytes) -> None:
    """Mark a directory that ``create`` made, and that is now complete, as ready for use."""
    write_new(where.marker, f"timed {FORMAT_VERSION} {genesis_id.hex()}\n".encode())
    where.unfinished.unlink()
    sync_directory(where.root)


def write_new(path: Path, content: bytes, mode: int = 0o600) -> None:
    """Write a file that must not exist yet, durably; removed again if that fails half-way."""
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, mode)
    try:
        try:
            os.fchmod(fd, mode)
            view = memoryview(content)
            while view:
                view = view[os.write(fd, view) :]
            os.fsync(fd)
        finally:
            os.close(fd)
    except OSError:
        path.unlink(missing_ok=True)
        raise
    sync_directory(path.parent)


def sync_directory(path: Path) -> None:
    """Make the names in a directory durable."""
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def read_small(path: Path, max_bytes: int) -> bytes:
    """Read a regular file of at most ``max_bytes``; links, pipes and devices are not followed."""
    fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    with os.fdopen(fd, "rb") as file:
        found = os.fstat(fd)
        if not stat.S_ISREG(found.st_mode):
            raise DatadirError(f"{path} is not a regular file", "put the file itself there")
        if found.st_size > max_bytes:
            raise DatadirError(
                f"{path} has {found.st_size:,} bytes, more than the {max_bytes:,} that it may have",
                "put the right file there",
            )
        return file.read(max_bytes)


def check(where: Layout) -> bytes:
    """Check that this is a complete data directory of ours, readable; returns its genesis id.

    Raises ``DatadirError`` naming what it is instead. Writes nothing.
    """
    root = where.root
    try:
        names = os.listdir(root)
        _check_owner(root)
        if where.unfinished.name in names:
            raise DatadirError(
                f"timed init in {root} was interrupted",
                f"delete that directory (rm -r {root}) and run timed init again",
            )
        if where.marker.name not in names:
            raise DatadirError(
                f"{root} is not a data directory of timed",
                f"make one with: timed init --datadir {root}"
                if not names
                else "give the --datadir that timed init made",
            )
        genesis_id = _read_marker(where.marker)
        _check_kinds(where, names)
    except FileNotFoundError as error:
        raise DatadirError(
            f"{error.filename} does not exist",
            f"make a data directory with: timed init --datadir {root}"
            if not root.exists()
            else "put it back from a backup",
        ) from None
    except OSError as error:
        raise from_os_error(error, str(root)) or error from None
    return genesis_id


def check_writable(where: Layout) -> None:
    """Check that a node can write in the data directory: permission, file system, space."""
    probe = where.run / f".probe-{os.getpid()}"
    try:
        check_space(where.root)
        for directory in (
            where.root,
            where.store,
            where.blocks,
            where.wal,
            where.signer,
            where.network,
            where.evidence,
            where.run,
        ):
            if directory.name in _MAY_BE_MISSING and not directory.exists():
                continue
            if not os.access(directory, os.W_OK | os.X_OK, effective_ids=True):
                read_only = os.statvfs(directory).f_flag & os.ST_RDONLY
                number = errno.EROFS if read_only else errno.EACCES
                raise OSError(number, os.strerror(number), str(directory))
        write_new(probe, b"\0" * 4096)
        probe.unlink()
    except OSError as error:
        raise from_os_error(error, str(where.root)) or error from None


def check_space(path: Path, min_free_bytes: int = MIN_FREE_BYTES) -> None:
    """Check that the file system of ``path`` has room to work in."""
    found = os.statvfs(path)
    free_bytes = found.f_bavail * found.f_frsize
    if free_bytes < min_free_bytes:
        raise DatadirError(
            f"only {free_bytes // 1_000_000} MB are free on the device of {path}",
            f"free some space: at least {min_free_bytes // 1_000_000} MB are needed to start",
        )


@contextmanager
def locked(where: Layout, *, touch: bool = True) -> Iterator[None]:
    """Hold the data directory for this process; raises ``NodeRunning`` if another one has it.

    The lock file names the holder, for the message that others get; not without ``touch``.
    """
    try:
        fd = os.open(
            where.lock, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, 0o600
        )
    except OSError as error:
        raise from_os_error(error, str(where.lock)) or error from None
    try:
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            holder = os.pread(fd, 20, 0).decode("ascii", "replace").strip()
            by = f" (process {holder})" if holder.isdigit() else ""
            raise NodeRunning(
                f"a node{by} is running on {where.root} already",
                "stop that one first, or give another --datadir",
            ) from None
        if touch:
            os.ftruncate(fd, 0)
            os.pwrite(fd, f"{os.getpid()}\n".encode(), 0)
        yield
    finally:
        os.close(fd)


def in_use(where: Layout) -> bool:
    """Whether some process holds the data directory now."""
    try:
        with locked(where, touch=False):
            return False
    except NodeRunning:
        return True


def _read_marker(path: Path) -> bytes:
    text = read_small(path, _MAX_MARKER_BYTES).decode("ascii", "replace")
    found = _MARKER.fullmatch(text)
    if found is None:
        raise DatadirError(
            f"{path} does not say what it should; this is not a data directory of timed, or it is "
            "damaged",
            "give the --datadir that timed init made, or put that file back from a backup",
        )
    version, genesis_id = int(found[1]), found[2]
    if version > FORMAT_VERSION:
        raise DatadirError(
            f"{path.parent} was written by a newer timed (format {version}; this one knows "
            f"{FORMAT_VERSION})",
            "install that newer timed, or restore the backup made before it",
        )
    if version < FORMAT_VERSION or genesis_id is None:
        raise DatadirError(
            f"{path} names format {version} and no chain that this timed knows",
            "put that file back from a backup",
        )
    return bytes.fromhex(genesis_id)


def _check_owner(root: Path) -> None:
    found = root.stat()
    if found.st_uid != os.geteuid():
        raise DatadirError(
            f"{root} belongs to user {found.st_uid} and this process runs as {os.geteuid()}",
            "run as that user, or give it another owner (chown -R)",
        )
    if found.st_mode & 0o022:
        raise DatadirError(
            f"others may write in {root} (mode {stat.S_IMODE(found.st_mode):04o})",
            f"take that away: chmod 700 {root}",
        )


def _check_kinds(where: Layout, names: list[str]) -> None:
    """Directories are directories and files are files: links are not followed."""
    there = [where.root / name for name in _MAY_BE_MISSING if name in names]
    for path in (where.store, where.blocks, where.run, *there):
        if not stat.S_ISDIR(path.lstat().st_mode):
            raise DatadirError(f"{path} is not a directory", "put the directory itself there")
    files = [where.genesis, where.allocations, where.config]
    if where.validator_key.name in names:  # or it is a credential of the service
        files.append(where.validator_key)
    for path in files:
        if not stat.S_ISREG(path.lstat().st_mode):
            raise DatadirError(f"{path} is not a regular file", "put the file itself there")
    for path in (where.run, *there):
        if stat.S_IMODE(path.stat().st_mode) & 0o077:
            raise DatadirError(f"others may enter {path}", f"take that away: chmod 700 {path}")
