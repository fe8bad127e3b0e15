"""What ARCHITECTURE.md says of wiring and metrics is what the node runs by."""

from __future__ import annotations

import pytest

from tools.documents import ARCHITECTURE, render


def test_the_generated_parts_are_as_the_declarations_say() -> None:
    text = ARCHITECTURE.read_text()
    assert render(text) == text, "run `python -m tools.documents`"


def test_a_lost_marker_is_an_error() -> None:
    with pytest.raises(ValueError, match="markers"):
        render("no markers here")
