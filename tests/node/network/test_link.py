"""Words between net and consensus: each comes out as it went in, and is taken for no other."""

from __future__ import annotations

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from node.network import link

U32 = st.integers(0, 2**32 - 1)
U64 = st.integers(0, 2**63 - 1)
BODY = st.binary(max_size=200)

HEARD = st.one_of(
    st.builds(link.Peers, U32, st.lists(st.tuples(U32, U64), max_size=8).map(tuple)),
    st.builds(link.Frame, U32, U32, st.integers(0, 255), BODY),
    st.builds(link.Challenge, U32, U32, BODY, BODY),
)
SAY = st.one_of(
    st.builds(link.Send, U32, U32, st.integers(0, 255), BODY),
    st.builds(link.Broadcast, U32, U32, st.integers(0, 255), BODY),
    st.builds(link.Blame, U32, U32, st.integers(0, 100), st.text(max_size=40)),
    st.builds(link.Expect, U32, U32, U32, U32),
    st.builds(link.Check, U32, U32, BODY),
    st.builds(link.Height, U32, U64, st.booleans()),
    st.builds(link.Proof, U32, U32, U32, BODY),
)


@given(word=HEARD)
def test_what_is_heard(word: link.Heard) -> None:
    assert link.decode_heard(link.encode(word)) == word
    with pytest.raises(msgspec.DecodeError):
        link.decode_say(link.encode(word))


@given(word=SAY)
def test_what_is_said(word: link.Say) -> None:
    assert link.decode_say(link.encode(word)) == word
    with pytest.raises(msgspec.DecodeError):
        link.decode_heard(link.encode(word))


@given(word=HEARD, more=st.binary(min_size=1, max_size=4))
def test_a_word_with_something_behind_it_is_none(word: link.Heard, more: bytes) -> None:
    with pytest.raises(msgspec.DecodeError):
        link.decode_heard(link.encode(word) + more)


@given(word=SAY, data=st.data())
def test_half_a_word_is_none(word: link.Say, data: st.DataObject) -> None:
    whole = link.encode(word)
    with pytest.raises(msgspec.DecodeError):
        link.decode_say(whole[: data.draw(st.integers(0, len(whole) - 1))])


def test_words_of_the_same_content_stay_apart() -> None:
    words = [link.Send(1, 2, 3, b"x"), link.Broadcast(1, 2, 3, b"x")]
    assert [link.decode_say(link.encode(word)) for word in words] == words
    assert words[0] != words[1]
