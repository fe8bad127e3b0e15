"""What a validator signs: 47 bytes for each kind of message, no two alike.

A prefix per kind keeps proposals, prevotes and precommits apart from each other and from payments;
the rest is a hash over what the message says, salted with the chain, so that nothing signed for one
chain means anything on another. With R and A it fills one block of SHA-512 (`node.params`). Who
signed is not part of it: the key tells. Nor is the certificate that travels with a proposal: it
proves itself. Messages come from the core or from a peer, the bytes go to the signer or to the
verifiers. Pure; a message that cannot be packed is a `ValueError`.

The fourth kind is no message of agreement: by it a validator shows a peer who it is.
"""

from __future__ import annotations

import struct
from hashlib import blake2b
from typing import Final

from node.consensus.messages import Proposal, Vote, VoteType
from node.params import ID_BYTES, SALT_BYTES, SIGN_PREFIX_BYTES, SIGNED_MESSAGE_BYTES

PREFIX_PROPOSAL: Final = b"TIME/propose/v1"
PREFIX_PREVOTE: Final = b"TIME/prevote/v1"
PREFIX_PRECOMMIT: Final = b"TIME/precomm/v1"
PREFIX_ADDRESS: Final = b"TIME/address/v1"

CHALLENGE_BYTES: Final = 32
NODE_ID_BYTES: Final = 16

_PREFIX_OF: Final = {VoteType.PREVOTE: PREFIX_PREVOTE, VoteType.PRECOMMIT: PREFIX_PRECOMMIT}
_PERSON_OF: Final = {
    prefix: prefix.ljust(16, b"\0")
    for prefix in (PREFIX_PROPOSAL, PREFIX_PREVOTE, PREFIX_PRECOMMIT, PREFIX_ADDRESS)
}
_PROPOSAL: Final = struct.Struct("<QIiB32s")  # height, round, valid round, has value, value
_VOTE: Final = struct.Struct("<QIB32s")  # height, round, has value, value
_NIL: Final = bytes(ID_BYTES)

assert all(len(prefix) == SIGN_PREFIX_BYTES for prefix in _PERSON_OF)
assert SIGN_PREFIX_BYTES + ID_BYTES == SIGNED_MESSAGE_BYTES


def signed_bytes(message: Proposal | Vote, salt: bytes) -> bytes:
    """Return the 47 bytes that the signature of a message is made over.

    Prefix[15], then BLAKE2b-256 (salt: the chain's, person: the prefix) of, little-endian: height
    u64, round u32, of a proposal valid round i32, has value u8, value[32] (zeros for nil). Raises
    ValueError for numbers out of range and values or salts of another length.
    """
    value = message.value
    if value is not None and len(value) != ID_BYTES:
        raise ValueError(f"a value has {ID_BYTES} bytes, not {len(value)}")
    try:
        if isinstance(message, Vote):
            prefix = _PREFIX_OF[message.type]
            content = _VOTE.pack(
                message.height, message.round, value is not None, _NIL if value is None else value
            )
        else:
            if value is None:
                raise ValueError("a proposal has a value")
            prefix = PREFIX_PROPOSAL
            content = _PROPOSAL.pack(
                message.height, message.round, message.valid_round, True, value
            )
    except (struct.error, KeyError) as error:
        raise ValueError(f"no such message: {error}") from None
    return _signed(prefix, content, salt)


def address_bytes(challenge: bytes, node_id: bytes, salt: bytes) -> bytes:
    """Return the 47 bytes by which the node with this id shows that a validator runs it.

    Prefix[15], then BLAKE2b-256 (salt: the chain's, person: the prefix) of challenge[32], which the
    peer has drawn, and node id[16]. Raises ValueError for other lengths.
    """
    if len(challenge) != CHALLENGE_BYTES or len(node_id) != NODE_ID_BYTES:
        raise ValueError(f"a challenge of {len(challenge)} bytes, a node id of {len(node_id)}")
    return _signed(PREFIX_ADDRESS, challenge + node_id, salt)


def _signed(prefix: bytes, content: bytes, salt: bytes) -> bytes:
    if len(salt) != SALT_BYTES:
        raise ValueError(f"a salt has {SALT_BYTES} bytes, not {len(salt)}")
    digest = blake2b(content, digest_size=ID_BYTES, salt=salt, person=_PERSON_OF[prefix])
    return prefix + digest.digest()
