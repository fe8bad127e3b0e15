"""The nodes of a network as processes: made with ``timed init``, run with ``timed run``, stopped.

Each node is a child of this process, in a session of its own (Ctrl-C is for whoever started the
network), and is told by the kernel to die when this process dies, however that happens. Owns these
children and nothing else; ends none but them. Start nodes from the main thread: the kernel means
the thread.
"""

from __future__ import annotations

import ctypes
import fcntl
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import Any, Final

from node.config import network_of
from node.datadir import Layout
from node.genesis import read_genesis
from pipeline.errors import NoNodeError
from pipeline.rundir import CREW_LOCK
from pipeline.status import ask_status
from tools.devnet.chain import key_path
from tools.devnet.errors import DevnetError
from tools.devnet.places import Place, Sections, configuration
from tools.loadgen.workload_file import GENESIS_NAME

READY_TIMEOUT_S: Final = 120.0
STOP_TIMEOUT_S: Final = 30.0
GONE_TIMEOUT_S: Final = 10.0
STATUS_TIMEOUT_S: Final = 1.0
"""A supervisor answers in milliseconds; one that is stopped must not hold up the others."""

_POLL_S: Final = 0.05
_TAIL_BYTES: Final = 8_192
_LINE_CHARACTERS: Final = 500
_PR_SET_PDEATHSIG: Final = 1
_TIMED: Final = (sys.executable, "-m", "node")


def die_with(parent_pid: int) -> Callable[[], None]:
    """Return what a child has to do before it becomes another program: it is to be killed with
    us, and to hear SIGINT, which a shell lets its background jobs ignore.
    """
    prctl = ctypes.CDLL(None).prctl

    def in_child() -> None:
        signal.signal(signal.SIGINT, signal.SIG_DFL)
        prctl(_PR_SET_PDEATHSIG, ctypes.c_ulong(signal.SIGKILL), 0, 0, 0)
        if os.getppid() != parent_pid:  # it died before the line above: no signal will come
            os._exit(1)

    return in_child


def last_line(log: Path) -> str:
    """The end of a log, for error messages."""
    try:
        with log.open("rb") as file:
            file.seek(max(0, os.fstat(file.fileno()).st_size - _TAIL_BYTES))
            lines = file.read(_TAIL_BYTES).decode(errors="replace").splitlines()
    except OSError:
        lines = []
    return lines[-1][:_LINE_CHARACTERS] if lines else "it said nothing"


def init_nodes(everybody: Sequence[Place], chain: Path) -> None:
    """Make the data directory of every node, several at a time; raises DevnetError."""
    at_once = max(1, len(os.sched_getaffinity(0)))
    for start in range(0, len(everybody), at_once):
        _init(everybody[start : start + at_once], chain)


def _init(some: Sequence[Place], chain: Path) -> None:
    with ExitStack() as stack:
        running = []
        for place in some:
            place.root.mkdir(parents=True, exist_ok=True)
            command = [*_TIMED, "init", "--datadir", str(place.datadir)]
            command += ["--genesis", str(chain / GENESIS_NAME)]
            command += ["--validator-key", str(key_path(chain, place.number))]
            process = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
                stderr=subprocess.PIPE, text=True, start_new_session=True,
                preexec_fn=die_with(os.getpid()),
            )  # fmt: skip
            running.append(stack.enter_context(process))
            stack.callback(process.kill)
        for place, process in zip(some, running, strict=True):
            _, said = process.communicate()
            if process.returncode:
                why = said.strip().splitlines()[-1:] or ["it said nothing"]
                raise DevnetError(
                    f"{place.name} could not be made ({why[0]})", "correct that, then try again"
                )


def configure(place: Place, peers: Sequence[str], sections: Sections) -> None:
    """Write the node's config.toml: it dials ``peers``, and differs in ``sections``."""
    where = Layout(place.datadir)
    network = network_of(read_genesis(where.genesis).chain)
    where.config.write_text(configuration(place, peers, sections, network))


