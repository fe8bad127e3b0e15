"""What stands on the command line becomes parameters of a method, by the method's declaration.

Words come from the shell, the declaration from the table that the node itself answers by; JSON
values go to the transport. Text stays text; everything else is JSON, and passed on as it was
typed, so amounts keep all their digits. What is secret is taken from standard input alone, and not
repeated in errors. Pure.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final, Protocol

import msgspec

from node.errors import UsageError

TEXT: Final = "string"


class Param(Protocol):
    """What is declared of a parameter: name, JSON type in words, whether others may see it."""

    @property
    def name(self) -> str: ...
    @property
    def type(self) -> str: ...
    @property
    def secret(self) -> bool: ...


class Method(Protocol):
    """What is declared of a method."""

    @property
    def name(self) -> str: ...
    @property
    def params(self) -> Sequence[Param]: ...
    @property
    def usage(self) -> str: ...


def parameters(
    method: Method, words: Sequence[str], unseen: Sequence[str] = ()
) -> list[Any] | dict[str, Any]:
    """Return the parameters that the words mean, by position or by name ("name=value"); behind
    those of the command line follow ``unseen`` ones, of standard input.

    Words in front of the first named one are by position; what only looks like a name is a value.
    Raises UsageError for too many, for one given twice, for values of another type, and for a
    secret on the command line.
    """
    names = {param.name: param for param in method.params}
    positional: list[Any] = []
    named: dict[str, Any] = {}
    for number, word in enumerate((*words, *unseen)):
        seen = number < len(words)
        name, equals, value = word.partition("=")
        if equals and name in names:
            if name in named:
                raise _wrong(method, f"{name} is given twice")
            named[name] = _value(method, names[name], value, seen=seen)
            continue
        if named:
            shown = repr(word[:40]) if seen else "a line of standard input"
            raise _wrong(method, f"{shown} stands behind a named parameter")
        if len(positional) == len(method.params):
            count = len(words) + len(unseen)
            raise _wrong(method, f"{count} parameters are too many for {method.name}")
        positional.append(_value(method, method.params[len(positional)], word, seen=seen))
    if not named:
        return positional
    for param in method.params[: len(positional)]:
        if param.name in named:
            raise _wrong(method, f"{param.name} is given twice")
    return {"args": positional, **named} if positional else named


def _value(method: Method, param: Param, word: str, *, seen: bool) -> object:
    if param.secret and seen:
        raise UsageError(
            f"{param.name} of {method.name} is secret, and a command line is not",
            f"write it to standard input: time-cli {method.name} ... --stdin",
        )
    kinds = param.type.split(" or ")
    if kinds == [TEXT]:
        return word
    try:
        value = msgspec.json.decode(word)
    except (msgspec.MsgspecError, UnicodeEncodeError, RecursionError):
        value = _NOT_JSON
    if value is None or _kind(value) in kinds:
        return msgspec.Raw(word.encode())
    if TEXT in kinds:
        return word
    shown = "something else" if param.secret else repr(word[:40])
    raise _wrong(method, f"{param.name} of {method.name} is {shown}, and takes {_a(param.type)}")


_NOT_JSON: Final = object()


def _kind(value: object) -> str:
    match value:
        case bool():
            return "boolean"
        case int() | float():
            return "number"
        case str():
            return TEXT
        case list():
            return "array"
        case dict():
            return "object"
        case _:
            return ""


def _a(type_: str) -> str:
    examples = {"boolean": "true or false", "array": 'a JSON array as ["a", "b"]'}
    examples["object"] = 'a JSON object as {"a": 1}'
    return " or ".join(examples.get(each, f"a {each}") for each in type_.split(" or "))


def _wrong(method: Method, cause: str) -> UsageError:
    return UsageError(cause, f"write: time-cli {method.usage}")
