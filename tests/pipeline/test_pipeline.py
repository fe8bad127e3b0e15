"""A small pipeline that is no coin (tests/support/lines.py): real processes, sockets, signals."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
import zmq

from pipeline.status import ask_status

LINES = Path(__file__).parents[1] / "support" / "lines.py"
ACCEPTED, BAD, QUARANTINED = 0, 1, 2
DEADLINE_S = 60


class Running:
    """The pipeline's supervisor as a child of the test."""

    def __init__(self, run_dir: Path, workers: int) -> None:
        self.run_dir = run_dir
        self.process = subprocess.Popen(
            [sys.executable, str(LINES), str(run_dir), str(workers)],
            stdout=subprocess.PIPE,
            env={**os.environ, "PYTHONPATH": str(LINES.parent)},
            text=True,
        )
        assert self.process.stdout is not None
        for line in self.process.stdout:
            if line.strip() == "ready":
                return
        raise AssertionError(f"the pipeline ended with {self.process.wait()}")

    def pid(self, name: str) -> int:
        processes = ask_status(self.run_dir)["processes"]
        return next(p["pid"] for p in processes if p["name"] == name)

    def kill(self, name: str, number: signal.Signals = signal.SIGKILL) -> None:
        os.kill(self.pid(name), number)

    def children(self) -> list[psutil.Process]:
        return psutil.Process(self.process.pid).children(recursive=True)

    def end(self) -> None:
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait(DEADLINE_S)
        assert self.process.stdout is not None
        self.process.stdout.close()


class Client:
    """Sends requests and collects each answer once."""

    def __init__(self, run_dir: Path) -> None:
        self.context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
        self.socket = self.context.socket(zmq.DEALER)
        self.socket.linger = 0
        self.socket.reconnect_ivl = 20
        directory = os.open(run_dir, os.O_RDONLY)
        self.socket.connect(f"ipc:///proc/self/fd/{directory}/lines.sock")
        self.directory = directory
        self.answers: dict[bytes, list[bytes]] = {}

    def send(self, id_: bytes, lines: list[bytes]) -> None:
        self.socket.send_multipart([id_, *lines])

    def collect(self, count: int, deadline_s: float = DEADLINE_S) -> None:
        """Wait until `count` requests in all are answered."""
        until = time.monotonic() + deadline_s
        while len(self.answers) < count:
            left_ms = int((until - time.monotonic()) * 1000)
            if left_ms <= 0 or not self.socket.poll(left_ms):
                raise AssertionError(f"{len(self.answers)} of {count} requests answered")
            id_, codes = self.socket.recv_multipart()
            self.answers.setdefault(id_, []).append(codes)

    def close(self) -> None:
        self.socket.close()
        self.context.term()
        os.close(self.directory)


@pytest.fixture
def start(tmp_path: Path) -> Iterator[list[Running]]:
    started: list[Running] = []
    yield started
    for running in started:
        running.end()


@pytest.fixture
def pipeline(tmp_path: Path, start: list[Running]) -> Running:
    run_dir = tmp_path / "run"
    run_dir.mkdir(mode=0o700)
    start.append(Running(run_dir, workers=2))
    return start[0]


@pytest.fixture
def client(pipeline: Running) -> Iterator[Client]:
    client = Client(pipeline.run_dir)
    yield client
    client.close()


def accepted(run_dir: Path) -> Counter[bytes]:
    return Counter((run_dir / "accepted").read_bytes().split(b"\n")[:-1])


def batch(number: int, lines: int) -> list[bytes]:
    return [b"%d:%d %s" % (number, each, b"bad" * (each % 7 == 3)) for each in range(lines)]


def expected(lines: list[bytes]) -> bytes:
    return bytes(BAD if b"bad" in line else ACCEPTED for line in lines)


def test_every_line_gets_its_own_verdict(pipeline: Running, client: Client) -> None:
    batches = {b"%d" % n: batch(n, lines) for n, lines in enumerate((1, 16, 17, 100, 3, 250))}
    for id_, lines in batches.items():
        client.send(id_, lines)
    client.collect(len(batches))
    assert client.answers == {id_: [expected(lines)] for id_, lines in batches.items()}
    good = [line for lines in batches.values() for line in lines if b"bad" not in line]
    assert accepted(pipeline.run_dir) == Counter(good)


