"""Writes the generated parts of ARCHITECTURE.md: the diagram of the wiring, and the metrics.

Both come from the declarations that the node runs by, so they cannot go stale: `python -m
tools.documents` rewrites what stands between the markers, and a test compares.
"""

from __future__ import annotations

import re
from pathlib import Path

from node.config import defaults
from node.stages import consensus, net, rpc, verify
from node.wiring import wire
from pipeline.diagram import diagram
from pipeline.exposition import markdown_table

ARCHITECTURE = Path(__file__).resolve().parents[1] / "ARCHITECTURE.md"


def generated() -> dict[str, str]:
    """The text that belongs between the markers of each name."""
    topology = wire(defaults("main"), "avx512", range(4))
    tables = (
        f"`{name}`\n\n{markdown_table(metrics)}"
        for name, metrics in (
            ("net", net.METRICS),
            ("verify", verify.METRICS),
            ("consensus", consensus.METRICS),
            ("rpc", rpc.METRICS),
        )
    )
    return {"diagram": f"```\n{diagram(topology)}\n```", "metrics": "\n".join(tables)}


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
