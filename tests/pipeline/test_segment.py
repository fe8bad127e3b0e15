"""Shared memory segments: who may write, and that nobody can shrink or leak them."""

import fcntl
import mmap
import os

import numpy as np
import pytest

from pipeline.errors import SegmentError
from pipeline.segment import Segment, map_segment


@pytest.fixture
def segment():
    made = Segment.create("test-segment", 3 * mmap.PAGESIZE)
    yield made
    made.close()


def open_fds():
    return set(os.listdir("/proc/self/fd"))


def test_a_writer_and_a_reader_see_the_same_bytes(segment):
    readonly = segment.readonly_fd()
    with map_segment(segment.fd, True) as writer, map_segment(readonly, False) as reader:
        os.close(readonly)  # a mapping needs no descriptor
        assert writer.view.nbytes == reader.view.nbytes == segment.size_bytes
        assert not any(reader.view)
        writer.view[-5:] = b"hello"
        assert bytes(reader.view[-5:]) == b"hello"


def test_a_read_only_descriptor_cannot_be_used_to_write(segment):
    readonly = segment.readonly_fd()
    try:
        with pytest.raises(SegmentError, match="cannot be mapped writable"):
            map_segment(readonly, writable=True)
        with pytest.raises(OSError, match="Bad file descriptor"):
            os.write(readonly, b"x")
        with map_segment(readonly, writable=False) as reader:
            assert reader.view.readonly
            with pytest.raises(TypeError):
                reader.view[0] = 1
            with pytest.raises(ValueError, match="read-only"):
                np.frombuffer(reader.view, np.uint8)[0] = 1
    finally:
        os.close(readonly)
    # Re-opening by path gives no more, unless to a privileged user.
    assert os.fstat(segment.fd).st_mode & 0o777 == 0o400


def test_nobody_can_change_its_size_or_lift_the_seal(segment):
    for size in (0, segment.size_bytes - 1, segment.size_bytes + 1):
        with pytest.raises(PermissionError):
            os.ftruncate(segment.fd, size)
    with pytest.raises(PermissionError):
        fcntl.fcntl(segment.fd, fcntl.F_ADD_SEALS, fcntl.F_SEAL_WRITE)


def test_what_is_not_sealed_is_not_mapped(tmp_path):
    unsealed = os.memfd_create("unsealed", os.MFD_ALLOW_SEALING)
    os.ftruncate(unsealed, mmap.PAGESIZE)
    file = os.open(tmp_path / "file", os.O_RDWR | os.O_CREAT)
    reading, writing = os.pipe()
    for fd in (unsealed, file, reading, writing):
        with pytest.raises(SegmentError, match=r"sealed|cannot be mapped"):
            map_segment(fd, writable=False)
        os.close(fd)


def test_parts_are_mapped_by_offset_and_size(segment):
    page = mmap.PAGESIZE
    with map_segment(segment.fd, writable=True) as whole:
        whole.view[page] = 7
        with map_segment(segment.fd, False, offset_bytes=page, size_bytes=page) as part:
            assert part.view.nbytes == page
            assert part.view[0] == 7
        with map_segment(segment.fd, False, offset_bytes=page) as rest:
            assert rest.view.nbytes == 2 * page
    for offset, size in ((0, 4 * page), (2 * page, 2 * page), (3 * page, None), (1, page)):
        with pytest.raises(SegmentError):
            map_segment(segment.fd, False, offset_bytes=offset, size_bytes=size)


@pytest.mark.parametrize("writable", [True, False])
def test_the_address_is_that_of_the_first_byte(segment, writable):
    with map_segment(segment.fd, writable) as mapped:
        array = np.frombuffer(mapped.view, np.uint8)
        assert mapped.address == array.ctypes.data
        assert mapped.address % mmap.PAGESIZE == 0
        del array


def test_closing_never_pulls_memory_away_from_an_array(segment):
    mapped = map_segment(segment.fd, writable=True)
    array = np.frombuffer(mapped.view, np.uint8)
    assert not mapped.close()
    array_is_alive = array.copy()
    assert array_is_alive.sum() == 0
    del array
    assert mapped.close()
    assert mapped.close()


def test_nothing_is_left_open():
    before = open_fds()
    segment = Segment.create("test-leak", 100)
    readonly = segment.readonly_fd()
    assert not os.get_inheritable(segment.fd)
    assert not os.get_inheritable(readonly)
    mapped = map_segment(readonly, writable=False)
    assert mapped.view.nbytes == 100
    os.close(readonly)
    mapped.close()
    segment.close()
    segment.close()
    assert open_fds() == before
    with open("/proc/self/maps") as maps:
        assert "test-leak" not in maps.read()


@pytest.mark.parametrize("size", [0, -1, 1 << 63, 1 << 70])
def test_impossible_sizes_are_refused_without_a_leak(size):
    before = open_fds()
    with pytest.raises(SegmentError, match="segment odd"):
        Segment.create("odd", size)
    assert open_fds() == before
