"""The JSON-RPC protocol, 1.0 and 2.0, as bytes in and bytes out: pure.

A body comes from the HTTP server; `parse_body` makes requests of it, or an `RpcError`; what the
methods return leaves through `reply` and `encode`. Conventions, error codes and HTTP statuses are
those of Bitcoin Core. Amounts never become floats: numbers with a point are read as `Decimal` and
written as `amount` gives them. Nothing here can be made to use much memory or a deep stack: bodies
have a bounded number of values, of calls and of levels, whatever their bytes say.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence
from decimal import Context, Decimal, Inexact
from enum import IntEnum
from typing import Any, Final, NoReturn

import msgspec
import orjson

from node.params import UNITS_PER_TIME

MAX_DEPTH: Final = 32  # of arrays and objects within each other; requests have four
MAX_VALUES: Final = 200_000  # in a body: a batch of a thousand calls has ten thousand
MAX_DIGITS: Final = 40  # of one number; amounts have 17
SAFE_DIGITS: Final = 18  # fit 64 bits, whatever they are
SMALL_BYTES: Final = 1_024  # of most single calls; longer ones are transactions
_AMOUNT: Final = re.compile(r"-?(?:0|[1-9][0-9]*)(?:\.[0-9]+)?(?:[eE][+-]?[0-9]+)?")
_LONG_NUMBER: Final = re.compile(rb"[0-9]{%d}" % (SAFE_DIGITS + 1))

_EXACT: Final = Context(prec=2 * MAX_DIGITS, traps=[Inexact])
"""For amounts: whatever is read times the units of one TIME, or an error; never something near."""


class Code(IntEnum):
    """Error codes, with Bitcoin Core's meanings."""

    PARSE_ERROR = -32700
    INVALID_REQUEST = -32600
    METHOD_NOT_FOUND = -32601
    INVALID_PARAMS = -32602
    INTERNAL_ERROR = -32603
    MISC_ERROR = -1
    TYPE_ERROR = -3
    INVALID_ADDRESS_OR_KEY = -5
    OUT_OF_MEMORY = -7
    INVALID_PARAMETER = -8
    DESERIALIZATION_ERROR = -22
    VERIFY_ERROR = -25
    VERIFY_REJECTED = -26
    ALREADY_IN_CHAIN = -27
    IN_WARMUP = -28
    CLIENT_NOT_CONNECTED = -29
    INVALID_IP_OR_SUBNET = -30


HTTP_STATUS: Final = {Code.INVALID_REQUEST: 400, Code.METHOD_NOT_FOUND: 404}
"""Of a single answer that is an error and not of JSON-RPC 2.0; all others have 500."""


class RpcError(Exception):
    """What a caller is told instead of a result."""

    def __init__(self, code: Code, message: str) -> None:
        super().__init__(message)
        self.code = code
        self.message = message


class Request:
    """One call. ``params`` is a list or a dict; ``error`` is set if it can only be refused."""

    __slots__ = ("error", "id", "is_notification", "is_v2", "method", "params")

    def __init__(self) -> None:
        self.method = ""
        self.params: list[Any] | dict[str, Any] = []
        self.id: Any = None
        self.is_v2 = False
        self.is_notification = False
        self.error: RpcError | None = None


def parse_body(body: bytes, max_batch: int = MAX_VALUES) -> Request | list[Request]:
    """Read a body: one request, or the list of a batch of ``max_batch`` at most.

    Raises `RpcError` if the body as a whole is none; what is wrong with a single request is its
    ``error``.
    """
    content = loads(body)
    if isinstance(content, dict):
        return _request(content)
    if isinstance(content, list):
        if len(content) > max_batch:  # before anything is made of its items
            raise RpcError(Code.INVALID_REQUEST, f"A batch has {max_batch:,} calls at most")
        return [_request(each) for each in content]
    raise RpcError(Code.PARSE_ERROR, "Top-level object parse error")


def loads(body: bytes) -> Any:
    """Read JSON within the bounds of this module; raises `RpcError` (PARSE_ERROR)."""
    brackets = body.count(b"[") + body.count(b"{")
    if brackets + body.count(b",") > MAX_VALUES:
        raise RpcError(Code.PARSE_ERROR, f"Parse error: more than {MAX_VALUES} values")
    try:
        content = _SMALL.decode(body) if len(body) <= SMALL_BYTES else None
        if not _is_plain(body, content):
            if b"\\u" in body:
                orjson.loads(body)  # refuses half a surrogate pair, which no answer could repeat
            content = _DECODER.decode(body.decode("utf-8"))
    except RecursionError:
        raise RpcError(Code.PARSE_ERROR, "Parse error: nested too deeply") from None
    except (ValueError, msgspec.MsgspecError):  # JSON's and UTF-8's are ValueErrors
        raise RpcError(Code.PARSE_ERROR, "Parse error") from None
    if brackets > MAX_DEPTH and _depth_exceeds(content, MAX_DEPTH):
        raise RpcError(Code.PARSE_ERROR, "Parse error: nested too deeply")
    return content


def reply(
    request: Request, result: Any, error: RpcError | None, *, whole: bool = False
) -> dict[str, Any]:
    """The answer to one request; ``whole``: result and error are both in it, whatever the version,
    as Bitcoin Core had it before it took 2.0 by its word.
    """
    told = None if error is None else {"code": int(error.code), "message": error.message}
    if not request.is_v2:
        return {"result": result if error is None else None, "error": told, "id": request.id}
    if whole:
        outcome = {"result": result if error is None else None, "error": told}
    else:
        outcome = {"result": result} if told is None else {"error": told}
    return {"jsonrpc": "2.0", **outcome, "id": request.id}


