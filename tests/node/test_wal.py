"""The write-ahead log: what was synced comes back after every possible cut, damage is told."""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterator
from hashlib import blake2b
from pathlib import Path
from random import Random

import pytest
from damage import damaged
from hypothesis import given, settings
from hypothesis import strategies as st
from sim_disk import PowerCut, SimDisk, When

from node.consensus.messages import (
    BlockJudged,
    Certificate,
    Certified,
    Input,
    Timer,
    TimerElapsed,
    TimerKind,
    Vote,
    VoteType,
)
from node.consensus.wire import MAX_MESSAGE_BYTES, encode
from node.durable import Directory
from node.errors import NodeError
from node.storage.errors import DAMAGED_REMEDY
from node.wal import (
    BUFFER_BYTES,
    FILE,
    FILE_FORMAT,
    FILE_MAGIC,
    HEAD_BYTES,
    MAX_FILE_BYTES,
    NEW_FILE,
    RECORD_HEAD_BYTES,
    RECORD_MAGIC,
    ForeignWal,
    NewerWal,
    Wal,
    WalDamaged,
    WalFull,
)

GENESIS = bytes(range(32))
KEEP_BYTES = 700  # so that a short script cuts the file


def inputs(height: int) -> Iterator[Input]:
    """Different inputs of one height, without end."""
    round_ = 0
    while True:
        value = bytes([height, round_]) * 16
        yield TimerElapsed(Timer(TimerKind.PROPOSE, height, round_))
        yield Vote(VoteType.PREVOTE, height, round_, value, 1, bytes([round_]) * 64)
        yield BlockJudged(height, value, True)
        signatures = tuple((index, bytes([index]) * 64) for index in range(4))
        yield Certified(Certificate(VoteType.PREVOTE, height, round_, value, signatures))
        round_ += 1


def wal_on(disk: SimDisk) -> Wal:
    return Wal(disk, GENESIS, keep_bytes=KEEP_BYTES)


def synced(n_inputs: int, disk: SimDisk) -> list[Input]:
    """Fill a disk with one height, synced; returns what it holds."""
    wal = wal_on(disk)
    wal.recover(1)
    source = inputs(1)
    written = [next(source) for _ in range(n_inputs)]
    for message in written:
        wal.append(1, message)
    wal.sync()
    wal.close()
    return written


# -- ordinary life -------------------------------------------------------------------------------


@pytest.fixture(params=["simulated", "real"])
def wal(request: pytest.FixtureRequest, tmp_path: Path) -> Wal:
    return Wal(
        SimDisk() if request.param == "simulated" else Directory(tmp_path),
        GENESIS,
        keep_bytes=KEEP_BYTES,
    )


def test_what_was_synced_comes_back_in_order(wal: Wal) -> None:
    assert wal.recover(5) == []
    source = inputs(5)
    written = [next(source) for _ in range(20)]
    for number, message in enumerate(written):
        wal.append(5, message)
        if number % 3 == 0:
            wal.sync()
    wal.sync()
    wal.append(5, next(source))  # never synced, and lost with the process
    wal.close()
    assert wal.recover(5) == written
    wal.sync()
    assert wal.recover(5) == written  # reading changes nothing
    assert wal.recover(4) == []
    assert wal.recover(6) == []
    assert wal.recover(0) == []


def test_only_the_height_asked_for_is_returned(wal: Wal) -> None:
    wal.recover(1)
    sources = {height: inputs(height) for height in (1, 2)}
    written: dict[int, list[Input]] = {1: [], 2: []}
    for height in (1, 2, 2, 1):
        message = next(sources[height])
        wal.append(height, message)
        written[height].append(message)
    wal.sync()
    wal.close()
    assert wal.recover(1) == written[1]
    assert wal.recover(2) == written[2]


def test_the_file_is_cut_when_a_height_is_over_and_it_has_grown() -> None:
    disk = SimDisk()
    wal = wal_on(disk)
    wal.recover(1)
    sizes = []
    for height in range(1, 30):
        source = inputs(height)
        for _ in range(3):
            wal.append(height, next(source))
        wal.sync()
        sizes.append(len(disk.read(FILE)))
        wal.append(height, next(source))  # of a height that is over: need not be written
        wal.begin_height(height + 1)
        assert len(disk.read(FILE)) in (sizes[-1], HEAD_BYTES)
    assert max(sizes) < KEEP_BYTES + 500
    assert len(set(sizes)) > 1
    wal.append(30, next(inputs(30)))
    wal.sync()
    wal.close()
    assert wal_on(disk).recover(30) == [next(inputs(30))]


