"""Processes of a loaded node are killed; what clients were told stays true."""

from __future__ import annotations

import random
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from running_node import RunningNode, prepare

TRANSACTIONS = 24_000
PATIENT = ("--drain-timeout", "60")  # seconds without news: a restart is none


@pytest.fixture(scope="module")
def workload(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return prepare(
        tmp_path_factory.mktemp("crashes") / "workload",
        *("--transactions", str(TRANSACTIONS)),
        *("--kind", "mixed"),
        *("--outputs", "70000"),
        *("--bad-signatures", "0.02"),
        *("--double-spends", "0.02"),
        *("--seed", "crashes"),
    )


@pytest.fixture
def node(tmp_path: Path, workload: Path) -> Iterator[RunningNode]:
    node = RunningNode(tmp_path, workload, verify={"workers": 2}).start()
    yield node
    node.end()


def counters_balance(node: RunningNode) -> None:
    """Admitted = finalised + evicted + replaced + expired + conflicted + lost + pending."""

    def balanced() -> bool:
        consensus = node.metrics("consensus")
        left = sum(
            consensus[f"mempool_{name}"]
            for name in (
                "finalised",
                "evicted",
                "replaced",
                "expired",
                "conflicted",
                "lost_at_restart",
            )
        )
        return bool(consensus["mempool_admitted"] == left + consensus["mempool_items"])

    node.wait_until(balanced)


def finalised(node: RunningNode) -> int:
    return int(node.metrics("consensus")["items_out"])


def chain_is_sound(node: RunningNode) -> None:
    """`timed check --replay`: the output set equals a replay of the blocks."""
    done = node.check("--replay")
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.timeout(300)
def test_ten_kills_of_verifiers_lose_and_double_nothing(node: RunningNode) -> None:
    choice = random.Random(1)
    load = node.load("--rate", "1500", "--answer-timeout", "60")
    for kill in range(10):
        expected = (kill + 1) * TRANSACTIONS // 14
        node.wait_until(lambda expected=expected: finalised(node) >= expected)
        node.kill(choice.choice(["verify-0", "verify-1"]))
    output, _ = load.communicate(timeout=200)
    assert load.returncode == 0, output + node.log.read_text()
    counters_balance(node)
    net = node.metrics("net")
    verdicts = sum(value for name, value in net.items() if name.startswith("verdict_"))
    assert net["items_in"] == net["items_out"] == verdicts == TRANSACTIONS
    assert net["trays_redispatched"] >= 0
    assert node.stop() == 0
    chain_is_sound(node)


def heights_never_fall(node: RunningNode, seen: list[int]) -> None:
    height = int(node.metrics("consensus")["height"])
    assert not seen or height >= seen[-1]
    seen.append(height)


@pytest.mark.timeout(300)
@pytest.mark.parametrize("victim", ["net", "consensus", "sign"])
def test_the_chain_goes_on_when_a_stage_is_killed(node: RunningNode, victim: str) -> None:
    load = node.load("--rate", "2000", "--resubmit", "--answer-timeout", "3", *PATIENT)
    heights: list[int] = []
    for kill in range(3):
        expected = (kill + 1) * TRANSACTIONS // 6
        node.wait_until(lambda expected=expected: finalised(node) >= expected)
        heights_never_fall(node, heights)
        node.kill(victim)
        heights_never_fall(node, heights)
    output, _ = load.communicate(timeout=200)
    assert load.returncode == 0, output + node.log.read_text()
    assert node.stop() == 0
    chain_is_sound(node)


@pytest.mark.timeout(300)
def test_nothing_that_was_final_is_lost_when_everything_is_killed(node: RunningNode) -> None:
    load = node.load("--rate", "2000", "--resubmit", "--answer-timeout", "3", *PATIENT)
    for kill in range(2):
        expected = (kill + 1) * TRANSACTIONS // 5
        node.wait_until(lambda expected=expected: finalised(node) >= expected)
        height = int(node.metrics("consensus")["height"])
        node.kill_all()
        left = [path.name for path in (node.datadir / "run").iterdir() if not path.is_socket()]
        assert set(left) <= {"crew.lock", "peers.json"}  # nobody believes it: its writer is gone
        chain_is_sound(node)
        node.start()
        assert int(node.metrics("consensus")["height"]) >= height
    output, _ = load.communicate(timeout=200)
    assert load.returncode == 0, output + node.log.read_text()
    assert node.stop() == 0
    chain_is_sound(node)


def test_pending_transactions_survive_an_orderly_restart(tmp_path: Path, workload: Path) -> None:
    node = RunningNode(tmp_path, workload, block={"pace_ms": 60_000}).start()
    try:
        load = node.load("--count", "500", "--drain-timeout", "1")
        node.wait_until(lambda: node.metrics("consensus")["mempool_items"] >= 400)
        load.communicate(timeout=60)
        pending = node.metrics("consensus")["mempool_items"]
        assert node.stop() == 0
        node.start()
        node.wait_until(lambda: node.metrics("consensus")["mempool_items"] == pending)
        counters_balance(node)
        assert node.stop() == 0
    finally:
        node.end()


def test_an_idle_node_stops_at_once(node: RunningNode) -> None:
    began = time.monotonic()
    assert node.stop() == 0
    assert time.monotonic() - began < 10
