"""Names become IPs in a thread, and what is no name becomes an answer, too."""

from __future__ import annotations

import time

from node.network.address import Address
from node.network.resolver import Answer, Resolver, look_up


def test_names_and_what_is_none() -> None:
    assert look_up(Address("127.0.0.1", 1)) == (Address("127.0.0.1", 1), ("127.0.0.1",), "")
    assert "127.0.0.1" in look_up(Address("localhost", 1)).hosts
    for host in ("no.such.name.invalid", "x" * 70, "a" * 64 + ".b"):
        answer = look_up(Address(host, 1))
        assert answer.hosts == ()
        assert answer.error.startswith(f"cannot look up {host}")


def test_each_is_asked_once_and_answered_once() -> None:
    resolver = Resolver()
    assert resolver.answers() == []
    for _ in range(3):
        for host in ("127.0.0.1", "::1"):
            resolver.ask(Address(host, 1))
    found: list[Answer] = []
    end = time.monotonic() + 20
    while len(found) < 2:
        assert time.monotonic() < end
        assert resolver.busy
        found += resolver.answers()
    assert [each.hosts for each in found] == [("127.0.0.1",), ("::1",)]
    assert not resolver.busy
    assert resolver.answers() == []
