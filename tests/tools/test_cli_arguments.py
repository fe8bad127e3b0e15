"""Words of the command line as parameters, and results as people and programs read them."""

from __future__ import annotations

import io
import json
from dataclasses import dataclass
from decimal import Decimal
from typing import Any

import msgspec
import pytest
from damage import ODD_JSON, json_values
from hypothesis import given, settings
from hypothesis import strategies as st
from rich.console import Console

from node.errors import UsageError
from tools.cli.arguments import parameters
from tools.cli.show import json_text, show, tables


@dataclass(frozen=True)
class Declared:
    """A parameter, and as a method one with parameters."""

    name: str
    type: str = ""
    params: tuple[Declared, ...] = ()
    usage: str = "some usage"
    secret: bool = False


SOME = Declared(
    "some",
    params=(
        Declared("text", "string"),
        Declared("number", "number"),
        Declared("flag", "boolean"),
        Declared("list", "array or object"),
        Declared("either", "number or string"),
    ),
)


def sent(*words: str) -> Any:
    """What the node gets, decoded."""
    encoder = msgspec.json.Encoder(decimal_format="number")
    return json.loads(encoder.encode(parameters(SOME, words)), parse_float=Decimal)


def test_words_by_position() -> None:
    assert sent("a", "1", "true", '["x"]', "2") == ["a", 1, True, ["x"], 2]
    assert sent() == []
    assert sent("12", "-1") == ["12", -1]
    assert sent("null", "null") == ["null", None]  # text stays text


def test_words_by_name() -> None:
    assert sent("flag=false", "text=a=b") == {"flag": False, "text": "a=b"}
    assert sent("a", 'list={"x":[1]}') == {"args": ["a"], "list": {"x": [1]}}
    assert sent("unknown=1") == ["unknown=1"]  # what no parameter is called is a value


def test_numbers_keep_their_digits() -> None:
    assert parameters(SOME, ["a", "12345678.12345678"])[1] == msgspec.Raw(b"12345678.12345678")
    assert sent("a", "0.10000000") == ["a", Decimal("0.10000000")]


def test_text_or_number() -> None:
    assert sent("either=1.50") == {"either": Decimal("1.50")}
    assert sent("either=abc") == {"either": "abc"}
    assert sent('either="1"') == {"either": "1"}
    assert sent("either=[1") == {"either": "[1"}


@pytest.mark.parametrize(
    ("words", "named"),
    [
        (("a", "b"), "number of some is 'b', and takes a number"),
        (("a", "1", "1"), "flag of some is '1', and takes true or false"),
        (("a", "1", "true", "5"), "takes a JSON array"),
        (("a", "1", "true", "[", "5"), "takes a JSON array"),
        (("a", "1", "true", "[]", "5", "6"), "too many for some"),
        (("a", "text=b"), "text is given twice"),
        (("flag=true", "flag=true"), "flag is given twice"),
        (("flag=true", "a"), "'a' stands behind a named parameter"),
        (("a", "NaN"), "takes a number"),
    ],
)
def test_what_cannot_be_meant(words: tuple[str, ...], named: str) -> None:
    with pytest.raises(UsageError) as caught:
        parameters(SOME, words)
    assert named in caught.value.message
    assert "write: time-cli some usage" in caught.value.message


SIGNING = Declared(
    "signing", params=(Declared("text", "string"), Declared("keys", "array", secret=True))
)


@pytest.mark.parametrize("words", [("a", '["5eed"]'), ("a", 'keys=["5eed"]'), ("a", "5eed")])
def test_a_secret_is_refused_on_a_command_line(words: tuple[str, ...]) -> None:
    with pytest.raises(UsageError) as caught:
        parameters(SIGNING, words)
    assert "keys of signing is secret" in caught.value.message
    assert "--stdin" in caught.value.message
    assert "5eed" not in caught.value.message


def test_a_secret_comes_on_standard_input_and_is_not_repeated() -> None:
    assert parameters(SIGNING, ["a"], ['["5eed"]']) == ["a", msgspec.Raw(b'["5eed"]')]
    assert parameters(SIGNING, ["text=a"], ['keys=["5eed"]'])
    assert parameters(SIGNING, [], ["a", '["5eed"]'])
    for words, unseen in ((["a"], ["5eed"]), (["text=a"], ['["5eed"]']), (["a"], ["[]", "5eed"])):
        with pytest.raises(UsageError) as caught:
            parameters(SIGNING, words, unseen)
        assert "5eed" not in caught.value.message


# -- results -------------------------------------------------------------------------------------


def printed(value: object, width: int = 100) -> str:
    out = io.StringIO()
    tables(value, Console(file=out, width=width, highlight=False, markup=False))
    return out.getvalue()


