"""Processes of a loaded node are killed; what clients were told stays true."""

from __future__ import annotations

import os
import random
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import zmq
from running_node import IngestClient, RunningNode, prepare
from sites import site

from node.block import BlockHeader
from node.genesis import genesis_id, read_genesis
from node.params import BLOCK_HEADER_BYTES, ID_BYTES
from node.storage.chain import ChainStore

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


def answers_balance(node: RunningNode) -> None:
    """Taken in = answered + lost with an earlier life of net."""

    def balanced() -> bool:
        net = node.metrics("net")
        return bool(net["items_in"] == net["items_out"] + net["items_lost"])

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
    counters_balance(node)
    answers_balance(node)
    assert victim == "net" or node.metrics("net")["items_lost"] == 0
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


def announced(news: zmq.Socket[bytes], height: int) -> bytes:
    """The id of the block of this height, which is waited for."""
    while True:
        assert news.poll(30_000), "nothing is announced"
        _, body, _ = news.recv_multipart()
        if BlockHeader.decode(body[ID_BYTES : ID_BYTES + BLOCK_HEADER_BYTES]).height == height:
            return body[:ID_BYTES]


@pytest.mark.timeout(300)
def test_an_announced_block_stays_though_its_commit_was_killed(
    tmp_path: Path, workload: Path
) -> None:
    heard = tmp_path / "heard"
    node = RunningNode(tmp_path, workload)
    with site("dying_site", TIMED_DIES_AT="3", TIMED_DIES_WHEN=str(heard)):
        node.launch()
    try:
        node.wait_until(node.all_ready)
        with zmq.Context() as context, context.socket(zmq.SUB) as news:
            news.connect(node.notify)
            news.subscribe(b"finalised")
            some = ("--count", "6000", "--rate", "2000")
            load = node.load(*some, "--resubmit", "--answer-timeout", "3", *PATIENT)
            block_id = announced(news, 3)
            victim = node.pid("consensus")
            heard.touch()
            node.wait_until(heard.with_suffix(".died").exists)
            node.wait_until(lambda: node.pid("consensus") not in (None, victim))
        output, _ = load.communicate(timeout=200)
        assert load.returncode == 0, output + node.log.read_text()
        assert node.stop() == 0
    finally:
        node.end()
    assert '"block_finished"' in node.log.read_text()
    identity = genesis_id(read_genesis(workload / "genesis.json"))
    store = ChainStore(node.datadir / "store", identity)
    assert store.block_id(3) == block_id
    store.close()
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


def test_what_a_killed_consensus_held_is_counted_as_lost(tmp_path: Path, workload: Path) -> None:
    node = RunningNode(tmp_path, workload, block={"pace_ms": 60_000}).start()
    try:
        load = node.load("--count", "500", "--drain-timeout", "1")
        load.communicate(timeout=60)  # every answer is there
        held = node.metrics("consensus")
        assert held["mempool_items"] >= 400
        node.kill("consensus")
        consensus = node.metrics("consensus")
        assert consensus["mempool_admitted"] == held["mempool_admitted"]
        assert consensus["mempool_lost_at_restart"] == held["mempool_items"]
        counters_balance(node)
        load = node.load("--count", "500", "--drain-timeout", "1")
        load.communicate(timeout=60)
        again = node.metrics("consensus")["mempool_admitted"] - held["mempool_admitted"]
        assert again >= 400  # the same ones, which nobody had any more
        assert node.stop() == 0
        node.start()
        consensus = node.metrics("consensus")
        assert consensus["mempool_lost_at_restart"] == held["mempool_items"]  # as mempool.dat says
        counters_balance(node)
        assert node.stop() == 0
    finally:
        node.end()


def test_what_a_killed_net_had_not_answered_is_counted_as_lost(node: RunningNode) -> None:
    for kill in (1, 2):
        client = IngestClient(node.ingest)
        try:
            assert len(client.ask(b"answered", b"as well")) == 2
            net, consensus = node.pid("net"), node.pid("consensus")
            assert net is not None
            assert consensus is not None
            os.kill(consensus, signal.SIGSTOP)  # it answers nothing
            client.send([b"lost", b"too", b"and this"])
            node.wait_until(lambda kill=kill: node.metrics("net")["items_in"] == 5 * kill)
            os.kill(net, signal.SIGKILL)
            node.wait_until(lambda net=net: node.pid("net") not in (None, net))
            os.kill(consensus, signal.SIGCONT)
            node.wait_until(node.all_ready)
        finally:
            client.close()
        metrics = node.metrics("net")
        assert (metrics["items_out"], metrics["items_lost"]) == (2 * kill, 3 * kill)
    assert node.stop() == 0


def test_an_idle_node_stops_at_once(node: RunningNode) -> None:
    began = time.monotonic()
    assert node.stop() == 0
    assert time.monotonic() - began < 10
