"""Which signature backend a verifier uses, and how fast it is here.

The configuration's preference comes in, a working backend goes out; it is chosen once at the start
of a verifier process, which logs its name, measured rate and advice.
"""

from __future__ import annotations

import time
from typing import Literal, assert_never

from nacl.signing import SigningKey

from node.params import ID_BYTES
from node.transaction import spend_message
from node.verification.mb8 import Mb8Backend
from node.verification.nacl import NaclBackend
from node.verification.signatures import Backend, BackendUnavailable, SignatureTable

Preference = Literal["auto", "avx512", "nacl"]

_MEASURED_SIGNATURES = 64


def select_backend(preference: Preference) -> Backend:
    """Return the backend of that name, or with ``auto`` the fastest that works here.

    Raises ``BackendUnavailable`` when the named one cannot run, or none can.
    """
    match preference:
        case "avx512":
            return Mb8Backend()
        case "nacl":
            return NaclBackend()
        case "auto":
            try:
                return Mb8Backend()
            except BackendUnavailable as unavailable:
                return NaclBackend(advice=f"avx512 is not used: {unavailable}")
        case _:
            assert_never(preference)


def measure(backend: Backend, seconds: float) -> float:
    """Return how many valid signatures a second ``backend`` verifies on this core."""
    table = SignatureTable(_MEASURED_SIGNATURES, _MEASURED_SIGNATURES)
    owner = SigningKey(bytes(32))
    for row in range(_MEASURED_SIGNATURES):
        message = spend_message(bytes([row]) * ID_BYTES)
        table.put(row, bytes(owner.verify_key), owner.sign(message).signature, message)
    started = time.perf_counter()
    rounds = 0
    while True:
        backend.verify(table, _MEASURED_SIGNATURES)
        rounds += 1
        elapsed = time.perf_counter() - started
        if elapsed >= seconds:
            return rounds * _MEASURED_SIGNATURES / elapsed
