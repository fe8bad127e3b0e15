"""The verdict slot: its columns do not overlap, fit the announced size, and read back elsewhere."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from node.verification.columns import VerdictColumns

NAMES = ("codes", "txids", "n_inputs", "output_sums", "outpoints", "owners")


@given(st.integers(1, 1025), st.integers(200, 70_000))
def test_columns_fill_the_slot_aligned_and_apart(max_items: int, tray_bytes: int) -> None:
    memory = bytearray(VerdictColumns.layout_bytes(max_items, tray_bytes))
    columns = VerdictColumns(memoryview(memory), max_items, tray_bytes)
    start = np.frombuffer(memory, np.uint8).ctypes.data
    taken = np.zeros(len(memory), dtype=np.uint8)
    for name in NAMES:
        column = getattr(columns, name)
        offset = column.ctypes.data - start
        assert offset % 8 == 0
        assert column.flags.c_contiguous
        taken[offset : offset + column.nbytes] += 1
    assert taken.max() == 1
    assert (taken == 0).sum() < 8 * len(NAMES)
    assert len(memory) % 8 == 0


def test_shapes_and_a_reader_of_the_same_memory() -> None:
    memory = bytearray(VerdictColumns.layout_bytes(10, 1000))
    written = VerdictColumns(memoryview(memory), 10, 1000)
    read = VerdictColumns(memoryview(memory).toreadonly(), 10, 1000)
    assert VerdictColumns.max_inputs(1000) == 29
    shapes = [getattr(written, name).shape for name in NAMES]
    assert shapes == [(10,), (10, 32), (10,), (10,), (29, 33), (29, 32)]
    for number, name in enumerate(NAMES, start=1):
        getattr(written, name)[-1] = number
        assert (getattr(read, name)[-1] == number).all()
        assert not getattr(read, name).flags.writeable


def test_too_small_a_buffer_is_refused() -> None:
    size_bytes = VerdictColumns.layout_bytes(10, 1000)
    with pytest.raises(ValueError, match=f"{size_bytes} needed"):
        VerdictColumns(memoryview(bytearray(size_bytes - 1)), 10, 1000)
