"""Descriptors: forty bytes, whatever they are."""

import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.descriptor import DESCRIPTOR_BYTES, pack_descriptor, unpack_descriptor


@given(st.binary(min_size=DESCRIPTOR_BYTES, max_size=DESCRIPTOR_BYTES))
def test_any_forty_bytes_are_one(frame: bytes) -> None:
    found = unpack_descriptor(frame)
    assert pack_descriptor(*found) == frame[:6] + b"\0\0" + frame[8:]  # two bytes are unused


@given(st.binary(max_size=DESCRIPTOR_BYTES - 1) | st.binary(min_size=DESCRIPTOR_BYTES + 1))
def test_any_other_number_of_bytes_is_none(frame: bytes) -> None:
    with pytest.raises(struct.error):
        unpack_descriptor(frame)
