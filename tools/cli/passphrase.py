"""Where passphrases come from: a person at the terminal, a descriptor, or a private file.

Never the command line and never the environment: other users see the one (ps), and every child
inherits the other. A passphrase is the first line, without its line break, as UTF-8; it leaves this
module as bytes and is printed nowhere.
"""

from __future__ import annotations

import getpass
import os
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from tools.cli.errors import WalletError
from tools.cli.wallet_file import read_private

MIN_CHARACTERS: Final = 8
"""Of a new one: below this even Argon2id is guessed through in days."""

MAX_BYTES: Final = 1_024


@dataclass(frozen=True, slots=True)
class Source:
    """Where to ask: a file, a descriptor, or, with neither, the terminal."""

    file: Path | None = None
    descriptor: int | None = None

    def ask(self, what: str) -> bytes:
        """Return the passphrase; ``what`` it opens is for the prompt. Raises WalletError."""
        if self.file is not None:
            return _line(
                read_private(self.file, MAX_BYTES, "passphrase", "correct --passphrase-file"),
                str(self.file),
            )
        if self.descriptor is not None:
            return _line(_read(self.descriptor), f"descriptor {self.descriptor}")
        return _typed(f"Passphrase of {what}: ")

    def ask_new(self, what: str) -> bytes:
        """Return a passphrase to be used from now on; typed ones are typed twice.

        Raises WalletError if it is too short.
        """
        passphrase = self.ask(what)
        if len(passphrase.decode("utf-8", "replace")) < MIN_CHARACTERS:
            raise WalletError(
                f"a passphrase has {MIN_CHARACTERS} characters at least",
                "take several words that nobody would guess",
            )
        if self.file is None and self.descriptor is None:
            again = _typed("The same again: ")
            if again != passphrase:
                raise WalletError("the two passphrases differ", "begin anew")
        return passphrase


def _typed(prompt: str) -> bytes:
    try:
        with open("/dev/tty", "rb"):
            pass
    except OSError:
        raise WalletError(
            "there is no terminal to ask for the passphrase",
            "give --passphrase-file or --passphrase-fd",
        ) from None
    try:
        return _line(getpass.getpass(prompt).encode("utf-8", "surrogateescape"), "the terminal")
    except EOFError:
        print(file=sys.stderr)
        raise WalletError("no passphrase was typed", "begin anew") from None


def _read(descriptor: int) -> bytes:
    """Up to the first line break or the end; what follows stays for others."""
    data = b""
    try:
        while len(data) <= MAX_BYTES and (byte := os.read(descriptor, 1)) not in (b"", b"\n"):
            data += byte
    except OSError as error:
        raise WalletError(
            f"cannot read the passphrase from descriptor {descriptor} ({error.strerror})",
            "open it, as in: --passphrase-fd 3 3<file",
        ) from None
    return data


def _line(data: bytes, where: str) -> bytes:
    passphrase = data.partition(b"\n")[0].removesuffix(b"\r")
    if len(data) > MAX_BYTES or not passphrase:
        what = "more than it may be" if passphrase else "no passphrase"
        raise WalletError(
            f"{where} gives {what}", f"its first line must hold 1 to {MAX_BYTES:,} bytes"
        )
    return passphrase
