"""The reference backend: libsodium as PyNaCl brings it, whose verdict is the network's rule.

Signatures come in a ``SignatureTable`` and are judged where they lie, one call each, through the
very library file that PyNaCl has loaded. Its ``crypto_sign_open`` would want signature and message
side by side; the function that it calls itself takes two pointers. Verifiers and signers
import this, and ``consensus``, which confirms what agreement counts.
"""

from __future__ import annotations

import ctypes

import numpy as np
from nacl import _sodium, bindings

from node.verification.rule import check_rule
from node.verification.signatures import BackendUnavailable, Flags, SignatureTable

_FUNCTION = "crypto_sign_ed25519_verify_detached"


class NaclBackend:
    """libsodium, one signature a call.

    Raises ``BackendUnavailable`` when the installed PyNaCl hides the function or its libsodium has
    another rule of what is valid.
    """

    name = "nacl"
    at_once = 16

    def __init__(self, advice: str = "") -> None:
        self.advice = advice
        bindings.sodium_init()
        path = _sodium.__file__
        try:
            self._verify = getattr(ctypes.CDLL(path), _FUNCTION)
        except (OSError, AttributeError) as error:
            raise BackendUnavailable(
                f"the libsodium of PyNaCl ({path}) cannot be called: {error}",
                "reinstall it from its wheel (pip install --force-reinstall PyNaCl)",
            ) from error
        pointer = ctypes.c_void_p
        self._verify.argtypes = (pointer, pointer, ctypes.c_ulonglong, pointer)
        self._verify.restype = ctypes.c_int
        check_rule(self)

    def verify(self, table: SignatureTable, count: int, first: int = 0) -> Flags:
        """Return which of ``count`` signatures of the table, from ``first`` on, are valid:
        bool[count].
        """
        verify = self._verify
        rows = slice(first, first + count)
        return np.array(
            [
                verify(signature, message, length, key) == 0
                for signature, message, length, key in zip(
                    table.rs[rows].tolist(),
                    table.messages[rows].tolist(),
                    table.lengths[rows].tolist(),
                    table.keys[rows].tolist(),
                    strict=True,
                )
            ],
            dtype=np.bool_,
        )

    def verify_alone(self, key: bytes, signature: bytes, message: bytes) -> bool:
        """Return whether one signature is valid, without a table: key[32], signature[64]."""
        result: int = self._verify(signature, message, len(message), key)
        return result == 0

    def verify_one(self, table: SignatureTable, row: int) -> bool:
        """Return whether the table's signature ``row`` is valid."""
        result: int = self._verify(
            int(table.rs[row]),
            int(table.messages[row]),
            int(table.lengths[row]),
            int(table.keys[row]),
        )
        return result == 0
