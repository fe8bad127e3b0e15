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
import sys
from pathlib import Path
from typing import Any

import numpy as np

from node.params import SIGNED_MESSAGE_BYTES
from node.verification.guards import doubtful
from node.verification.nacl import NaclBackend
from node.verification.rule import check_rule
from node.verification.signatures import LANES, BackendUnavailable, Flags, SignatureTable

_LIBRARY = ("ipp-crypto", "libcrypto_mb.so.13")
_COMPILER_LIBRARIES = tuple(
    ("intel-cmplr-lib-rt", name)
    for name in ("libintlc.so.5", "libimf.so", "libirng.so", "libsvml.so")
)
_SYSTEM_LIBRARY = "libcrypto.so.3"
_ED25519_ALGORITHM = 14  # MBX_ALGO_EDDSA_ED25519
_EIGHT_LANES = 8  # the bit of mbx_get_algo_info's answer that promises the mb8 functions
_POINTER_BYTES = 8
_INSTALL = "pip install 'timed[avx512]', or set the backend to nacl"


def load_library() -> ctypes.CDLL:
    """Load libcrypto_mb and what it needs.

    Raises ``BackendUnavailable`` for a missing package, file or OpenSSL, and for a processor
    without AVX-512 IFMA.
    """
    if sys.platform != "linux":
        raise BackendUnavailable("avx512 runs on Linux only", "set the backend to nacl")
    paths = [_located(*named) for named in (*_COMPILER_LIBRARIES, _LIBRARY)]
    try:
        ctypes.CDLL(_SYSTEM_LIBRARY)
    except OSError as error:
        raise BackendUnavailable(
            f"OpenSSL 3 of the system ({_SYSTEM_LIBRARY}) cannot be loaded: {error}",
            "install it (Debian and Ubuntu: apt install libssl3), or set the backend to nacl",
        ) from error
    try:
        # Each stays loaded for good, and its name then satisfies what the next one needs.
        *_, library = [ctypes.CDLL(str(path)) for path in paths]
        library.mbx_get_algo_info.restype = ctypes.c_uint64
        lanes = library.mbx_get_algo_info(ctypes.c_int(_ED25519_ALGORITHM))
    except (OSError, AttributeError) as error:
        raise BackendUnavailable(
            f"{_LIBRARY[1]} cannot be used: {error}",
            "reinstall it (pip install --force-reinstall ipp-crypto intel-cmplr-lib-rt), "
            "or set the backend to nacl",
        ) from error
    if not lanes & _EIGHT_LANES:
        raise BackendUnavailable(
            "this processor has no AVX-512 IFMA",
            "set the backend to nacl; nothing to install helps",
        )
    return library


def _located(package: str, name: str) -> Path:
    """The path of a library file that ``package`` has installed, or that lies where it would."""
    candidates = [Path(prefix) / "lib" / name for prefix in (sys.prefix, sys.base_prefix)]
    try:
        files = importlib.metadata.files(package) or []
    except importlib.metadata.PackageNotFoundError:
        files = []
    candidates[:0] = [Path(str(file.locate())) for file in files if file.name == name]
    for path in candidates:
        if path.is_file():
            return path.resolve()
    raise BackendUnavailable(f"{name} of the package {package} is not installed", _INSTALL)


class Mb8Backend:
    """libcrypto_mb, eight signatures a call; libsodium for what the guards doubt and for a single one.

    Raises ``BackendUnavailable`` when the library cannot be loaded or judges by another rule.
    """

    name = "avx512"
    lanes = LANES
    advice = ""

    def __init__(self) -> None:
        self._reference = NaclBackend()
        self._verify: Any = load_library().mbx_ed25519_verify_mb8
        self._verify.argtypes = (ctypes.c_void_p,) * 5
        self._verify.restype = ctypes.c_uint32
        self._lengths = np.full(LANES, SIGNED_MESSAGE_BYTES, dtype=np.uint32)
        self._lengths_address = self._lengths.ctypes.data
        check_rule(self)

    def verify(self, table: SignatureTable, count: int) -> Flags:
        """Return which of the table's first ``count`` signatures are valid: bool[count]."""
        # One signature in eight lanes costs more than libsodium, two cost less.
        full = count - 1 if count % LANES == 1 else count
        valid: Flags = np.empty(count, dtype=np.bool_)
        if full:
            valid[:full] = self._verify_lanes(table, full)
            doubts = doubtful(table.limbs[:full])
            if doubts.any():
                for row in np.flatnonzero(doubts & valid[:full]).tolist():
                    valid[row] = self._reference.verify_one(table, row)
        if full < count:
            valid[full] = self._reference.verify_one(table, full)
        return valid

    def _verify_lanes(self, table: SignatureTable, count: int) -> Flags:
        verify, lengths = self._verify, self._lengths_address
        r, s, message, key = table.pointer_tables
        statuses = [
            verify(r + at, s + at, message + at, lengths, key + at)
            for at in range(0, count * _POINTER_BYTES, LANES * _POINTER_BYTES)
        ]
        if not any(statuses):
            return np.ones(count, dtype=np.bool_)
        packed = np.array(statuses, dtype="<u4").view(np.uint8)  # a lane's status is half a byte
        lanes = np.empty((len(packed), 2), dtype=np.uint8)
        np.bitwise_and(packed, 15, out=lanes[:, 0])
        np.right_shift(packed, 4, out=lanes[:, 1])
        valid: Flags = lanes.ravel()[:count] == 0
        return valid
