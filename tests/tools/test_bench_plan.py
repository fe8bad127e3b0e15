"""What is chosen, how much of it is sent, and what needs what."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import pytest

from tools.bench.errors import BenchError
from tools.bench.figures import BY_KEY
from tools.bench.plan import (
    COST_KEYS,
    QUICK,
    SUBJECTS,
    BackendName,
    Measure,
    Scale,
    Subject,
    WorkloadNeed,
    choose,
    estimate_s,
    main_subject,
    need,
    needs,
    size,
)

BOTH: Sequence[BackendName] = ("avx512", "nacl")
SLOW: Sequence[BackendName] = ("nacl",)


def names(*only: str, backends: Sequence[BackendName] = BOTH) -> list[str]:
    return [subject.name for subject in choose(only, backends)]


def test_every_declared_figure_is_measured_by_somebody() -> None:
    given = {key for subject in SUBJECTS for key in subject.keys} | set(COST_KEYS)
    assert given | {"raw.nacl_per_s", "raw.mb8_per_s", "raw.fsync_ms"} == BY_KEY.keys()


def test_without_patterns_everything_is_measured_in_the_declared_order() -> None:
    assert names() == [subject.name for subject in SUBJECTS]


def test_patterns_match_keys_and_names() -> None:
    assert names("node.4in.*.sigs_vs_raw") == ["4in.avx512", "4in.nacl"]
    assert names("idle") == ["idle"]
    assert names("mem.pss_mb") == ["1in.avx512"]


def test_fractions_of_a_rate_bring_its_subject_along() -> None:
    assert names("final.p99_ms") == ["1in.avx512", "finality"]
    assert names("net.lag_*", backends=SLOW) == ["1in.nacl", "overload"]


def test_without_avx512_what_needs_it_is_left_out() -> None:
    assert names(backends=SLOW) == [
        *("1in.nacl", "4in.nacl", "overload", "finality", "idle", "core")
    ]
    assert main_subject(SLOW).name == "1in.nacl"


def test_a_pattern_that_matches_nothing_says_what_would() -> None:
    with pytest.raises(BenchError, match=r"1in\.avx512"):
        choose(["final.p999"], BOTH)


@pytest.mark.parametrize("subject", SUBJECTS, ids=lambda subject: subject.name)
@pytest.mark.parametrize("scale", [Scale(), QUICK], ids=["full", "quick"])
def test_workloads_hold_enough_and_are_funded(subject: Subject, scale: Scale) -> None:
    needed = need(subject, scale, BOTH)
    assert needed.transactions >= scale.transactions
    assert needed.outputs >= needed.transactions * needed.inputs
    assert needed.outputs >= scale.outputs
    assert needed.transactions >= scale.idle_transactions


def test_subjects_of_one_kind_share_a_workload() -> None:
    found_needs: dict[str, WorkloadNeed] = {}
    for subject in SUBJECTS:
        found = need(subject, Scale(), BOTH)
        assert found_needs.setdefault(found.name, found) == found
    assert found_needs.keys() == {"1in", "4in", "1in-large"}
    assert found_needs["1in"].outputs == 1_000_000
    assert found_needs["1in-large"].outputs == 5_000_000


def test_a_round_has_the_transactions_and_lasts_the_seconds() -> None:
    scale = Scale(seconds=10, transactions=300_000)
    assert size(scale, 1_000, 10**6) == 300_000
    assert size(scale, 50_000, 10**6) >= 500_000
    assert size(scale, 500_000, 10**6) == 10**6  # no more than there are


def test_the_full_run_on_two_cores_stays_below_25_minutes() -> None:
    assert estimate_s(choose((), BOTH), Scale(), BOTH, raw_per_s=27_000) < 25 * 60


@pytest.mark.parametrize(
    "bad",
    [
        lambda: Scale(rounds=0),
        lambda: Scale(seconds=0),
        lambda: Scale(transactions=10**9),
    ],
)
def test_impossible_scales_are_refused(bad: Callable[[], Scale]) -> None:
    with pytest.raises(BenchError, match="impossible"):
        bad()


def test_the_measures_are_all_used() -> None:
    assert {subject.measure for subject in SUBJECTS} == set(Measure)


def test_the_core_alone_needs_no_workload() -> None:
    assert needs(choose(["core.*"], BOTH), Scale(), BOTH) == {}
    assert needs(choose((), BOTH), Scale(), BOTH).keys() == {"1in", "4in", "1in-large"}
