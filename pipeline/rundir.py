"""The run directory: where the sockets of one running pipeline lie, and nothing that must last.

The supervisor opens it, and by that owns it: one lock is the supervisor's own, a second one is
shared with every child, so it is free only when the last process of the pipeline is gone. A
supervisor that follows a killed one waits for that, and only then removes the sockets that were
left behind. Locks are the kernel's (flock) and go with their holders, however these die.
"""

from __future__ import annotations

import fcntl
import os
import stat
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from pipeline.errors import RunDirectoryError

CREW_LOCK = "crew.lock"
CREW_WAIT_S = 10.0  # children die with their supervisor, unless they wait for a disk
CREW_POLL_S = 0.02


class RunDirectory:
    """An open and locked run directory: ``fd``, and ``crew_fd``, the lock to pass to children."""

    def __init__(self, path: Path, fd: int, crew_fd: int) -> None:
        self.path = path
        self.fd = fd
        self.crew_fd = crew_fd

    @staticmethod
    def open(path: Path, *, crew_wait_s: float = CREW_WAIT_S) -> RunDirectory:
        """Make, check (ours, 0700), lock and tidy the directory.

        Raises RunDirectoryError if it cannot be used, or processes are at work in it.
        """
        path = Path(os.path.abspath(path))
        fd = crew_fd = -1
        try:
            with suppress(FileExistsError):
                os.mkdir(path, 0o700)
            fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            about = os.fstat(fd)
            if about.st_uid != os.geteuid():
                raise RunDirectoryError(
                    f"{path} belongs to user {about.st_uid}; run as that user or change its owner"
                )
            if stat.S_IMODE(about.st_mode) != 0o700:
                os.fchmod(fd, 0o700)
            if not _lock(fd):
                raise RunDirectoryError(f"a node is running in {path}; stop it first")
            crew_fd = os.open(
                CREW_LOCK,
                os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW,
                0o600,
                dir_fd=fd,
            )
            deadline_s = time.monotonic() + crew_wait_s
            while not _lock(crew_fd):
                if time.monotonic() >= deadline_s:
                    raise RunDirectoryError(
                        f"processes of an earlier run still hold {path}/{CREW_LOCK}; "
                        "find them (fuser) and end them"
                    )
                time.sleep(CREW_POLL_S)
            directory = RunDirectory(path, fd, crew_fd)
            directory.remove_sockets()
        except OSError as error:
            _close(fd, crew_fd)
            raise RunDirectoryError(
                f"cannot use {path}: {error.strerror}; make it a writable directory of this user"
            ) from error
        except RunDirectoryError:
            _close(fd, crew_fd)
            raise
        return directory

    def remove_sockets(self) -> None:
        """Remove what bound sockets leave behind; other files stay."""
        with os.scandir(self.fd) as entries:
            names = [
                e.name for e in entries if stat.S_ISSOCK(e.stat(follow_symlinks=False).st_mode)
            ]
        for name in names:
            with suppress(FileNotFoundError):
                os.unlink(name, dir_fd=self.fd)

    @contextmanager
    def entered(self) -> Iterator[None]:
        """Have it as the working directory."""
        before = os.open(".", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        os.fchdir(self.fd)
        try:
            yield
        finally:
            with suppress(OSError):  # that directory was removed or closed to us meanwhile
                os.fchdir(before)
            os.close(before)

    def close(self) -> None:
        """Let go of directory and locks."""
        _close(self.fd, self.crew_fd)


def _lock(fd: int) -> bool:
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _close(*fds: int) -> None:
    for fd in fds:
        if fd >= 0:
            os.close(fd)
