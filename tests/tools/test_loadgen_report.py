"""Figures are what the events say: latencies, rates and counts of a hand-made run."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rich.console import Console

from node.block import block_id, build_block
from node.verdict import Verdict
from tools.loadgen.expected import Fault, Ledger
from tools.loadgen.pace import NS_PER_S, Timetable
from tools.loadgen.report import (
    Report,
    latency_figures,
    latency_histogram,
    make_report,
    per_second,
    steady_rate,
)
from tools.loadgen.workload import WorkloadOptions, prepare
from tools.loadgen.workload_file import Workload

MS = 1_000_000
START = 7 * NS_PER_S


@given(st.lists(st.integers(0, 10**13), min_size=1, max_size=300))
def test_percentiles_are_right_to_three_digits(latencies: list[int]) -> None:
    figures = latency_figures("x", np.array(latencies))
    ordered = sorted(max(1_000, min(value, 3_600 * NS_PER_S)) for value in latencies)
    for percent in (50, 90, 99, 100):
        rank = max(0, -(-len(ordered) * percent // 100) - 1)
        found = figures["x.max_ms" if percent == 100 else f"x.p{percent}_ms"]
        # The histogram asks for the nearest rank, rounded: the neighbours are right, too.
        low, high = ordered[max(0, rank - 1)], ordered[min(len(ordered) - 1, rank + 1)]
        assert low / MS * 0.998 - 0.001 <= found <= high / MS * 1.002 + 0.001


@given(st.lists(st.integers(-5, 10**11), max_size=200))
def test_the_histogram_holds_every_value(latencies: list[int]) -> None:
    assert latency_histogram(np.array(latencies, np.int64)).get_total_count() == len(latencies)
    assert bool(latency_figures("x", np.array(latencies, np.int64))) == bool(latencies)


def test_a_steady_stream_has_its_rate() -> None:
    times = START + np.arange(1_000) * 2 * MS
    assert steady_rate(times) == pytest.approx(500)
    # A slow start and a slow end do not count.
    times[:50] -= NS_PER_S
    times[-50:] += NS_PER_S
    assert steady_rate(times[::-1]) == pytest.approx(500)
    assert steady_rate(times[:9]) is None
    assert steady_rate(np.full(100, START)) is None


def test_seconds_are_counted_from_the_start() -> None:
    times = START + np.array([0, 1, 999 * MS, 1_000 * MS, 3_500 * MS])
    assert per_second(times, START) == [3, 1, 0, 1]
    assert per_second(times[:0], START) == []


@given(st.floats(0.01, 1e6), st.integers(1, 2_000))
@settings(max_examples=200)
def test_the_timetable_keeps_its_rate(rate: float, count: int) -> None:
    timetable = Timetable(rate)
    intended = timetable.intended_ns(count)
    assert intended[0] == 0
    assert (np.diff(intended) >= 0).all()
    for index in (0, count // 2, count - 1):
        assert abs(int(intended[index]) - timetable.due_ns(index)) <= 1 + index // 1_000
        # Due neither before its time nor later than the next nanosecond.
        assert timetable.due(timetable.due_ns(index) + 2) >= index + 1
        assert timetable.due(max(0, timetable.due_ns(index) - 2)) <= index + 1 + rate / 1e8
    assert timetable.due(10 * NS_PER_S) == pytest.approx(10 * rate + 1, abs=1)


@pytest.fixture(scope="module")
def workload(tmp_path_factory: pytest.TempPathFactory) -> Workload:
    directory = tmp_path_factory.mktemp("workload") / "made"
    prepare(directory, WorkloadOptions(100, bad_signatures=0.1))
    return Workload.open(directory)


def report_of(workload: Workload, *, wrong: bool = False) -> Report:
    """100 due one per ms, sent 5 ms late, answered 10 ms and final 110 ms after they were due."""
    ledger = Ledger(workload, 0, 100)
    intended = START + np.arange(100) * MS
    codes = bytearray(workload.expected_codes)
    if wrong:
        codes[codes.index(0)] = Verdict.WRONG_OWNER
    for index in range(100):
        due = int(intended[index])
        ledger.sent(index, index + 1, due + 5 * MS)
        ledger.answered(index, index + 1, bytes(codes[index : index + 1]), due + 10 * MS)
    tip, salt = workload.genesis_id, workload.genesis_id[:16]
    for height, index in enumerate(np.flatnonzero(ledger.verdicts == 0).tolist(), 1):
        block = build_block(
            height=height, previous=tip, time_ms=0, proposer=bytes(32), transactions=[b""],
            txids=[bytes(workload.columns.txids[index])], fees=0, salt=salt,
        )  # fmt: skip
        header = block.header.encode()
        tip = block_id(header, salt)
        body = tip + header + b"".join(block.txids)
        ledger.announced(body, height, int(intended[index]) + 110 * MS)
    return make_report(
        ledger,
        intended_ns=intended,
        start_ns=START,
        cpu_ns=50_000,
        events={"requests": 100},
        options={"rate_per_s": 1_000.0},
    )


def test_a_report_adds_up(workload: Workload) -> None:
    report = report_of(workload)
    assert report.ok
    assert report.counts["sent"] == report.counts["answered"] == 100
    assert report.counts["accepted"] == report.counts["finalised"] == report.counts["blocks"] == 90
    assert report.counts["rejected"] == 10
    assert report.counts["unanswered"] == 0
    assert report.verdicts == {"ADMITTED": 90, "BAD_SIGNATURE": 10}
    assert report.rejected == {"BAD_SIGNATURE": 10}
    assert report.series["sent_per_s"] == report.series["answered_per_s"] == [100]
    assert sum(report.series["finalised_per_s"]) == 90
    figures = report.figures
    for name, value in (("verdict", 10), ("verdict_from_send", 5), ("final", 110)):
        for point in ("p50", "p90", "p99", "max"):
            assert figures[f"{name}.{point}_ms"] == pytest.approx(value, rel=0.001)
    assert figures["load.cpu_us_per_tx"] == 0.5
    assert figures["load.sent_per_s"] == pytest.approx(100 / 0.104, rel=0.001)
    last = 99 - workload.expected_codes[::-1].index(0)
    assert figures["load.finalised_per_s"] == pytest.approx(90 / (0.110 + last / 1e3), rel=0.001)


def test_json_has_what_others_read(workload: Workload) -> None:
    document = orjson.loads(report_of(workload).to_json())
    assert document["ok"] is True
    assert all(isinstance(value, float) for value in document["figures"].values())
    assert document["figures"]["final.p99_ms"] == pytest.approx(110, rel=0.001)
    assert document["machine"]["cores"] >= 1
    assert document["rejected"] == {"BAD_SIGNATURE": 10}
    assert document["blocks"]["last_height"] == 90
    assert document["workload"]["kind"] == "1in"
    assert document["options"] == {"rate_per_s": 1_000.0}
    assert set(document) >= {"rounds", "samples", "findings", "counts", "verdicts"}


def test_what_is_wrong_is_said_loudly(workload: Workload) -> None:
    report = report_of(workload, wrong=True)
    assert not report.ok
    assert [finding.fault for finding in report.findings] == [Fault.WRONG_VERDICT]
    assert report.counts["fault.wrong_verdict"] == 1
    document = orjson.loads(report.to_json())
    assert document["ok"] is False
    assert document["findings"][0]["fault"] == "WRONG_VERDICT"
    assert document["findings"][0]["count"] == 1
    for right, text in ((False, shown(report)), (True, shown(report_of(workload)))):
        assert ("WRONG: 1 got a verdict that cannot be true" in text) != right
        assert ("FAILED" in text) != right
        assert ("every verdict is right" in text) == right
        assert "p99" in text
        assert "rejected: BAD_SIGNATURE" in text


def shown(report: Report) -> str:
    console = Console(file=io.StringIO(), width=120)
    report.print(console)
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


def test_a_run_without_any_answer_has_a_report(workload: Workload) -> None:
    ledger = Ledger(workload, 0, 100)
    ledger.sent(0, 20, START)
    report = make_report(
        ledger, intended_ns=ledger.sent_ns, start_ns=START, cpu_ns=1, events={}, options={}
    )
    assert {f.fault: f.count for f in report.findings} == {Fault.MISSING_VERDICT: 20}
    assert report.counts["unanswered"] == 20
    assert "unanswered" in shown(report)
    assert orjson.loads(report.to_json())["blocks"]["last_id"] is None


def test_the_summary_is_beside_the_workload(workload: Workload) -> None:
    written = orjson.loads((Path(workload.directory) / "workload.json").read_bytes())
    assert written == workload.summary
    assert written["genesis_id"] == workload.genesis_id.hex()
