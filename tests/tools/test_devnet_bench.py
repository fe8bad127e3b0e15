"""The benchmark of a network: what it would measure, and a small run with a real node."""

from __future__ import annotations

import json
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

from tools.bench.cold_block import PAYMENTS
from tools.bench.devnet import (
    DevnetBench,
    believed,
    block_rate,
    catch_up,
    flat_out,
    pooled,
    rejoin,
    see,
)
from tools.bench.devnet_plan import (
    BLOCK_PATIENCE_S,
    CATCH_UP_LOAD_S,
    FLOOD_TURNS,
    DevnetScale,
    Subject,
    choose,
    figures,
    keys,
)
from tools.bench.errors import BenchError, BenchFailed
from tools.bench.figures import FINALITY_PACE_MS, medians, targets
from tools.bench.process import descendants, wait_gone
from tools.devnet.load import Load, shares
from tools.devnet.nodes import Node

ROOT = Path(__file__).parents[2]
DEADLINE_S = 60.0

ASKED = {
    # key: (floor, aim, higher is better), as the project's targets have them
    "devnet4.1in.avx512.vs_raw": (0.15, 0.30, True),
    "devnet4.final_p50_ms": (600, 300, False),
    "devnet4.final_p99_ms": (1_500, 800, False),
    "devnet4.rejoin_s": (20, 5, False),
    "devnet4.rounds_above_0_per_1000": (1, 0, False),
    "catchup.vs_node": (0.5, 0.8, True),
    "block.cold_validate_ms": (100, 40, False),
    "flood.block_rate": (0.9, 0.97, True),
}


def names(*only: str, nodes: int = 4) -> list[str]:
    return [str(subject) for subject in choose(only, nodes, "avx512")[0]]


def test_every_target_is_declared_and_no_other() -> None:
    declared = {
        figure.key: (figure.floor, figure.aim, figure.better == "higher")
        for figure in figures(4, "avx512")
        if figure.floor is not None or figure.aim is not None
    }
    assert declared == ASKED


@pytest.mark.parametrize(("nodes", "backend"), [(4, "avx512"), (4, "nacl"), (1, "avx512")])
def test_every_declared_figure_is_given_by_a_subject(nodes: int, backend: Any) -> None:
    given = {key for some in keys(nodes, backend).values() for key in some}
    declared = [figure.key for figure in figures(nodes, backend)]
    assert given | {"raw.nacl_per_s"} == set(declared)
    assert len(declared) == len(set(declared))


def test_meanings_say_what_was_measured() -> None:
    meanings = {figure.key: figure.meaning for figure in figures(4, "avx512", 1_234)}
    assert "1,234 blocks" in meanings["catchup.tx_per_s"]
    for key in ("devnet4.final_p50_ms", "devnet4.final_p99_ms"):
        assert f"pace {FINALITY_PACE_MS} ms" in meanings[key]
    assert DevnetScale().catch_up_blocks >= 1_000
    assert DevnetScale().overload_blocks >= 300


def test_failed_rounds_of_all_rounds_are_counted_together() -> None:
    rate, count = "devnet4.rounds_above_0_per_1000", "devnet4.overload_blocks"
    rounds = [{rate: 0.0, count: 300.0}, {rate: 0.0, count: 500.0}, {rate: 5.0, count: 200.0}]
    assert pooled(rounds, "devnet4") == {rate: 1.0, count: 1_000.0}  # a median would say 0
    assert pooled([{"devnet4.rejoin_s": 1.0}], "devnet4") == {}


def test_nothing_is_asked_of_other_networks() -> None:
    for found in (figures(3, "avx512"), figures(4, "nacl")):
        assert targets({}, found) == {}
    assert targets({}, figures(4, "avx512")).keys() == ASKED.keys()


def test_patterns_choose_and_bring_along_what_is_needed() -> None:
    assert names() == [str(subject) for subject in Subject]
    assert names("devnet4.1in.*") == ["flat-out"]
    assert names("devnet4.final_p99_ms") == ["flat-out", "finality"]
    assert names("rejoin") == ["flat-out", "rejoin"]
    assert names("catchup.vs_node") == ["alone", "flat-out", "catch-up"]
    assert names("block.*") == ["cold"]
    assert names("flood.block_rate") == ["flat-out", "flood"]


def test_small_networks_say_what_they_cannot_give() -> None:
    subjects, missing = choose((), 3, "avx512")
    assert Subject.REJOIN not in subjects
    assert Subject.CATCH_UP not in subjects
    assert missing.keys() == {"devnet3.rejoin_s", "catchup.tx_per_s", "catchup.vs_node"}
    assert choose(["flood"], 2, "avx512")[1] == {}
    with pytest.raises(BenchError, match="nothing to measure"):
        choose(["flood"], 1, "avx512")
    with pytest.raises(BenchError, match="nothing to measure"):
        choose(["rejoin"], 3, "avx512")
    with pytest.raises(BenchError, match="flat-out"):
        choose(["nonsense"], 4, "avx512")


