"""Shared memory segments: nameless files in memory, passed between processes as descriptors.

The supervisor creates every segment and is asked for descriptors of it; the process that writes it
gets the descriptor itself, every other one a read-only re-opening. Being nameless they need no
clean-up: the memory is gone when the last process that holds a descriptor or a mapping is, however
it ended. A segment is sealed against any change of size, so no mapping of it can ever fault
(SIGBUS).

``Segment`` owns its descriptor; ``MappedSegment`` owns its mapping, which outlives the descriptor.
"""

from __future__ import annotations

import ctypes
import errno
import fcntl
import mmap
import os
from typing import Self

from pipeline.errors import SegmentError

# Linux 6.3, linux/memfd.h: not in Python's os module yet. The mode loses its execute bits for good.
_MFD_NOEXEC_SEAL = 0x0008
_SEALS = fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_SEAL

# A reader that re-opens its descriptor by path gets no more than it was given (root excepted).
_MODE = 0o400


class Segment:
    """A segment and its writable descriptor ``fd``; ``size_bytes`` never changes."""

    def __init__(self, name: str, size_bytes: int, fd: int) -> None:
        self.name = name
        self.size_bytes = size_bytes
        self.fd = fd

    @staticmethod
    def create(name: str, size_bytes: int) -> Segment:
        """A new segment full of zeros; ``name`` shows in /proc/<pid>/maps.

        Memory is only taken for pages that somebody writes. Raises SegmentError if the kernel
        refuses.
        """
        if size_bytes <= 0:
            raise SegmentError(f"segment {name}: a size of {size_bytes} bytes is impossible")
        fd = -1
        try:
            fd = _create_fd(name)
            os.ftruncate(fd, size_bytes)
            fcntl.fcntl(fd, fcntl.F_ADD_SEALS, _SEALS)
            os.fchmod(fd, _MODE)
        except (OSError, OverflowError) as error:
            if fd >= 0:
                os.close(fd)
            raise SegmentError(f"segment {name} of {size_bytes} bytes: {error}") from error
        return Segment(name, size_bytes, fd)

    def readonly_fd(self) -> int:
        """A new descriptor, owned by the caller, of which no writable mapping can be made."""
        return os.open(f"/proc/self/fd/{self.fd}", os.O_RDONLY | os.O_CLOEXEC)

    def close(self) -> None:
        """Close the descriptor, once; mappings and other descriptors live on."""
        if self.fd >= 0:
            os.close(self.fd)
            self.fd = -1


class MappedSegment:
    """A mapping; ``view`` is its bytes, read-only unless it was mapped writable."""

    def __init__(self, mapping: mmap.mmap) -> None:
        self._mapping = mapping
        self.view = memoryview(mapping)

    @property
    def address(self) -> int:
        """Where the first byte lies in this process."""
        return _address(self.view)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def close(self) -> bool:
        """Unmap, at once if nothing looks at the bytes any more, else when the last look ends.

        An array over the view keeps the memory mapped, because pulling it away would be a crash.
        True if the memory was unmapped at once.
        """
        try:
            self.view.release()
            self._mapping.close()
        except BufferError:
            return False
        return True


def map_segment(
    fd: int, writable: bool, *, offset_bytes: int = 0, size_bytes: int | None = None
) -> MappedSegment:
    """Map the segment behind ``fd``, or a page-aligned part of it.

    The descriptor stays the caller's and may be closed afterwards. Raises SegmentError if it is no
    sealed segment, if it is read-only and ``writable`` is asked for, or if the part is not inside
    it.
    """
    try:
        if not fcntl.fcntl(fd, fcntl.F_GET_SEALS) & fcntl.F_SEAL_SHRINK:
            raise SegmentError("not sealed against shrinking, so a mapping could fault at any time")
        length = os.fstat(fd).st_size - offset_bytes if size_bytes is None else size_bytes
        if length <= 0:
            raise SegmentError(f"nothing to map from byte {offset_bytes} on")
        access = mmap.PROT_READ | mmap.PROT_WRITE if writable else mmap.PROT_READ
        return MappedSegment(
            mmap.mmap(fd, length, flags=mmap.MAP_SHARED, prot=access, offset=offset_bytes)
        )
    except (OSError, ValueError) as error:
        raise SegmentError(
            f"descriptor {fd} cannot be mapped {'writable' if writable else 'read-only'}: {error}"
        ) from error


def _create_fd(name: str) -> int:
    flags = os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING
    try:
        return os.memfd_create(name, flags | _MFD_NOEXEC_SEAL)
    except OSError as error:
        if error.errno != errno.EINVAL:  # what an older kernel says to a flag that it does not know
            raise
        return os.memfd_create(name, flags)


class _PyBuffer(ctypes.Structure):
    """Py_buffer of CPython's stable ABI (3.11, Include/pybuffer.h)."""

    _fields_ = (
        ("buf", ctypes.c_void_p),
        ("obj", ctypes.c_void_p),
        ("len", ctypes.c_ssize_t),
        ("itemsize", ctypes.c_ssize_t),
        ("readonly", ctypes.c_int),
        ("ndim", ctypes.c_int),
        ("format", ctypes.c_char_p),
        ("shape", ctypes.c_void_p),
        ("strides", ctypes.c_void_p),
        ("suboffsets", ctypes.c_void_p),
        ("internal", ctypes.c_void_p),
    )


def _address(view: memoryview) -> int:
    buffer = _PyBuffer()
    ctypes.pythonapi.PyObject_GetBuffer(ctypes.py_object(view), ctypes.byref(buffer), 0)
    address = buffer.buf
    ctypes.pythonapi.PyBuffer_Release(ctypes.byref(buffer))
    return int(address or 0)