def status_of(request: Request, error: RpcError | None) -> int:
    """The HTTP status of the answer to a single request."""
    if error is None or (request.is_v2 and request.error is None):
        return 200
    return HTTP_STATUS.get(error.code, 500)


def encode(content: Any) -> bytes:
    """Return an answer's bytes, a line break at its end, as Bitcoin Core has it."""
    return orjson.dumps(content, default=_plain, option=orjson.OPT_APPEND_NEWLINE)


def amount(units: int) -> orjson.Fragment:
    """Return an amount in TIME with its eight places, exactly, as a JSON number."""
    sign, units = ("-", -units) if units < 0 else ("", units)
    whole, rest = divmod(units, UNITS_PER_TIME)
    return orjson.Fragment(f"{sign}{whole}.{rest:08d}")


def units_of(value: object) -> int:
    """Return the units of an amount in TIME, given as a number or as text of the same form.

    Raises `RpcError`: a type that is none, more than eight places, or out of range.
    """
    if isinstance(value, bool) or not isinstance(value, int | Decimal | str):
        raise RpcError(Code.TYPE_ERROR, "Amount is not a number or string")
    # Decimal would also take spaces, underscores and the digits of other scripts.
    if isinstance(value, str) and _AMOUNT.fullmatch(value) is None:
        raise RpcError(Code.TYPE_ERROR, "Invalid amount")
    try:
        number = Decimal(value) if len(str(value)) <= MAX_DIGITS else Decimal("NaN")
    except ArithmeticError:
        number = Decimal("NaN")
    # An exponent is looked at before anything is multiplied: 1E+999999 has few digits, too.
    if not number.is_finite() or number.adjusted() > SAFE_DIGITS:
        raise RpcError(Code.TYPE_ERROR, "Invalid amount")
    try:
        units = _EXACT.multiply(number, Decimal(UNITS_PER_TIME))
    except Inexact:
        raise RpcError(Code.TYPE_ERROR, "Invalid amount") from None
    if units != units.to_integral_value():
        raise RpcError(Code.TYPE_ERROR, "Invalid amount")
    if not 0 <= units < 2**63:
        raise RpcError(Code.TYPE_ERROR, "Amount out of range")
    return int(units)


def _request(content: Any) -> Request:
    request = Request()
    try:
        _fill(request, content)
    except RpcError as error:
        request.error = error.with_traceback(None)  # which would keep frames, and all in them
    return request


def _fill(request: Request, content: Any) -> None:
    if not isinstance(content, dict):
        raise RpcError(Code.INVALID_REQUEST, "Invalid Request object")
    request.id = content.get("id")
    version = content.get("jsonrpc")
    if version is not None:
        if not isinstance(version, str):
            raise RpcError(Code.INVALID_REQUEST, "jsonrpc field must be a string")
        if version not in ("1.0", "2.0"):
            raise RpcError(Code.INVALID_REQUEST, "JSON-RPC version not supported")
        request.is_v2 = version == "2.0"
        request.is_notification = request.is_v2 and "id" not in content
    if isinstance(request.id, dict | list):
        request.id = None
        raise RpcError(Code.INVALID_REQUEST, "id must be a string, a number or null")
    method = content.get("method")
    if method is None:
        raise RpcError(Code.INVALID_REQUEST, "Missing method")
    if not isinstance(method, str):
        raise RpcError(Code.INVALID_REQUEST, "Method must be a string")
    request.method = method
    params = content.get("params")
    if params is None:
        params = []
    if not isinstance(params, dict | list):
        raise RpcError(Code.INVALID_REQUEST, "Params must be an array or object")
    request.params = params


def _is_plain(body: bytes, content: object) -> bool:
    """Whether a small body is a single object with a colon for each of its members and no long
    number: then no name is there twice, and both decoders read the same.
    """
    return (
        isinstance(content, dict)
        and body.count(b"{") == 1
        and body.count(b":") == len(content)
        and _LONG_NUMBER.search(body) is None
    )


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """An object; of two members of one name the first would be lost, an output of a payment."""
    found = dict(pairs)
    if len(found) < len(pairs):
        raise ValueError("a name is there twice")
    return found


def _number(text: str) -> int | Decimal:
    """An integer of 64 bits as one, any other number exactly as it is written."""
    if len(text) > MAX_DIGITS:
        raise ValueError("a number with too many digits")
    if len(text) <= SAFE_DIGITS and text.lstrip("-").isdigit():
        return int(text)
    try:
        return Decimal(text)
    except ArithmeticError:
        raise ValueError("a number with too large an exponent") from None


def _constant(text: str) -> NoReturn:
    raise ValueError(f"{text} is not JSON")


_SMALL: Final = msgspec.json.Decoder(float_hook=_number)
"""Ten times as fast, and the same, but that it gives long integers as such."""

_DECODER: Final = json.JSONDecoder(
    object_pairs_hook=_object,
    parse_float=_number,
    parse_int=_number,
    parse_constant=_constant,
)


def _plain(value: object) -> orjson.Fragment:
    if isinstance(value, Decimal):  # an id that was one
        return orjson.Fragment(str(value))
    raise TypeError(f"{type(value).__name__} has no form in JSON")


def _depth_exceeds(content: Any, limit: int) -> bool:
    level: list[Any] = [content]
    for _ in range(limit):
        level = [child for each in level for child in _children(each)]
        if not level:
            return False
    return any(isinstance(each, dict | list) for each in level)


def _children(value: Any) -> Iterator[Any] | Sequence[Any]:
    if isinstance(value, dict):
        return iter(value.values())
    return value if isinstance(value, list) else ()
