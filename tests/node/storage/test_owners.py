"""The index by owner holds what the outputs say, whatever happened in between."""

from __future__ import annotations

import random
import tempfile
from pathlib import Path
from typing import NamedTuple

import pytest
from bodies import block_of
from chains import SmallChain
from hypothesis import given, settings
from hypothesis import strategies as st
from rocksdict import WriteBatch
from stores import ALLOCATIONS, GENESIS, ID, NOWHERE, SALT, by_owner, create, indexed, opened

from node.genesis import allocation_outpoint
from node.storage.chain import ChainStore

# three of them alike in what the index keeps of an owner, two of those up to the last byte
OWNERS = [bytes((9,)) * 31 + b"a", bytes((9,)) * 31 + b"b", bytes((9,)) * 8 + bytes(24)]
OWNERS += [bytes((9,)) * 7 + bytes(25), b"\xff" * 32]


class Payment(NamedTuple):
    """Which unspent outputs it spends (numbers, modulo how many there are), and whom it pays."""

    spends: list[int]
    pays: list[int]


class Step(NamedTuple):
    """An opening, and the block that is committed after it."""

    index: bool | None
    payments: list[Payment]


payments = st.builds(
    Payment,
    spends=st.lists(st.integers(0, 2**16) | st.just(-1), min_size=1, max_size=3),
    pays=st.lists(st.integers(0, len(OWNERS) - 1), min_size=1, max_size=4),
)
steps = st.builds(
    Step, index=st.sampled_from([True, True, None, False]), payments=st.lists(payments, max_size=6)
)


def keys_of_index(store: ChainStore) -> list[bytes]:
    return list(store._families["addresses"].keys())


def pages(store: ChainStore, owner: bytes, size: int) -> list[tuple[bytes, int]]:
    found: list[tuple[bytes, int]] = []
    while page := store.unspent_of(owner, found[-1][0] if found else b"", size):
        assert len(page) <= size
        found += page
    return found


def paid(payment: Payment, unspent: dict[bytes, bytes]) -> bytes:
    """A transaction in the right layout; what it spends leaves ``unspent``."""
    spent: list[tuple[bytes, bytes]] = []
    for number in payment.spends:
        if unspent:
            outpoint = list(unspent)[number % len(unspent)]
            spent.append((outpoint, unspent.pop(outpoint)[8:]))
    keys = sorted({owner for _, owner in spent}, reverse=True)
    return (
        bytes((1, len(spent), len(payment.pays), len(keys)))
        + b"".join(outpoint + bytes((keys.index(owner),)) for outpoint, owner in spent)
        + b"".join(bytes((n, 1)) + bytes(6) + OWNERS[n] for n in payment.pays)
        + b"".join(key + bytes(64) for key in keys)
    )


@settings(max_examples=15, deadline=None)
@given(st.lists(steps, min_size=1, max_size=5), st.integers(1, 7))
def test_any_commits_and_openings(history: list[Step], size: int) -> None:
    """Owners that the index cannot tell apart, outputs spent where they were made, switching."""
    with tempfile.TemporaryDirectory() as directory:
        path = create(Path(directory))
        on = True
        unspent = {
            allocation_outpoint(n, SALT): ALLOCATIONS[40 * n : 40 * n + 40] for n in range(600)
        }
        for step in history:
            store = ChainStore(path, ID, cache_mb=4, write_buffer_mb=4, address_index=step.index)
            on = on if step.index is None else step.index
            raws: list[bytes] = []
            for payment in step.payments:
                raws.append(paid(payment, unspent))
                block = block_of(
                    raws, SALT, height=store.tip.height + 1, previous=store.tip.block_id
                )
                unspent |= {
                    block.txids[-1] + bytes((n,)): bytes((to, 1)) + bytes(6) + OWNERS[to]
                    for n, to in enumerate(payment.pays)
                }
            block = block_of(raws, SALT, height=store.tip.height + 1, previous=store.tip.block_id)
            store.commit(block, NOWHERE, b"")
            expected = by_owner(store)
            assert {k: v for k, v in store.iterate_outputs() if k in unspent} == unspent
            assert len(keys_of_index(store)) == (sum(map(len, expected.values())) if on else 0)
            for owner in {*expected, *OWNERS}:
                all_ = sorted(expected.get(owner, {}).items()) if on else []
                assert pages(store, owner, size if owner in OWNERS else 250) == all_
            store.close()


@pytest.mark.parametrize("wanted", [True, False])
@pytest.mark.parametrize("how", ["earlier keys", "died while building"])
def test_an_index_that_is_not_complete_counts_as_none(
    tmp_path: Path, how: str, wanted: bool
) -> None:
    path = create(tmp_path)
    store = ChainStore(path, ID, cache_mb=4, write_buffer_mb=4, address_index=True)
    expected = by_owner(store)
    batch = WriteBatch(raw_mode=True)
    if how == "earlier keys":  # the whole owner, and the value
        for owner, outputs in expected.items():
            for outpoint in outputs:
                batch.put(owner + outpoint, bytes(8), store._handles["addresses"])
        batch.put(b"addresses", b"", store._handles["default"])
    else:
        for key in keys_of_index(store)[::2]:
            batch.delete(key, store._handles["addresses"])
        batch.put(bytes(41), b"", store._handles["addresses"])
        batch.delete(b"addresses", store._handles["default"])
    store._db.write(batch)
    del batch
    store.close()
    store = opened(path)
    assert not store.address_index
    assert not any(indexed(store).values())
    assert keys_of_index(store)
    store.close()
    store = ChainStore(path, ID, cache_mb=4, write_buffer_mb=4, address_index=wanted)
    assert indexed(store) == (expected if wanted else {owner: {} for owner in expected})
    assert len(keys_of_index(store)) == (600 if wanted else 0)
    store.close()


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
