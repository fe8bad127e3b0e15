"""A small synchronous JSON-RPC client: a call is an HTTP connection of its own.

A method and its parameters go out, the result comes back as the bytes that the node wrote, so that
no number in it loses a digit; whoever needs values decodes it with `decode`. Every failure is one
of `tools.cli.errors`, with what to do about it. The password is read anew for each client (a node
makes a new cookie at each start) and appears in no message. Connections are not kept: between two
calls a person may think for longer than a server waits.
"""

from __future__ import annotations

import base64
import http.client
import json
import socket
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path
from typing import Any, Final

import msgspec

from tools.cli.errors import CliError, NoAnswer, Refused

CONNECT_TIMEOUT_S: Final = 10.0
ANSWER_TIMEOUT_S: Final = 900.0
"""Between two parts of an answer, as Bitcoin Core's client has it: some methods wait for long, and
whoever has waited long enough presses Ctrl-C.
"""

MAX_ANSWER_BYTES: Final = 512 * 1024 * 1024
"""The largest block with every transaction spelled out has a tenth of it."""

MAX_COOKIE_BYTES: Final = 1_024

Params = Sequence[Any] | Mapping[str, Any]

_ENCODER: Final = msgspec.json.Encoder(decimal_format="number")


@dataclass(frozen=True, slots=True)
class Access:
    """Where a node answers, and with what password.

    ``cookie`` is the file to read it from, unless ``user`` and ``password`` are given. ``start``
    says how to start the node.
    """

    host: str
    port: int
    cookie: Path
    start: str
    user: str = ""
    password: str = ""

    @property
    def where(self) -> str:
        """The address, for messages."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{host}:{self.port}"


class _Error(msgspec.Struct):
    code: int
    message: str


class _Answer(msgspec.Struct):
    result: msgspec.Raw = msgspec.Raw(b"null")
    error: _Error | None = None


class Client:
    """Calls the methods of a node; raises NoAnswer if there is no password to be had."""

    def __init__(self, access: Access) -> None:
        self._access = access
        self._authorization = _authorization(access)

    def call(self, method: str, params: Params = ()) -> bytes:
        """Return the JSON text of a method's result; ``params`` may hold Decimals and msgspec.Raw.

        Raises Refused with the node's own error, NoAnswer if there is none, CliError for parameters
        that cannot be sent.
        """
        request = {"jsonrpc": "2.0", "id": 1, "method": method, "params": params}
        try:
            body = _ENCODER.encode(request)
        except UnicodeEncodeError:
            raise CliError("a parameter is not UTF-8", "write it in UTF-8") from None
        try:
            status, answer = self._exchange(body)
        except (OSError, http.client.HTTPException, UnicodeError) as error:
            raise self._no_answer(error) from None
        return self._result(status, answer)

    def value(self, method: str, params: Params = ()) -> Any:
        """Return a method's result decoded; raises as `call` does."""
        return decode(self.call(method, params))

    def _exchange(self, body: bytes) -> tuple[int, bytes]:
        headers = {"Content-Type": "application/json", "Authorization": self._authorization}
        access = self._access
        connection = http.client.HTTPConnection(access.host, access.port, timeout=CONNECT_TIMEOUT_S)
        try:
            connection.connect()
            connection.sock.settimeout(ANSWER_TIMEOUT_S)
            connection.request("POST", "/", body, headers)
            response = connection.getresponse()
            answer = response.read(MAX_ANSWER_BYTES + 1)
        finally:
            connection.close()
        if len(answer) > MAX_ANSWER_BYTES:
            raise http.client.HTTPException("the answer is too long")
        return response.status, answer

    def _no_answer(self, error: Exception) -> NoAnswer:
        access = self._access
        if isinstance(error, ConnectionRefusedError):
            return NoAnswer(f"no node answers at {access.where}", access.start)
        if isinstance(error, TimeoutError):
            return NoAnswer(
                f"the node at {access.where} does not answer",
                "look at its log, or at: timed status",
            )
        if isinstance(error, socket.gaierror | UnicodeError):  # unknown, or no name at all
            return NoAnswer(f"there is no host {access.host!r}", "correct the address")
        reason = (error.strerror if isinstance(error, OSError) else None) or str(error)
        return NoAnswer(
            f"the connection to {access.where} broke ({reason or type(error).__name__})",
            "the node may be starting or stopping: try again, or look at its log",
        )

    def _result(self, status: int, answer: bytes) -> bytes:
        access = self._access
        if status == http.HTTPStatus.UNAUTHORIZED:
            given = f"the password of user {access.user}" if access.user else str(access.cookie)
            raise NoAnswer(
                f"the node at {access.where} does not accept {given}",
                "is it the node of this data directory? Give its --datadir, or --user",
            )
        if status == http.HTTPStatus.FORBIDDEN:
            raise NoAnswer(
                f"the node at {access.where} lets nobody from this address in",
                "call from where the node runs, or change section [rpc] of its config.toml",
            )
        if status == http.HTTPStatus.REQUEST_ENTITY_TOO_LARGE:
            raise NoAnswer("the parameters are longer than the node takes", "send less at once")
        if status == http.HTTPStatus.SERVICE_UNAVAILABLE:
            raise NoAnswer(f"the node at {access.where} has too much to do", "try again")
        try:
            decoded = msgspec.json.decode(answer, type=_Answer)
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
            raise NoAnswer(
                f"what answers at {access.where} is no node (HTTP status {status})",
                "correct the address",
            ) from None
        if decoded.error is not None:
            raise Refused(decoded.error.code, decoded.error.message)
        return bytes(decoded.result)


def decode(result: bytes) -> Any:
    """Return the values of a JSON text, numbers with a point as Decimal."""
    return json.loads(result, parse_float=Decimal)


def _authorization(access: Access) -> str:
    if access.user:
        pair = f"{access.user}:{access.password}".encode("utf-8", "surrogateescape")
    else:
        pair = _cookie(access)
    return f"Basic {base64.b64encode(pair).decode()}"


def _cookie(access: Access) -> bytes:
    try:
        with access.cookie.open("rb") as file:
            pair = file.read(MAX_COOKIE_BYTES).strip()
    except FileNotFoundError:
        raise NoAnswer(
            f"no node is running here (there is no {access.cookie})", access.start
        ) from None
    except OSError as error:
        raise NoAnswer(
            f"cannot read {access.cookie} ({error.strerror})",
            "run as the user that the node runs as, or give --user",
        ) from None
    if b":" not in pair:
        raise NoAnswer(f"{access.cookie} is not a node's cookie", "start the node again")
    return pair