def test_json_keeps_the_nodes_numbers() -> None:
    text = json_text(b'{"a":1.10000000,"b":[]}', bare=True)
    assert text == '{\n  "a": 1.10000000,\n  "b": []\n}\n'


def test_a_pipe_gets_texts_without_quotes(capsys: pytest.CaptureFixture[str]) -> None:
    show(b'"00ab"', as_json=False, terminal=False)
    show(b"null", as_json=False, terminal=False)
    show(b"7", as_json=False, terminal=False)
    assert capsys.readouterr().out == "00ab\n7\n"
    show(b'"00ab"', as_json=True, terminal=True)
    show(b"null", as_json=True, terminal=False)
    assert capsys.readouterr().out == '"00ab"\nnull\n'
    show(b'{"a":1}', as_json=False, terminal=True)
    assert capsys.readouterr().out.split() == ["a", "1"]


def test_an_object_is_a_table_of_two_columns() -> None:
    text = printed({"height": 3, "on": True, "none": None, "in": {"a": Decimal("1.10"), "b": []}})
    rows = [line.split() for line in text.splitlines()]
    assert rows == [["height", "3"], ["on", "yes"], ["none", "-"], ["in.a", "1.10"], ["in.b"]]


def test_a_list_of_objects_is_a_table_with_a_head() -> None:
    value = [{"id": 1, "name": "x"}, {"id": 22, "more": {"a": [1]}}]
    rows = [line.split() for line in printed(value).splitlines()]
    assert rows == [["id", "name", "more.a"], ["1", "x", "-"], ["22", "-", "[1]"]]


def test_lists_in_objects_come_below() -> None:
    text = printed({"txid": "ab", "vin": [{"n": 1}, {"n": 2}], "tx": ["one", "two"]})
    assert [line.split() for line in text.splitlines()] == [
        ["txid", "ab"],
        ["tx", "one"],
        ["two"],
        [],
        ["vin"],
        ["n"],
        ["1"],
        ["2"],
    ]


def test_objects_too_wide_for_a_row_each_come_one_below_the_other() -> None:
    value = [{"n": 1, "ids": {"a": "a" * 30}}, {"n": 2, "ids": {"a": "b" * 30}}]
    wide, narrow = printed(value, width=40), printed(value, width=30)
    assert (wide.count("ids.a"), len(wide.splitlines())) == (1, 3)
    assert (narrow.count("ids.a"), narrow.count("\n\n")) == (2, 1)
    assert narrow.count("b") == 30


def test_plain_values() -> None:
    assert printed(7) == "7\n"
    assert printed(Decimal("0.00000001")) == "0.00000001\n"
    assert printed("two\nlines\n") == "two\nlines\n"
    assert printed(["a", "b"]) == "a\nb\n"
    assert printed([]) == "(none)\n"
    assert printed(None) == ""


def test_ids_are_never_cut() -> None:
    ids = ["ab" * 32, "cd" * 32]
    narrow = printed([{"id": each, "n": 1} for each in ids], width=40)
    assert [narrow.count(letter) for letter in "abc…"] == [32, 32, 32, 0]
    assert printed({"id": ids[0]}, width=40).replace("\n", "").replace(" ", "") == "id" + ids[0]
    assert printed(ids[0], width=40) == ids[0] + "\n"


def test_times_are_dates() -> None:
    assert "2026-11-22 21:23:07 UTC" in printed({"time": 1795382587})
    assert printed([{"conntime": 0}]).split() == ["conntime", "0"]
    assert "99999999999999999" in printed({"time": 99999999999999999})


def test_peers_cannot_steer_the_terminal() -> None:
    hostile = "a\x1b]0;title\x07b\x9bc\u202ed[bold]e"
    for value in ({"agent": hostile}, [{"agent": hostile}], [hostile], hostile, {hostile: 1}):
        text = printed(value)
        assert not {"\x1b", "\x07", "\x9b", "\u202e"} & set(text)
        assert "[bold]e" in text


# -- any words -----------------------------------------------------------------------------------

ODD_WORDS = st.sampled_from([each.decode("utf-8", "surrogateescape") for each in ODD_JSON])


@settings(max_examples=200)
@given(
    st.lists(
        st.text(max_size=10)
        | ODD_WORDS
        | json_values.map(json.dumps)
        | st.builds(
            "{}={}".format, st.sampled_from([each.name for each in SOME.params]), ODD_WORDS
        ),
        max_size=6,
    )
)
def test_any_words_are_parameters_or_are_refused(words: list[str]) -> None:
    try:
        found = parameters(SOME, words)
    except UsageError:
        return
    assert len(found) <= len(SOME.params)
