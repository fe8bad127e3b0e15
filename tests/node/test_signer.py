"""What the signer signs, what it refuses, and what it does with a state that it cannot use."""

from __future__ import annotations

import stat
from hashlib import blake2b
from pathlib import Path
from random import Random
from typing import Any

import msgspec
import pytest
import signer_cuts
from damage import damaged
from hypothesis import given, settings
from hypothesis import strategies as st
from nacl.signing import SigningKey, VerifyKey
from signer_cuts import ME, PUBLIC_KEY, SALT, Machine, Witness, as_it_is, fake_sign, message_at
from sim_disk import SimDisk

from node.consensus.messages import Certificate, Proposal, Vote, VoteType
from node.consensus.signed_bytes import signed_bytes
from node.durable import Directory, Files
from node.errors import NodeError
from node.signer import (
    N_SLOTS,
    SLOT_BYTES,
    STATE_NAME,
    Refusal,
    Signer,
    SignerState,
    SignerStateError,
    SignerStep,
    SigningRefused,
    closed_up_to,
    read_state,
    write_state,
)

VALUE = bytes(range(32))


def signer_on(disk: Files) -> Signer:
    return Signer(disk, fake_sign, SALT, PUBLIC_KEY, ME)


def fresh() -> Signer:
    return signer_on(signer_cuts.fresh_disk())


def refused(signer: Signer, message: Proposal | Vote) -> Refusal:
    before = signer.state
    with pytest.raises(SigningRefused) as caught:
        signer.sign(message)
    assert signer.state == before
    assert caught.value.text
    return caught.value.reason


# -- what it signs -------------------------------------------------------------------------------


def test_signatures_are_the_keys_over_the_signed_bytes(tmp_path: Path) -> None:
    key = SigningKey(bytes(range(32)))
    public_key = bytes(key.verify_key)
    files = Directory(tmp_path)
    write_state(files, closed_up_to(0), SALT, public_key)
    signer = Signer(files, lambda content: key.sign(content).signature, SALT, public_key, ME)
    for step in (0, 1, 2):
        message = message_at((1, 0, step), 1)
        VerifyKey(public_key).verify(signed_bytes(message, SALT), signer.sign(message))
    assert stat.S_IMODE((tmp_path / STATE_NAME).stat().st_mode) == 0o600
    assert [path.name for path in tmp_path.iterdir()] == [STATE_NAME]


def test_a_round_goes_proposal_prevote_precommit() -> None:
    signer = fresh()
    for place in [(1, 0, 0), (1, 0, 1), (1, 0, 2), (1, 1, 1), (1, 5, 0), (2, 0, 2), (9, 0, 0)]:
        assert len(signer.sign(message_at(place, 1))) == 64


@pytest.mark.parametrize(
    "earlier", [(2, 1, 0), (2, 0, 1), (2, 0, 2), (2, 0, 0), (1, 9, 2), (1, 0, 0)]
)
def test_it_never_goes_back(earlier: tuple[int, int, int]) -> None:
    signer = fresh()
    signer.sign(message_at((2, 1, 1), 1))
    assert refused(signer, message_at(earlier, 1)) is Refusal.BACK


@pytest.mark.parametrize("step", [0, 1, 2])
def test_one_message_for_one_place(step: int) -> None:
    signer = fresh()
    signature = signer.sign(message_at((3, 2, step), 1))
    assert refused(signer, message_at((3, 2, step), 2)) is Refusal.CONFLICT
    if step:
        assert refused(signer, message_at((3, 2, step), 0)) is Refusal.CONFLICT
    assert signer.sign(message_at((3, 2, step), 1)) == signature


def test_another_valid_round_is_another_proposal() -> None:
    signer = fresh()
    signer.sign(Proposal(3, 2, VALUE, -1, ME))
    assert refused(signer, Proposal(3, 2, VALUE, 1, ME)) is Refusal.CONFLICT


def test_the_same_request_gets_the_old_signature_and_costs_nothing() -> None:
    disk = signer_cuts.fresh_disk()
    count = iter(range(100))
    signer = Signer(disk, lambda content: bytes([next(count)]) * 64, SALT, PUBLIC_KEY, ME)
    message = message_at((1, 0, 1), 1)
    first = signer.sign(message)
    operations = disk.operations
    polka = Certificate(VoteType.PREVOTE, 1, 0, VALUE, ())
    assert signer.sign(message) == first
    assert disk.operations == operations
    assert signer_on(disk).sign(message) == first
    signer = signer_on(disk)
    first = signer.sign(Proposal(2, 3, VALUE, 1, ME))
    assert signer.sign(Proposal(2, 3, VALUE, 1, ME, polka)) == first  # a polka proves itself


