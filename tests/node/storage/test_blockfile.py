"""Block files: what was synced can be read, tails are cut, and damage is named."""

from __future__ import annotations

import random
from pathlib import Path

import pytest
from bodies import block_of, payment, run_apart

from node.block import Block
from node.storage.blockfile import (
    FILE_HEAD_BYTES,
    RECORD_HEAD_BYTES,
    RECORD_MAGIC,
    ROLL_BYTES,
    BlockFiles,
    BodyLocation,
)
from node.storage.errors import (
    ForeignStore,
    NewerStore,
    StoreDamaged,
    StoreUnwritable,
)

GENESIS_ID = bytes(range(32))
SALT = GENESIS_ID[:16]


def make_blocks(count: int, *, transactions: int = 3) -> list[Block]:
    random_ = random.Random(count)
    return [
        block_of(
            [
                payment([random_.randbytes(33)] * random_.randint(1, 3), 2, random_)
                for _ in range(transactions)
            ],
            SALT,
            height=height,
            previous=bytes(32),
        )
        for height in range(1, count + 1)
    ]


def append(files: BlockFiles, blocks: list[Block]) -> list[BodyLocation]:
    locations = [files.append(block.header.encode(), block.transactions) for block in blocks]
    files.sync()
    return locations


def located(files: BlockFiles, end: BodyLocation | None = None) -> list[BodyLocation]:
    return [location for location, _ in files.scan(end)]


def flip(path: Path, offset: int) -> None:
    data = bytearray(path.read_bytes())
    data[offset] ^= 0x10
    path.write_bytes(data)


@pytest.mark.parametrize("roll_bytes", [ROLL_BYTES, 3_000, 1])
def test_round_trip_across_files(tmp_path: Path, roll_bytes: int) -> None:
    blocks = make_blocks(7)
    files = BlockFiles(tmp_path / "blocks", GENESIS_ID, roll_bytes=roll_bytes)
    locations = append(files, blocks[:4])
    files.close()
    again = BlockFiles(tmp_path / "blocks", GENESIS_ID, roll_bytes=roll_bytes)
    locations += append(again, blocks[4:])
    n_files = {ROLL_BYTES: 1, 3_000: 3, 1: 7}[roll_bytes]
    assert again.files() == list(range(n_files))
    reader = BlockFiles(tmp_path / "blocks", GENESIS_ID)  # as another process does
    for files in (again, reader):
        assert [files.read(location) for location in locations] == blocks
        assert list(files.scan()) == [
            (location, block.header) for location, block in zip(locations, blocks, strict=True)
        ]
        assert located(files, locations[4]) == locations[:5]
        files.close()
    assert (tmp_path / "blocks").stat().st_mode & 0o777 == 0o700


def test_an_empty_block_and_no_blocks(tmp_path: Path) -> None:
    files = BlockFiles(tmp_path / "blocks", GENESIS_ID)
    assert (files.files(), list(files.scan()), files.truncate(None)) == ([], [], 0)
    files.sync()
    assert not (tmp_path / "blocks").exists()
    block = block_of([], SALT, height=1, previous=bytes(32))
    assert files.read(append(files, [block])[0]) == block
    files.close()


@pytest.mark.parametrize("cut", [1, 3, 4, RECORD_HEAD_BYTES, RECORD_HEAD_BYTES + 127, 400])
@pytest.mark.parametrize("tail", [b"", b"\0" * 300, RECORD_MAGIC * 20])
def test_a_torn_tail_is_cut(tmp_path: Path, cut: int, tail: bytes) -> None:
    blocks = make_blocks(3)
    files = BlockFiles(tmp_path, GENESIS_ID)
    locations = append(files, blocks)
    files.close()
    path = files.path(0)
    data = path.read_bytes()
    path.write_bytes(data[: locations[2].offset + cut] + tail)
    assert located(files) == locations[:2]
    assert files.truncate(locations[1]) == cut + len(tail)
    assert path.read_bytes() == data[: locations[1].end]
    assert append(files, blocks[2:]) == locations[2:]
    assert path.read_bytes() == data
    files.close()


def test_what_was_not_committed_is_cut(tmp_path: Path) -> None:
    files = BlockFiles(tmp_path, GENESIS_ID, roll_bytes=3_000)
    locations = append(files, make_blocks(7))
    assert [location.file for location in locations] == [0, 0, 0, 1, 1, 1, 2]
    assert files.truncate(locations[6]) == 0
    assert files.truncate(locations[1]) == sum(location.length for location in locations[2:])
    assert located(files) == locations[:2]
    assert files.files() == [0]
    assert files.truncate(None) == sum(location.length for location in locations[:2])
    assert files.files() == []
    files.close()


