"""Declared methods: how arguments find their parameters, and what help says."""

from __future__ import annotations

from decimal import Decimal
from typing import Any

import pytest

from node.rpc.jsonrpc import Code, Request, RpcError
from node.rpc.method import Method, Param, hash_of, hex_of, integer, listing


async def nothing() -> None:
    pass


METHOD = Method(
    "getthing",
    "things",
    "Return a thing.",
    nothing,
    (Param("name", "string", "Its name."), Param("size", "number", "Its size.", 3)),
    "the thing",
)


def request(params: Any, *, is_v2: bool = False) -> Request:
    made = Request()
    made.params, made.is_v2 = params, is_v2
    return made


@pytest.mark.parametrize(
    ("params", "bound"),
    [
        (["a"], ["a", 3]),
        (["a", None], ["a", 3]),
        (["a", 5], ["a", 5]),
        ({"name": "a"}, ["a", 3]),
        ({"size": 5, "name": "a"}, ["a", 5]),
        ({"args": ["a"], "size": 5}, ["a", 5]),
    ],
)
def test_arguments_by_place_and_by_name(params: Any, bound: list[Any]) -> None:
    assert METHOD.bind(request(params)) == bound


@pytest.mark.parametrize(
    ("params", "code"),
    [
        ([], Code.MISC_ERROR),
        ([None], Code.MISC_ERROR),
        (["a", 1, 2], Code.MISC_ERROR),
        ([5], Code.TYPE_ERROR),
        (["a", "b"], Code.TYPE_ERROR),
        (["a", True], Code.TYPE_ERROR),
        ({"nam": "a"}, Code.INVALID_PARAMETER),
        ({"args": ["a"], "name": "a"}, Code.INVALID_PARAMETER),
        ({"args": "a"}, Code.INVALID_PARAMETER),
    ],
)
def test_arguments_that_do_not_fit(params: Any, code: Code) -> None:
    with pytest.raises(RpcError) as caught:
        METHOD.bind(request(params))
    assert caught.value.code == code


def test_an_unknown_name_has_the_code_of_its_version() -> None:
    with pytest.raises(RpcError) as caught:
        METHOD.bind(request({"nam": 1}, is_v2=True))
    assert caught.value.code == Code.INVALID_PARAMS


def test_help_says_all_of_it() -> None:
    assert METHOD.usage == 'getthing "name" ( size )'
    assert METHOD.help == (
        'getthing "name" ( size )\n\nReturn a thing.\n\nArguments:\n'
        "1. name (string, required) Its name.\n2. size (number, optional, default=3) Its size.\n"
        "\nResult:\nthe thing\n"
    )
    assert listing([METHOD]) == '== things ==\ngetthing "name" ( size )\n'


def test_integers_hashes_and_hexadecimal_digits() -> None:
    assert integer(Decimal("1e2"), "n", 0, 100) == 100
    for value, code in (
        (Decimal("1e999"), Code.TYPE_ERROR),
        (Decimal("0.5"), Code.TYPE_ERROR),
        (True, Code.TYPE_ERROR),
        (101, Code.INVALID_PARAMETER),
        (-1, Code.INVALID_PARAMETER),
    ):
        with pytest.raises(RpcError) as caught:
            integer(value, "n", 0, 100)
        assert caught.value.code == code
    assert hash_of("ab" * 32, "txid") == b"\xab" * 32
    assert hex_of("AbCd", "x") == b"\xab\xcd"
    for wrong in ("ab" * 31, "zz" * 32, "ab " * 32, "٣" * 64):
        with pytest.raises(RpcError):
            hash_of(wrong, "txid")
