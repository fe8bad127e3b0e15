"""Real files: what is promised holds on a real directory, and whatever is odd there is refused."""

from __future__ import annotations

import os
import re
import stat
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from node.durable import Directory, Files
from node.storage.errors import StoreError, StoreFailed


@pytest.fixture
def files(tmp_path: Path) -> Files:
    return Directory(tmp_path)


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def test_appending(files: Files, tmp_path: Path) -> None:
    file = files.append_to("log")
    assert file.size_bytes == 0
    file.write(b"one")
    file.write(b"two")
    file.sync()
    assert file.size_bytes == 6
    assert mode(tmp_path / "log") == 0o600
    assert files.read("log") == b"onetwo"
    file.close()
    file.close()
    for act in (lambda: file.write(b"x"), file.sync):
        with pytest.raises(ValueError, match="closed"):
            act()
    again = files.append_to("log")
    assert again.size_bytes == 6
    again.write(b"!")
    again.close()
    assert files.read("log") == b"onetwo!"


def test_writing_in_place(files: Files, tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        files.update("state")
    files.write("state", b"0123456789")
    file = files.update("state")
    file.write(8, b"ab")
    file.write(0, b"c")
    file.sync()
    assert files.read("state") == b"c1234567ab"
    for offset, data in ((9, b"xy"), (-1, b"x"), (11, b"")):
        with pytest.raises(ValueError, match="10 bytes and keeps them"):
            file.write(offset, data)
    file.close()
    file.close()
    for act in (lambda: file.write(0, b"x"), file.sync):
        with pytest.raises(ValueError, match="closed"):
            act()
    assert files.read("state") == b"c1234567ab"


def test_writing_renaming_cutting_and_removing(files: Files, tmp_path: Path) -> None:
    (tmp_path / "state").write_bytes(b"much longer than what comes")
    (tmp_path / "state").chmod(0o666)
    files.write("state", b"short")
    assert files.read("state") == b"short"
    assert mode(tmp_path / "state") == 0o600
    files.sync("state")
    files.write("new", b"")
    assert files.read("new") == b""
    files.rename("state", "new")
    files.sync_directory()
    assert files.names() == ["new"]
    files.truncate("new", 100)
    assert files.read("new") == b"short"
    files.truncate("new", 2)
    assert files.read("new") == b"sh"
    files.remove("new")
    assert files.names() == []
    assert files.path("new") == str(tmp_path / "new")


def test_large_files_are_written_and_read_whole(files: Files) -> None:
    data = os.urandom(3_000_001)
    files.write("large", data)
    assert files.read("large") == data


def test_what_is_missing(files: Files, tmp_path: Path) -> None:
    acts: list[Callable[[], object]] = [
        lambda: files.read("a"),
        lambda: files.sync("a"),
        lambda: files.remove("a"),
        lambda: files.truncate("a", 0),
        lambda: files.rename("a", "b"),
    ]
    for act in acts:
        with pytest.raises(FileNotFoundError):
            act()
    nowhere = Directory(tmp_path / "nowhere")
    for act in (
        nowhere.names,
        nowhere.sync_directory,
        lambda: nowhere.append_to("a"),
        lambda: nowhere.write("a", b""),
    ):
        with pytest.raises(StoreError, match=r"nowhere"):
            act()


@pytest.mark.parametrize("name", ["", ".", "..", "a/b", "/etc/passwd", "a\0b"])
def test_names_stay_in_the_directory(files: Files, name: str) -> None:
    with pytest.raises(ValueError, match="not the name of a file"):
        files.read(name)
    with pytest.raises(ValueError, match="not the name of a file"):
        files.rename("a", name)


def make_link(path: Path) -> None:
    target = path.with_name("target")
    target.write_bytes(b"secret")
    path.symlink_to(target)


@pytest.mark.parametrize("make", [make_link, os.mkfifo, os.mkdir])
def test_only_plain_files_are_opened(
    files: Files, tmp_path: Path, make: Callable[[Path], None]
) -> None:
    make(tmp_path / "odd")
    acts: list[Callable[[], object]] = [
        lambda: files.read("odd"),
        lambda: files.append_to("odd"),
        lambda: files.write("odd", b"x"),
        lambda: files.sync("odd"),
        lambda: files.truncate("odd", 0),
    ]
    for act in acts:
        with pytest.raises(StoreFailed, match=r"odd is not a plain file; put the file itself"):
            act()
    assert "odd" not in files.names()
    if (tmp_path / "target").exists():
        assert (tmp_path / "target").read_bytes() == b"secret"


def test_a_directory_in_the_way_is_an_error_that_names_it(files: Files, tmp_path: Path) -> None:
    (tmp_path / "odd").mkdir()
    files.write("a", b"")
    with pytest.raises(StoreError, match=r"cannot rename a file to .*odd"):
        files.rename("a", "odd")
    with pytest.raises(StoreError, match=r"cannot remove .*odd"):
        files.remove("odd")


FULL = """
import resource, signal, sys
from pathlib import Path
from node.durable import Directory
from node.storage.errors import StoreError

signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096))
files = Directory(Path(sys.argv[1]))
file = files.append_to("log")
file.write(b"x" * 4000)
for act in (
    lambda: file.write(b"y" * 200),
    lambda: file.write(b"z"),
    file.sync,
    lambda: files.write("state", b"x" * 5000),
):
    try:
        act()
        print("nothing")
    except StoreError as error:
        print(type(error).__name__, error.message)
"""


def test_after_a_failed_write_nothing_more_is_written(tmp_path: Path) -> None:
    """In a process of its own, which the kernel refuses files larger than 4 KiB."""
    child = subprocess.run(
        [sys.executable, "-c", FULL, str(tmp_path)], capture_output=True, text=True, check=True
    )
    full, again, sync, state = child.stdout.splitlines()
    assert re.fullmatch(r"StoreFull cannot write .*log \(File too large\); free some space.*", full)
    for said in (again, sync):
        assert re.match(r"StoreFailed an earlier write to .*log failed", said)
    assert re.match(r"StoreFull cannot write .*state", state)


def test_descriptors_are_given_back_and_not_inherited(files: Files) -> None:
    before = len(os.listdir("/proc/self/fd"))
    file = files.append_to("log")
    script = "import os; print([os.readlink(f'/proc/self/fd/{n}') for n in (3, 4, 5, 6, 7, 8, 9) "
    script += "if os.path.exists(f'/proc/self/fd/{n}')])"
    child = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True, close_fds=False
    )
    assert files.path("log") not in child.stdout
    file.close()
    files.read("log")
    files.sync("log")
    files.write("log", b"")
    files.truncate("log", 0)
    files.sync_directory()
    assert len(os.listdir("/proc/self/fd")) == before


