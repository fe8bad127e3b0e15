"""The last word on what counts: libsodium, asked in the process that counts the votes.

Messages of agreement come in whose signatures a verifier has found good, before agreement hears of
them; whether PyNaCl agrees goes back. The verifiers' fast backend, and the memory through which
their verdicts come, are trusted with payments, of which each concerns its owner; a vote that is
not one could fork the chain. It owns scratch memory. What it finds costs the message, not the node.
"""

from __future__ import annotations

from node.consensus.validators import ValidatorSet
from node.verification.messages import MessageVerifier
from node.verification.nacl import NaclBackend
from pipeline.eventlog import Log
from pipeline.metrics import Kind, Metric, MetricWriter

CONFIRMATION_METRICS = (
    Metric("verdicts_disputed", Kind.COUNTER, "messages", "Found good by a verifier alone"),
)


class Confirmation:
    """Asks PyNaCl about messages that verifiers let pass; ``validators`` must have keys."""

    def __init__(
        self, validators: ValidatorSet, salt: bytes, metrics: MetricWriter, log: Log
    ) -> None:
        self._reference = MessageVerifier(NaclBackend(), validators, salt)
        self._metrics = metrics
        self._log = log

    def holds(self, data: bytes) -> bool:
        """Whether every signature in an encoded message is good, those of its certificate too."""
        if self._reference.is_good(data):
            return True
        self._metrics.add(self._metrics["verdicts_disputed"], 1)
        self._log.error("verdict_disputed", message=data[:256].hex())
        return False
