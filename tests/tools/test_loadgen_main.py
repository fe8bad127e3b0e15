"""The command line: what it accepts, what it prints, and the status that it ends with."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import orjson
import pytest

from node.config import example
from tools.loadgen.__main__ import main
from tools.loadgen.errors import LoadError
from tools.loadgen.target import endpoints, reachable
from tools.loadgen.workload import WorkloadOptions, prepare
from tools.loadgen.workload_file import Workload

PEER = Path(__file__).with_name("loadgen_peer.py")


class Outcome:
    def __init__(self, status: int, out: str, err: str) -> None:
        self.status, self.out, self.err = status, out, err


TimeLoad = Callable[..., Outcome]


@pytest.fixture
def time_load(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> TimeLoad:
    """Run ``time-load`` with these words in this process."""

    def call(*words: object) -> Outcome:
        monkeypatch.setattr(sys, "argv", ["time-load", *map(str, words)])
        status = 0
        try:
            main()
        except SystemExit as exit_:
            status = int(exit_.code or 0)
        out, err = capfd.readouterr()
        return Outcome(status, out, err)

    return call


def test_prepare_makes_what_it_is_asked_for(tmp_path: Path, time_load: TimeLoad) -> None:
    directory = tmp_path / "w"
    made = time_load(
        "prepare", directory, "--transactions", 200, "--kind", "4in", "--outputs", 1_000,
        "--bad-signatures", 0.1, "--double-spends", 0.05, "--seed", "abc", "--chain", "test",
    )  # fmt: skip
    assert made.status == 0, made.err
    assert "200 transactions in" in made.out
    assert "outputs: 1,000" in made.err
    workload = Workload.open(directory)
    assert workload.count == 200
    assert workload.genesis.chain == "test"
    assert workload.summary["kind"] == "4in"
    assert workload.summary["seed"] == "abc"
    assert workload.summary["kinds"] == {"GOOD": 160, "BAD_SIGNATURE": 20, "RIVAL": 20}
    again = time_load("prepare", directory, "--transactions", 200)
    assert again.status == 2
    assert again.err.startswith("time-load: ")
    assert "is not empty; name a new directory" in again.err
    assert again.err.count("\n") == 1


def test_run_against_a_peer(tmp_path: Path, time_load: TimeLoad) -> None:
    directory, json = tmp_path / "w", tmp_path / "report.json"
    prepare(directory, WorkloadOptions(300, bad_signatures=0.1, double_spends=0.1))
    with subprocess.Popen(
        [sys.executable, str(PEER), str(directory)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as peer:
        assert peer.stdin is not None
        assert peer.stdout is not None
        ingest, notify = peer.stdout.readline().split()
        where = ("--ingest", ingest, "--notify", notify)
        good = time_load("run", directory, *where, "--json", json, "--rate", 250)
        assert good.status == 0, good.err
        assert "every verdict is right" in good.out
        assert "finalised" in good.out
        assert "sent " in good.err  # progress
        document = orjson.loads(json.read_bytes())
        assert document["ok"] is True
        assert document["counts"]["sent"] == 300
        assert document["options"]["rate_per_s"] == 250.0

        peer.stdin.write("begin accept-both\n")
        peer.stdin.flush()
        peer.stdout.readline()
        bad = time_load("run", directory, *where, "--json", json)
        assert bad.status == 1
        assert "WRONG: 30 pairs of which both were admitted" in bad.out
        assert orjson.loads(json.read_bytes())["ok"] is False

        peer.stdin.write("begin none\n")
        peer.stdin.flush()
        peer.stdout.readline()
        part = time_load("run", directory, *where, "--first", 10, "--count", 20, "--batch", 3,
                         "--in-flight", 2, "--clients", 2, "--tick-ms", 0, "--resubmit",
                         "--allow-shedding", "--max-unconfirmed", 100, "--answer-timeout", 9,
                         "--drain-timeout", 9, "--duration", 60, "--json", json)  # fmt: skip
        assert part.status == 0, part.out
        document = orjson.loads(json.read_bytes())
        assert document["counts"]["sent"] == 20
        given = document["options"]
        assert (given["first"], given["count"], given["batch"], given["in_flight"]) == (
            10,
            20,
            3,
            2,
        )
        assert (given["clients"], given["tick_ms"], given["resubmit"]) == (2, 0.0, True)
        assert (given["allow_shedding"], given["max_unconfirmed"]) == (True, 100)
        assert (given["answer_timeout_s"], given["drain_timeout_s"]) == (9.0, 9.0)
        assert given["duration_s"] == 60.0
        peer.stdin.close()


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (("run", "{w}"), "no node is named; give --ingest"),
        (("run", "{w}", "--ingest", "tcp://127.0.0.1"), "has no port"),
        (("run", "{none}", "--ingest", "tcp://127.0.0.1:1"), "no complete workload; make it again"),
        (("run", "{w}", "--ingest", "tcp://127.0.0.1:1", "--rate", "0"), "--rate 0 is impossible"),
        (
            ("run", "{w}", "--ingest", "tcp://127.0.0.1:1", "--json", "{none}/x.json"),
            "is not a directory; create it",
        ),
        (("run", "{w}", "--datadir", "{none}"), "cannot read"),
        (("prepare", "{none}", "--transactions", "0"), "cannot make 0 transactions"),
        (("prepare", "{none}"), "--transactions"),
        (("prepare", "{none}", "--transactions", "5", "--kind", "5in"), "5in"),
        (("run", "{w}", "--nonsense"), "--nonsense"),
        (("nonsense",), "nonsense"),
    ],
)
def test_usage_errors_name_cause_and_remedy(
    tmp_path: Path,
    time_load: TimeLoad,
    words: tuple[str, ...],
    says: str,
) -> None:
    prepare(tmp_path / "w", WorkloadOptions(5))
    paths = {"w": tmp_path / "w", "none": tmp_path / "none"}
    outcome = time_load(*(word.format(**paths) for word in words))
    assert outcome.status == 2
    assert says in outcome.err
    assert "Traceback" not in outcome.err


def test_help_is_complete(time_load: TimeLoad) -> None:
    top = time_load("--help")
    assert top.status == 0
    assert "prepare" in top.out
    assert "Exit status" in top.out
    for command, options in (
        ("prepare", "--transactions --kind --outputs --bad-signatures --double-spends --seed"),
        ("run", "--ingest --notify --datadir --rate --duration --count --first --in-flight --batch "
                "--json --resubmit --allow-shedding --clients --tick-ms"),
    ):  # fmt: skip
        text = time_load(command, "--help").out
        assert all(option in text for option in options.split())


def test_endpoints_come_from_the_data_directory(tmp_path: Path) -> None:
    prepare(tmp_path / "w", WorkloadOptions(5))
    datadir = tmp_path / "d"
    datadir.mkdir()
    with pytest.raises(LoadError, match=r"genesis\.json"):
        endpoints(datadir)
    (datadir / "genesis.json").write_bytes((tmp_path / "w" / "genesis.json").read_bytes())
    with pytest.raises(LoadError, match=r"config\.toml.*--datadir"):
        endpoints(datadir)
    (datadir / "config.toml").write_text(example("dev"))
    assert endpoints(datadir) == ("tcp://127.0.0.1:24302", "tcp://127.0.0.1:24303")
    (datadir / "config.toml").write_text('[network]\nlisten = "tcp://0.0.0.0:5000"\n')
    assert endpoints(datadir)[0] == "tcp://127.0.0.1:5000"
    (datadir / "config.toml").write_text("nonsense = 1\n")
    with pytest.raises(LoadError, match="nonsense"):
        endpoints(datadir)


def test_listening_everywhere_is_reached_on_loopback() -> None:
    assert reachable("tcp://*:24302") == "tcp://127.0.0.1:24302"
    assert reachable("tcp://[::]:24302") == "tcp://127.0.0.1:24302"
    assert reachable("tcp://10.1.2.3:24302") == "tcp://10.1.2.3:24302"
