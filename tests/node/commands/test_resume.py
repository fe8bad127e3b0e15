"""`timed resume-signing`, and what `timed init` and `timed check` know of the signer's state."""

from __future__ import annotations

import hashlib
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import msgspec
import pytest
from chains import make_genesis
from nacl.signing import SigningKey

from node import datadir
from node.commands.check import check
from node.commands.init import init
from node.commands.resume import decides_without, resume
from node.datadir import Layout, layout
from node.durable import Directory
from node.errors import DatadirError, NodeRunning, UsageError
from node.genesis import Genesis, Validator, genesis_to_json, read_genesis
from node.keys import KeyInUse, create_key_file, hold_key_file, read_key_file
from node.signer import STATE_NAME, SignerState, SignerStep, closed_up_to, read_state, write_state
from pipeline.errors import OperatorError


def genesis_of(powers: tuple[int, ...]) -> tuple[Genesis, bytes, dict[bytes, SigningKey]]:
    """A chain of validators with these powers, in the order of their keys."""
    keys = [SigningKey(hashlib.blake2b(b"%d" % n, digest_size=32).digest()) for n in range(9)]
    of = {bytes(key.verify_key): key for key in keys[: len(powers)]}
    genesis, allocations = make_genesis(count=3)
    validators = tuple(
        Validator(key=public.hex(), power=power)
        for public, power in zip(sorted(of), powers, strict=True)
    )
    return msgspec.structs.replace(genesis, validators=validators), allocations, of


@pytest.fixture
def made(tmp_path: Path) -> Callable[[tuple[int, ...]], Layout]:
    """The data directory of the first validator of a chain."""

    def make(powers: tuple[int, ...]) -> Layout:
        genesis, allocations, keys = genesis_of(powers)
        given = tmp_path / "given"
        given.mkdir()
        (given / "genesis.json").write_bytes(genesis_to_json(genesis))
        (given / "genesis.alloc").write_bytes(allocations)
        create_key_file(given / "key", bytes(keys[genesis.validators[0].key_bytes]))
        where = layout(tmp_path / "d")
        init(where, "dev", given / "genesis.json", given / "key")
        return where

    return make


def state_of(where: Layout) -> SignerState | None:
    key = read_key_file(where.validator_key)
    return read_state(Directory(where.signer), datadir.check(where)[:16], bytes(key.verify_key))


def lose_state(where: Layout) -> None:
    shutil.rmtree(where.signer)


