"""Logs: one event a line, whatever is logged, and no secrets."""

from __future__ import annotations

import io
import json
from typing import Any

import pytest
import structlog

from node import logs


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
