"""Wallet files: what opens them, who may read them, and that nothing replaces one."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest
from damage import damaged_json
from hypothesis import example, given, settings
from nacl.pwhash import argon2id
from nacl.signing import SigningKey

from node.address import decode_address
from node.errors import NodeError
from tools.cli import wallet_file
from tools.cli.errors import WalletError
from tools.cli.passphrase import Source
from tools.cli.wallet_file import Wallet, create, read

SEED = bytes(range(32))
PASSPHRASE = b"correct horse battery staple"


def made(path: Path, chain: str = "dev", **limits: int) -> Wallet:
    """A wallet that is quick to open."""
    quick = {"opslimit": argon2id.OPSLIMIT_MIN, "memlimit": argon2id.MEMLIMIT_MIN} | limits
    return create(path, chain, SEED, PASSPHRASE, **quick)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "wallets" / "dev" / "default.wallet"


def test_what_was_made_opens_and_holds_the_key(path: Path) -> None:
    wallet = made(path)
    assert read(path) == wallet
    assert wallet.open(PASSPHRASE).encode() == SEED
    assert decode_address(wallet.address, "dtime") == bytes(SigningKey(SEED).verify_key)
    assert SEED.hex() not in path.read_text()
    assert path.stat().st_mode & 0o777 == 0o600
    assert path.parent.stat().st_mode & 0o777 == 0o700
    assert list(path.parent.iterdir()) == [path]


def test_a_new_wallet_has_the_stated_limits(tmp_path: Path) -> None:
    create(tmp_path / "w", "main", SEED, PASSPHRASE)
    content = json.loads((tmp_path / "w").read_bytes())
    assert (content["format"], content["version"]) == ("timed-wallet", 1)
    assert content["kdf"]["name"] == "argon2id13"
    assert (content["kdf"]["opslimit"], content["kdf"]["memlimit"]) == (3, 256 * 1024 * 1024)
    assert content["cipher"]["name"] == "xsalsa20-poly1305"
    assert content["address"].startswith("time1")


def test_the_same_seed_and_passphrase_give_another_file(tmp_path: Path) -> None:
    one, two = made(tmp_path / "1"), made(tmp_path / "2")
    assert one.address == two.address
    assert one.kdf.salt != two.kdf.salt
    assert one.cipher.nonce != two.cipher.nonce
    assert one.sealed != two.sealed


def test_a_wrong_passphrase_opens_nothing(path: Path) -> None:
    wallet = made(path)
    for wrong in (b"", PASSPHRASE + b" ", PASSPHRASE.upper()):
        with pytest.raises(WalletError, match="does not open"):
            wallet.open(wrong)


def test_a_wallet_is_never_overwritten(path: Path) -> None:
    made(path)
    before = path.read_bytes()
    with pytest.raises(WalletError, match="never overwritten"):
        made(path)
    assert path.read_bytes() == before
    assert list(path.parent.iterdir()) == [path]


def test_a_wallet_appears_whole_or_not_at_all(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The disk is full when the content is made durable: nothing is there, under no name."""

    def full(fd: int) -> None:
        assert [each.name[0] for each in path.parent.iterdir()] == ["."], "not under its name yet"
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(NodeError, match="no space"):
        made(path)
    assert list(path.parent.iterdir()) == []


def rewrite(path: Path, *keys: str, value: Any) -> None:
    content = json.loads(path.read_bytes())
    at = content
    for key in keys[:-1]:
        at = at[key]
    at[keys[-1]] = value
    path.write_text(json.dumps(content))


def test_a_changed_address_is_noticed_when_the_wallet_is_opened(path: Path) -> None:
    made(path)
    other = create(path.with_name("other"), "dev", bytes(32), PASSPHRASE, opslimit=1, memlimit=8192)
    rewrite(path, "address", value=other.address)
    with pytest.raises(WalletError, match="the file was changed"):
        read(path).open(PASSPHRASE)


@pytest.mark.parametrize(
    ("keys", "value"),
    [
        (("chain",), "main"),  # the address has another prefix then
        (("address",), "dtime1qqqq"),
        (("format",), "something"),
        (("sealed",), "00"),
        (("sealed",), "zz" * 48),
        (("kdf", "salt"), "00" * 15),
        (("kdf", "opslimit"), 10**9),
        (("kdf", "memlimit"), 2**50),
        (("kdf", "name"), "scrypt"),
        (("cipher", "name"), "none"),
        (("cipher", "nonce"), None),
        (("more",), 1),
    ],
)
def test_what_is_damaged_is_not_believed(path: Path, keys: tuple[str, ...], value: Any) -> None:
    made(path)
    rewrite(path, *keys, value=value)
    with pytest.raises(WalletError, match="does not hold a wallet"):
        read(path)


