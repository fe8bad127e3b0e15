"""Passwords: the cookie's file, users with salts, and headers that are none."""

from __future__ import annotations

import base64
import hashlib
import hmac
import stat
from pathlib import Path

import pytest
from damage import damaged
from hypothesis import given, settings
from hypothesis import strategies as st

from node.errors import ConfigError, NodeError
from node.rpc.auth import (
    COOKIE_USER,
    MAX_HEADER_CHARACTERS,
    REPORT_NS,
    Authenticator,
    Cookie,
    Failures,
)


def basic(credentials: str) -> str:
    return "Basic " + base64.b64encode(credentials.encode()).decode()


def line(user: str, salt: str, password: str) -> str:
    return f"{user}:{salt}${hmac.new(salt.encode(), password.encode(), hashlib.sha256).hexdigest()}"


def test_each_cookie_is_new_and_nobody_elses(tmp_path: Path) -> None:
    first = Cookie(tmp_path)
    assert first.path.read_bytes() == first.content
    assert stat.S_IMODE(first.path.stat().st_mode) == 0o600
    (tmp_path / ".cookie.tmp").write_text("left by a killed process")
    second = Cookie(tmp_path)
    assert second.content != first.content
    first.remove()  # it is not its own any more
    assert second.path.read_bytes() == second.content
    second.remove()
    assert list(tmp_path.iterdir()) == []
    second.remove()


def test_a_cookie_without_a_place(tmp_path: Path) -> None:
    with pytest.raises(NodeError, match="does not exist"):
        Cookie(tmp_path / "none")


def test_the_cookie_and_every_user_get_in_and_nobody_else() -> None:
    users = [line("ann", "5a17", "secret"), line("bob", "5a18", "other")]
    door = Authenticator(b"__cookie__:abc", users)
    assert door.user(basic("__cookie__:abc")) == COOKIE_USER
    assert door.user(basic("ann:secret")) == "ann"
    assert door.user("basic " + base64.b64encode(b"bob:other").decode()) == "bob"
    for wrong in ("ann:other", "bob:secret", "ann:", ":secret", "ann", "__cookie__:abd", ""):
        assert door.user(basic(wrong)) is None


@pytest.mark.parametrize(
    "header",
    [None, "", "Basic", "Basic !!!!", "Bearer abc", "Basic " + "A" * MAX_HEADER_CHARACTERS],
)
def test_headers_that_are_none(header: str | None) -> None:
    assert Authenticator(b"__cookie__:abc", []).user(header) is None


NEARLY = [basic(each) for each in ("__cookie__:abc", "a:c", "é:c", "a", ":", "")]


@settings(max_examples=300)
@given(
    st.text(max_size=50)
    | st.text(max_size=50).map(lambda text: f"Basic {text}")
    | st.binary(max_size=50).map(lambda data: f"bAsic {base64.b64encode(data).decode()}")
    | st.sampled_from(NEARLY)
    .flatmap(lambda header: damaged(header.encode()))
    .map(lambda data: data.decode("utf-8", "surrogateescape"))  # as aiohttp does
)
def test_any_header_is_judged(header: str) -> None:
    """Whoever gets in has written a password that is one: base64 has no second way to."""
    user = Authenticator(b"__cookie__:abc", [line("a", "b", "c")]).user(header)
    if user is not None:
        scheme, _, encoded = header.partition(" ")
        assert scheme.lower() == "basic"
        expected = {COOKIE_USER: b"__cookie__:abc", "a": b"a:c"}[user]
        assert base64.b64decode(encoded) == expected


@pytest.mark.parametrize(
    "entry", ["", "ann", "ann:salt", "ann:salt$" + "0" * 63, "a:s$" + "g" * 64]
)
def test_a_line_that_is_no_user(entry: str) -> None:
    with pytest.raises(ConfigError, match="rpcauth"):
        Authenticator(b"c:d", [entry])


def test_failures_are_told_once_a_second_with_their_number() -> None:
    failures = Failures()
    assert failures.failed(0) == 1
    assert [failures.failed(each) for each in range(5)] == [0] * 5
    assert failures.failed(REPORT_NS) == 6


def test_the_last_failures_of_many_are_told_when_their_time_has_come() -> None:
    failures = Failures()
    assert failures.unreported(0) == 0
    assert [failures.failed(each) for each in range(3)] == [1, 0, 0]
    assert failures.unreported(REPORT_NS - 1) == 0
    assert failures.unreported(REPORT_NS) == 2
    assert failures.unreported(5 * REPORT_NS) == 0
    assert failures.failed(5 * REPORT_NS) == 1