def test_records_of_the_new_height_outlive_its_beginning() -> None:
    wal = wal_on(SimDisk())
    wal.recover(1)
    source = inputs(2)
    written = [next(source), next(source)]
    wal.append(1, next(inputs(1)))
    wal.append(2, written[0])
    wal.begin_height(2)
    wal.append(2, written[1])
    wal.sync()
    assert wal.recover(2) == written
    assert wal.recover(1) == []


def test_nothing_is_written_before_a_sync_unless_it_is_much() -> None:
    disk = SimDisk()
    wal = Wal(disk, GENESIS)
    wal.recover(1)
    before = disk.operations
    message = Certified(
        Certificate(VoteType.PREVOTE, 1, 0, bytes(32), tuple((n, bytes(64)) for n in range(1000)))
    )
    wal.append(1, message)
    assert disk.operations == before
    for _ in range(3):
        wal.append(1, message)
    assert disk.operations == before + 1
    assert len(disk.read(FILE)) > BUFFER_BYTES
    wal.sync()
    assert disk.synced_bytes(FILE) == len(disk.read(FILE)) - RECORD_HEAD_BYTES
    assert wal.recover(1) == [message] * 4


def test_a_sync_without_news_does_nothing() -> None:
    disk = SimDisk()
    wal = wal_on(disk)
    wal.recover(1)
    before = disk.operations
    wal.sync()
    assert disk.operations == before
    wal.append(1, next(inputs(1)))
    wal.sync()
    before, size = disk.operations, len(disk.read(FILE))
    wal.sync()
    wal.recover(1)
    wal.sync()
    assert len(disk.read(FILE)) == size
    assert disk.operations == before + 2  # of recovery: the file and the directory are synced


def test_recovery_comes_first(wal: Wal) -> None:
    for act in (lambda: wal.append(1, next(inputs(1))), lambda: wal.begin_height(2), wal.sync):
        with pytest.raises(ValueError, match="recover comes first"):
            act()


def test_what_a_killed_process_left_unsynced_is_durable_once_it_is_returned() -> None:
    disk = SimDisk()
    wal = wal_on(disk)
    wal.recover(1)
    wal.append(1, next(inputs(1)))
    kill_at_sync(disk, wal)
    left = disk.read(FILE)  # the machine ran on, so nothing is lost yet
    assert left.endswith(encode(next(inputs(1))))
    for seed in range(20):
        disk = SimDisk()
        disk.write(FILE, left)
        assert wal_on(disk).recover(1) == [next(inputs(1))]
        assert wal_on(disk.crash(Random(seed))).recover(1) == [next(inputs(1))]


class Killed(Exception):
    """The process is gone, the machine runs on."""


def kill_at_sync(disk: SimDisk, wal: Wal) -> None:
    """Sync a log in a process that is killed when the records are written."""

    def kill(number: int, name: str) -> None:
        if name == "sync":
            raise Killed

    disk.on_operation = kill
    with pytest.raises(Killed):
        wal.sync()
    disk.on_operation = None


# -- every cut -----------------------------------------------------------------------------------


class Script:
    """A run of appends, syncs and heights, and what must and may come back after a cut in it."""

    def __init__(self) -> None:
        self.height = 1
        self.appended: list[Input] = []  # of the height under way
        self.n_synced = 0

    def run(self, disk: SimDisk) -> None:
        rng = Random(7)
        wal = wal_on(disk)
        wal.recover(1)
        for height in range(1, 7):
            source = inputs(height)
            for _ in range(rng.randrange(2, 7)):
                for _ in range(rng.randrange(1, 6)):
                    message = next(source)
                    wal.append(height, message)
                    self.appended.append(message)
                if rng.random() < 0.8:
                    wal.sync()
                    self.n_synced = len(self.appended)
            self.height, self.appended, self.n_synced = height + 1, [], 0
            wal.begin_height(height + 1)

    def check(self, found: list[Input]) -> None:
        assert found == self.appended[: len(found)]
        assert len(found) >= self.n_synced