@pytest.mark.parametrize("content", [b"", b"[]", b"{", b"\xff\xfe", b"null", b'{"format": 1}'])
def test_what_is_no_wallet_is_not_taken_for_one(path: Path, content: bytes) -> None:
    made(path)
    path.write_bytes(content)
    with pytest.raises(WalletError, match="does not hold a wallet"):
        read(path)


def test_a_newer_format_is_named(path: Path) -> None:
    made(path)
    rewrite(path, "version", value=2)
    with pytest.raises(WalletError, match="version 2, and this time-cli knows 1"):
        read(path)


def test_changed_parameters_open_nothing(path: Path) -> None:
    made(path)
    rewrite(path, "kdf", "opslimit", value=2)
    with pytest.raises(WalletError, match="does not open"):
        read(path).open(PASSPHRASE)


def test_what_others_may_use_is_refused(path: Path) -> None:
    made(path)
    path.chmod(0o640)
    with pytest.raises(WalletError, match=r"mode 0640.*chmod 600"):
        read(path)


def test_links_directories_and_nothing_are_refused(path: Path, tmp_path: Path) -> None:
    made(path)
    link = tmp_path / "link"
    link.symlink_to(path)
    with pytest.raises(WalletError, match="not a link"):
        read(link)
    with pytest.raises(WalletError, match="not a regular file"):
        read(tmp_path)
    with pytest.raises(WalletError, match="wallet new"):
        read(tmp_path / "nothing")
    os.mkfifo(tmp_path / "fifo", 0o600)
    with pytest.raises(WalletError, match="not a regular file"):
        read(tmp_path / "fifo")
    path.write_bytes(b" " * 5_000)
    with pytest.raises(WalletError, match="more than 4,096"):
        read(path)


# -- passphrases ---------------------------------------------------------------------------------


def secret(path: Path, content: bytes, mode: int = 0o600) -> Path:
    path.write_bytes(content)
    path.chmod(mode)
    return path


def test_a_passphrase_is_the_first_line_of_a_private_file(tmp_path: Path) -> None:
    file = secret(tmp_path / "p", "löng enough\r\nsecond".encode())
    assert Source(file=file).ask("x") == "löng enough".encode()
    secret(file, PASSPHRASE)
    assert Source(file=file).ask_new("x") == PASSPHRASE
    secret(file, PASSPHRASE, 0o604)
    with pytest.raises(WalletError, match="others may use"):
        Source(file=file).ask("x")


def test_a_passphrase_out_of_a_descriptor_leaves_the_rest_to_others() -> None:
    ours, theirs = os.pipe()
    try:
        os.write(theirs, PASSPHRASE + b"\nfor somebody else")
        assert Source(descriptor=ours).ask("x") == PASSPHRASE
        assert os.read(ours, 100) == b"for somebody else"
    finally:
        os.close(ours)
        os.close(theirs)
    with pytest.raises(WalletError, match="descriptor"):
        Source(descriptor=ours).ask("x")


@pytest.mark.parametrize("content", [b"", b"\nsecond", b"x" * 1_025])
def test_what_is_no_passphrase_says_so(tmp_path: Path, content: bytes) -> None:
    with pytest.raises(WalletError):
        Source(file=secret(tmp_path / "p", content)).ask("x")


def test_a_new_passphrase_has_a_least_length(tmp_path: Path) -> None:
    file = secret(tmp_path / "p", b"seven77")
    assert Source(file=file).ask("x") == b"seven77"
    with pytest.raises(WalletError, match="8 characters"):
        Source(file=file).ask_new("x")


def test_the_module_s_bounds_are_libsodium_s() -> None:
    assert wallet_file.OPSLIMIT == argon2id.OPSLIMIT_MODERATE <= wallet_file.MAX_OPSLIMIT
    assert wallet_file.MEMLIMIT == argon2id.MEMLIMIT_MODERATE <= wallet_file.MAX_MEMLIMIT


# -- any bytes -----------------------------------------------------------------------------------


def test_any_damaged_file_is_a_wallet_or_refused(path: Path) -> None:
    wallet = made(path)
    whole = path.read_bytes()

    @settings(max_examples=200)
    @given(damaged_json(whole).filter(lambda data: len(data) <= wallet_file.MAX_FILE_BYTES))
    @example(b"[" * 4_000)
    @example(whole.replace(b'"version"', b'"x": ' + b"[" * 1_500 + b"]" * 1_500 + b', "version"'))
    def opened(data: bytes) -> None:
        path.write_bytes(data)
        try:
            found = read(path)
        except WalletError:
            return
        assert decode_address(found.address, found.prefix)
        assert len(found.sealed) == len(wallet.sealed)

    opened()
