"""Keys that come from the service manager: found, and refused when others could read them."""

from __future__ import annotations

import os
import struct
import subprocess
import sys
from pathlib import Path

import pytest

from node import credentials
from node.keys import KeyFileError, create_key_file, hold_key_file, read_key_file

SEED = bytes(range(32))
OTHER_USER = 4_711
AS_ROOT = pytest.mark.skipif(os.geteuid() != 0, reason="files of root are root's to make")
READ, MASK, NOBODY = 4, 0x10, 0xFFFFFFFF


@pytest.fixture
def key(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A credential as systemd makes it for a service that runs as the user of this test."""
    monkeypatch.setenv("CREDENTIALS_DIRECTORY", str(tmp_path))
    create_key_file(tmp_path / credentials.VALIDATOR_KEY, SEED)
    found = credentials.find(credentials.VALIDATOR_KEY)
    assert found is not None
    found.chmod(0o400)
    return found


def access_list(*entries: tuple[int, int, int]) -> bytes:
    return struct.pack("<I", 2) + b"".join(struct.pack("<HHI", *each) for each in entries)


def for_user(user: int, bits: int = READ, group: int = 0, other: int = 0) -> bytes:
    """What systemd gives root's file: this user may read it."""
    return access_list(
        (0x01, READ, NOBODY),
        (0x02, bits, user),
        (0x04, group, NOBODY),
        (MASK, READ, NOBODY),
        (0x20, other, NOBODY),
    )


def test_a_credential_of_the_services_user_is_read(key: Path) -> None:
    assert bytes(read_key_file(key)) == SEED
    with hold_key_file(key, wait_s=0):
        pass
    key.chmod(0o440)
    if os.geteuid() != 0:
        with pytest.raises(KeyFileError, match="others may use"):
            read_key_file(key)


def test_nothing_is_found_where_nothing_was_given(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("CREDENTIALS_DIRECTORY", raising=False)
    assert credentials.find("validator.key") is None
    assert not credentials.is_one(Path("validator.key"))
    assert credentials.find("validator.key", {"CREDENTIALS_DIRECTORY": str(tmp_path)}) is None
    (tmp_path / "validator.key").write_bytes(b"")
    assert credentials.find("validator.key", {"CREDENTIALS_DIRECTORY": "."}) is None


# In a process of its own: a test must not give up being root.
READER = """
import os, sys
from pathlib import Path
sys.path[:0] = os.environ["PATHS"].split(os.pathsep)
from node import credentials
fd = os.open(sys.argv[1], os.O_RDONLY)
print(credentials.is_private(fd, int(sys.argv[2])))
"""


def is_private(path: Path, user: int) -> bool:
    command = [sys.executable, "-c", READER, str(path), str(user)]
    environment = os.environ | {"PATHS": os.pathsep.join(filter(None, sys.path))}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    return done.stdout == "True\n"


@AS_ROOT
@pytest.mark.parametrize(
    ("mode", "acl", "private"),
    [
        (0o400, None, True),
        (0o440, for_user(OTHER_USER), True),
        (0o440, for_user(OTHER_USER + 1), False),
        (0o440, for_user(OTHER_USER, group=READ), False),
        (0o440, None, False),  # the group's bits are the group's
        (0o444, None, False),
        (0o600, None, False),
        (0o460, for_user(OTHER_USER, bits=READ | 2), False),
    ],
)
def test_a_credential_of_root_must_be_for_this_user_alone(
    key: Path, mode: int, acl: bytes | None, private: bool
) -> None:
    if acl is not None:
        try:
            os.setxattr(key, "system.posix_acl_access", acl)
        except OSError as error:
            pytest.skip(f"no access lists here: {error.strerror}")
    key.chmod(mode)
    assert is_private(key, OTHER_USER) is private


@AS_ROOT
def test_a_file_of_root_is_a_credential_only_in_its_place(
    key: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: OTHER_USER)
    assert bytes(read_key_file(key)) == SEED
    monkeypatch.setenv("CREDENTIALS_DIRECTORY", "/run/credentials/another.service")
    with pytest.raises(KeyFileError, match="belongs to user 0"):
        read_key_file(key)
    monkeypatch.setenv("CREDENTIALS_DIRECTORY", str(key.parent))
    key.chmod(0o444)
    with pytest.raises(KeyFileError, match="belongs to user 0"):
        read_key_file(key)
    os.chown(key, OTHER_USER + 1, -1)
    key.chmod(0o400)
    with pytest.raises(KeyFileError, match=f"belongs to user {OTHER_USER + 1}"):
        read_key_file(key)
