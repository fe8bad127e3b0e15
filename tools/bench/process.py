"""What a process costs, read from outside: its CPU time, its memory, and what it started."""

from __future__ import annotations

import ctypes
import mmap
import os
import signal
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Final

_PR_SET_PDEATHSIG: Final = 1
_POLL_S: Final = 0.01
_CPUCLOCK_SCHED: Final = 2  # run time by the scheduler's own clock, of all threads


def cpu_ns(pid: int) -> int:
    """CPU time of a process: user and system, all threads, also those that have ended.

    What utime + stime of /proc/PID/stat say in ticks of 10 ms, in nanoseconds (clock_getcpuclockid
    in the C library). Raises ProcessLookupError when there is no such process.
    """
    try:
        return time.clock_gettime_ns((~pid << 3) | _CPUCLOCK_SCHED)
    except OSError:
        raise ProcessLookupError(f"no process {pid}") from None


def pss_bytes(pids: Iterable[int]) -> int:
    """Memory of processes: what they have alone, and their shares of what they share.

    Sum of Pss in /proc/PID/smaps_rollup; of a process that hides it (the signer, from all but
    root), everything resident, which is more. Raises ProcessLookupError when one has ended.
    """
    total = 0
    for pid in pids:
        try:
            total += _pss_bytes(Path(f"/proc/{pid}"))
        except (FileNotFoundError, ProcessLookupError):
            raise ProcessLookupError(f"no process {pid}") from None
    return total


def _pss_bytes(process: Path) -> int:
    try:
        lines = (process / "smaps_rollup").read_text().splitlines()
    except PermissionError:
        return int((process / "statm").read_text().split()[1]) * mmap.PAGESIZE
    fields = map(str.split, lines)
    return sum(int(words[1]) for words in fields if words[0] == "Pss:") * 1024


def descendants(pid: int) -> list[int]:
    """Process ids of everything that a process started, directly or not, and that still runs."""
    children: dict[int, list[int]] = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit() and (found := _state_and_parent(int(entry.name))) is not None:
            children.setdefault(found[1], []).append(int(entry.name))
    below: list[int] = []
    waiting = [pid]
    while waiting:
        found_here = children.get(waiting.pop(), [])
        below += found_here
        waiting += found_here
    return below


def wait_gone(pids: Iterable[int], timeout_s: float) -> list[int]:
    """Wait until none of the processes runs any more; returns those that still do."""
    deadline = time.monotonic() + timeout_s
    left = [pid for pid in pids if _state_and_parent(pid) is not None]
    while left and time.monotonic() < deadline:
        time.sleep(_POLL_S)
        left = [pid for pid in left if _state_and_parent(pid) is not None]
    return left


def _state_and_parent(pid: int) -> tuple[str, int] | None:
    """State letter and parent of a process; None if there is none, or one that has ended."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text(errors="replace")
    except (FileNotFoundError, ProcessLookupError):
        return None
    state, parent = stat.rpartition(")")[2].split()[:2]  # a name may hold spaces and parentheses
    return None if state in "ZX" else (state, int(parent))


def die_with_parent() -> None:
    """In a child, before it becomes another program: end as SIGTERM ends it if the benchmark is
    killed.
    """
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, ctypes.c_ulong(signal.SIGTERM), 0, 0, 0)


def directory_bytes(path: Path) -> int:
    """Bytes of all files below a directory."""
    return sum(
        os.stat(os.path.join(root, name)).st_size
        for root, _, names in os.walk(path)
        for name in names
    )