def test_the_workload_holds_every_load() -> None:
    scale = DevnetScale(seconds=10)
    room = scale.room("avx512")
    for subject in (Subject.ALONE, Subject.FLAT_OUT):
        assert scale.count(scale.guess_per_s(subject, "avx512"), room) <= room
    assert scale.count(1e9, room) == room
    assert scale.count(1.0, room) == scale.least
    rate = scale.rejoin_per_s(1e9, room)
    assert room / rate >= scale.settle_s + scale.away_s + 20  # the floor of coming back
    rate = scale.flood_per_s(1e9, room)
    assert room / rate >= FLOOD_TURNS * 2 * (scale.seconds + BLOCK_PATIENCE_S)
    assert scale.flood_per_s(1.0, room) == 1.0
    rate = scale.catch_up_per_s(1e9, room)
    assert rate * CATCH_UP_LOAD_S <= room
    assert scale.catch_up_per_s(1.0, room) == 1.0
    assert room >= scale.cold_blocks * PAYMENTS


@pytest.mark.parametrize(
    "bad",
    [lambda: DevnetScale(nodes=0), lambda: DevnetScale(rounds=0), lambda: DevnetScale(4, 1, 0)],
)
def test_impossible_scales_are_refused(bad: Callable[[], DevnetScale]) -> None:
    with pytest.raises(BenchError, match="impossible"):
        bad()


def test_figures_of_the_rounds_become_medians_in_the_declared_order() -> None:
    declared = figures(4, "avx512")
    found = medians([{"devnet4.rejoin_s": 3.0}, {"devnet4.rejoin_s": 5.0}], declared)
    assert found == {"devnet4.rejoin_s": 4.0}
    with pytest.raises(KeyError):
        medians([{"devnet5.rejoin_s": 3.0}], declared)


class Chain:
    """Heights by a clock that only sleeping and looking move; times in seconds."""

    def __init__(self, every_s: float, last: int = 1_000) -> None:
        self.now_s = 0.02
        self._every_s = every_s
        self._last = last

    def height(self) -> int:
        self.now_s += 0.001
        return min(int(self.now_s / self._every_s), self._last)

    def sleep(self, seconds: float) -> None:
        self.now_s += seconds

    def rate(self, seconds: float) -> float:
        return block_rate(self.height, seconds, lambda: self.now_s, self.sleep)


def test_the_block_rate_is_taken_from_block_to_block() -> None:
    assert Chain(0.7).rate(1.0) == pytest.approx(1 / 0.7, rel=0.02)
    assert Chain(0.1).rate(2.0) == pytest.approx(10, rel=0.02)


def test_blocks_that_do_not_come_lower_the_rate() -> None:
    assert Chain(0.5, last=3).rate(4.0) == pytest.approx(2 / (4.0 + BLOCK_PATIENCE_S), rel=0.2)
    assert Chain(1e9).rate(1.0) == 0


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory) -> DevnetBench:
    scale = DevnetScale(1, 1, 0.5, least=500, quick=True)
    bench = DevnetBench(tmp_path_factory.mktemp("bench"), scale, "nacl", keep=False)
    bench.prepare(1, lambda line: None)
    return bench


def test_a_load_is_measured_and_its_network_removed(bench: DevnetBench) -> None:
    rate, detail = flat_out(bench, 1, 1.0)
    assert rate > 0
    (load,) = detail["loads"]
    assert load["finalised"] == 500
    assert rate == pytest.approx(500 / load["load.elapsed_s"])
    assert list((bench.work / "runs").iterdir()) == []
    assert descendants(os.getpid()) == []


def kill_a_verifier(node: Node) -> None:
    def verifier() -> dict[str, Any]:
        status = node.status(DEADLINE_S)
        assert status is not None
        return next(p for p in status["processes"] if p["name"] == "verify-0")

    assert see(node).height == 0
    os.kill(verifier()["pid"], signal.SIGKILL)
    until(lambda: verifier()["restarts"], "restarted")


def kill_it(node: Node) -> None:
    os.kill(node.pid, signal.SIGKILL)
    node.wait(DEADLINE_S)


def run_with(bench: DevnetBench, harm: Callable[[Node], None]) -> None:
    with bench.network(1, {}) as network:
        harm(network.nodes[0])


@pytest.mark.parametrize(
    ("harm", "said"),
    [(kill_a_verifier, "verify-0 of node-0 died"), (kill_it, "node-0 ended with status -9")],
)
def test_a_network_that_loses_something_is_notbelieved(
    bench: DevnetBench, harm: Callable[[Node], None], said: str
) -> None:
    with pytest.raises(BenchFailed, match=said):
        run_with(bench, harm)
    assert descendants(os.getpid()) == []
    assert list((bench.work / "runs").iterdir()) == []


