"""Commit certificates with real signatures, for chains whose validators' keys the tests hold."""

from __future__ import annotations

from collections.abc import Mapping

from nacl.signing import SigningKey

from node.consensus.certificate import make_certificate
from node.consensus.messages import Certificate, Certified, Vote, VoteType
from node.consensus.signed_bytes import signed_bytes
from node.consensus.wire import encode


def certificate_of(
    height: int,
    value: bytes,
    salt: bytes,
    signers: Mapping[int, SigningKey],
    *,
    round_: int = 0,
    type_: VoteType = VoteType.PRECOMMIT,
) -> Certificate:
    """These validators' (by number) votes for a block id on the chain with this salt."""
    votes = []
    for number, key in signers.items():
        message = signed_bytes(Vote(type_, height, round_, value, number), salt)
        votes.append(Vote(type_, height, round_, value, number, key.sign(message).signature))
    return make_certificate(type_, height, round_, value, votes)


def encoded(certificate: Certificate) -> bytes:
    """The bytes that the chain store keeps with the block."""
    return encode(Certified(certificate))
