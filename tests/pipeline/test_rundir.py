"""The run directory: whose it is, who is in it, and what is left behind there."""

import fcntl
import os
import socket
import subprocess
import sys

import pytest

from pipeline.errors import RunDirectoryError
from pipeline.rundir import CREW_LOCK, RunDirectory


def open_fds():
    return set(os.listdir("/proc/self/fd"))


def test_it_is_made_private_and_closed_without_a_trace(tmp_path):
    before = open_fds()
    directory = RunDirectory.open(tmp_path / "run")
    assert os.stat(tmp_path / "run").st_mode & 0o777 == 0o700
    assert not os.get_inheritable(directory.fd)
    directory.close()
    assert open_fds() == before


def test_an_existing_one_is_made_private(tmp_path):
    (tmp_path / "run").mkdir(mode=0o755)
    RunDirectory.open(tmp_path / "run").close()
    assert os.stat(tmp_path / "run").st_mode & 0o777 == 0o700


def test_sockets_are_removed_and_nothing_else(tmp_path):
    (tmp_path / "notes").write_text("mine")
    (tmp_path / "folder").mkdir()
    for name in ("work.0", "control.sock"):
        with socket.socket(socket.AF_UNIX) as sock:
            sock.bind(str(tmp_path / name))
    directory = RunDirectory.open(tmp_path)
    assert sorted(os.listdir(tmp_path)) == [CREW_LOCK, "folder", "notes"]
    directory.close()


def test_one_at_a_time(tmp_path):
    first = RunDirectory.open(tmp_path)
    before = open_fds()
    with pytest.raises(RunDirectoryError, match=r"a node is running in .*; stop it first"):
        RunDirectory.open(tmp_path)
    assert open_fds() == before
    first.close()
    RunDirectory.open(tmp_path).close()


def test_the_crew_of_a_former_supervisor_is_waited_for(tmp_path):
    directory = RunDirectory.open(tmp_path)
    crew = subprocess.Popen(
        [sys.executable, "-c", "input()"], stdin=subprocess.PIPE, pass_fds=[directory.crew_fd]
    )
    directory.close()
    with pytest.raises(RunDirectoryError, match="an earlier run still hold"):
        RunDirectory.open(tmp_path, crew_wait_s=0.0)
    with crew:
        crew.stdin.close()  # it ends while the next one waits
        RunDirectory.open(tmp_path, crew_wait_s=30.0).close()


def test_what_cannot_be_used_is_named_with_a_remedy(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(RunDirectoryError, match="file: Not a directory; make it a writable"):
        RunDirectory.open(tmp_path / "file")
    with pytest.raises(RunDirectoryError, match="No such file or directory"):
        RunDirectory.open(tmp_path / "missing" / "run")
    elsewhere = tmp_path / "elsewhere"
    elsewhere.write_text("not a lock")
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / CREW_LOCK).symlink_to(elsewhere)
    with pytest.raises(RunDirectoryError, match="symbolic links"):
        RunDirectory.open(tmp_path / "run")


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a directory away")
def test_somebody_elses_directory_is_refused(tmp_path):
    (tmp_path / "run").mkdir()
    os.chown(tmp_path / "run", 12345, 12345)
    with pytest.raises(RunDirectoryError, match="belongs to user 12345; run as that user"):
        RunDirectory.open(tmp_path / "run")


def test_it_is_the_working_directory_for_a_while(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    directory = RunDirectory.open(tmp_path / "run")
    with directory.entered():
        assert os.getcwd() == str(tmp_path / "run")
    assert os.getcwd() == str(tmp_path)
    directory.close()
    with pytest.raises(OSError, match="Bad file descriptor"):
        fcntl.flock(directory.fd, fcntl.LOCK_UN)
