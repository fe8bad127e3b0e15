"""The validator's memory of what it signed: never two messages for one height, round and step.

Requests come from the sign stage (`node.stages.sign`) or from a simulated one; signatures go back
to it. Before a signature is released, what it was made for lies on disk. So after a crash at any
point the state is that of the last signature that left, or of a later one that never left.

It owns one file, ``signer.state``, of two slots of 4,096 bytes. A new state goes into one slot,
which is synced; the other one still holds the state before, should the write be torn. Then the
other slot gets the same, without a sync: so a slot that the medium damages later costs nothing.
Of two good slots the later state counts; the file is written anew (and renamed) only by `timed
init`, `timed resume-signing` and a signer that began without one.

Slot: magic[8], format u32, chain's salt[16], public key[32], height u64, round u32, step u8, has
signature u8, signed bytes[47], signature[64], BLAKE2b-256 of all that, zeros. A state without a
signature says that everything up to its height is closed. Backups leave the file out: a signer that
finds none stays silent until a whole further height was decided by others.

What kills it: a state that is damaged or belongs to another chain or key, and a disk that fails.
A failed write leaves it unusable: what lies on disk is then unknown until the next start.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from enum import IntEnum, StrEnum
from hashlib import blake2b
from typing import TYPE_CHECKING, Final

import msgspec

from node.consensus.messages import Proposal, Vote, VoteType
from node.consensus.signed_bytes import address_bytes, signed_bytes
from node.errors import NodeError
from node.params import KEY_BYTES, SALT_BYTES, SIGNATURE_BYTES, SIGNED_MESSAGE_BYTES

if TYPE_CHECKING:  # whose operations they are; the signer itself performs none
    from node.durable import Files, FixedFile

STATE_NAME: Final = "signer.state"
NEW_NAME: Final = "signer.state.new"
STATE_FORMAT: Final = 1
HEIGHTS_SILENT: Final = 2
"""Without a state: the height first asked for may have been signed before, and it and the one
after it must be decided by others before this validator speaks.
"""

MAX_HEIGHT: Final = 2**64 - 1
MAX_ROUND: Final = 2**32 - 1

SLOT_BYTES: Final = 4096  # a page and a block of the disk: what is torn is in one slot
N_SLOTS: Final = 2

_MAGIC: Final = b"TIMESIGN"
_STATE: Final = struct.Struct(
    f"<8sI{SALT_BYTES}s{KEY_BYTES}sQIBB{SIGNED_MESSAGE_BYTES}s{SIGNATURE_BYTES}s"
)
_CHECKSUM_BYTES: Final = 32
_RECORD_BYTES: Final = _STATE.size + _CHECKSUM_BYTES
_PERSON: Final = b"TIME/signer/v1".ljust(16, b"\0")

LOST_REMEDY: Final = (
    "move it away; without it this validator stays silent for two heights "
    "(see timed resume-signing --help), and never put an older copy there"
)


class SignerStep(IntEnum):
    """The order of what a validator signs within a round."""

    PROPOSAL = 1
    PREVOTE = 2
    PRECOMMIT = 3


class Refusal(StrEnum):
    """Why a request was refused."""

    MALFORMED = "malformed"  # nothing that a validator can say
    NOT_OURS = "not ours"  # in the name of another validator
    BACK = "back"  # before what was signed last
    CONFLICT = "conflict"  # the same height, round and step, but something else
    SILENT = "silent"  # no state: it may have been signed before


class SigningRefused(Exception):
    """The signer will not sign this message, now or ever; `reason` says of what kind that is."""

    def __init__(self, reason: Refusal, text: str) -> None:
        super().__init__(text)
        self.reason = reason
        self.text = text


class SignerStateError(NodeError):
    """The signer's state cannot be used as it is."""


class SignerState(msgspec.Struct, frozen=True):
    """What was signed last; without signature: nothing at or below the height may be signed."""

    height: int
    round: int
    step: SignerStep
    signed: bytes = b""
    signature: bytes = b""

    @property
    def position(self) -> tuple[int, int, SignerStep]:
        """What must only grow."""
        return self.height, self.round, self.step

    def describe(self) -> str:
        """For people: what was signed last, or from where on signing is allowed."""
        if not self.signature:
            return f"signs from height {self.height + 1:,} on"
        return f"last signed height {self.height:,}, round {self.round}, {self.step.name.lower()}"


