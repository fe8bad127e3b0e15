"""The book of addresses: who gets in, who goes, whom to dial."""

from __future__ import annotations

from random import Random

import orjson
import pytest
from damage import json_values
from hypothesis import given, settings
from hypothesis import strategies as st

from node.network.address import Address
from node.network.book import (
    FIRST_PAUSE_MS,
    LONGEST_PAUSE_MS,
    MAX_ADDRESSES,
    MAX_FAILURES,
    MAX_PER_TELLER,
    AddressBook,
)

NOW = 1_800_000_000_000
A = Address("8.8.8.8", 1)
B = Address("8.8.4.4", 1)


@pytest.fixture
def rng() -> Random:
    return Random(1)


def public(number: int) -> Address:
    return Address(f"{20 + (number >> 16)}.{number >> 8 & 255}.{number & 255}.1", 4_000)


def test_an_address_is_picked_until_it_fails_and_again_later(rng: Random) -> None:
    book = AddressBook()
    assert book.pick(NOW, rng, ()) is None
    assert book.add(A, "9.9.9.9", rng)
    assert not book.add(A, "7.7.7.7", rng)
    assert book.pick(NOW, rng, ()) == A
    assert book.pick(NOW, rng, {A}) is None
    book.tried(A, False, NOW)
    assert book.pick(NOW + FIRST_PAUSE_MS - 1, rng, ()) is None
    assert book.pick(NOW + FIRST_PAUSE_MS, rng, ()) == A
    book.tried(A, False, NOW)
    assert book.pick(NOW + FIRST_PAUSE_MS, rng, ()) is None
    book.tried(A, True, NOW)
    assert book.pick(NOW, rng, ()) == A


def test_pauses_are_bounded_and_nobody_is_tried_for_ever(rng: Random) -> None:
    book = AddressBook()
    book.add(A, "9.9.9.9", rng)
    book.tried(B, True, NOW)
    for _ in range(MAX_FAILURES - 1):
        book.tried(A, False, NOW)
    assert book.pick(NOW + LONGEST_PAUSE_MS, rng, {B}) == A
    for _ in range(100):
        book.tried(A, False, NOW)
        book.tried(B, False, NOW)
    assert A not in book
    assert B in book  # it was there once
    assert book.pick(NOW + LONGEST_PAUSE_MS, rng, ()) == B


def test_only_those_who_accepted_are_passed_on(rng: Random) -> None:
    book = AddressBook()
    book.add(A, "9.9.9.9", rng)
    assert book.good(10, rng) == []
    book.tried(A, True, NOW)
    book.tried(B, True, NOW)
    assert sorted(book.good(10, rng)) == sorted([A, B])
    assert len(book.good(1, rng)) == 1


def test_one_teller_cannot_fill_the_book(rng: Random) -> None:
    book = AddressBook()
    taken = sum(book.add(public(each), f"9.9.{each % 200}.9", rng) for each in range(2_000))
    assert taken == len(book) == MAX_PER_TELLER
    assert book.add(A, "7.7.7.7", rng)


def test_the_book_is_bounded_and_keeps_whoever_was_reached(rng: Random) -> None:
    book = AddressBook()
    good = [public(1_000_000 + each) for each in range(50)]
    for each in good:
        book.tried(each, True, NOW)
    for each in range(5_000):
        book.add(public(each), f"{9 + each // 100}.9.9.9", rng)
    assert len(book) == MAX_ADDRESSES
    assert all(each in book for each in good)


def test_whoever_was_reached_gets_the_place_of_a_rumour(rng: Random) -> None:
    book = AddressBook()
    book.tried(A, True, NOW)
    for each in range(MAX_ADDRESSES):
        book.add(public(each), f"{9 + each // 100}.9.9.9", rng)
    book.tried(B, True, NOW)
    assert len(book) == MAX_ADDRESSES
    assert A in book
    assert B in book


def test_a_book_full_of_good_addresses_takes_no_rumours(rng: Random) -> None:
    book = AddressBook()
    for each in range(MAX_ADDRESSES + 10):
        book.tried(public(each), True, NOW)
    assert len(book) == MAX_ADDRESSES
    assert not book.add(A, "9.9.9.9", rng)


def test_what_is_kept(rng: Random) -> None:
    book = AddressBook()
    book.add(A, "9.9.9.9", rng)
    book.tried(B, True, NOW)
    again = AddressBook()
    assert again.load(orjson.loads(orjson.dumps(book.to_json()))) == 2
    assert again.good(10, rng) == [B]
    assert A in again


@pytest.mark.parametrize(
    "content",
    [
        None,
        {},
        [None, 1, {}, {"address": 5, "reached_ms": 0}, {"address": "x:1", "reached_ms": 0}],
        [{"address": "8.8.8.8", "reached_ms": 0}, {"address": "0.0.0.0:1", "reached_ms": 0}],
    ],
)
def test_a_file_of_nonsense_gives_an_empty_book(content: object) -> None:
    assert AddressBook().load(content) == 0


@settings(max_examples=50)
@given(
    seed=st.integers(),
    acts=st.lists(st.tuples(st.sampled_from("aAtTp"), st.integers(0, 40)), max_size=150),
)
def test_the_book_agrees_with_itself(seed: int, acts: list[tuple[str, int]]) -> None:
    rng = Random(seed)
    book = AddressBook()
    for act, number in acts:
        match act:
            case "a":
                book.add(public(number), "9.9.9.9", rng)
            case "A":
                book.add(public(number), f"{30 + number}.0.0.1", rng)
            case "t" | "T":
                book.tried(public(number), act == "T", NOW)
            case _:
                picked = book.pick(NOW, rng, {public(number)})
                assert picked is None or (picked in book and picked != public(number))
        assert sorted(book._order) == sorted(book) == sorted(book._place)
        assert all(book._order[place] == each for each, place in book._place.items())
        assert sum(book._told.values()) == len(book)


@settings(max_examples=200)
@given(
    st.lists(
        st.fixed_dictionaries(
            {
                "address": st.sampled_from([str(A), str(B), "[2a00::1]:5", "0.0.0.0:1"])
                | st.builds("{}:{}".format, st.ip_addresses(), st.integers(-1, 70_000))
                | json_values,
                "reached_ms": st.integers(-(2**70), 2**70) | json_values,
            },
            optional={"more": json_values},
        )
        | json_values,
        max_size=8,
    )
    | json_values
)
def test_any_content_of_the_file_gives_a_book(content: object) -> None:
    book = AddressBook()
    assert book.load(content) == len(book) <= MAX_ADDRESSES
    assert all(entry.reached_ms >= 0 for entry in book._entries.values())
    again = AddressBook()
    again.load(book.to_json())
    assert again.to_json() == book.to_json()
