"""Addresses: round trips, the published checksum constant, and every kind of mistake."""

from __future__ import annotations

import pytest
from bech32 import CHARSET, bech32_hrp_expand, bech32_polymod
from damage import damaged
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.strategies import DrawFn

from node.address import (
    BECH32M_CONSTANT,
    PREFIX_MAIN,
    AddressFormatError,
    decode_address,
    encode_address,
    prefix_of,
)

KEY = bytes(range(32))
ADDRESS = encode_address(KEY, PREFIX_MAIN)


@pytest.mark.parametrize(
    "valid", ["A1LQFN3A", "abcdef1l7aum6echk45nj3s0wdvt2fg8x9yrzpqzd3ryx", "?1v759aa"]
)
def test_the_constant_is_that_of_bip_350(valid: str) -> None:
    prefix, _, words = valid.lower().rpartition("1")
    data = [CHARSET.find(character) for character in words]
    assert bech32_polymod([*bech32_hrp_expand(prefix), *data]) == BECH32M_CONSTANT


@given(st.binary(min_size=32, max_size=32), st.sampled_from(["main", "test", "dev", "mine"]))
def test_round_trip(key: bytes, chain: str) -> None:
    prefix = prefix_of(chain)
    address = encode_address(key, prefix)
    assert address.startswith(prefix + "1")
    assert len(address) == len(prefix) + 59
    assert decode_address(address, prefix) == key
    assert decode_address(address.upper(), prefix) == key


def test_each_network_has_its_prefix() -> None:
    assert [prefix_of(chain) for chain in ("main", "test", "dev", "x")] == [
        *("time", "ttime", "dtime", "dtime")
    ]


@given(st.integers(5, len(ADDRESS) - 1), st.sampled_from(CHARSET))
def test_one_wrong_character_is_noticed(at: int, character: str) -> None:
    changed = ADDRESS[:at] + character + ADDRESS[at + 1 :]
    if changed != ADDRESS:
        with pytest.raises(AddressFormatError, match="checksum"):
            decode_address(changed, PREFIX_MAIN)


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("", "begin with time1"),
        ("time", "begin with time1"),
        (ADDRESS[:-1], "58"),
        (ADDRESS + "q", "59"),
        (ADDRESS[:10] + "b" + ADDRESS[11:], "'b'"),
        (ADDRESS[:10] + "é" + ADDRESS[11:], "'é'"),
        (ADDRESS[:6].upper() + ADDRESS[6:], "case"),
        (encode_address(KEY, "ttime"), "another network"),
    ],
)
def test_mistakes_are_explained(text: str, told: str) -> None:
    with pytest.raises(AddressFormatError, match=told):
        decode_address(text, PREFIX_MAIN)


def test_padding_bits_must_be_zero() -> None:
    data = [CHARSET.find(character) for character in ADDRESS[5:-6]]
    data[-1] |= 1
    state = bech32_polymod([*bech32_hrp_expand(PREFIX_MAIN), *data, *[0] * 6]) ^ BECH32M_CONSTANT
    data += [state >> 5 * (5 - i) & 31 for i in range(6)]
    with pytest.raises(AddressFormatError, match="not zero"):
        decode_address("time1" + "".join(CHARSET[word] for word in data), PREFIX_MAIN)


def test_a_key_of_another_length_is_refused() -> None:
    with pytest.raises(ValueError, match="32 bytes"):
        encode_address(KEY[:-1], PREFIX_MAIN)


@st.composite
def sealed(draw: DrawFn) -> str:
    """Text whose checksum is right, of any length, in either case."""
    words = draw(
        st.lists(st.integers(0, 31), max_size=60)
        | st.lists(st.integers(0, 31), min_size=52, max_size=52)
    )
    expanded = [*bech32_hrp_expand(PREFIX_MAIN), *words, *[0] * 6]
    state = bech32_polymod(expanded) ^ BECH32M_CONSTANT
    words = [*words, *(state >> 5 * (5 - at) & 31 for at in range(6))]
    text = f"{PREFIX_MAIN}1" + "".join(CHARSET[word] for word in words)
    return draw(st.sampled_from([text, text.upper(), text.title(), " " + text]))


@settings(max_examples=300)
@given(
    st.text(max_size=80)
    | st.text(max_size=60).map(lambda text: f"{PREFIX_MAIN}1{text}")
    | st.text(min_size=58, max_size=58).map(lambda text: f"{PREFIX_MAIN}1{text}")
    | damaged(ADDRESS.encode()).map(lambda data: data.decode("utf-8", "surrogateescape"))
    | sealed()
)
def test_any_text_is_an_address_or_is_refused(text: str) -> None:
    try:
        key = decode_address(text, PREFIX_MAIN)
    except AddressFormatError:
        return
    assert text in (encode_address(key, PREFIX_MAIN), encode_address(key, PREFIX_MAIN).upper())