class Node:
    """One node: started, asked, stopped. It is not running at first."""

    def __init__(self, place: Place) -> None:
        self.place = place
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def running(self) -> bool:
        """Whether its supervisor was started and has not ended."""
        return self._process is not None and self._process.poll() is None

    @property
    def pid(self) -> int:
        """Process id of its supervisor, which must have been started."""
        assert self._process is not None, "it was not started"
        return self._process.pid

    def start(self) -> None:
        """Start ``timed run``; waits for nothing."""
        assert not self.running, f"{self.place.name} runs"
        command = [*_TIMED, "run", "--datadir", str(self.place.datadir)]
        with self.place.log.open("ab") as log:
            self._process = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=log, stderr=log,
                start_new_session=True, preexec_fn=die_with(os.getpid()),
            )  # fmt: skip

    def status(self, timeout_s: float = STATUS_TIMEOUT_S) -> dict[str, Any] | None:
        """What its supervisor says; None if it says nothing for so long."""
        try:
            return ask_status(Layout(self.place.datadir).run, timeout_s=timeout_s)
        except (NoNodeError, OSError):
            return None

    def ready(self) -> bool:
        """Whether all its processes work."""
        answer = self.status()
        return answer is not None and answer["state"] == "running"

    def ended(self) -> str | None:
        """How it ended, if it was started and did."""
        if self._process is None or (status := self._process.poll()) is None:
            return None
        return f"ended with status {status}: {last_line(self.place.log)}"

    def terminate(self) -> None:
        """Ask it to stop in order."""
        if self.running:
            self.signal(signal.SIGTERM)

    def signal(self, number: signal.Signals) -> None:
        """Send a signal to its supervisor."""
        assert self._process is not None, "it was not started"
        self._process.send_signal(number)

    def wait(self, timeout_s: float) -> int | None:
        """Wait for its end; returns its status, or None if it still runs."""
        assert self._process is not None, "it was not started"
        try:
            return self._process.wait(max(0.0, timeout_s))
        except subprocess.TimeoutExpired:
            return None

    def kill(self) -> None:
        """SIGKILL to the supervisor, with which the others die; returns when all are gone.

        Raises TimeoutError if one of them waits for a disk for longer than ten seconds.
        """
        if self._process is None:
            return
        self._process.kill()
        self._process.wait()
        deadline_s = time.monotonic() + GONE_TIMEOUT_S
        while _crew_at_work(Layout(self.place.datadir).run / CREW_LOCK):
            if time.monotonic() > deadline_s:
                raise TimeoutError(f"processes of {self.place.name} outlive its supervisor")
            time.sleep(_POLL_S)


def _crew_at_work(lock: Path) -> bool:
    """Whether a process of a node still runs: each holds this lock for as long as it does."""
    try:
        with lock.open("rb") as file:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except FileNotFoundError:
        return False
    except BlockingIOError:
        return True
    return False


def wait_ready(nodes: Sequence[Node], timeout_s: float = READY_TIMEOUT_S) -> None:
    """Wait until all processes of these nodes work; raises DevnetError for one that does not."""
    deadline_s = time.monotonic() + timeout_s
    waiting = list(nodes)
    while waiting := [node for node in waiting if not node.ready()]:
        for node in waiting:
            if (how := node.ended()) is not None:
                raise DevnetError(f"{node.place.name} {how}", f"its whole log is {node.place.log}")
        if time.monotonic() > deadline_s:
            names = ", ".join(node.place.name for node in waiting)
            raise DevnetError(
                f"{names} did not become ready within {timeout_s:.0f} s",
                f"see {waiting[0].place.log}",
            )
        time.sleep(_POLL_S)


class Network:
    """Nodes that are started and stopped together; leaving the context stops them in any case."""

    def __init__(self, everybody: Sequence[Place]) -> None:
        self.nodes = [Node(place) for place in everybody]

    def __enter__(self) -> Network:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, _: BaseException | None, __: TracebackType | None
    ) -> None:
        self.stop()

    def start(self) -> None:
        """Start all nodes; waits for nothing."""
        for node in self.nodes:
            node.start()

    def wait_ready(self) -> None:
        """Wait until all nodes are ready; raises DevnetError."""
        wait_ready(self.nodes)

    def stop(self, timeout_s: float = STOP_TIMEOUT_S) -> list[str]:
        """Stop all nodes in order, and those that do not end in time by SIGKILL.

        Returns what was not in order, a line for each node; a node that had ended or was killed
        before is not mentioned. An interrupt meanwhile kills the rest at once.
        """
        failures = []
        stopping = [node for node in self.nodes if node.running]
        try:
            for node in stopping:
                node.terminate()
            deadline_s = time.monotonic() + timeout_s
            for node in stopping:
                status = node.wait(deadline_s - time.monotonic())
                if status is None:
                    failures.append(f"{node.place.name} did not stop and was killed")
                elif status != 0:
                    failures.append(f"{node.place.name} {node.ended()}")
        finally:
            for node in stopping:
                node.kill()
        return failures
