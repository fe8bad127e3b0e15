"""The node's name among its peers: 16 random bytes that are made once and kept.

It tells connections of one node from those of another; it proves nothing. Lives in a file of the
data directory, which a copy of the directory would share: then the two refuse each other.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Final

from node.errors import DatadirError, from_os_error

NODE_ID_BYTES: Final = 16


def read_or_make_node_id(path: Path) -> bytes:
    """Return the 16 bytes in the file, made if it is missing. Raises DatadirError."""
    try:
        try:
            text = path.read_text()
        except FileNotFoundError:
            text = os.urandom(NODE_ID_BYTES).hex()
            path.write_text(text + "\n")
        node_id = bytes.fromhex(text.strip())
    except OSError as error:
        raise from_os_error(error, str(path)) or error from None
    except ValueError:
        node_id = b""
    if len(node_id) != NODE_ID_BYTES:
        raise DatadirError(f"{path} holds no node id", "remove it; a new one is made")
    return node_id
