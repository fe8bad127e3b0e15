"""Scores and bans, with the time of day as an argument."""

from __future__ import annotations

import orjson
from hypothesis import given
from hypothesis import strategies as st

from node.network.bans import BAN_MAX_MS, BAN_MS, FORGIVE_MS, MAX_BANS, MAX_SCORES, BanTable

NOW = 1_800_000_000_000


def test_a_hundred_points_are_a_ban_and_a_new_beginning() -> None:
    table = BanTable()
    assert not table.blame("1.1.1.1", 60, NOW)
    assert not table.blame("1.1.1.2", 60, NOW)
    assert table.points("1.1.1.1", NOW) == 60
    assert table.blame("1.1.1.1", 40, NOW)
    assert table.points("1.1.1.1", NOW) == 0
    assert not table.blame("1.1.1.2", -1_000, NOW)
    assert table.points("1.1.1.2", NOW) == 60


def test_points_are_forgiven_one_by_one() -> None:
    table = BanTable()
    table.blame("1.1.1.1", 50, NOW)
    assert table.points("1.1.1.1", NOW + 10 * FORGIVE_MS) == 40
    assert table.points("1.1.1.1", NOW + 1_000 * FORGIVE_MS) == 0
    assert table.points("1.1.1.1", NOW - 10 * FORGIVE_MS) == 50  # a clock that was set back
    assert not table.blame("1.1.1.1", 59, NOW + 10 * FORGIVE_MS)
    assert table.blame("1.1.1.1", 1, NOW + 10 * FORGIVE_MS)


def test_a_ban_ends() -> None:
    table = BanTable()
    table.ban("1.1.1.1", "x" * 500, NOW)
    assert table.banned("1.1.1.1", NOW + BAN_MS - 1)
    assert not table.banned("1.1.1.1", NOW + BAN_MS)
    assert not table.banned("1.1.1.2", NOW)
    assert table.bans(NOW) == {"1.1.1.1": (NOW + BAN_MS, "x" * 200)}
    assert table.bans(NOW + BAN_MS) == {}


def test_an_ipv6_ban_is_for_the_site() -> None:
    table = BanTable()
    table.ban("2001:db8::1", "odd", NOW)
    assert table.banned("2001:db8::2", NOW)
    assert not table.banned("2001:db8:0:1::1", NOW)
    assert not table.unban("2001:db8:0:1::1")
    assert table.unban("2001:db8::/64")
    assert not table.banned("2001:db8::1", NOW)


def test_tables_are_bounded_and_the_oldest_go_first() -> None:
    table = BanTable()
    for number in range(MAX_SCORES + 1):
        table.blame(f"10.0.{number >> 8}.{number & 255}", 1, NOW)
    assert table.points("10.0.0.0", NOW) == 0
    assert table.points("10.0.0.1", NOW) == 1
    for number in range(MAX_BANS + 1):
        table.ban(f"10.0.{number >> 8}.{number & 255}", "", NOW)
    assert not table.banned("10.0.0.0", NOW)
    assert table.banned("10.0.0.1", NOW)
    assert len(table.bans(NOW)) == MAX_BANS


def test_what_is_kept() -> None:
    table = BanTable()
    table.ban("1.1.1.1", "odd", NOW)
    table.ban("2001:db8::1", "odder", NOW, for_ms=60_000)
    table.ban("1.1.1.3", "over", NOW - BAN_MS)
    again = BanTable()
    assert again.load(orjson.loads(orjson.dumps(table.to_json(NOW))), NOW) == 2
    assert again.bans(NOW) == table.bans(NOW)
    assert again.banned("2001:db8::9", NOW)


def test_the_file_cannot_ban_for_ever_or_nonsense() -> None:
    table = BanTable()
    entries = [
        {"site": "1.1.1.1", "until_ms": 1 << 62, "reason": "r" * 1_000},
        {"site": "no ip", "until_ms": 1 << 62, "reason": ""},
        {"site": "1.1.1.2", "until_ms": NOW, "reason": "over"},
        {"site": "1.1.1.3", "until_ms": "later", "reason": ""},
        {"site": 5},
        None,
    ]
    assert table.load(entries, NOW) == 1
    assert table.bans(NOW) == {"1.1.1.1": (NOW + BAN_MAX_MS, "r" * 200)}


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(st.sampled_from(["site", "until_ms", "reason", "x"]), inner, max_size=4)
    ),
    max_leaves=10,
)


@given(JSON)
def test_any_json_is_read_without_harm(content: object) -> None:
    table = BanTable()
    table.load(content, NOW)
    table.to_json(NOW)