def test_nothing_is_lost_or_doubled_while_workers_are_killed(
    pipeline: Running, client: Client
) -> None:
    choice = random.Random(7)
    batches = {b"%d" % n: batch(n, 40) for n in range(120)}
    sent = iter(batches.items())
    for round_ in range(6):
        for _ in range(20):
            id_, lines = next(sent)
            client.send(id_, [*lines, b"slow"])
        client.collect(20 * round_ + 3)
        pipeline.kill(choice.choice(["judge-0", "judge-1"]))
    client.collect(len(batches))
    assert client.answers == {
        id_: [expected(lines) + bytes([ACCEPTED])] for id_, lines in batches.items()
    }
    good = [line for lines in batches.values() for line in lines if b"bad" not in line]
    assert accepted(pipeline.run_dir) == Counter(good) + Counter({b"slow": len(batches)})


def test_a_line_that_kills_workers_is_quarantined_and_its_neighbours_are_not(
    pipeline: Running, client: Client
) -> None:
    lines = [b"%d" % n for n in range(60)]
    lines[37] = b"this is a SEGV"
    client.send(b"x", lines)
    client.collect(1)
    codes = bytearray(expected(lines))
    codes[37] = QUARANTINED
    assert client.answers == {b"x": [bytes(codes)]}
    client.send(b"y", [b"after"])
    client.collect(2)
    assert accepted(pipeline.run_dir) == Counter(set(lines) - {lines[37]}) + Counter([b"after"])


def test_a_new_sink_gets_what_the_old_one_did_not_return(pipeline: Running, client: Client) -> None:
    batches = {b"%d" % n: [*batch(n, 30), b"slow"] for n in range(60)}
    for number, (id_, lines) in enumerate(batches.items()):
        client.send(id_, lines)
        if number in (20, 40):
            client.collect(number // 4)
            pipeline.kill("collect")
    client.collect(len(batches))
    assert client.answers == {id_: [expected(lines)] for id_, lines in batches.items()}
    good = {line for lines in batches.values() for line in lines if b"bad" not in line}
    assert set(accepted(pipeline.run_dir)) == good


def test_a_new_intake_begins_a_new_epoch_and_serves_on(pipeline: Running, client: Client) -> None:
    for round_ in range(3):
        lines = batch(round_, 50)
        client.send(b"before %d" % round_, lines)
        client.collect(2 * round_ + 1)
        pid = pipeline.pid("source")
        pipeline.kill("source")
        until = time.monotonic() + DEADLINE_S
        while pipeline.pid("source") in (pid, None):
            assert time.monotonic() < until
        client.send(b"after %d" % round_, lines)
        client.collect(2 * round_ + 2)
    assert all(answers == [expected(batch(0, 50))] for answers in client.answers.values())


def test_an_orderly_stop_answers_what_was_taken_in(pipeline: Running, client: Client) -> None:
    batches = {b"%d" % n: [*batch(n, 30), b"slow"] for n in range(8)}
    for id_, lines in batches.items():
        client.send(id_, lines)
    client.collect(1)
    pipeline.process.terminate()
    assert pipeline.process.wait(DEADLINE_S) == 0
    while client.socket.poll(200):
        id_, codes = client.socket.recv_multipart()
        client.answers.setdefault(id_, []).append(codes)
    answered = {line for id_ in client.answers for line in batches[id_] if b"bad" not in line}
    assert answered == set(accepted(pipeline.run_dir))


def test_nothing_is_left_behind_when_the_supervisor_is_killed(
    pipeline: Running, client: Client
) -> None:
    client.send(b"x", [b"one"])
    client.collect(1)
    children = pipeline.children()
    assert len(children) >= 4
    pipeline.process.kill()
    _, alive = psutil.wait_procs(children, timeout=DEADLINE_S)
    assert alive == []
