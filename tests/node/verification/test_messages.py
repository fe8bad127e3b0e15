"""A tray of agreement messages gets the codes that checking them one by one gives."""

from __future__ import annotations

import struct
from itertools import accumulate

import msgspec
import numpy as np
import pytest
from certificates import certificate_of
from hypothesis import given, settings
from hypothesis import strategies as st
from nacl.signing import SigningKey

from node.consensus.certificate import make_certificate
from node.consensus.messages import (
    BlockBuilt,
    BlockJudged,
    BodyDurable,
    Certificate,
    Certified,
    Committed,
    Input,
    Proposal,
    Started,
    Timer,
    TimerElapsed,
    TimerKind,
    TransactionsWaiting,
    Vote,
    VoteType,
)
from node.consensus.signed_bytes import signed_bytes
from node.consensus.validators import ValidatorSet
from node.consensus.wire import encode
from node.verdict import Verdict
from node.verification.columns import VerdictColumns
from node.verification.messages import TABLE_ROWS, MessageVerifier
from node.verification.signatures import Backend

SALT = b"salt of a chain."
OTHER_SALT = b"salt of another."
KEYS = [SigningKey(bytes([seed + 1]) * 32) for seed in range(4)]
POWERS = (1, 1, 1, 2)
PUBLIC = [bytes(key.verify_key) for key in KEYS]
VALIDATORS = ValidatorSet(POWERS, PUBLIC)
VALUE = b"v" * 32
MAX_ITEMS = 4_000
TRAY_BYTES = 128 * 1024
UNTOUCHED = 255
GOOD, BAD, WRONG = Verdict.ADMITTED, Verdict.BAD_SIGNATURE, Verdict.BAD_REQUEST


def signed(message: Vote | Proposal, key: SigningKey | None = None, salt: bytes = SALT) -> Input:
    signer = key or KEYS[message.validator]
    signature = signer.sign(signed_bytes(message, salt)).signature
    return msgspec.structs.replace(message, signature=signature)


def vote(validator: int = 0, height: int = 7, **changes: object) -> Vote:
    fields = {"type": VoteType.PREVOTE, "round": 2, "value": VALUE, **changes}
    return Vote(height=height, validator=validator, **fields)  # type: ignore[arg-type]


def polka(*signers: int, salt: bytes = SALT) -> Certificate:
    keys = {number: KEYS[number] for number in signers}
    return certificate_of(7, VALUE, salt, keys, round_=1, type_=VoteType.PREVOTE)


def proposal(of: Certificate | None = None, validator: int = 1) -> Proposal:
    return Proposal(7, 2, VALUE, -1 if of is None else of.round, validator, of)


def judge(backend: Backend, items: list[bytes]) -> tuple[list[int], int]:
    """The codes of one tray, and how many signatures were verified."""
    columns = VerdictColumns(
        memoryview(bytearray(VerdictColumns.layout_bytes(MAX_ITEMS, TRAY_BYTES))),
        MAX_ITEMS,
        TRAY_BYTES,
    )
    columns.codes[:] = UNTOUCHED
    offsets = np.array([0, *accumulate(map(len, items))], np.uint32)
    verifier = MessageVerifier(backend, VALIDATORS, SALT)
    counts = verifier.verify(memoryview(b"".join(items)), offsets, columns)
    codes = columns.codes[: len(items)].tolist()
    assert (columns.codes[len(items) :] == UNTOUCHED).all()
    assert (counts.items, counts.passed) == (len(items), codes.count(GOOD))
    return codes, counts.signatures


def flipped(data: bytes) -> bytes:
    """With another last bit: that of the last signature."""
    return data[:-1] + bytes([data[-1] ^ 1])


