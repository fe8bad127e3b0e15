"""Frames of the monitor as they should be: ``python tests/support/monitor_frames.py`` draws them
anew from the recordings, into tests/tools/monitor_frames; look at the differences before you commit
them.

A ``.txt`` is the text alone, as in a pipe; an ``.ansi`` is what a terminal gets (``cat`` it).
"""

from __future__ import annotations

import io
from collections.abc import Iterator
from datetime import UTC
from pathlib import Path

from monitor_recording import load
from rich.console import Console

from tools.monitor.frame import Frame, Size, compose
from tools.monitor.ink import Line
from tools.monitor.keys import PANES, Navigation
from tools.monitor.memory import Memory
from tools.monitor.view import NodeView, describe

FRAMES = Path(__file__).parents[1] / "tools" / "monitor_frames"
SMALL, LARGE = Size(80, 24), Size(200, 60)
RECORDINGS = ("loaded", "restarting", "stopped")


def view_of(recording: str) -> NodeView:
    """What the monitor shows at the end of a recording."""
    memory = Memory()
    for look in load(FRAMES / f"{recording}.json"):
        memory.observe(look)
    return describe(memory)


def text(lines: list[Line], *, colour: bool = False, ascii_only: bool = False) -> str:
    """The frame as rich writes it to a terminal, or without any styles."""
    out = io.StringIO()
    console = Console(
        file=out,
        width=max(len(line) for line in lines) + 400,
        force_terminal=colour,
        color_system="standard" if colour else None,
        highlight=False,
        legacy_windows=False,
        _environ={},
    )
    console.print(Frame(lines, ascii_only=ascii_only), end="", soft_wrap=True)
    drawn = out.getvalue()
    if not colour:
        drawn = "\n".join(line.rstrip() for line in drawn.split("\n"))
    return drawn + "\n"


def frames() -> Iterator[tuple[str, str]]:
    """The name of each file and what it should hold."""
    views = {name: view_of(name) for name in RECORDINGS}
    for name, view in views.items():
        for size in (SMALL, LARGE):
            lines = compose([view], Navigation(), size, UTC)
            yield f"{name}-{size.columns}x{size.rows}.txt", text(lines)
            yield f"{name}-{size.columns}x{size.rows}.ansi", text(lines, colour=True)
    for pane in PANES[1:]:
        several = [views["loaded"], views["stopped"]]
        yield f"{pane}-80x24.txt", text(compose(several, Navigation(pane=pane), SMALL, UTC))
    for name, state in (
        ("help", Navigation(help=True)),
        ("paused-by-busy", Navigation(paused=True, sort="busy", backwards=True)),
    ):
        yield f"{name}-80x24.txt", text(compose([views["loaded"]], state, SMALL, UTC))
    lines = compose([views["loaded"]], Navigation(), SMALL, UTC)
    yield "ascii-80x24.txt", text(lines, ascii_only=True)


def main() -> None:
    for name, drawn in frames():
        (FRAMES / name).write_text(drawn, encoding="utf-8")


if __name__ == "__main__":
    main()
