"""Logs: one event a line, whatever is logged, and no secrets."""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import structlog

from node import logs
from node.log_repeats import WINDOW_S, WRITTEN
from pipeline import processlog


@pytest.fixture(autouse=True)
def _level_of_nobody() -> Iterator[None]:
    """A level that one test sets for the process is not the next one's."""
    yield
    processlog._ThisProcess.level = None


def written(log_format: str, level: str = "info") -> tuple[Any, io.StringIO]:
    stream = io.StringIO()
    return logs.configure(level, log_format, "net", stream), stream


def test_json_is_one_object_a_line() -> None:
    log, stream = written("json")
    log.info("block_committed", height=7, id=b"\x01\xff", path=None)
    log.warning("a client\nlies", text="x\ny\u2028z", file="\udcff")
    first, second = map(json.loads, stream.getvalue().splitlines())
    assert first.pop("timestamp").endswith("Z")
    assert first == {
        "level": "info",
        "source": "net",
        "event": "block_committed",
        "height": 7,
        "id": "01ff",
        "path": None,
    }
    assert (second["event"], second["level"]) == ("a client\nlies", "warning")
    assert (second["text"], second["file"]) == ("x\ny\u2028z", "\\udcff")


def test_people_get_one_line_an_event() -> None:
    log, stream = written("human")
    log.info("block_committed", height=7, by="some one", empty="")
    log.error("a client\nlies\x1b[2J", text="x\r\ny\x85")
    lines = stream.getvalue().split("\n")
    assert len(lines) == 3
    assert lines[0][9:] == '  net        block_committed  height=7  by="some one"  empty=""'
    assert "\x1b" not in stream.getvalue()
    assert r"a client\nlies\x1b[2J  text=x\r\ny\x85" in lines[1]


@pytest.mark.parametrize("log_format", ["human", "json"])
def test_secrets_are_hidden(log_format: str) -> None:
    log, stream = written(log_format)
    log.info(
        "key read", seed=b"\xaa" * 32, rpc_password="hunter2", cookie="c00kie", signing_key="k1"
    )
    for secret in ("aa" * 32, "hunter2", "c00kie", "k1"):
        assert secret not in stream.getvalue()
    assert stream.getvalue().count("[hidden]") == 4


@pytest.mark.parametrize("log_format", ["human", "json"])
def test_exceptions_are_one_line_that_says_where(log_format: str) -> None:
    log, stream = written(log_format)
    try:
        int("none")
    except ValueError:
        log.exception("cannot count")
    assert stream.getvalue().count("\n") == 1
    assert "ValueError: invalid literal" in stream.getvalue()
    assert "test_logs.py:" in stream.getvalue()


def test_a_fact_may_have_any_name() -> None:
    _, stream = written("json")
    structlog.get_logger("verify").info("spawned", process="net", level="high", timestamp=1)
    line = json.loads(stream.getvalue())
    assert (line["event"], line["level"]) == ("spawned", "info")
    assert (line["source"], line["process"]) == ("verify", "net")


def test_levels_filter() -> None:
    log, stream = written("json", "warning")
    log.info("no")
    log.debug("no")
    log.warning("yes")
    log.error("yes")
    assert [json.loads(line)["event"] for line in stream.getvalue().splitlines()] == ["yes", "yes"]


def test_long_values_are_cut() -> None:
    log, stream = written("json")
    log.info("long", value="x" * 1_000_000, number=2**70, thing=object())
    assert len(stream.getvalue()) < 3_000
    assert json.loads(stream.getvalue())["number"] == str(2**70)


def test_lists_and_mappings_stay_what_they_are() -> None:
    log, stream = written("json")
    log.info("placed", cores={"net": [0], "verify": (1, 2)}, many=list(range(1_000)))
    line = json.loads(stream.getvalue())
    assert line["cores"] == {"net": [0], "verify": [1, 2]}
    assert line["many"] == list(range(64))
    log, stream = written("human")
    log.info("placed", cores={"net": [0], "verify": (1, 2)})
    assert stream.getvalue().endswith("placed  cores=net:0,verify:1,2\n")


