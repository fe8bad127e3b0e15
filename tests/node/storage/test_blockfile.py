"""Block files: what was synced can be read, what may yet be decided is kept, damage is named."""

from __future__ import annotations

import hashlib
import random
import shutil
import struct
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

import pytest
from bodies import block_of, payment, run_apart
from damage import damaged
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.strategies import DrawFn

from node.block import Block, BlockHeader
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
    StoreError,
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


def located(files: BlockFiles, after: BodyLocation | None = None) -> list[BodyLocation]:
    return [location for location, _ in files.scan(after)]


def contents(files: BlockFiles) -> dict[int, bytes]:
    return {number: files.path(number).read_bytes() for number in files.files()}


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
        assert located(files, locations[4]) == locations[5:]
        assert located(files, locations[6]) == []
        files.close()
    assert (tmp_path / "blocks").stat().st_mode & 0o777 == 0o700


def test_an_empty_block_and_no_blocks(tmp_path: Path) -> None:
    files = BlockFiles(tmp_path / "blocks", GENESIS_ID)
    assert (files.files(), list(files.scan()), files.recover(None, 1)) == ([], [], {})
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
    assert files.recover(locations[1], 3) == {}
    assert path.read_bytes() == data[: locations[1].end]
    assert append(files, blocks[2:]) == locations[2:]
    assert path.read_bytes() == data
    files.close()


def test_what_was_not_committed_is_cut(tmp_path: Path) -> None:
    files = BlockFiles(tmp_path, GENESIS_ID, roll_bytes=3_000)
    locations = append(files, make_blocks(7))
    assert [location.file for location in locations] == [0, 0, 0, 1, 1, 1, 2]
    before = contents(files)
    assert files.recover(locations[6], 8) == {}
    assert contents(files) == before
    assert files.recover(locations[1], 8) == {}
    assert contents(files) == {0: before[0][: locations[1].end]}
    assert located(files) == locations[:2]
    assert files.recover(None, 8) == {}
    assert files.files() == []
    files.close()


@pytest.mark.parametrize("roll_bytes", [ROLL_BYTES, 3_000, 1])
def test_what_may_yet_be_decided_is_kept(tmp_path: Path, roll_bytes: int) -> None:
    """Of the next height all bodies; others between them are left, others behind them are cut."""
    files = BlockFiles(tmp_path, GENESIS_ID, roll_bytes=roll_bytes)
    first, second, third = (make_blocks(3, transactions=n) for n in (1, 2, 3))
    blocks = [first[0], second[0], first[1], third[0], second[1], third[1], first[2], third[0]]
    locations = append(files, blocks)
    before = contents(files)
    kept = {blocks[n].id(SALT): locations[n] for n in (2, 4, 5)}
    for _ in range(2):  # the second time there is nothing to cut
        assert files.recover(locations[0], 2) == kept
        assert located(files) == locations[:6]
    assert [files.read(location) for location in kept.values()] == [blocks[n] for n in (2, 4, 5)]
    assert append(files, blocks[6:]) == locations[6:]
    assert contents(files) == before
    assert files.recover(locations[5], 3) == {first[2].id(SALT): locations[6]}
    assert files.recover(locations[5], 4) == {}
    assert located(files, locations[5]) == []
    files.close()


def test_a_body_that_was_written_twice(tmp_path: Path) -> None:
    files = BlockFiles(tmp_path, GENESIS_ID)
    block = make_blocks(1)[0]
    locations = append(files, [block, block])
    assert files.recover(None, 1) == {block.id(SALT): locations[0]}
    assert located(files) == locations
    files.close()


@pytest.mark.parametrize("size", [0, 1, FILE_HEAD_BYTES - 1, FILE_HEAD_BYTES])
def test_a_file_that_was_only_begun_is_removed(tmp_path: Path, size: int) -> None:
    files = BlockFiles(tmp_path, GENESIS_ID, roll_bytes=1)
    locations = append(files, make_blocks(2))
    files.close()
    for keep in (locations[0], None):
        last = files.path(files.files()[-1])
        last.write_bytes(last.read_bytes()[:size])
        assert files.recover(keep, 2) == {}
        assert located(files) == ([] if keep is None else [keep])
        assert len(files.files()) == (keep is not None)


def test_a_file_whose_head_never_reached_the_disk_is_removed(tmp_path: Path) -> None:
    files = BlockFiles(tmp_path, GENESIS_ID, roll_bytes=1)
    blocks = make_blocks(2)
    locations = append(files, blocks)
    files.close()
    path = files.path(1)
    path.write_bytes(bytes(FILE_HEAD_BYTES) + path.read_bytes()[FILE_HEAD_BYTES:])
    assert located(files) == locations[:1]
    assert files.recover(locations[0], 2) == {}
    assert files.files() == [0]
    assert append(files, blocks[1:]) == locations[1:]
    files.close()


