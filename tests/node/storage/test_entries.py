"""The store's small entries, whatever bytes the database gives for them."""

from __future__ import annotations

import struct
from pathlib import Path

import pytest
from damage import damaged
from hypothesis import given
from hypothesis import strategies as st

from node.storage.blockfile import BodyLocation
from node.storage.entries import (
    BLOCK,
    FORMAT,
    ISSUE,
    META_FORMAT,
    META_ISSUE,
    META_TIP,
    TIP,
    read_block,
    read_meta,
)
from node.storage.errors import StoreDamaged

PATH = Path("/store")
ENTRY = BLOCK.pack(1, 2**40, 3, bytes(range(32)))


@given(damaged(ENTRY) | st.none())
def test_any_entry_of_a_block_is_read_or_is_damage(value: bytes | None) -> None:
    try:
        location, identity = read_block(value, PATH, 7)
    except StoreDamaged:
        assert value is None or len(value) != BLOCK.size
        return
    assert BLOCK.pack(*location, identity) == value
    assert isinstance(location, BodyLocation)


@pytest.mark.parametrize(
    ("key", "layout"), [(META_FORMAT, FORMAT), (META_ISSUE, ISSUE), (META_TIP, TIP)]
)
def test_any_entry_about_the_store_is_read_or_is_damage(key: bytes, layout: struct.Struct) -> None:
    @given(damaged(bytes(layout.size)) | st.none())
    def read(value: bytes | None) -> None:
        try:
            fields = read_meta({} if value is None else {key: value}, PATH, key, layout)
        except StoreDamaged:
            assert value is None or len(value) != layout.size
            return
        assert layout.pack(*fields) == value

    read()
