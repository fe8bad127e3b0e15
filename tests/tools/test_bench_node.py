"""The benchmark of the node with real nodes: what it measures, what it refuses, what it leaves."""

from __future__ import annotations

import hashlib
import json
import mmap
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from node.datadir import layout
from node.verdict import Verdict
from pipeline.status import ask_status
from tools.bench.errors import BenchError, BenchFailed
from tools.bench.load import run_load, verdict_latencies_ns
from tools.bench.nodes import RunningNode, configure
from tools.bench.plan import QUICK, SUBJECTS, WorkloadNeed
from tools.bench.process import descendants, wait_gone
from tools.bench.subjects import flat_out
from tools.bench.workloads import Workbench
from tools.loadgen.workload_file import INDEX_NAME, Truth, columns

NEED = WorkloadNeed("1in", 1, 3_000, 3_100)
DEADLINE_S = 60.0
ROOT = Path(__file__).parents[2]


def until(look: Callable[[], Any], what: str) -> Any:
    deadline = time.monotonic() + DEADLINE_S
    while not (found := look()):
        assert time.monotonic() < deadline, what
        time.sleep(0.02)
    return found


def contents(directory: Path) -> dict[str, str]:
    return {
        str(path.relative_to(directory)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in directory.rglob("*")
        if path.is_file()
    }


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Workbench:
    bench = Workbench(tmp_path_factory.mktemp("bench"))
    bench.prepare(NEED, lambda line: None)
    return bench


def test_a_round_works_on_a_copy_and_leaves_the_template_as_it_was(bench: Workbench) -> None:
    template = bench.work / "templates" / "1in"
    before = contents(template)
    assert any(name.endswith(".sst") for name in before)
    subject = next(s for s in SUBJECTS if s.name == "1in.nacl")

    measured = flat_out(bench, subject, NEED, "nacl", QUICK, guess_per_s=1.0)

    assert contents(template) == before
    assert list((bench.work / "runs").iterdir()) == []
    assert measured.detail["transactions"] == 3_000  # all that the workload has
    assert measured.detail["short"]
    assert measured.tx_per_s == pytest.approx(3_000 / measured.detail["elapsed_s"], rel=0.01)
    assert measured.figures["disk.block_bytes_per_tx"] > 214  # a transaction, and its block's share
    assert measured.figures["mem.pss_mb"] > 20
    costs = {
        stage: measured.figures[f"{stage}.cpu_us_per_tx"]
        for stage in ("net", "verify", "consensus", "sign", "rpc", "supervisor", "generator")
    }
    assert min(costs.values()) >= 0  # the others may do nothing in so short a time
    assert min(costs["net"], costs["verify"], costs["consensus"], costs["generator"]) > 0


def test_a_wrong_verdict_ends_the_benchmark(bench: Workbench, tmp_path: Path) -> None:
    """The workload claims that its first signature is bad; to it, the node lies."""
    liar = Workbench(tmp_path)
    liar.prepare(NEED, lambda line: None)
    directory = liar.workload(NEED)
    with (directory / INDEX_NAME).open("r+b") as file, mmap.mmap(file.fileno(), 0) as mapped:
        views = columns(mapped, NEED.transactions)
        views.kinds[0] = Truth.BAD_SIGNATURE
        views.expected[0] = Verdict.BAD_SIGNATURE
        del views
    subject = next(s for s in SUBJECTS if s.name == "1in.nacl")
    with pytest.raises(BenchFailed, match=r"cannot be true.*transaction 0: ADMITTED"):
        flat_out(liar, subject, NEED, "nacl", QUICK, guess_per_s=1.0)


def test_a_node_that_loses_a_process_is_not_believed(bench: Workbench) -> None:
    with bench.datadir(NEED, {}) as datadir:
        run = datadir / "run"

        def verifier() -> dict[str, int]:
            return next(p for p in ask_status(run)["processes"] if p["name"] == "verify-0")

        node = RunningNode(datadir).__enter__()
        os.kill(verifier()["pid"], signal.SIGKILL)
        until(lambda: verifier()["restarts"], "restarted")
        with pytest.raises(BenchFailed, match="verify-0 died"):
            node.__exit__(None, None, None)
        assert descendants(os.getpid()) == []


def test_a_node_that_cannot_start_is_quoted_and_gone(bench: Workbench) -> None:
    with bench.datadir(NEED, {"block": {"pace_ms": 1}}) as datadir:
        with pytest.raises(BenchFailed, match=r"did not start.*\n.*pace_ms = 1"):
            RunningNode(datadir).__enter__()
        assert descendants(os.getpid()) == []


def test_leaving_by_an_exception_stops_the_node(bench: Workbench) -> None:
    with bench.datadir(NEED, {}) as datadir:
        node = RunningNode(datadir).__enter__()
        pids = descendants(os.getpid())
        assert len(pids) >= 4  # supervisor, net, verify, consensus
        assert len(node.sample(memory=True).cpu_ns) >= 4
        node.__exit__(RuntimeError, RuntimeError(), None)
        assert wait_gone(pids, 0) == []


def test_single_transactions_are_timed_and_checked(bench: Workbench) -> None:
    with bench.datadir(NEED, {}) as datadir, RunningNode(datadir) as node:
        latencies = verdict_latencies_ns(node, bench.workload(NEED), 0, 5, pause_s=0.0)
        assert latencies.shape == (5,)
        assert (latencies > 0).all()
        with pytest.raises(BenchFailed, match="transaction 0 was answered"):  # it is known by now
            verdict_latencies_ns(node, bench.workload(NEED), 0, 1, pause_s=0.0)
        with pytest.raises(BenchFailed, match="verdict that cannot be true"):
            run_load(node, bench.workload(NEED), 100)


def test_a_configuration_reaches_the_node(bench: Workbench) -> None:
    sections: dict[str, dict[str, str | int]] = {
        "verify": {"backend": "nacl", "workers": 2},
        "block": {"pace_ms": 50},
    }
    with bench.datadir(NEED, sections) as datadir, RunningNode(datadir) as node:
        assert {("verify", 0), ("verify", 1)} <= node.sample().stages.keys()
        text = layout(datadir).config.read_text()
        assert "pace_ms = 50" in text
        configure(datadir, {})
        assert layout(datadir).config.read_text() != text  # other ports


def test_a_workload_that_lies_there_is_used_again(tmp_path: Path) -> None:
    bench = Workbench(tmp_path, keep=True)
    lines: list[str] = []
    for _ in range(2):
        bench.prepare(NEED, lines.append)
    assert [line.split()[0] for line in lines] == ["preparing", "making", "making"]
    bench.clean()
    assert bench.workload(NEED).is_dir()
    Workbench(tmp_path).clean()
    assert not tmp_path.exists()


def test_too_little_space_is_said_before_anything_is_made(tmp_path: Path) -> None:
    with pytest.raises(BenchError, match="--work"):
        Workbench(tmp_path).check_space([WorkloadNeed("1in", 1, 10**12, 10**12)])


@contextmanager
def time_bench(*arguments: str | Path) -> Iterator[subprocess.Popen[str]]:
    process = subprocess.Popen(
        [sys.executable, "-m", "tools.bench", "node", "--quick", *map(str, arguments)],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        yield process
    finally:
        process.terminate()
        process.communicate()


def test_the_command_measures_prints_writes_and_cleans(tmp_path: Path) -> None:
    out, work = tmp_path / "out.json", tmp_path / "work"
    with time_bench(
        "--transactions", "1000", "--seconds", "0.1", "--rounds", "2", "--json", out,
        "--only", "node.1in.nacl.vs_raw", "--only", "idle.*", "--work", work,
    ) as process:  # fmt: skip
        printed, told = process.communicate(timeout=100)
    assert process.returncode == 0, told
    assert "QUICK" in printed
    assert "node.1in.nacl.vs_raw" in printed
    assert "minute" in told.splitlines()[0] + told.splitlines()[1]  # the estimate comes first
    document = json.loads(out.read_bytes())
    assert document["quick"] is True
    assert document["command"][:2] == ["time-bench", "node"]
    figures = document["figures"]
    assert {"raw.nacl_per_s", "node.1in.nacl.vs_raw", "idle.cpu_percent"} <= figures.keys()
    assert all(isinstance(value, float) for value in figures.values())
    rounds = document["rounds"]
    assert [one["round"] for one in rounds] == [1, 2]
    both = [one["figures"]["node.1in.nacl.vs_raw"] for one in rounds]
    assert figures["node.1in.nacl.vs_raw"] == pytest.approx(sum(both) / 2, abs=1e-4)
    for one in rounds:
        detail = one["subjects"]["1in.nacl"]
        assert one["figures"]["node.1in.nacl.vs_raw"] == pytest.approx(
            detail["tx_per_s"] / detail["raw_nacl_per_s"], rel=0.01
        )
        idle = one["subjects"]["idle"]
        assert sum(idle["cpu_ms"].values()) / idle["idle_s"] / 10 == pytest.approx(
            one["figures"]["idle.cpu_percent"], abs=0.01
        )
    assert not work.exists()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_benchmark_leaves_nothing_behind(
    number: signal.Signals, tmp_path: Path
) -> None:
    work = tmp_path / "work"
    with time_bench("--transactions", "500", "--only", "idle.*", "--work", work) as process:
        until(lambda: (work / "runs" / "0" / "node" / "run" / "control.sock").exists(), "node")
        pids = until(lambda: descendants(process.pid), "processes")
        process.send_signal(number)
        _, told = process.communicate(timeout=60)
    assert process.returncode == 130, told
    assert told.endswith("time-bench: interrupted; nothing is left behind\n")
    assert wait_gone(pids, 0) == []
    assert not work.exists()


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--only", "final.p51_ms"), "nothing to measure matches final.p51_ms"),
        (("--rounds", "0"), "--rounds 0 is impossible"),
        (("--json", "/no/such/place.json"), "/no/such is not a directory"),
        (("--frobnicate",), "--frobnicate"),
    ],
)
def test_mistakes_are_one_line_and_status_2(arguments: tuple[str, ...], said: str) -> None:
    with time_bench(*arguments) as process:
        _, told = process.communicate(timeout=60)
    assert process.returncode == 2
    line = told.splitlines()[-1]
    assert line.startswith("time-bench: ")
    assert said in line
