"""What ends a command of ``time-cli``: one line on standard error, and an exit status.

Raised below, caught in `tools.cli.__main__` alone. Status 1: the node was asked and said no, or a
payment did not become final in time. Status 2: it could not be asked, or not like this; the line
says what to do about it.
"""

from __future__ import annotations

from typing import Final

from node.errors import NodeError

STATUS_REFUSED: Final = 1


class CliError(NodeError):
    """A command that cannot be carried out: what is wrong, and what to do about it."""


class NoAnswer(CliError):
    """No node answered, or not with what a node answers with."""


class WalletError(CliError):
    """A wallet file, or a passphrase, that cannot be used as it is."""


class PaymentError(CliError):
    """A payment that cannot be made like this."""


class Refused(Exception):
    """The node's own error: its code and its message."""

    def __init__(self, code: int, message: str) -> None:
        super().__init__(f"error {code}: {message}")
        self.code = code
        self.message = message


class NotFinal(Exception):
    """A payment that was handed in and is not known to be final."""
