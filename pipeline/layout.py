"""Sizes and offsets of the tray segments, derived from the dimensions in the topology table.

The supervisor makes the segments by them, `pipeline.tray` lays its views by them; the picture is
there.
"""

from __future__ import annotations

from dataclasses import dataclass

from pipeline.topology import TrayDims

HEADER_BYTES = 64
ALIGN_BYTES = 64
PAGE_BYTES = 4096


def _aligned(size_bytes: int, to_bytes: int = ALIGN_BYTES) -> int:
    return -(-size_bytes // to_bytes) * to_bytes


@dataclass(frozen=True, slots=True)
class TrayLayout:
    """Sizes and offsets of the slots of all three segments, derived from the dimensions."""

    dims: TrayDims

    @property
    def offsets_bytes(self) -> int:
        """Bytes of the offsets table of an input slot."""
        return _aligned(4 * (self.dims.max_items + 1))

    @property
    def input_stride_bytes(self) -> int:
        """Bytes of one input slot; slots begin on page boundaries."""
        return _aligned(HEADER_BYTES + self.offsets_bytes + self.dims.tray_bytes, PAGE_BYTES)

    @property
    def verdict_stride_bytes(self) -> int:
        """Bytes of one verdict slot; slots begin on page boundaries."""
        return _aligned(HEADER_BYTES + self.dims.verdict_bytes, PAGE_BYTES)

    @property
    def admission_stride_bytes(self) -> int:
        """Bytes of one admission slot."""
        return _aligned(HEADER_BYTES + self.dims.max_items)

    def segment_bytes(self, name: str) -> int:
        """Size of the segment called `name` ("input", "verdict-<k>", "admission")."""
        if name == "input":
            return self.input_stride_bytes * self.dims.trays
        if name == "admission":
            return self.admission_stride_bytes * self.dims.trays
        if name.startswith("verdict-"):
            return self.verdict_stride_bytes * self.dims.trays * 2
        raise ValueError(f"no tray segment is called {name!r}")
