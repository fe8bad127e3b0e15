"""bans.json, which a running hub and an operator's `timed bans` both write.

The file is the truth at rest. Its writers take turns by a lock on ``bans.json.lock`` and replace it
as a whole. A hub looks every two seconds whether it is still the file that it read or wrote last;
if not, it takes over what others did to that content. An entry that is gone was lifted, one that is
new or different is a ban; whatever the hub itself has banned since, or banned again, stays, and
goes into the file. A file that is gone has no entries. One that is damaged is told and left alone
until the hub has something of its own to write.

Nothing here waits: whoever finds the lock taken is told (`Busy`), and a hub comes back later. What
kills it: nothing; what fails is told.
"""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final, NamedTuple

from node.network.address import site_of
from node.network.bans import BanTable
from node.network.persisted import FILE_MODE, read_json, write_json

LOCK_SUFFIX: Final = ".lock"

_Bans = dict[str, tuple[int, str]]  # site -> until (ms since 1970), reason
_Mark = tuple[int, int, int]  # inode, when changed (ns), size


class Busy(Exception):
    """Somebody else is writing the file; it takes a moment."""


class BansFileError(Exception):
    """The file cannot be used; the message says why."""


class Exchanged(NamedTuple):
    """What came of a look at the file."""

    banned: tuple[str, ...] = ()  # sites that others have banned
    ignored: str | None = None  # why the file was not read
    not_written: str | None = None  # why the hub's own bans are not in it


class BansFile:
    """A hub's side of the file: it remembers what the file held when it saw it last."""

    def __init__(self, path: str) -> None:
        self._path = path
        self._seen: _Bans = {}
        self._mark: _Mark | None = None  # of what was seen; None: there was no file

    def load(self, table: BanTable, now_ms: int) -> str | None:
        """Take in the bans of the file; None, or what is wrong with it."""
        return self._take_over(table, now_ms)[1]

    def exchange(self, table: BanTable, now_ms: int) -> Exchanged:
        """Take over what others changed, write what the table has that the file has not.

        Does nothing while somebody else writes.
        """
        if not table.changed and self._mark == _mark(self._path):
            return Exchanged()
        try:
            with turn(self._path):
                banned, ignored = self._take_over(table, now_ms)
                not_written = None
                if table.changed:
                    table.changed = False
                    not_written = self._write(table, now_ms)
                return Exchanged(banned, ignored, not_written)
        except Busy:
            return Exchanged()
        except BansFileError as error:
            table.changed = False  # not again before there is something new
            return Exchanged(not_written=str(error))

    def _write(self, table: BanTable, now_ms: int) -> str | None:
        wrong = write_json(self._path, table.to_json(now_ms))
        if wrong is None:
            self._seen = table.bans(now_ms)
            self._mark = _mark(self._path)
        return wrong

    def _take_over(self, table: BanTable, now_ms: int) -> tuple[tuple[str, ...], str | None]:
        mark = _mark(self._path)  # before it is read: what comes in between is noticed next time
        if mark == self._mark:
            return (), None
        self._mark = mark
        try:
            found = read_bans(self._path, now_ms)
        except BansFileError as error:
            return (), str(error)
        own_changes = table.changed
        here = table.bans(now_ms)
        banned = []
        for site in self._seen.keys() | found.keys():
            before, theirs, own = self._seen.get(site), found.get(site), here.get(site)
            if theirs == before or own not in (before, None):
                continue  # it is as it was, or the hub has banned it anew
            if theirs is None:
                table.unban(site)
            else:
                until_ms, reason = theirs
                table.ban(site, reason, now_ms, until_ms - now_ms)
                banned.append(site)
        table.changed = own_changes
        self._seen = found
        return tuple(banned), None


def read_bans(path: str, now_ms: int) -> _Bans:
    """Return the bans in a file that hold now, none if there is no file.

    Raises BansFileError if it cannot be read.
    """
    content, wrong = read_json(path)
    if wrong is not None:
        raise BansFileError(wrong)
    table = BanTable()
    table.load(content, now_ms)
    return table.bans(now_ms)


def lift(path: str, host: str, now_ms: int) -> str | None:
    """Take the ban of an address, or of a site, out of a file; the site, or None if it has none.

    Raises BansFileError if the file cannot be read or written, Busy to try again.
    """
    with turn(path):
        content, wrong = read_json(path)
        if wrong is not None:
            raise BansFileError(wrong)
        table = BanTable()
        table.load(content, now_ms)
        before = table.bans(now_ms)
        if not table.unban(host):
            return None
        wrong = write_json(path, table.to_json(now_ms))
        if wrong is not None:
            raise BansFileError(wrong)
        (site,) = before.keys() - table.bans(now_ms).keys()
        return site


def put(path: str, host: str, reason: str, now_ms: int, for_ms: int) -> str:
    """Put a ban of an IP address into a file, or lengthen it; returns the site that is banned.

    Raises BansFileError if the file cannot be read or written, Busy to try again.
    """
    with turn(path):
        content, wrong = read_json(path)
        if wrong is not None:
            raise BansFileError(wrong)
        table = BanTable()
        table.load(content, now_ms)
        table.ban(host, reason, now_ms, for_ms)
        wrong = write_json(path, table.to_json(now_ms))
        if wrong is not None:
            raise BansFileError(wrong)
        return site_of(host)


def clear(path: str) -> None:
    """Lift all bans; raises as `put`."""
    with turn(path):
        wrong = write_json(path, [])
        if wrong is not None:
            raise BansFileError(wrong)


@contextmanager
def turn(path: str) -> Iterator[None]:
    """Be the only one to write the file; raises Busy, and BansFileError if there is no way."""
    flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW
    try:
        fd = os.open(path + LOCK_SUFFIX, flags, FILE_MODE)
    except OSError as error:
        raise BansFileError(f"cannot write {path}{LOCK_SUFFIX} ({error.strerror})") from error
    try:
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise Busy from None
        yield
    finally:
        os.close(fd)


def _mark(path: str) -> _Mark | None:
    try:
        about = os.stat(path)
    except OSError:
        return None
    return about.st_ino, about.st_mtime_ns, about.st_size
