"""Certificates: the votes of a quorum for one value in one round, as a value to keep and to send.

They are made of a tally's votes, stored with the block that they decide, and sent to whoever lacks
them. A certificate of prevotes is the paper's polka (arXiv 1807.04938, lines 28 and 36), one of
precommits proves a decision (line 49). Pure: who checks signatures passes the check in.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator

from node.consensus.messages import Certificate, Vote, VoteType
from node.consensus.signed_bytes import signed_bytes
from node.consensus.validators import ValidatorSet
from node.params import ID_BYTES, SIGNATURE_BYTES


class CertificateError(ValueError):
    """A certificate proves nothing; whoever sent it is to blame."""


def make_certificate(
    type_: VoteType, height: int, round_: int, value: bytes, votes: Iterable[Vote]
) -> Certificate:
    """Put votes for one value in one round together, in the order of their validators."""
    signatures = sorted((vote.validator, vote.signature) for vote in votes)
    return Certificate(type_, height, round_, value, tuple(signatures))


def votes_of(certificate: Certificate) -> Iterator[Vote]:
    """The votes that a certificate is made of, ascending by validator."""
    of = certificate
    for validator, signature in of.signatures:
        yield Vote(of.type, of.height, of.round, of.value, validator, signature)


def check_certificate(certificate: Certificate, validators: ValidatorSet) -> None:
    """Check everything but the signatures themselves. Raises CertificateError."""
    if certificate.round < 0:
        raise CertificateError("rounds count from 0")
    if len(certificate.value) != ID_BYTES:
        raise CertificateError(f"a value has {ID_BYTES} bytes")
    last, power = -1, 0
    for validator, signature in certificate.signatures:
        if validator <= last:
            raise CertificateError("validators must ascend, each once")
        if validator >= validators.n:
            raise CertificateError(f"there is no validator {validator}")
        if len(signature) != SIGNATURE_BYTES:
            raise CertificateError(f"a signature has {SIGNATURE_BYTES} bytes")
        last = validator
        power += validators.power(validator)
    if not validators.quorum(power):
        raise CertificateError(f"{power} of {validators.total} is no quorum")


def check_signatures(
    certificate: Certificate,
    validators: ValidatorSet,
    salt: bytes,
    verify: Callable[[bytes, bytes, bytes], bool],
) -> None:
    """Check every signature of a well-formed certificate with `verify(key, message, signature)`.

    `validators` must have keys, `salt` is the chain's. Raises CertificateError.
    """
    of = certificate
    for validator, signature in of.signatures:
        # the bytes do not tell who signs: they are the same for all
        message = signed_bytes(Vote(of.type, of.height, of.round, of.value, validator), salt)
        if not verify(validators.keys[validator], message, signature):
            raise CertificateError(f"validator {validator} has not signed this")