@given(st.randoms(use_true_random=False))
def test_a_long_life_of_any_requests(rng: Random) -> None:
    machine = Machine(signer_cuts.fresh_disk(), Witness(), as_it_is)
    for _ in range(5):
        assert machine.run(signer_cuts.random_script(rng))


# -- what it does not sign -----------------------------------------------------------------------


@pytest.mark.parametrize("validator", [0, 2, 4, -1, 2**70])
def test_only_for_itself(validator: int) -> None:
    assert refused(fresh(), message_at((1, 0, 1), 1, validator=validator)) is Refusal.NOT_OURS


@pytest.mark.parametrize(
    "message",
    [
        Vote(VoteType.PREVOTE, 0, 0, VALUE, ME),
        Vote(VoteType.PREVOTE, -1, 0, VALUE, ME),
        Vote(VoteType.PREVOTE, 2**64, 0, VALUE, ME),
        Vote(VoteType.PRECOMMIT, 1, -1, VALUE, ME),
        Vote(VoteType.PRECOMMIT, 1, 2**32, VALUE, ME),
        Vote(VoteType.PRECOMMIT, 1, 0, VALUE[:31], ME),
        Vote(VoteType.PRECOMMIT, 1, 0, b"", ME),
        Vote(7, 1, 0, VALUE, ME),  # type: ignore[arg-type]
        Proposal(1, 0, VALUE, -2, ME),
        Proposal(1, 0, VALUE, 0, ME),
        Proposal(1, 4, VALUE, 4, ME),
        Proposal(1, 4, VALUE, 2**31, ME),
        Proposal(1, 4, VALUE[:31], -1, ME),
        Proposal(1, 4, None, -1, ME),  # type: ignore[arg-type]
    ],
)
def test_nothing_that_no_validator_says(message: Proposal | Vote) -> None:
    assert refused(fresh(), message) is Refusal.MALFORMED


def test_what_is_signed_is_never_anything_else() -> None:
    """However odd the requests, the key is used for 47 bytes under one of three prefixes."""
    seen: list[bytes] = []

    def sign(content: bytes) -> bytes:
        seen.append(content)
        return bytes(64)

    signer = Signer(signer_cuts.fresh_disk(), sign, SALT, PUBLIC_KEY, ME)
    rng = Random(1)
    for _ in range(300):
        message = message_at((rng.randint(1, 50), rng.randrange(4), rng.randrange(3)), 1)
        try:
            signer.sign(message)
        except SigningRefused:
            continue
    prefixes = {b"TIME/propose/v1", b"TIME/prevote/v1", b"TIME/precomm/v1"}
    assert {content[:15] for content in seen} == prefixes
    assert {len(content) for content in seen} == {47}


def test_a_signature_of_another_length_is_not_kept() -> None:
    disk = signer_cuts.fresh_disk()
    signer = Signer(disk, lambda content: bytes(63), SALT, PUBLIC_KEY, ME)
    with pytest.raises(ValueError, match="64 bytes"):
        signer.sign(message_at((1, 0, 0), 1))
    assert read_state(disk, SALT, PUBLIC_KEY) == closed_up_to(0)


# -- without a state -----------------------------------------------------------------------------


def test_without_a_record_it_waits_for_two_heights() -> None:
    disk = SimDisk()
    signer = signer_on(disk)
    for place in [(7, 0, 0), (7, 3, 1), (8, 0, 0), (8, 9, 2), (7, 0, 0)]:
        assert refused(signer, message_at(place, 1)) is Refusal.SILENT
    assert disk.names() == []
    signer.sign(message_at((9, 0, 1), 1))
    assert refused(signer, message_at((8, 0, 2), 1)) is Refusal.BACK
    assert signer_on(disk).state == signer.state


def test_without_a_record_a_new_start_waits_anew() -> None:
    disk = SimDisk()
    assert refused(signer_on(disk), message_at((7, 0, 0), 1)) is Refusal.SILENT
    assert refused(signer_on(disk), message_at((9, 0, 0), 1)) is Refusal.SILENT


def test_nonsense_does_not_start_the_wait() -> None:
    signer = signer_on(SimDisk())
    for message in (message_at((1, 0, 0), 1, validator=0), Vote(VoteType.PREVOTE, 0, 0, None, ME)):
        refused(signer, message)
    assert refused(signer, message_at((5, 0, 0), 1)) is Refusal.SILENT
    assert refused(signer, message_at((6, 0, 0), 1)) is Refusal.SILENT


def test_the_first_state_opens_everything_above_its_height() -> None:
    disk = SimDisk()
    write_state(disk, closed_up_to(4), SALT, PUBLIC_KEY)
    signer = signer_on(disk)
    for place in [(4, 2**31 - 1, 2), (4, 2**32 - 1, 2), (1, 0, 0)]:
        assert refused(signer, message_at(place, 1)) in (Refusal.BACK, Refusal.CONFLICT)
    signer.sign(message_at((5, 0, 0), 1))


