"""Addresses as text, and what an address says about who may be behind it."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from node.network.address import (
    Address,
    AddressError,
    group_of,
    is_loopback,
    is_numeric,
    parse_address,
    plain_ip,
    site_of,
    worth_dialling,
)


@pytest.mark.parametrize(
    ("text", "host", "port"),
    [
        ("127.0.0.1:0", "127.0.0.1", 0),
        ("[::1]:65535", "::1", 65_535),
        ("[2001:0db8:0:0::1]:80", "2001:db8::1", 80),
        ("[::ffff:1.2.3.4]:80", "1.2.3.4", 80),
        ("node-2.example.org:7", "node-2.example.org", 7),
        ("localhost:7", "localhost", 7),
    ],
)
def test_addresses(text: str, host: str, port: int) -> None:
    address = parse_address(text)
    assert address == Address(host, port)
    assert parse_address(str(address)) == address


@pytest.mark.parametrize(
    "text",
    [
        *("", ":", "host", "host:", ":1", "host:65536", "host:-1", "host:1x", "host: 1"),
        *("::1:80", "[::1]", "[::1:80", "host:٣", "ho st:1", "host:000001", "a..b:1", "é:1"),
        "h" * 99 + ":1",
    ],
)
def test_no_addresses(text: str) -> None:
    with pytest.raises(AddressError):
        parse_address(text)


@given(st.text(max_size=120))
def test_any_text_is_an_address_or_an_address_error(text: str) -> None:
    try:
        address = parse_address(text)
    except AddressError:
        return
    assert parse_address(str(address)) == address


def test_what_an_ip_is() -> None:
    assert is_numeric("1.2.3.4")
    assert not is_numeric("a.b")
    assert is_loopback("127.9.9.9")
    assert is_loopback("::1")
    assert not is_loopback("10.0.0.1")
    assert not is_loopback("localhost")
    assert plain_ip("::ffff:10.0.0.1") == "10.0.0.1"
    assert plain_ip("fe80::1%eth0") == "fe80::1"


def test_sites_and_groups() -> None:
    assert site_of("1.2.3.4") == "1.2.3.4"
    assert site_of("2001:db8::1") == site_of("2001:db8::ffff:1") == "2001:db8::/64"
    assert site_of("2001:db8:0:1::1") != site_of("2001:db8::1")
    assert site_of("::1") == "::1"
    assert group_of("1.2.3.4") == group_of("1.2.200.4") != group_of("1.3.3.4")
    assert group_of("2001:db8::1") == group_of("2001:db8:ffff::1") != group_of("2001:db9::1")


@pytest.mark.parametrize(
    ("host", "heard_from", "worth"),
    [
        ("8.8.8.8", "9.9.9.9", True),
        ("10.0.0.1", "9.9.9.9", False),
        ("10.0.0.1", "192.168.0.1", True),
        ("127.0.0.1", "9.9.9.9", False),
        ("127.0.0.1", "10.0.0.1", False),
        ("127.0.0.1", "127.0.0.2", True),
        ("0.0.0.0", "127.0.0.1", False),
        ("224.0.0.1", "127.0.0.1", False),
        ("255.255.255.255", "127.0.0.1", False),
        ("169.254.0.1", "127.0.0.1", False),
        ("a.name", "127.0.0.1", False),
        ("2600::1", "9.9.9.9", True),
    ],
)
def test_inside_addresses_are_believed_from_inside_only(
    host: str, heard_from: str, worth: bool
) -> None:
    assert worth_dialling(Address(host, 1), heard_from) is worth
    assert not worth_dialling(Address(host, 0), heard_from)
