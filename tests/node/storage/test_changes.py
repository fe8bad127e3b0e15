"""Cutting a block into the store's keys and values: arrays against plain loops."""

from __future__ import annotations

import random
import struct

from bodies import block_of, payment
from hypothesis import given
from hypothesis import strategies as st

from node.block import Block
from node.storage.changes import store_changes

SALT = bytes(range(16))
PREVIOUS = bytes(32)


def plain(block: Block) -> tuple[set[bytes], dict[bytes, bytes], dict[bytes, bytes]]:
    """Outpoints spent, outputs created, positions: as a reader of the layout would write it."""
    spent: set[bytes] = set()
    created: dict[bytes, bytes] = {}
    positions: dict[bytes, bytes] = {}
    for position, (raw, txid) in enumerate(zip(block.transactions, block.txids, strict=True)):
        at = 4
        for _ in range(raw[1]):
            outpoint = raw[at : at + 33]
            if created.pop(outpoint, None) is None:
                spent.add(outpoint)
            at += 34
        for index in range(raw[2]):
            created[txid + bytes((index,))] = raw[at : at + 40]
            at += 40
        positions[txid] = struct.pack("<IIB", block.header.height, position, raw[2])
    return spent, created, positions


def plain_by_owner(block: Block) -> tuple[list[bytes], list[bytes]]:
    """What comes into the index by owner, and what leaves it: outputs spent at once are in both."""
    owned: list[bytes] = []
    freed: list[bytes] = []
    for raw, txid in zip(block.transactions, block.txids, strict=True):
        outputs_at = 4 + 34 * raw[1]
        witnesses_at = outputs_at + 40 * raw[2]
        for at in range(4, outputs_at, 34):
            owner_at = witnesses_at + 96 * raw[at + 33]
            freed.append(raw[owner_at : owner_at + 8] + raw[at : at + 33])
        for index, at in enumerate(range(outputs_at, witnesses_at, 40)):
            owned.append(raw[at + 8 : at + 16] + txid + bytes((index,)))
    return owned, freed


def check(block: Block) -> None:
    changes = store_changes(block, owners=True)
    assert store_changes(block, owners=False) == changes._replace(owned=[], freed=[])
    assert [sorted(changes.owned), sorted(changes.freed)] == [*map(sorted, plain_by_owner(block))]
    spent, created, positions = plain(block)
    assert (len(changes.spent), set(changes.spent)) == (len(spent), spent)
    assert dict(zip(changes.created, changes.values, strict=True)) == created
    assert dict(zip(changes.txids, changes.positions, strict=True)) == positions
    assert len(changes.created) == len(created)
    for keys in (changes.spent, changes.created, changes.txids, changes.owned, changes.freed):
        assert [key[:8] for key in keys] == sorted(key[:8] for key in keys)


@given(st.integers(0, 2**32))
def test_any_shapes_and_chains(seed: int) -> None:
    random_ = random.Random(seed)
    unspent = [random_.randbytes(33) for _ in range(60)]
    transactions: list[bytes] = []
    block = block_of([], SALT, height=9, previous=PREVIOUS)
    for _ in range(random_.randint(1, 12)):
        n_inputs = min(len(unspent), random_.choice((1, 1, 2, 3, 40)))
        # the last ones, often: made in this very block
        inputs = [
            unspent.pop(random_.randrange(-min(3, len(unspent)), len(unspent)))
            for _ in range(n_inputs)
        ]
        transactions.append(payment(inputs, random_.choice((1, 2, 2, 3, 255)), random_))
        block = block_of(transactions, SALT, height=9, previous=PREVIOUS)
        unspent += [block.txids[-1] + bytes((i,)) for i in range(transactions[-1][2])]
    check(block)


def test_the_largest_shapes() -> None:
    random_ = random.Random(1)
    check(
        block_of(
            [
                payment([random_.randbytes(33) for _ in range(count)], count, random_)
                for count in (255, 1, 255)
            ],
            SALT,
            height=2**32 - 1,
            previous=PREVIOUS,
        )
    )


def test_equal_beginnings_are_no_parents() -> None:
    """A parent below and an id in the block that agree in their first eight bytes."""
    random_ = random.Random(2)
    raws = [payment([random_.randbytes(33)], 2, random_) for _ in range(3)]
    block = block_of(raws, SALT, height=1, previous=PREVIOUS)
    block.txids[1] = raws[2][4:12] + bytes(24)
    check(block)
