"""Judges a tray of agreement messages: that each is one, and that whoever it names has signed it.

Messages of peers come in as ``net`` put them into the tray; one code each goes out, ``ADMITTED``
when encoding and every signature are good (those of a certificate that it carries, too),
``BAD_REQUEST`` or ``BAD_SIGNATURE`` otherwise. Whether a message makes sense is for
``node.consensus.core`` to say. Owns its scratch memory and keeps nothing between trays.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from node.consensus.certificate import CertificateError, check_certificate, votes_of
from node.consensus.messages import Certificate, Certified, Proposal, Vote
from node.consensus.signed_bytes import signed_bytes
from node.consensus.validators import ValidatorSet
from node.consensus.wire import WireError, decode
from node.params import SIGNATURE_BYTES
from node.verdict import Verdict
from node.verification.batch import BatchCounts
from node.verification.columns import VerdictColumns
from node.verification.signatures import Backend, SignatureTable

TABLE_ROWS = 1024  # signatures judged in one call


class _Claim(NamedTuple):
    """One signature, and the item that falls with it."""

    item: int
    key: bytes
    signature: bytes
    message: bytes


class MessageVerifier:
    """Judges trays of messages; ``validators`` must have keys, ``salt`` is the chain's."""

    def __init__(self, backend: Backend, validators: ValidatorSet, salt: bytes) -> None:
        self._backend = backend
        self._validators = validators
        self._salt = salt
        self._table = SignatureTable(TABLE_ROWS, TABLE_ROWS)

    def verify(
        self, payload: memoryview, offsets: npt.NDArray[np.uint32], out: VerdictColumns
    ) -> BatchCounts:
        """Judge item ``i``, ``payload[offsets[i]:offsets[i + 1]]``, for all of them, and write the
        codes; the other columns are left as they are.
        """
        codes = [Verdict.ADMITTED] * (len(offsets) - 1)
        claims: list[_Claim] = []
        for item, (begin, end) in enumerate(pairwise(offsets.tolist())):
            try:
                claims.extend(self._claims(item, bytes(payload[begin:end])))
            except (WireError, CertificateError, ValueError):
                codes[item] = Verdict.BAD_REQUEST
        for first in range(0, len(claims), TABLE_ROWS):
            for item in self._broken(claims[first : first + TABLE_ROWS]):
                if codes[item] is Verdict.ADMITTED:
                    codes[item] = Verdict.BAD_SIGNATURE
        out.codes[: len(codes)] = codes
        return BatchCounts(len(codes), codes.count(Verdict.ADMITTED), len(claims))

    def is_good(self, data: bytes) -> bool:
        """Judge a single message, as `verify` does a tray of them."""
        try:
            claims = self._claims(0, data)
        except (WireError, CertificateError, ValueError):
            return False
        return not any(
            self._broken(claims[first : first + TABLE_ROWS])
            for first in range(0, len(claims), TABLE_ROWS)
        )

    def _claims(self, item: int, data: bytes) -> list[_Claim]:
        """Every signature in a message. Raises ValueError for what validators do not say."""
        message = decode(data)
        match message:
            case Vote():
                votes: list[Proposal | Vote] = [message]
            case Proposal():
                votes = [message]
                if message.polka is not None:
                    votes.extend(self._votes(message.polka))
            case Certified():
                votes = list(self._votes(message.certificate))
            case _:
                raise ValueError(f"{type(message).__name__} is nothing that a peer says")
        keys = self._validators.keys
        claims = []
        for vote in votes:
            if not 0 <= vote.validator < self._validators.n:
                raise ValueError(f"there is no validator {vote.validator}")
            content = signed_bytes(vote, self._salt)
            claims.append(_Claim(item, keys[vote.validator], vote.signature, content))
        return claims

    def _votes(self, certificate: Certificate) -> Iterator[Vote]:
        check_certificate(certificate, self._validators)
        return votes_of(certificate)

    def _broken(self, claims: list[_Claim]) -> list[int]:
        """The items of the claims whose signature is not valid."""
        if len(claims) == 1:
            ((item, key, signature, message),) = claims
            good = len(signature) == SIGNATURE_BYTES and self._backend.verify_alone(
                key, signature, message
            )
            return [] if good else [item]
        table = self._table
        broken = []
        rows: list[int] = []
        for claim in claims:
            if len(claim.signature) != SIGNATURE_BYTES:
                broken.append(claim.item)
                continue
            table.put(len(rows), claim.key, claim.signature, claim.message)
            rows.append(claim.item)
        valid = self._backend.verify(table, len(rows)) if rows else np.zeros(0, np.bool_)
        return broken + [rows[row] for row in np.flatnonzero(~valid).tolist()]
