"""The fast backend: Intel's multi-buffer library verifies eight signatures in one call.

Signatures come in a ``SignatureTable``; verdicts equal to libsodium's go back. The library
(``libcrypto_mb`` from the package ipp-crypto, AVX-512 IFMA) is laxer than the rule, so an
acceptance that ``guards`` doubt is decided by libsodium. It holds no state and starts no thread.
Only verifiers and load generators import this.

Trap: the file names four compiler libraries as needed that it takes nothing from, and no search
path to them; they are loaded by path first, and the system's OpenSSL 3 by name.
"""

from __future__ import annotations

import ctypes
import importlib.metadata
import platform
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from node.verification.guards import doubtful
from node.verification.nacl import NaclBackend
from node.verification.rule import check_rule
from node.verification.signatures import LANES, BackendUnavailable, Flags, SignatureTable

_PACKAGES = ("ipp-crypto", "intel-cmplr-lib-rt")
_COMPILER_LIBRARIES = ("libintlc.so.5", "libimf.so", "libirng.so", "libsvml.so")
_LIBRARY = "libcrypto_mb.so.13"
_SYSTEM_LIBRARY = "libcrypto.so.3"
_ED25519_ALGORITHM = 14  # MBX_ALGO_EDDSA_ED25519
_EIGHT_LANES = 8  # the bit of mbx_get_algo_info's answer that promises the mb8 functions
_POINTER_BYTES = 8  # a length is half as wide
_OR_NACL = "or set the backend to nacl"


def library_directories() -> list[Path]:
    """Return where the two packages have put their libraries, likeliest first."""
    directories = []
    for package in _PACKAGES:
        try:
            files = importlib.metadata.files(package) or []
        except importlib.metadata.PackageNotFoundError:
            continue
        directories += [
            Path(str(file.locate())).parent.resolve()
            for file in files
            if file.name in (_LIBRARY, *_COMPILER_LIBRARIES)
        ]
    directories += [Path(prefix) / "lib" for prefix in (sys.prefix, sys.base_prefix)]
    return list(dict.fromkeys(directories))


def load_library(directories: Sequence[Path]) -> ctypes.CDLL:
    """Load libcrypto_mb from one of ``directories``, and what it needs.

    Raises ``BackendUnavailable`` for a missing or broken file or OpenSSL, and for a processor
    without AVX-512 IFMA.
    """
    if sys.platform != "linux" or platform.machine() != "x86_64":
        raise BackendUnavailable("avx512 runs on x86-64 Linux only", "set the backend to nacl")
    paths = [_located(name, directories) for name in (*_COMPILER_LIBRARIES, _LIBRARY)]
    try:
        ctypes.CDLL(_SYSTEM_LIBRARY)
    except OSError as error:
        raise BackendUnavailable(
            f"the system's OpenSSL 3 ({_SYSTEM_LIBRARY}) cannot be loaded: {error}",
            f"install it (Debian, Ubuntu: apt install libssl3), {_OR_NACL}",
        ) from error
    try:
        # Each stays loaded for good, and its name then satisfies what the next one needs.
        *_, library = [ctypes.CDLL(str(path)) for path in paths]
        library.mbx_get_algo_info.restype = ctypes.c_uint64
        widths = library.mbx_get_algo_info(ctypes.c_int(_ED25519_ALGORITHM))
    except (OSError, AttributeError) as error:
        raise BackendUnavailable(
            f"{_LIBRARY} cannot be used: {error}",
            f"reinstall it (pip install --force-reinstall {' '.join(_PACKAGES)}), {_OR_NACL}",
        ) from error
    if not widths & _EIGHT_LANES:
        raise BackendUnavailable(
            "this processor has no AVX-512 IFMA", "use one that has, " + _OR_NACL
        )
    return library


def _located(name: str, directories: Sequence[Path]) -> Path:
    for directory in directories:
        path = directory / name
        if path.is_file():
            return path
    raise BackendUnavailable(
        f"{name} is not installed",
        f"install the extra avx512 (pip install {' '.join(_PACKAGES)}), {_OR_NACL}",
    )


class Mb8Backend:
    """libcrypto_mb, eight signatures a call; libsodium for what is in doubt and for a single one.

    Raises ``BackendUnavailable`` when the library cannot be loaded or judges by another rule.
    """

    name = "avx512"
    at_once = 16 * LANES
    advice = ""

    def __init__(self) -> None:
        self._reference = NaclBackend()
        self._verify: Any = load_library(library_directories()).mbx_ed25519_verify_mb8
        self._verify.argtypes = (ctypes.c_void_p,) * 5
        self._verify.restype = ctypes.c_uint32
        check_rule(self)

    def verify(self, table: SignatureTable, count: int, first: int = 0) -> Flags:
        """Return which of ``count`` signatures of the table, from ``first`` (a multiple of
        ``LANES``) on, are valid: bool[count].
        """
        # One signature in eight lanes costs more than libsodium, two cost less.
        full = count - 1 if count % LANES == 1 else count
        valid: Flags = np.empty(count, dtype=np.bool_)
        if full:
            valid[:full] = self._verify_lanes(table, full, first)
            doubts = doubtful(table.limbs[first : first + full])
            if doubts.any():
                for row in np.flatnonzero(doubts & valid[:full]).tolist():
                    valid[row] = self._reference.verify_one(table, first + row)
        if full < count:
            valid[full] = self._reference.verify_one(table, first + full)
        return valid

    def verify_alone(self, key: bytes, signature: bytes, message: bytes) -> bool:
        """Return whether one signature is valid: eight lanes cost more than libsodium's one."""
        return self._reference.verify_alone(key, signature, message)

    def _verify_lanes(self, table: SignatureTable, count: int, first: int) -> Flags:
        verify = self._verify
        r, s, message, length, key = table.pointer_tables
        statuses = [
            verify(r + at, s + at, message + at, length + at // 2, key + at)
            for at in range(
                first * _POINTER_BYTES, (first + count) * _POINTER_BYTES, LANES * _POINTER_BYTES
            )
        ]
        if not any(statuses):
            return np.ones(count, dtype=np.bool_)
        packed = np.array(statuses, dtype="<u4").view(np.uint8)  # a lane's status is half a byte
        lanes = np.empty((len(packed), 2), dtype=np.uint8)
        np.bitwise_and(packed, 15, out=lanes[:, 0])
        np.right_shift(packed, 4, out=lanes[:, 1])
        valid: Flags = lanes.ravel()[:count] == 0
        return valid
