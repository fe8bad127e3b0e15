"""Questions and answers between rpc and consensus: what is one, and that sizes are bounded."""

from __future__ import annotations

import pytest
from damage import damaged
from hypothesis import example, given, settings
from hypothesis import strategies as st

from node import query
from node.params import MAX_TX_BYTES
from node.query import Ask, QueryError, Told, decode_ask, decode_told, encode

ID = bytes(32)

QUESTIONS = [
    query.Overview(),
    query.Blocks(1, query.MAX_BLOCKS),
    query.HeightOf(ID),
    query.Find(ID),
    query.Statuses((ID,) * query.MAX_STATUSES),
    query.Outputs((bytes(33),) * query.MAX_OUTPOINTS),
    query.PoolIds(0),
    query.PoolEntries((ID,) * query.MAX_ENTRIES),
    query.Unspent(ID, b""),
    query.Unspent(ID, bytes(33)),
    query.CountOutputs(0),
    query.TryOut(ID, bytes(MAX_TX_BYTES)),
    query.Decision(7),
]


@pytest.mark.parametrize("question", QUESTIONS)
def test_a_question_arrives_as_it_was_asked(question: query.Question) -> None:
    assert decode_ask(encode(Ask(5, question))) == Ask(5, question)


@pytest.mark.parametrize(
    "question",
    [
        query.Blocks(1, query.MAX_BLOCKS + 1),
        query.Blocks(-1, 1),
        query.Blocks(1, 0),
        query.HeightOf(bytes(31)),
        query.Find(bytes(33)),
        query.Statuses((ID,) * (query.MAX_STATUSES + 1)),
        query.Statuses((b"",)),
        query.Outputs((bytes(33),) * (query.MAX_OUTPOINTS + 1)),
        query.Outputs((ID,)),
        query.PoolIds(-1),
        query.PoolEntries((ID,) * (query.MAX_ENTRIES + 1)),
        query.PoolEntries((b"",)),
        query.Unspent(b"", b""),
        query.Unspent(ID, ID),
        query.TryOut(ID, bytes(MAX_TX_BYTES + 1)),
        query.TryOut(b"", b""),
        query.Decision(-1),
    ],
)
def test_a_question_beyond_its_bounds_is_none(question: query.Question) -> None:
    with pytest.raises(QueryError):
        decode_ask(encode(Ask(5, question)))


def test_an_answer_arrives_as_it_was_given() -> None:
    row = query.OutputRow(bytes(40), None, False, b"")
    told = Told(2**60, query.OutputsAre(3, ID, (None, row)))
    assert decode_told(encode(told)) == told


ANSWERS = [
    query.HeightIs(None),
    query.OutputsAre(3, ID, (None, query.OutputRow(bytes(40), None, False, b""))),
    query.PoolIdsAre(ID, 2),
    query.NewBlock(7, ID),
]
FRAMES = [encode(Ask(5, each)) for each in QUESTIONS if len(encode(Ask(5, each))) < 200]
FRAMES += [encode(Told(5, each)) for each in ANSWERS]


@settings(max_examples=300)
@given(st.binary(max_size=100) | st.sampled_from(FRAMES).flatmap(damaged))
@example(encode(Ask(5, query.Overview())).replace(b"\x91", b"\x92") + b"\x91" * 10_000)
def test_any_bytes_are_one_or_are_refused(data: bytes) -> None:
    for decode in (decode_ask, decode_told):
        try:
            found = decode(data)
        except QueryError:
            continue
        assert decode(encode(found)) == found
