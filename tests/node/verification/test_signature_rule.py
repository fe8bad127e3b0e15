"""Every backend gives libsodium's verdict: public vectors, strange keys and points, mutations."""

from __future__ import annotations

import hashlib
import json
import random
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from nacl import bindings
from nacl.exceptions import BadSignatureError
from nacl.signing import SigningKey

from node.verification.guards import SMALL_ORDER_Y, L, P, doubtful
from node.verification.rule import PROBES
from node.verification.signatures import Backend, SignatureTable

VECTORS = Path(__file__).parents[2] / "vectors"
SIGN_BIT = 1 << 255


class Case(NamedTuple):
    key: bytes
    signature: bytes
    message: bytes


def reference(case: Case) -> bool:
    """What PyNaCl's own binding says."""
    try:
        bindings.crypto_sign_open(case.signature + case.message, case.key)
    except BadSignatureError:
        return False
    return True


def verdicts(backend: Backend, cases: list[Case]) -> list[bool]:
    longest = max(len(case.message) for case in cases)
    table = SignatureTable(len(cases), len(cases), slot_bytes=max(longest, 64))
    for row, case in enumerate(cases):
        table.put(row, case.key, case.signature, case.message)
    answers: list[bool] = backend.verify(table, len(cases)).tolist()
    assert answers == [backend.verify_alone(*case) for case in cases]
    return answers


def test_cctv(backend: Backend) -> None:
    vectors = json.loads((VECTORS / "cctv_ed25519.json").read_bytes())
    cases = [
        Case(bytes.fromhex(v["key"]), bytes.fromhex(v["sig"]), v["msg"].encode()) for v in vectors
    ]
    assert len(cases) == 914
    assert verdicts(backend, cases) == [reference(case) for case in cases]


def test_wycheproof(backend: Backend) -> None:
    groups = json.loads((VECTORS / "wycheproof_ed25519.json").read_bytes())["testGroups"]
    tests = [(group["publicKey"]["pk"], test) for group in groups for test in group["tests"]]
    assert len(tests) == 151
    cases, expected = [], []
    for key, test in tests:
        signature = bytes.fromhex(test["sig"])
        if len(signature) != 64:  # no transaction can carry it
            assert test["result"] == "invalid"
            continue
        cases.append(Case(bytes.fromhex(key), signature, bytes.fromhex(test["msg"])))
        expected.append(test["result"] == "valid")
    assert len(cases) > 130
    assert verdicts(backend, cases) == expected == [reference(case) for case in cases]


def test_probes_state_libsodiums_verdict() -> None:
    for probe in PROBES:
        case = Case(
            bytes.fromhex(probe.key),
            bytes.fromhex(probe.r + probe.s),
            b"TIME/spend/v1\0\0" + bytes.fromhex(probe.id),
        )
        assert reference(case) == probe.valid, probe.name


# Curve arithmetic (RFC 8032, section 5.1.4), for keys and points that no library makes.

