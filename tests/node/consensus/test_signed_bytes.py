"""What is signed: 47 bytes that say everything the message says, and nothing that two share."""

from __future__ import annotations

from hashlib import blake2b
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from node.consensus.messages import Certificate, Proposal, Vote, VoteType
from node.consensus.signed_bytes import address_bytes, signed_bytes
from node.params import SIGN_PREFIX_SPEND

SALT = bytes(range(16))
VALUE = bytes(range(32))
VOTE = Vote(VoteType.PREVOTE, 5, 2, VALUE, 1)
PROPOSAL = Proposal(5, 2, VALUE, -1, 1)

HEIGHTS = st.integers(1, 2**63 - 1)
ROUNDS = st.integers(0, 2**31 - 1)
VALUES = st.binary(min_size=32, max_size=32)
VOTES = st.builds(Vote, st.sampled_from(VoteType), HEIGHTS, ROUNDS, st.none() | VALUES, st.just(0))
PROPOSALS = st.builds(Proposal, HEIGHTS, ROUNDS, VALUES, st.integers(-1, 2**31 - 1), st.just(0))
MESSAGES = VOTES | PROPOSALS


@pytest.mark.parametrize(
    ("message", "prefix", "content"),
    [
        (
            Vote(VoteType.PREVOTE, 7, 3, VALUE, 9),
            b"TIME/prevote/v1",
            "0700000000000000 03000000 01" + VALUE.hex(),
        ),
        (
            Vote(VoteType.PRECOMMIT, 2**63 - 1, 2**31 - 1, None, 9),
            b"TIME/precomm/v1",
            "ffffffffffffff7f ffffff7f 00" + "00" * 32,
        ),
        (
            Proposal(1, 0, VALUE, -1, 9),
            b"TIME/propose/v1",
            "0100000000000000 00000000 ffffffff 01" + VALUE.hex(),
        ),
    ],
)
def test_the_layout(message: Proposal | Vote, prefix: bytes, content: str) -> None:
    person = prefix.ljust(16, b"\0")
    digest = blake2b(bytes.fromhex(content), digest_size=32, salt=SALT, person=person).digest()
    assert signed_bytes(message, SALT) == prefix + digest


def test_fixed_for_ever() -> None:
    """Other nodes sign the same; a change here is another network."""
    assert signed_bytes(PROPOSAL, SALT).hex() == (
        "54494d452f70726f706f73652f7631"
        "53177146d6ec0fc661fcbe9554632387dfe8c00f9d241460aa594fbc2c4d31dc"
    )


@given(MESSAGES, MESSAGES)
def test_different_messages_have_different_bytes(
    one: Proposal | Vote, other: Proposal | Vote
) -> None:
    assert (signed_bytes(one, SALT) == signed_bytes(other, SALT)) == (one == other)


@pytest.mark.parametrize(
    "changes",
    [
        {"height": 6},
        {"round": 3},
        {"value": bytes(32)},
        {"value": None},
        {"type": VoteType.PRECOMMIT},
    ],
)
def test_everything_a_vote_says_counts(changes: dict[str, Any]) -> None:
    changed = msgspec.structs.replace(VOTE, **changes)
    assert signed_bytes(changed, SALT) != signed_bytes(VOTE, SALT)


@pytest.mark.parametrize(
    "changes", [{"height": 6}, {"round": 3}, {"value": bytes(32)}, {"valid_round": 1}]
)
def test_everything_a_proposal_says_counts(changes: dict[str, Any]) -> None:
    changed = msgspec.structs.replace(PROPOSAL, **changes)
    assert signed_bytes(changed, SALT) != signed_bytes(PROPOSAL, SALT)


def test_nil_is_not_the_value_of_zeros() -> None:
    nil = msgspec.structs.replace(VOTE, value=None)
    zeros = msgspec.structs.replace(VOTE, value=bytes(32))
    assert signed_bytes(nil, SALT) != signed_bytes(zeros, SALT)


def test_another_chain_is_another_message() -> None:
    assert signed_bytes(VOTE, SALT) != signed_bytes(VOTE, bytes(16))


def test_who_signs_and_what_travels_with_it_do_not_count() -> None:
    polka = Certificate(VoteType.PREVOTE, 5, 1, VALUE, ((0, bytes(64)),))
    other = msgspec.structs.replace(PROPOSAL, validator=2, polka=polka, signature=bytes(64))
    assert signed_bytes(other, SALT) == signed_bytes(PROPOSAL, SALT)


def test_no_kind_looks_like_another_or_like_a_payment() -> None:
    precommit = msgspec.structs.replace(VOTE, type=VoteType.PRECOMMIT)
    prefixes = {signed_bytes(m, SALT)[:15] for m in (VOTE, precommit, PROPOSAL)}
    assert len(prefixes | {SIGN_PREFIX_SPEND}) == 4


@pytest.mark.parametrize(
    "message",
    [
        Vote(VoteType.PREVOTE, -1, 0, None, 0),
        Vote(VoteType.PREVOTE, 2**64, 0, None, 0),
        Vote(VoteType.PREVOTE, 1, -1, None, 0),
        Vote(VoteType.PREVOTE, 1, 2**32, None, 0),
        Vote(VoteType.PREVOTE, 1, 0, VALUE[:31], 0),
        Vote(VoteType.PREVOTE, 1, 0, VALUE + b"\0", 0),
        Vote(VoteType.PREVOTE, 1, 0, b"", 0),
        Vote(3, 1, 0, None, 0),  # type: ignore[arg-type]
        Proposal(1, 0, VALUE, 2**31, 0),
        Proposal(1, 0, VALUE, -(2**31) - 1, 0),
        Proposal(1, 0, None, -1, 0),  # type: ignore[arg-type]
        Proposal(1, 0, b"", -1, 0),
    ],
)
def test_what_is_no_message_has_no_bytes(message: Proposal | Vote) -> None:
    with pytest.raises(ValueError, match=r"no such message|a value has|a proposal has"):
        signed_bytes(message, SALT)


@pytest.mark.parametrize("salt", [b"", SALT[:15], SALT + b"\0"])
def test_a_salt_of_another_length_is_refused(salt: bytes) -> None:
    with pytest.raises(ValueError, match="16 bytes"):
        signed_bytes(VOTE, salt)


def test_the_layout_of_what_shows_a_peer_who_this_is() -> None:
    digest = blake2b(VALUE + SALT, digest_size=32, salt=SALT, person=b"TIME/address/v1\0")
    assert address_bytes(VALUE, SALT, SALT) == b"TIME/address/v1" + digest.digest()


@given(MESSAGES, st.binary(min_size=32, max_size=32), st.binary(min_size=16, max_size=16))
def test_it_is_no_message_of_agreement(
    message: Proposal | Vote, challenge: bytes, node_id: bytes
) -> None:
    shown = address_bytes(challenge, node_id, SALT)
    assert len(shown) == 47
    assert shown[:15] not in (signed_bytes(message, SALT)[:15], SIGN_PREFIX_SPEND)


@pytest.mark.parametrize(
    ("challenge", "node_id", "salt"),
    [(31, 16, 16), (33, 15, 16), (32, 15, 16), (32, 17, 16), (32, 16, 15), (48, 0, 16)],
)
def test_lengths_that_cannot_be_shown(challenge: int, node_id: int, salt: int) -> None:
    with pytest.raises(ValueError, match="bytes"):
        address_bytes(bytes(challenge), bytes(node_id), bytes(salt))
