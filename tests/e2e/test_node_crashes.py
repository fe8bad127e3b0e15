"""Processes of a loaded node are killed; what clients were told stays true."""

from __future__ import annotations

import os
import random
import signal
import time
from collections.abc import Iterator
from contextlib import suppress
from itertools import accumulate
from pathlib import Path
from statistics import median

import psutil
import pytest
import zmq
from running_node import IngestClient, RunningNode, prepare
from sites import site

from node.block import BlockHeader
from node.genesis import genesis_id, read_genesis
from node.params import BLOCK_HEADER_BYTES, ID_BYTES
from node.storage.chain import ChainStore

TRANSACTIONS = 24_000
ENDLESS = 250_000  # transactions; two verifiers with PyNaCl take longer for them than a test lasts
MEASURED_S = 4.0  # of load without kills, before and after
VERIFIERS = ("verify-0", "verify-1")
TRAY_SEGMENTS = {f"/memfd:{name}" for name in ("input", "verdict-0", "verdict-1", "admission")}
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


@pytest.fixture(scope="module")
def endless(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return prepare(
        tmp_path_factory.mktemp("crashes") / "endless",
        *("--transactions", str(ENDLESS)),
        *("--kind", "mixed"),
        *("--bad-signatures", "0.02"),
        *("--double-spends", "0.02"),
        *("--seed", "kills"),
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


def let_pass(node: RunningNode, seconds: float) -> None:
    """Let the load go on for so long."""
    until = time.monotonic() + seconds
    node.wait_until(lambda: time.monotonic() >= until)


def grown(node: RunningNode) -> int:
    """How many become final within MEASURED_S of the load."""
    before = finalised(node)
    let_pass(node, MEASURED_S)
    return finalised(node) - before


def rates(node: RunningNode, first: int, last: int) -> tuple[float, float]:
    """What became final a second, before `first` were final and, at its best, after `last`.

    Medians of whole seconds: of all but the first, and of the best three in a row.
    """
    per_s: list[int] = node.report()["samples"]["finalised_per_s"]
    reached = list(accumulate(per_s))
    before = [n for n, total in zip(per_s, reached, strict=True) if total <= first]
    after = [n for n, total in zip(per_s, reached, strict=True) if total - n >= last]
    return median(before[1:]), max(median(after[n : n + 3]) for n in range(len(after) - 2))


@pytest.mark.timeout(300)
def test_ten_kills_of_verifiers_lose_and_double_nothing(tmp_path: Path, endless: Path) -> None:
    choice = random.Random(1)
    killed: set[int] = set()
    node = RunningNode(tmp_path, endless, verify={"workers": 2, "backend": "nacl"}).start()

    def living(name: str) -> int | None:
        """The process of this name, once it is ready."""
        for each in node.status()["processes"]:
            if each["name"] == name and each["state"] == "ready" and each["pid"] not in killed:
                return int(each["pid"])
        return None

    try:
        load = node.load("--answer-timeout", "60", *PATIENT)
        node.wait_until(lambda: finalised(node) > 0)
        undisturbed = grown(node)
        first = finalised(node)
        for _ in range(10):
            let_pass(node, choice.uniform(0.05, 0.5))
            victim = choice.choice(VERIFIERS)
            node.wait_until(lambda victim=victim: living(victim) is not None)
            pid = living(victim)
            assert pid is not None
            os.kill(pid, signal.SIGKILL)
            killed.add(pid)
        node.wait_until(lambda: all(map(living, VERIFIERS)))
        last = finalised(node)
        node.wait_until(lambda: grown(node) >= undisturbed / 2)
        assert load.poll() is None, "the load ended before it was stopped"
        load.send_signal(signal.SIGINT)  # it sends no more, and waits for what it sent
        output, _ = load.communicate(timeout=200)
        assert load.returncode == 0, output + node.log.read_text()
        counters_balance(node)
        net = node.metrics("net")
        verdicts = sum(value for name, value in net.items() if name.startswith("verdict_"))
        assert net["items_in"] == net["items_out"] == verdicts == node.report()["counts"]["sent"]
        assert net["trays_redispatched"] > 0
        before, after = rates(node, first, last)
        assert after >= before / 2
        assert node.stop() == 0
    finally:
        node.end()
    chain_is_sound(node)


Segment = tuple[str, int]  # a name and an inode


def mapped(pid: int) -> list[Segment]:
    """The segments of memory that a process maps, one entry for each mapping."""
    lines = Path(f"/proc/{pid}/maps").read_text().splitlines()
    return [(each.split()[5], int(each.split()[4])) for each in lines if "/memfd:" in each]


def held(pid: int) -> set[Segment]:
    """The segments of memory that a process has descriptors of."""
    found = set()
    for each in Path(f"/proc/{pid}/fd").iterdir():
        with suppress(FileNotFoundError):  # closed meanwhile
            name = os.readlink(each)
            if "/memfd:" in name:
                found.add((name.split()[0], each.stat().st_ino))
    return found


def holders(segments: set[Segment]) -> list[int]:
    """Processes of this machine that map one of these segments, or have a descriptor of it."""
    found = []
    for pid in psutil.pids():
        with suppress(OSError):  # it ended meanwhile, or is another user's
            if segments & (set(mapped(pid)) | held(pid)):
                found.append(pid)
    return found


def test_nothing_is_left_behind_by_killed_sockets_nor_by_a_stop(node: RunningNode) -> None:
    assert node.process is not None
    supervisor = node.process.pid
    seen: set[Segment] = set()

    def current() -> set[Segment]:
        """The segments of trays that the supervisor gives to who starts now."""
        return {each for each in held(supervisor) if each[0] in TRAY_SEGMENTS}

    def tidy() -> bool:
        """Every process has its metrics and the current epoch's trays, each mapped once."""
        for each in node.status()["processes"]:
            metrics = {
                one for one in held(supervisor) if one[0] == f"/memfd:metrics-{each['name']}"
            }
            expected = current() | metrics
            seen.update(expected)
            if sorted(mapped(each["pid"])) != sorted(expected) or held(each["pid"]) != expected:
                return False
        return True

    load = node.load("--rate", "4000", "--resubmit", "--answer-timeout", "3", *PATIENT)
    for kill in range(2):
        expected = (kill + 1) * TRANSACTIONS // 5
        node.wait_until(lambda expected=expected: finalised(node) >= expected)
        former = current()
        assert {name for name, _ in former} == TRAY_SEGMENTS
        assert holders(former)
        node.kill("net")
        assert not former & current()
        node.wait_until(tidy)
        assert not holders(former)
    output, _ = load.communicate(timeout=200)
    assert load.returncode == 0, output + node.log.read_text()
    family = psutil.Process(supervisor).children(recursive=True)
    assert len(family) >= len(node.status()["processes"])
    assert node.stop() == 0
    assert not [process for process in family if process.is_running()]
    assert not holders(seen)
    assert [path.name for path in (node.datadir / "run").iterdir()] == ["crew.lock"]


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
