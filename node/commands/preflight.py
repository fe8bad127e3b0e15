"""What must be known about signatures and keys before a node starts, found out in a child process.

The child loads the verification backend, measures it, reads the validator's key and forgets it,
and ends. So the process that becomes the supervisor maps no cryptography and holds no key, and a
backend that crashes on this processor is a clear line instead of a dead node.
"""

from __future__ import annotations

from multiprocessing.connection import Connection
from pathlib import Path
from typing import Final, Literal

import msgspec
import multiprocess

from node.errors import DatadirError, PreflightError
from node.settings import NodeSettings
from pipeline.errors import OperatorError

TIMEOUT_S: Final = 60.0
"""Loading libraries from a cold disk takes seconds; longer means that something hangs."""

MEASURE_S: Final = 0.15


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
    """Choose and measure the backend and check the validator's key, in a child of its own.

    Raises ``PreflightError`` if the child dies of it, else an ``OperatorError`` with its message.
    """
    context = multiprocess.get_context("spawn")
    receiving, sending = context.Pipe(duplex=False)
    child = context.Process(target=_child, args=(settings, sending), daemon=True)
    child.start()
    sending.close()
    try:
        answered = receiving.poll(TIMEOUT_S)
        answer = receiving.recv_bytes() if answered else b""
    except EOFError:
        answer = b""
    finally:
        receiving.close()
        child.join(1.0)
        if child.is_alive():
            child.kill()
            child.join()
    if not answer:
        raise PreflightError(
            f"trying verification backend {settings.backend} ended with status {child.exitcode}",
            'set backend = "nacl" in section [verify] of config.toml',
        )
    result = msgspec.json.decode(answer, type=Found | _Refused)
    if isinstance(result, _Refused):
        raise OperatorError(result.message)
    return result


def look(settings: NodeSettings) -> Found:
    """The same in this process, for commands that end soon."""
    from node.verification.select import measure, select_backend

    check_key(settings)
    backend = select_backend(settings.backend)
    return Found(
        backend="avx512" if backend.name == "avx512" else "nacl",
        per_second=round(measure(backend, MEASURE_S)),
        advice=backend.advice,
    )


def check_key(settings: NodeSettings) -> str:
    """Check that the key file is in order and a validator's; returns the public key in
    hexadecimal.
    """
    from node.keys import read_key_file

    public = bytes(read_key_file(Path(settings.validator_key_path)).verify_key).hex()
    if public not in [validator.key for validator in settings.genesis.validators]:
        raise DatadirError(
            f"the key in {settings.validator_key_path} is not a validator's of this chain",
            "put the right key file there",
        )
    return public


def _child(settings: NodeSettings, sending: Connection) -> None:
    try:
        answer: Found | _Refused = look(settings)
    except OperatorError as error:
        answer = _Refused(error.message)
    sending.send_bytes(msgspec.json.encode(answer))
