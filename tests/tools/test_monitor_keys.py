"""Keys: what terminals send, and what it does."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tools.monitor.keys import PANES, SORTS, Navigation, decode, press


@pytest.mark.parametrize(
    ("data", "keys"),
    [
        (b"q", ["q"]),
        (b"1s?", ["1", "s", "?"]),
        (b"\t\x1b[Z", ["tab", "back-tab"]),
        (b"\x1b[A\x1bOB\x1b[6~", ["up", "down", "page-down"]),
        (b"\x1b", ["escape"]),
        (b"\x1b[1;5C\x1b[200~", []),  # known to nobody here
        (b"\x03\x0c", ["quit", "redraw"]),
        ("é日q".encode(), ["q"]),
        (b"\x00\xff", []),
    ],
)
def test_what_terminals_send(data: bytes, keys: list[str]) -> None:
    assert decode(data) == keys


@given(st.binary(max_size=64))
def test_nothing_that_is_sent_is_too_strange(data: bytes) -> None:
    state = Navigation()
    for key in decode(data):
        state = press(state, key, 3)
    assert state.pane in PANES
    assert state.sort in SORTS
    assert 0 <= state.node < 3
    assert state.offset >= 0


def after(*keys: str, nodes: int = 1) -> Navigation:
    state = Navigation()
    for key in keys:
        state = press(state, key, nodes)
    return state


def test_panes() -> None:
    assert after("3").pane == PANES[2]
    assert after("tab", "right").pane == PANES[2]
    assert after("tab", "back-tab").pane == PANES[0]
    assert after("left").pane == PANES[-2]  # the list of nodes is for several
    assert after("left", nodes=2).pane == PANES[-1]
    assert after("8").pane == PANES[0]
    assert after("8", nodes=2).pane == PANES[-1]
    assert after("9", nodes=2).pane == PANES[0]
    assert after("down", "3").offset == 0


def test_sort_pause_help_quit() -> None:
    assert after("s").sort == SORTS[1]
    assert after(*"s" * len(SORTS)).sort == SORTS[0]
    assert after("r").backwards
    assert after("p").paused
    assert not after("p", " ").paused
    assert after("?").help
    assert not after("?", "3").help
    assert after("?", "3").pane == PANES[0]  # that key only closes the page
    assert after("?", "q").quit
    assert after("q").quit
    assert after("quit").quit
    assert after("x") == Navigation()


def test_nodes_and_scrolling() -> None:
    assert after("n", nodes=3).node == 1
    assert after("N", nodes=3).node == 2
    assert after("n").node == 0
    assert after("down", "j", "up").offset == 1
    assert after("up").offset == 0
    assert after("page-down", "page-up", "page-up").offset == 0
    assert after("end", "home").offset == 0
