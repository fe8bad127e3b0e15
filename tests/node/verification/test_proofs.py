"""A tray of claims gets the codes that each claim is worth."""

from __future__ import annotations

from itertools import accumulate

import numpy as np
from nacl.signing import SigningKey

from node.consensus.messages import Vote, VoteType
from node.consensus.signed_bytes import address_bytes, signed_bytes
from node.consensus.validators import ValidatorSet
from node.proofs import Claim, pack_claim
from node.verdict import Verdict
from node.verification.columns import VerdictColumns
from node.verification.proofs import ProofVerifier
from node.verification.signatures import Backend

SALT = b"salt of a chain."
KEYS = [SigningKey(bytes([seed + 1]) * 32) for seed in range(3)]
VALIDATORS = ValidatorSet((1, 1, 1), [bytes(key.verify_key) for key in KEYS])
CHALLENGE, NODE_ID = bytes(range(32)), bytes(range(16))
MAX_ITEMS, TRAY_BYTES = 64, 16 * 1024


def signature(key: int, content: bytes) -> bytes:
    made: bytes = KEYS[key].sign(content).signature
    return made


def test_only_the_validators_own_signature_over_this_connection_is_good(backend: Backend) -> None:
    good = signature(1, address_bytes(CHALLENGE, NODE_ID, SALT))
    vote = Vote(VoteType.PREVOTE, 1, 0, CHALLENGE, 1)
    expected = [
        (pack_claim(Claim(1, good, CHALLENGE, NODE_ID)), Verdict.ADMITTED),
        (pack_claim(Claim(0, good, CHALLENGE, NODE_ID)), Verdict.BAD_SIGNATURE),
        (pack_claim(Claim(3, good, CHALLENGE, NODE_ID)), Verdict.BAD_REQUEST),
        (pack_claim(Claim(65_535, good, CHALLENGE, NODE_ID)), Verdict.BAD_REQUEST),
        (pack_claim(Claim(1, good, bytes(32), NODE_ID)), Verdict.BAD_SIGNATURE),
        (pack_claim(Claim(1, good, CHALLENGE, bytes(16))), Verdict.BAD_SIGNATURE),
        (pack_claim(Claim(1, bytes(64), CHALLENGE, NODE_ID)), Verdict.BAD_SIGNATURE),
        (
            pack_claim(
                Claim(
                    1,
                    signature(1, address_bytes(CHALLENGE, NODE_ID, b"salt of another.")),
                    CHALLENGE,
                    NODE_ID,
                )
            ),
            Verdict.BAD_SIGNATURE,
        ),
        (
            pack_claim(Claim(1, signature(1, signed_bytes(vote, SALT)), CHALLENGE, NODE_ID)),
            Verdict.BAD_SIGNATURE,
        ),
        (b"x", Verdict.BAD_REQUEST),
        (pack_claim(Claim(1, good, CHALLENGE, NODE_ID)) + b"x", Verdict.BAD_REQUEST),
    ]
    items = [item for item, _ in expected]
    columns = VerdictColumns(
        memoryview(bytearray(VerdictColumns.layout_bytes(MAX_ITEMS, TRAY_BYTES))),
        MAX_ITEMS,
        TRAY_BYTES,
    )
    columns.codes[:] = 255
    offsets = np.array([0, *accumulate(map(len, items))], np.uint32)
    verifier = ProofVerifier(backend, VALIDATORS, SALT)
    counts = verifier.verify(memoryview(b"".join(items)), offsets, columns)
    assert columns.codes[: len(items)].tolist() == [code for _, code in expected]
    assert (columns.codes[len(items) :] == 255).all()
    assert counts == (len(items), 1, 7)