# -- states that cannot be used ------------------------------------------------------------------


def written(state: SignerState = closed_up_to(3)) -> SimDisk:  # noqa: B008
    disk = SimDisk()
    write_state(disk, state, SALT, PUBLIC_KEY)
    return disk


def unusable(disk: Files, salt: bytes = SALT, public_key: bytes = PUBLIC_KEY) -> str:
    with pytest.raises(SignerStateError) as caught:
        Signer(disk, fake_sign, salt, public_key, ME)
    assert "\n" not in caught.value.message
    assert caught.value.cause.startswith(f"sim/{STATE_NAME} ")
    return caught.value.message


STATES = [
    closed_up_to(0),
    SignerState(2**63 - 1, 2**31 - 1, SignerStep.PRECOMMIT, b"\xff" * 47, b"\xff" * 64),
    SignerState(1, 0, SignerStep.PROPOSAL, bytes(47), bytes(64)),
]


@pytest.mark.parametrize("state", STATES)
def test_a_state_comes_back_as_it_was(state: SignerState) -> None:
    assert read_state(written(state), SALT, PUBLIC_KEY) == state
    assert signer_on(written(state)).state == state


def record_bytes() -> int:
    """Size of what a slot holds; zeros follow."""
    return len(written().read(STATE_NAME)[:SLOT_BYTES].rstrip(b"\0"))


def test_a_damaged_slot_costs_nothing_and_two_are_noticed() -> None:
    state = STATES[1]
    for offset in range(record_bytes()):
        for slot in range(N_SLOTS):
            disk = written(state)
            disk.damage(STATE_NAME, slot * SLOT_BYTES + offset, 1 << offset % 8)
            assert read_state(disk, SALT, PUBLIC_KEY) == state
            signer_on(disk)
            disk.damage(STATE_NAME, (N_SLOTS - 1 - slot) * SLOT_BYTES)  # heals by a start only
            assert signer_on(disk.copy()).state == state
        disk = written(state)
        for slot in range(N_SLOTS):
            disk.damage(STATE_NAME, slot * SLOT_BYTES + offset, 1 << offset % 8)
        assert "damaged; move it away" in unusable(disk)


@pytest.mark.parametrize("slot", range(N_SLOTS))
def test_after_a_signature_either_slot_alone_knows_it(slot: int) -> None:
    disk = signer_cuts.fresh_disk()
    signer = signer_on(disk)
    for height in (1, 2, 3):
        signer.sign(message_at((height, 0, 1), 1))
        damaged = disk.copy()
        damaged.damage(STATE_NAME, slot * SLOT_BYTES)
        assert read_state(damaged, SALT, PUBLIC_KEY) == signer.state


def test_every_length_but_the_right_one_is_noticed() -> None:
    whole = written().read(STATE_NAME)
    size = record_bytes()
    lengths = [0, 1, size - 1, size, SLOT_BYTES, SLOT_BYTES + size, len(whole) - 1]
    for data in [*(whole[:end] for end in lengths), whole + b"\0", whole + whole]:
        disk = SimDisk({STATE_NAME: data})
        assert "damaged" in unusable(disk)


def test_a_state_of_another_chain_or_key_is_refused() -> None:
    assert "another chain" in unusable(written(), salt=bytes(16))
    assert "another key" in unusable(written(), public_key=bytes(32))


def test_another_format_says_so() -> None:
    content = bytearray(written().read(STATE_NAME)[: record_bytes() - 32])
    content[8] = 2
    checksum = blake2b(content, digest_size=32, person=b"TIME/signer/v1\0\0").digest()
    slot = (bytes(content) + checksum).ljust(SLOT_BYTES, b"\0")
    assert "format 2" in unusable(SimDisk({STATE_NAME: slot * N_SLOTS}))


def test_what_describes_a_state() -> None:
    state = SignerState(1234, 2, SignerStep.PREVOTE, bytes(47), bytes(64))
    assert state.describe() == "last signed height 1,234, round 2, prevote"
    assert closed_up_to(41).describe() == "signs from height 42 on"


# -- a disk that fails ---------------------------------------------------------------------------


class Failing:
    """A disk, or an open file on it, on which one kind of operation fails."""

    def __init__(self, real: Any, operation: str, *, broken: bool = True) -> None:
        self._real = real
        self._operation = operation
        self._opened: list[Failing] = []
        self.broken = broken

    def __getattr__(self, name: str) -> Any:
        if name == self._operation and self.broken:
            return self._fail
        return getattr(self._real, name)

    def update(self, name: str) -> Any:
        if self.broken and self._operation == "update":
            self._fail()
        self._opened.append(Failing(self._real.update(name), self._operation, broken=self.broken))
        return self._opened[-1]

    def set(self, *, broken: bool) -> None:
        for each in (self, *self._opened):
            each.broken = broken

    def _fail(self, *_: object) -> None:
        raise NodeError("the disk failed", "check it")


