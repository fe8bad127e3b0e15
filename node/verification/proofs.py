"""Judges a tray of claims: whether each peer is run by the validator that it names.

Claims (`node.proofs.Claim`) come in as ``net`` put them into the tray; one code each goes out,
``ADMITTED``, ``BAD_REQUEST`` for what names no validator, or ``BAD_SIGNATURE``. One signature per
connection, so they are checked one by one. Keeps nothing.
"""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import numpy.typing as npt

from node.consensus.signed_bytes import address_bytes
from node.consensus.validators import ValidatorSet
from node.proofs import unpack_claim
from node.verdict import Verdict
from node.verification.batch import BatchCounts
from node.verification.columns import VerdictColumns
from node.verification.signatures import Backend


class ProofVerifier:
    """Judges trays of claims; ``validators`` must have keys, ``salt`` is the chain's."""

    def __init__(self, backend: Backend, validators: ValidatorSet, salt: bytes) -> None:
        self._backend = backend
        self._validators = validators
        self._salt = salt

    def verify(
        self, payload: memoryview, offsets: npt.NDArray[np.uint32], out: VerdictColumns
    ) -> BatchCounts:
        """Judge item ``i``, ``payload[offsets[i]:offsets[i + 1]]``, for all of them, and write the
        codes; the other columns are left as they are.
        """
        codes = [
            self._judge(bytes(payload[begin:end])) for begin, end in pairwise(offsets.tolist())
        ]
        out.codes[: len(codes)] = codes
        signatures = len(codes) - codes.count(Verdict.BAD_REQUEST)
        return BatchCounts(len(codes), codes.count(Verdict.ADMITTED), signatures)

    def _judge(self, item: bytes) -> Verdict:
        try:
            claim = unpack_claim(item)
        except ValueError:
            return Verdict.BAD_REQUEST
        if claim.validator >= self._validators.n:
            return Verdict.BAD_REQUEST
        content = address_bytes(claim.challenge, claim.node_id, self._salt)
        key = self._validators.keys[claim.validator]
        good = self._backend.verify_alone(key, claim.signature, content)
        return Verdict.ADMITTED if good else Verdict.BAD_SIGNATURE
