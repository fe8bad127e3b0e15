"""The verdict columns of a tray: what a verifier found out, laid out for those who read it.

A verifier writes them (``node.verification.batch``) into its own verdict segment, one slot per
tray; ``consensus`` reads them through a read-only mapping. The object owns no memory: it is a set
of NumPy views over the caller's buffer, and lives no longer than that. Slots are reused, so
whatever lies beyond the item count of the current tray is left over from an earlier one.
"""

from __future__ import annotations

import struct
from typing import Any

import numpy as np
import numpy.typing as npt

from node.params import ID_BYTES, KEY_BYTES, OUTPOINT_BYTES
from node.verification.verdict_slot import max_inputs, place_columns, slot_bytes

_U16 = struct.Struct("<H")
_U64 = struct.Struct("<Q")


class VerdictColumns:
    """NumPy views over one tray's verdict slot, each starting on an 8-byte boundary.

    ``codes`` u8[max_items]: ``Verdict``; 0 (``ADMITTED``): encoding and signatures are good.
    ``txids`` u8[max_items, 32]: zero for rejected items.
    ``n_inputs`` u16[max_items]: zero for rejected items.
    ``output_sums`` u64[max_items], units: zero for rejected items.
    ``outpoints`` u8[max_inputs, 33] and ``owners`` u8[max_inputs, 32]: the outpoint and the witness
    key of each input, packed in item order, inputs of passing items only (``sum(n_inputs)`` rows).

    The views are read-only where the buffer is. Raises ``ValueError`` for too small a buffer.
    """

    __slots__ = (
        "_places",
        "_view",
        "codes",
        "n_inputs",
        "outpoints",
        "output_sums",
        "owners",
        "txids",
    )

    codes: npt.NDArray[np.uint8]
    txids: npt.NDArray[np.uint8]
    n_inputs: npt.NDArray[np.uint16]
    output_sums: npt.NDArray[np.uint64]
    outpoints: npt.NDArray[np.uint8]
    owners: npt.NDArray[np.uint8]

    def __init__(self, view: memoryview, max_items: int, tray_bytes: int) -> None:
        columns, size_bytes = place_columns(max_items, tray_bytes)
        if view.nbytes < size_bytes:
            raise ValueError(f"verdict slot of {view.nbytes} bytes, {size_bytes} needed")
        arrays: list[npt.NDArray[Any]] = [
            np.ndarray(shape, dtype=element, buffer=view, offset=offset)
            for offset, shape, element in columns
        ]
        (
            self.codes,
            self.txids,
            self.n_inputs,
            self.output_sums,
            self.outpoints,
            self.owners,
        ) = arrays
        self._view = view
        self._places = tuple(offset for offset, _, _ in columns)

    def put_rejected(self, item: int, code: int) -> None:
        """Write the columns of one item without arrays: for trays of a few."""
        self.put(item, code, bytes(ID_BYTES), 0, 0)

    def put_inputs(self, first: int, outpoints: bytes, owners: bytes) -> None:
        """Write packed inputs, from the given row on: outpoint[33] and owner[32] of each."""
        _, _, _, _, outpoints_at, owners_at = self._places
        at = outpoints_at + first * OUTPOINT_BYTES
        self._view[at : at + len(outpoints)] = outpoints
        at = owners_at + first * KEY_BYTES
        self._view[at : at + len(owners)] = owners

    def put(self, item: int, code: int, txid: bytes, n_inputs: int, output_sum: int) -> None:
        """Write the columns of one item without arrays: for trays of a few."""
        codes_at, txids_at, n_inputs_at, sums_at, _, _ = self._places
        self._view[codes_at + item] = code
        at = txids_at + item * ID_BYTES
        self._view[at : at + ID_BYTES] = txid
        _U16.pack_into(self._view, n_inputs_at + 2 * item, n_inputs)
        _U64.pack_into(self._view, sums_at + 8 * item, output_sum)

    max_inputs = staticmethod(max_inputs)
    layout_bytes = staticmethod(slot_bytes)
