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
    SIGNATURE_BYTES,
    SIGNED_MESSAGE_BYTES,
    WITNESS_BYTES,
)

LANES = 8
"""Signatures that the widest backend takes in one call; tables are padded to a multiple of it."""

CACHE_LINE_BYTES = 64

assert SIGNED_MESSAGE_BYTES <= CACHE_LINE_BYTES

Words = npt.NDArray[np.uint64]
Bytes = npt.NDArray[np.uint8]
Flags = npt.NDArray[np.bool_]


class BackendUnavailable(NodeError):
    """A signature backend cannot run here: what is missing, and how to get it."""


class SignatureTable:
    """Room for signatures and the messages that they sign, with pointer tables over it.

    ``witnesses`` u8[capacity, 96]: public key, R, S; ``limbs`` is the same memory, u64[capacity,
    12]. ``ids`` u8[messages, 32]: transaction ids, each behind the spend prefix in memory.
    ``keys``, ``rs``, ``ss`` and ``messages`` u64[capacity] are addresses, ``lengths``
    u32[capacity] the messages' lengths in bytes; ``pointer_tables`` says where ``rs``, ``ss``,
    ``messages``, ``lengths`` and ``keys`` lie themselves.

    Rows beyond those in use hold stale bytes, yet always point into the table: a backend may read
    them as padding. ``slot_bytes`` bounds the messages that ``put`` takes.
    """

    __slots__ = (
        "_slot_addresses",
        "_slots",
        "capacity",
        "ids",
        "keys",
        "lengths",
        "limbs",
        "messages",
        "pointer_tables",
        "rs",
        "ss",
        "witnesses",
    )

    def __init__(self, capacity: int, messages: int, slot_bytes: int = CACHE_LINE_BYTES) -> None:
        if slot_bytes < SIGNED_MESSAGE_BYTES:
            raise ValueError(f"slots of {slot_bytes} bytes, {SIGNED_MESSAGE_BYTES} needed")
        self.capacity = -(-capacity // LANES) * LANES
        self.limbs: Words = np.zeros((self.capacity, WITNESS_BYTES // 8), dtype="<u8")
        self.witnesses: Bytes = self.limbs.view(np.uint8)
        self._slots: Bytes = np.zeros((max(messages, 1), slot_bytes), dtype=np.uint8)
        self._slots[:, :SIGN_PREFIX_BYTES] = np.frombuffer(SIGN_PREFIX_SPEND, np.uint8)
        self.ids: Bytes = self._slots[:, SIGN_PREFIX_BYTES:SIGNED_MESSAGE_BYTES]
        self._slot_addresses: Words = np.arange(len(self._slots), dtype=np.uint64)
        self._slot_addresses *= np.uint64(slot_bytes)
        self._slot_addresses += np.uint64(self._slots.ctypes.data)
        rows = np.arange(self.capacity, dtype=np.uint64) * np.uint64(WITNESS_BYTES)
        self.keys: Words = rows + np.uint64(self.limbs.ctypes.data)
        self.rs: Words = self.keys + np.uint64(KEY_BYTES)
        self.ss: Words = self.rs + np.uint64(KEY_BYTES)
        self.messages: Words = np.full(self.capacity, self._slot_addresses[0])
        self.lengths = np.full(self.capacity, SIGNED_MESSAGE_BYTES, dtype=np.uint32)
        self.pointer_tables: tuple[int, int, int, int, int] = (
            self.rs.ctypes.data,
            self.ss.ctypes.data,
            self.messages.ctypes.data,
            self.lengths.ctypes.data,
            self.keys.ctypes.data,
        )

    def point(self, message_of: npt.NDArray[np.intp]) -> None:
        """Say that signature ``k`` signs message ``message_of[k]``."""
        self.messages[: len(message_of)] = self._slot_addresses[message_of]

    def put(self, row: int, key: bytes, signature: bytes, message: bytes) -> None:
        """Fill ``row`` by hand: key[32], signature[64] and any message that fits a slot.

        A row's message takes the place of transaction id ``row`` and of its prefix: a table serves
        either ``put`` or ``ids``. Raises ``ValueError`` for fields of another length.
        """
        if len(key) != KEY_BYTES or len(signature) != SIGNATURE_BYTES:
            raise ValueError(f"key of {len(key)} bytes, signature of {len(signature)}")
        self.witnesses[row] = np.frombuffer(key + signature, dtype=np.uint8)
        self._slots[row, : len(message)] = np.frombuffer(message, dtype=np.uint8)
        self.lengths[row] = len(message)
        self.messages[row] = self._slot_addresses[row]


class Backend(Protocol):
    """One way to verify Ed25519 signatures; every one gives the verdicts of libsodium."""

    @property
    def name(self) -> str:
        """The backend as configuration and log call it."""

    @property
    def at_once(self) -> int:
        """Signatures to ask for in one call of `verify`, to be back in about a millisecond."""

    @property
    def advice(self) -> str:
        """What would make verification faster here; empty when nothing is known."""

    def verify(self, table: SignatureTable, count: int, first: int = 0) -> Flags:
        """Return which of ``count`` signatures of the table, from ``first`` (a multiple of
        ``LANES``) on, are valid: bool[count].
        """

    def verify_alone(self, key: bytes, signature: bytes, message: bytes) -> bool:
        """Return whether one signature is valid, without a table: key[32], signature[64]."""