def operations_of_the_script() -> int:
    disk = SimDisk()
    script = Script()
    script.run(disk)
    return disk.operations


def cuts(seeds: int) -> Iterator[tuple[Script, SimDisk, Random]]:
    """The script, cut at every operation in every way, with what is left of the disk."""
    for number in range(operations_of_the_script()):
        for when in When:
            for seed in range(seeds):
                script, disk = Script(), SimDisk()
                disk.cut_at(number, when)
                with pytest.raises(PowerCut):
                    script.run(disk)
                rng = Random(seed * 1000 + number)
                yield script, disk.crash(rng), rng


def test_the_script_cuts_the_file_too() -> None:
    names: list[str] = []
    disk = SimDisk()
    disk.on_operation = lambda number, name: names.append(name)
    Script().run(disk)
    assert names.count("truncate") >= 2
    assert names.count("sync") > 15


def test_recovery_is_exact_after_a_cut_anywhere_and_the_log_works_on() -> None:
    n_cuts = n_survived = 0
    for script, disk, rng in cuts(seeds=8):
        wal = wal_on(disk)
        found = wal.recover(script.height)
        script.check(found)
        n_cuts += 1
        n_survived += len(found) > script.n_synced
        source = inputs(script.height)
        news = [next(source) for _ in range(3)]
        for message in news:
            wal.append(script.height, message)
            wal.sync()
        wal.append(script.height, next(source))
        assert wal_on(disk.crash(rng)).recover(script.height) == found + news
    assert n_cuts > 1000
    assert n_survived > 20  # records that were not synced, and are there all the same


def test_recovery_may_be_cut_too() -> None:
    for script, disk, rng in cuts(seeds=1):
        before = disk.copy()
        wal_on(disk).recover(script.height)
        n_operations = disk.operations
        for number in range(n_operations):
            for when in When:
                again = before.copy()
                again.cut_at(number, when)
                with pytest.raises(PowerCut):
                    wal_on(again).recover(script.height)
                script.check(wal_on(again.crash(rng)).recover(script.height))


def test_an_interrupted_creation_is_done_again() -> None:
    for number in range(4):
        for when in When:
            for seed in range(10):
                disk = SimDisk({NEW_FILE: b"left over"})
                disk.cut_at(number, when)
                with pytest.raises(PowerCut):
                    wal_on(disk).recover(1)
                after = disk.crash(Random(seed))
                wal = wal_on(after)
                assert wal.recover(1) == []
                wal.append(1, next(inputs(1)))
                wal.sync()
                assert wal_on(after.crash(Random(seed))).recover(1) == [next(inputs(1))]


# -- damage --------------------------------------------------------------------------------------


def test_every_damaged_byte_that_was_synced_is_told_with_its_place_and_remedy() -> None:
    disk = SimDisk()
    written = synced(12, disk)
    size = len(disk.read(FILE)) - RECORD_HEAD_BYTES  # without the mark
    assert size == disk.synced_bytes(FILE)
    starts = [HEAD_BYTES]
    for _ in written:
        length = struct.unpack_from("<I", disk.read(FILE), starts[-1] + 4)[0]
        starts.append(starts[-1] + RECORD_HEAD_BYTES + length)
    assert starts[-1] == size
    rng = Random(1)
    for offset in range(size):
        mask = 1 << rng.randrange(8)
        disk.damage(FILE, offset, mask)
        before = disk.read(FILE)
        with pytest.raises(WalDamaged) as caught:
            wal_on(disk).recover(1)
        place = 0 if offset < HEAD_BYTES else max(each for each in starts if each <= offset)
        assert caught.value.cause.startswith(f"sim/{FILE} is damaged at offset {place}:")
        assert caught.value.remedy == DAMAGED_REMEDY
        assert disk.read(FILE) == before
        disk.damage(FILE, offset, mask)
    assert wal_on(disk).recover(1) == written


def test_damage_to_the_last_mark_costs_nothing() -> None:
    disk = SimDisk()
    written = synced(3, disk)
    size = disk.synced_bytes(FILE)
    for offset in range(size, len(disk.read(FILE))):
        copy = disk.copy()
        copy.damage(FILE, offset, 1)
        assert wal_on(copy).recover(1) == written
        assert len(copy.read(FILE)) == size