def closed_up_to(height: int) -> SignerState:
    """The state in which everything up to this height is closed, and nothing above it."""
    return SignerState(height, MAX_ROUND, SignerStep.PRECOMMIT)


def read_state(files: Files, salt: bytes, public_key: bytes) -> SignerState | None:
    """The state in a directory, None if there is none. Raises SignerStateError if it is damaged or
    not of this chain and key, and what reading raises.
    """
    slots = _read_slots(files, salt, public_key)
    return None if slots is None else _latest(slots)


def write_state(files: Files, state: SignerState, salt: bytes, public_key: bytes) -> None:
    """Make or replace the file; it is durable when this returns. Raises what writing raises."""
    slot = _encode(state, salt, public_key).ljust(SLOT_BYTES, b"\0")
    files.write(NEW_NAME, slot * N_SLOTS)
    files.sync(NEW_NAME)
    files.rename(NEW_NAME, STATE_NAME)
    files.sync_directory()


class Signer:
    """Signs the messages of one validator of one chain, each place in its history once.

    `files` is the directory of the state, `sign` makes an Ed25519 signature (64 bytes) of 47 bytes
    with the key whose public half is `public_key`; `validator` is its index in the genesis.
    """

    def __init__(
        self,
        files: Files,
        sign: Callable[[bytes], bytes],
        salt: bytes,
        public_key: bytes,
        validator: int,
    ) -> None:
        self._files = files
        self._sign = sign
        self._salt = salt
        self._public_key = public_key
        self._validator = validator
        self._first_height: int | None = None  # asked for without a state
        self._usable = True
        self._file: FixedFile | None = None
        self._slot = 0  # in which the state is durable
        self.state: SignerState | None = None
        slots = _read_slots(files, salt, public_key)
        if slots is not None:
            # A predecessor may have died before a sync: what this process can read need not be on
            # disk, and signatures are released because of it.
            self._file = files.update(STATE_NAME)
            self._file.sync()
            files.sync_directory()
            self.state = _latest(slots)
            self._slot = slots.index(self.state)
            self._file.write((N_SLOTS - 1 - self._slot) * SLOT_BYTES, self._encode(self.state))

    def sign(self, message: Proposal | Vote) -> bytes:
        """Return the signature (64 bytes) of an own message, the old one if it was signed last.

        Raises SigningRefused, and what writing the state raises; after that no more is signed.
        """
        if not self._usable:
            raise RuntimeError("the signer's state could not be written; start it again")
        if message.validator != self._validator:
            raise SigningRefused(
                Refusal.NOT_OURS,
                f"validator {message.validator} was asked for, and this is {self._validator}",
            )
        step = _step_of(message)
        position = (message.height, message.round, step)
        try:
            content = signed_bytes(message, self._salt)
        except ValueError as error:
            raise SigningRefused(Refusal.MALFORMED, str(error)) from None
        if message.height < 1 or (
            isinstance(message, Proposal) and not -1 <= message.valid_round < message.round
        ):
            raise SigningRefused(Refusal.MALFORMED, f"there is no such message: {message}")
        state = self.state
        if state is None:
            self._stay_silent(message.height)
        elif position < state.position:
            raise SigningRefused(
                Refusal.BACK,
                f"height {message.height}, round {message.round}, {step.name.lower()} "
                f"was asked for, and this validator {state.describe()}",
            )
        elif position == state.position:
            if content != state.signed:
                raise SigningRefused(
                    Refusal.CONFLICT,
                    f"something else was signed at height {message.height}, round {message.round}, "
                    f"{step.name.lower()}",
                )
            return state.signature
        signature = self._sign(content)
        if len(signature) != SIGNATURE_BYTES:
            raise ValueError(f"a signature has {SIGNATURE_BYTES} bytes, not {len(signature)}")
        self._store(SignerState(*position, content, signature))
        return signature

    def prove(self, challenge: bytes, node_id: bytes) -> bytes:
        """Return the signature (64 bytes) that shows a peer who this is.

        It concerns no height, so nothing is remembered: the prefix keeps it apart from all that
        agreement and payments know, and the challenge of others goes into a hash. Raises ValueError
        for what is no challenge (32 bytes) or node id (16).
        """
        return self._sign(address_bytes(challenge, node_id, self._salt))

    def close(self) -> None:
        """Close the file."""
        if self._file is not None:
            self._file.close()
        self._usable = False

    def _store(self, state: SignerState) -> None:
        self._usable = False
        if self._file is None:
            write_state(self._files, state, self._salt, self._public_key)
            self._file = self._files.update(STATE_NAME)
        else:
            self._write_slots(self._file, state)
        self._usable = True
        self.state = state

    def _write_slots(self, file: FixedFile, state: SignerState) -> None:
        """Make the state durable in the slot that is not needed any more; then free the other."""
        record = self._encode(state)
        spare = N_SLOTS - 1 - self._slot
        file.write(spare * SLOT_BYTES, record)
        file.sync()
        file.write(self._slot * SLOT_BYTES, record)
        self._slot = spare

    def _encode(self, state: SignerState) -> bytes:
        return _encode(state, self._salt, self._public_key)

    def _stay_silent(self, height: int) -> None:
        if self._first_height is None:
            self._first_height = height
        first = self._first_height + HEIGHTS_SILENT
        if height < first:
            raise SigningRefused(
                Refusal.SILENT,
                f"there is no record of what this validator signed, so it signs from height "
                f"{first} on; if the others cannot decide without it, see timed resume-signing",
            )


