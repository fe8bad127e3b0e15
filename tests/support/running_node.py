"""A real node for the tests: with its own directory, ports and processes."""

from __future__ import annotations

import json
import os
import signal
import struct
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import psutil
import zmq

from pipeline.status import ask_status
from tools.ports import free_ports

DEADLINE_S = 60.0
TIMED = (sys.executable, "-m", "node")
LOAD = (sys.executable, "-m", "tools.loadgen")


def run(*command: str, timeout_s: float = 2 * DEADLINE_S) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command, capture_output=True, text=True, timeout=timeout_s, check=False)


def prepare(directory: Path, *options: str) -> Path:
    """A workload made by `time-load prepare`."""
    done = run(*LOAD, "prepare", str(directory), *options)
    assert done.returncode == 0, done.stderr
    return directory


class RunningNode:
    """`timed run` on a fresh data directory that belongs to a workload's genesis."""

    def __init__(self, root: Path, workload: Path, **config: dict[str, Any]) -> None:
        root.mkdir(exist_ok=True)
        self.datadir = root / "node"
        self.workload = workload
        done = run(
            *TIMED,
            "init",
            *("--datadir", str(self.datadir)),
            *("--network", "dev"),
            *("--genesis", str(workload / "genesis.json")),
            *("--validator-key", str(workload / "validator.key")),
        )
        assert done.returncode == 0, done.stderr
        ingest, notify, rpc = free_ports(3)
        self.ingest = f"tcp://127.0.0.1:{ingest}"
        self.notify = f"tcp://127.0.0.1:{notify}"
        self.rpc = f"127.0.0.1:{rpc}"
        network = {"listen": self.ingest, "notify": self.notify}
        config["rpc"] = {"listen": self.rpc} | config.get("rpc", {})
        sections = {"network": network, "block": {"pace_ms": 50}} | config
        lines: list[str] = []
        for section, keys in sections.items():
            lines.append(f"[{section}]")
            lines += [f"{key} = {json.dumps(value)}" for key, value in keys.items()]
        (self.datadir / "config.toml").write_text("\n".join(lines) + "\n")
        self.process: subprocess.Popen[bytes] | None = None
        self.log = root / "node.log"

    def start(self) -> RunningNode:
        """Start the node and wait until all its processes are ready."""
        self.launch()
        self.wait_until(self.all_ready)
        return self

    def launch(self) -> None:
        """Start the node and wait for nothing."""
        command = [*TIMED, "run", "--datadir", str(self.datadir)]
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(command, stderr=log, stdout=log)

    def all_ready(self) -> bool:
        assert self.process is not None
        assert self.process.poll() is None, self.log.read_text()
        try:
            processes = ask_status(self.datadir / "run")["processes"]
        except Exception:  # not listening yet
            return False
        return all(each["state"] == "ready" for each in processes)

    def status(self) -> dict[str, Any]:
        return ask_status(self.datadir / "run")

    def pid(self, name: str) -> int | None:
        return next(p["pid"] for p in self.status()["processes"] if p["name"] == name)

    def metrics(self, process: str) -> dict[str, Any]:
        """The metrics of the first stage of a process, name -> value."""
        values: dict[str, Any] = self.fresh_status()["metrics"][process][0]["values"]
        return values

    def fresh_status(self) -> dict[str, Any]:
        """A status taken after this call began; the supervisor repeats its last for a moment."""
        stale = self.status()["uptime_s"]
        while (status := self.status())["uptime_s"] == stale:
            time.sleep(0.01)
        return status

    def kill(self, name: str) -> None:
        """SIGKILL, and wait until a successor is ready."""
        before = self.pid(name)
        assert before is not None
        os.kill(before, signal.SIGKILL)
        self.wait_until(lambda: self.pid(name) not in (None, before))
        self.wait_until(self.all_ready)

    def kill_all(self) -> None:
        """SIGKILL to the supervisor; waits until nothing of the node is left."""
        assert self.process is not None
        children = psutil.Process(self.process.pid).children(recursive=True)
        self.process.kill()
        self.process.wait(DEADLINE_S)
        _, alive = psutil.wait_procs(children, timeout=DEADLINE_S)
        assert alive == []
        self.process = None

    def stop(self) -> int:
        """SIGTERM; returns the exit status."""
        assert self.process is not None
        self.process.terminate()
        status = self.process.wait(DEADLINE_S)
        self.process = None
        return status

    def end(self) -> None:
        """Whatever happened: no process is left."""
        if self.process is None:
            return
        children = []
        if self.process.poll() is None:
            children = psutil.Process(self.process.pid).children(recursive=True)
            self.process.kill()
        self.process.wait(DEADLINE_S)
        psutil.wait_procs(children, timeout=DEADLINE_S)

    def check(self, *options: str) -> subprocess.CompletedProcess[str]:
        return run(*TIMED, "check", "--datadir", str(self.datadir), *options)

    def load(self, *options: str) -> subprocess.Popen[str]:
        """`time-load run` against this node, writing its report to load.json."""
        command = [
            *LOAD,
            "run",
            str(self.workload),
            *("--ingest", self.ingest),
            *("--notify", self.notify),
            *("--json", str(self.report_path)),
            *options,
        ]
        return subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        )

    @property
    def report_path(self) -> Path:
        return self.datadir.parent / "load.json"

    def report(self) -> dict[str, Any]:
        report: dict[str, Any] = json.loads(self.report_path.read_bytes())
        return report

    @staticmethod
    def wait_until(condition: Any, deadline_s: float = DEADLINE_S) -> None:
        """Poll a condition; fails at the deadline."""
        until = time.monotonic() + deadline_s
        while not condition():
            assert time.monotonic() < until, "the condition was not met in time"
            time.sleep(0.02)


class IngestClient:
    """A client that says what the tests want it to say."""

    def __init__(self, address: str) -> None:
        self.context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
        self.socket = self.context.socket(zmq.DEALER)
        self.socket.linger = 0
        self.socket.connect(address)
        self.requests = 0

    def send(self, transactions: list[bytes]) -> bytes:
        self.requests += 1
        id_ = self.requests.to_bytes(8, "little")
        lengths = struct.pack(f"<{len(transactions)}H", *map(len, transactions))
        self.socket.send_multipart([id_, lengths, b"".join(transactions)])
        return id_

    def receive(self, deadline_s: float = DEADLINE_S) -> tuple[bytes, bytes]:
        assert self.socket.poll(int(deadline_s * 1000)), "no answer"
        id_, codes = self.socket.recv_multipart()
        return id_, codes

    def ask(self, *transactions: bytes) -> bytes:
        """One request and its verdicts."""
        id_ = self.send(list(transactions))
        answered, codes = self.receive()
        assert answered == id_
        return codes

    def close(self) -> None:
        self.socket.close()
        self.context.term()
