"""A process that calls servers for measurements: the wallets' side, at one place for all servers.

`Caller` owns the process. One run after another: `begin` says whom to ask and how, the answer comes
when every connection has been answered once; `end` brings back what was counted. As a module, this
is the process: a line of JSON in for each run, one out when it has begun and one when it has ended;
it ends with its standard input. A wrong answer ends it, and the benchmark.
"""

from __future__ import annotations

import base64
import os
import select
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any, Final, Self

import msgspec

from tools.bench.asking import Asking, Control, Tally
from tools.bench.errors import BenchFailed
from tools.bench.process import cpu_ns, die_with_parent
from tools.bench.questions import BlockCounts, Payments, Questions, WrongAnswer
from tools.cli.places import Place
from tools.loadgen.workload_file import Workload

LISTENS_S: Final = 30.0  # after the node is ready
BEGIN_TIMEOUT_S: Final = 60.0  # a node that was just started, on a loaded machine
END_TIMEOUT_S: Final = 40.0  # longer than an answer may take
STOP: Final = b"stop\n"
READ_BYTES: Final = 65_536
US_PER_MS: Final = 1_000.0


class Server(msgspec.Struct, frozen=True):
    """Whom to ask: an address and the ``Authorization`` header that it accepts."""

    host: str
    port: int
    authorization: str


class Run(msgspec.Struct, frozen=True):
    """One run: who is asked, over how many connections; ``per_s`` None is as fast as possible.

    With ``workload`` its payments are sent, from ``first`` on, so many in a body; without, the
    question is ``getblockcount``.
    """

    server: Server
    connections: int
    per_s: float | None = None
    workload: str = ""
    first: int = 0
    batch: int = 1


class Counted(msgspec.Struct, frozen=True):
    """What a run counted from its beginning to the wish to end; ``units_in_all`` is everything.

    ``latency_ms`` has p50, p90, p99, p999 and max, ``histogram`` all of it in microseconds (encoded
    by HdrHistogram), ``cpu_s`` what the client used.
    """

    answers: int
    units: int
    units_in_all: int
    elapsed_s: float
    cpu_s: float
    latency_ms: dict[str, float]
    histogram: str

    @property
    def per_s(self) -> float:
        """Units a second: calls, or payments."""
        return self.units / self.elapsed_s

    @property
    def cpu_us(self) -> float:
        """CPU of the client for each unit, in microseconds."""
        return self.cpu_s * 1e6 / self.units if self.units else 0.0

    def as_json(self) -> dict[str, Any]:
        """For the detail of a round."""
        shown: dict[str, Any] = msgspec.to_builtins(self)
        return shown | {"per_s": round(self.per_s, 1)}


class _Said(msgspec.Struct, frozen=True):
    """A line of the process: one of the three is set."""

    begun: bool = False
    counted: Counted | None = None
    failed: str = ""


def server_of(datadir: Path) -> Server:
    """The running node with this data directory, as soon as it listens.

    A node is ready before its expendable stages are. Raises BenchFailed if it does not listen.
    """
    access = Place(datadir=datadir).access()
    deadline_s = time.monotonic() + LISTENS_S
    while True:
        try:
            socket.create_connection((access.host, access.port), LISTENS_S).close()
            return Server(access.host, access.port, basic(access.cookie.read_bytes()))
        except OSError as error:
            if time.monotonic() > deadline_s:
                reason = error.strerror or str(error)
                raise BenchFailed(f"{datadir} answers no JSON-RPC: {reason}") from None
            time.sleep(0.05)


def basic(password: bytes) -> str:
    """The header for ``user:password``."""
    return f"Basic {base64.b64encode(password).decode()}"


