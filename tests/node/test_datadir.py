"""The data directory: whose it is, that it is whole, that one node works in it."""

from __future__ import annotations

import fcntl
import os
import pickle
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from node import datadir
from node.datadir import Layout
from node.errors import DatadirError, NodeRunning

IDENTITY = bytes(range(32))


def made(root: Path) -> Layout:
    """A complete data directory, as far as this module is concerned."""
    where = datadir.layout(root)
    datadir.create(where)
    for path in (where.config, where.genesis, where.allocations, where.validator_key):
        datadir.write_new(path, b"x")
    where.store.mkdir()
    datadir.finish(where, IDENTITY)
    return where


def refused(where: Layout) -> str:
    with pytest.raises(DatadirError) as caught:
        datadir.check(where)
    assert "\n" not in caught.value.message
    return caught.value.message


def test_a_made_directory_is_complete_private_and_ours(tmp_path: Path) -> None:
    where = made(tmp_path / "a" / "b")
    assert datadir.check(where) == IDENTITY
    datadir.check_writable(where)
    assert where.marker.read_text() == f"timed 1 {IDENTITY.hex()}\n"
    assert stat.S_IMODE(where.root.stat().st_mode) == 0o700
    for path in (where.run, where.wal, where.signer, where.blocks):
        assert stat.S_IMODE(path.stat().st_mode) == 0o700
    assert stat.S_IMODE(where.config.stat().st_mode) == 0o600
    assert os.listdir(where.run) == []


def test_a_directory_that_holds_something_is_not_taken(tmp_path: Path) -> None:
    (tmp_path / "photo.jpg").write_bytes(b"")
    with pytest.raises(DatadirError, match=r"not empty \(it has 'photo\.jpg'\)"):
        datadir.create(datadir.layout(tmp_path))
    assert os.listdir(tmp_path) == ["photo.jpg"]
    with pytest.raises(DatadirError, match="is a data directory already"):
        datadir.create(made(tmp_path / "d"))


def test_an_interrupted_init_is_told_from_everything_else(tmp_path: Path) -> None:
    where = datadir.layout(tmp_path / "d")
    datadir.create(where)
    assert "interrupted" in refused(where)
    with pytest.raises(DatadirError, match="interrupted"):
        datadir.create(where)


def test_what_is_not_ours_is_refused(tmp_path: Path) -> None:
    assert "does not exist" in refused(datadir.layout(tmp_path / "none"))
    empty = tmp_path / "empty"
    empty.mkdir(mode=0o700)
    assert f"timed init --datadir {empty}" in refused(datadir.layout(empty))
    (empty / "other").write_text("")
    assert "not a data directory of timed" in refused(datadir.layout(empty))
    file = tmp_path / "file"
    file.write_text("")
    assert "not a directory" in refused(datadir.layout(file))


@pytest.mark.parametrize(
    ("marker", "named"),
    [
        (b"timed 2 " + b"00" * 32 + b"\n", "newer timed (format 2"),
        (b"timed 999\n", "newer timed (format 999"),
        (b"timed 0 " + b"00" * 32 + b"\n", "format 0"),
        (b"timed 1\n", "no chain"),
        (b"bitcoind 1\n", "not a data directory of timed"),
        (b"", "not a data directory of timed"),
        (b"\xff" * 100, "not a data directory of timed"),
        (b"timed 1 " * 100, "800 bytes"),
    ],
)
def test_markers_of_others_are_refused(tmp_path: Path, marker: bytes, named: str) -> None:
    where = made(tmp_path / "d")
    where.marker.write_bytes(marker)
    assert named in refused(where)


@pytest.mark.parametrize(
    "name", ["FORMAT", "config.toml", "genesis.json", "genesis.alloc", "validator.key"]
)
def test_links_and_pipes_are_not_followed(tmp_path: Path, name: str) -> None:
    where = made(tmp_path / "d")
    path = where.root / name
    path.rename(tmp_path / "elsewhere")
    path.symlink_to(tmp_path / "elsewhere")
    assert name in refused(where)
    path.unlink()
    os.mkfifo(path)
    assert name in refused(where)


