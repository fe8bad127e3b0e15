"""A disk that keeps what it promised and nothing more: `node.durable.Files` in memory.

Code under test writes to it; `crash` draws from a generator what of the unsynced rest survives and
gives the disk after the reboot. A file's content is volatile until it is synced: of what was
appended any part can be there, torn at any byte, or with zeros where a page in between did not
arrive; a file cut or written anew can be the old, the new, or pages of both. Names are volatile
until the directory is synced: the changes since then survive up to any one of them, in order,
whatever became of the files' contents. A synced byte is never touched. Of what was written in place
since the last sync each page is there or not.

`on_operation` is asked before every operation that changes something and may raise `PowerCut` with
the moment at which the power fails; `cut_at` does so for one of them. Nothing large is ever copied:
`crash` takes the contents over, and the disk before the crash is dead.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from enum import Enum
from random import Random

PAGE_SIZES_BYTES = (64, 512, 4096)  # what arrives or not as a whole; small ones for small records


class When(Enum):
    """At which moment of an operation the power fails."""

    BEFORE = "before"
    TORN = "torn"  # part of it was done
    AFTER = "after"


class PowerCut(BaseException):
    """The power failed; no handler of ordinary errors may hold it up."""

    def __init__(self, when: When = When.BEFORE) -> None:
        super().__init__(when.value)
        self.when = when


class _Content:
    """A file without its name: `data` is what a reader sees now."""

    __slots__ = ("base", "data", "in_place", "old", "synced")

    def __init__(self, data: bytearray) -> None:
        self.data = data
        self.synced = len(data)  # so many bytes of `data` are durable, if `old` is None
        self.old: bytearray | None = None  # what is durable, if it was cut or replaced since
        self.base = 0  # so many bytes at the front of `data` and `old` are the same
        self.in_place: bytearray | None = None  # what is durable, if it was written in place since

    def append(self, data: bytes | memoryview) -> None:
        self.data += data

    def overwrite(self, offset: int, data: bytes) -> None:
        assert self.old is None, "nothing is written in place before it is synced as a whole"
        assert offset + len(data) <= self.synced == len(self.data)
        if self.in_place is None:
            self.in_place = bytearray(self.data)
        self.data[offset : offset + len(data)] = data

    def cut(self, size_bytes: int) -> None:
        assert self.in_place is None, "what is written in place keeps its size"
        data = self.data
        if self.old is not None:
            self.base = min(self.base, size_bytes)
            del data[size_bytes:]
        elif size_bytes >= self.synced:
            del data[size_bytes:]
        else:
            self.data = data[:size_bytes]
            del data[self.synced :]
            self.old = data
            self.base = size_bytes

    def sync(self) -> None:
        self.old = self.in_place = None
        self.synced = len(self.data)

    def sync_partly(self) -> None:
        if self.in_place is not None:
            half = len(self.data) // 2
            self.in_place[:half] = self.data[:half]
        elif self.old is None:
            self.synced += (len(self.data) - self.synced) // 2

    def survive(self, rng: Random) -> _Content:
        """What is there after a crash; this content is used up."""
        data = self.data
        if self.in_place is not None:
            for start, end in _missing(data, 0, rng):
                data[start:end] = self.in_place[start:end]
            return _Content(data)
        if self.old is None:
            _lose(data, self.synced, rng)
            return _Content(data)
        luck = rng.random()
        if luck < 0.4:
            return _Content(self.old)
        if luck < 0.6:
            for start, end in _missing(self.old, self.base, rng):
                new = data[start:end]
                self.old[start : start + len(new)] = new
            return _Content(self.old)
        _lose(data, self.base, rng)
        return _Content(data)


class SimDisk:
    """The files of one directory; see the module's head.

    `operations` counts what changed something: create, append, update, write, sync, rename, remove,
    truncate and sync_directory. Numbers given to `on_operation` begin at 0.
    """

    def __init__(self, files: Mapping[str, bytes] | None = None) -> None:
        self._files = {name: _Content(bytearray(data)) for name, data in (files or {}).items()}
        self._durable = dict(self._files)
        self._changes: list[tuple[str, str | None, _Content | None]] = []  # name, old name, content
        self._dead = False
        self.operations = 0
        self.on_operation: Callable[[int, str], None] | None = None

    # -- node.durable.Files ----------------------------------------------------------------------

    def path(self, name: str) -> str:
        return f"sim/{name}"

    def names(self) -> list[str]:
        self._check_alive()
        return sorted(self._files)

    def read(self, name: str) -> bytes:
        self._check_alive()
        return bytes(self._content(name).data)

    def append_to(self, name: str) -> SimAppendFile:
        self._check_alive()
        content = self._files.get(name)
        if content is None:
            content = _Content(bytearray())
            self._operate("create", lambda: self._change(name, None, content))
        return SimAppendFile(self, content)

    def update(self, name: str) -> SimFixedFile:
        self._check_alive()
        return SimFixedFile(self, self._content(name))

    def write(self, name: str, data: bytes) -> None:
        content = self._files.get(name)

        def replace(part: bytes) -> None:
            if content is None:
                new = _Content(bytearray())
                new.append(part)
                self._change(name, None, new)
            else:
                content.cut(0)
                content.append(part)

        self._operate("write", lambda: replace(data), lambda: replace(data[: len(data) // 2]))

    def sync(self, name: str) -> None:
        self._check_alive()
        content = self._content(name)
        self._operate("sync", content.sync, content.sync_partly)

    def rename(self, old: str, new: str) -> None:
        self._check_alive()
        content = self._content(old)
        self._operate("rename", lambda: self._change(new, old, content))

    def remove(self, name: str) -> None:
        self._check_alive()
        self._content(name)
        self._operate("remove", lambda: self._change(name, None, None))

    def truncate(self, name: str, size_bytes: int) -> None:
        self._check_alive()
        content = self._content(name)
        self._operate("truncate", lambda: content.cut(size_bytes))

    def sync_directory(self) -> None:
        self._operate(
            "sync_directory",
            lambda: self._make_durable(len(self._changes)),
            lambda: self._make_durable(len(self._changes) // 2),
        )

    # -- the power -------------------------------------------------------------------------------

    def cut_at(self, number: int, when: When) -> None:
        """Have the power fail at this operation (counted from 0)."""

        def fail(at: int, name: str) -> None:
            if at == number:
                raise PowerCut(when)

        self.on_operation = fail

    def crash(self, rng: Random) -> SimDisk:
        """Return the disk after power was lost and came back; this one is dead from then on."""
        self._dead = True
        self._make_durable(rng.randint(0, len(self._changes)) if self._changes else 0)
        after = SimDisk()
        after._files = {name: content.survive(rng) for name, content in self._durable.items()}
        after._durable = dict(after._files)
        self._files = self._durable = {}
        return after

    # -- for tests -------------------------------------------------------------------------------

    def synced_bytes(self, name: str) -> int:
        """How many bytes at the front of a file no crash can take; 0 if its name is not durable.

        Not for files that are written in place.
        """
        content = self._durable.get(name)
        if content is None or content is not self._files.get(name):
            return 0
        return content.synced if content.old is None else content.base

    def holds(self, name: str, piece: bytes) -> bool:
        """Whether these bytes are in a file and no crash can take them."""
        content = self._durable.get(name)
        if content is None or content is not self._files.get(name):
            return False
        data, in_place = content.data, content.in_place
        if in_place is None:
            at = data.rfind(piece)
            return at >= 0 and at + len(piece) <= self.synced_bytes(name)
        at = data.find(piece)
        while at >= 0 and in_place[at : at + len(piece)] != piece:
            at = data.find(piece, at + 1)
        return at >= 0

    def damage(self, name: str, offset: int, mask: int = 0xFF) -> None:
        """Flip bits of one byte, as a failing medium does."""
        self._content(name).data[offset] ^= mask

    def copy(self) -> SimDisk:
        """Return an independent disk with what a reader sees now, all of it durable."""
        return SimDisk({name: bytes(content.data) for name, content in self._files.items()})

    # -- inside ----------------------------------------------------------------------------------

    def _check_alive(self) -> None:
        if self._dead:
            raise PowerCut

    def _content(self, name: str) -> _Content:
        try:
            return self._files[name]
        except KeyError:
            raise FileNotFoundError(2, "No such file or directory", name) from None

    def _operate(
        self, name: str, do: Callable[[], None], do_partly: Callable[[], None] | None = None
    ) -> None:
        """Do something that changes the disk, unless the power fails; all that is undivided
        (no `do_partly`) is done or not, and a crash decides which.
        """
        self._check_alive()
        number = self.operations
        self.operations = number + 1
        if self.on_operation is not None:
            try:
                self.on_operation(number, name)
            except PowerCut as cut:
                if cut.when is When.AFTER:
                    do()
                elif cut.when is When.TORN:
                    (do_partly or do)()
                self._dead = True
                raise
        do()

    def _change(self, name: str, old: str | None, content: _Content | None) -> None:
        self._changes.append((name, old, content))
        _apply(self._files, name, old, content)

    def _make_durable(self, n_changes: int) -> None:
        for change in self._changes[:n_changes]:
            _apply(self._durable, *change)
        del self._changes[:n_changes]


class _SimOpenFile:
    def __init__(self, disk: SimDisk, content: _Content) -> None:
        self._disk = disk
        self._content = content
        self._closed = False

    def sync(self) -> None:
        self._check_open()
        self._disk._operate("sync", self._content.sync, self._content.sync_partly)

    def close(self) -> None:
        self._closed = True

    def _check_open(self) -> None:
        if self._closed:
            raise ValueError("the file was closed")


class SimFixedFile(_SimOpenFile):
    """A file of a `SimDisk`, open for writing in place."""

    def write(self, offset: int, data: bytes) -> None:
        self._check_open()
        overwrite = self._content.overwrite
        half = data[: len(data) // 2]
        self._disk._operate(
            "update", lambda: overwrite(offset, data), lambda: overwrite(offset, half)
        )


class SimAppendFile(_SimOpenFile):
    """A file of a `SimDisk`, open for appending."""

    @property
    def size_bytes(self) -> int:
        return len(self._content.data)

    def write(self, data: bytes) -> None:
        self._check_open()
        append = self._content.append
        self._disk._operate(
            "append", lambda: append(data), lambda: append(memoryview(data)[: len(data) // 2])
        )


def _apply(
    files: dict[str, _Content], name: str, old: str | None, content: _Content | None
) -> None:
    if old is not None:
        files.pop(old, None)
    if content is None:
        files.pop(name, None)
    else:
        files[name] = content


def _lose(data: bytearray, kept: int, rng: Random) -> None:
    """Lose any part of what lies behind the first `kept` bytes."""
    if kept == len(data):
        return
    luck = rng.random()
    if luck < 0.2:
        del data[kept:]
    elif luck < 0.6:
        del data[rng.randint(kept, len(data)) :]
    if 0.4 < luck < 0.8:
        for start, end in _missing(data, kept, rng):
            data[start:end] = bytes(end - start)


def _missing(data: bytearray, kept: int, rng: Random) -> Iterator[tuple[int, int]]:
    """The pages behind the first `kept` bytes that did not arrive, as first and last offset."""
    page = rng.choice(PAGE_SIZES_BYTES)
    odds = rng.random()
    for start in range(kept - kept % page, len(data), page):
        if rng.random() < odds:
            yield max(start, kept), min(start + page, len(data))
