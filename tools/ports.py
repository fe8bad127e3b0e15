"""Ports of loopback for nodes that people try out, compare and test.

What is asked for here is listened on later, perhaps again after a restart. So it is not taken from
the range that the kernel gives to outgoing connections: one of those could have it by then.
"""

from __future__ import annotations

import socket
from contextlib import ExitStack
from random import SystemRandom
from typing import Final

HOST: Final = "127.0.0.1"
FIRST: Final = 10_000
LAST: Final = 23_999
"""Below the nodes' own ports and Linux' usual range for outgoing connections (from 32768)."""


def free_ports(count: int) -> list[int]:
    """Ports of loopback that nobody uses now, all different."""
    candidates = list(range(FIRST, LAST + 1))
    SystemRandom().shuffle(candidates)
    found: list[int] = []
    with ExitStack() as stack:
        while len(found) < count:
            sock = stack.enter_context(socket.socket())
            try:
                sock.bind((HOST, port := candidates.pop()))
            except OSError:
                continue
            found.append(port)
        return found