def test_auto_is_json_unless_on_a_terminal() -> None:
    log, stream = written("auto")
    log.info("x")
    assert json.loads(stream.getvalue())["event"] == "x"


def test_a_reader_that_went_away_does_not_stop_the_node() -> None:
    log, stream = written("json")
    stream.close()
    log.info("into the void")


def test_a_level_can_be_changed_while_the_process_runs() -> None:
    log, stream = written("json", "warning")
    log.info("no")
    processlog.set_level("debug")
    log.debug("yes")
    processlog.set_level("error")
    log.warning("no")
    assert [json.loads(line)["event"] for line in stream.getvalue().splitlines()] == ["yes"]
    log, stream = written("json", "info")  # what was set holds over the configuration
    log.warning("no")
    log.error("yes")
    assert stream.getvalue().count("\n") == 1


@pytest.mark.parametrize("log_format", ["human", "json"])
def test_repeated_events_are_counted_and_the_count_is_written(log_format: str) -> None:
    stream = io.StringIO()
    now_s = 5.0
    log = logs.configure("info", log_format, "net", stream, clock=lambda: now_s)
    for number in range(WRITTEN + 7):
        log.warning("peer_lies", number=number)
    log.info("rare")
    assert stream.getvalue().count("\n") == WRITTEN + 1
    processlog.housekeeping(5.0 + WINDOW_S)
    last = stream.getvalue().splitlines()[-1]
    if log_format == "json":
        told = json.loads(last)
        del told["timestamp"]
        assert told == {
            "level": "warning",
            "source": "net",
            "event": "peer_lies",
            "number": WRITTEN + 6,
            "repeated": 7,
            "within_s": 0.0,
        }
    else:
        assert last.endswith(f"peer_lies  number={WRITTEN + 6}  repeated=7  within_s=0.0")
    processlog.housekeeping(1_000.0)
    processlog.close()
    assert stream.getvalue().splitlines()[-1] == last


@pytest.mark.parametrize("ending", ["close", "set_level"])
def test_what_is_held_back_is_written_before_it_is_too_late(ending: str) -> None:
    stream = io.StringIO()
    log = logs.configure("info", "json", "net", stream, clock=lambda: 0.0)
    for _ in range(WRITTEN + 1):
        try:
            raise ValueError("again")
        except ValueError:
            log.exception("boom", password="hunter2")
    if ending == "close":
        processlog.close()
    else:
        processlog.set_level("error")
        log.info("no")
    told = json.loads(stream.getvalue().splitlines()[-1])
    assert (told["repeated"], told["password"]) == (1, "[hidden]")
    assert told["exception"].startswith("ValueError: again (test_logs.py:")


def test_lines_for_the_journal_begin_with_their_priority(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "journal"
    with path.open("w") as stream:
        found = os.fstat(stream.fileno())
        monkeypatch.setenv("JOURNAL_STREAM", f"{found.st_dev}:{found.st_ino}")
        log = logs.configure("debug", "json", "net", stream)
        for level in (10, 20, 30, 40, 50):
            log.log(level, "told")
        monkeypatch.setenv("JOURNAL_STREAM", f"{found.st_dev}:{found.st_ino + 1}")
        logs.configure("debug", "json", "net", stream).error("elsewhere")
    *told, elsewhere = path.read_text().splitlines()
    assert [line[:4] for line in told] == ["<7>{", "<6>{", "<4>{", "<3>{", "<2>{"]
    assert [json.loads(line[3:])["event"] for line in told] == ["told"] * 5
    assert json.loads(elsewhere)["event"] == "elsewhere"


def test_no_stage_pays_for_coloured_tracebacks() -> None:
    stages = ("net", "verify", "consensus", "sign", "rpc")
    code = f"import sys, {', '.join(f'node.stages.{stage}' for stage in stages)}\n"
    code += "print(*sorted({'rich', 'pygments', 'structlog'} & sys.modules.keys()))"
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert ran.stdout.split() == ["structlog"]