def test_without_its_mark_only_the_last_sync_is_unproven() -> None:
    disk = SimDisk()
    wal = wal_on(disk)
    wal.recover(1)
    source = inputs(1)
    written = [next(source) for _ in range(2)]
    ends = []
    for message in written:
        wal.append(1, message)
        wal.sync()
        ends.append(disk.synced_bytes(FILE))
    wal.close()
    disk.truncate(FILE, ends[1])  # a power cut takes the mark
    last = disk.copy()
    last.damage(FILE, ends[1] - 1)
    assert wal_on(last).recover(1) == written[:1]
    first = disk.copy()
    first.damage(FILE, ends[0] - 1)
    with pytest.raises(WalDamaged):
        wal_on(first).recover(1)


@pytest.mark.parametrize("marked", [True, False])
def test_a_hole_in_what_was_never_synced_is_no_damage(marked: bool) -> None:
    disk = SimDisk()
    wal = wal_on(disk)
    wal.recover(1)
    source = inputs(1)
    written = [next(source) for _ in range(6)]
    for message in written[:3]:
        wal.append(1, message)
    wal.sync()
    if not marked:
        wal.close()
        disk.truncate(FILE, disk.synced_bytes(FILE))
        assert wal.recover(1) == written[:3]
    end = len(disk.read(FILE))
    for message in written[3:]:
        wal.append(1, message)
    kill_at_sync(disk, wal)
    data = bytearray(disk.read(FILE))
    data[end : end + 50] = bytes(50)  # the page of the first did not arrive, those behind it did
    after = SimDisk({FILE: bytes(data)})
    assert wal_on(after).recover(1) == written[:3]
    assert len(after.read(FILE)) == end


@pytest.mark.parametrize("size", [0, 1, HEAD_BYTES - 1])
def test_a_file_without_a_whole_head_is_damaged(size: int) -> None:
    disk = SimDisk()
    synced(2, disk)
    disk.truncate(FILE, size)
    with pytest.raises(WalDamaged, match=r"wal\.log is damaged at offset 0: its head"):
        wal_on(disk).recover(1)


def head(version: int, genesis_id: bytes) -> bytes:
    fields = struct.pack("<8sI4x32s", FILE_MAGIC, version, genesis_id)
    return fields + blake2b(fields, digest_size=16).digest()


def test_foreign_and_newer_files_are_refused() -> None:
    wal_on(SimDisk({FILE: head(FILE_FORMAT, GENESIS)})).recover(1)
    with pytest.raises(ForeignWal, match="the chain with genesis 4242424242424242, not to 0001"):
        wal_on(SimDisk({FILE: head(FILE_FORMAT, b"B" * 32)})).recover(1)
    with pytest.raises(NewerWal, match="has format 2, and this version knows 1; install"):
        wal_on(SimDisk({FILE: head(FILE_FORMAT + 1, b"B" * 32)})).recover(1)


def record(offset: int, durable: int, height: int, content: bytes) -> bytes:
    """A record as the module's head describes it."""
    fields = struct.pack("<4sIQQ", RECORD_MAGIC, len(content), durable, height)
    checksum = blake2b(struct.pack("<Q", offset) + fields + content, digest_size=16).digest()
    return fields + checksum + content


def test_a_record_that_checks_and_is_no_input_is_damage() -> None:
    disk = SimDisk({FILE: head(1, GENESIS) + record(HEAD_BYTES, HEAD_BYTES, 3, b"nonsense")})
    assert wal_on(disk).recover(2) == []
    with pytest.raises(WalDamaged, match=r"damaged at offset 64: the record is no input"):
        wal_on(disk).recover(3)


def test_a_record_in_another_place_is_none() -> None:
    proof = record(HEAD_BYTES, HEAD_BYTES, 0, b"")
    disk = SimDisk({FILE: head(1, GENESIS) + b"?" + proof})
    assert wal_on(disk).recover(1) == []
    assert len(disk.read(FILE)) == HEAD_BYTES


def test_a_record_longer_than_any_message_is_none() -> None:
    content = bytes(MAX_MESSAGE_BYTES + 1)
    disk = SimDisk({FILE: head(1, GENESIS) + record(HEAD_BYTES, HEAD_BYTES, 1, content)})
    assert wal_on(disk).recover(1) == []
    assert len(disk.read(FILE)) == HEAD_BYTES


