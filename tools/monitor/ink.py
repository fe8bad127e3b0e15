"""Pieces of text with a manner of writing, lines of them, and figures in a fixed width.

A line is a list of pieces (text, manner); the manners are few and each has a style of rich, which
also does without colour: whatever a colour says is said by a word or a glyph as well. Pure.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from textwrap import shorten
from typing import Final

from rich.cells import cell_len, set_cell_size
from rich.style import Style

Piece = tuple[str, str]
Line = list[Piece]

STYLES: Final = {
    "": Style.null(),
    "bold": Style(bold=True),
    "dim": Style(dim=True),
    "title": Style(bold=True, color="cyan"),
    "good": Style(color="green"),
    "warn": Style(color="yellow"),
    "bad": Style(bold=True, color="red"),
    "busy": Style(color="green"),
    "backpressure": Style(color="red"),
    "housekeeping": Style(color="cyan"),
    "trend": Style(color="blue"),
    "chosen": Style(reverse=True),
}

ASCII: Final = str.maketrans(
    {
        **dict(zip("─│╭╮╰╯┬┴▶◀▲▼", "-|....++><^v", strict=True)),
        **dict(zip("▁▂▃▄▅▆▇█", "__..--==", strict=True)),
        **dict(zip("▓▒·…", "%+.~", strict=True)),
    }
)
"""For terminals that do not speak UTF-8."""

BARS: Final = "▁▂▃▄▅▆▇█"
UNKNOWN: Final = "-"


def width(line: Iterable[Piece]) -> int:
    """Columns that a line takes."""
    return sum(cell_len(text) for text, _ in line)


def fit(line: Sequence[Piece], columns: int) -> Line:
    """The line in exactly so many columns: cut, or filled up with blanks."""
    fitted: Line = []
    left = columns
    for text, manner in line:
        if left <= 0:
            break
        size = cell_len(text)
        fitted.append((text if size <= left else set_cell_size(text, left), manner))
        left -= min(size, left)
    if left > 0:
        fitted.append((" " * left, ""))
    return fitted


def clip(line: Sequence[Piece], columns: int) -> Line:
    """As `fit`, but a line that loses more than blanks ends in an ellipsis."""
    if cell_len(plain(line).rstrip()) <= columns or columns < 2:
        return fit(line, columns)
    return [*fit(line, columns - 1), ("…", "dim")]


def whole_words(text: str, columns: int) -> str:
    """The words that there is room for, and an ellipsis for the others."""
    return shorten(text, columns, placeholder=" …")


def cell(text: str, columns: int, manner: str = "", *, right: bool = False) -> Piece:
    """Text in exactly so many columns; what is too long ends in an ellipsis."""
    size = cell_len(text)
    if size > columns:
        return (set_cell_size(text, columns - 1) + "…" if columns > 1 else "…", manner)
    blank = " " * (columns - size)
    return (blank + text if right else text + blank, manner)


def ending(text: str, columns: int) -> str:
    """The end of a text that is too long, after an ellipsis: of paths it tells one from another."""
    if cell_len(text) <= columns:
        return text
    while text and cell_len(text) > columns - 1:
        text = text[1:]
    return f"…{text}"


def plain(line: Iterable[Piece]) -> str:
    """The text alone."""
    return "".join(text for text, _ in line)


def amount(value: float | None) -> str:
    """A number in at most 7 columns: 12,345, 123k, 12.3M."""
    if value is None:
        return UNKNOWN
    if 0 < value < 9.95:
        return f"{value:.1f}"
    if value < 99_999.5:
        return f"{value:,.0f}"
    if value < 9_999_500:
        return f"{value / 1e3:,.0f}k"
    if value < 9_999_500_000:
        return f"{value / 1e6:,.1f}M"
    return f"{value / 1e9:,.0f}G"


def per_second(value: float | None) -> str:
    """A rate with its unit, in at most 9 columns."""
    return UNKNOWN if value is None else f"{amount(value)}/s"


def milliseconds(value: float | None) -> str:
    """A time in ms in at most 6 columns, without its unit."""
    if value is None:
        return UNKNOWN
    if value < 0.995:
        return f"{value:.2f}"
    return f"{value:.1f}" if value < 99.95 else f"{value:,.0f}"


def duration(seconds: float | None) -> str:
    """3 s, 2 min 3 s, 5 h 2 min, 3 d 5 h."""
    if seconds is None:
        return UNKNOWN
    whole = int(seconds)
    for unit, size, name, lesser in ((86_400, 3_600, "d", "h"), (3_600, 60, "h", "min")):
        if whole >= unit:
            return f"{whole // unit} {name} {whole % unit // size} {lesser}"
    return f"{whole // 60} min {whole % 60} s" if whole >= 60 else f"{whole} s"


def sparkline(values: Sequence[float | None], columns: int, rows: int = 1) -> list[str]:
    """The last values, one a column, from 0 to their greatest; blank where nothing is known.

    Returns the rows from the top; a value that is known leaves a trace in the lowest.
    """
    shown = list(values)[-columns:]
    top = max((each for each in shown if each), default=0.0)
    steps = len(BARS) * rows
    heights = [
        0 if each is None else max(1, round(each / top * steps)) if top > 0 else 1 for each in shown
    ]
    drawn = []
    for row in range(rows - 1, -1, -1):
        floor = row * len(BARS)
        glyphs = [_bar(height - floor) for height in heights]
        drawn.append("".join(glyphs).rjust(columns))
    return drawn


def _bar(height: int) -> str:
    return " " if height <= 0 else BARS[min(height, len(BARS)) - 1]
