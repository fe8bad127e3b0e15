"""`timed bans`: lists and lifts, with and without a node."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import pytest

from node import datadir
from node.commands.bans import bans
from node.commands.init import init
from node.datadir import Layout, layout
from node.errors import DatadirError, UsageError
from node.network.bans_file import turn

HOUR_MS = 3_600_000


@pytest.fixture
def where(tmp_path: Path) -> Layout:
    found = layout(tmp_path / "d")
    init(found, "dev", None, None)
    now_ms = time.time_ns() // 1_000_000
    entries = [
        {"site": "10.0.0.2", "until_ms": now_ms + 2 * HOUR_MS, "reason": "a bad block"},
        {"site": "2001:db8::/64", "until_ms": now_ms + HOUR_MS, "reason": "malformed: \\x00"},
        {"site": "10.0.0.3", "until_ms": now_ms - 1, "reason": "over"},
    ]
    found.bans.write_text(json.dumps(entries))
    return found


def listed(where: Layout, capsys: pytest.CaptureFixture[str]) -> list[dict[str, Any]]:
    capsys.readouterr()
    bans(where, None, as_json=True)
    found: list[dict[str, Any]] = json.loads(capsys.readouterr().out)
    return found


def test_bans_are_listed_the_next_to_end_first(
    where: Layout, capsys: pytest.CaptureFixture[str]
) -> None:
    first, second = listed(where, capsys)
    assert first["address"] == "2001:db8::/64"
    assert (second["address"], second["reason"]) == ("10.0.0.2", "a bad block")
    assert second["until"].endswith("+00:00")
    bans(where, None, as_json=False)
    text = capsys.readouterr().out
    assert "10.0.0.2       until 20" in text
    assert text.count("\n") == 2


@pytest.mark.parametrize(
    ("given", "site", "left"),
    [
        ("10.0.0.2", "10.0.0.2", "2001:db8::/64"),
        ("2001:DB8:0::9", "2001:db8::/64", "10.0.0.2"),
        ("2001:db8::/64", "2001:db8::/64", "10.0.0.2"),
        ("::ffff:10.0.0.2", "10.0.0.2", "2001:db8::/64"),
    ],
)
def test_one_is_lifted(
    where: Layout, capsys: pytest.CaptureFixture[str], given: str, site: str, left: str
) -> None:
    capsys.readouterr()
    bans(where, given, as_json=True)
    assert json.loads(capsys.readouterr().out) == {"lifted": site}
    assert [each["address"] for each in listed(where, capsys)] == [left]


def test_a_running_node_is_mentioned(where: Layout, capsys: pytest.CaptureFixture[str]) -> None:
    capsys.readouterr()
    bans(where, "10.0.0.2", as_json=False)
    assert "running" not in capsys.readouterr().out
    with datadir.locked(where):
        bans(where, "2001:db8::1", as_json=False)
    assert "within 5 seconds" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ("10.0.0.9", "10.0.0.9 is not banned; see timed bans"),
        ("10.0.0.3", "10.0.0.3 is not banned"),
        ("10.0.0.2:80", "is no IP address"),
        ("peer.example", "is no IP address"),
        ("", "is no IP address"),
    ],
)
def test_what_cannot_be_lifted_is_told(where: Layout, given: str, message: str) -> None:
    before = where.bans.read_bytes()
    with pytest.raises(UsageError, match=message):
        bans(where, given, as_json=False)
    assert where.bans.read_bytes() == before


def test_a_new_node_has_banned_nobody(where: Layout, capsys: pytest.CaptureFixture[str]) -> None:
    where.bans.unlink()
    assert listed(where, capsys) == []
    bans(where, None, as_json=False)
    assert capsys.readouterr().out == "nobody is banned\n"
    with pytest.raises(UsageError, match="is not banned"):
        bans(where, "10.0.0.2", as_json=False)


def test_a_file_that_is_none_names_itself(where: Layout) -> None:
    where.bans.write_text("{")
    for address in (None, "10.0.0.2"):
        with pytest.raises(DatadirError, match=r"bans\.json is not JSON; correct or remove it"):
            bans(where, address, as_json=False)


def test_a_writer_that_never_ends_is_told(where: Layout, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("node.commands.bans.BUSY_S", 0.0)
    with turn(str(where.bans)), pytest.raises(DatadirError, match="another process is writing"):
        bans(where, "10.0.0.2", as_json=False)


def test_a_directory_that_is_none_is_told(tmp_path: Path) -> None:
    with pytest.raises(DatadirError, match="does not exist"):
        bans(layout(tmp_path / "nothing"), None, as_json=False)