def test_init_opens_the_whole_chain_durably_before_it_says_done(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    where = layout(tmp_path / "d")
    synced: list[str] = []

    def finish(there: Layout, identity: bytes) -> None:
        assert (there.signer / STATE_NAME).exists()
        synced.append("finish")
        real_finish(there, identity)

    def fsync(fd: int) -> None:
        synced.append(os.readlink(f"/proc/self/fd/{fd}"))
        real_fsync(fd)

    real_finish, real_fsync = datadir.finish, os.fsync
    monkeypatch.setattr(datadir, "finish", finish)
    monkeypatch.setattr(os, "fsync", fsync)
    init(where, "dev", None, None)
    before = synced[: synced.index("finish")]
    assert before[-2:] == [str(where.signer / f"{STATE_NAME}.new"), str(where.signer)]
    assert str(where.root) in before  # the name of its directory
    assert state_of(where) == closed_up_to(0)


def test_init_with_a_key_that_may_have_signed_says_what_to_do(
    made: Callable[[tuple[int, ...]], Layout], capsys: pytest.CaptureFixture[str]
) -> None:
    where = made((1,))
    out = capsys.readouterr().out
    assert f"delete\n                {where.signer / STATE_NAME} first" in out
    assert "never run two nodes" in out


def test_init_with_a_new_key_needs_no_warning(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    init(layout(tmp_path / "d"), "dev", None, None)
    assert "signed on this chain" not in capsys.readouterr().out


@pytest.mark.parametrize(
    ("powers", "alone"),
    [((1,), False), ((1, 1), False), ((1, 1, 1), False), ((1, 1, 1, 1), True), ((3, 1, 8), True),
     ((4, 1, 7), False), ((5, 1, 1, 1, 1, 1), False), ((2, 2, 2, 1), True)],
)  # fmt: skip
def test_whether_the_others_have_a_quorum(powers: tuple[int, ...], alone: bool) -> None:
    genesis, _, _ = genesis_of(powers)
    assert decides_without(genesis, 0) is alone


def test_resuming_needs_a_yes_and_says_why(
    made: Callable[[tuple[int, ...]], Layout], capsys: pytest.CaptureFixture[str]
) -> None:
    where = made((1, 1, 1, 1))
    lose_state(where)
    with pytest.raises(UsageError, match="nothing was changed; give --yes"):
        resume(where, None, confirmed=False)
    assert not where.signer.exists()
    out = capsys.readouterr().out
    assert "signs from height     2" in out
    assert "others decide alone   yes" in out
    assert "no other node runs with a copy of this key" in out
    resume(where, None, confirmed=True)
    assert "from height 2 on this validator signs again" in capsys.readouterr().out
    assert state_of(where) == closed_up_to(1)
    assert where.signer.stat().st_mode & 0o777 == 0o700
    assert (where.signer / STATE_NAME).stat().st_mode & 0o777 == 0o600


def test_a_validator_without_which_nothing_goes_on_is_told_so(
    made: Callable[[tuple[int, ...]], Layout], capsys: pytest.CaptureFixture[str]
) -> None:
    where = made((1,))
    lose_state(where)
    resume(where, None, confirmed=True)
    out = capsys.readouterr().out
    assert "others decide alone   no" in out
    assert "--from-height 1" in out
    lose_state(where)
    resume(where, 1, confirmed=True)
    assert "--from-height" not in capsys.readouterr().out
    assert state_of(where) == closed_up_to(0)


def test_a_height_that_is_decided_is_refused(made: Callable[[tuple[int, ...]], Layout]) -> None:
    where = made((1,))
    lose_state(where)
    for height in (0, -5):
        with pytest.raises(UsageError, match="is decided already; give --from-height 1 or more"):
            resume(where, height, confirmed=True)
    assert not where.signer.exists()


def test_a_height_that_no_message_can_have_is_refused(
    made: Callable[[tuple[int, ...]], Layout],
) -> None:
    where = made((1,))
    lose_state(where)
    with pytest.raises(UsageError, match="no chain gets there"):
        resume(where, 2**63, confirmed=True)


def test_a_record_is_never_replaced(made: Callable[[tuple[int, ...]], Layout]) -> None:
    where = made((1,))
    key = read_key_file(where.validator_key)
    salt = datadir.check(where)[:16]
    signed = SignerState(9, 0, SignerStep.PREVOTE, bytes(47), bytes(64))
    for state in (closed_up_to(0), signed):
        write_state(Directory(where.signer), state, salt, bytes(key.verify_key))
        with pytest.raises(DatadirError, match=r"is there \(.*nothing to resume"):
            resume(where, 1, confirmed=True)
        assert state_of(where) == state
    (where.signer / STATE_NAME).write_bytes(b"")
    with pytest.raises(OperatorError, match="is damaged; move it away"):
        resume(where, 1, confirmed=True)


def test_nothing_is_resumed_beside_a_running_signer(
    made: Callable[[tuple[int, ...]], Layout],
) -> None:
    where = made((1,))
    lose_state(where)
    with datadir.locked(where), pytest.raises(NodeRunning):
        resume(where, 1, confirmed=True)
    with hold_key_file(where.validator_key), pytest.raises(KeyInUse):
        resume(where, 1, confirmed=True)


def checked(where: Layout, capsys: pytest.CaptureFixture[str]) -> str:
    """The line about the signer."""
    capsys.readouterr()
    try:
        check(where, False)
    except OperatorError as error:
        print(error.message)
    lines = capsys.readouterr().out.splitlines()
    return next(line for line in lines if line[5:].startswith("signer "))


def test_check_reports_what_was_signed_last(
    made: Callable[[tuple[int, ...]], Layout], capsys: pytest.CaptureFixture[str]
) -> None:
    where = made((1, 1, 1, 1))
    genesis = read_genesis(where.genesis)
    assert checked(where, capsys) == "ok   signer          signs from height 1 on"
    salt = datadir.check(where)[:16]
    state = SignerState(1234, 1, SignerStep.PRECOMMIT, bytes(47), bytes(64))
    files = Directory(where.signer)
    write_state(files, state, salt, genesis.validators[0].key_bytes)
    assert "ok   signer          last signed height 1,234, round 1, prec" in checked(where, capsys)
    write_state(files, state, salt, genesis.validators[1].key_bytes)
    assert checked(where, capsys).startswith("bad  signer ")
    lose_state(where)
    line = checked(where, capsys)
    assert line.startswith("ok   signer          no record of what was signed: silent until two")
    assert not where.signer.exists()


def test_check_says_when_all_wait_for_a_validator_without_a_record(
    made: Callable[[tuple[int, ...]], Layout], capsys: pytest.CaptureFixture[str]
) -> None:
    where = made((1,))
    lose_state(where)
    line = checked(where, capsys)
    assert line.startswith("bad  signer ")
    assert "the others cannot decide without it; see timed resume-signing" in line
