"""Frames drawn from recordings of a real node are as they were; and what holds for any frame."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC

import monitor_frames
import pytest
from monitor_frames import FRAMES, LARGE, SMALL
from monitor_world import World, remembered
from rich.cells import cell_len

from tools.monitor.frame import LEAST_COLUMNS, LEAST_ROWS, Size, compose, trimmed
from tools.monitor.ink import (
    amount,
    cell,
    clip,
    duration,
    ending,
    fit,
    milliseconds,
    plain,
    sparkline,
    whole_words,
    width,
)
from tools.monitor.keys import PANES, SORTS, Navigation
from tools.monitor.panes import arranged, quantile_pair
from tools.monitor.rates import Quantiles
from tools.monitor.view import NodeView, describe

DRAWN = dict(monitor_frames.frames())
AGAIN = "run `python tests/support/monitor_frames.py` and look at what changes"


@pytest.mark.parametrize("name", DRAWN)
def test_a_recording_looks_as_it_did(name: str) -> None:
    assert (FRAMES / name).read_text(encoding="utf-8") == DRAWN[name], AGAIN


def test_no_frame_is_left_over() -> None:
    kept = {path.name for path in FRAMES.iterdir() if path.suffix in (".txt", ".ansi")}
    assert kept == set(DRAWN), AGAIN


def test_without_colour_nothing_is_said_less() -> None:
    for name in DRAWN:
        if name.endswith(".ansi"):
            assert "\x1b[" in DRAWN[name]
            assert "\x1b[" not in DRAWN[name.replace(".ansi", ".txt")]


def test_ascii_is_ascii() -> None:
    assert DRAWN["ascii-80x24.txt"].isascii()


def made_up() -> NodeView:
    world = World()
    memory = remembered(world.look())
    for second in range(5):
        world.now_s += 1
        for stage, index in world.keys:
            world.spend(stage, 1.0, 0.1 * second, index)
            world.add(stage, "items_in", 10**second, index)
        memory.observe(world.look())
    return describe(memory)


@pytest.mark.parametrize("pane", PANES)
@pytest.mark.parametrize("size", [SMALL, LARGE, Size(LEAST_COLUMNS, LEAST_ROWS), Size(93, 31)])
def test_a_frame_fills_the_terminal_exactly(pane: str, size: Size) -> None:
    gone = describe(remembered(World().absent("a reason " * 30)))
    for views in ([made_up()], [made_up(), gone], [gone, made_up()]):
        for state in (Navigation(pane=pane), Navigation(pane=pane, help=True, offset=10**6)):
            lines = compose(views, state, size, UTC)
            assert len(lines) == size.rows
            assert {width(line) for line in lines} == {size.columns}


def test_a_terminal_that_is_too_small_is_told_so() -> None:
    for size in (Size(LEAST_COLUMNS - 1, 40), Size(100, LEAST_ROWS - 1), Size(3, 1)):
        lines = compose([made_up()], Navigation(), size, UTC)
        assert len(lines) == size.rows
        assert plain(lines[0]).startswith("too small"[: size.columns])


def test_a_supervisor_that_does_not_answer_is_told() -> None:
    view = made_up()
    for age_s, told in ((1.2, False), (75.0, True)):
        (first, *_) = trimmed(
            compose([replace(view, status_age_s=age_s)], Navigation(), SMALL, UTC)
        )
        assert ("supervisor silent for 1 min 15 s  running" in first) == told


def test_columns_do_not_jump_when_figures_change() -> None:
    """Where words stand in one frame, they stand in the next."""
    small, large = made_up(), made_up()
    at = small.agreement
    assert at is not None
    rows = tuple(
        replace(row, in_per_s=9_999_999.0, out_per_s=None, restarts=999, memory_mb=99_999)
        for row in large.rows
    )
    grown = replace(at, height=99_999_999, round=12, step="precommit", mempool=1_000_000)
    large = replace(large, agreement=grown, rows=rows)
    for size in (SMALL, LARGE):
        frames = [trimmed(compose([v], Navigation(), size, UTC)) for v in (small, large)]
        for word in ("round", "peers", "finality", "MiB", "died", "in/s"):
            places = [[line.index(word) for line in frame if word in line][:1] for frame in frames]
            assert places[0] == places[1], word


def test_sorting() -> None:
    rows = made_up().rows
    rows = (replace(rows[0], in_per_s=5.0, memory_mb=1), replace(rows[1], restarts=3), *rows[2:])

    def labels(**chosen: object) -> list[str]:
        return [row.label for row in arranged(rows, Navigation(**chosen))]  # type: ignore[arg-type]

    assert labels() == ["gate", "mill-0", "mill-1", "vault", "clerk"]
    assert labels(backwards=True) == labels()[::-1]
    assert labels(sort="name") == sorted(labels())
    assert labels(sort="restarts")[0] == "mill-0"
    assert labels(sort="in")[-1] == "gate"
    assert labels(sort="memory")[-1] == "gate"
    assert all(sorted(labels(sort=sort)) == sorted(labels()) for sort in SORTS)


def test_lists_scroll_and_say_where_they_are() -> None:
    view = made_up()
    first = trimmed(compose([view], Navigation(pane="metrics"), SMALL, UTC))
    later = trimmed(compose([view], Navigation(pane="metrics", offset=5), SMALL, UTC))
    assert "1 to 18 of" in first[3]
    assert "6 to 23 of" in later[3]
    assert later[5:20] == first[10:23] + later[18:20]


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (None, "-"),
        (0, "0"),
        (0.04, "0.0"),
        (9.94, "9.9"),
        (9.96, "10"),
        (99_999, "99,999"),
        (100_000, "100k"),
        (9_999_499, "9,999k"),
        (9_999_999, "10.0M"),
        (1e12, "1,000G"),
    ],
)
def test_amounts_fit_seven_columns(value: float | None, text: str) -> None:
    assert amount(value) == text
    assert len(text) <= 7


def test_times_and_durations() -> None:
    told = [milliseconds(each) for each in (None, 0.2, 1.25, 99.94, 100, 30_000)]
    assert told == ["-", "0.20", "1.2", "99.9", "100", "30,000"]
    spans = [duration(each) for each in (None, 3.9, 62, 3_720, 90_000)]
    assert spans == ["-", "3 s", "1 min 2 s", "1 h 2 min", "1 d 1 h"]
    assert quantile_pair(None) == "-"
    assert quantile_pair(Quantiles(5, 1.5, None, 30.0)) == "1.5/30.0+"


def test_sparklines() -> None:
    assert sparkline([], 4) == ["    "]
    assert sparkline([0, None, 4, 8], 5) == [" ▁ ▄█"]
    assert sparkline([1, 8, 16], 3, rows=2) == [" ▁█".replace("▁", " "), "▁██"]
    assert sparkline([0, 0], 2) == ["▁▁"]
    assert sparkline(list(range(100)), 3)[0][-1] == "█"


def test_what_is_cut_off_is_told() -> None:
    line = [("一 two", "bold"), (" three   ", "")]
    assert plain(clip(line, 12)) == "一 two three"
    assert plain(clip(line, 11)) == "一 two thr…"
    assert plain(clip(line, 14)) == "一 two three  "
    assert whole_words("one two three", 13) == "one two three"
    assert whole_words("one two three", 12) == "one two …"


def test_of_a_long_name_the_end_is_shown() -> None:
    assert ending("node-0/data", 11) == "node-0/data"
    assert ending("/net/node-0/data", 11) == "…ode-0/data"
    views = [replace(made_up(), name=f"/srv/a/long/way/down/node-{n}/data") for n in range(2)]
    frame = trimmed(compose(views, Navigation(pane="nodes"), SMALL, UTC))
    assert frame[0].split()[2].endswith("/node-0/data")
    assert ["0/data" in frame[5], "1/data" in frame[6]] == [True, True]


def test_a_meaning_is_left_out_rather_than_cut_to_a_word() -> None:
    small, large = (
        trimmed(compose([made_up()], Navigation(pane="metrics"), size, UTC))
        for size in (SMALL, LARGE)
    )
    assert small[4].endswith("a second")
    assert large[4].endswith("meaning")


def test_cells_are_as_wide_as_they_say() -> None:
    for text in ("", "abc", "a long text", "日本語の名前"):
        for columns in (1, 4, 9):
            for right in (False, True):
                assert cell_len(cell(text, columns, right=right)[0]) == columns
            assert width(fit([(text, ""), (text, "bold")], columns)) == columns
