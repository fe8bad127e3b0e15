"""The benchmark of the surface: what it would measure, what it refuses, and a small run."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import orjson
import pytest

from tools.bench.caller import Caller, Run
from tools.bench.errors import BenchError, BenchFailed
from tools.bench.figures import Better, targets
from tools.bench.onlooker import Onlooker
from tools.bench.process import descendants
from tools.bench.questions import BlockCounts, Payments, WrongAnswer, cut_answer, request
from tools.bench.surface_plan import (
    BY_KEY,
    FIGURES,
    KEYS,
    LIVES,
    ORDER,
    ROOM_PER_S,
    SURFACE_QUICK,
    Subject,
    SurfaceScale,
    choose,
)
from tools.bench.trivial import Trivial
from tools.loadgen.workload import WorkloadOptions, prepare
from tools.loadgen.workload_file import Workload

ROOT = Path(__file__).parents[2]
RUN_TIMEOUT_S = 100

ASKED = {
    # key: (floor, aim, higher is better), as the project's targets have them
    "rpc.getblockcount_vs_trivial": (0.7, 0.9, True),
    "rpc.p99_ms_at_max_load": (25, 10, False),
    "rpc.send_per_s": (4_000, 10_000, True),
    "rpc.flood_effect": (0.9, 0.97, True),
    "monitor.node_effect": (0.97, 0.99, True),
    "start.ready_s": (3, 1, False),
    "systemd.exposure": (2.0, 1.4, False),
}


@pytest.fixture(scope="module")
def trivial(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Trivial]:
    with Trivial(tmp_path_factory.mktemp("trivial") / "log") as server:
        yield server


@pytest.fixture(scope="module")
def workload(tmp_path_factory: pytest.TempPathFactory) -> Workload:
    directory = tmp_path_factory.mktemp("workload") / "w"
    prepare(directory, WorkloadOptions(10, seed="surface"))
    return Workload.open(directory)


# -- the plan ------------------------------------------------------------------------------------


def test_floors_and_aims_are_those_that_are_asked() -> None:
    declared = {
        figure.key: (figure.floor, figure.aim, figure.better is Better.HIGHER)
        for figure in FIGURES
        if figure.floor is not None
    }
    assert declared == ASKED
    assert targets({}, FIGURES).keys() == ASKED.keys()


def test_every_declared_figure_is_given_by_one_subject() -> None:
    given = [key for subject in Subject for key in KEYS[subject]]
    assert sorted(given) == sorted(BY_KEY)


def test_patterns_choose_subjects_in_their_order() -> None:
    assert choose(()) == list(Subject)
    assert choose(["monitor.*", "calls"]) == [Subject.CALLS, Subject.MONITOR]
    assert choose(["rpc.p50_ms_at_max_load"]) == [Subject.LATENCY]
    with pytest.raises(BenchError, match=r"rpc\.p51.*calls, latency"):
        choose(["rpc.p51"])


def test_both_sides_of_a_comparison_have_the_same_time_and_the_same_middle() -> None:
    places = {side: [at for at, one in enumerate(ORDER) if one == side] for side in (0, 1)}
    assert len(places[0]) == len(places[1])
    assert sum(places[0]) == sum(places[1])
    assert SurfaceScale(seconds=10).phase_s * len(places[0]) == 10
    assert all(sorted(sides) == [0, 1] for sides in zip(*LIVES, strict=True))


def test_a_workload_outlasts_what_is_measured() -> None:
    scale = SurfaceScale(seconds=10)
    assert scale.need([Subject.MONITOR], "avx512").transactions > 20 * ROOM_PER_S["avx512"]
    assert scale.need([Subject.LATENCY], "nacl").transactions > 10 * ROOM_PER_S["nacl"]
    everything = scale.need(list(Subject), "avx512")
    assert everything.outputs >= everything.transactions
    assert SURFACE_QUICK.need(list(Subject), "avx512").transactions < 100_000
    assert scale.estimate_s(list(Subject), "avx512") < 15 * 60


def test_only_what_is_used_is_prepared() -> None:
    scale = SurfaceScale()
    (started,) = scale.needs([Subject.START, Subject.UNIT], "nacl")
    assert started.outputs == 1_000_000
    assert scale.needs([Subject.UNIT], "nacl") == []
    assert scale.needs([Subject.CALLS], "nacl") == [scale.need([Subject.CALLS], "nacl")]
    assert scale.needs(list(Subject), "nacl") == [scale.need(list(Subject), "nacl"), started]


@pytest.mark.parametrize("bad", [{"rounds": 0}, {"seconds": 0.1}, {"seconds": 1e6}])
def test_impossible_scales_are_refused(bad: dict[str, int]) -> None:
    with pytest.raises(BenchError, match="impossible"):
        SurfaceScale(**bad)


# -- questions and answers -----------------------------------------------------------------------


def answer(body: bytes, head: bytes = b"HTTP/1.1 200 OK\r\nServer: x\r\n") -> bytes:
    return head + b"Content-Length: %d\r\n\r\n" % len(body) + body


def test_an_answer_is_cut_out_when_it_is_complete() -> None:
    whole = answer(b"123456")
    assert [cut_answer(whole[:size]) for size in range(len(whole))] == [None] * len(whole)
    assert cut_answer(whole) == b"123456"


@pytest.mark.parametrize(
    ("received", "why"),
    [
        (answer(b"x", b"HTTP/1.1 401 Unauthorized\r\n"), "401"),
        (answer(b"x", b"HTTP/1.1 503 Service Unavailable\r\n"), "503"),
        (b"HTTP/1.1 200 OK\r\n\r\n", "without its length"),
        (answer(b"1") + b"2", "more was answered"),
        (bytes(10_000), "no HTTP"),
    ],
)
def test_what_is_no_right_answer_is_refused(received: bytes, why: str) -> None:
    with pytest.raises(WrongAnswer, match=why):
        cut_answer(received)


def test_a_height_is_an_answer_and_nothing_else_is() -> None:
    questions = BlockCounts("host:1", "Basic eA==")
    assert questions.judge(0, b'{"result":7,"error":null,"id":1}\n') == 1
    for wrong in (
        b'{"result":null,"error":{"code":-28,"message":"busy"},"id":1}',
        b'{"result":7,"error":null,"id":2}',
        b'{"result":-1,"error":null,"id":1}',
        b'{"result":true,"error":null,"id":1}',
        b'{"error":null,"id":1}',
        b"[7]",
        b"7 8",
    ):
        with pytest.raises(WrongAnswer):
            questions.judge(0, wrong)


def test_payments_go_in_batches_until_there_are_no_more(workload: Workload) -> None:
    questions = Payments("host:1", "Basic eA==", workload, 2, 5)
    batches = []
    while found := questions.next():
        number, sent = found
        calls = orjson.loads(sent.partition(b"\r\n\r\n")[2])
        assert request("host:1", "Basic eA==", b"").partition(b"Content-Length")[0] in sent
        batches.append((number, [bytes.fromhex(call["params"][0]) for call in calls]))
    assert [(number, len(them)) for number, them in batches] == [(2, 5), (7, 3)]
    assert [raw for _, them in batches for raw in them] == [*workload.transactions()][2:]


def test_each_payment_is_answered_by_its_own_id(workload: Workload) -> None:
    questions = Payments("host:1", "Basic eA==", workload, 0, 4)
    ids = [row.tobytes().hex() for row in workload.columns.txids]
    right = [{"result": ids[at], "error": None, "id": at} for at in range(4)]
    assert questions.judge(0, orjson.dumps(right)) == 4
    assert (
        questions.judge(
            8, orjson.dumps([{**right[0], "id": at, "result": ids[at]} for at in (8, 9)])
        )
        == 2
    )
    refused = {"result": None, "error": {"code": -26, "message": "no"}, "id": 1}
    for wrong in (
        right[:3],
        [right[0], refused, *right[2:]],
        [right[1], right[0], *right[2:]],
        [{**right[0], "result": ids[5]}, *right[1:]],
        right[0],
    ):
        with pytest.raises(WrongAnswer):
            questions.judge(0, orjson.dumps(wrong))


# -- processes -----------------------------------------------------------------------------------


def test_a_caller_measures_one_run_after_another(trivial: Trivial, tmp_path: Path) -> None:
    with Caller(tmp_path / "log") as caller:
        caller.begin(Run(trivial.server, 4))
        cpu_ns = caller.cpu_ns
        until_s = time.monotonic() + 0.3
        while time.monotonic() < until_s:
            time.sleep(0.05)
        fast = caller.end()
        assert caller.cpu_ns > cpu_ns
        assert fast.units == fast.answers > 0
        assert fast.units_in_all >= fast.answers + 4  # the first of each, and the last
        assert 0 < fast.latency_ms["p50"] <= fast.latency_ms["p99"] <= fast.latency_ms["max"]
        assert fast.per_s == pytest.approx(fast.answers / fast.elapsed_s)
        caller.begin(Run(trivial.server, 2, per_s=100.0))
        time.sleep(0.5)
        steady = caller.end()
        assert 0 < steady.answers <= 100 * steady.elapsed_s + 1
    assert trivial.cpu_ns > 0


def test_whom_nobody_lets_in_measures_nothing(trivial: Trivial, tmp_path: Path) -> None:
    stranger = type(trivial.server)(trivial.server.host, trivial.server.port, "Basic eDp5")
    before = descendants(os.getpid())
    with Caller(tmp_path / "log") as caller, pytest.raises(BenchFailed, match="401"):
        caller.begin(Run(stranger, 2))
    assert descendants(os.getpid()) == before


def test_nobody_there_is_a_failure(tmp_path: Path, trivial: Trivial) -> None:
    nobody = type(trivial.server)("127.0.0.1", 9, "Basic eDp5")  # discard: nobody has that
    with Caller(tmp_path / "log") as caller, pytest.raises(BenchFailed, match="refused"):
        caller.begin(Run(nobody, 1))


def test_a_wallet_that_runs_out_of_payments_is_told(
    trivial: Trivial, workload: Workload, tmp_path: Path
) -> None:
    run = Run(trivial.server, 4, workload=str(workload.directory), first=10)
    with Caller(tmp_path / "log") as caller, pytest.raises(BenchFailed, match="too little"):
        caller.begin(run)


def test_a_monitor_that_ends_is_quoted(tmp_path: Path) -> None:
    before = descendants(os.getpid())
    with Onlooker(tmp_path / "none") as onlooker, pytest.raises(BenchFailed, match="time-monitor:"):
        onlooker.wait_ready()
    assert descendants(os.getpid()) == before


def test_the_command_measures_prints_writes_and_cleans(tmp_path: Path) -> None:
    out, work = tmp_path / "out.json", tmp_path / "work"
    command = [sys.executable, "-m", "tools.bench", "surface", "--quick", "--json", str(out)]
    command += ["--work", str(work)]
    command += ["--only", "rpc.send_per_s", "--only", "monitor.*"]
    done = subprocess.run(
        command, cwd=ROOT, capture_output=True, text=True, timeout=RUN_TIMEOUT_S, check=False
    )
    assert done.returncode == 0, done.stderr
    assert "QUICK" in done.stdout
    assert "rpc.send_per_s" in done.stdout
    document = json.loads(out.read_bytes())
    assert document["command"][:2] == ["time-bench", "surface"]
    subjects = (Subject.SENDING, Subject.MONITOR)
    figures = document["figures"]
    assert figures.keys() == {key for subject in subjects for key in KEYS[subject]}
    assert all(value > 0 for value in figures.values())
    assert document["targets"]["monitor.node_effect"]["floor"] == 0.97
    assert document["targets"]["rpc.p99_ms_at_max_load"]["standing"] == "not measured"
    (one,) = document["rounds"]
    rates = []
    for side in ("watched", "without"):
        phases = one["subjects"]["monitor"][side]
        assert len(phases) == 2 * len(LIVES)
        payments = sum(phase["payments"] for phase in phases)
        rates.append(payments / sum(phase["elapsed_s"] for phase in phases))
    assert figures["monitor.node_effect"] == pytest.approx(rates[0] / rates[1], rel=0.01)
    assert one["subjects"]["sending"]["counted"]["units"] % 200 == 0
    assert not work.exists()


def test_a_start_is_measured_on_a_chain_of_its_own(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "tools.bench", "surface", "--quick", "--only", "start.ready_s"]
    command += ["--json", str(tmp_path / "out.json"), "--work", str(tmp_path / "work")]
    began_s = time.monotonic()
    done = subprocess.run(
        command, cwd=ROOT, capture_output=True, text=True, timeout=RUN_TIMEOUT_S, check=False
    )
    assert done.returncode == 0, done.stderr
    document = json.loads((tmp_path / "out.json").read_bytes())
    assert document["figures"].keys() == {"start.ready_s"}
    assert 0 < document["figures"]["start.ready_s"] < time.monotonic() - began_s
    (one,) = document["rounds"]
    assert one["subjects"]["start"]["outputs"] == SURFACE_QUICK.start_outputs
    assert "preparing 1 payments" in done.stderr


SAYS = "#!/bin/sh\necho '{said}'\necho 'bad option' >&2\n"


@pytest.mark.parametrize(
    ("said", "found"),
    [
        ("→ Overall exposure level for timed.service: 1.2 OK", 1.2),
        ("→ Overall exposure level for timed.service: 10 UNSAFE", 10.0),
        ("", "gives no exposure (bad option); install systemd 250"),
        (None, "does not run here (No such file or directory); install systemd 250"),
    ],
)
def test_the_exposure_of_the_unit_is_what_systemd_says(
    tmp_path: Path, said: str | None, found: float | str
) -> None:
    if said is not None:
        program = tmp_path / "systemd-analyze"
        program.write_text(SAYS.format(said=said))
        program.chmod(0o700)
    command = [sys.executable, "-m", "tools.bench", "surface", "--quick", "--only", "unit"]
    command += ["--json", str(tmp_path / "out.json"), "--work", str(tmp_path / "work")]
    done = subprocess.run(
        command, cwd=ROOT, capture_output=True, text=True, timeout=RUN_TIMEOUT_S, check=False,
        env={**os.environ, "PATH": str(tmp_path)},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    document = json.loads((tmp_path / "out.json").read_bytes())
    if isinstance(found, float):
        assert document["figures"] == {"systemd.exposure": found}
        assert document["missing"] == {}
    else:
        assert document["figures"] == {}
        assert found in document["missing"]["systemd.exposure"]
        assert "not measured: systemd.exposure" in done.stdout


def test_a_pattern_for_nothing_is_one_line_and_status_2() -> None:
    command = [sys.executable, "-m", "tools.bench", "surface", "--only", "rpc.p51"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert done.stderr.splitlines()[-1].startswith("time-bench: nothing to measure matches rpc.p51")
