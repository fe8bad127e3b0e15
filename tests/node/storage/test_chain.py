"""The chain store: a block is in it as a whole or not at all."""

from __future__ import annotations

import pickle
import random
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from bodies import apart, block_of, payment, run_apart
from chains import SmallChain, make_genesis
from stores import ALLOCATIONS, GENESIS, ID, NOWHERE, SALT, create, digest, opened

from node.block import Block, reward_txid
from node.genesis import (
    allocation_outpoint,
    genesis_id,
    salt_of,
    supply_at,
)
from node.ledger import replay
from node.storage.blockfile import BlockFiles, BodyLocation
from node.storage.chain import ChainStore
from node.storage.errors import (
    StoreDamaged,
    StoreFailed,
)


@pytest.fixture
def store(tmp_path: Path) -> Iterator[ChainStore]:
    store = opened(create(tmp_path))
    yield store
    store.close()


def test_queries(store: ChainStore) -> None:
    there, gone = allocation_outpoint(0, SALT), bytes(33)
    assert store.get_outputs([]) == []
    assert store.get_outputs([gone, there, there, gone]) == [
        *(None, ALLOCATIONS[:40], ALLOCATIONS[:40], None)
    ]
    assert store.find_transaction(bytes(32)) is None
    for height in (-1, 0, 1, 2**70):
        with pytest.raises(KeyError):
            store.block_location(height)
        assert store.certificate(height) is None


def test_commits_equal_the_reference(tmp_path: Path) -> None:
    """Random valid blocks, chained payments and rewards included, over several openings."""
    chain = SmallChain(GENESIS, ALLOCATIONS)
    path = create(tmp_path)
    for seed in range(4):
        store = opened(path)
        for number in range(5):
            block = chain.random_block(random.Random(seed * 5 + number), 12)
            location = BodyLocation(seed, 64 + number, 1000 + number)
            changes = chain.ledger.apply(block)
            certificate = random.Random(number).randbytes(70 * number)
            store.commit(block, location, certificate)
            ledger = chain.ledger
            assert store.tip == (ledger.height, ledger.block_id, ledger.time_ms, location)
            assert store.block_location(ledger.height) == location
            assert store.block_id(ledger.height) == ledger.block_id
            assert store.certificate(ledger.height) == certificate
            for txid, position in changes.positions.items():
                assert store.find_transaction(txid) == position
            assert store.get_outputs(list(changes.spent)) == [None] * len(changes.spent)
            assert store.get_outputs(list(changes.created)) == list(changes.created.values())
            assert dict(store.iterate_outputs()) == ledger.outputs
            assert store.supply() == supply_at(GENESIS, ledger.height)
        store.close()
    assert chain.ledger.height == 20
    store = opened(path)
    assert [len(store.certificate(height) or b"") for height in range(21)] == [
        *(0, *[70 * number for number in range(5)] * 4)
    ]
    assert store.certificate(21) is None
    store.close()


def test_equal_beginnings_of_ids_do_not_confuse(store: ChainStore) -> None:
    """A parent below and an id in the block that agree in their first eight bytes."""
    parent = allocation_outpoint(7, SALT)
    raw = payment([parent], 1, random.Random(1))
    block = block_of([raw], SALT, height=1, previous=ID)
    block.txids[0] = parent[:8] + bytes(24)
    store.commit(block, NOWHERE, b"")
    assert store.get_outputs([parent, block.txids[0] + b"\0"]) == [None, raw[38:78]]


def test_a_block_that_does_not_follow_is_refused(store: ChainStore) -> None:
    before = store.output_set_digest()
    for height, previous in ((2, ID), (0, ID), (1, bytes(32))):
        with pytest.raises(ValueError, match="does not follow"):
            store.commit(block_of([], SALT, height=height, previous=previous), NOWHERE, b"")
    assert (store.tip.height, store.output_set_digest()) == (0, before)


def test_nothing_is_rewarded_with_nothing(tmp_path: Path) -> None:
    genesis, data = make_genesis(4, reward=0)
    identity = genesis_id(genesis)
    store = ChainStore(create(tmp_path, genesis, data), identity)
    block = block_of([], salt_of(identity), height=1, previous=identity)
    store.commit(block, NOWHERE, b"")
    assert len(list(store.iterate_outputs())) == 4
    assert store.find_transaction(reward_txid(1, identity, salt_of(identity))) is None
    store.close()


def test_deletions_do_not_come_back(tmp_path: Path) -> None:
    """All allotted outputs are spent, with an opening after each block."""
    path = create(tmp_path)
    outpoints = [allocation_outpoint(number, SALT) for number in range(600)]
    random_ = random.Random(5)
    previous = ID
    for height in range(1, 4):
        store = opened(path)
        spent = outpoints[200 * (height - 1) : 200 * height]
        block = block_of(
            [payment([outpoint], 1, random_) for outpoint in spent],
            SALT,
            height=height,
            previous=previous,
        )
        store.commit(block, NOWHERE, b"")
        previous = store.tip.block_id
        assert store.get_outputs(spent) == [None] * 200
        store.close()
    store = opened(path)
    assert store.get_outputs(outpoints) == [None] * 600
    assert len(list(store.iterate_outputs())) == 600 + 3
    store.close()


# kill -9

