"""The protocol: what is a request, what is refused and how, and that no bytes do any harm."""

from __future__ import annotations

import json
import tracemalloc
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from node.rpc.jsonrpc import (
    MAX_DEPTH,
    MAX_VALUES,
    SMALL_BYTES,
    Code,
    Request,
    RpcError,
    amount,
    encode,
    loads,
    parse_body,
    reply,
    status_of,
    units_of,
)


def one(content: object) -> Request:
    parsed = parse_body(json.dumps(content).encode())
    assert isinstance(parsed, Request)
    return parsed


def refusal(content: object) -> RpcError:
    error = one(content).error
    assert error is not None
    return error


def test_both_versions_and_their_answers() -> None:
    old = one({"method": "m", "params": [1], "id": 7, "version": "1.1"})
    assert (old.method, old.params, old.id, old.is_v2) == ("m", [1], 7, False)
    assert reply(old, 5, None) == {"result": 5, "error": None, "id": 7}
    new = one({"jsonrpc": "2.0", "method": "m", "params": {"a": 1}, "id": "x"})
    assert (new.params, new.is_v2, new.is_notification) == ({"a": 1}, True, False)
    assert reply(new, 5, None) == {"jsonrpc": "2.0", "result": 5, "id": "x"}
    wrong = RpcError(Code.MISC_ERROR, "no")
    told = {"code": -1, "message": "no"}
    assert reply(new, None, wrong) == {"jsonrpc": "2.0", "error": told, "id": "x"}
    assert reply(old, None, wrong) == {"result": None, "error": told, "id": 7}
    whole = {"jsonrpc": "2.0", "result": 5, "error": None, "id": "x"}
    assert reply(new, 5, None, whole=True) == whole


def test_only_a_request_of_version_2_without_an_id_is_a_notification() -> None:
    assert one({"jsonrpc": "2.0", "method": "m"}).is_notification
    assert not one({"jsonrpc": "2.0", "method": "m", "id": None}).is_notification
    assert not one({"method": "m"}).is_notification
    assert not one({"jsonrpc": "1.0", "method": "m"}).is_notification


@pytest.mark.parametrize(
    "content",
    [
        {"id": 1},
        {"method": 5},
        {"method": "m", "params": 5},
        {"method": "m", "jsonrpc": 2.0},
        {"method": "m", "jsonrpc": "3.0"},
        {"method": "m", "id": [1]},
    ],
)
def test_a_request_that_is_none(content: object) -> None:
    assert refusal(content).code == Code.INVALID_REQUEST


def test_a_bad_request_in_a_batch_is_alone_in_being_refused() -> None:
    batch = parse_body(b'[{"method": "a"}, 5, {"method": "b", "id": 1}]')
    assert isinstance(batch, list)
    assert [each.error is None for each in batch] == [True, False, True]
    assert parse_body(b"[]") == []
    assert batch[1].error is not None
    assert batch[1].error.__traceback__ is None  # nothing of the reader is kept


def test_a_batch_with_too_many_calls_is_one_error() -> None:
    assert isinstance(parse_body(b"[5,5,5]", 3), list)
    body = b"[" + b"5," * (MAX_VALUES - 2) + b"5]"
    tracemalloc.start()
    try:
        with pytest.raises(RpcError, match="1,000 calls at most") as caught:
            parse_body(body, 1_000)
        _, peak_bytes = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert caught.value.code is Code.INVALID_REQUEST
    assert peak_bytes < 20 * len(body)  # the items themselves, not an error for each


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{",
        b"5",
        b'"text"',
        b"null",
        b"\xff{}",
        b'{"method": "\xff"}',
        b'{"method": "\\ud800"}',
        b'{"id": NaN, "method": "m"}',
        b'{"id": Infinity, "method": "m"}',
        b'{"id": ' + b"9" * 5_000 + b', "method": "m"}',
        b'{"id": 1e' + b"9" * 100 + b', "method": "m"}',
        b'{"id": 1e' + b"9" * 30 + b', "method": "m"}',
        b'{"method": "m", "params": [{"address": 1, "address": 2}]}',  # one would become a fee
        b'{"id": 1e' + b"9" * 20 + b', "method": "m"}',
        b'{"method": "m", "method": "n"}',
        b"\xef\xbb\xbf{}",
        '{"method": "m"}'.encode("utf-16"),
        b"[" * 100_000,
        b"[" * 900 + b"]" * 900,
        b'{"a":' * 60 + b"1" + b"}" * 60,
        b"[" + b"1," * (MAX_VALUES + 1) + b"1]",
        b"[" + b"[]," * MAX_VALUES + b"1]",
    ],
)
def test_a_body_that_is_none(body: bytes) -> None:
    with pytest.raises(RpcError) as caught:
        parse_body(body)
    assert caught.value.code == Code.PARSE_ERROR


