"""Standard output and error at the end of a program, when nobody may be left to read them."""

from __future__ import annotations

import os
import sys


def let_go_of_lost_streams() -> None:
    """Point standard output and error at /dev/null if what they still hold cannot be written.

    The interpreter writes it at its end, and would make the exit status 120 where a terminal or a
    pipe is gone.
    """
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except OSError:
            nowhere = os.open(os.devnull, os.O_WRONLY)
            os.dup2(nowhere, stream.fileno())
            os.close(nowhere)
