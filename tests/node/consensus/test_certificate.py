"""Certificates: how they are made, what is wrong with them, and who has signed."""

from __future__ import annotations

import msgspec
import pytest
from cores import A, decision, polka, precommits, signature
from nacl.exceptions import BadSignatureError
from nacl.signing import SigningKey, VerifyKey

from node.consensus.certificate import (
    CertificateError,
    check_certificate,
    check_signatures,
    make_certificate,
    votes_of,
)
from node.consensus.messages import Certificate, Vote, VoteType
from node.consensus.signed_bytes import signed_bytes
from node.consensus.validators import ValidatorSet

FOUR = ValidatorSet([1, 1, 1, 1])
SALT = b"s" * 16


def test_votes_are_put_together_in_the_order_of_their_validators() -> None:
    votes = precommits([3, 0, 2], A, 5)
    certificate = make_certificate(VoteType.PRECOMMIT, 1, 5, A, votes)
    signatures = ((0, signature(0)), (2, signature(2)), (3, signature(3)))
    assert certificate == Certificate(VoteType.PRECOMMIT, 1, 5, A, signatures)
    assert list(votes_of(certificate)) == [votes[1], votes[2], votes[0]]


@pytest.mark.parametrize("certificate", [polka(A), decision(A, 7), polka(A, 0, range(4))])
def test_quorums_are_accepted(certificate: Certificate) -> None:
    check_certificate(certificate, FOUR)


def test_power_counts_and_not_heads() -> None:
    check_certificate(polka(A, 0, [0]), ValidatorSet([7, 1, 1, 1]))
    with pytest.raises(CertificateError, match="3 of 10 is no quorum"):
        check_certificate(polka(A, 0, [1, 2, 3]), ValidatorSet([7, 1, 1, 1]))


def signed_by(*validators: int) -> tuple[tuple[int, bytes], ...]:
    return tuple((each, b"s" * 64) for each in validators)


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        ({"round": -1}, "rounds count from 0"),
        ({"value": b"a" * 31}, "a value has 32 bytes"),
        ({"signatures": ()}, "0 of 4 is no quorum"),
        ({"signatures": signed_by(0, 1)}, "2 of 4 is no quorum"),
        ({"signatures": signed_by(0, 1, 1)}, "must ascend"),
        ({"signatures": signed_by(1, 0, 2)}, "must ascend"),
        ({"signatures": signed_by(-1, 0, 1, 2)}, "must ascend"),
        ({"signatures": signed_by(0, 1, 2, 4)}, "there is no validator 4"),
        ({"signatures": (*signed_by(0, 1), (2, b"s" * 63))}, "a signature has 64 bytes"),
    ],
)
def test_what_proves_nothing_is_refused(change: dict[str, object], complaint: str) -> None:
    with pytest.raises(CertificateError, match=complaint):
        check_certificate(msgspec.structs.replace(polka(A), **change), FOUR)


# -- signatures --------------------------------------------------------------------------------

KEYS = [SigningKey(bytes([each]) * 32) for each in range(4)]
WITH_KEYS = ValidatorSet([1, 1, 1, 1], [bytes(key.verify_key) for key in KEYS])


def verify(key: bytes, message: bytes, signature: bytes) -> bool:
    try:
        VerifyKey(key).verify(message, signature)
    except BadSignatureError:
        return False
    return True


def really_signed() -> Certificate:
    votes = [Vote(VoteType.PRECOMMIT, 9, 2, A, each) for each in (0, 1, 3)]
    signed = [
        Vote(
            vote.type,
            vote.height,
            vote.round,
            vote.value,
            vote.validator,
            KEYS[vote.validator].sign(signed_bytes(vote, SALT)).signature,
        )
        for vote in votes
    ]
    return make_certificate(VoteType.PRECOMMIT, 9, 2, A, signed)


def test_signatures_of_these_validators_on_this_chain_are_accepted() -> None:
    check_signatures(really_signed(), WITH_KEYS, SALT, verify)


@pytest.mark.parametrize(
    "change",
    [{"type": VoteType.PREVOTE}, {"height": 8}, {"round": 1}, {"value": b"b" * 32}],
)
def test_signatures_for_something_else_are_refused(change: dict[str, object]) -> None:
    other = msgspec.structs.replace(really_signed(), **change)
    with pytest.raises(CertificateError, match="validator 0 has not signed this"):
        check_signatures(other, WITH_KEYS, SALT, verify)


def test_signatures_on_another_chain_are_refused() -> None:
    with pytest.raises(CertificateError, match="validator 0 has not signed this"):
        check_signatures(really_signed(), WITH_KEYS, b"t" * 16, verify)


def test_one_signature_by_somebody_else_is_refused() -> None:
    good = really_signed()
    last = good.signatures[2][1]
    forged = msgspec.structs.replace(good, signatures=(*good.signatures[:2], (2, last)))
    with pytest.raises(CertificateError, match="validator 2 has not signed this"):
        check_signatures(forged, WITH_KEYS, SALT, verify)
