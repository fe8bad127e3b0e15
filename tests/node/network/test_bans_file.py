"""bans.json between a hub and others that write it: nobody's change is lost, nobody waits."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from meeting import Meeting, join

from node.network.bans import BAN_MS, BanTable
from node.network.bans_file import (
    BansFile,
    BansFileError,
    Busy,
    Exchanged,
    lift,
    read_bans,
    turn,
)

NOW = 1_800_000_000_000


class Side:
    """A hub's table and its view of the file."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.table = BanTable()
        self.file = BansFile(str(path))
        assert self.file.load(self.table, NOW) is None

    def ban(self, *sites: str, reason: str = "own", for_ms: int = BAN_MS) -> None:
        for site in sites:
            self.table.ban(site, reason, NOW, for_ms)

    def look(self) -> list[str]:
        banned, *wrong = self.file.exchange(self.table, NOW)
        assert wrong == [None, None]
        return sorted(banned)

    @property
    def here(self) -> set[str]:
        return set(self.table.bans(NOW))

    @property
    def kept(self) -> set[str]:
        return set(read_bans(str(self.path), NOW))


@pytest.fixture
def side(tmp_path: Path) -> Side:
    return Side(tmp_path / "bans.json")


def edit(path: Path, *entries: tuple[str, str]) -> None:
    """Somebody replaces the file."""
    content = [
        {"site": site, "until_ms": NOW + BAN_MS, "reason": reason} for site, reason in entries
    ]
    new = path.with_suffix(".tmp")
    new.write_text(json.dumps(content))
    new.replace(path)


def test_bans_go_into_the_file_and_come_back_at_the_next_start(side: Side) -> None:
    side.ban("1.1.1.1", "2001:db8::1")
    side.look()
    assert Side(side.path).table.bans(NOW) == side.table.bans(NOW)
    assert side.kept == {"1.1.1.1", "2001:db8::/64"}


def test_a_lift_by_somebody_else_is_taken_over(side: Side) -> None:
    side.ban("1.1.1.1", "1.1.1.2", "2001:db8::1")
    side.look()
    assert lift(str(side.path), "1.1.1.1", NOW) == "1.1.1.1"
    assert lift(str(side.path), "2001:db8::77", NOW) == "2001:db8::/64"
    assert lift(str(side.path), "2001:db8::/64", NOW) is None
    assert side.look() == []
    assert side.here == side.kept == {"1.1.1.2"}


def test_a_lift_does_not_undo_what_the_hub_has_banned_since(side: Side) -> None:
    side.ban("1.1.1.1", "1.1.1.2")
    side.look()
    side.ban("1.1.1.3")  # not in the file yet
    side.ban("1.1.1.2", reason="again", for_ms=BAN_MS + 1)
    assert lift(str(side.path), "1.1.1.1", NOW) == "1.1.1.1"
    assert lift(str(side.path), "1.1.1.2", NOW) == "1.1.1.2"
    side.look()
    assert side.here == side.kept == {"1.1.1.2", "1.1.1.3"}
    assert side.table.bans(NOW)["1.1.1.2"][1] == "again"


def test_bans_that_somebody_writes_are_taken_over_and_told(side: Side) -> None:
    side.ban("1.1.1.1")
    side.look()
    edit(side.path, ("1.1.1.1", "own"), ("9.9.9.9", "by hand"))
    assert side.look() == ["9.9.9.9"]
    assert side.here == {"1.1.1.1", "9.9.9.9"}
    assert side.look() == []


def test_a_file_that_is_gone_holds_no_bans(side: Side) -> None:
    side.ban("1.1.1.1")
    side.look()
    side.path.unlink()
    side.ban("1.1.1.2")
    side.look()
    assert side.here == side.kept == {"1.1.1.2"}


def test_a_damaged_file_lifts_nothing_and_is_told_once(side: Side) -> None:
    side.ban("1.1.1.1")
    side.look()
    side.path.write_text("[{")
    found = side.file.exchange(side.table, NOW)
    assert found == Exchanged(ignored=f"{side.path} is not JSON")
    assert side.file.exchange(side.table, NOW) == Exchanged()
    assert side.path.read_text() == "[{"
    with pytest.raises(BansFileError, match="is not JSON"):
        lift(str(side.path), "1.1.1.1", NOW)
    side.ban("1.1.1.2")
    side.look()
    assert side.kept == {"1.1.1.1", "1.1.1.2"}


def test_whoever_finds_the_lock_taken_comes_back_later(side: Side) -> None:
    side.ban("1.1.1.1")
    with turn(str(side.path)):
        assert side.look() == []
        assert not side.path.exists()
        with pytest.raises(Busy):
            lift(str(side.path), "1.1.1.1", NOW)
    side.look()
    assert side.kept == {"1.1.1.1"}


def test_a_file_that_nobody_changed_is_not_read_again(
    side: Side, monkeypatch: pytest.MonkeyPatch
) -> None:
    side.ban("1.1.1.1")
    side.look()

    def read(path: str) -> tuple[Any, str | None]:
        raise AssertionError(path)

    monkeypatch.setattr("node.network.bans_file.read_json", read)
    side.look()


def test_a_directory_that_is_missing_is_told_once(tmp_path: Path) -> None:
    side = Side(tmp_path / "missing" / "bans.json")
    side.ban("1.1.1.1")
    found = side.file.exchange(side.table, NOW)
    assert "cannot write" in str(found.not_written)
    assert side.file.exchange(side.table, NOW) == Exchanged()
    assert side.here == {"1.1.1.1"}


SITES = st.sets(st.sampled_from(["1.1.1.1", "1.1.1.2", "1.1.1.3"]))


@given(before=SITES, lifted=SITES, by_hand=SITES, own=SITES)
def test_what_both_sides_did_holds(
    tmp_path_factory: pytest.TempPathFactory,
    before: set[str],
    lifted: set[str],
    by_hand: set[str],
    own: set[str],
) -> None:
    side = Side(tmp_path_factory.mktemp("bans") / "bans.json")
    side.ban(*before)
    side.look()
    side.ban(*own, reason="newer")
    edit(
        side.path,
        *((site, "own") for site in before - lifted - by_hand),
        *((site, "by hand") for site in by_hand),
    )
    side.look()
    assert side.here == (before - lifted) | by_hand | own
    assert side.kept == side.here
    assert all(side.table.bans(NOW)[site][1] == "newer" for site in own)


def test_a_running_hub_follows_the_file_by_itself(meeting: Meeting, tmp_path: Path) -> None:
    path = tmp_path / "bans.json"
    node = meeting.node(1, bans_path=str(path))
    deadline_ns = node.hub.deadline_ns()
    assert deadline_ns is not None  # although it has nothing else to do
    assert deadline_ns - meeting.now_ns() <= 5_000_000_000
    node.hub.ban("127.0.0.9", "misbehaved")
    meeting.pass_time(5)
    meeting.until(path.exists)
    assert lift(str(path), "127.0.0.9", meeting.now_ms()) == "127.0.0.9"
    node.hub.ban("127.0.0.8", "newer")
    meeting.pass_time(5)
    meeting.until(lambda: list(node.hub.bans()) == ["127.0.0.8"])
    join(meeting, node, 9, "127.0.0.9")
    meeting.until(lambda: set(read_bans(str(path), meeting.now_ms())) == {"127.0.0.8"})
    edit(path, ("127.0.0.9", "by hand"), ("127.0.0.8", "newer"))
    meeting.pass_time(5)
    meeting.until(lambda: not node.here)
    assert node.left[-1][1] == "banned: by hand"
