"""What ARCHITECTURE.md says of wiring, verdicts and metrics is what the node runs by."""

from __future__ import annotations

import pytest

from node.config import defaults
from node.verdict import Verdict
from node.wiring import wire
from tools.documents import ARCHITECTURE, generated, render


def test_the_generated_parts_are_as_the_declarations_say() -> None:
    text = ARCHITECTURE.read_text()
    assert render(text) == text, "run `python -m tools.documents`"


def test_every_stage_has_its_metrics_there() -> None:
    metrics = generated()["metrics"]
    for stage in wire(defaults("main"), "nacl", range(2)).stages:
        assert f"`{stage.name}`\n" in metrics
        assert f"| {stage.name} |" in metrics


def test_every_verdict_stands_with_its_number_below_the_rule_book_it_comes_from() -> None:
    rows = generated()["verdicts"].splitlines()[2:]
    assert [row.count(",") + 1 for row in rows] == [4, 12, 1, 5, 6, 4]
    codes = [code for row in rows for code in row.split(" | ")[1].removesuffix(" |").split(", ")]
    assert codes == [f"{int(verdict)} {verdict.name}" for verdict in Verdict]
    assert f"{int(Verdict.BUSY)} BUSY" in rows[-1]
    assert rows[-1].startswith("| transport |")


def test_a_lost_marker_is_an_error() -> None:
    with pytest.raises(ValueError, match="markers"):
        render("no markers here")
