"""Who may call: the cookie that each start makes anew, and the users of config.toml.

The cookie is for programs of the node's own user: whoever can read the file may call. Users are
lines ``name:salt$digest``, the digest being HMAC-SHA256 of the password under the salt, as Bitcoin
Core's ``rpcauth`` tool prints them, so that no password lies in the configuration. Every check
compares with everything there is, in constant time. It owns the cookie file from the start of the
stage to its end; what a killed process leaves is replaced by the next one.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import os
import re
import secrets
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Final

from node.errors import ConfigError, from_os_error

COOKIE_FILE: Final = ".cookie"
COOKIE_USER: Final = "__cookie__"
COOKIE_BYTES: Final = 32
MAX_HEADER_CHARACTERS: Final = 1_024  # user, colon and password, in base 64
RPCAUTH: Final = re.compile(r"([^:$]{1,64}):([0-9a-zA-Z]{1,64})\$([0-9a-f]{64})")
REPORT_NS: Final = 1_000_000_000


class Cookie:
    """The file with this start's password; ``remove`` it at the end."""

    def __init__(self, datadir: Path) -> None:
        """Write a new one, readable by its owner alone.

        Raises `NodeError` if the directory cannot be written.
        """
        self.path = datadir / COOKIE_FILE
        self.content = f"{COOKIE_USER}:{secrets.token_hex(COOKIE_BYTES)}".encode()
        # Beside it first: whoever reads the name finds a whole cookie, the old one or the new.
        beside = self.path.with_name(f"{COOKIE_FILE}.tmp")
        try:
            with suppress(FileNotFoundError):
                beside.unlink()
            flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
            fd = os.open(beside, flags, 0o600)
            try:
                os.write(fd, self.content)
            finally:
                os.close(fd)
            os.replace(beside, self.path)
        except OSError as error:
            raise from_os_error(error, str(self.path)) or error from None

    def remove(self) -> None:
        """Take the file away, unless it is another start's by now."""
        with suppress(OSError):
            if self.path.read_bytes() == self.content:
                self.path.unlink()


class Authenticator:
    """Judges ``Authorization`` headers.

    ``cookie`` is ``user:password``, ``users`` are lines of ``rpcauth``. Raises ConfigError for a
    line that is none.
    """

    def __init__(self, cookie: bytes, users: Sequence[str]) -> None:
        self._cookie = cookie
        self._usual = b"Basic " + base64.b64encode(cookie)  # how everybody writes it
        self._users = [_user(each) for each in users]

    def user(self, header: str | None) -> str | None:
        """Return the user whose password a header holds, None if it holds nobody's."""
        if header is not None and hmac.compare_digest(
            header.encode("utf-8", "surrogateescape"), self._usual
        ):
            return COOKIE_USER
        given = _credentials(header)
        if given is None:
            return None
        name, _, password = given.partition(b":")
        found = None
        if hmac.compare_digest(given, self._cookie):
            found = COOKIE_USER
        for user, salt, digest in self._users:  # all of them: time tells nothing
            computed = hmac.new(salt, password, hashlib.sha256).hexdigest()
            same_name = hmac.compare_digest(name, user)
            if hmac.compare_digest(computed, digest) and same_name:
                found = user.decode()
        return found


class Failures:
    """Counts refused passwords, and says at most once a second that there were some."""

    def __init__(self) -> None:
        self._unreported = 0
        self._due_ns = 0

    def failed(self, now_ns: int) -> int:
        """Count one; returns how many to report now, 0 for none."""
        self._unreported += 1
        if now_ns < self._due_ns:
            return 0
        return self._report(now_ns)

    def unreported(self, now_ns: int) -> int:
        """Return how many to report now although no more have come, 0 for none."""
        return self._report(now_ns) if self._unreported and now_ns >= self._due_ns else 0

    def _report(self, now_ns: int) -> int:
        self._due_ns = now_ns + REPORT_NS
        reported, self._unreported = self._unreported, 0
        return reported


def _user(line: str) -> tuple[bytes, bytes, str]:
    found = RPCAUTH.fullmatch(line)
    if found is None:
        raise ConfigError(
            "an entry of rpcauth in section [rpc] of config.toml is not valid",
            "write NAME:SALT$DIGEST, the digest being HMAC-SHA256 of the password with that salt",
        )
    return found[1].encode(), found[2].encode(), found[3]


def _credentials(header: str | None) -> bytes | None:
    if header is None or len(header) > MAX_HEADER_CHARACTERS:
        return None
    scheme, _, encoded = header.partition(" ")
    if scheme.lower() != "basic":
        return None
    try:
        given = base64.b64decode(encoded.strip(), validate=True)
    except (binascii.Error, ValueError):
        return None
    return given if b":" in given else None
