"""Costs of real processes, read from outside; raw speeds, measured in processes of their own."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tools.bench import echo, raw
from tools.bench.errors import BenchError
from tools.bench.machine import describe, file_system
from tools.bench.process import cpu_ns, descendants, directory_bytes, pss_bytes, wait_gone
from tools.bench.raw import Kind

BUSY = """
import threading, time
memory = bytearray(30_000_000)
for at in range(0, len(memory), 4096):
    memory[at] = 1
def spin():
    while time.thread_time() < 0.3:
        pass
thread = threading.Thread(target=spin)
thread.start()
thread.join()
print(time.process_time_ns(), flush=True)
input()
"""


@contextmanager
def running(source: str) -> Iterator[subprocess.Popen[str]]:
    process = subprocess.Popen(
        [sys.executable, "-c", source], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


def said(process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None
    return process.stdout.readline().strip()


def test_cpu_time_includes_threads_that_have_ended() -> None:
    with running(BUSY) as process:
        own_ns = int(said(process))
        assert own_ns >= 300_000_000
        assert own_ns <= cpu_ns(process.pid) <= own_ns + 100_000_000


def test_memory_is_summed_over_processes() -> None:
    with running(BUSY) as one, running(BUSY) as other:
        said(one), said(other)
        alone = pss_bytes([one.pid])
        assert 30_000_000 <= alone <= 60_000_000
        assert pss_bytes([one.pid, other.pid]) >= 60_000_000


def test_a_process_that_has_ended_is_an_error() -> None:
    with running("") as process:
        process.wait()
        with pytest.raises(ProcessLookupError):
            cpu_ns(process.pid)
        with pytest.raises(ProcessLookupError):
            pss_bytes([process.pid])


def test_descendants_are_found_and_waited_for() -> None:
    grandchild = (
        "import subprocess, sys; p = subprocess.Popen([sys.executable, '-c', 'input()'], "
        "stdin=subprocess.PIPE); print(p.pid, flush=True); input(); p.kill(); p.wait(); "
        "print('gone', flush=True); input()"
    )
    with running(grandchild) as process:
        pid = int(said(process))
        assert descendants(process.pid) == [pid]
        assert wait_gone([pid], 0.05) == [pid]
        assert process.stdin is not None
        process.stdin.write("\n")
        process.stdin.flush()
        assert wait_gone([pid], 10) == []
        assert said(process) == "gone"
        assert descendants(process.pid) == []


def test_the_size_of_a_directory_is_that_of_its_files(tmp_path: Path) -> None:
    (tmp_path / "below").mkdir()
    (tmp_path / "one").write_bytes(bytes(10))
    (tmp_path / "below" / "two").write_bytes(bytes(5))
    assert directory_bytes(tmp_path) == 15


def test_raw_pynacl_is_measured_on_all_cores() -> None:
    assert raw.measure(Kind.NACL, 0.05) > 100


def test_a_single_signature_takes_at_least_microseconds() -> None:
    assert 10 < raw.measure(Kind.SINGLE_NACL, 0.05) < 1_000_000


def test_a_worker_that_fails_says_why(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(raw, "_SINGLE", ())
    monkeypatch.setattr(sys, "executable", "/bin/false")
    with pytest.raises(BenchError, match="raw speed could not be measured"):
        raw.measure(Kind.NACL, 0.05)


def test_a_message_comes_back() -> None:
    assert 0.01 < echo.p50_ms(5, 0.0) < 5_000
    assert descendants(os.getpid()) == []


def test_fsync_is_timed_and_leaves_nothing(tmp_path: Path) -> None:
    assert raw.fsync_ms(tmp_path, times=3) > 0
    assert list(tmp_path.iterdir()) == []


def test_the_machine_is_described(tmp_path: Path) -> None:
    found = describe(tmp_path)
    assert found["cores"] >= 1
    assert found["memory_mb"] > 100
    assert found["packages"]["PyNaCl"]
    assert found["file_system"] == file_system(tmp_path) != "unknown"
    assert file_system(Path("/proc")) == "proc"
