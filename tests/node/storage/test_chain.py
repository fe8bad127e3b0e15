"""The chain store: a block is in it as a whole or not at all, and every trouble is named."""

from __future__ import annotations

import os
import pickle
import random
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from bodies import apart, block_of, payment, run_apart
from chains import SmallChain, make_genesis
from rocksdict import Options, Rdict

from node.block import Block, reward_txid
from node.genesis import (
    Genesis,
    GenesisError,
    allocation_outpoint,
    allocation_txid,
    describe_allocations,
    encode_allocations,
    genesis_id,
    salt_of,
    supply_at,
)
from node.ledger import replay
from node.storage.blockfile import BlockFiles, BodyLocation
from node.storage.chain import ChainStore, output_set_digest
from node.storage.errors import (
    ForeignStore,
    NewerStore,
    OlderStore,
    StoreDamaged,
    StoreError,
    StoreExists,
    StoreFailed,
    StoreLocked,
    StoreMissing,
    StoreUnwritable,
)

GENESIS, ALLOCATIONS = make_genesis(600)
ID = genesis_id(GENESIS)
SALT = salt_of(ID)
NOWHERE = BodyLocation(0, 64, 152)


def create(directory: Path, genesis: Genesis = GENESIS, data: bytes = ALLOCATIONS) -> Path:
    (directory / "genesis.alloc").write_bytes(data)
    ChainStore.create(directory / "store", genesis, directory / "genesis.alloc")
    return directory / "store"


def opened(path: Path) -> ChainStore:
    return ChainStore(path, ID, cache_mb=4, write_buffer_mb=4)


@pytest.fixture
def store(tmp_path: Path) -> Iterator[ChainStore]:
    store = opened(create(tmp_path))
    yield store
    store.close()


def digest(outputs: dict[bytes, bytes]) -> bytes:
    return output_set_digest(sorted(outputs.items()))