@pytest.mark.parametrize("size", [0, 1, FILE_HEAD_BYTES - 1, FILE_HEAD_BYTES])
def test_a_file_that_was_only_begun_is_removed(tmp_path: Path, size: int) -> None:
    files = BlockFiles(tmp_path, GENESIS_ID, roll_bytes=1)
    locations = append(files, make_blocks(2))
    files.close()
    for keep in (locations[0], None):
        last = files.path(files.files()[-1])
        last.write_bytes(last.read_bytes()[:size])
        assert files.truncate(keep) == 0
        assert located(files) == ([] if keep is None else [keep])


@pytest.mark.parametrize("where", [0, 3, 5, 9, RECORD_HEAD_BYTES, 200, -1])
@pytest.mark.parametrize("roll_bytes", [ROLL_BYTES, 1])
def test_damage_in_the_middle_is_named(tmp_path: Path, where: int, roll_bytes: int) -> None:
    files = BlockFiles(tmp_path, GENESIS_ID, roll_bytes=roll_bytes)
    locations = append(files, make_blocks(4))
    hit = locations[1]
    flip(files.path(hit.file), (hit.end if where < 0 else hit.offset) + where)
    told = f"{files.path(hit.file)} is damaged at offset {hit.offset}: .*; restore"
    for end in (None, locations[1], locations[3]):
        with pytest.raises(StoreDamaged, match=told):
            located(files, end)
    assert located(files, locations[0]) == locations[:1]
    for ask in (files.read, files.truncate):
        with pytest.raises(StoreDamaged, match=told):
            ask(hit)
    assert files.read(locations[2]).header.height == 3
    files.close()


def test_damage_of_a_committed_end_is_no_tail(tmp_path: Path) -> None:
    files = BlockFiles(tmp_path, GENESIS_ID)
    locations = append(files, make_blocks(3))
    path = files.path(0)
    path.write_bytes(path.read_bytes()[:-1])
    assert located(files) == locations[:2]  # nobody says that there was more
    for ask in (located, BlockFiles.truncate):
        with pytest.raises(StoreDamaged, match=f"offset {locations[2].offset}"):
            ask(files, locations[2])
    path.unlink()
    files.close()
    for ask in (located, BlockFiles.truncate):
        with pytest.raises(StoreDamaged, match="missing"):
            ask(files, locations[2])


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    files = BlockFiles(tmp_path, GENESIS_ID, roll_bytes=1)
    locations = append(files, make_blocks(3))
    files.close()
    files.path(1).unlink()
    with pytest.raises(StoreDamaged, match=r"blocks-00001\.dat .*missing"):
        located(files)
    with pytest.raises(StoreDamaged, match=r"blocks-00001\.dat .*missing"):
        located(files, locations[2])


def test_wrong_locations_are_refused(tmp_path: Path) -> None:
    files = BlockFiles(tmp_path, GENESIS_ID)
    right = append(files, make_blocks(2))[0]
    for wrong in (
        right._replace(offset=right.offset + 1),
        right._replace(length=right.length + 1),
        right._replace(length=10),
        right._replace(offset=10**9),
        right._replace(file=1),
    ):
        with pytest.raises(StoreDamaged):
            files.read(wrong)
    files.close()


def test_transactions_that_do_not_fill_the_body(tmp_path: Path) -> None:
    block = make_blocks(1)[0]
    files = BlockFiles(tmp_path, GENESIS_ID)
    location = files.append(block.header.encode(), block.transactions[:-1])
    with pytest.raises(StoreDamaged, match="too early"):
        files.read(location)
    with pytest.raises(ValueError, match="not a block"):
        files.append(block.header.encode()[:-1], [])
    files.close()


def test_other_chains_and_newer_formats_are_refused(tmp_path: Path) -> None:
    ours = BlockFiles(tmp_path, GENESIS_ID)
    location = append(ours, make_blocks(1))[0]
    ours.close()
    before = ours.path(0).read_bytes()
    theirs = BlockFiles(tmp_path, bytes(32))
    for ask in (
        lambda: theirs.read(location),
        lambda: list(theirs.scan()),
        lambda: theirs.append(bytes(128), []),
        lambda: theirs.truncate(None),  # must not delete another chain's blocks
    ):
        with pytest.raises(ForeignStore, match=f"{GENESIS_ID.hex()[:16]}.*; use another"):
            ask()
    assert ours.path(0).read_bytes() == before
    for at, error in ((8, NewerStore), (0, StoreDamaged), (12, StoreDamaged)):
        flip(ours.path(0), at)
        with pytest.raises(error):
            ours.read(location)
        flip(ours.path(0), at)
    assert ours.read(location).header.height == 1
    ours.close()


