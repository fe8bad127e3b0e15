"""The simulated disk: keeps what was synced, loses everything else in every way that disks have."""

from __future__ import annotations

from collections.abc import Callable
from random import Random

import pytest
from sim_disk import PowerCut, SimDisk, When

from node.durable import Files

SEEDS = range(300)


def outcomes(make: Callable[[], SimDisk]) -> list[dict[str, bytes]]:
    """What each seed leaves of the disk that `make` gives."""
    left = []
    for seed in SEEDS:
        disk = make().crash(Random(seed))
        left.append({name: disk.read(name) for name in disk.names()})
    return left


def appended(synced: bytes, volatile: bytes) -> SimDisk:
    disk = SimDisk()
    file = disk.append_to("a")
    file.write(synced)
    file.sync()
    disk.sync_directory()
    file.write(volatile)
    return disk


def test_it_is_what_a_durable_program_expects() -> None:
    files: Files = SimDisk({"b": b"two"})
    file = files.append_to("a")
    file.write(b"on")
    file.write(b"e")
    assert file.size_bytes == 3
    file.close()
    with pytest.raises(ValueError, match="closed"):
        file.write(b"x")
    assert files.names() == ["a", "b"]
    assert files.read("a") == b"one"
    assert files.append_to("a").size_bytes == 3
    files.truncate("a", 2)
    files.truncate("a", 5)
    assert files.read("a") == b"on"
    files.write("b", b"new")
    files.write("c", b"other")
    files.rename("c", "a")
    assert files.names() == ["a", "b"]
    assert files.read("a") == b"other"
    files.remove("a")
    for act in (files.read, files.sync, files.remove):
        with pytest.raises(FileNotFoundError):
            act("a")
    with pytest.raises(FileNotFoundError):
        files.rename("a", "b")
    with pytest.raises(FileNotFoundError):
        files.truncate("a", 0)


def test_what_was_synced_stays_whatever_happens_to_the_rest() -> None:
    synced, volatile = b"s" * 1000, b"v" * 9000
    kinds = set()
    for left in outcomes(lambda: appended(synced, volatile)):
        data = left["a"]
        assert data[:1000] == synced
        tail = data[1000:]
        kept = volatile[: len(tail)]
        if tail == kept:
            kinds.add("none" if not tail else "all" if len(tail) == 9000 else "torn")
        else:
            assert set(tail) <= set(b"v\0")
            kinds.add("hole" if tail.rstrip(b"\0") else "zeros")
    assert kinds == {"none", "all", "torn", "hole", "zeros"}


def test_a_later_page_can_be_there_without_an_earlier_one() -> None:
    tails = [left["a"][1000:] for left in outcomes(lambda: appended(b"s" * 1000, b"v" * 9000))]
    assert any(b"\0" in tail and tail.find(b"v", tail.find(b"\0")) >= 0 for tail in tails)


def test_names_are_volatile_until_the_directory_is_synced() -> None:
    def make() -> SimDisk:
        disk = SimDisk({"old": b"old", "gone": b"gone"})
        disk.append_to("first").write(b"1")
        disk.sync("first")  # of the content, not of the name
        disk.remove("gone")
        disk.rename("first", "old")
        return disk

    names = {tuple(sorted(left)) for left in outcomes(make)}
    assert names == {("gone", "old"), ("first", "gone", "old"), ("first", "old"), ("old",)}

    def synced() -> SimDisk:
        disk = make()
        disk.sync_directory()
        return disk

    assert {tuple(left.items()) for left in outcomes(synced)} == {(("old", b"1"),)}


def test_a_renamed_file_can_arrive_without_its_content() -> None:
    def make() -> SimDisk:
        disk = SimDisk({"state": b"before"})
        disk.write("new", b"after!")
        disk.rename("new", "state")
        disk.sync_directory()
        return disk

    contents = {left["state"] for left in outcomes(make)}
    assert b"" in contents
    assert b"after!" in contents
    assert any(b"after!".startswith(each) for each in contents - {b"", b"after!"})


def test_a_cut_or_replaced_file_is_the_old_or_the_new() -> None:
    def cut() -> SimDisk:
        disk = appended(b"abcdef", b"ghi")
        disk.truncate("a", 2)
        file = disk.append_to("a")
        file.write(b"xy")
        return disk

    contents = {left["a"] for left in outcomes(cut)}
    assert {b"abcdef", b"ab", b"abx", b"abxy"} <= contents
    assert {each[:2] for each in contents} == {b"ab"}
    assert cut().synced_bytes("a") == 2

    def cut_twice() -> SimDisk:
        disk = appended(b"abcdef", b"")
        disk.truncate("a", 4)
        disk.truncate("a", 2)
        disk.append_to("a").write(b"xy")
        return disk

    assert cut_twice().synced_bytes("a") == 2
    assert {each["a"] for each in outcomes(cut_twice)} >= {b"abcdef", b"ab", b"abx", b"abxy"}

    def synced() -> SimDisk:
        disk = cut()
        disk.truncate("a", 3)
        disk.sync("a")
        return disk

    assert {left["a"] for left in outcomes(synced)} == {b"abx"}

    def replaced() -> SimDisk:
        disk = SimDisk({"a": b"abcdef"})
        disk.write("a", b"abc")
        return disk

    assert {b"abcdef", b"", b"a", b"ab", b"abc"} <= {left["a"] for left in outcomes(replaced)}

    def both() -> SimDisk:
        disk = SimDisk({"a": b"o" * 9000})
        disk.write("a", b"n" * 9000)
        return disk

    assert any(set(left["a"]) == set(b"on") for left in outcomes(both))


