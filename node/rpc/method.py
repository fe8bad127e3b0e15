"""What a method is: its name, its parameters, its help, and the function that answers.

The declaration is the only place: positional and named parameters are bound by it, types are
checked by it, and ``help`` prints it. Pure, but for the functions that it carries.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from typing import Any, Final

from node.params import ID_BYTES
from node.rpc.jsonrpc import Code, Request, RpcError

REQUIRED: Final = object()
"""The default of a parameter that has none."""

SECRET: Final = "Secret: time-cli takes it from standard input alone (--stdin)."
"""Said of a secret parameter in the help."""

_TYPES: Final[Mapping[str, tuple[type, ...]]] = {
    "string": (str,),
    "number": (int, Decimal),
    "boolean": (bool,),
    "array": (list,),
    "object": (dict,),
    "array or object": (list, dict),
    "number or boolean": (int, bool),
    "number or string": (int, Decimal, str),
}

INT_LIMIT: Final = 2**31
"""Integers are smaller than this, except where a method takes a larger one itself."""


@dataclass(frozen=True, slots=True)
class Param:
    """One parameter: its JSON type (a key of the table above), and what it is if left out.

    What is ``secret`` has no place on a command line, where every user of the machine reads it.
    """

    name: str
    type: str
    about: str
    default: Any = REQUIRED
    secret: bool = False


@dataclass(frozen=True, slots=True)
class Method:
    """One method. ``answer`` gets the node's services and the bound parameters."""

    name: str
    category: str
    about: str
    answer: Callable[..., Awaitable[Any]]
    params: tuple[Param, ...] = ()
    result: str = ""
    together: bool = False  # neighbours in a batch run at the same time
    waits: bool = False  # takes no worker while it waits, and has no place in a batch

    @property
    def usage(self) -> str:
        """The method with its parameters on one line."""
        words = [self.name]
        optional = False
        for param in self.params:
            shown = f'"{param.name}"' if param.type == "string" else param.name
            if param.default is not REQUIRED and not optional:
                optional = True
                words.append("(")
            words.append(shown)
        return " ".join([*words, ")"] if optional else words)

    @property
    def help(self) -> str:
        """The whole help text."""
        lines = [self.usage, "", self.about]
        if self.params:
            lines += ["", "Arguments:"]
            for number, param in enumerate(self.params, 1):
                need = "required"
                if param.default is not REQUIRED:
                    need = "optional"
                    if param.default is not None:
                        need += f", default={_shown(param.default)}"
                about = f"{param.about} {SECRET}" if param.secret else param.about
                lines.append(f"{number}. {param.name} ({param.type}, {need}) {about}")
        if self.result:
            lines += ["", "Result:", self.result]
        return "\n".join(lines) + "\n"

    def bind(self, request: Request) -> list[Any]:
        """Return the arguments of a call in the order of the parameters.

        Raises `RpcError` for too many or too few, unknown names and wrong types.
        """
        given = request.params
        if isinstance(given, dict):
            given = self._positional(given, is_v2=request.is_v2)
        if len(given) > len(self.params):
            raise RpcError(Code.MISC_ERROR, self.help)
        arguments = []
        for number, param in enumerate(self.params):
            value = given[number] if number < len(given) else None
            if value is None:
                if param.default is REQUIRED:
                    raise RpcError(Code.MISC_ERROR, self.help)
                arguments.append(param.default)
                continue
            arguments.append(_checked(number + 1, param, value))
        return arguments

    def _positional(self, given: dict[str, Any], *, is_v2: bool) -> list[Any]:
        wrong = Code.INVALID_PARAMS if is_v2 else Code.INVALID_PARAMETER
        rest = dict(given)
        first = rest.pop("args", [])
        if not isinstance(first, list):
            raise RpcError(wrong, "args must be an array")
        names = [param.name for param in self.params]
        values = first + [None] * (len(names) - len(first))
        for name, value in rest.items():
            if name not in names:
                raise RpcError(wrong, f"Unknown named parameter {name[:64]}")
            at = names.index(name)
            if at < len(first):
                raise RpcError(
                    wrong,
                    f"Parameter {name} specified twice both as positional and named argument",
                )
            values[at] = value
        return values


def integer(value: object, name: str, low: int, high: int) -> int:
    """Return a parameter that must be an integer within bounds; raises `RpcError`."""
    if isinstance(value, bool) or not isinstance(value, int | Decimal):
        raise RpcError(Code.TYPE_ERROR, f"{name} is not a number")
    if isinstance(value, Decimal):
        if value.adjusted() > 20 or value != value.to_integral_value():
            raise RpcError(Code.TYPE_ERROR, f"{name} is not an integer within its range")
        value = int(value)
    if not low <= value <= high:
        raise RpcError(Code.INVALID_PARAMETER, f"{name} must be {low} to {high}")
    return value


def hash_of(text: str, name: str) -> bytes:
    """Return the 32 bytes of an id; raises `RpcError` as Bitcoin Core's ParseHashV."""
    if len(text) != 2 * ID_BYTES:
        raise RpcError(
            Code.INVALID_PARAMETER,
            f"{name} must be of length {2 * ID_BYTES} (not {len(text)}, for '{text[:80]}')",
        )
    return hex_of(text, name)


def hex_of(text: str, name: str, code: Code = Code.INVALID_PARAMETER) -> bytes:
    """Return the bytes of a hexadecimal string; raises `RpcError` with a code."""
    try:
        if not text.isalnum():  # fromhex would skip white space
            raise ValueError
        return bytes.fromhex(text)
    except ValueError:
        raise RpcError(code, f"{name} must be hexadecimal string (not '{text[:80]}')") from None


def _checked(number: int, param: Param, value: Any) -> Any:
    types = _TYPES[param.type]
    if not isinstance(value, types) or (isinstance(value, bool) and bool not in types):
        raise RpcError(
            Code.TYPE_ERROR,
            f"Wrong type passed: Position {number} ({param.name}): JSON value of type "
            f"{_json_type(value)} is not of expected type {param.type}",
        )
    return value


def _json_type(value: Any) -> str:
    for name, types in (
        ("bool", bool),
        ("number", (int, Decimal)),
        ("string", str),
        ("array", list),
        ("object", dict),
    ):
        if isinstance(value, types):
            return name
    return "null"


def _shown(value: object) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    return f'"{value}"' if isinstance(value, str) else str(value)


def listing(methods: Sequence[Method]) -> str:
    """What ``help`` without a parameter says: all methods by category."""
    lines: list[str] = []
    for category in dict.fromkeys(method.category for method in methods):
        lines += [f"== {category} =="]
        lines += [each.usage for each in methods if each.category == category]
        lines += [""]
    return "\n".join(lines).rstrip() + "\n"
