"""The index by owner holds what the outputs say, whatever happened in between."""

from __future__ import annotations

import random
from pathlib import Path

import pytest
from chains import SmallChain
from stores import ALLOCATIONS, GENESIS, ID, NOWHERE, by_owner, create, indexed, opened

from node.storage.chain import ChainStore


@pytest.mark.parametrize("built_at", [0, 7])
def test_outputs_by_owner_are_the_outputs(tmp_path: Path, built_at: int) -> None:
    """Random blocks, with chained payments; the index there from the start, or built later."""
    chain = SmallChain(GENESIS, ALLOCATIONS)
    path = create(tmp_path)
    for number in range(12):
        on = number >= built_at
        store = ChainStore(path, ID, cache_mb=4, write_buffer_mb=4, address_index=on)
        block = chain.random_block(random.Random(number), 12)
        chain.ledger.apply(block)
        store.commit(block, NOWHERE, b"")
        assert store.address_index == on
        assert indexed(store) == {key: all_ if on else {} for key, all_ in by_owner(store).items()}
        store.close()
    store = opened(path)  # who does not care leaves it as it is
    assert store.address_index
    store.close()
    store = ChainStore(path, ID, cache_mb=4, write_buffer_mb=4, address_index=False)
    assert not any(indexed(store).values())
    store.close()


def test_an_owners_outputs_come_page_by_page(tmp_path: Path) -> None:
    store = ChainStore(create(tmp_path), ID, cache_mb=4, write_buffer_mb=4, address_index=True)
    owner, expected = max(by_owner(store).items(), key=lambda each: len(each[1]))
    pages: list[tuple[bytes, int]] = []
    while page := store.unspent_of(owner, pages[-1][0] if pages else b"", 7):
        pages += page
    assert dict(pages) == expected
    assert len(pages) == len(expected)
    assert store.unspent_of(bytes(32), b"", 7) == store.unspent_of(b"\xff" * 32, b"", 7) == []
    store.close()
