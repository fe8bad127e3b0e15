"""The declaration of figures, and what becomes of the values of the rounds."""

from __future__ import annotations

import io

import pytest
from rich.console import Console

from tools.bench.figures import BY_KEY, FIGURES, Standing, medians, number, table, targets

ASKED = {
    # key: (floor, aim, higher is better), as the project's targets have them
    "node.1in.avx512.vs_raw": (1.0, 1.6, True),
    "node.1in.nacl.vs_raw": (0.60, 0.75, True),
    "node.4in.avx512.sigs_vs_raw": (2.0, 3.0, True),
    "net.cpu_us_per_tx": (2, 1, False),
    "net.lag_p99_ms": (5, 2, False),
    "net.lag_max_ms": (50, 20, False),
    "idle.verdict_overhead_p50_ms": (1.0, 0.3, False),
    "final.p50_ms": (200, 120, False),
    "final.p99_ms": (500, 250, False),
    "core.us_per_vote_100": (30, 10, False),
    "mem.pss_mb": (512, 350, False),
    "idle.cpu_percent": (2, 0.5, False),
    "node.1in.avx512.vs_raw_5m": (0.8, 1.4, True),
}


def test_every_target_is_declared_and_no_other() -> None:
    declared = {
        figure.key: (figure.floor, figure.aim, figure.better == "higher")
        for figure in FIGURES
        if figure.floor is not None or figure.aim is not None
    }
    assert declared == ASKED


@pytest.mark.parametrize(
    ("key", "value", "standing"),
    [
        ("node.1in.avx512.vs_raw", 1.6, Standing.AIM),
        ("node.1in.avx512.vs_raw", 1.59, Standing.FLOOR),
        ("node.1in.avx512.vs_raw", 0.99, Standing.MISSED),
        ("net.lag_p99_ms", 2.0, Standing.AIM),
        ("net.lag_p99_ms", 2.1, Standing.FLOOR),
        ("net.lag_p99_ms", 5.1, Standing.MISSED),
        ("raw.nacl_per_s", 1.0, Standing.NONE),
    ],
)
def test_a_value_stands_beside_floor_and_aim(key: str, value: float, standing: Standing) -> None:
    assert BY_KEY[key].standing(value) is standing


def test_figures_are_medians_of_the_rounds_that_have_them() -> None:
    rounds = [
        {"final.p50_ms": 3.0, "mem.pss_mb": 200.0},
        {"final.p50_ms": 1.0},
        {"final.p50_ms": 2.0, "mem.pss_mb": 300.0},
    ]
    found = medians(rounds)
    assert found == {"final.p50_ms": 2.0, "mem.pss_mb": 250.0}
    assert list(found) == [key for key in BY_KEY if key in found]  # in the order of declaration


def test_a_figure_that_is_not_declared_is_a_mistake() -> None:
    with pytest.raises(KeyError):
        medians([{"final.p51_ms": 1.0}])


def test_the_table_shows_median_range_floor_and_standing() -> None:
    rounds = [{"net.lag_p99_ms": 1.0}, {"net.lag_p99_ms": 7.0}, {"net.lag_p99_ms": 6.0}]
    console = Console(width=200, record=True, file=io.StringIO())
    console.print(table(medians(rounds), rounds, "title"))
    line = next(line for line in console.export_text().splitlines() if "net.lag_p99_ms" in line)
    cells = [cell.strip() for cell in line.strip("│ ").split("│")]
    assert cells[1:7] == ["6.00", "1.00 .. 7.00", "ms", "5.00", "2.00", "BELOW FLOOR"]


def test_targets_say_what_was_not_measured() -> None:
    found = targets({"mem.pss_mb": 400.0})
    assert found.keys() == ASKED.keys()
    assert found["mem.pss_mb"]["standing"] == "floor met"
    assert found["final.p50_ms"]["value"] is None
    assert found["final.p50_ms"]["standing"] == "not measured"


def test_numbers_show_the_digits_that_count() -> None:
    assert [number(v) for v in (81_234.5, 100, 42.42, 1.234, 0.0)] == [
        "81,234",
        "100",
        "42.4",
        "1.23",
        "0.00",
    ]
