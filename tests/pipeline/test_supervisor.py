"""The supervisor with real processes, real signals and a pipeline that is not a coin."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

import psutil
import pytest

from pipeline.control import MAX_CLIENTS, MAX_REQUEST_BYTES
from pipeline.errors import NoNodeError, RequestRefused, RunDirectoryError, SegmentError
from pipeline.restart import MAX_UNREADY_DEATHS
from pipeline.rundir import RunDirectory
from pipeline.segment import map_segment
from pipeline.status import _ask, ask_logging, ask_status, fetch_metrics
from pipeline.supervisor import IMPATIENT_S

HERE = Path(__file__).parent
PROCESSES = ["intake", "work-0", "work-1", "sink", "side"]
WAIT_S = 30.0


def until(condition, what, wait_s=WAIT_S):
    """Poll for a true value and return it; the test fails with ``what`` if none comes."""
    deadline = time.monotonic() + wait_s
    while True:
        value = condition()
        if value:
            return value
        if time.monotonic() > deadline:
            pytest.fail(f"waited {wait_s} s in vain: {what}")
        time.sleep(0.01)


class Pipeline:
    """A supervisor in a process of its own, what it logs, and what its stages write down."""

    def __init__(
        self, directory, options, run_dir=None, command=None, stdout=None, environment=None
    ):
        self.directory = directory
        self.run_dir = run_dir or directory / "run"
        number = len(list(directory.glob("log-*")))
        self.log = directory / f"log-{number}"
        self.errors = directory / f"errors-{number}"
        arguments = [str(self.run_dir), str(directory), json.dumps(options)]
        environment = (
            os.environ
            | (environment or {})
            | {"PYTHONPATH": f"{HERE.parent.parent}{os.pathsep}{HERE}"}
        )
        environment.pop("PYTHONUNBUFFERED", None)  # what it wrote in vain stays in its buffer
        with self.log.open("ab") as log, self.errors.open("ab") as errors:
            self.process = subprocess.Popen(
                [*(command or [sys.executable, str(HERE / "supervise.py")]), *arguments],
                stdout=log if stdout is None else stdout,
                stderr=errors,
                env=environment,
                cwd=directory,
            )

    def events(self, event=None, /, **values):
        lines = self.log.read_text().splitlines()
        found = [json.loads(line) for line in lines if line.endswith("}")]
        return [
            e
            for e in found
            if (event is None or e["event"] == event)
            and all(e.get(name) == value for name, value in values.items())
        ]

    def records(self, name, number=0, event=None, /, **values):
        path = self.directory / f"record-{name}-{number}"
        if not path.exists():
            return []
        found = [json.loads(line) for line in path.read_text().splitlines() if line.endswith("}")]
        return [
            r
            for r in found
            if (event is None or r["event"] == event)
            and all(r.get(name) == value for name, value in values.items())
        ]

    def order(self, stage, order):
        path = self.directory / f"do-{stage}"
        part = self.directory / f"part-{stage}"
        part.write_text(order)
        part.rename(path)

    def withdraw(self, stage):
        (self.directory / f"do-{stage}").unlink()

    def wait_ready(self):
        until(lambda: self.events("on_ready") or self.process.poll() is not None, "ready")
        assert self.process.poll() is None, self.errors.read_text()
        until(lambda: self.events("process_ready", process="side"), "the side stage")
        return self

    def status(self):
        return ask_status(self.run_dir)

    def process_status(self, name):
        return next(p for p in self.status()["processes"] if p["name"] == name)

    def pid(self, name):
        return self.process_status(name)["pid"]

    def wait_incarnation(self, name, incarnation):
        def reached():
            status = self.process_status(name)
            return status["state"] == "ready" and status["incarnation"] >= incarnation

        until(reached, f"{name} in incarnation {incarnation}")

    def children(self):
        return psutil.Process(self.process.pid).children(recursive=True)

    def wait_exit(self):
        return self.process.wait(WAIT_S)

    def stop(self):
        self.process.send_signal(signal.SIGTERM)
        return self.wait_exit()


@contextmanager
def pipelines_in(directory):
    started = []

    def start(options=None, **more):
        started.append(Pipeline(directory, options or {}, **more))
        return started[-1]

    try:
        yield start
    finally:
        for pipeline in started:
            pipeline.process.kill()
            pipeline.process.wait()


@pytest.fixture
def pipelines(tmp_path):
    with pipelines_in(tmp_path) as start:
        yield start


@pytest.fixture
def start(pipelines):
    return lambda options=None, **more: pipelines(options, **more).wait_ready()


@pytest.fixture(scope="module")
def shared(tmp_path_factory):
    """One pipeline for the tests that leave it as it was, in a directory with a long path."""
    directory = tmp_path_factory.mktemp("shared")
    run_dir = directory / ("x" * 120) / ("y" * 120) / "run"
    run_dir.parent.mkdir(parents=True)
    with pipelines_in(directory) as start:
        pipeline = start({"blob_bytes": 300_000, "fail_status": True}, run_dir=run_dir)
        yield pipeline.wait_ready()


def alive(pid):
    with suppress(psutil.NoSuchProcess):
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    return False


def count_fds(pid):
    return len(os.listdir(f"/proc/{pid}/fd"))


def test_starts_every_process_with_what_it_needs_and_nothing_more(shared):
    pipeline = shared
    status = pipeline.status()
    assert status["state"] == "running"
    assert status["extra"] == {"error": "RuntimeError: no status, on demand"}
    assert status["topology"]["stages"][0]["role"] == "intake"
    assert [p["name"] for p in status["processes"]] == PROCESSES
    # No resource tracker, no helper of any kind: the children are the stages.
    children = {child.pid for child in pipeline.children()}
    assert children == {p["pid"] for p in status["processes"]}
    built = pipeline.records("work", 1, "built")[0]
    assert built["comm"] == "test-work-1"
    assert built["nice"] == os.nice(0) + 3
    assert built["umask"] == 0o077
    assert built["blob"] == 300_000
    assert built["cwd"] == str(pipeline.run_dir)
    assert built["modules"] == []
    assert built["main"] is None
    assert built["blocked"] == 0
    metrics = {p["name"]: status["metrics"][p["name"]] for p in status["processes"]}
    assert metrics["work-1"][0]["values"]["heartbeat_ns"] > 0
    assert metrics["work-1"][0]["index"] == 1
    assert pipeline.run_dir.stat().st_mode & 0o777 == 0o700
    assert (pipeline.run_dir / "control.sock").stat().st_mode & 0o777 == 0o600


def test_stops_in_the_order_of_the_table(start):
    pipeline = start()
    pids = [p["pid"] for p in pipeline.status()["processes"]]
    assert pipeline.stop() == 0, pipeline.errors.read_text()
    stopped = [
        pipeline.records(stage, index, "stopped")[0]["at_ns"]
        for stage, index in [("intake", 0), ("work", 0), ("work", 1), ("sink", 0), ("side", 0)]
    ]
    assert stopped[0] < min(stopped[1:3])
    assert max(stopped[1:3]) < stopped[3] < stopped[4]
    assert not any(alive(pid) for pid in pids)
    assert os.listdir(pipeline.run_dir) == ["crew.lock"]
    returned = pipeline.events("returned")[0]
    assert returned["status"] == 0
    assert returned["modules"] == []
    assert pipeline.errors.read_text() == ""


def test_a_signal_to_everybody_stops_in_order_too(start):
    pipeline = start()
    for process in [*pipeline.children(), pipeline.process]:  # as a closing terminal does
        process.send_signal(signal.SIGHUP)
    assert pipeline.wait_exit() == 0
    assert pipeline.records("sink", 0, "stopped")
    assert pipeline.errors.read_text() == ""


def test_a_stop_during_the_start_is_orderly(pipelines):
    pipeline = pipelines()
    until(lambda: pipeline.events("process_started", process="side"), "started")
    for process in [*pipeline.children(), pipeline.process]:  # as Ctrl-C does
        process.send_signal(signal.SIGINT)
    assert pipeline.wait_exit() == 0, pipeline.errors.read_text()
    assert pipeline.errors.read_text() == ""


def test_a_killed_process_is_started_again_and_the_others_are_told(start):
    pipeline = start()
    before = pipeline.pid("work-0")
    os.kill(before, signal.SIGKILL)
    pipeline.wait_incarnation("work-0", 2)
    for stage, index in [("intake", 0), ("work", 1), ("sink", 0)]:
        until(
            lambda stage=stage, index=index: pipeline.records(
                stage, index, "peer started", stage="work", index=0, of=2
            ),
            "told of the new one",
        )
        died = pipeline.records(stage, index, "peer died")
        assert len(died) == 1
        assert died[0]["stage"] == "work"
        assert died[0]["of"] == 1
        assert died[0]["signal"] == signal.SIGKILL
        assert died[0]["status"] is None
        assert died[0]["reaped"]
    status = pipeline.process_status("work-0")
    assert pipeline.status()["extra"] == {"height": 7}
    assert status["pid"] != before
    assert status["restarts"] == 1
    assert status["last_death"]["cause"] == "SIGKILL"
    assert pipeline.status()["epoch"] == 1
    # The new one knows who was there before it, in which incarnation, and has the current segments.
    peers = [r for r in pipeline.records("work", 0, "peer started") if r["incarnation"] == 2]
    assert {(p["stage"], p["index"]) for p in peers} == {
        ("intake", 0),
        ("work", 1),
        ("sink", 0),
        ("side", 0),
    }
    attached = pipeline.records("work", 0, "attached")
    assert [a["epoch"] for a in attached] == [1, 1]
    assert attached[0]["segments"] == attached[1]["segments"]
    metrics = next(p for p in fetch_metrics(pipeline.run_dir) if p.process == "work-0")
    snapshot = metrics.reader.snapshots()[0]
    assert (snapshot.incarnation, snapshot.restarts) == (2, 1)
    pipeline.order("sink", "exit 3")  # that is a death as well
    died = until(lambda: pipeline.records("intake", 0, "peer died", stage="sink"), "told")[0]
    assert (died["signal"], died["status"]) == (None, 3)


def test_a_new_intake_gets_a_new_epoch(start):
    pipeline = start()
    first = pipeline.records("intake", 0, "attached")[0]
    sizes = {name: segment["size"] for name, segment in first["segments"].items()}
    assert sizes.keys() == {"input", "verdict-0", "verdict-1", "admission"}
    assert sizes["input"] >= 8 * 4096
    os.kill(pipeline.pid("intake"), signal.SIGKILL)
    pipeline.wait_incarnation("intake", 2)
    assert pipeline.status()["epoch"] == 2
    writes = {
        ("intake", 0): {"input"},
        ("work", 0): {"verdict-0"},
        ("work", 1): {"verdict-1"},
        ("sink", 0): {"admission"},
        ("side", 0): set(),
    }
    for (stage, index), own in writes.items():

        def attached(stage=stage, index=index):
            return pipeline.records(stage, index, "attached", epoch=2)

        grants = until(attached, f"{stage} {index} in epoch 2")[0]["segments"]
        assert {name for name, s in grants.items() if not s["readonly"]} == own
        old = pipeline.records(stage, index, "attached", epoch=1)[0]["segments"]
        assert all(set(old[n]["inode"]).isdisjoint(grants[n]["inode"]) for n in grants)
        if stage != "intake":  # what was granted read-only cannot be mapped writable
            kept_out = until(
                lambda stage=stage, index=index, own=own: (
                    len(pipeline.records(stage, index, "kept out")) == 4 - len(own)
                ),
                "attempts to map writable",
            )
            assert kept_out
        assert not pipeline.records(stage, index, "intruded")
    assert pipeline.stop() == 0


def test_stages_of_one_process_share_it(pipelines):
    pipeline = pipelines({"fused": True}).wait_ready()
    status = pipeline.status()
    assert [p["name"] for p in status["processes"]] == ["both", "sink", "side"]
    assert [m["stage"] for m in status["metrics"]["both"]] == ["intake", "work"]
    grants = pipeline.records("work", 0, "attached")[0]["segments"]
    writable = {name for name, s in grants.items() if not s["readonly"]}
    assert writable == {"input", "verdict-0"}
    os.kill(pipeline.pid("both"), signal.SIGKILL)
    pipeline.wait_incarnation("both", 2)
    until(lambda: len(pipeline.records("sink", 0, "peer started", of=2)) == 2, "told of both")
    assert [d["stage"] for d in pipeline.records("sink", 0, "peer died")] == ["intake", "work"]
    assert pipeline.stop() == 0


def test_many_restarts_leave_nothing_behind(start):
    pipeline = start()
    names = ["intake", "work-0", "work-1", "side"]
    counts = []
    for round_number in range(2, 6):
        for name in names:
            os.kill(pipeline.pid(name), signal.SIGKILL)
        for name in names:
            pipeline.wait_incarnation(name, round_number)
        if round_number == 2:
            pauses = [e["restart_in_ms"] for e in pipeline.events("process_died", process="side")]
            assert pauses == [0]
        counts.append(count_fds(pipeline.process.pid))
    assert max(counts) - min(counts) <= 1, counts  # a client of the control socket may linger
    assert {c.pid for c in pipeline.children()} == {pipeline.pid(name) for name in PROCESSES}
    pauses = [e["restart_in_ms"] for e in pipeline.events("process_died", process="side")]
    assert pauses == [0, 100, 200, 400]
    fds = count_fds(pipeline.pid("sink"))
    os.kill(pipeline.pid("intake"), signal.SIGKILL)
    pipeline.wait_incarnation("intake", 6)
    until(lambda: pipeline.records("sink", 0, "attached", epoch=6), "attached")
    assert count_fds(pipeline.pid("sink")) == fds
    assert pipeline.stop() == 0


def test_a_process_that_never_gets_ready_stops_the_pipeline(pipelines):
    pipeline = pipelines()
    pipeline.order("work-0", "crash in build")
    assert pipeline.wait_exit() == 1
    assert len(pipeline.events("process_died", process="work-0")) == MAX_UNREADY_DEATHS - 1
    failure = pipeline.events("returned")[0]["failure"]
    assert "work-0 died 5 times in a row before it was ready" in failure
    assert pipeline.errors.read_text().count("crash in build, on demand") >= MAX_UNREADY_DEATHS
    assert pipeline.records("sink", 0, "stopped")  # the others stopped in order


def test_an_expendable_process_never_stops_the_pipeline(start):
    pipeline = start()
    pipeline.order("side", "crash in build")
    os.kill(pipeline.pid("side"), signal.SIGKILL)
    until(
        lambda: len(pipeline.events("process_died", process="side")) > MAX_UNREADY_DEATHS,
        "more deaths than others are allowed",
    )
    assert pipeline.status()["state"] == "running"
    pipeline.withdraw("side")
    until(lambda: pipeline.process_status("side")["state"] == "ready", "recovered")
    assert pipeline.stop() == 0


def test_what_only_a_person_can_help_stops_the_pipeline_with_its_message(pipelines):
    pipeline = pipelines()
    pipeline.order("sink", "fatal")
    assert pipeline.wait_exit() == 2
    assert pipeline.events("returned")[0]["failure"] == "the disk is full; free some space"
    assert len(pipeline.records("sink", 0, "built")) == 1
    assert pipeline.errors.read_text() == ""


def test_processes_that_misbehave_are_killed_and_started_again(start):
    pipeline = start({"stall_ms": 2000})
    pipeline.order("work-0", "flood")
    pipeline.order("work-1", "hang")
    pipeline.order("side", "nonsense")
    os.kill(pipeline.pid("sink"), signal.SIGSTOP)
    causes = {
        "work-0": "it floods its channel",
        "work-1": "its loop stood still",
        "side": "it speaks nonsense",
        "sink": "its loop stood still",
    }
    for name, cause in causes.items():
        killed = until(lambda name=name: pipeline.events("process_killed", process=name), "killed")
        assert cause in killed[0]["because"]
        if name != "sink":
            pipeline.withdraw(name)
    for name, cause in causes.items():
        pipeline.wait_incarnation(name, 2)
        assert cause in pipeline.process_status(name)["last_death"]["cause"]
    died = until(lambda: pipeline.records("intake", 0, "peer died", stage="work"), "told")
    assert {d["signal"] for d in died} == {signal.SIGKILL}
    pipeline.order("side", "mute")  # lives on, without a channel
    until(
        lambda: pipeline.events("process_killed", process="side", because="it did not end in time"),
        "killed",
    )
    assert pipeline.process_status("intake")["incarnation"] == 1
    pipeline.order("sink", "say hello")
    until(lambda: pipeline.events("stage_says", text="hello"), "heard")


def test_nobody_is_blamed_when_everybody_was_stopped(start):
    pipeline = start({"stall_ms": 3000})
    everybody = [pipeline.process, *pipeline.children()]
    for process in reversed(everybody):
        process.send_signal(signal.SIGSTOP)
    time.sleep(4.0)  # longer than a loop may stand still: the machine was suspended
    for process in everybody:
        process.send_signal(signal.SIGCONT)
    until(lambda: pipeline.events("supervisor_was_away"), "noticed")
    pipeline.order("sink", "say awake")
    until(lambda: pipeline.events("stage_says", text="awake"), "heard")
    assert {p["incarnation"] for p in pipeline.status()["processes"]} == {1}


def test_a_log_that_nobody_reads_hinders_nothing(pipelines):
    reading, writing = os.pipe()
    with open(reading) as log:
        pipeline = pipelines(stdout=writing)
        os.close(writing)
        until(lambda: "on_ready" in log.readline(), "ready")
    os.kill(pipeline.pid("work-0"), signal.SIGKILL)
    pipeline.wait_incarnation("work-0", 2)
    assert pipeline.status()["state"] == "running"


def test_a_process_that_does_not_get_ready_in_time_is_killed(pipelines):
    pipeline = pipelines({"start_deadline_s": 3.0})
    pipeline.order("work-0", "slow")
    until(lambda: pipeline.events("process_killed", process="work-0"), "killed")
    pipeline.withdraw("work-0")
    pipeline.wait_ready()
    assert "not ready after 3 s" in pipeline.process_status("work-0")["last_death"]["cause"]


def test_a_process_over_its_memory_limit_is_killed_and_started_again(start):
    pipeline = start({"rss_limit_mb": {"sink": 150}})
    pipeline.order("work-0", "hoard")
    pipeline.order("sink", "hoard")
    until(lambda: pipeline.events("process_killed", process="sink"), "killed")
    pipeline.withdraw("sink")
    pipeline.wait_incarnation("sink", 2)
    assert "more than its limit of 150" in pipeline.process_status("sink")["last_death"]["cause"]
    assert pipeline.process_status("work-0")["incarnation"] == 1


def test_a_process_that_does_not_stop_is_killed_and_the_status_says_so(start):
    pipeline = start({"stop_deadline_ms": 200, "stall_ms": 60_000})
    pipeline.order("sink", "never stop")
    assert pipeline.stop() == 1
    assert "sink did not stop in order: SIGKILL" in pipeline.events("returned")[0]["failure"]
    assert pipeline.records("side", 0, "stopped")  # its turn came all the same


def test_a_second_signal_is_impatience(start):
    pipeline = start({"stop_deadline_ms": 60_000})
    pipeline.order("sink", "never stop")
    pipeline.process.send_signal(signal.SIGTERM)
    pipeline.process.send_signal(signal.SIGINT)  # at once: a terminal and a service manager
    until(lambda: pipeline.events("process_ended", process="work-1"), "stopping")
    assert pipeline.process.poll() is None
    first = time.monotonic()
    until(lambda: time.monotonic() > first + IMPATIENT_S, "a second to go by")
    pipeline.process.send_signal(signal.SIGINT)
    assert pipeline.wait_exit() == 1
    assert pipeline.events("signal_again")


def test_nothing_outlives_a_killed_supervisor(start):
    pipeline = start()
    pids = [p["pid"] for p in pipeline.status()["processes"]]
    pipeline.order("work-0", "hang")  # one that cannot notice by itself, and one that cannot run
    until(lambda: pipeline.records("work", 0, "hanging"), "a hung process")
    pipeline.withdraw("work-0")
    os.kill(pipeline.pid("side"), signal.SIGSTOP)
    pipeline.process.kill()
    pipeline.wait_exit()
    # A successor may start at once: it waits for the last of them, and tidies up.
    successor = start()
    assert not any(alive(pid) for pid in pids)
    assert successor.status()["state"] == "running"
    assert successor.stop() == 0


def test_nothing_outlives_a_supervisor_that_is_killed_while_it_starts(pipelines):
    pipeline = pipelines()
    for stage in ("intake", "work", "sink", "side"):
        pipeline.order(stage, "slow")
    started = until(lambda: pipeline.events("process_started"), "a first process")
    pids = [child.pid for child in pipeline.children()]
    pipeline.process.kill()
    pipeline.wait_exit()
    assert started[0]["pid"] in pids
    until(lambda: not any(alive(pid) for pid in pids), "their end")


def test_nothing_outlives_a_supervisor_that_fails(pipelines):
    pipeline = pipelines({"fail_when_ready": True})
    assert pipeline.wait_exit() == 1
    assert "fails when ready, on demand" in pipeline.errors.read_text()
    for event in pipeline.events("process_started"):
        assert not alive(event["pid"])


def test_a_second_supervisor_on_the_directory_is_refused(start, tmp_path):
    pipeline = start()
    with pytest.raises(RunDirectoryError, match=r"a node is running in .*; stop it first"):
        RunDirectory.open(pipeline.run_dir)
    assert pipeline.status()["state"] == "running"
    assert pipeline.stop() == 0
    RunDirectory.open(pipeline.run_dir).close()


def test_a_grandchild_does_not_hide_the_death_of_its_parent(start):
    pipeline = start()
    before = pipeline.pid("side")
    pipeline.order("side", "fork")
    grandchild = until(lambda: psutil.Process(before).children(), "grandchild")[0]
    try:
        pipeline.withdraw("side")
        os.kill(before, signal.SIGKILL)
        pipeline.wait_incarnation("side", 2)
    finally:
        grandchild.kill()


def test_an_idle_supervisor_sleeps(shared):
    pipeline = shared

    def wakeups():
        lines = Path(f"/proc/{pipeline.process.pid}/status").read_text().splitlines()
        return next(int(line.split()[1]) for line in lines if line.startswith("voluntary"))

    window_s = 3.0
    before = wakeups()
    time.sleep(window_s)  # the window that is measured
    assert wakeups() - before <= 4 * window_s


@pytest.mark.parametrize("way", ["module", "script"])
def test_children_do_not_run_the_parents_main_program(pipelines, tmp_path, way):
    package = tmp_path / "prog"
    package.mkdir()
    (package / "__init__.py").write_text("")
    (package / "__main__.py").write_text("import sys, supervise\nsys.exit(supervise.main())\n")
    script = tmp_path / "start-it"  # without a guard: run again, it would start another pipeline
    script.write_text("import sys, prog, supervise\nsys.exit(supervise.main())\n")
    command = ["-m", "prog"] if way == "module" else [str(script)]
    pipeline = pipelines(command=[sys.executable, *command]).wait_ready()
    built = pipeline.records("sink", 0, "built")[0]
    assert (built["modules"], built["main"]) == ([], None)
    assert pipeline.stop() == 0
    assert pipeline.errors.read_text() == ""


def test_long_and_relative_paths_of_run_directories(shared, monkeypatch):
    assert ask_status(shared.run_dir)["state"] == "running"
    monkeypatch.chdir(shared.run_dir.parent.parent)
    relative = Path("y" * 120) / "run"
    assert ask_status(relative)["state"] == "running"
    assert [p.process for p in fetch_metrics(str(relative))] == PROCESSES


def test_nobody_answers_where_no_pipeline_runs(tmp_path):
    with pytest.raises(NoNodeError, match="No such file or directory"):
        ask_status(tmp_path / "no-such-directory")
    with socket.socket(socket.AF_UNIX) as left_behind:
        left_behind.bind(str(tmp_path / "control.sock"))
    with pytest.raises(NoNodeError, match=r"no node answers for .*refused.*; start it first"):
        ask_status(tmp_path)


def test_metrics_come_read_only_and_outlive_restarts(shared):
    pipeline = shared
    metrics = next(p for p in fetch_metrics(pipeline.run_dir) if p.process == "sink")
    assert metrics.segment.view.readonly
    assert metrics.reader.snapshots()[0].pid == pipeline.pid("sink")
    _, fds = _ask(pipeline.run_dir, {"ask": "metrics"}, 5.0)
    assert len(fds) == len(PROCESSES)
    for fd in fds:
        with pytest.raises(SegmentError, match="cannot be mapped writable"):
            map_segment(fd, writable=True)
        with pytest.raises(OSError, match="Bad file descriptor"):
            os.write(fd, b"x")
        os.close(fd)
    os.kill(pipeline.pid("sink"), signal.SIGKILL)
    pipeline.wait_incarnation("sink", 2)
    assert metrics.reader.snapshots()[0].pid == pipeline.pid("sink")


def connect(pipeline):
    sock = socket.socket(socket.AF_UNIX)
    sock.settimeout(WAIT_S)
    directory = os.open(pipeline.run_dir, os.O_PATH)
    sock.connect(f"/proc/self/fd/{directory}/control.sock")
    os.close(directory)
    return sock


def test_misbehaving_clients_of_the_control_socket_disturb_nobody(shared):
    pipeline = shared
    fds = count_fds(pipeline.process.pid)
    pids = [p["pid"] for p in pipeline.status()["processes"]]
    garbage = [b"\0\xff\n", b"[]\n", b'{"ask":1}\n', b"{" * 4000 + b"\n", b"[" * 4000 + b"\n"]
    for line in garbage:
        with connect(pipeline) as sock:
            sock.sendall(line)
            assert b'"error"' in sock.recv(4096)
    with connect(pipeline) as sock:  # too long
        sock.sendall(b"x" * (MAX_REQUEST_BYTES + 1))
        assert sock.recv(4096) == b""
    with connect(pipeline) as sock:  # two in one go, byte by byte in the end
        sock.sendall(b'{"ask":"no"}\n{"ask":"no"}\n')
        answer = b""
        while answer.count(b"\n") < 2:
            answer += sock.recv(4096)
    with connect(pipeline) as sock:  # descriptors that nobody asked for
        socket.send_fds(sock, [b'{"ask":"no"}\n'], [0, 1, 2] * 20)
        assert b'"error"' in sock.recv(4096)
    with ExitStack() as stack:
        silent = [stack.enter_context(connect(pipeline)) for _ in range(MAX_CLIENTS)]
        assert pipeline.status()["state"] == "running"  # queued until the silent are dropped
        assert all(sock.recv(1) == b"" for sock in silent)
        deaf = stack.enter_context(connect(pipeline))  # asks and asks, and never reads
        deaf.settimeout(0.2)
        with suppress(TimeoutError, BrokenPipeError, ConnectionResetError):
            while True:
                deaf.sendall(b'{"ask":"status"}\n' * 100)
        assert pipeline.status()["state"] == "running"
    until(lambda: count_fds(pipeline.process.pid) <= fds, "descriptors given back")
    assert [p["pid"] for p in pipeline.status()["processes"]] == pids


def test_a_flood_on_the_control_socket_costs_little(shared):
    pipeline = shared
    usage = psutil.Process(pipeline.process.pid).cpu_times
    deadline = time.monotonic() + 2.0
    answers = 0
    before = usage().user + usage().system
    with connect(pipeline) as sock:
        while time.monotonic() < deadline:
            sock.sendall(b'{"ask":"no"}\n')
            answers += bool(sock.recv(4096))
    # The budget of wake-ups, not the client, says how many were served: two a request at most.
    assert 50 <= answers <= 100 + 3 * 200
    assert usage().user + usage().system - before < 1.0
    assert pipeline.status()["state"] == "running"


class ServiceManager:
    """The datagram socket of a service manager, and what was said there."""

    def __init__(self, name, watchdog_s):
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.sock.bind(name.replace("@", "\0", 1))
        self.sock.setblocking(False)
        self.said = []
        self.environment = {
            "NOTIFY_SOCKET": name,
            "WATCHDOG_USEC": str(round(watchdog_s * 1_000_000)),
        }

    def messages(self):
        with suppress(BlockingIOError):
            while True:
                self.said.append(self.sock.recv(4_096).decode())
        return self.said

    def states(self):
        return [each for each in self.messages() if not each.startswith(("STATUS", "WATCHDOG"))]

    def wait_fed(self, what):
        before = self.messages().count("WATCHDOG=1")
        until(lambda: self.messages().count("WATCHDOG=1") > before, what)


@pytest.fixture
def service():
    manager = ServiceManager(f"@timed-test-{os.getpid()}", watchdog_s=1.0)
    yield manager
    manager.sock.close()


def test_a_service_manager_hears_of_a_whole_life(start, service):
    pipeline = start({"stall_ms": 3_000, "reloads": True}, environment=service.environment)
    service.wait_fed("all loops turn")
    assert service.states() == ["READY=1"]
    assert "STATUS=running, 5 processes" in service.messages()
    variables = Path(f"/proc/{pipeline.pid('sink')}/environ").read_bytes()
    assert b"NOTIFY_SOCKET" not in variables
    assert b"WATCHDOG" not in variables

    frozen = pipeline.pid("work-1")
    os.kill(frozen, signal.SIGSTOP)
    until(lambda: pipeline.events("watchdog_not_fed"), "it is noticed")
    starved = service.messages().count("WATCHDOG=1")
    until(lambda: pipeline.events("process_killed", process="work-1"), "the stage is killed")
    assert service.messages().count("WATCHDOG=1") == starved
    service.wait_fed("the loop turns again")
    assert pipeline.pid("work-1") != frozen
    assert [e["waits_for"] for e in pipeline.events("watchdog_not_fed")] == [["work-1"]]

    pipeline.process.send_signal(signal.SIGHUP)
    until(lambda: len(service.states()) == 3, "reloaded")
    assert pipeline.events("hung_up")
    reloading = service.states()[1].splitlines()
    assert reloading[0] == "RELOADING=1"
    began_us = int(reloading[1].removeprefix("MONOTONIC_USEC="))
    assert 0 < began_us <= time.monotonic_ns() // 1_000
    assert service.states()[2] == "READY=1"

    assert pipeline.stop() == 0
    assert service.states()[3:] == ["STOPPING=1"]


def test_a_stage_that_can_be_done_without_does_not_starve_the_watchdog(start, service):
    pipeline = start(environment=service.environment)
    os.kill(pipeline.pid("side"), signal.SIGSTOP)
    for _ in range(3):
        service.wait_fed("fed without it")
    assert pipeline.events("watchdog_not_fed") == []


def test_levels_of_logs_are_set_from_outside_and_kept(start):
    pipeline = start()
    assert ask_logging(pipeline.run_dir)["work-1"] == "info"
    levels = ask_logging(pipeline.run_dir, {"work": "debug", "side": "warning"})
    assert levels == {
        "supervisor": "info",
        "intake": "info",
        "work-0": "debug",
        "work-1": "debug",
        "sink": "info",
        "side": "warning",
    }
    for number in (0, 1):
        told = until(lambda n=number: pipeline.records("work", n, "log level"), "told")
        assert [each["level"] for each in told] == ["debug"]
    os.kill(pipeline.pid("work-0"), signal.SIGKILL)
    pipeline.wait_incarnation("work-0", 2)
    told = [
        (each["incarnation"], each["level"]) for each in pipeline.records("work", 0, "log level")
    ]
    assert told == [(1, "debug"), (2, "debug")]
    assert pipeline.records("sink", 0, "log level") == []
    pipeline.order("side", "say quiet")
    until(lambda: pipeline.records("side", 0, "said"), "said")
    for _ in range(2):  # so the supervisor has been through everything that was there before
        ask_logging(pipeline.run_dir)
    ask_logging(pipeline.run_dir, {"side": "info"})
    pipeline.order("side", "say aloud")
    until(lambda: pipeline.events("stage_says", text="aloud"), "heard")
    levels["side"] = "info"
    assert pipeline.events("stage_says", text="quiet") == []
    for wanted, says in (
        ({"walk": "debug"}, "no stage or process 'walk'"),
        ({"sink": 1}, "object"),
    ):
        with pytest.raises(RequestRefused) as refused:
            ask_logging(pipeline.run_dir, wanted)
        assert says in refused.value.reason
    assert ask_logging(pipeline.run_dir) == levels