def test_the_deepest_that_is_read() -> None:
    assert loads(b"[" * MAX_DEPTH + b"]" * MAX_DEPTH)
    with pytest.raises(RpcError, match="deep"):
        loads(b"[" * (MAX_DEPTH + 1) + b"]" * (MAX_DEPTH + 1))
    assert len(loads(b"[" + b"[]," * 50 + b"[]]")) == 51  # many, but not deep


def test_statuses_are_those_of_bitcoin_core() -> None:
    old, new = one({"method": "m"}), one({"jsonrpc": "2.0", "method": "m", "id": 1})
    assert status_of(old, None) == status_of(new, None) == 200
    for code, status in (
        (Code.INVALID_REQUEST, 400),
        (Code.METHOD_NOT_FOUND, 404),
        (Code.MISC_ERROR, 500),
        (Code.PARSE_ERROR, 500),
    ):
        assert status_of(old, RpcError(code, "")) == status
        assert status_of(new, RpcError(code, "")) == 200


@given(st.integers(0, 2**63 - 1))
def test_an_amount_survives_the_way_out_and_back(units: int) -> None:
    text = encode(amount(units)).strip()
    assert len(text.partition(b".")[2]) == 8
    assert units_of(loads(text)) == units
    assert units_of(text.decode()) == units


@pytest.mark.parametrize(
    ("value", "units"),
    [
        *((1, 10**8), (Decimal("0.00000001"), 1), ("1e-8", 1), ("0", 0), ("0.10", 10**7)),
        *(("1E+2", 10**10), (Decimal("90071992.54740993"), None), ("90071992.54740993", None)),
    ],
)
def test_amounts_are_exact(value: object, units: int | None) -> None:
    assert units_of(value) == (9_007_199_254_740_993 if units is None else units)


@pytest.mark.parametrize(
    "value",
    [
        *(-1, True, None, [], "x", "", "NaN", "Infinity", Decimal("0.000000001")),
        *(Decimal("1E+999999"), Decimal("1E-999999"), "1e999999999", 2**63, "9" * 5_000),
        *(Decimal("0.123456780000000000000000000000000001"), Decimal("1E-99999999")),
        *("1_0", " 1", "1 ", "1\n", "+1", "01", ".5", "5.", "1,5", "0x1", "1e", "1e1.0", "--1"),
        *("\u0661", "\uff11", "1\u066b5", "\u22121", "1\u00a0", "1\0", "sNaN", "inf"),
    ],
)
def test_no_amount(value: object) -> None:
    with pytest.raises(RpcError) as caught:
        units_of(value)
    assert caught.value.code == Code.TYPE_ERROR


def test_numbers_are_never_floats() -> None:
    assert loads(b"[0.1, 1e2, 123456789012345678901]") == [
        Decimal("0.1"),
        Decimal("1e2"),
        Decimal("123456789012345678901"),
    ]
    request = one({"method": "m", "id": 0.1})
    assert encode(reply(request, None, None)) == b'{"result":null,"error":null,"id":0.1}\n'


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=20,
)
ALMOST = st.fixed_dictionaries(
    {}, optional=dict.fromkeys(("jsonrpc", "method", "params", "id"), JSON)
)


@given(st.binary(max_size=200) | JSON.map(lambda each: json.dumps(each).encode()))
def test_any_bytes_are_requests_or_refused(body: bytes) -> None:
    try:
        parsed = parse_body(body)
    except RpcError:
        return
    answer(parsed)


NUMBERS = st.from_regex(
    r"-?(0|[1-9][0-9]{0,21})(\.[0-9]{1,9})?([eE][+-]?[0-9]{1,20})?", fullmatch=True
)


@given(
    st.binary(max_size=200)
    | JSON.map(lambda each: json.dumps(each).encode())
    | st.lists(NUMBERS, max_size=3).map(lambda each: f"[{','.join(each)}]".encode())
)
def test_small_bodies_are_read_as_long_ones_are(body: bytes) -> None:
    def read(text: bytes) -> str:
        try:
            return repr(loads(text))  # tells 1 from 1.0, and an integer from a decimal
        except RpcError as error:
            return error.message

    assert read(body) == read(body + b" " * SMALL_BYTES)


@given(ALMOST | st.lists(ALMOST, max_size=5))
def test_what_looks_like_a_request_can_be_answered(content: Any) -> None:
    try:
        parsed = parse_body(json.dumps(content).encode())
    except RpcError:  # a number or half a character that JSON cannot hold
        return
    answer(parsed)


def answer(parsed: Request | list[Request]) -> None:
    for request in parsed if isinstance(parsed, list) else [parsed]:
        assert isinstance(request.params, dict | list)
        encode(reply(request, None, request.error))