COMMIT = """
import pickle, sys
from pathlib import Path
from node.storage.blockfile import BlockFiles
from node.storage.chain import ChainStore
directory, identity = Path(sys.argv[1]), bytes.fromhex(sys.argv[2])
salt = identity[:16]
chain = pickle.loads((directory / "chain").read_bytes())
store = ChainStore(directory / "store", identity, cache_mb=4, write_buffer_mb=4)
files = BlockFiles(directory / "blocks", identity, roll_bytes=100_000)
bodies = files.recover(store.tip.location, store.tip.height + 1)
for block, variants in chain[store.tip.height:]:
    for body in variants:
        value = body.id(salt)
        if value not in bodies:
            bodies[value] = files.append(body.header.encode(), body.transactions)
            files.sync()
            print("durable", value.hex(), flush=True)
    store.commit(block, bodies[block.id(salt)], block.id(salt) * 3)
    bodies = {}
    print("tip", store.tip.height, flush=True)
"""


def test_kill_9_loses_nothing_that_was_durable(tmp_path: Path) -> None:
    """Up to three bodies a height, of which any is committed; dead at any moment."""
    random_ = random.Random()  # moments of death need no repetition
    chain = SmallChain(GENESIS, ALLOCATIONS)
    blocks: list[Block] = []
    variants: list[list[Block]] = []
    digests = [digest(chain.ledger.outputs)]
    for seed in range(150):
        block = chain.random_block(random.Random(seed), 3)
        others = [chain.block([], 0, proposer=bytes([n]) * 32) for n in range(seed % 3)]
        blocks.append(block)
        variants.append(random.Random(seed).sample([block, *others], 1 + len(others)))
        chain.ledger.apply(block)
        digests.append(digest(chain.ledger.outputs))
    (tmp_path / "chain").write_bytes(pickle.dumps(list(zip(blocks, variants, strict=True))))
    path = create(tmp_path)
    deaths = tip = 0
    while tip < len(blocks):
        lines: list[str] = []
        before = tip
        with apart(COMMIT, tmp_path, ID.hex()) as process:
            assert process.stdout is not None
            if deaths < 12:
                lines = [process.stdout.readline() for _ in range(random_.randint(1, 40))]
                time.sleep(random_.random() / 500)
                process.kill()
                deaths += 1
            told = [line.split() for line in [*lines, *process.stdout] if line.endswith("\n")]
            complaint = process.stderr.read() if process.stderr else ""
        assert process.returncode in (0, -9), complaint
        store = opened(path)
        files = BlockFiles(tmp_path / "blocks", ID)
        tip = store.tip.height
        committed = max([before, *(int(what) for kind, what in told if kind == "tip")])
        assert committed <= tip <= committed + 1  # the one more was durable, and not told yet
        assert store.output_set_digest() == digests[tip]
        bodies = files.recover(store.tip.location, tip + 1)
        if tip < len(blocks):
            possible = {block.id(SALT): block for block in variants[tip]}
            durable = {bytes.fromhex(what) for kind, what in told if kind == "durable"}
            assert durable & possible.keys() <= bodies.keys() <= possible.keys()
            assert {
                value: files.read(at) for value, at in bodies.items()
            }.items() <= possible.items()
        for height in range(max(1, before), tip + 1):
            assert files.read(store.block_location(height)) == blocks[height - 1]
            assert store.certificate(height) == blocks[height - 1].id(SALT) * 3
        files.close()
        store.close()
    assert deaths == 12
    store = opened(path)
    locations = [store.block_location(height) for height in range(1, tip + 1)]
    store.close()
    files = BlockFiles(tmp_path / "blocks", ID)
    written = [header for _, header in files.scan()]
    assert len(written) == len(set(written)) > len(blocks)  # each once, whatever happened
    replayed = replay(GENESIS, ALLOCATIONS, map(files.read, locations))
    assert digest(replayed) == digests[-1]
    files.close()


LOG = """
import pickle, sys
from pathlib import Path
from node.storage.blockfile import BodyLocation
from node.storage.chain import ChainStore
directory, identity = Path(sys.argv[1]), bytes.fromhex(sys.argv[2])
store = ChainStore(directory / "store", identity, cache_mb=4, write_buffer_mb=4)
for block in pickle.loads((directory / "chain").read_bytes()):
    store.commit(block, BodyLocation(0, 64, 152), b"")
import os
os._exit(0)
"""


@pytest.mark.parametrize("how", ["whole", "torn", "flipped"])
def test_the_write_ahead_log(tmp_path: Path, how: str) -> None:
    """A torn end costs what was not acknowledged; damage must not cost committed blocks."""
    blocks: list[Block] = []
    previous = ID
    for height in range(1, 6):
        blocks.append(block_of([], SALT, height=height, previous=previous))
        previous = blocks[-1].id(SALT)
    (tmp_path / "chain").write_bytes(pickle.dumps(blocks))
    path = create(tmp_path)
    run_apart(LOG, tmp_path, ID.hex())
    log = max(path.glob("*.log"), key=lambda file: file.stat().st_size)
    data = log.read_bytes()
    if how == "torn":
        log.write_bytes(data[:-5])
    elif how == "flipped":
        log.write_bytes(data[:400] + bytes((data[400] ^ 1,)) + data[401:])
        with pytest.raises(StoreDamaged, match=r"checksum mismatch.*; restore"):
            opened(path)
        return
    store = opened(path)
    assert store.tip.height == (4 if how == "torn" else 5)
    assert store.supply() == supply_at(GENESIS, store.tip.height)
    store.close()


def test_a_closed_store_says_so(store: ChainStore) -> None:
    store.close()
    store.close()
    with pytest.raises(StoreFailed, match="is closed"):
        store.get_outputs([bytes(33)])
    with pytest.raises(StoreFailed, match="is closed"):
        store.find_transaction(bytes(32))
    with pytest.raises(StoreFailed, match="is closed"):
        store.commit(block_of([], SALT, height=1, previous=ID), NOWHERE, b"")
