"""Small JSON files of the hub: bans and addresses of peers, read at the start, replaced as a whole.

Neither is worth an fsync in the loop that serves the sockets: after a power cut a file may be
empty, and then it is as if it had never been. A file is never half of one: it is written under
another name first. What fails is told, and never stops the node.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any, Final

import orjson

FILE_MODE: Final = 0o600
MAX_FILE_BYTES: Final = 4 * 1024 * 1024


def read_json(path: str) -> tuple[Any, str | None]:
    """Return the content of a file and None, or None and what is wrong (not if it is missing)."""
    try:
        with Path(path).open("rb") as file:
            data = file.read(MAX_FILE_BYTES + 1)
    except FileNotFoundError:
        return None, None
    except OSError as error:
        return None, f"cannot read {path} ({error.strerror})"
    if len(data) > MAX_FILE_BYTES:
        return None, f"{path} is too large for what it should hold"
    try:
        return orjson.loads(data), None
    except orjson.JSONDecodeError:
        return None, f"{path} is not JSON"


def write_json(path: str, content: Any) -> str | None:
    """Replace a file; None, or what went wrong."""
    new = f"{path}.new"
    try:
        fd = os.open(new, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, FILE_MODE)
        with os.fdopen(fd, "wb") as file:
            file.write(orjson.dumps(content, option=orjson.OPT_INDENT_2))
        os.replace(new, path)
    except OSError as error:
        return f"cannot write {path} ({error.strerror})"
    return None
