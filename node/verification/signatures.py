"""What a signature backend is, and the memory that it works on.

``node.verification.batch`` copies the witnesses of a tray into a ``SignatureTable`` (so that
guards and backend judge the very same bytes) and asks a ``Backend`` which are valid. A table is
allocated once per process and never moves: the addresses that the C libraries want are computed
once.
"""

from __future__ import annotations

from typing import Protocol

import numpy as np
import numpy.typing as npt

from node.errors import NodeError
from node.params import (
    KEY_BYTES,
    SIGN_PREFIX_BYTES,
    SIGN_PREFIX_SPEND,
    SIGNED_MESSAGE_BYTES,
    WITNESS_BYTES,
)

LANES = 8
"""Signatures that the widest backend takes in one call; tables are padded to a multiple of it."""

_MESSAGE_STRIDE_BYTES = 64  # one cache line each; 47 are used

assert SIGNED_MESSAGE_BYTES <= _MESSAGE_STRIDE_BYTES

Words = npt.NDArray[np.uint64]
Bytes = npt.NDArray[np.uint8]
Flags = npt.NDArray[np.bool_]


class BackendUnavailable(NodeError):
    """A signature backend cannot run here: what is missing, and how to get it."""


class SignatureTable:
    """Room for signatures and the messages that they sign, with pointer tables over it.

    ``witnesses`` u8[capacity, 96]: public key, R, S; ``limbs`` is the same memory as u64[capacity,
    12]. ``ids`` u8[messages, 32]: the transaction ids; each is preceded in memory by the spend
    prefix. ``keys``, ``rs``, ``ss`` and ``messages`` u64[capacity]: addresses; the first three
    never change, ``point`` sets which message each signature is for. ``pointer_tables``: where the
    tables ``rs``, ``ss``, ``messages`` and ``keys`` lie themselves. Rows beyond those in use hold
    stale bytes, yet always point into the table: a backend may read them as padding.
    """

    __slots__ = (
        "_message_base",
        "_message_memory",
        "capacity",
        "ids",
        "keys",
        "limbs",
        "messages",
        "pointer_tables",
        "rs",
        "ss",
        "witnesses",
    )

    def __init__(self, capacity: int, messages: int) -> None:
        self.capacity = -(-capacity // LANES) * LANES
        self.limbs: Words = np.zeros((self.capacity, WITNESS_BYTES // 8), dtype="<u8")
        self.witnesses: Bytes = self.limbs.view(np.uint8)
        self._message_memory: Bytes = np.zeros((messages, _MESSAGE_STRIDE_BYTES), dtype=np.uint8)
        self._message_memory[:, :SIGN_PREFIX_BYTES] = np.frombuffer(SIGN_PREFIX_SPEND, np.uint8)
        self.ids: Bytes = self._message_memory[:, SIGN_PREFIX_BYTES:SIGNED_MESSAGE_BYTES]
        self._message_base = np.uint64(self._message_memory.ctypes.data)
        rows = np.arange(self.capacity, dtype=np.uint64) * np.uint64(WITNESS_BYTES)
        self.keys: Words = rows + np.uint64(self.limbs.ctypes.data)
        self.rs: Words = self.keys + np.uint64(KEY_BYTES)
        self.ss: Words = self.rs + np.uint64(KEY_BYTES)
        self.messages: Words = np.full(self.capacity, self._message_base, dtype=np.uint64)
        self.pointer_tables: tuple[int, ...] = tuple(
            addresses.ctypes.data for addresses in (self.rs, self.ss, self.messages, self.keys)
        )

    def point(self, message_of: npt.NDArray[np.intp]) -> None:
        """Say that signature ``k`` signs message ``message_of[k]``."""
        np.multiply(
            message_of,
            _MESSAGE_STRIDE_BYTES,
            out=self.messages[: len(message_of)],
            casting="unsafe",
        )
        self.messages[: len(message_of)] += self._message_base


class Backend(Protocol):
    """One way to verify Ed25519 signatures; every one gives the verdicts of libsodium."""

    @property
    def name(self) -> str:
        """The backend as configuration and log call it."""

    @property
    def lanes(self) -> int:
        """Signatures that one call of the library verifies."""

    @property
    def advice(self) -> str:
        """What would make verification faster here; empty when nothing is known."""

    def verify(self, table: SignatureTable, count: int) -> Flags:
        """Return which of the table's first ``count`` signatures are valid: bool[count]."""
