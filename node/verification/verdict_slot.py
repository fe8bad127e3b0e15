"""Where the columns of a verdict slot lie: plain numbers, for those who make room for slots too.

``node.verification.columns`` lays its views out by these; ``node.wiring``, which is read in a
process that needs no arrays, asks how large a slot is.
"""

from __future__ import annotations

from typing import Final, NamedTuple

from node.params import ID_BYTES, INPUT_BYTES, KEY_BYTES, OUTPOINT_BYTES

ALIGNMENT_BYTES: Final = 8
_ELEMENT_BYTES: Final = {"u1": 1, "<u2": 2, "<u8": 8}


class Column(NamedTuple):
    """A column of a slot: where it begins, and what it is for NumPy."""

    offset: int
    shape: tuple[int, ...]
    element: str


def max_inputs(tray_bytes: int) -> int:
    """Most inputs that ``tray_bytes`` bytes of transactions can hold."""
    return tray_bytes // INPUT_BYTES


def place_columns(max_items: int, tray_bytes: int) -> tuple[list[Column], int]:
    """The columns, each on an 8-byte boundary, and the size of the slot, a multiple of 8 bytes.

    In order: codes, ids, numbers of inputs, sums of outputs; outpoints and owners of the inputs.
    """
    inputs = max_inputs(tray_bytes)
    columns = []
    offset = 0
    for shape, element in (
        ((max_items,), "u1"),
        ((max_items, ID_BYTES), "u1"),
        ((max_items,), "<u2"),
        ((max_items,), "<u8"),
        ((inputs, OUTPOINT_BYTES), "u1"),
        ((inputs, KEY_BYTES), "u1"),
    ):
        columns.append(Column(offset, shape, element))
        size_bytes = _ELEMENT_BYTES[element]
        for extent in shape:
            size_bytes *= extent
        offset += -(-size_bytes // ALIGNMENT_BYTES) * ALIGNMENT_BYTES
    return columns, offset


def slot_bytes(max_items: int, tray_bytes: int) -> int:
    """Size of one slot in bytes (``TrayDims.verdict_bytes``), a multiple of 8."""
    _, size_bytes = place_columns(max_items, tray_bytes)
    return size_bytes
