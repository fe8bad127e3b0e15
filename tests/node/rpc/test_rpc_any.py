"""Any JSON parameters to every method: an answer or a refusal, never an error of the node's own."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any, NamedTuple

import pytest
from chains import OWNERS, PUBLIC
from damage import ODD_JSON, damaged, json_values
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.strategies import DrawFn, SearchStrategy
from rpc_world import RpcWorld, address

from node.rpc.jsonrpc import Code, RpcError, parse_body
from node.rpc.method import Method
from node.rpc.methods import METHODS, finality

COMMANDS = ["add", "remove", "onetry", "debug", "info", "all", "net", "help", "getblock"]
PLACES = ["192.0.2.7", "2001:db8::1", "192.0.2.0/24", "192.0.2.7:5", "a.example:5", "", "x"]
MOST_MS = 20  # that a call may wait here; longer ones are refused


class Place(NamedTuple):
    """A world, and texts that mean something in it: ids, bytes, addresses, keys, commands."""

    world: RpcWorld
    known: list[str]


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    """With some blocks, and payments on their way."""
    patch = pytest.MonkeyPatch()
    patch.setattr(finality, "MAX_WAIT_MS", MOST_MS)
    world = RpcWorld(tmp_path_factory.mktemp("any"))
    payments = [world.pay(number) for number in range(5)]
    blocks = [world.commit(payments[:2]), world.commit()]
    sent = [world.call("sendrawtransaction", each.hex()) for each in payments[2:4]]
    source = world.chain.allotted(6)
    inputs = [{"txid": source[:-1].hex(), "vout": source[-1]}]
    unsigned = world.call("createrawtransaction", inputs, {address(PUBLIC[1]): 0.005})
    ids = (world.chain.id, *blocks, source[:-1], bytes(32))
    known = [each.hex() for each in (*ids, *payments, *map(bytes, OWNERS[:2]))]
    known += [*sent, unsigned, *map(address, PUBLIC), *COMMANDS, *PLACES]
    yield Place(world, known)
    world.close()
    patch.undo()


def texts(known: list[str]) -> SearchStrategy[str]:
    chosen = st.sampled_from(known)
    changed = chosen.flatmap(lambda text: damaged(text.encode()))
    return chosen | st.text(max_size=70) | changed.map(lambda data: data.decode("utf-8", "ignore"))


def amounts() -> SearchStrategy[Any]:
    return (
        st.integers(-2, 3)
        | st.integers(-(2**70), 2**70)
        | st.sampled_from([0.5, 1e-8, 1e-9, 1e22, "0.1", "1e5", "-0", "NaN", "9" * 30])
    )


@st.composite
def values(draw: DrawFn, type_: str, known: list[str]) -> Any:
    """A value of a declared type, and seldom of another."""
    if draw(st.integers(0, 9)) == 0:
        return draw(json_values)
    text = texts(known)
    match draw(st.sampled_from(type_.split(" or "))):
        case "string":
            return draw(text)
        case "number":
            return draw(amounts())
        case "boolean":
            return draw(st.booleans())
        case "array":
            spent = st.fixed_dictionaries(
                {"txid": text, "vout": amounts()},
                optional={"sequence": amounts(), "address": text, "amount": amounts()},
            )
            paid = st.dictionaries(text, amounts(), max_size=2)
            return draw(st.lists(text | spent | paid | json_values, max_size=4))
        case _:
            return draw(st.dictionaries(text, amounts() | text | json_values, max_size=3))


@st.composite
def bodies(draw: DrawFn, method: Method, known: list[str]) -> bytes:
    """A call, its parameters by position or by name; here and there is something odd in it."""
    declared = [draw(values(each.type, known)) for each in method.params]
    given: Any = declared[: draw(st.integers(0, len(declared)))]
    match draw(st.integers(0, 9)):
        case 0 | 1:
            names = [each.name for each in method.params]
            given = dict(zip(names, declared, strict=True))
            if draw(st.booleans()):
                given["args"] = draw(st.just([]) | json_values)
        case 2:
            given = draw(json_values)
    call = {"method": method.name, "params": given, "id": 1}
    if draw(st.booleans()):
        call["jsonrpc"] = "2.0"
    text = json.dumps(call).encode()
    if given and draw(st.integers(0, 9)) == 0:
        mark = json.dumps(draw(st.sampled_from(COMMANDS))).encode()
        text = text.replace(mark, draw(st.sampled_from(ODD_JSON)))
    return text


@pytest.mark.parametrize("method", METHODS, ids=lambda each: each.name)
def test_any_parameters_are_answered_or_refused(place: Place, method: Method) -> None:
    world = place.world

    @settings(max_examples=30 if method.params else 5)
    @given(bodies(method, place.known))
    def call(body: bytes) -> None:
        try:
            parsed = parse_body(body)
        except RpcError:
            return
        answer = json.loads(world.run(world.calls.answer(parsed))[1])
        error = answer.get("error")
        assert error is None or error["code"] != Code.INTERNAL_ERROR, world.log.events[-1]

    call()