@pytest.mark.parametrize("count", [0, 1, 255, 256, 600])
def test_a_new_store_is_the_genesis(tmp_path: Path, count: int) -> None:
    genesis, data = make_genesis(count)
    chain = SmallChain(genesis, data)
    store = ChainStore(create(tmp_path, genesis, data), chain.id)
    assert store.tip == (0, chain.id, genesis.time_ms, None)
    assert dict(store.iterate_outputs()) == chain.ledger.outputs
    assert store.output_set_digest() == digest(chain.ledger.outputs)
    assert store.supply() == supply_at(genesis, 0)
    for number in range(-(-count // 255) + 1):
        txid = allocation_txid(number, chain.salt)
        assert store.find_transaction(txid) == chain.ledger.find_transaction(txid)
    assert sorted(os.listdir(tmp_path)) == ["genesis.alloc", "store"]
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


# Creation


def test_creation_refuses_what_is_there(tmp_path: Path) -> None:
    path = create(tmp_path)
    with pytest.raises(StoreExists, match=f"{path} exists"):
        create(tmp_path)
    opened(path).close()


def test_creation_refuses_other_allocations(tmp_path: Path) -> None:
    with pytest.raises(GenesisError, match="not the one"):
        create(tmp_path, data=ALLOCATIONS[:-40])
    assert os.listdir(tmp_path) == ["genesis.alloc"]


CREATE = """
import pickle, sys
from pathlib import Path
from node.storage.chain import ChainStore
directory = Path(sys.argv[1])
genesis = pickle.loads((directory / "genesis").read_bytes())
print("begin", flush=True)
ChainStore.create(directory / "store", genesis, directory / "genesis.alloc")
print("end", flush=True)
"""


def test_an_interrupted_creation_begins_again(tmp_path: Path) -> None:
    count = 60_000
    data = encode_allocations(np.ones(count, np.uint64), np.zeros((count, 32), np.uint8))
    genesis = Genesis(
        **{
            field: getattr(GENESIS, field)
            for field in Genesis.__struct_fields__
            if field != "allocations"
        },
        allocations=describe_allocations(data),
    )
    (tmp_path / "genesis").write_bytes(pickle.dumps(genesis))
    (tmp_path / "genesis.alloc").write_bytes(data)
    building = tmp_path / "store.tmp"
    with apart(CREATE, tmp_path) as process:
        deadline = time.monotonic() + 30
        while not (building / "outputs.ingest").exists():  # in the middle of it
            assert time.monotonic() < deadline
            assert process.poll() is None
        process.kill()
    assert building.exists()
    with pytest.raises(StoreMissing, match="interrupted; run `timed init` again"):
        ChainStore(tmp_path / "store", genesis_id(genesis))
    assert run_apart(CREATE, tmp_path) == "begin\nend\n"
    assert not building.exists()
    store = ChainStore(tmp_path / "store", genesis_id(genesis))
    assert store.supply() == count
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


# Troubles


def test_a_missing_store(tmp_path: Path) -> None:
    with pytest.raises(StoreMissing, match=r"no store at .*; run `timed init`"):
        opened(tmp_path / "store")
    assert os.listdir(tmp_path) == []
    (tmp_path / "store").mkdir()
    with pytest.raises(StoreMissing, match="is empty"):
        opened(tmp_path / "store")
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(StoreError, match="Not a directory"):
        opened(tmp_path / "file")


def test_a_foreign_store(tmp_path: Path) -> None:
    path = create(tmp_path)
    with pytest.raises(ForeignStore, match=f"genesis {ID.hex()[:16]}, not to 0000.*; use another"):
        ChainStore(path, bytes(32))
    opened(path).close()  # and the lock is free again


def test_a_newer_store(tmp_path: Path) -> None:
    path = create(tmp_path)
    store = opened(path)
    store._db.put(b"format", (4).to_bytes(4, "little"))
    store.close()
    with pytest.raises(NewerStore, match="format 4, and this version knows 3; install"):
        opened(path)


@pytest.mark.parametrize("how", ["family", "number"])
def test_an_older_store(tmp_path: Path, how: str) -> None:
    path = create(tmp_path)
    if how == "family":  # as format 1 was
        families = {name: Options(raw_mode=True) for name in Rdict.list_cf(str(path))}
        database = Rdict(str(path), Options(raw_mode=True), column_families=families)
        for name in ("certificates", "heights", "addresses"):
            database.drop_column_family(name)
        database.put(b"format", (1).to_bytes(4, "little"))
        database.close()
        del database
    else:
        store = opened(path)
        store._db.put(b"format", (1).to_bytes(4, "little"))
        store.close()
    told = f"{path} was made by an older version .*; make a new data directory with `timed init`"
    with pytest.raises(OlderStore, match=told):
        opened(path)


def test_a_family_of_a_newer_version(tmp_path: Path) -> None:
    path = create(tmp_path)
    store = opened(path)
    family = store._db.create_column_family("snapshots", Options(raw_mode=True))
    family.close()
    store.close()
    with pytest.raises(NewerStore, match="snapshots"):
        opened(path)


HOLD = """
import sys
from pathlib import Path
from node.storage.chain import ChainStore
store = ChainStore(Path(sys.argv[1]), bytes.fromhex(sys.argv[2]))
print("open", flush=True)
import signal
signal.pause()
"""


def test_a_store_in_use(tmp_path: Path) -> None:
    path = create(tmp_path)
    with apart(HOLD, path, ID.hex()) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "open\n"
        with pytest.raises(StoreLocked, match=f"{path} is in use by process {process.pid}; stop"):
            opened(path)
        process.kill()
    store = opened(path)
    with pytest.raises(StoreLocked, match="in use by this process"):
        opened(path)
    store.close()
    opened(path).close()


@pytest.mark.parametrize("pattern", ["CURRENT", "MANIFEST-*", "*.sst"])
@pytest.mark.parametrize("how", ["missing", "cut", "flipped"])
def test_damage(tmp_path: Path, pattern: str, how: str) -> None:
    """Found at opening or, at the latest, by a reader of all outputs, which `timed check` is."""
    path = create(tmp_path)
    victims = sorted(path.glob(pattern))
    assert victims
    for victim in victims:
        data = victim.read_bytes()
        if how == "missing":
            victim.unlink()
        elif how == "cut":
            victim.write_bytes(data[: len(data) // 2])
        else:
            victim.write_bytes(bytes(byte ^ 0x55 for byte in data))
    with pytest.raises(StoreDamaged, match=f"{path}.*; restore the data directory"):
        opened(path)


def test_a_damaged_table_is_noticed_by_its_readers(tmp_path: Path) -> None:
    path = create(tmp_path)
    victim = max(path.glob("*.sst"), key=lambda table: table.stat().st_size)  # the outputs
    data = bytearray(victim.read_bytes())
    data[100] ^= 1
    victim.write_bytes(data)
    store = opened(path)
    outpoints = [allocation_outpoint(number, SALT) for number in range(600)]
    for ask in (
        store.supply,
        store.output_set_digest,
        lambda: store.get_outputs(outpoints),
    ):
        with pytest.raises(StoreDamaged, match=r"(?i)checksum.*; restore the data directory"):
            ask()
    store.close()


@pytest.mark.parametrize("value", [None, b"?"])
def test_a_missing_block_entry(tmp_path: Path, value: bytes | None) -> None:
    path = create(tmp_path)
    store = opened(path)
    previous = ID
    for height in (1, 2):
        store.commit(block_of([], SALT, height=height, previous=previous), NOWHERE, b"")
        previous = store.tip.block_id
    for height in (1, 2):
        key = height.to_bytes(8, "big")
        for family in ("blocks", "certificates"):
            entries = store._db.get_column_family(family)
            entries.delete(key)
            if value is not None and family == "blocks":
                entries.put(key, value)
            entries.close()
        assert store.certificate(height) is None
        with pytest.raises(StoreDamaged, match=f"the entry of block {height} is missing or"):
            store.block_location(height)
    store.close()
    with pytest.raises(StoreDamaged, match="the entry of block 2 is missing or"):
        opened(path)


@pytest.mark.parametrize("key", [b"format", b"genesis", b"issue", b"tip"])
def test_missing_entries(tmp_path: Path, key: bytes) -> None:
    path = create(tmp_path)
    store = opened(path)
    store._db.put(key, b"?")
    store.close()
    with pytest.raises(StoreDamaged):
        opened(path)


def test_a_closed_store_says_so(store: ChainStore) -> None:
    store.close()
    store.close()
    with pytest.raises(StoreFailed, match="is closed"):
        store.get_outputs([bytes(33)])
    with pytest.raises(StoreFailed, match="is closed"):
        store.find_transaction(bytes(32))
    with pytest.raises(StoreFailed, match="is closed"):
        store.commit(block_of([], SALT, height=1, previous=ID), NOWHERE, b"")


UNWRITABLE = """
import sys
from pathlib import Path
from bodies import without_rights
from node.storage.chain import ChainStore
from node.storage.errors import StoreError
without_rights()
try:
    ChainStore(Path(sys.argv[1]), bytes.fromhex(sys.argv[2])).close()
except StoreError as error:
    print(type(error).__name__, error.message)
"""


@pytest.mark.parametrize(("name", "mode"), [(".", 0o000), (".", 0o500), ("LOCK", 0o000)])
def test_no_permission(tmp_path: Path, name: str, mode: int) -> None:
    path = create(tmp_path)
    (path / name).chmod(mode)
    told = run_apart(UNWRITABLE, path, ID.hex())
    (path / name).chmod(0o700)
    assert told.startswith(f"{StoreUnwritable.__name__} cannot open {path}")
    assert "Permission denied" in told
    assert told.endswith("give the node's user read and write access to it\n")


FILL = """
import random, sys
from pathlib import Path
from bodies import block_of, payment
from node.storage.blockfile import BodyLocation
from node.storage.chain import ChainStore
from node.storage.errors import StoreFailed, StoreFull
path, identity, limit = Path(sys.argv[1]), bytes.fromhex(sys.argv[2]), int(sys.argv[3])
store = ChainStore(path, identity, cache_mb=4, write_buffer_mb=4)
if limit:
    import resource
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
random_ = random.Random(9)
def commit():
    block = block_of([payment([random_.randbytes(33)], 2, random_) for _ in range(500)],
        identity[:16], height=store.tip.height + 1, previous=store.tip.block_id)
    store.commit(block, BodyLocation(0, 64, 1), b"")
try:
    for _ in range(1000):
        commit()
except StoreFull as error:
    print(error.message)
try:
    commit()
except StoreFailed as error:
    print(error.message)
print(store.tip.height, flush=True)
"""


def test_a_file_that_may_not_grow(tmp_path: Path) -> None:
    path = create(tmp_path)
    full, refused, height = run_apart(FILL, path, ID.hex(), 1_000_000).splitlines()
    assert full.startswith(f"cannot write {path} (IO error: ")
    assert "File too large" in full
    assert full.endswith("then start again")
    assert "an earlier write" in refused
    store = opened(path)
    assert int(height) <= store.tip.height <= int(height) + 1
    assert int(height) > 0
    previous = store.tip.block_id
    store.commit(block_of([], SALT, height=store.tip.height + 1, previous=previous), NOWHERE, b"")
    store.close()


UNSYNCED = """
import sys
from pathlib import Path
from bodies import block_of, with_a_failing_disk
from node.storage.blockfile import BodyLocation
from node.storage.chain import ChainStore
from node.storage.errors import StoreFailed
identity = bytes.fromhex(sys.argv[2])
store = ChainStore(Path(sys.argv[1]), identity, cache_mb=4, write_buffer_mb=4)
with_a_failing_disk()
for _ in range(2):
    try:
        block = block_of([], identity[:16], height=1, previous=identity)
        store.commit(block, BodyLocation(0, 64, 1), b"")
    except StoreFailed as error:
        print(error.message)
print(store.tip.height, flush=True)
import os
os._exit(0)
"""


def test_a_commit_is_synced(tmp_path: Path) -> None:
    """Where syncing fails, so does the commit: no height is told that is not durable."""
    path = create(tmp_path)
    failed, refused, height = run_apart(UNSYNCED, path, ID.hex()).splitlines()
    assert failed.startswith(f"cannot write {path} (IO error: ")
    assert "Input/output error" in failed
    assert "an earlier write" in refused
    assert height == "0"


IN_A_SMALL_DISK = r"""
set -e
mount -t tmpfs -o size=12m none "$1"
cp -r "$2/store" "$1/store"
"$3" -c "$4" "$1/store" "$5" 0
cp -r "$1/store" "$2/after"
"""


def test_a_full_disk(tmp_path: Path) -> None:
    """A real file system without room, in a mount namespace that ends with the test."""
    probe = ["unshare", "--mount", "--map-root-user", "sh", "-c", "mount -t tmpfs none /mnt"]
    try:
        possible = subprocess.run(probe, capture_output=True, check=False).returncode == 0
    except FileNotFoundError:
        possible = False
    if not possible:
        pytest.skip("no user namespaces here")
    create(tmp_path)
    (tmp_path / "disk").mkdir()
    arguments = [tmp_path / "disk", tmp_path, sys.executable, FILL, ID.hex()]
    command = ["unshare", "--mount", "--map-root-user", "sh", "-c", IN_A_SMALL_DISK, "sh"]
    tests = Path(__file__).parents[2]
    paths = [str(tests / "support"), str(tests.parent), *sys.path]
    done = subprocess.run(
        [*command, *map(str, arguments)],
        env=os.environ | {"PYTHONPATH": os.pathsep.join(paths)},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    full, refused, height = done.stdout.splitlines()
    assert full.startswith(f"cannot write {tmp_path / 'disk' / 'store'} (IO error: ")
    assert "No space left on device" in full
    assert full.endswith("then start again")
    assert "an earlier write" in refused
    store = opened(tmp_path / "after")  # on a disk with room
    assert int(height) <= store.tip.height <= int(height) + 1
    assert store.supply() > 0
    store.close()


CREATE_IN_VAIN = """
import pickle, resource, sys
from pathlib import Path
from node.storage.chain import ChainStore
from node.storage.errors import StoreFull
directory = Path(sys.argv[1])
genesis = pickle.loads((directory / "genesis").read_bytes())
resource.setrlimit(resource.RLIMIT_FSIZE, (9000, 9000))
try:
    ChainStore.create(directory / "store", genesis, directory / "genesis.alloc")
except StoreFull as error:
    print(error.message)
"""


def test_creation_without_room(tmp_path: Path) -> None:
    (tmp_path / "genesis").write_bytes(pickle.dumps(GENESIS))
    (tmp_path / "genesis.alloc").write_bytes(ALLOCATIONS)
    told = run_apart(CREATE_IN_VAIN, tmp_path)
    assert told.startswith(f"cannot create {tmp_path / 'store'} (")
    assert "File too large" in told
    with pytest.raises(StoreMissing, match="interrupted"):
        opened(tmp_path / "store")
    opened(create(tmp_path)).close()


# Heights by id and outputs by owner


def by_owner(store: ChainStore) -> dict[bytes, dict[bytes, int]]:
    """What the index by owner must hold, from the outputs themselves."""
    found: dict[bytes, dict[bytes, int]] = {}
    for outpoint, output in store.iterate_outputs():
        found.setdefault(output[8:], {})[outpoint] = int.from_bytes(output[:8], "little")
    return found


def indexed(store: ChainStore) -> dict[bytes, dict[bytes, int]]:
    """What the index by owner does hold."""
    return {owner: dict(store.unspent_of(owner, b"", 10_000)) for owner in by_owner(store)}


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


def test_a_store_of_format_2_gets_what_it_lacks(tmp_path: Path) -> None:
    chain = SmallChain(GENESIS, ALLOCATIONS)
    path = create(tmp_path)
    store = opened(path)
    ids = []
    for number in range(3):
        block = chain.random_block(random.Random(number), 3)
        chain.ledger.apply(block)
        store.commit(block, NOWHERE, b"")
        ids.append(store.tip.block_id)
    store._db.put(b"format", (2).to_bytes(4, "little"))
    store.close()
    families = {name: Options(raw_mode=True) for name in Rdict.list_cf(str(path))}
    database = Rdict(str(path), Options(raw_mode=True), column_families=families)
    for name in ("heights", "addresses"):
        database.drop_column_family(name)
    database.close()
    del database
    for _ in range(2):
        store = ChainStore(path, ID, cache_mb=4, write_buffer_mb=4, address_index=True)
        assert [store.height_of(each) for each in ids] == [1, 2, 3]
        assert store.height_of(ID) is None
        assert indexed(store) == by_owner(store)
        assert store.issued == supply_at(GENESIS, 3)
        store.close()
