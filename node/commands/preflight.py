"""What must be known about signatures and keys before a node starts, found out in another process.

That process (``python -m node.commands.preflight DATADIR``) loads the verification backend,
measures it, sees that the validator's key file is there and nobody else's to use, answers with a
line of JSON, and ends. So the process that becomes the supervisor maps no cryptography, and a
backend that crashes on this processor is a clear line instead of a dead node. What is in the key
file, ``timed check`` reads; of a node that runs, the signing process alone.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Final, Literal

import msgspec

from node.errors import PreflightError
from node.settings import NodeSettings
from pipeline.errors import OperatorError

TIMEOUT_S: Final = 60.0
"""Loading libraries from a cold disk takes seconds; longer means that something hangs."""

MEASURE_S: Final = 0.03
"""Some hundred signatures at least; a node that starts waits for it."""


class Found(msgspec.Struct, frozen=True, tag="found"):
    """The backend that runs, its rate on one core, and what would make it faster ("" if
    nothing).
    """

    backend: Literal["avx512", "nacl"]
    per_second: int
    advice: str


class _Refused(msgspec.Struct, frozen=True, tag="refused"):
    message: str


def examine(settings: NodeSettings) -> Found:
    """Choose and measure the backend and check who may use the key, in a process of its own.

    Raises ``PreflightError`` if that process dies of it, else an ``OperatorError`` with its
    message.
    """
    try:
        done = subprocess.run(
            [sys.executable, "-m", "node.commands.preflight", settings.datadir],
            env=os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=TIMEOUT_S,
            check=False,
        )
    except subprocess.TimeoutExpired:
        raise PreflightError(
            f"trying verification backend {settings.backend} took more than {TIMEOUT_S:.0f} s",
            "see whether the machine is overloaded, and try again",
        ) from None
    try:
        answer = msgspec.json.decode(done.stdout, type=Found | _Refused)
    except msgspec.DecodeError:
        said = done.stderr.decode(errors="replace").splitlines()[-1:]
        raise PreflightError(
            f"trying verification backend {settings.backend} ended with status {done.returncode} "
            f"({said[0] if said else 'it said nothing'})",
            'set backend = "nacl" in section [verify] of config.toml',
        ) from None
    if isinstance(answer, _Refused):
        raise OperatorError(answer.message)
    return answer


def look(settings: NodeSettings) -> Found:
    """The same in this process."""
    from node.keys import check_key_file
    from node.verification.select import measure, select_backend

    check_key_file(Path(settings.validator_key_path))
    backend = select_backend(settings.backend)
    return Found(
        backend="avx512" if backend.name == "avx512" else "nacl",
        per_second=round(measure(backend, MEASURE_S)),
        advice=backend.advice,
    )


def check_key(settings: NodeSettings) -> tuple[int, bytes]:
    """Check that the key file is in order and a validator's; returns which one's, and the public
    key.
    """
    from node.keys import read_key_file, validator_index

    path = Path(settings.validator_key_path)
    public_key = bytes(read_key_file(path).verify_key)
    return validator_index(public_key, settings.genesis, path), public_key


def _main(root: str) -> None:
    from node.commands.loading import load
    from node.datadir import Layout

    try:
        answer: Found | _Refused = look(load(Layout(Path(root)), terminal=False).settings)
    except OperatorError as error:
        answer = _Refused(error.message)
    sys.stdout.buffer.write(msgspec.json.encode(answer))


if __name__ == "__main__":
    _main(sys.argv[1])
