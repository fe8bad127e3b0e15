"""Whether the addresses that the node shall listen on can be had.

A stage would find out too, but only after everything else was started; asked here, before, the
answer is one line that names the key to change.
"""

from __future__ import annotations

import errno
import socket
from typing import Final

from node.config import Config, listening
from node.errors import ListenError

_ADVICE: Final = {
    errno.EADDRINUSE: (
        "{0} is in use by another program",
        "stop that one, or change {1} of config.toml",
    ),
    errno.EADDRNOTAVAIL: (
        "{0} is not an address of this machine",
        "correct {1} of config.toml",
    ),
    errno.EACCES: (
        "this user may not listen on {0}",
        "choose a port from 1024 for {1} of config.toml",
    ),
}


def check_addresses(config: Config) -> list[str]:
    """Check that all addresses can be listened on, and return them; raises ``ListenError`` naming
    the key to change.
    """
    asked = {f"{key} in section [{section}]": each for section, key, each in listening(config)}
    for key, endpoint in asked.items():
        host, _, port = endpoint.removeprefix("tcp://").rpartition(":")
        host = host.strip("[]")
        try:
            family, kind, protocol, _, address = socket.getaddrinfo(
                None if host == "*" else host,
                int(port),
                type=socket.SOCK_STREAM,
                flags=socket.AI_PASSIVE,
            )[0]
            with socket.socket(family, kind, protocol) as probe:
                # As ZeroMQ binds: connections of an earlier run that linger do not count.
                probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                probe.bind(address)
        except socket.gaierror:
            raise ListenError(
                f"the name {host} of {endpoint} is unknown",
                f"write an IP address for {key} of config.toml",
            ) from None
        except OSError as error:
            if error.errno not in _ADVICE:
                raise
            cause, remedy = _ADVICE[error.errno]
            raise ListenError(cause.format(endpoint), remedy.format(endpoint, key)) from None
    return list(asked.values())
