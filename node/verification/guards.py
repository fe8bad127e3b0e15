"""What to doubt about a signature that the lax backend accepted.

``mbx_ed25519_verify_mb8`` computes the right equation (no cofactor, R compared by bytes) but lets
S + L, keys of small order or in non-canonical encoding, and R of small order pass, all of which
libsodium refuses. The guards see the same bytes that the backend saw and name every signature for
which one of these could be the case; libsodium then decides it.

They are coarse on purpose: one or two words of 64 bits are compared instead of whole numbers,
which doubts a good signature once in 2^60. It costs nobody anything but time. The other direction
needs no guard: what mb8 refuses, libsodium refuses (vectors, mixed-order keys and mutations in the
tests), so a flood of bad signatures costs what good ones cost.
"""

from __future__ import annotations

import numpy as np

from node.verification.signatures import Flags, Words

P = 2**255 - 19
L = 2**252 + 27742317777372353535851937790883648493
SMALL_ORDER_Y = (
    0,  # order 4
    1,  # order 1
    P - 1,  # order 2
    0x7A03AC9277FDC74EC6CC392CFA53202A0F67100D760B3CBA4FD84D3D706A17C7,  # order 8
    0x05FC536D880238B13933C6D305ACDFD5F098EFF289F4C345B027B2C28F95E826,  # order 8, P minus it
)
"""The y coordinates of the eight points whose order divides 8 (the sign of x tells the rest)."""

_TOP = np.uint64(2**63 - 1)  # of a coordinate's highest word: all bits but the sign of x
_ORDER_8 = np.uint64(min(y >> 192 for y in SMALL_ORDER_Y[3:]))
_S_TOP_BITS = np.uint64(L >> 192)

# Folding t to min(t, _TOP - t) makes one value of each pair y, P - y, and 0 of everything >= P.
assert {min(y >> 192, int(_TOP) - (y >> 192)) for y in (*SMALL_ORDER_Y, P, 2**255 - 1)} == {
    0,
    int(_ORDER_8),
}


def doubtful(limbs: Words) -> Flags:
    """Return which signatures mb8 may have accepted wrongly: bool[n].

    ``limbs`` u64[n, 12]: key, R and S as four little-endian words each. True wherever S >= L, or y
    of the key or of R is >= p or that of a small-order point.
    """
    tops = limbs[:, 3:8:4] & _TOP
    folded = np.minimum(tops, tops ^ _TOP)
    strange = (folded == 0) | (folded == _ORDER_8)
    doubts: Flags = strange[:, 0] | strange[:, 1] | (limbs[:, 11] >= _S_TOP_BITS)
    return doubts