@pytest.mark.parametrize("operation", ["write", "sync"])
def test_after_a_failure_nothing_more_is_signed(operation: str) -> None:
    disk = signer_cuts.fresh_disk()
    failing = Failing(disk, operation, broken=False)
    signer = signer_on(failing)
    failing.set(broken=True)
    with pytest.raises(NodeError, match="the disk failed"):
        signer.sign(message_at((1, 0, 0), 1))
    failing.set(broken=False)
    for number in (1, 2):  # whatever the state is now, this life does not know
        with pytest.raises(RuntimeError, match="start it again"):
            signer.sign(message_at((1, 0, 0), number))
    assert len(signer_on(disk).sign(message_at((1, 0, 1), 1))) == 64


@pytest.mark.parametrize("operation", ["write", "sync", "rename", "sync_directory", "update"])
def test_a_failure_to_make_the_record_ends_it_too(operation: str) -> None:
    failing = Failing(SimDisk(), operation, broken=False)
    signer = signer_on(failing)
    assert refused(signer, message_at((1, 0, 0), 1)) is Refusal.SILENT
    failing.set(broken=True)
    with pytest.raises(NodeError, match="the disk failed"):
        signer.sign(message_at((3, 0, 0), 1))
    failing.set(broken=False)
    with pytest.raises(RuntimeError, match="start it again"):
        signer.sign(message_at((3, 0, 0), 1))


@pytest.mark.parametrize("operation", ["read", "update", "write", "sync", "sync_directory"])
def test_a_disk_that_fails_at_the_start_is_said(operation: str) -> None:
    with pytest.raises(NodeError, match="the disk failed"):
        signer_on(Failing(signer_cuts.fresh_disk(), operation))


@pytest.mark.parametrize("seed", range(20))
def test_a_state_is_durable_before_anything_is_signed_because_of_it(seed: int) -> None:
    """The predecessor was killed between writing the slot and its sync."""
    disk = signer_cuts.fresh_disk()
    machine = Machine(disk, Witness(), as_it_is)
    start = 3  # sync, sync_directory, the other slot
    machine.kill_at(disk.operations + start + 1)
    message = message_at((1, 0, 2), 1)
    assert not machine.run([message])
    disk.on_operation = None
    assert machine.run([message])
    assert machine.witness.last == (1, 0, 2)
    machine.reboot(Random(seed))
    machine.start()
    assert not machine.ask(message_at((1, 0, 2), 2))


def test_one_that_was_closed_signs_no_more(tmp_path: Path) -> None:
    files = Directory(tmp_path)
    write_state(files, closed_up_to(0), SALT, PUBLIC_KEY)
    signer = signer_on(files)
    signer.sign(message_at((1, 0, 0), 1))
    signer.close()
    signer.close()
    with pytest.raises(RuntimeError, match="start it again"):
        signer.sign(message_at((1, 0, 1), 1))


def test_only_messages_of_these_types_exist() -> None:
    """A new kind of message must be thought of here: its step, its prefix."""
    assert {step.name for step in SignerStep} == {"PROPOSAL", *(kind.name for kind in VoteType)}
    vote = Vote(VoteType.PRECOMMIT, 1, 0, None, ME)
    signer = fresh()
    signer.sign(vote)
    assert signer.state is not None
    assert signer.state.step is SignerStep.PRECOMMIT
    assert msgspec.structs.asdict(signer.state)["signed"] == signed_bytes(vote, SALT)


# -- any bytes -----------------------------------------------------------------------------------


def sealed(content: bytes) -> bytes:
    """A slot whose checksum is right."""
    digest = blake2b(content, digest_size=32, person=b"TIME/signer/v1".ljust(16, b"\0")).digest()
    return (content + digest).ljust(SLOT_BYTES, b"\0")


@settings(max_examples=300)
@given(st.data())
def test_any_damaged_state_is_read_or_refused(data: st.DataObject) -> None:
    """Half of the time each slot is damaged within its checksum, which is right then."""
    disk = signer_cuts.fresh_disk()
    signer = signer_on(disk)
    signer.sign(message_at((3, 2, 1), 1))
    signer.close()
    whole = disk.read(STATE_NAME)
    if data.draw(st.booleans()):
        size = record_bytes() - 32
        changed = [data.draw(damaged(whole[at : at + size])) for at in (0, SLOT_BYTES)]
        whole = b"".join(sealed(each[:size].ljust(size, b"\0")) for each in changed)
    else:
        whole = data.draw(damaged(whole))
    try:
        state = read_state(SimDisk({STATE_NAME: whole}), SALT, PUBLIC_KEY)
    except SignerStateError:
        return
    assert state is not None
    assert isinstance(state.step, SignerStep)