@given(st.integers(0, 2**64))
def test_any_tearing_costs_what_follows_it_and_nothing_else(
    tmp_path_factory: pytest.TempPathFactory, seed: int
) -> None:
    """Some heights of several bodies, one of each committed, a last one open; then a power cut."""
    random_ = random.Random(seed)
    directory = tmp_path_factory.mktemp("torn")
    files = BlockFiles(directory, GENESIS_ID, roll_bytes=random_.choice((1, 2_000, ROLL_BYTES)))
    variants = [make_blocks(4, transactions=n) for n in range(4)]
    height = random_.randint(1, 4)  # the one that is being decided
    committed: dict[int, tuple[Block, BodyLocation]] = {}
    written: list[tuple[Block, BodyLocation]] = []
    for number in range(1, height + 1):
        bodies = [
            variant[number - 1] for variant in random_.sample(variants, random_.randint(1, 4))
        ]
        begun = len(written)
        written += zip(bodies, append(files, bodies), strict=True)
        if number < height:
            committed[number] = random_.choice(written[begun:])
    files.close()
    end = committed[height - 1][1] if height > 1 else None
    before = contents(files)
    tear(files, end, random_)
    after = contents(files)

    behind = written if end is None else written[[at for _, at in written].index(end) + 1 :]
    whole = []
    for block, at in behind:
        if after.get(at.file, b"")[:FILE_HEAD_BYTES] != before[at.file][:FILE_HEAD_BYTES]:
            break
        if after[at.file][at.offset : at.end] != before[at.file][at.offset : at.end]:
            break
        whole.append((block, at))
    kept = {block.id(SALT): at for block, at in whole if block.header.height == height}
    last = max(kept.values(), default=end)

    assert files.recover(end, height) == kept
    expected = {}
    if last is not None:
        expected = {n: data for n, data in before.items() if n <= last.file}
        expected[last.file] = before[last.file][: last.end]
    assert contents(files) == expected
    more = make_blocks(height, transactions=5)[-1]
    location = append(files, [more])[0]
    for block, at in (*committed.values(), *(each for each in whole if each[1] in kept.values())):
        assert files.read(at) == block
    assert files.read(location) == more
    assert files.recover(end, height) == kept | {more.id(SALT): location}
    files.close()
    shutil.rmtree(directory)


def tear(files: BlockFiles, end: BodyLocation | None, random_: random.Random) -> None:
    """Do to the files behind ``end`` what a power cut may do to bytes that were not synced."""
    first = 0 if end is None else end.file
    number = random_.choice([number for number in files.files() if number >= first])
    data = bytearray(files.path(number).read_bytes())
    begin = end.end if end is not None and number == first else 0
    match random_.choice(("nothing", "end", "hole", "noise", "gone")):
        case "end":  # the file and those behind it end sooner
            files.path(number).write_bytes(data[: random_.randint(begin, len(data))])
            for later in files.files()[number + 1 :]:
                files.path(later).unlink()
        case "hole":  # from the beginning, or behind the head
            at = begin and random_.randint(begin, len(data))
            until = random_.randint(max(at, FILE_HEAD_BYTES), len(data))
            data[at:until] = bytes(until - at)
            files.path(number).write_bytes(data)
        case "noise":
            at = random_.randint(max(begin, FILE_HEAD_BYTES), len(data))
            data[at : at + 30] = random_.randbytes(len(data[at : at + 30]))
            files.path(number).write_bytes(data)
        case "gone" if not begin:
            files.path(number).unlink()


@pytest.mark.parametrize("where", [0, 3, 5, 9, RECORD_HEAD_BYTES, 200, -1])
@pytest.mark.parametrize("roll_bytes", [ROLL_BYTES, 1])
def test_damage_in_the_middle_is_named(tmp_path: Path, where: int, roll_bytes: int) -> None:
    files = BlockFiles(tmp_path, GENESIS_ID, roll_bytes=roll_bytes)
    locations = append(files, make_blocks(4))
    hit = locations[1]
    flip(files.path(hit.file), (hit.end if where < 0 else hit.offset) + where)
    told = f"{files.path(hit.file)} is damaged at offset {hit.offset}: .*; restore"
    assert located(files) == locations[:1]
    for ask in (files.read, files.read_header, lambda end: files.recover(end, 3)):
        with pytest.raises(StoreDamaged, match=told):
            ask(hit)
    for undamaged in locations[2:]:
        assert files.read_header(undamaged).height >= 3
    assert list(files.recover(locations[2], 4).values()) == [locations[3]]
    files.close()


