"""The validator's key file: who may read it, who holds it, and what it may hold."""

from __future__ import annotations

import os
import stat
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from damage import damaged
from hypothesis import given
from hypothesis import strategies as st

from node.keys import (
    KeyFileError,
    KeyInUse,
    check_key_file,
    create_key_file,
    hold_key_file,
    read_key_file,
    validator_index,
)

SEED = bytes(range(32))


def test_round_trip(tmp_path: Path) -> None:
    path = tmp_path / "validator.key"
    created = create_key_file(path, SEED)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert bytes(read_key_file(path)) == bytes(created) == SEED


def test_the_umask_does_not_matter(tmp_path: Path) -> None:
    before = os.umask(0o777)
    try:
        create_key_file(tmp_path / "key", SEED)
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "key").stat().st_mode) == 0o600


def test_a_key_is_never_overwritten(tmp_path: Path) -> None:
    path = tmp_path / "key"
    create_key_file(path, SEED)
    with pytest.raises(KeyFileError, match="never overwritten"):
        create_key_file(path, bytes(32))
    assert bytes(read_key_file(path)) == SEED


def test_a_missing_directory_is_named(tmp_path: Path) -> None:
    with pytest.raises(KeyFileError, match=r"cannot create .*nowhere"):
        create_key_file(tmp_path / "nowhere" / "key", SEED)


def test_a_seed_of_another_length_is_ours_to_mend(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="32 bytes"):
        create_key_file(tmp_path / "key", SEED[1:])
    assert not (tmp_path / "key").exists()


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o610, 0o601, 0o660, 0o777])
def test_a_key_that_others_can_use_is_refused(tmp_path: Path, mode: int) -> None:
    path = tmp_path / "key"
    create_key_file(path, SEED)
    path.chmod(mode)
    with pytest.raises(KeyFileError, match=f"{mode:04o}.*chmod 600"):
        read_key_file(path)


def test_links_directories_and_pipes_are_refused(tmp_path: Path) -> None:
    create_key_file(tmp_path / "key", SEED)
    (tmp_path / "link").symlink_to(tmp_path / "key")
    os.mkfifo(tmp_path / "pipe", 0o600)
    for name in ("link", "pipe", "."):
        with pytest.raises(KeyFileError, match="the key file itself"):
            read_key_file(tmp_path / name)


def test_a_missing_key_is_named(tmp_path: Path) -> None:
    with pytest.raises(KeyFileError, match=r"no validator key at .*; restore it"):
        read_key_file(tmp_path / "key")


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a file away")
def test_a_key_of_another_user_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "key"
    create_key_file(path, SEED)
    os.chown(path, 65534, 65534)
    with pytest.raises(KeyFileError, match="belongs to user 65534"):
        read_key_file(path)


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\xff" * 100,
        SEED.hex().encode(),
        b"timed-validator-key 1 " + SEED.hex().encode()[:-2],
        b"timed-validator-key 1 " + SEED.hex().upper().encode(),
        b"timed-validator-key 1 " + b"g" * 64,
        b"timed-validator-key 1 " + SEED.hex().encode() + b" more",
        b"another-key 1 " + SEED.hex().encode(),
    ],
)
def test_a_damaged_key_is_refused_and_not_shown(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "key"
    path.write_bytes(content)
    path.chmod(0o600)
    with pytest.raises(KeyFileError, match="does not hold") as caught:
        read_key_file(path)
    assert SEED.hex()[:8] not in caught.value.message.lower()


def test_a_newer_format_says_so(tmp_path: Path) -> None:
    path = tmp_path / "key"
    path.write_text(f"timed-validator-key 2 {SEED.hex()}\n")
    path.chmod(0o600)
    with pytest.raises(KeyFileError, match="format 2"):
        read_key_file(path)


def test_who_may_use_a_key_file_is_checked_without_reading_it(tmp_path: Path) -> None:
    path = tmp_path / "key"
    with pytest.raises(KeyFileError, match="no validator key"):
        check_key_file(path)
    path.write_bytes(b"no key at all")
    path.chmod(0o640)
    with pytest.raises(KeyFileError, match="chmod 600"):
        check_key_file(path)
    path.chmod(0o600)
    check_key_file(path)


def test_a_held_key_file_is_held_under_every_name(tmp_path: Path) -> None:
    path = tmp_path / "key"
    create_key_file(path, SEED)
    (tmp_path / "other").hardlink_to(path)
    with hold_key_file(path) as key:
        assert bytes(key) == SEED
        for name in ("key", "other"):
            with (
                pytest.raises(KeyInUse, match=rf"process {os.getpid()}.*{name}.*stop that node"),
                hold_key_file(tmp_path / name, wait_s=0),
            ):
                pass
        assert bytes(read_key_file(path)) == SEED  # to look is no harm
    with hold_key_file(tmp_path / "other", wait_s=0) as key:
        assert bytes(key) == SEED


def test_a_held_key_file_is_the_file_and_not_its_name(tmp_path: Path) -> None:
    path = tmp_path / "key"
    create_key_file(path, SEED)
    with hold_key_file(path):
        path.rename(tmp_path / "moved")
        create_key_file(path, bytes(32))
        with hold_key_file(path, wait_s=0):
            pass
        with pytest.raises(KeyInUse), hold_key_file(tmp_path / "moved", wait_s=0):
            pass


def test_a_holder_that_dies_lets_go_and_a_patient_one_gets_it(tmp_path: Path) -> None:
    path = tmp_path / "key"
    create_key_file(path, SEED)
    with subprocess.Popen(
        [
            *(sys.executable, "-c"),
            "import sys; from pathlib import Path; from node.keys import hold_key_file\n"
            "with hold_key_file(Path(sys.argv[1])):\n"
            "    print('held', flush=True)\n"
            "    sys.stdin.read()",
            str(path),
        ],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env=os.environ | {"PYTHONPATH": str(Path(__file__).parents[2])},
    ) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == b"held\n"
        with pytest.raises(KeyInUse, match=f"process {holder.pid}"), hold_key_file(path, wait_s=0):
            pass
        holder.kill()
        with hold_key_file(path, wait_s=30) as key:  # reaped by nobody yet, and yet it let go
            assert bytes(key) == SEED


def test_a_key_that_cannot_be_used_is_not_held(tmp_path: Path) -> None:
    path = tmp_path / "key"
    path.write_bytes(b"nothing")
    path.chmod(0o600)
    for _ in range(2):
        with pytest.raises(KeyFileError, match="does not hold"), hold_key_file(path, wait_s=0):
            pass


def test_which_validator_has_a_key(tmp_path: Path) -> None:
    keys = sorted(bytes([n]) * 32 for n in range(3))
    validators = [SimpleNamespace(key_bytes=key) for key in keys]
    genesis: Any = SimpleNamespace(validators=validators)
    assert [validator_index(key, genesis, tmp_path) for key in keys] == [0, 1, 2]
    with pytest.raises(KeyFileError, match="not a validator's of this chain"):
        validator_index(b"\xff" * 32, genesis, tmp_path)


def test_any_damaged_file_holds_one_key_or_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "key"
    create_key_file(path, SEED)
    whole = path.read_bytes()

    @given(damaged(whole) | st.binary(max_size=100))
    def read(data: bytes) -> None:
        path.write_bytes(data)
        try:
            key = read_key_file(path)
        except KeyFileError:
            return
        assert data.split() == [b"timed-validator-key", b"1", bytes(key).hex().encode()]

    read()
