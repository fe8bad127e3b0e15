"""Bulk keys and signatures are PyNaCl's, byte for byte, whichever library makes them."""

from __future__ import annotations

import numpy as np
import pytest
from nacl.signing import SigningKey

from node.verification.signing import derive_keys, sign_messages


@pytest.mark.parametrize("fast", [True, False])
@pytest.mark.parametrize("count", [0, 1, 7, 8, 9, 20])
def test_equal_to_pynacl(count: int, fast: bool) -> None:
    random = np.random.default_rng(count)
    seeds = random.integers(0, 256, (count, 32), dtype=np.uint8)
    messages = random.integers(0, 256, (count, 47), dtype=np.uint8)
    owners = [SigningKey(seed.tobytes()) for seed in seeds]
    keys = derive_keys(seeds, fast=fast)
    assert [key.tobytes() for key in keys] == [bytes(owner.verify_key) for owner in owners]
    signatures = sign_messages(seeds, keys, messages, fast=fast)
    assert [signature.tobytes() for signature in signatures] == [
        owner.sign(message.tobytes()).signature
        for owner, message in zip(owners, messages, strict=True)
    ]


def test_rows_may_be_strided() -> None:
    wide = np.arange(40 * 100, dtype=np.uint64).astype(np.uint8).reshape(40, 100)
    apart, together = wide[::2, 10:42], wide[::2, 10:42].copy()
    assert (derive_keys(apart) == derive_keys(together)).all()


def test_wrong_shapes_are_refused() -> None:
    seeds = np.zeros((3, 32), dtype=np.uint8)
    with pytest.raises(ValueError, match="needed"):
        derive_keys(seeds[:, :31])
    with pytest.raises(ValueError, match="needed"):
        derive_keys(seeds.astype(np.int64))
    with pytest.raises(ValueError, match="2 messages"):
        sign_messages(seeds, derive_keys(seeds), np.zeros((2, 47), dtype=np.uint8))