class Caller:
    """The process; it is gone when the context is left."""

    def __init__(self, log: Path) -> None:
        self._log = log
        with log.open("wb") as file:
            self._process = subprocess.Popen(
                [sys.executable, "-m", __name__], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                stderr=file, bufsize=0, start_new_session=True, preexec_fn=die_with_parent,
            )  # fmt: skip
        self._received = b""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._process.kill()
        self._process.wait()
        for pipe in (self._process.stdin, self._process.stdout):
            assert pipe is not None
            pipe.close()

    @property
    def cpu_ns(self) -> int:
        """What the process has used so far."""
        return cpu_ns(self._process.pid)

    def begin(self, run: Run) -> None:
        """Let it begin; returns when every connection was answered once. Raises BenchFailed."""
        self._tell(msgspec.json.encode(run) + b"\n")
        if not self._hear(BEGIN_TIMEOUT_S).begun:
            raise BenchFailed("the caller of JSON-RPC ended before it began")

    def end(self) -> Counted:
        """Let it end; returns what it counted. Raises BenchFailed."""
        self._tell(STOP)
        counted = self._hear(END_TIMEOUT_S).counted
        assert counted is not None, "what has begun ends with a count"
        return counted

    def _tell(self, line: bytes) -> None:
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(line)
        except BrokenPipeError:
            self._fail("the caller of JSON-RPC is gone")

    def _hear(self, timeout_s: float) -> _Said:
        assert self._process.stdout is not None
        fd = self._process.stdout.fileno()
        deadline_s = time.monotonic() + timeout_s
        while b"\n" not in self._received:
            ready, _, _ = select.select([fd], [], [], max(0.0, deadline_s - time.monotonic()))
            if not ready:
                self._fail(f"the caller of JSON-RPC said nothing for {timeout_s:g} s")
            data = os.read(fd, READ_BYTES)
            if not data:
                self._fail("the caller of JSON-RPC ended")
            self._received += data
        line, _, self._received = self._received.partition(b"\n")
        said = msgspec.json.decode(line, type=_Said)
        if said.failed:
            raise BenchFailed(f"JSON-RPC failed: {said.failed}")
        return said

    def _fail(self, why: str) -> None:
        lines = self._log.read_text(errors="replace").splitlines()[-1:]
        raise BenchFailed("; ".join([why, *lines]))


def carry_out(run: Run, control: Control) -> Counted:
    """Do one run in this process. Raises WrongAnswer, OSError."""
    server = run.server
    host = f"{server.host}:{server.port}"
    questions: Questions
    if run.workload:
        workload = Workload.open(Path(run.workload))
        questions = Payments(host, server.authorization, workload, run.first, run.batch)
    else:
        questions = BlockCounts(host, server.authorization)
    with Asking(server.host, server.port, run.connections, questions) as asking:
        if run.per_s is None:
            return counted(asking.flat_out(control))
        return counted(asking.steadily(run.per_s, control))


def counted(tally: Tally) -> Counted:
    """What a tally says."""
    histogram = tally.histogram
    percentiles = (("p50", 50.0), ("p90", 90.0), ("p99", 99.0), ("p999", 99.9), ("max", 100.0))
    return Counted(
        answers=tally.answers,
        units=tally.units,
        units_in_all=tally.units_in_all,
        elapsed_s=(tally.ended_ns - tally.began_ns) / 1e9,
        cpu_s=tally.cpu_s,
        latency_ms={
            name: histogram.get_value_at_percentile(q) / US_PER_MS for name, q in percentiles
        },
        histogram=histogram.encode().decode(),
    )


def _main() -> None:
    fd = sys.stdin.fileno()
    received = b""

    def say(said: _Said) -> None:
        os.write(sys.stdout.fileno(), msgspec.json.encode(said) + b"\n")

    def go_on() -> bool:
        """Whatever comes during a run is the wish to end it."""
        os.read(fd, len(STOP))
        return False

    control = Control(fd, go_on, lambda: say(_Said(begun=True)))
    while data := os.read(fd, READ_BYTES):
        *lines, received = (received + data).split(b"\n")
        for line in lines:
            if line == STOP.strip():  # came when the run had ended by itself
                continue
            try:
                outcome = carry_out(msgspec.json.decode(line, type=Run), control)
            except (WrongAnswer, OSError) as error:
                say(_Said(failed=str(error)))
                return
            say(_Said(counted=outcome))


if __name__ == "__main__":
    _main()