def test_a_node_that_cannot_start_is_quoted(bench: DevnetBench) -> None:
    with (
        pytest.raises(BenchFailed, match=r"node-0 ended with status 2.*pace_ms = 1"),
        bench.network(1, {"block": {"pace_ms": 1}}),
    ):
        pass
    assert descendants(os.getpid()) == []


def test_a_wrong_answer_ends_it(bench: DevnetBench) -> None:
    """What was sent before is known: not what a payment that is new may be told."""
    with bench.network(1, {}) as net:
        parts = shares([net.nodes[0].place], 10, None)
        with Load(bench.chain(1), parts) as load:
            believed(load)
        with Load(bench.chain(1), parts) as load, pytest.raises(BenchFailed, match="wrong answers"):
            believed(load)


@pytest.fixture(scope="module")
def bench_of_four(tmp_path_factory: pytest.TempPathFactory) -> DevnetBench:
    scale = DevnetScale(
        4, 1, 0.5, least=2_000, settle_s=0.5, away_s=0.5, catch_up_blocks=30, quick=True
    )
    bench = DevnetBench(tmp_path_factory.mktemp("four"), scale, "nacl", keep=False)
    bench.prepare(4, lambda line: None)
    return bench


def test_a_killed_node_is_timed_until_it_is_back(bench_of_four: DevnetBench) -> None:
    (took_s,), detail = rejoin(bench_of_four, 100.0)
    assert 0 < took_s < DEADLINE_S
    assert detail["back_at_height"] >= detail["killed_at_height"]
    assert detail["signatures"] > 0
    assert len(detail["loads"]) == 3
    assert sum(load["finalised"] for load in detail["loads"]) > 0


def test_a_late_node_is_timed_while_it_catches_up(bench_of_four: DevnetBench) -> None:
    rate, detail = catch_up(bench_of_four, 1.0)
    assert 0 < detail["payments"] <= bench_of_four.room
    assert detail["blocks"] >= 30
    assert rate == pytest.approx(detail["payments"] / detail["took_s"], rel=0.01)


def until(look: Callable[[], Any], what: str) -> Any:
    deadline_s = time.monotonic() + DEADLINE_S
    while not (found := look()):
        assert time.monotonic() < deadline_s, what
        time.sleep(0.02)
    return found


@contextmanager
def time_bench(*arguments: object) -> Iterator[subprocess.Popen[str]]:
    process = subprocess.Popen(
        [sys.executable, "-m", "tools.bench", "devnet", "--quick", *map(str, arguments)],
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
    with time_bench("--nodes", 1, "--json", out, "--only", "devnet1.*", "--work", work) as process:
        printed, told = process.communicate(timeout=100)
    assert process.returncode == 0, told
    assert "QUICK" in printed
    assert "not measured: devnet1.rejoin_s" in printed
    document = json.loads(out.read_bytes())
    assert document["quick"] is True
    assert document["command"][:2] == ["time-bench", "devnet"]
    found = document["figures"]
    assert {"devnet1.final_p50_ms", "devnet1.rounds_above_0_per_1000"} <= found.keys()
    (one,) = document["rounds"]
    assert set(one["subjects"]) == {"flat-out", "finality", "overload"}
    (relative,) = [value for key, value in found.items() if key.endswith("vs_raw")]
    (rate,) = [value for key, value in found.items() if key.endswith("tx_per_s")]
    assert relative == pytest.approx(rate / found["raw.nacl_per_s"], rel=0.01)
    assert not work.exists()


def test_an_interrupted_benchmark_leaves_nothing_behind(tmp_path: Path) -> None:
    work = tmp_path / "work"
    with time_bench("--nodes", 1, "--work", work) as process:
        socket = work / "runs" / "0" / "node-0" / "data" / "run" / "control.sock"
        until(socket.exists, "a node")
        pids = until(lambda: descendants(process.pid), "processes")
        process.send_signal(signal.SIGINT)
        _, told = process.communicate(timeout=60)
    assert process.returncode == 130, told
    assert told.endswith("time-bench: interrupted; nothing is left behind\n")
    assert wait_gone(pids, 1) == []
    assert not work.exists()


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--only", "devnet4.nonsense"), "nothing to measure in a network of 4 matches"),
        (("--nodes", 99), "--nodes 99 is impossible"),
        (("--json", "/no/such/place.json"), "/no/such is not a directory"),
        (("--frobnicate",), "--frobnicate"),
    ],
)
def test_mistakes_are_one_line_and_status_2(arguments: tuple[object, ...], said: str) -> None:
    with time_bench(*arguments) as process:
        _, told = process.communicate(timeout=60)
    assert process.returncode == 2
    line = told.splitlines()[-1]
    assert line.startswith("time-bench: ")
    assert said in line