def test_a_sync_reaches_the_kernel(files: Files, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[str] = []
    for name in ("fsync", "fdatasync"):
        real = getattr(os, name)

        def spy(fd: int, name: str = name, real: Callable[[int], None] = real) -> None:
            calls.append(f"{name} {os.path.basename(os.readlink(f'/proc/self/fd/{fd}'))}")
            real(fd)

        monkeypatch.setattr(os, name, spy)
    directory = os.path.basename(os.path.dirname(files.path("log")))
    file = files.append_to("log")
    file.write(b"x")
    file.sync()
    file.close()
    files.sync("log")
    files.sync_directory()
    assert calls == ["fdatasync log", "fsync log", f"fsync {directory}"]


def test_a_failed_sync_is_final(files: Files, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(fd: int) -> None:
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(os, "fdatasync", fail)
    monkeypatch.setattr(os, "fsync", fail)
    file = files.append_to("log")
    file.write(b"x")
    with pytest.raises(StoreFailed, match=r"cannot sync .*log \(Input/output error\)"):
        file.sync()
    monkeypatch.undo()
    with pytest.raises(StoreFailed, match="an earlier write"):
        file.sync()
    file.close()


def test_errors_of_the_disk_name_what_was_tried(
    files: Files, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise OSError(5, "Input/output error")

    files.write("a", b"12")
    cases: list[tuple[str, Callable[[], object], str]] = [
        ("read", lambda: files.read("a"), "cannot read .*/a"),
        ("fsync", lambda: files.sync("a"), "cannot sync .*/a"),
        ("fsync", files.sync_directory, "cannot sync "),
        ("ftruncate", lambda: files.truncate("a", 1), "cannot truncate .*/a"),
        ("write", lambda: files.write("a", b"x"), "cannot write .*/a"),
        ("open", lambda: files.read("a"), "cannot read .*/a"),
    ]
    before = len(os.listdir("/proc/self/fd"))
    for name, act, message in cases:
        with monkeypatch.context() as patch:
            patch.setattr(os, name, fail)
            with pytest.raises(StoreFailed, match=message):
                act()
    assert len(os.listdir("/proc/self/fd")) == before


def test_short_writes_are_finished(files: Files, monkeypatch: pytest.MonkeyPatch) -> None:
    real = os.write
    monkeypatch.setattr(os, "write", lambda fd, data: real(fd, bytes(data)[:7]))
    file = files.append_to("log")
    file.write(bytes(range(100)))
    file.close()
    assert files.read("log") == bytes(range(100))
