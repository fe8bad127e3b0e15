"""Raw ceilings: what the signature libraries alone do on this machine, without any node.

``measure`` starts one process for each core, pins each to its core, lets them begin together and
adds their rates up. Raw PyNaCl is ``crypto_sign_open`` on signed messages of the length that the
chain signs; raw mb8 is the node's own fast backend, guards and all, on tables of a tray's size. Run
as a module, this is such a process: ``python -m tools.bench.raw KIND SECONDS CORE``, which says
"ready", begins at a line on standard input, and prints signatures and seconds.
"""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import ExitStack
from enum import StrEnum
from itertools import pairwise
from pathlib import Path
from typing import Final

from node.params import SIGNED_MESSAGE_BYTES
from tools.bench.errors import BenchError
from tools.bench.process import die_with_parent

SIGNATURES: Final = 512
"""Different ones, each by another key: more than a first-level cache holds."""

TABLE_SIGNATURES: Final = 256
FSYNC_BYTES: Final = 4096
ALL_CORES_MARGIN_S: Final = 60.0


class Kind(StrEnum):
    """What to measure; the values go through command lines."""

    NACL = "nacl"  # crypto_sign_open
    MB8 = "mb8"  # the backend avx512 with full tables
    SINGLE_NACL = "single-nacl"  # a backend with one signature at a time
    SINGLE_AVX512 = "single-avx512"


_SINGLE: Final = (Kind.SINGLE_NACL, Kind.SINGLE_AVX512)


def measure(kind: Kind, seconds: float) -> float:
    """Signatures per second on all cores that this process may use, each busy for ``seconds``.

    The single kinds run on one core, and their rate is one by the median time of a signature: it
    is taken from a median of latencies. Raises BenchError if a library does not work.
    """
    cores = sorted(os.sched_getaffinity(0))
    if kind in _SINGLE:
        cores = cores[-1:]
    with ExitStack() as stack:
        workers = [stack.enter_context(_worker(kind, seconds, core)) for core in cores]
        for worker in workers:
            stack.callback(worker.kill)
        for worker in workers:
            _line(worker)
        for worker in workers:
            assert worker.stdin is not None
            worker.stdin.write("go\n")
            worker.stdin.flush()
        rate = 0.0
        for worker in workers:
            signatures, elapsed_s = _line(worker).split()
            rate += int(signatures) / float(elapsed_s)
            worker.wait(ALL_CORES_MARGIN_S)
    return rate


def fsync_ms(directory: Path, times: int = 50) -> float:
    """Median time to write 4 KiB at the end of a file in ``directory`` and sync it."""
    taken = []
    path = directory / "fsync.probe"
    try:
        with path.open("wb", buffering=0) as file:
            for _ in range(times):
                began = time.perf_counter_ns()
                file.write(bytes(FSYNC_BYTES))
                os.fsync(file.fileno())
                taken.append(time.perf_counter_ns() - began)
    finally:
        path.unlink(missing_ok=True)
    return sorted(taken)[times // 2] / 1e6


def _worker(kind: Kind, seconds: float, core: int) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "tools.bench.raw", kind, str(seconds), str(core)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        preexec_fn=die_with_parent,
    )


def _line(worker: subprocess.Popen[str]) -> str:
    assert worker.stdout is not None
    assert worker.stderr is not None
    line = worker.stdout.readline()
    if not line:
        said = worker.stderr.read().strip().splitlines() or ["it said nothing"]
        raise BenchError(f"raw speed could not be measured ({said[-1]})", "mend that first")
    return line


def _nacl() -> Callable[[], int]:
    from nacl import bindings

    signed = []
    for number in range(SIGNATURES):
        public, secret = bindings.crypto_sign_seed_keypair(number.to_bytes(32, "little"))
        message = number.to_bytes(SIGNED_MESSAGE_BYTES, "little")
        signed.append((bindings.crypto_sign(message, secret), public))

    def verify() -> int:
        for one, public in signed:
            bindings.crypto_sign_open(one, public)
        return SIGNATURES

    return verify


def _backend(preference: str, rows: int) -> Callable[[], int]:
    from nacl.signing import SigningKey

    from node.params import ID_BYTES
    from node.transaction import spend_message
    from node.verification.select import select_backend
    from node.verification.signatures import SignatureTable

    assert preference in ("avx512", "nacl")
    backend = select_backend("avx512" if preference == "avx512" else "nacl")
    tables = []
    for first in range(0, SIGNATURES if rows > 1 else 1, rows):
        table = SignatureTable(rows, rows)
        for row in range(rows):
            number = first + row
            owner = SigningKey(number.to_bytes(32, "little"))
            message = spend_message(number.to_bytes(ID_BYTES, "little"))
            table.put(row, bytes(owner.verify_key), owner.sign(message).signature, message)
        tables.append(table)

    def verify() -> int:
        for table in tables:
            if not backend.verify(table, rows).all():
                raise RuntimeError("a good signature was refused")
        return len(tables) * rows

    return verify


def _main(kind: Kind, seconds: float, core: int) -> None:
    os.sched_setaffinity(0, {core})
    match kind:
        case Kind.NACL:
            verify = _nacl()
        case Kind.MB8:
            verify = _backend("avx512", TABLE_SIGNATURES)
        case Kind.SINGLE_NACL:
            verify = _backend("nacl", 1)
        case Kind.SINGLE_AVX512:
            verify = _backend("avx512", 1)
    verify()  # caches are warm and libraries loaded
    print("ready", flush=True)
    sys.stdin.readline()
    marks = [time.perf_counter()]
    signatures = 0
    while marks[-1] - marks[0] < seconds:
        signatures += verify()
        marks.append(time.perf_counter())
    if kind in _SINGLE:
        print(1, statistics.median(b - a for a, b in pairwise(marks)), flush=True)
    else:
        print(signatures, marks[-1] - marks[0], flush=True)


if __name__ == "__main__":
    _main(Kind(sys.argv[1]), float(sys.argv[2]), int(sys.argv[3]))
