"""``time-cli``: asks a running node, and pays.

Arguments come in, an exit status goes out: 0 done; 1 the node refused, or a payment is not final in
time; 2 the node could not be asked, or not like this. Whatever goes wrong is one line on standard
error.
"""

from __future__ import annotations

import errno
import re
import sys
from collections.abc import Sequence
from typing import Final

from node.errors import from_os_error
from pipeline.errors import OPERATOR_EXIT_STATUS, OperatorError
from tools.cli.errors import STATUS_REFUSED, NotFinal, Refused

INTERRUPTED_EXIT_STATUS: Final = 128 + 2  # what shells report for a program that SIGINT ended
MAX_LINE_CHARACTERS: Final = 2_000  # of a message of the node's; some of them are whole help texts

_CONTROL: Final = re.compile(r"[\x00-\x1f\x7f-\x9f]+")


def main() -> None:
    """Run ``time-cli`` with the arguments of this process, and exit."""
    sys.exit(run(sys.argv[1:]))


def run(arguments: Sequence[str]) -> int:
    """Run one command; returns the exit status."""
    try:
        from tools.cli import surface

        return surface.run(list(arguments) or ["--help"])
    except OperatorError as error:
        return _complain(error.message, error.exit_status)
    except (Refused, NotFinal) as error:
        return _complain(str(error), STATUS_REFUSED)
    except KeyboardInterrupt:
        return _complain("interrupted", INTERRUPTED_EXIT_STATUS)
    except OSError as error:
        if error.errno == errno.EPIPE:  # whoever read our output has seen enough
            sys.stderr.close()
            return 1
        known = from_os_error(error, "a file")
        if known is None:
            raise
        return _complain(known.message)


def _complain(message: str, status: int = OPERATOR_EXIT_STATUS) -> int:
    line = _CONTROL.sub(" ", message).strip()
    print(f"time-cli: {line[:MAX_LINE_CHARACTERS]}", file=sys.stderr)
    return status


if __name__ == "__main__":
    main()
