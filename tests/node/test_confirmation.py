"""What a verifier lets pass is confirmed by PyNaCl, or agreement never hears of it."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
from nacl.signing import SigningKey

from node.confirmation import CONFIRMATION_METRICS, Confirmation
from node.consensus.messages import Vote, VoteType
from node.consensus.signed_bytes import signed_bytes
from node.consensus.validators import ValidatorSet
from node.consensus.wire import encode
from node.host import NodeHost
from pipeline.metrics import MetricSet, MetricWriter, region_bytes

SALT = b"salt of a chain."
KEYS = [SigningKey(bytes([seed + 1]) * 32) for seed in range(2)]
VALIDATORS = ValidatorSet((1, 1), [bytes(key.verify_key) for key in KEYS])
METRICS = MetricSet("consensus", CONFIRMATION_METRICS)


class Log:
    """Keeps the names of events."""

    def __init__(self) -> None:
        self.events: list[str] = []

    def error(self, event: str, **_: object) -> None:
        self.events.append(event)

    info = warning = error


class Agreement:
    """Keeps what it is told."""

    def __init__(self) -> None:
        self.told: list[Any] = []

    def tell(self, message: Any, now_ns: int) -> None:
        self.told.append(message)


@pytest.fixture
def metrics() -> MetricWriter:
    return MetricWriter(memoryview(bytearray(region_bytes(METRICS))), METRICS, incarnation=1)


def vote(signer: SigningKey) -> Vote:
    message = Vote(VoteType.PRECOMMIT, 7, 0, b"v" * 32, 1)
    signature = signer.sign(signed_bytes(message, SALT)).signature
    return msgspec.structs.replace(message, signature=signature)


def test_agreement_hears_only_what_is_confirmed(metrics: MetricWriter) -> None:
    log, agreement = Log(), Agreement()
    host = object.__new__(NodeHost)  # the parts that a message passes
    host._confirmation = Confirmation(VALIDATORS, SALT, metrics, log)
    host._agreement = agreement  # type: ignore[assignment]
    host._heard_ns = {}
    good, forged = vote(KEYS[1]), vote(KEYS[0])
    for message in (good, forged, good):
        host.message(encode(message))
    assert agreement.told == [good, good]
    assert set(host._heard_ns) == {1}
    assert log.events == ["verdict_disputed"]
    assert metrics.value("verdicts_disputed") == 1
