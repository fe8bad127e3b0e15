"""Wallet files: one key each, encrypted under a passphrase, readable by their owner alone.

``time-cli wallet new`` makes one, ``time-cli send`` opens it. The file is JSON, version 1:

========= ==========================================================================
format    "timed-wallet"
version   1
chain     name of the chain whose prefix the address has: "main", "test" or another
address   the key's address, in clear: balances are looked up without the passphrase
kdf       name "argon2id13", opslimit, memlimit (bytes), salt (32 hex digits)
cipher    name "xsalsa20-poly1305", nonce (48 hex digits)
sealed    the 32-byte seed, encrypted and authenticated: 48 bytes as 96 hex digits
========= ==========================================================================

The key of the cipher is Argon2id of the passphrase (UTF-8) with those limits. What stands in clear
is not authenticated by itself: when the file is opened, the address must be that of the seed under
the chain's prefix, and changed parameters of the kdf open nothing. There is no way around a lost
passphrase.

A file appears whole or not at all, and is never written again, nor is one replaced.
"""

from __future__ import annotations

import os
import secrets
import stat
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Final

import msgspec
from msgspec import Meta
from nacl import pwhash
from nacl.exceptions import CryptoError
from nacl.secret import SecretBox
from nacl.signing import SigningKey

from node.address import AddressFormatError, decode_address, encode_address, prefix_of
from node.errors import from_os_error
from node.params import KEY_BYTES
from tools.cli.errors import WalletError

FORMAT: Final = "timed-wallet"
VERSION: Final = 1
FILE_MODE: Final = 0o600
MAX_FILE_BYTES: Final = 4_096  # one has about 500

KDF: Final = "argon2id13"
CIPHER: Final = "xsalsa20-poly1305"
OPSLIMIT: Final = pwhash.argon2id.OPSLIMIT_MODERATE
MEMLIMIT: Final = pwhash.argon2id.MEMLIMIT_MODERATE
"""3 passes over 256 MiB, libsodium's recommendation for keys that are opened now and then: about
half a second of one core for us, and for whoever guesses, each time.
"""

MAX_OPSLIMIT: Final = 20
MAX_MEMLIMIT: Final = 2 * 1024 * 1024 * 1024
"""Beyond these a file is damaged or hostile: opening it would take minutes or all of the memory."""

assert pwhash.argon2id.SALTBYTES == 16
assert (pwhash.argon2id.OPSLIMIT_MODERATE, MEMLIMIT) == (3, 256 * 1024 * 1024)


def _hex(size_bytes: int) -> Meta:
    return Meta(pattern=f"^[0-9a-f]{{{2 * size_bytes}}}$")