CASES: dict[str, tuple[bytes, Verdict]] = {
    "prevote": (encode(signed(vote())), GOOD),
    "precommit of the last": (encode(signed(vote(3, type=VoteType.PRECOMMIT))), GOOD),
    "vote for nil": (encode(signed(vote(value=None))), GOOD),
    "vote of somebody else": (encode(signed(vote(), KEYS[1])), BAD),
    "vote on another chain": (encode(signed(vote(), salt=OTHER_SALT)), BAD),
    "vote that nobody signed": (encode(vote()), BAD),
    "another height than signed": (
        encode(msgspec.structs.replace(signed(vote()), height=8)),
        BAD,
    ),
    "another round than signed": (encode(msgspec.structs.replace(signed(vote()), round=3)), BAD),
    "another type than signed": (
        encode(msgspec.structs.replace(signed(vote()), type=VoteType.PRECOMMIT)),
        BAD,
    ),
    "nil instead of the value": (encode(msgspec.structs.replace(signed(vote()), value=None)), BAD),
    "signature with a flipped bit": (flipped(encode(signed(vote()))), BAD),
    "unknown validator": (encode(signed(vote(4), KEYS[0])), WRONG),
    "proposal": (encode(signed(proposal())), GOOD),
    "proposal that nobody signed": (encode(proposal()), BAD),
    "proposal of an unknown validator": (encode(signed(proposal(validator=9), KEYS[0])), WRONG),
    "proposal with a polka": (encode(signed(proposal(polka(0, 1, 3)))), GOOD),
    "proposal with a polka below a quorum": (encode(signed(proposal(polka(0, 1)))), WRONG),
    "proposal with a forged polka": (
        encode(signed(proposal(polka(0, 1, 3, salt=OTHER_SALT)))),
        BAD,
    ),
    "forged proposal with a polka": (encode(signed(proposal(polka(0, 1, 3)), KEYS[2])), BAD),
    "certificate": (encode(Certified(polka(0, 1, 3))), GOOD),
    "certificate of all": (encode(Certified(polka(0, 1, 2, 3))), GOOD),
    "certificate of more validators but less power": (encode(Certified(polka(0, 1, 2))), WRONG),
    "certificate of another chain": (encode(Certified(polka(0, 1, 3, salt=OTHER_SALT))), BAD),
    "certificate with one forged vote": (
        encode(
            Certified(
                make_certificate(
                    VoteType.PREVOTE,
                    7,
                    1,
                    VALUE,
                    [
                        signed(vote(each, round=1), KEYS[0] if each == 3 else None)  # type: ignore[list-item]
                        for each in (0, 1, 3)
                    ],
                )
            )
        ),
        BAD,
    ),
    "certificate with somebody twice": (
        encode(
            Certified(
                msgspec.structs.replace(
                    polka(0, 1, 3), signatures=(polka(0, 1, 3).signatures[2],) * 3
                )
            )
        ),
        WRONG,
    ),
    "certificate without signatures": (
        encode(Certified(msgspec.structs.replace(polka(), signatures=()))),
        WRONG,
    ),
    "started": (encode(Started(7)), WRONG),
    "timer": (encode(TimerElapsed(Timer(TimerKind.PACE, 7))), WRONG),
    "waiting": (encode(TransactionsWaiting(7)), WRONG),
    "built": (encode(BlockBuilt(7, 0, VALUE)), WRONG),
    "judged": (encode(BlockJudged(7, VALUE, True)), WRONG),
    "durable": (encode(BodyDurable(7, VALUE)), WRONG),
    "committed": (encode(Committed(7)), WRONG),
    "nothing": (b"", WRONG),
    "garbage": (b"\xc1garbage", WRONG),
    "vote with something behind it": (encode(signed(vote())) + b"\0", WRONG),
    "half a vote": (encode(signed(vote()))[:40], WRONG),
}


@pytest.mark.parametrize("name", CASES)
def test_one_message(backend: Backend, name: str) -> None:
    data, verdict = CASES[name]
    assert judge(backend, [data])[0] == [verdict]
    assert MessageVerifier(backend, VALIDATORS, SALT).is_good(data) == (verdict is GOOD)


def test_all_of_them_in_one_tray(backend: Backend) -> None:
    """Neighbours neither save nor condemn anybody."""
    codes, signatures = judge(backend, [data for data, _ in CASES.values()])
    assert codes == [verdict for _, verdict in CASES.values()]
    votes = {"proposal with a polka": 4, "certificate": 3, "certificate of all": 4}
    alone = {name: judge(backend, [CASES[name][0]])[1] for name in votes}
    assert alone == votes
    assert signatures == sum(judge(backend, [data])[1] for data, _ in CASES.values())


@settings(max_examples=60)
@given(names=st.lists(st.sampled_from(list(CASES)), min_size=1, max_size=40))
def test_any_order(backend: Backend, names: list[str]) -> None:
    assert judge(backend, [CASES[name][0] for name in names])[0] == [CASES[n][1] for n in names]


def test_more_signatures_than_the_table_has_rows(backend: Backend) -> None:
    """The forged ones lie on both sides of the border, and one item's votes across it."""
    good, forged = CASES["prevote"][0], CASES["vote of somebody else"][0]
    certificate = CASES["certificate of all"][0]
    items = [good] * (TABLE_ROWS - 2) + [certificate] + [good] * 50
    assert judge(backend, items) == ([GOOD] * len(items), TABLE_ROWS + 52)
    bad_certificate = flipped(certificate)  # its last signature lies behind the border
    for at, item in ((0, forged), (TABLE_ROWS - 3, forged), (TABLE_ROWS - 2, bad_certificate)):
        changed = [*items[:at], item, *items[at + 1 :]]
        codes, _ = judge(backend, changed)
        assert [number for number, code in enumerate(codes) if code != GOOD] == [at]
        assert codes[at] == BAD
    changed = [*items[:-1], forged]
    assert judge(backend, changed)[0] == [GOOD] * (len(items) - 1) + [BAD]
    votes = [good] * (TABLE_ROWS + 2)
    for at in range(TABLE_ROWS - 2, len(votes)):
        codes, _ = judge(backend, [*votes[:at], forged, *votes[at + 1 :]])
        assert [number for number, code in enumerate(codes) if code != GOOD] == [at]


@given(data=st.binary(max_size=300))
def test_bytes_of_anybody_are_no_message(backend: Backend, data: bytes) -> None:
    good = CASES["prevote"][0]
    assert judge(backend, [good, data, good])[0] == [GOOD, WRONG, GOOD]


@given(
    name=st.sampled_from(["prevote", "proposal with a polka", "certificate"]), where=st.integers(0)
)
def test_no_bit_can_change(backend: Backend, name: str, where: int) -> None:
    data = CASES[name][0]
    byte, bit = divmod(where % (8 * len(data)), 8)
    changed = data[:byte] + struct.pack("B", data[byte] ^ 1 << bit) + data[byte + 1 :]
    (code,) = judge(backend, [changed])[0]
    assert code in (BAD, WRONG)