def test_magic_in_a_torn_tail_is_searched_through() -> None:
    tail = RECORD_MAGIC * 5000
    disk = SimDisk({FILE: head(1, GENESIS) + b"?" + tail})
    assert wal_on(disk).recover(1) == []
    offset = HEAD_BYTES + 1 + len(tail)
    proof = record(offset, HEAD_BYTES + 1, 0, b"")
    disk = SimDisk({FILE: head(1, GENESIS) + b"?" + tail + proof})
    with pytest.raises(WalDamaged, match="durable up to 65"):
        wal_on(disk).recover(1)


# -- limits --------------------------------------------------------------------------------------


def test_a_height_that_needs_too_much_is_refused() -> None:
    disk = SimDisk()
    wal = Wal(disk, GENESIS, keep_bytes=500, max_bytes=2000)
    wal.recover(9)
    written: list[Input] = []

    def fill() -> None:
        for message in inputs(9):
            wal.append(9, message)
            written.append(message)
            wal.sync()

    with pytest.raises(WalFull, match=r"sim/wal\.log holds .* height 9 is not decided; restore"):
        fill()
    assert 1600 < len(disk.read(FILE)) <= 2000 + RECORD_HEAD_BYTES
    assert issubclass(WalFull, NodeError)
    again = Wal(disk, GENESIS, keep_bytes=500, max_bytes=2000)
    assert again.recover(9) == written
    again.begin_height(10)
    again.append(10, next(inputs(10)))
    again.sync()
    assert again.recover(10) == [next(inputs(10))]


def test_a_full_file_is_still_read_with_the_mark_behind_it() -> None:
    disk = SimDisk()
    written = synced(3, disk)
    max_bytes = disk.synced_bytes(FILE)
    assert len(disk.read(FILE)) > max_bytes
    assert Wal(disk, GENESIS, keep_bytes=0, max_bytes=max_bytes).recover(1) == written


def test_a_file_larger_than_any_log_is_not_read(tmp_path: Path) -> None:
    with (tmp_path / FILE).open("wb") as file:
        file.truncate(MAX_FILE_BYTES * 100)  # sparse
    with pytest.raises(WalDamaged, match="more than a log"):
        Wal(Directory(tmp_path), GENESIS).recover(1)


def test_the_directory_is_synced_before_the_log_is_used() -> None:
    names: list[str] = []
    disk = SimDisk()
    disk.on_operation = lambda number, name: names.append(name)
    wal_on(disk).recover(1)
    assert names[:4] == ["write", "sync", "rename", "sync_directory"]


@pytest.mark.parametrize("act", [lambda wal: wal.recover(1), lambda wal: wal.close()])
def test_descriptors_are_given_back(tmp_path: Path, act: Callable[[Wal], object]) -> None:
    def n_open() -> int:
        return len(list(Path("/proc/self/fd").iterdir()))

    before = n_open()
    wal = Wal(Directory(tmp_path), GENESIS)
    wal.recover(1)
    act(wal)
    wal.close()
    (tmp_path / FILE).write_bytes(b"damaged")
    with pytest.raises(WalDamaged):
        wal.recover(1)
    assert n_open() == before


# -- any bytes -----------------------------------------------------------------------------------


@settings(max_examples=200)
@given(st.data())
def test_any_damaged_log_is_recovered_or_refused_and_then_left_alone(data: st.DataObject) -> None:
    """Of some records the contents are damaged and their checksums made right again."""
    disk = SimDisk()
    written = synced(8, disk)
    if data.draw(st.booleans()):
        log = disk.read(FILE)[:HEAD_BYTES]
        for message in written:
            content = data.draw(st.just(encode(message)) | damaged(encode(message)))
            durable = data.draw(st.just(len(log)) | st.integers(0, 2**64 - 1))
            log += record(len(log), durable, data.draw(st.integers(0, 2)), content)
    else:
        log = data.draw(damaged(disk.read(FILE)))
        if data.draw(st.booleans()):
            log = log[:48] + blake2b(log[:48], digest_size=16).digest() + log[HEAD_BYTES:]
    disk = SimDisk({FILE: log})
    try:
        found = wal_on(disk).recover(1)
    except (WalDamaged, ForeignWal, NewerWal):
        assert disk.read(FILE) == log
        return
    assert wal_on(disk).recover(1) == found
    assert log.startswith(disk.read(FILE))