def _step_of(message: Proposal | Vote) -> SignerStep:
    if isinstance(message, Proposal):
        return SignerStep.PROPOSAL
    return SignerStep.PREVOTE if message.type is VoteType.PREVOTE else SignerStep.PRECOMMIT


def _encode(state: SignerState, salt: bytes, public_key: bytes) -> bytes:
    content = _STATE.pack(
        _MAGIC,
        STATE_FORMAT,
        salt,
        public_key,
        state.height,
        state.round,
        state.step,
        bool(state.signature),
        state.signed,
        state.signature,
    )
    return content + _checksum(content)


def _latest(slots: list[SignerState | None]) -> SignerState:
    return max((state for state in slots if state is not None), key=lambda state: state.position)


def _read_slots(files: Files, salt: bytes, public_key: bytes) -> list[SignerState | None] | None:
    try:
        data = files.read(STATE_NAME)
    except FileNotFoundError:
        return None
    return _decode(data, salt, public_key, files.path(STATE_NAME))


def _decode(data: bytes, salt: bytes, public_key: bytes, path: str) -> list[SignerState | None]:
    """The states in the slots, None for one that is torn or damaged; one at least is there."""
    slots: list[SignerState | None] = []
    for at in range(0, len(data), SLOT_BYTES):
        record = data[at : at + _RECORD_BYTES]
        content, checksum = record[: _STATE.size], record[_STATE.size :]
        good = content[: len(_MAGIC)] == _MAGIC and checksum == _checksum(content)
        slots.append(_unpack(content, salt, public_key, path) if good else None)
    if len(data) != N_SLOTS * SLOT_BYTES or not any(slots):
        raise SignerStateError(f"{path} is damaged", LOST_REMEDY)
    return slots


def _unpack(content: bytes, salt: bytes, public_key: bytes, path: str) -> SignerState:
    _, found, chain, key, height, round_, step, has_signature, signed, signature = _STATE.unpack(
        content
    )
    if found != STATE_FORMAT:
        raise SignerStateError(
            f"{path} has format {found}, and this version knows {STATE_FORMAT}",
            "install the version that wrote it",
        )
    if chain != salt:
        raise SignerStateError(
            f"{path} belongs to another chain", "put back what belongs into this data directory"
        )
    if key != public_key:
        raise SignerStateError(
            f"{path} belongs to another key than this validator's",
            "put that key back, or move the file away (see timed resume-signing --help)",
        )
    if step not in iter(SignerStep):
        raise SignerStateError(f"{path} is damaged", LOST_REMEDY)
    if not has_signature:
        signed = signature = b""
    return SignerState(height, round_, SignerStep(step), signed, signature)


def _checksum(content: bytes) -> bytes:
    return blake2b(content, digest_size=_CHECKSUM_BYTES, person=_PERSON).digest()
