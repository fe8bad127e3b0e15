"""What differences of samples say."""

from __future__ import annotations

from typing import Any

import pytest

from tools.bench.errors import BenchFailed
from tools.bench.samples import Sample, cpu_percent, cpu_us_per_tx, lag, loaded

MS = 1_000_000
BOUNDS = [1 * MS, 2 * MS, 5 * MS]


def histogram(*buckets: int) -> dict[str, Any]:
    return {"bounds": BOUNDS, "buckets": list(buckets), "count": sum(buckets), "sum": 0}


def sample(
    at_ms: int = 0,
    *,
    taken: int = 0,
    final: int = 0,
    signatures: int = 0,
    cpu_us: dict[str, int] | None = None,
    gaps: tuple[int, ...] = (0, 0, 0, 0),
    worst_ns: int = 0,
) -> Sample:
    common = {"loop_gap": histogram(*gaps), "lag_max_ns": worst_ns}
    return Sample(
        at_ns=at_ms * MS,
        cpu_ns={name: us * 1_000 for name, us in (cpu_us or {}).items()},
        stages={
            ("net", 0): {"items_in": taken, "items_out": taken, **common},
            ("verify", 0): {"items_in": taken, "items_out": taken - taken // 3, **common},
            ("verify", 1): {"items_in": taken, "items_out": taken // 3, **common},
            ("consensus", 0): {"items_in": taken, "items_out": final, **common},
            ("sign", 0): {"items_in": signatures, "items_out": signatures, **common},
            ("rpc", 0): {"items_in": 0, "items_out": 0, **common},
        },
    )


def test_the_loaded_interval_is_from_the_last_quiet_sample_to_the_first_settled_one() -> None:
    samples = [
        sample(0, taken=5, final=5),
        sample(1, taken=5, final=5),
        sample(2, taken=8, final=5),
        sample(3, taken=9, final=7),
        sample(4, taken=9, final=9),
        sample(5, taken=9, final=9),
    ]
    assert [one.at_ns // MS for one in loaded(samples)] == [1, 2, 3, 4]


def test_samples_without_a_load_are_refused() -> None:
    with pytest.raises(BenchFailed, match="no load"):
        loaded([sample(0), sample(1)])


def test_cpu_per_transaction_adds_instances_and_helpers_up() -> None:
    names = ("net", "verify-0", "verify-1", "consensus", "sign", "rpc", "supervisor")
    first = sample(taken=50, final=0, cpu_us=dict.fromkeys((*names, "supervisor-0"), 1_000))
    last = sample(
        taken=150,
        final=80,  # what a stage itself passed on divides nothing: all are of one load
        signatures=3,
        cpu_us={
            "net": 1_100,
            "verify-0": 1_300,
            "verify-1": 1_200,
            "consensus": 1_800,
            "sign": 1_020,
            "rpc": 1_001,
            "supervisor": 1_010,
            "supervisor-0": 1_040,
        },
    )
    assert cpu_us_per_tx(first, last) == pytest.approx(
        {"net": 1, "verify": 5, "consensus": 8, "sign": 0.2, "rpc": 0.01, "supervisor": 0.5}
    )


def test_without_transactions_there_is_no_cost_of_one() -> None:
    first = sample(taken=50, final=50, cpu_us={"net": 1_000})
    last = sample(taken=50, final=50, signatures=9, cpu_us={"net": 2_000})
    assert cpu_us_per_tx(first, last) == {}


def test_cpu_percent_is_of_one_core() -> None:
    first = sample(1_000, cpu_us={"net": 0, "consensus": 500})
    last = sample(11_000, cpu_us={"net": 20_000, "consensus": 30_500})
    assert cpu_percent(first, last) == pytest.approx(0.5)


def test_lag_counts_only_what_happened_in_between() -> None:
    first = sample(gaps=(5, 0, 0, 9), worst_ns=90 * MS)  # a bad start, before the interval
    last = sample(gaps=(104, 1, 0, 9), worst_ns=90 * MS)
    found = lag(first, last, "net")
    assert found.p99_ms == 1.0
    assert found.max_ms == 2.0  # the bound of the highest bucket in use, not the old worst


def test_lag_is_exact_when_the_worst_grew() -> None:
    found = lag(
        sample(gaps=(1, 0, 0, 0), worst_ns=500_000),
        sample(gaps=(1, 9, 0, 1), worst_ns=7_500_000),
        "net",
    )
    assert found == (type(found))(p99_ms=7.5, max_ms=7.5)


def test_lag_above_all_bounds_is_never_more_than_the_worst_ever_seen() -> None:
    found = lag(
        sample(gaps=(0, 0, 0, 1), worst_ns=9 * MS),
        sample(gaps=(0, 0, 0, 2), worst_ns=9 * MS),
        "net",
    )
    assert found.max_ms == 9.0


def test_a_loop_that_was_never_looked_at_has_no_lag() -> None:
    with pytest.raises(BenchFailed, match="never looked at"):
        lag(sample(gaps=(3, 0, 0, 0)), sample(gaps=(3, 0, 0, 0)), "net")