def test_damage_of_a_committed_end_is_no_tail(tmp_path: Path) -> None:
    files = BlockFiles(tmp_path, GENESIS_ID)
    locations = append(files, make_blocks(3))
    path = files.path(0)
    path.write_bytes(path.read_bytes()[:-1])
    assert located(files) == locations[:2]  # nobody says that there was more
    for ask in (files.read, lambda end: files.recover(end, 4)):
        with pytest.raises(StoreDamaged, match=f"offset {locations[2].offset}"):
            ask(locations[2])
    path.unlink()
    files.close()
    for ask in (files.read, lambda end: files.recover(end, 4)):
        with pytest.raises(StoreDamaged, match="missing"):
            ask(locations[2])


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    files = BlockFiles(tmp_path, GENESIS_ID, roll_bytes=1)
    locations = append(files, make_blocks(3))
    files.close()
    files.path(1).unlink()
    for ask in (files.read, lambda end: files.recover(end, 3)):
        with pytest.raises(StoreDamaged, match=r"blocks-00001\.dat .*missing"):
            ask(locations[1])
    assert located(files) == locations[:1]
    assert files.read(locations[2]).header.height == 3
    files.close()


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
        lambda: theirs.recover(None, 1),  # must not delete another chain's blocks
    ):
        with pytest.raises(ForeignStore, match=f"{GENESIS_ID.hex()[:16]}.*; use another"):
            ask()
    assert ours.path(0).read_bytes() == before
    ours.path(0).rename(ours.path(1))  # nor one that follows what is torn
    ours.path(0).write_bytes(before[:50])
    with pytest.raises(ForeignStore):
        theirs.recover(None, 1)
    assert contents(ours) == {0: before[:50], 1: before}
    ours.path(1).rename(ours.path(0))
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


UNSYNCED_BEFORE = """
import sys
from pathlib import Path
from bodies import block_of, with_a_failing_disk
from node.storage.blockfile import BlockFiles
from node.storage.errors import StoreFailed
block = block_of([], bytes(16), height=1, previous=bytes(32))
BlockFiles(Path(sys.argv[1]), bytes(range(32))).append(block.header.encode(), [])
with_a_failing_disk()
try:
    BlockFiles(Path(sys.argv[1]), bytes(range(32))).recover(None, 1)
except StoreFailed as error:
    print(error.message)
"""


def test_what_is_kept_is_durable(tmp_path: Path) -> None:
    """An earlier life may have died between append and sync, or because of a failed sync."""
    told = run_apart(UNSYNCED_BEFORE, tmp_path)
    assert told.startswith(f"cannot sync {tmp_path / 'blocks-00000.dat'} (Input/output error); ")


def sealed(payload: bytes) -> bytes:
    """A record whose length and checksum are right."""
    checksum = hashlib.blake2b(payload, digest_size=16).digest()
    return struct.pack("<4sI16s", RECORD_MAGIC, len(payload), checksum) + payload


class Written(NamedTuple):
    """One file of three blocks, and how it was when it was whole."""

    directory: Path
    locations: list[BodyLocation]
    whole: bytes


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Written:
    directory = tmp_path_factory.mktemp("any-bytes")
    files = BlockFiles(directory, GENESIS_ID)
    locations = append(files, make_blocks(3))
    files.close()
    return Written(directory, locations, files.path(0).read_bytes())


@st.composite
def damaged_file(draw: DrawFn, written: Written) -> tuple[bytes, list[BodyLocation]]:
    """The file damaged anywhere, or within its checksums, which are right then."""
    data, locations = written.whole, list(written.locations)
    if draw(st.booleans()):
        return draw(damaged(data)), locations
    records = [data[each.offset + RECORD_HEAD_BYTES : each.end] for each in locations]
    data = data[:FILE_HEAD_BYTES]
    for record in records:
        changed = sealed(draw(damaged(record)))
        locations.append(BodyLocation(0, len(data), len(changed)))
        data += changed
    return data, locations


@given(st.data())
def test_any_damaged_file_is_read_or_refused(written: Written, data: st.DataObject) -> None:
    files = BlockFiles(written.directory, GENESIS_ID)
    content, locations = data.draw(damaged_file(written))
    files.path(0).write_bytes(content)
    found: list[tuple[BodyLocation, BlockHeader]] = []
    with suppress(StoreError):
        found += files.scan()
    for location in [*locations, *(each for each, _ in found)]:
        try:
            header = files.read_header(location)
            block = files.read(location)
        except StoreError:
            continue
        assert block.header == header
        assert len(block.transactions) == len(block.txids) == header.n_transactions
    try:
        kept = files.recover(None, 3)
    except StoreError:
        assert not found
    else:
        assert set(kept.values()) <= {each for each, header in found if header.height == 3}
    files.close()