FULL = """
import resource, sys
from pathlib import Path
from node.storage.blockfile import BlockFiles
from node.storage.errors import StoreFailed, StoreFull
from test_blockfile import GENESIS_ID, make_blocks
directory, limit = Path(sys.argv[1]), int(sys.argv[2])
files = BlockFiles(directory, GENESIS_ID)
resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
done = []
try:
    for block in make_blocks(50):
        done.append(files.append(block.header.encode(), block.transactions))
        files.sync()
except StoreFull as error:
    print(error.message)
try:
    files.append(bytes(128), [])
except StoreFailed as error:
    print(error.message)
print(done[-1].end if done else 64)
"""


@pytest.mark.parametrize("limit", [5_000, 10, FILE_HEAD_BYTES])
def test_no_room(tmp_path: Path, limit: int) -> None:
    """A file that may not grow: the error names it, and no half record stays behind."""
    program = f"import sys; sys.path.insert(0, {str(Path(__file__).parent)!r})\n" + FULL
    if limit < FILE_HEAD_BYTES:
        program = program.rpartition("print(")[0]
    lines = run_apart(program, tmp_path / "blocks", limit).splitlines()
    path = tmp_path / "blocks" / "blocks-00000.dat"
    assert lines[0] == (
        f"cannot write {path} (File too large); free some space (or raise the quota or ulimit -f),"
        " then start again"
    )
    assert "an earlier write" in lines[1]
    if limit < FILE_HEAD_BYTES:
        assert not path.exists()
        return
    assert 0 <= limit - path.stat().st_size < 1_000
    assert lines[2] == f"{path.stat().st_size}"
    files = BlockFiles(tmp_path / "blocks", GENESIS_ID)
    blocks = make_blocks(50)
    found = located(files)
    assert [files.read(location) for location in found] == blocks[: len(found)]
    append(files, blocks[len(found) :])  # there is room again
    assert len(located(files)) == 50
    files.close()


UNWRITABLE = """
import sys
from pathlib import Path
from node.storage.blockfile import BlockFiles
from node.storage.errors import StoreError
from bodies import without_rights
without_rights()
try:
    BlockFiles(Path(sys.argv[1]), bytes(range(32))).append(bytes(128), [])
except StoreError as error:
    print(type(error).__name__, error.message)
"""


def test_no_permission(tmp_path: Path) -> None:
    blocks = tmp_path / "blocks"
    files = BlockFiles(blocks, GENESIS_ID)
    append(files, make_blocks(1))
    files.close()
    (tmp_path / "closed").mkdir()
    for directory, mode, doing in (
        (tmp_path / "closed", 0o500, "create"),
        (tmp_path / "closed", 0o000, "create"),
        (blocks, 0o600, "open"),
        (files.path(0), 0o400, "open"),
    ):
        directory.chmod(mode)
        told = run_apart(UNWRITABLE, blocks if directory.name != "closed" else directory / "blocks")
        directory.chmod(0o700)
        assert told.startswith(f"{StoreUnwritable.__name__} cannot {doing} ")
        assert "Permission denied" in told
        assert told.endswith("give the node's user read and write access to it\n")


UNSYNCED = """
import sys
from pathlib import Path
from bodies import block_of, with_a_failing_disk
from node.storage.blockfile import BlockFiles
from node.storage.errors import StoreFailed
files = BlockFiles(Path(sys.argv[1]), bytes(range(32)))
block = block_of([], bytes(16), height=1, previous=bytes(32))
files.append(block.header.encode(), [])
files.sync()
with_a_failing_disk()
files.append(block.header.encode(), [])
for act in (files.sync, files.sync, lambda: files.append(block.header.encode(), [])):
    try:
        act()
    except StoreFailed as error:
        print(error.message)
"""


def test_nothing_is_written_after_a_failed_sync(tmp_path: Path) -> None:
    first, *others = run_apart(UNSYNCED, tmp_path).splitlines()
    path = tmp_path / "blocks-00000.dat"
    assert first == (
        f"cannot sync {path} (Input/output error); check the disk and the kernel's log,"
        " then start again"
    )
    assert len(others) == 2
    assert all("an earlier write" in other for other in others)
