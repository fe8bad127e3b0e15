"""The sender against a process that answers like a node over real sockets, and lies on request."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from tools.loadgen.errors import LoadError
from tools.loadgen.expected import Fault
from tools.loadgen.report import Report
from tools.loadgen.sender import LoadOptions, Progress, run_load
from tools.loadgen.workload import Kind, WorkloadOptions, prepare
from tools.loadgen.workload_file import Truth, Workload

PEER = Path(__file__).with_name("loadgen_peer.py")
COUNT = 1_200


class Peer:
    """The peer process and its endpoints."""

    def __init__(self, directory: Path, *more: str) -> None:
        self.process = subprocess.Popen(
            [sys.executable, str(PEER), str(directory), *more],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.commands, self.answers = self.process.stdin, self.process.stdout
        self.ingest, self.notify = self.answers.readline().split()

    def begin(self, fault: str) -> None:
        self.commands.write(f"begin {fault}\n")
        self.commands.flush()
        assert self.answers.readline() == "ready\n"

    def close(self) -> None:
        self.commands.close()
        self.process.wait(20)
        self.answers.close()


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("workload") / "made"
    prepare(made, WorkloadOptions(COUNT, Kind.MIXED, 0, 0.05, 0.05))
    return made


@pytest.fixture(scope="module")
def peer(directory: Path) -> Iterator[Peer]:
    started = Peer(directory)
    yield started
    started.close()


def load(peer: Peer, directory: Path, fault: str, **more: object) -> Report:
    """Run against the peer: small requests, so that a fault does not fall between them."""
    peer.begin(fault)
    # A run that cannot end well ends when nothing moves for this long, one that can ends before.
    drain = 60.0 if fault == "none" else 0.5
    return run_load(
        LoadOptions(
            **{  # type: ignore[arg-type]
                "directory": directory,
                "ingest": peer.ingest,
                "notify": peer.notify,
                "batch": 64,
                "in_flight": 4,
                "drain_timeout_s": drain,
                "answer_timeout_s": 30.0,
                **more,
            }
        )
    )


@pytest.mark.parametrize(
    "more",
    [
        {},
        {"rate_per_s": 5_000.0},
        {"batch": 1_024, "in_flight": 64},
        {"batch": 1, "in_flight": 1, "count": 100},
        {"clients": 5},
        {"max_unconfirmed": 10, "batch": 5},
        {"resubmit": True},
        {"first": 700, "count": 300, "rate_per_s": 100_000.0},
    ],
    ids=lambda more: ",".join(more) or "defaults",
)
def test_all_is_well_with_an_honest_peer(
    peer: Peer, directory: Path, more: dict[str, object]
) -> None:
    report = load(peer, directory, "none", **more)
    assert report.findings == ()
    assert report.ok
    first, count = int(more.get("first", 0)), int(more.get("count", COUNT))  # type: ignore[call-overload]
    counts = report.counts
    assert counts["sent"] == counts["answered"] == count
    assert sum(report.verdicts.values()) == count
    assert counts["accepted"] + counts["rejected"] == count
    assert counts["finalised"] == counts["accepted"] == len(report.final_txids)
    assert counts["unanswered"] == counts["resubmitted"] == counts["late_verdicts"] == 0
    assert counts["timed_out"] == 0
    kinds = Workload.open(directory).columns.kinds[first : first + count]
    assert report.rejected["BAD_SIGNATURE"] == (kinds == Truth.BAD_SIGNATURE).sum()
    if count == COUNT:
        losers = sum(report.rejected.get(name, 0) for name in ("REPLACEMENT_FEE", "SPENT_INPUT"))
        assert losers == (kinds == Truth.RIVAL).sum() // 2
    figures = report.figures
    assert 0 < figures["verdict.p50_ms"] <= figures["verdict.p99_ms"] <= figures["verdict.max_ms"]
    assert figures["final.p50_ms"] <= figures["final.max_ms"]
    # The histogram rounds up to three digits.
    assert figures["final.max_ms"] <= figures["load.elapsed_s"] * 1e3 * 1.002 + 1
    assert figures["load.finalised_per_s"] > 0
    assert sum(report.series["finalised_per_s"]) == counts["finalised"]
    assert len(report.blocks) == counts["blocks"] > 0


@pytest.mark.parametrize(
    ("fault", "expected"),
    [
        ("refuse-good:100", {Fault.WRONG_VERDICT}),
        ("bogus-code:100", {Fault.WRONG_VERDICT, Fault.NOT_FINAL}),
        ("accept-bad", {Fault.WRONG_VERDICT, Fault.FINAL_BAD_SIGNATURE}),
        ("silent", {Fault.MISSING_VERDICT}),
        ("short-reply", {Fault.MISSING_VERDICT}),
        ("long-reply", {Fault.DOUBLE_VERDICT}),
        ("double-reply", {Fault.DOUBLE_VERDICT}),
        ("accept-both", {Fault.BOTH_ADMITTED, Fault.FINAL_BOTH}),
        ("reject-both", {Fault.NONE_ADMITTED, Fault.EARLY_CONFLICT}),
        ("forget:0", {Fault.NOT_FINAL}),
        ("finalise-rejected", {Fault.FINAL_BAD_SIGNATURE}),
        ("finalise-twice", {Fault.FINAL_TWICE}),
        ("twice-in-a-block", {Fault.FINAL_TWICE}),
        ("drop-notification", {Fault.LOST_NOTIFICATIONS, Fault.LOST_BLOCKS, Fault.NOT_FINAL}),
        ("repeat-notification", {Fault.REPEATED_BLOCKS}),
        ("cut-notification", {Fault.FORK, Fault.LOST_BLOCKS, Fault.NOT_FINAL}),
        ("fork", {Fault.FORK}),
        ("wrong-id", {Fault.FORK}),
        ("wrong-count", {Fault.FORK, Fault.NOT_FINAL}),
        ("shed", {Fault.SHED}),
        ("busy", {Fault.SHED}),
    ],
)
def test_every_lie_is_detected(
    peer: Peer, directory: Path, fault: str, expected: set[Fault]
) -> None:
    # Slowly, so that several blocks are made.
    report = load(peer, directory, fault, rate_per_s=8_000.0)
    assert not report.ok
    assert {finding.fault for finding in report.findings} >= expected
    # Only what follows from the lie: losing a reply or a rival's answer blurs its partner, too.
    allowed = expected | {
        Fault.FINAL_REJECTED,
        Fault.WRONG_VERDICT,
        Fault.NOT_FINAL,
        Fault.FINAL_TWICE,
    }
    allowed |= {Fault.LOST_BLOCKS, Fault.FORK}
    assert {finding.fault for finding in report.findings} <= allowed
    assert all(finding.count > 0 and finding.line() for finding in report.findings)


@pytest.mark.parametrize("fault", ["silent", "short-reply", "drop-notification", "shed", "busy"])
def test_what_a_restart_would_explain_is_mended_by_asking_again(
    peer: Peer, directory: Path, fault: str
) -> None:
    report = load(
        peer, directory, fault, rate_per_s=8_000.0, resubmit=True, answer_timeout_s=0.3,
        drain_timeout_s=30.0,
    )  # fmt: skip
    if fault == "shed":
        # A seventh of all is refused whenever it is asked; good ones get through in the end.
        assert "MEMPOOL_FULL" not in report.rejected
    assert report.findings == ()
    assert report.counts["resubmitted"] > 0
    assert report.counts["finalised"] == report.counts["accepted"] > 0
    assert report.counts["timed_out"] == 0


def test_a_late_answer_to_what_was_repeated_is_no_double_one(peer: Peer, directory: Path) -> None:
    report = load(peer, directory, "late-reply", resubmit=True, answer_timeout_s=0.1)
    assert report.findings == ()
    assert report.counts["late_verdicts"] == report.counts["resubmitted"] == 64


def test_admitted_transactions_never_pile_up(peer: Peer, directory: Path) -> None:
    """At most 10 may be unconfirmed when a request leaves, and 4 of 5 are under way."""
    report = load(peer, directory, "none", max_unconfirmed=10, batch=5)
    assert report.ok
    assert report.counts["blocks"] >= report.counts["accepted"] / (10 + 4 * 5)


def test_shedding_can_be_allowed(peer: Peer, directory: Path) -> None:
    report = load(peer, directory, "busy", allow_shedding=True)
    assert report.ok
    assert report.rejected["BUSY"] == 64


def test_sent_before_is_wrong_unless_resubmitting(peer: Peer, directory: Path) -> None:
    assert load(peer, directory, "none").ok
    again = LoadOptions(directory, peer.ingest, peer.notify)
    report = run_load(again)
    assert {finding.fault for finding in report.findings} >= {Fault.WRONG_VERDICT}
    report = run_load(LoadOptions(directory, peer.ingest, peer.notify, resubmit=True))
    assert report.findings == ()
    assert report.counts["finalised_by_verdict"] == report.counts["accepted"]
    assert "final.p50_ms" not in report.figures  # no latency is made up for what was only asked


def test_latency_counts_from_the_intended_time(peer: Peer, directory: Path) -> None:
    """With one request of one transaction under way, most wait for their turn: that is latency."""
    report = load(
        peer, directory, "none", rate_per_s=1e6, batch=1, in_flight=1, count=300, tick_ms=0.0
    )
    assert report.ok
    elapsed_ms = report.figures["load.elapsed_s"] * 1e3
    assert report.figures["verdict.max_ms"] > 0.5 * elapsed_ms
    assert report.figures["verdict.p50_ms"] > 0.2 * elapsed_ms
    assert report.figures["verdict_from_send.p50_ms"] < 0.1 * report.figures["verdict.p50_ms"]


def test_a_duration_ends_the_sending(peer: Peer, directory: Path) -> None:
    report = load(peer, directory, "none", rate_per_s=500.0, duration_s=0.5)
    assert report.ok
    assert 1 <= report.counts["sent"] <= 251


def test_progress_is_told_while_it_runs(peer: Peer, directory: Path) -> None:
    peer.begin("none")
    seen: list[Progress] = []
    options = LoadOptions(directory, peer.ingest, peer.notify, rate_per_s=500.0)
    report = run_load(options, seen.append)
    assert report.ok
    assert len(seen) >= 2
    assert [p.sent for p in seen] == sorted(p.sent for p in seen)
    assert 0 < seen[0].sent < seen[-1].sent <= COUNT
    assert seen[0].to_send == COUNT


def test_an_interrupt_ends_the_sending_and_reports(peer: Peer, directory: Path) -> None:
    peer.begin("none")

    def interrupt(_progress: Progress) -> None:
        if not interrupted:
            interrupted.append(True)
            os.kill(os.getpid(), signal.SIGINT)

    interrupted: list[bool] = []
    options = LoadOptions(directory, peer.ingest, peer.notify, rate_per_s=200.0)
    report = run_load(options, interrupt)
    assert report.ok
    assert 0 < report.counts["sent"] < COUNT
    assert report.counts["answered"] == report.counts["sent"]


def test_a_peer_that_is_killed_comes_back_and_nothing_is_lost(
    directory: Path, tmp_path: Path
) -> None:
    """kill -9 in the middle, twice: its mempool is gone, its chain is not."""
    first = Peer(directory, str(tmp_path / "chain"), "tcp://127.0.0.1:*", "tcp://127.0.0.1:*")
    endpoints = (first.ingest, first.notify)
    peers = [first]
    first.begin("die:300")

    def bring_back() -> None:
        for fault in ("die:250", "none"):
            peers[-1].process.wait(60)
            peers.append(Peer(directory, str(tmp_path / "chain"), *endpoints))
            peers[-1].begin(fault)

    keeper = threading.Thread(target=bring_back)
    keeper.start()
    try:
        report = run_load(
            LoadOptions(
                directory, *endpoints, batch=32, in_flight=4, resubmit=True, answer_timeout_s=0.5
            )
        )
    finally:
        keeper.join(60)
        for peer in peers:
            peer.close()
    assert len(peers) == 3
    assert report.findings == ()
    assert report.counts["disconnects"] >= 2
    assert report.counts["timed_out"] == 0
    assert report.counts["resubmitted"] > 0
    chain = [line.split() for line in (tmp_path / "chain").read_text().splitlines()]
    final = [bytes.fromhex(txid) for _, *txids in chain for txid in txids]
    assert len(final) == len(set(final))
    assert set(final) == {bytes(txid) for txid in report.final_txids}
    workload = Workload.open(directory)
    good = workload.columns.txids[workload.columns.kinds == Truth.GOOD]
    assert {bytes(txid) for txid in good} <= set(final)
    assert (
        len(final)
        == (workload.columns.kinds == Truth.GOOD).sum()
        + (workload.columns.kinds == Truth.RIVAL).sum() // 2
    )


def test_a_peer_that_stays_away_is_reported_as_missing_verdicts(
    directory: Path, tmp_path: Path
) -> None:
    peer = Peer(directory, str(tmp_path / "chain"), "tcp://127.0.0.1:*", "tcp://127.0.0.1:*")
    peer.begin("die:300")
    try:
        report = run_load(
            LoadOptions(
                directory, peer.ingest, peer.notify, batch=32, in_flight=4, drain_timeout_s=0.5
            )
        )
    finally:
        peer.close()
    found = {finding.fault: finding.count for finding in report.findings}
    assert found[Fault.MISSING_VERDICT] == report.counts["unanswered"] > 0
    assert report.counts["sent"] < COUNT


def test_nobody_there_is_an_error_that_says_so(directory: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))  # bound and not listening: refuses
        endpoint = f"tcp://127.0.0.1:{taken.getsockname()[1]}"
        with pytest.raises(LoadError, match=f"no node answers at {endpoint}.*timed run"):
            run_load(LoadOptions(directory, endpoint, endpoint, connect_timeout_s=0.3))


def test_something_else_listening_is_no_node(directory: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        endpoint = f"tcp://127.0.0.1:{other.getsockname()[1]}"
        with pytest.raises(LoadError, match="no node answers"):
            run_load(LoadOptions(directory, endpoint, endpoint, connect_timeout_s=0.3))


@pytest.mark.parametrize(
    "wrong",
    [
        {"rate_per_s": 0.0},
        {"duration_s": -1.0},
        {"batch": 0},
        {"batch": 1_025},
        {"in_flight": 65},
        {"clients": 0},
        {"first": -1},
        {"count": 0},
        {"max_unconfirmed": -1},
    ],
)
def test_impossible_options_are_named(directory: Path, wrong: dict[str, object]) -> None:
    with pytest.raises(LoadError, match="is impossible"):
        LoadOptions(directory, "tcp://127.0.0.1:1", "tcp://127.0.0.1:2", **wrong)  # type: ignore[arg-type]


def test_a_window_beyond_the_workload_is_refused(directory: Path) -> None:
    with pytest.raises(LoadError, match="none from 1,200 on"):
        run_load(LoadOptions(directory, "tcp://127.0.0.1:1", "tcp://127.0.0.1:2", first=COUNT))
    with pytest.raises(LoadError, match="no endpoint to connect to"):
        run_load(LoadOptions(directory, "nonsense", "tcp://127.0.0.1:2"))


def test_requests_stay_within_the_ingest_limits(peer: Peer, directory: Path) -> None:
    """As many as a request may have would be too many bytes: the peer would refuse them."""
    workload = Workload.open(directory)
    assert int(workload.offsets[1_024]) > 256 * 1024
    assert load(peer, directory, "none", batch=1_024).ok