@pytest.mark.parametrize("name", ["store", "blocks", "wal", "signer", "run"])
def test_directories_are_directories(tmp_path: Path, name: str) -> None:
    where = made(tmp_path / "d")
    path = where.root / name
    path.rename(tmp_path / "elsewhere")
    if name not in ("wal", "signer"):
        assert name in refused(where)
    path.symlink_to(tmp_path / "elsewhere")
    assert name in refused(where)
    path.unlink()
    path.touch()
    assert name in refused(where)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    where = made(tmp_path / "d")
    where.genesis.unlink()
    assert "genesis.json does not exist; put it back" in refused(where)


def test_what_others_can_write_or_enter_is_refused(tmp_path: Path) -> None:
    where = made(tmp_path / "d")
    where.root.chmod(0o770)
    assert "chmod 700" in refused(where)
    where.root.chmod(0o700)
    for path in (where.run, where.wal, where.signer):
        path.chmod(0o755)
        assert f"chmod 700 {path}" in refused(where)
        path.chmod(0o700)
    assert datadir.check(where) == IDENTITY


@pytest.mark.parametrize("name", ["wal", "signer"])
def test_what_backups_leave_out_is_made_anew(tmp_path: Path, name: str) -> None:
    where = made(tmp_path / "d")
    path = where.root / name
    path.rmdir()
    assert datadir.check(where) == IDENTITY
    datadir.check_writable(where)
    for _ in range(2):
        datadir.ensure_directory(path)
    assert stat.S_IMODE(path.stat().st_mode) == 0o700
    assert datadir.check(where) == IDENTITY
    with pytest.raises(DatadirError, match="does not exist"):
        datadir.ensure_directory(where.root / "no" / "such")


def test_a_datadir_itself_may_be_a_link(tmp_path: Path) -> None:
    made(tmp_path / "big-disk")
    (tmp_path / "d").symlink_to(tmp_path / "big-disk")
    assert datadir.check(datadir.layout(tmp_path / "d")) == IDENTITY


def test_too_little_space_is_said_before_it_hurts(tmp_path: Path) -> None:
    datadir.check_space(tmp_path)
    with pytest.raises(DatadirError, match="MB are free"):
        datadir.check_space(tmp_path, min_free_bytes=1 << 62)


def test_one_node_at_a_time(tmp_path: Path) -> None:
    where = made(tmp_path / "d")
    script = (
        "import sys, pickle\nfrom node import datadir\n"
        "where = pickle.loads(bytes.fromhex(sys.argv[1]))\n"
        "with datadir.locked(where):\n    print('locked', flush=True)\n    sys.stdin.read()\n"
    )
    with subprocess.Popen(
        [sys.executable, "-c", script, pickle.dumps(where).hex()],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as other:
        assert other.stdout is not None
        assert other.stdout.readline() == "locked\n"
        with (
            pytest.raises(NodeRunning, match=rf"\(process {other.pid}\) is running"),
            datadir.locked(where),
        ):
            pass
        other.kill()
    with datadir.locked(where):  # the kernel has let go of it
        fd = os.open(where.lock, os.O_RDWR)
        with pytest.raises(BlockingIOError):
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        os.close(fd)


def test_the_lock_is_not_taken_through_a_link(tmp_path: Path) -> None:
    where = made(tmp_path / "d")
    victim = tmp_path / "victim"
    victim.write_text("precious")
    where.lock.symlink_to(victim)
    with pytest.raises(DatadirError, match="symbolic link"), datadir.locked(where):
        pass
    assert victim.read_text() == "precious"


def test_a_file_is_never_overwritten(tmp_path: Path) -> None:
    datadir.write_new(tmp_path / "f", b"one")
    with pytest.raises(FileExistsError):
        datadir.write_new(tmp_path / "f", b"two")
    assert (tmp_path / "f").read_bytes() == b"one"
