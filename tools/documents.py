"""Writes the generated parts of ARCHITECTURE.md: the diagram of the wiring, verdicts, and metrics.

All come from the declarations that the node runs by, so they cannot go stale: `python -m
tools.documents` rewrites what stands between the markers, and a test compares.
"""

from __future__ import annotations

import re
from importlib import import_module
from pathlib import Path
from typing import Final

from node.config import defaults
from node.verdict import Verdict
from node.wiring import wire
from pipeline.diagram import diagram
from pipeline.exposition import markdown_table
from pipeline.topology import StageSpec

ARCHITECTURE = Path(__file__).resolve().parents[1] / "ARCHITECTURE.md"

RULE_BOOKS: Final = {
    0: "none: the node holds it",
    16: "encoding",
    48: "signature",
    64: "ledger",
    96: "policy",
    128: "transport",
}
"""Where the codes of each group begin, as `Verdict` says."""


def generated() -> dict[str, str]:
    """The text that belongs between the markers of each name."""
    topology = wire(defaults("main"), "avx512", range(4))
    return {
        "diagram": f"```\n{diagram(topology)}\n```",
        "verdicts": _verdicts(),
        "metrics": "\n".join(map(_metrics, topology.stages)),
    }


def _metrics(stage: StageSpec) -> str:
    """The metrics that the stage's module declares."""
    module = import_module(stage.build.partition(":")[0])
    return f"`{stage.name}`\n\n{markdown_table(module.METRICS)}"


def _verdicts() -> str:
    """All codes, a row for each rule book."""
    rows = dict.fromkeys(RULE_BOOKS, "")
    for verdict in Verdict:
        begin = max(begin for begin in RULE_BOOKS if begin <= verdict)
        rows[begin] += f"{', ' * bool(rows[begin])}{verdict.value} {verdict.name}"
    lines = [f"| {RULE_BOOKS[begin]} | {codes} |" for begin, codes in rows.items()]
    return "\n".join(["| broken rule | codes |", "|---|---|", *lines])


def render(text: str) -> str:
    """The document with its generated parts as they should be.

    Raises `ValueError` when a marker is lost.
    """
    for name, content in generated().items():
        begin, end = f"<!-- {name}:begin -->", f"<!-- {name}:end -->"
        pattern = re.compile(f"{re.escape(begin)}.*?{re.escape(end)}", re.DOTALL)
        if len(pattern.findall(text)) != 1:
            raise ValueError(f"the document needs the markers {begin} and {end}, once each")
        part = f"{begin}\n{content.rstrip()}\n{end}"
        text = pattern.sub(part.replace("\\", "\\\\"), text)
    return text


def main() -> None:
    """Rewrite ARCHITECTURE.md."""
    ARCHITECTURE.write_text(render(ARCHITECTURE.read_text()))


if __name__ == "__main__":
    main()