def test_what_is_written_in_place_keeps_its_size_and_comes_in_pages() -> None:
    def make() -> SimDisk:
        disk = SimDisk({"a": b"o" * 9000})
        disk.update("a").write(1000, b"n" * 5000)
        return disk

    before, written = b"o" * 9000, b"o" * 1000 + b"n" * 5000 + b"o" * 3000
    contents = {left["a"] for left in outcomes(make)}
    assert {before, written} < contents
    for each in contents:
        assert len(each) == 9000
        assert each[:1000] + each[6000:] == b"o" * 4000
    assert make().holds("a", b"o" * 3000)
    assert not make().holds("a", b"n")
    disk = make()
    disk.sync("a")
    assert disk.holds("a", b"n" * 5000)
    assert disk.crash(Random(0)).read("a") == written


def test_a_file_removed_while_its_name_was_volatile_leaves_nothing_of_it() -> None:
    disk = SimDisk()
    disk.write("a", b"x")
    disk.sync("a")
    assert disk.synced_bytes("a") == 0
    disk.sync_directory()
    assert disk.synced_bytes("a") == 1
    disk.remove("a")
    disk.sync_directory()
    assert disk.crash(Random(0)).names() == []


@pytest.mark.parametrize("when", When)
def test_the_power_can_fail_at_every_operation(when: When) -> None:
    def run(disk: SimDisk) -> list[str]:
        done: list[str] = []
        disk_file = disk.append_to("a")
        done.append("create")
        disk_file.write(b"12345678")
        done.append("append")
        disk_file.sync()
        done.append("sync")
        disk.sync_directory()
        done.append("sync_directory")
        disk.write("b", b"1234")
        disk.rename("b", "a")
        disk.truncate("a", 1)
        disk.remove("a")
        done.append("end")
        return done

    disk = SimDisk()
    names: list[str] = []
    disk.on_operation = lambda number, name: names.append(name) or None
    assert run(disk)[-1] == "end"
    assert names == (
        ["create", "append", "sync", "sync_directory", "write", "rename", "truncate", "remove"]
    )
    assert disk.operations == len(names)
    for number in range(len(names)):
        disk = SimDisk()
        disk.cut_at(number, when)
        with pytest.raises(PowerCut):
            run(disk)
        assert disk.operations == number + 1
        with pytest.raises(PowerCut):
            disk.names()  # it stays dark
        disk.crash(Random(number)).names()


def test_before_torn_and_after_differ_in_what_was_done() -> None:
    def size(when: When) -> int:
        disk = SimDisk({"a": b""})
        disk.cut_at(0, when)
        with pytest.raises(PowerCut):
            disk.append_to("a").write(b"12345678")
        return len(disk.crash(Random(3)).read("a"))

    assert not issubclass(PowerCut, Exception)
    assert size(When.BEFORE) == 0
    assert size(When.TORN) <= 4
    durable = SimDisk({"a": b""})
    durable.append_to("a").write(b"12345678")
    durable.cut_at(1, When.AFTER)
    with pytest.raises(PowerCut):
        durable.sync("a")
    assert durable.crash(Random(0)).read("a") == b"12345678"


def test_after_a_crash_the_old_disk_is_dead_and_the_new_one_works() -> None:
    disk = appended(b"abc", b"")
    file = disk.append_to("a")
    after = disk.crash(Random(0))
    for act in (disk.names, lambda: disk.write("b", b""), lambda: file.write(b"x")):
        with pytest.raises(PowerCut):
            act()
    after.append_to("a").write(b"d")
    assert after.read("a") == b"abcd"


def test_the_same_seed_loses_the_same() -> None:
    def run(seed: int) -> bytes:
        return appended(b"s" * 100, bytes(range(256)) * 40).crash(Random(seed)).read("a")

    assert [run(seed) for seed in range(20)] == [run(seed) for seed in range(20)]


def test_damage_and_copies() -> None:
    disk = SimDisk({"a": b"abc"})
    copy = disk.copy()
    disk.damage("a", 1, 1)
    assert disk.read("a") == b"acc"
    assert copy.read("a") == b"abc"
