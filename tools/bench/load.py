"""Loads on a node: ``time-load`` in a process of its own, and single transactions from here.

While the load generator works, the node is sampled; then its report is believed only if every
verdict was right. Owns the generator's process, which is gone when the call returns.
"""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import orjson
import zmq

from node.verdict import Verdict
from tools.bench.errors import BenchFailed
from tools.bench.nodes import RunningNode
from tools.bench.process import die_with_parent
from tools.bench.samples import Sample
from tools.loadgen.target import endpoints
from tools.loadgen.workload_file import Workload

SAMPLE_S: Final = 0.2
MEMORY_SAMPLE_S: Final = 1.0
LOAD_TIMEOUT_S: Final = 600.0  # of one load; the generator itself gives up a silent node after 15 s
VERDICT_TIMEOUT_MS: Final = 5_000

_STATUS_WRONG: Final = 1


@dataclass(frozen=True, slots=True)
class LoadResult:
    """What one load came to: the generator's report and the samples taken meanwhile.

    ``watcher_cpu_percent`` is what the sampling itself took of one core.
    """

    report: dict[str, Any]
    samples: list[Sample]
    watcher_cpu_percent: float

    @property
    def finalised(self) -> int:
        """Transactions that became final."""
        return int(self.report["counts"]["finalised"])

    @property
    def per_s(self) -> float:
        """Finalised transactions by the time from the first sending to the last finalisation."""
        return float(self.report["figures"]["load.finalised_per_s"])

    @property
    def elapsed_s(self) -> float:
        """That time."""
        return self.finalised / self.per_s


def run_load(
    node: RunningNode, workload: Path, transactions: int, *options: str, memory: bool = False
) -> LoadResult:
    """Send the first ``transactions`` of a workload to a node, with more options of time-load.

    ``memory`` samples it, too. Raises BenchFailed when a verdict was wrong, missing or double, or
    not everything sent became final.
    """
    report_path, log_path, command = _command(node, workload, transactions, options)
    samples = []
    with log_path.open("wb") as log, _generator(command, log) as generator:
        began = looked = time.monotonic()
        began_cpu = time.process_time()
        while generator.poll() is None:
            now = time.monotonic()
            if now - began > LOAD_TIMEOUT_S:
                raise BenchFailed(f"a load of {transactions:,} did not end; see {log_path}")
            look = memory and now - looked >= MEMORY_SAMPLE_S
            looked = now if look else looked
            samples.append(node.sample(memory=look))
            _wait(generator, SAMPLE_S)
        samples.append(node.sample(memory=memory))
    watched = (time.process_time() - began_cpu) / (time.monotonic() - began)
    if generator.returncode not in (0, _STATUS_WRONG):
        raise BenchFailed(f"time-load failed: {_last_line(log_path)}")
    report = orjson.loads(report_path.read_bytes())
    check_report(report, transactions)
    return LoadResult(report, samples, 100 * watched)


class RunningLoad:
    """A load beside which something else is measured, with more options of time-load; entering
    the context starts it, leaving ends it now.
    """

    def __init__(self, node: RunningNode, workload: Path, transactions: int, *options: str) -> None:
        self._command = _command(node, workload, transactions, options)
        self._open = ExitStack()

    def __enter__(self) -> RunningLoad:
        _, log_path, command = self._command
        with log_path.open("wb") as log:
            self._generator = self._open.enter_context(_generator(command, log))
        return self

    def __exit__(self, *_: object) -> None:
        self._open.close()

    def check(self) -> None:
        """Raise BenchFailed if the load is over."""
        if self._generator.poll() is not None:
            raise BenchFailed(
                "the load was over before the measurement was: the node failed, or is faster than "
                f"any was when the workload was sized; time-load: {_last_line(self._command[1])}"
            )

    def finish(self) -> dict[str, Any]:
        """Let it send no more and wait until what was sent is final; returns its report.

        Raises BenchFailed when a verdict was wrong, missing or double, or not all became final.
        """
        report_path, log_path, _ = self._command
        self.check()
        self._generator.send_signal(signal.SIGINT)
        try:
            status = self._generator.wait(LOAD_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            raise BenchFailed(f"a load did not end; see {log_path}") from None
        if status not in (0, _STATUS_WRONG):
            raise BenchFailed(f"time-load failed: {_last_line(log_path)}")
        report: dict[str, Any] = orjson.loads(report_path.read_bytes())
        check_report(report, int(report["counts"]["sent"]))
        return report


def check_report(report: dict[str, Any], transactions: int) -> None:
    """Raise BenchFailed unless the node told the truth about everything and finalised it."""
    wrong = [
        f"{found['count']:,} {found['meaning']} ({'; '.join(found['examples'])})"
        for found in report["findings"]
    ]
    counts = report["counts"]
    if counts["sent"] != transactions:
        wrong.append(f"{counts['sent']:,} of {transactions:,} transactions were sent")
    if counts["finalised"] != counts["accepted"]:
        wrong.append(f"{counts['accepted']:,} accepted, {counts['finalised']:,} finalised")
    if wrong or not report["ok"]:
        raise BenchFailed("\n  ".join(["the node gave wrong answers:", *wrong]))


def verdict_latencies_ns(
    node: RunningNode, directory: Path, first: int, count: int, pause_s: float
) -> npt.NDArray[np.int64]:
    """Send ``count`` transactions of a workload one by one, each after the verdict on the one
    before and a pause; returns how long each verdict took.

    Raises BenchFailed when a verdict is wrong or missing.
    """
    workload = Workload.open(directory)
    latencies = np.empty(count, np.int64)
    with zmq.Context() as context, context.socket(zmq.DEALER) as client:
        client.setsockopt(zmq.LINGER, 0)
        client.setsockopt(zmq.RCVTIMEO, VERDICT_TIMEOUT_MS)
        client.connect(endpoints(node.datadir)[0])
        for number in range(first, first + count):
            raw = workload.transaction(number)
            frames = [number.to_bytes(8, "little"), len(raw).to_bytes(2, "little"), raw]
            began = time.monotonic_ns()
            client.send_multipart(frames)
            try:
                answer = client.recv_multipart()
            except zmq.Again:
                raise BenchFailed(f"transaction {number} got no verdict") from None
            latencies[number - first] = time.monotonic_ns() - began
            if answer != [frames[0], bytes((Verdict.ADMITTED,))]:
                raise BenchFailed(f"transaction {number} was answered {answer!r}, not ADMITTED")
            time.sleep(pause_s)
    return latencies


def _command(
    node: RunningNode, workload: Path, transactions: int, options: Sequence[str]
) -> tuple[Path, Path, list[str]]:
    """Where the report and the log of a load go, and its command line."""
    report_path = node.datadir.with_name(node.datadir.name + ".load.json")
    command = [sys.executable, "-m", "tools.loadgen", "run", str(workload)]
    command += ["--datadir", str(node.datadir), "--count", str(transactions)]
    command += ["--json", str(report_path), *options]
    return report_path, report_path.with_suffix(".log"), command


@contextmanager
def _generator(command: list[str], log: Any) -> Iterator[subprocess.Popen[bytes]]:
    process = subprocess.Popen(
        command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True,
        preexec_fn=die_with_parent,
    )  # fmt: skip
    try:
        yield process
    finally:
        if process.poll() is None:
            process.kill()
        process.wait()


def _wait(process: subprocess.Popen[bytes], seconds: float) -> None:
    try:
        process.wait(seconds)
    except subprocess.TimeoutExpired:
        return


def _last_line(path: Path) -> str:
    lines = path.read_text(errors="replace").splitlines()
    return lines[-1] if lines else "it said nothing"