class Kdf(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """How the passphrase becomes a key."""

    name: str
    opslimit: Annotated[int, Meta(ge=1, le=MAX_OPSLIMIT)]
    memlimit: Annotated[int, Meta(ge=8 * 1024, le=MAX_MEMLIMIT)]
    salt: Annotated[str, _hex(16)]


class Cipher(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """How the key encrypts the seed."""

    name: str
    nonce: Annotated[str, _hex(SecretBox.NONCE_SIZE)]


class _Content(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The whole file."""

    format: str
    version: int
    chain: Annotated[str, Meta(min_length=1, max_length=64)]
    address: Annotated[str, Meta(max_length=128)]
    kdf: Kdf
    cipher: Cipher
    sealed: Annotated[str, _hex(KEY_BYTES + SecretBox.MACBYTES)]


@dataclass(frozen=True, slots=True)
class Wallet:
    """A wallet file that was read and not opened: whose it is, and what opens it."""

    path: Path
    chain: str
    address: str
    kdf: Kdf
    cipher: Cipher
    sealed: bytes

    @property
    def prefix(self) -> str:
        """The address prefix of its chain."""
        return prefix_of(self.chain)

    def open(self, passphrase: bytes) -> SigningKey:
        """Return the key; raises WalletError for a wrong passphrase or a changed file."""
        key = _derive(passphrase, self.kdf)
        try:
            seed = SecretBox(key).decrypt(self.sealed, bytes.fromhex(self.cipher.nonce))
        except CryptoError:
            raise WalletError(
                f"the passphrase does not open {self.path}",
                "type it again; nobody can open the wallet without it",
            ) from None
        signing = SigningKey(seed)
        if encode_address(bytes(signing.verify_key), self.prefix) != self.address:
            raise WalletError(
                f"the address in {self.path} is not that of its key: the file was changed",
                "restore it from a backup, and do not use that address",
            )
        return signing


def create(
    path: Path,
    chain: str,
    seed: bytes,
    passphrase: bytes,
    *,
    opslimit: int = OPSLIMIT,
    memlimit: int = MEMLIMIT,
) -> Wallet:
    """Write a new wallet file for this 32-byte seed, durably, and return it.

    Raises WalletError if a file of that name is there already, or it cannot be written.
    """
    if len(seed) != KEY_BYTES:
        raise ValueError(f"a seed has {KEY_BYTES} bytes, not {len(seed)}")
    salt, nonce = secrets.token_bytes(16), secrets.token_bytes(SecretBox.NONCE_SIZE)
    kdf = Kdf(KDF, opslimit, memlimit, salt.hex())
    sealed = SecretBox(_derive(passphrase, kdf)).encrypt(seed, nonce).ciphertext
    content = _Content(
        format=FORMAT,
        version=VERSION,
        chain=chain,
        address=encode_address(bytes(SigningKey(seed).verify_key), prefix_of(chain)),
        kdf=kdf,
        cipher=Cipher(CIPHER, nonce.hex()),
        sealed=sealed.hex(),
    )
    try:
        _write_new(path, msgspec.json.format(msgspec.json.encode(content), indent=2) + b"\n")
    except FileExistsError:
        raise WalletError(
            f"{path} is there already, and a wallet is never overwritten",
            "give the new one another name",
        ) from None
    except OSError as error:
        raise from_os_error(error, str(path)) or error from None
    return _wallet(path, content)


def read(path: Path) -> Wallet:
    """Read a wallet file without opening it.

    Raises WalletError when it is missing, is no regular file, belongs to another user, can be used
    by others, or does not hold a wallet of this version.
    """
    data = read_private(path, MAX_FILE_BYTES, "wallet", "make one with: time-cli wallet new")
    damaged = WalletError(f"{path} does not hold a wallet", "restore it from a backup")
    try:
        head = msgspec.json.decode(data)
        if not isinstance(head, dict) or head.get("format") != FORMAT:
            raise damaged
        if head.get("version") != VERSION:
            raise WalletError(
                f"{path} has format version {str(head.get('version'))[:16]}, and this time-cli "
                f"knows {VERSION}",
                "install the version that wrote it",
            )
        content = msgspec.convert(head, _Content)
        decode_address(content.address, prefix_of(content.chain))
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError, AddressFormatError):
        raise damaged from None
    if (content.kdf.name, content.cipher.name) != (KDF, CIPHER):
        raise damaged
    return _wallet(path, content)


def read_private(path: Path, limit: int, what: str, remedy: str) -> bytes:
    """Return the content of a file that nobody but its owner can use, and that is this user's.

    ``what`` it is and the ``remedy`` for its absence are for the message. Raises WalletError.
    """
    try:
        fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except FileNotFoundError:
        raise WalletError(f"there is no {what} at {path}", remedy) from None
    except OSError as error:
        raise WalletError(
            f"cannot open {path} ({error.strerror})", f"put the {what} itself there, not a link"
        ) from None
    try:
        _check_private(path, os.fstat(fd), what)
        with open(fd, "rb", closefd=False) as file:
            data = file.read(limit + 1)
    finally:
        os.close(fd)
    if len(data) > limit:
        raise WalletError(f"{path} has more than {limit:,} bytes", f"it is no {what}")
    return data


def _check_private(path: Path, status: os.stat_result, what: str) -> None:
    if not stat.S_ISREG(status.st_mode):
        raise WalletError(f"{path} is not a regular file", f"put the {what} itself there")
    if status.st_uid != os.geteuid():
        raise WalletError(
            f"{path} belongs to user {status.st_uid}, and this is user {os.geteuid()}",
            "run as its owner",
        )
    if status.st_mode & 0o077:
        raise WalletError(
            f"others may use {path} (mode {stat.S_IMODE(status.st_mode):04o})",
            f"chmod 600 {path}",
        )


def _wallet(path: Path, content: _Content) -> Wallet:
    return Wallet(
        path=path,
        chain=content.chain,
        address=content.address,
        kdf=content.kdf,
        cipher=content.cipher,
        sealed=bytes.fromhex(content.sealed),
    )


def _derive(passphrase: bytes, kdf: Kdf) -> bytes:
    try:
        return pwhash.argon2id.kdf(
            SecretBox.KEY_SIZE,
            passphrase,
            bytes.fromhex(kdf.salt),
            opslimit=kdf.opslimit,
            memlimit=kdf.memlimit,
        )
    except (CryptoError, MemoryError):
        raise WalletError(
            f"no memory to open the wallet: {kdf.memlimit // 2**20} MiB are needed",
            "free some, or do it on another machine",
        ) from None


def _write_new(path: Path, data: bytes) -> None:
    """Make a file with this content that was not there before: whole, durable, 0600."""
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    beside = path.with_name(f".{path.name}.{secrets.token_hex(8)}")
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
    fd = os.open(beside, flags, FILE_MODE)
    try:
        with open(fd, "wb") as file:
            os.fchmod(fd, FILE_MODE)
            file.write(data)
            file.flush()
            os.fsync(fd)
        os.link(beside, path)  # refuses a name that is taken, which a renaming would replace
    finally:
        with suppress(OSError):
            beside.unlink()
    directory = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(directory)
    finally:
        os.close(directory)
