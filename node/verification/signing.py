"""Bulk keys and signatures for load generators; never for a validator's or a wallet's key.

Arrays of seeds and messages come in, arrays of public keys and signatures go out, the same bytes
that PyNaCl would make (Ed25519 is deterministic). Intel's library does eight at a time where it
runs, PyNaCl the work elsewhere. Seeds lie about in plain arrays: for made-up money only.
"""

from __future__ import annotations

import ctypes
from functools import cache
from typing import Any

import numpy as np
from nacl import bindings

from node.params import KEY_BYTES, SIGNATURE_BYTES, SIGNED_MESSAGE_BYTES
from node.verification.mb8 import library_directories, load_library
from node.verification.signatures import LANES, BackendUnavailable, Bytes, Words

SEED_BYTES = 32
_POINTER_BYTES = 8


def derive_keys(seeds: Bytes, *, fast: bool = True) -> Bytes:
    """Return the public keys u8[n, 32] of ``seeds`` u8[n, 32]; through PyNaCl if not ``fast``."""
    seeds = _rows(seeds, SEED_BYTES)
    keys: Bytes = np.empty((len(seeds), KEY_BYTES), dtype=np.uint8)
    library = _fast_library() if fast else None
    if library is None:
        for row, seed in enumerate(seeds):
            key, _ = bindings.crypto_sign_seed_keypair(seed.tobytes())
            keys[row] = np.frombuffer(key, dtype=np.uint8)
        return keys
    tables = _PointerTables(len(seeds))
    keys_at, seeds_at = tables.add(keys), tables.add(seeds)
    for at in tables.groups:
        _checked(library.mbx_ed25519_public_key_mb8(keys_at + at, seeds_at + at))
    return keys


def sign_messages(seeds: Bytes, public_keys: Bytes, messages: Bytes, *, fast: bool = True) -> Bytes:
    """Return the signatures u8[n, 64] of ``messages`` u8[n, 47] under ``seeds`` u8[n, 32].

    ``public_keys`` u8[n, 32] must belong to the seeds; signatures made with others are worthless
    and give the seed away.
    """
    seeds, public_keys = _rows(seeds, SEED_BYTES), _rows(public_keys, KEY_BYTES)
    messages = _rows(messages, SIGNED_MESSAGE_BYTES)
    if not len(seeds) == len(public_keys) == len(messages):
        raise ValueError(f"{len(seeds)} seeds, {len(public_keys)} keys, {len(messages)} messages")
    signatures: Bytes = np.empty((len(seeds), SIGNATURE_BYTES), dtype=np.uint8)
    library = _fast_library() if fast else None
    if library is None:
        for row, (seed, key, message) in enumerate(zip(seeds, public_keys, messages, strict=True)):
            signed = bindings.crypto_sign(message.tobytes(), seed.tobytes() + key.tobytes())
            signatures[row] = np.frombuffer(signed, dtype=np.uint8, count=SIGNATURE_BYTES)
        return signatures
    lengths = np.full(LANES, SIGNED_MESSAGE_BYTES, dtype=np.uint32)
    lengths_at = lengths.ctypes.data
    tables = _PointerTables(len(seeds))
    rs_at, ss_at = tables.add(signatures), tables.add(signatures, offset_bytes=SIGNATURE_BYTES // 2)
    messages_at, seeds_at, keys_at = (tables.add(a) for a in (messages, seeds, public_keys))
    for at in tables.groups:
        _checked(
            library.mbx_ed25519_sign_mb8(
                rs_at + at, ss_at + at, messages_at + at, lengths_at, seeds_at + at, keys_at + at
            )
        )
    return signatures


class _PointerTables:
    """Addresses of array rows, a table for each array, padded to whole groups of lanes."""

    def __init__(self, n_rows: int) -> None:
        # Padding lanes repeat row 0: they write there what row 0's own lane has written.
        self._rows: Words = np.zeros(-(-n_rows // LANES) * LANES, dtype=np.uint64)
        self._rows[:n_rows] = np.arange(n_rows)
        self._tables: list[Words] = []  # keeps the memory alive
        self.groups = range(0, len(self._rows) * _POINTER_BYTES, LANES * _POINTER_BYTES)

    def add(self, array: Bytes, offset_bytes: int = 0) -> int:
        base = np.uint64(array.ctypes.data + offset_bytes)
        table = self._rows * np.uint64(array.strides[0]) + base
        self._tables.append(table)
        return int(table.ctypes.data)


@cache
def _fast_library() -> Any:
    try:
        library = load_library(library_directories())
    except BackendUnavailable:
        return None
    for name, arguments in (("mbx_ed25519_public_key_mb8", 2), ("mbx_ed25519_sign_mb8", 6)):
        function = getattr(library, name)
        function.argtypes = (ctypes.c_void_p,) * arguments
        function.restype = ctypes.c_uint32
    return library


def _rows(array: Bytes, width: int) -> Bytes:
    if array.dtype != np.uint8 or array.ndim != 2 or array.shape[1] != width:
        raise ValueError(f"array of {array.dtype}{array.shape}, uint8 (n, {width}) needed")
    return np.ascontiguousarray(array)


def _checked(status: int) -> None:
    if status:
        raise RuntimeError(f"libcrypto_mb refused: status {status:#010x}")
