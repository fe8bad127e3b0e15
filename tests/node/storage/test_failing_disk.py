"""Disks that are full, fail or hold damage: what is told, and what is kept."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from bodies import block_of, run_apart
from stores import ID, NOWHERE, SALT, create, opened

from node.genesis import (
    allocation_outpoint,
)
from node.storage.errors import (
    StoreDamaged,
)


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


CLOSE = """
import random, resource, sys
from pathlib import Path
from bodies import block_of, payment
from node.storage.blockfile import BodyLocation
from node.storage.chain import ChainStore
path, identity = Path(sys.argv[1]), bytes.fromhex(sys.argv[2])
store = ChainStore(path, identity, cache_mb=4, write_buffer_mb=4)
random_ = random.Random(9)
block = block_of([payment([random_.randbytes(33)], 2, random_) for _ in range(500)],
    identity[:16], height=store.tip.height + 1, previous=store.tip.block_id)
store.commit(block, BodyLocation(0, 64, 1), b"")
free = resource.getrlimit(resource.RLIMIT_FSIZE)
resource.setrlimit(resource.RLIMIT_FSIZE, (8_192, free[1]))
store.close()
resource.setrlimit(resource.RLIMIT_FSIZE, free)
store = ChainStore(path, identity, cache_mb=4, write_buffer_mb=4)
print(store.tip.height)
"""


def test_a_full_disk_does_not_keep_a_store_open(tmp_path: Path) -> None:
    assert run_apart(CLOSE, create(tmp_path), ID.hex()).split() == ["1"]