Point = tuple[int, int, int, int]
D = -121665 * pow(121666, P - 2, P) % P
SQRT_M1 = pow(2, (P - 1) // 4, P)
ZERO: Point = (0, 1, 1, 0)


def add(a: Point, b: Point) -> Point:
    minus = (a[1] - a[0]) * (b[1] - b[0]) % P
    plus = (a[1] + a[0]) * (b[1] + b[0]) % P
    t, z = 2 * D * a[3] * b[3] % P, 2 * a[2] * b[2] % P
    e, f, g, h = plus - minus, z - t, z + t, plus + minus
    return e * f % P, g * h % P, f * g % P, e * h % P


def multiply(scalar: int, point: Point) -> Point:
    result = ZERO
    while scalar:
        if scalar & 1:
            result = add(result, point)
        point = add(point, point)
        scalar >>= 1
    return result


def from_y(y: int, sign: int) -> Point:
    square = (y * y - 1) * pow(D * y * y + 1, P - 2, P) % P
    x = pow(square, (P + 3) // 8, P)
    if x * x % P != square:
        x = x * SQRT_M1 % P
    assert x * x % P == square
    if x & 1 != sign:
        x = P - x
    return x, y, 1, x * y % P


def encoded(point: Point) -> bytes:
    inverse = pow(point[2], P - 2, P)
    x, y = point[0] * inverse % P, point[1] * inverse % P
    return (y | (x & 1) << 255).to_bytes(32, "little")


BASE = from_y(4 * pow(5, P - 2, P) % P, 0)
EIGHTH = from_y(SMALL_ORDER_Y[3], 0)
TORSION = [multiply(n, EIGHTH) for n in range(8)]
SMALL_ENCODINGS = [
    (y | sign).to_bytes(32, "little") for y in (*SMALL_ORDER_Y, P, P + 1) for sign in (0, SIGN_BIT)
]


def test_small_order_points_are_all_there_are() -> None:
    assert multiply(8, EIGHTH)[0] == 0
    assert {encoded(point)[:31] for point in TORSION} == {
        y.to_bytes(32, "little")[:31] for y in SMALL_ORDER_Y
    }


def strange_signature(
    rng: random.Random, key_torsion: int, r_torsion: int, *, small_key: bool, small_r: bool
) -> tuple[Case, bool]:
    """A signature by the textbook with small-order parts, and whether they cancel."""
    a = 0 if small_key else rng.randrange(L)
    nonce = 0 if small_r else rng.randrange(L)
    key = encoded(add(multiply(a, BASE), TORSION[key_torsion]))
    r = encoded(add(multiply(nonce, BASE), TORSION[r_torsion]))
    message = rng.randbytes(47)
    h = int.from_bytes(hashlib.sha512(r + key + message).digest(), "little") % L
    s = (nonce + h * a) % L
    cancels = (h * key_torsion + r_torsion) % 8 == 0
    return Case(key, r + s.to_bytes(32, "little"), message), cancels


def test_parts_of_small_order(backend: Backend) -> None:
    rng = random.Random(8032)
    cases, expected = [], []
    for key_torsion in range(8):
        for r_torsion in range(8):
            for small_key, small_r in ((False, False), (True, False), (False, True)):
                case, cancels = strange_signature(
                    rng, key_torsion, r_torsion, small_key=small_key, small_r=small_r
                )
                cases.append(case)
                expected.append(cancels and not small_key and not small_r)
    assert sum(expected) > 5
    assert verdicts(backend, cases) == expected == [reference(case) for case in cases]


def field(limbs_of: list[int]) -> npt.NDArray[np.uint64]:
    raw = b"".join(value.to_bytes(32, "little") for value in limbs_of)
    return np.frombuffer(raw, dtype="<u8").reshape(1, 12)


FINE = 0x1234 << 200


@pytest.mark.parametrize("y", [*SMALL_ORDER_Y, *range(P, 2**255)])
@pytest.mark.parametrize("sign", [0, SIGN_BIT])
def test_guards_doubt_every_special_coordinate(y: int, sign: int) -> None:
    assert doubtful(field([y | sign, FINE, FINE])).all()
    assert doubtful(field([FINE, y | sign, FINE])).all()
    assert not doubtful(field([FINE, FINE | sign, FINE])).any()


@given(st.integers(L, 2**256 - 1) | st.integers(L, L + 2**64))
def test_guards_doubt_every_s_that_is_not_below_l(s: int) -> None:
    assert doubtful(field([FINE, FINE, s])).all()


@given(st.binary(min_size=32, max_size=32), st.binary(max_size=47))
def test_guards_doubt_no_honest_signature(seed: bytes, message: bytes) -> None:
    owner = SigningKey(seed)
    raw = bytes(owner.verify_key) + owner.sign(message).signature
    assert not doubtful(np.frombuffer(raw, dtype="<u8").reshape(1, 12)).any()


def honest(seed: int) -> Case:
    owner = SigningKey(seed.to_bytes(32, "little"))
    message = hashlib.sha512(bytes([seed])).digest()[:47]
    return Case(bytes(owner.verify_key), owner.sign(message).signature, message)


HONEST = [honest(seed) for seed in range(12)]
MIXED = [
    strange_signature(random.Random(seed), seed % 8, seed // 8 % 8, small_key=False, small_r=False)[
        0
    ]
    for seed in range(64)
]
SPECIAL = [
    *SMALL_ENCODINGS,
    *((y | sign).to_bytes(32, "little") for y in range(P, 2**255, 3) for sign in (0, SIGN_BIT)),
    b"\xff" * 32,
    (2).to_bytes(32, "little"),  # y of no point
    *(case.key for case in HONEST[:2]),
]


@st.composite
def mutated(draw: st.DrawFn) -> Case:
    case = draw(st.sampled_from(HONEST) | st.sampled_from(MIXED))
    key, r, s, message = case.key, case.signature[:32], case.signature[32:], case.message
    for kind in draw(st.lists(st.integers(0, 8), max_size=3)):
        match kind:
            case 0:
                flipped = bytearray(key + r + s + message)
                flipped[draw(st.integers(0, len(flipped) - 1))] ^= 1 << draw(st.integers(0, 7))
                key, r, s = bytes(flipped[:32]), bytes(flipped[32:64]), bytes(flipped[64:96])
                message = bytes(flipped[96:])
            case 1:
                multiple = int.from_bytes(s, "little") + L * draw(st.integers(1, 15))
                s = (multiple % 2**256).to_bytes(32, "little")
            case 2:
                value = draw(st.sampled_from([0, 1, L - 1, L, L + 1, 2**252, 2**253, 2**256 - 1]))
                s = value.to_bytes(32, "little")
            case 3:
                r = draw(st.sampled_from(SPECIAL))
            case 4:
                key = draw(st.sampled_from(SPECIAL))
            case 5:
                r = r[:31] + bytes([r[31] ^ 128])
            case 6:
                key = key[:31] + bytes([key[31] ^ 128])
            case 7:
                other = draw(st.sampled_from(HONEST))
                r, s = other.signature[:32], other.signature[32:]
            case _:
                key, r = r, key
    return Case(key, r + s, message)


@settings(max_examples=60)
@given(cases=st.lists(mutated(), min_size=1, max_size=19))
def test_mutations(backend: Backend, cases: list[Case]) -> None:
    assert verdicts(backend, cases) == [reference(case) for case in cases]
