"""Networks of four real validators: one lies, or its clock is wrong, or half are newer; and hostile
peers.
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack
from itertools import pairwise
from pathlib import Path
from typing import Any

import psutil
import pytest
from devnet import Devnet, wait_until
from hostile_peers import CROWD, SQUATTERS, Attack
from sites import site

from node.consensus.messages import Proposal, Vote
from node.consensus.wire import decode
from node.exchange.judging import MAX_AHEAD_MS
from node.exchange.outbox import LIE
from node.genesis import genesis_id
from node.network.handshake import VERSION_MAX
from node.peers_file import read_peers
from node.storage.blockfile import BlockFiles
from node.storage.chain import ChainStore

pytestmark = pytest.mark.timeout(240)
HONEST = (0, 1, 2)
LIAR = 3
VICTIM = 0
MAX_INBOUND = 16
BLOCKS = {"pace_ms": 100, "empty_pace_s": 1}
MIB = 1 << 20


def long(*values: object) -> list[Any]:
    """Parameters that only `make soak` has time for."""
    return [pytest.param(value, marks=pytest.mark.long) for value in values]


@pytest.fixture
def net(tmp_path: Path) -> Iterator[Devnet]:
    """Not running yet."""
    network = {"max_inbound": MAX_INBOUND, "max_outbound": 0}
    with Devnet(tmp_path, 4, transactions=2_000, block=BLOCKS, network=network) as devnet:
        yield devnet


def launch_liar(net: Devnet, lies: str) -> None:
    with site("liar_site", TIMED_LIES=lies):
        net.launch(LIAR)
    wait_until(net.nodes[LIAR].ready, what="the liar is ready")


def events(net: Devnet, number: int, event: str) -> list[dict[str, Any]]:
    """What a node's log tells of one kind."""
    lines = net.places[number].log.read_text(errors="replace").splitlines()
    told = [json.loads(line) for line in lines if line.startswith("{")]
    return [each for each in told if each["event"] == event]


def evidence(net: Devnet, number: int) -> set[str]:
    """The kinds of message that a node has seen the liar contradict itself in."""
    kinds = set()
    for event in events(net, number, "misbehaviour"):
        assert event["validator"] == LIAR
        first, second = (decode(bytes.fromhex(each)) for each in event["evidence"])
        assert isinstance(first, Proposal | Vote)
        assert isinstance(second, Proposal | Vote)
        assert (first.height, first.round) == (second.height, second.round)
        assert first.value != second.value
        kinds.add(first.type.name if isinstance(first, Vote) else "PROPOSAL")
    return kinds


def check_it_lied(net: Devnet) -> None:
    """The process that lies must not have died of it: what then happened would prove nothing."""
    assert "this node lies" in net.places[LIAR].log.read_text(errors="replace")
    assert not events(net, LIAR, "process_died")


def end(net: Devnet, *numbers: int) -> None:
    """Stop these and kill the others; the chains of these must be one, and worth what they were."""
    net.stop(*numbers)
    net.close()
    assert net.compare_chains(*numbers)
    net.check_value(*numbers)


# -- liars -----------------------------------------------------------------------------------------


def test_who_contradicts_himself_is_found_out_by_all(net: Devnet) -> None:
    net.launch(*HONEST)
    launch_liar(net, "double")
    net.send(300, *HONEST)
    net.wait_blocks(6, *HONEST)
    for number in HONEST:
        wait_until(
            lambda number=number: len(evidence(net, number)) == 3,
            what=f"node {number} has evidence of every kind",
        )
        assert net.metrics(number, "consensus")["misbehaviour"] > 0
    net.wait_blocks(3, *HONEST)
    check_it_lied(net)
    end(net, *HONEST)


@pytest.mark.parametrize("lies", [*long("silent", "garbage", "invalid"), "garbage,invalid"])
def test_who_was_away_catches_up_in_spite_of_a_liar(net: Devnet, lies: str) -> None:
    net.start(0, 1, LIAR)
    net.send(300, 0, 1)
    net.wait_height(8, 0, 1, LIAR)
    net.stop(LIAR)
    launch_liar(net, lies)
    net.start(2)
    net.wait_height(net.height(0), 2)
    net.send(300, *HONEST)
    net.wait_blocks(8, *HONEST)
    for number in HONEST:
        assert not events(net, number, "misbehaviour")
    if lies in ("silent", "invalid"):
        assert net.metrics(0, "consensus")["rounds_failed"] > 0
    if "garbage" in lies:
        assert sum(net.metrics(number, "net")["peers_blamed"] for number in HONEST) > 0
    check_it_lied(net)
    end(net, *HONEST)


# -- clocks ----------------------------------------------------------------------------------------


def block_times_ms(net: Devnet, number: int) -> list[int]:
    """The times of a stopped node's blocks, in order."""
    place = net.places[number]
    identity = genesis_id(net.genesis)
    store = ChainStore(place.datadir / "store", identity)
    bodies = BlockFiles(place.datadir / "blocks", identity)
    try:
        heights = range(1, store.tip.height + 1)
        return [bodies.read(store.block_location(height)).header.time_ms for height in heights]
    finally:
        bodies.close()
        store.close()


@pytest.mark.parametrize("skew_s", [10, *long(-10, 60)])
def test_one_wrong_clock_stops_nobody(net: Devnet, skew_s: int) -> None:
    net.launch(*HONEST)
    with site("skew_site", TIMED_SKEW_S=str(skew_s)):
        net.launch(3)
    for node in net.nodes:
        wait_until(node.ready, what="ready")
    net.send(300)
    net.wait_blocks(8)  # the one with the wrong clock proposes, too
    for number in range(4):
        assert not events(net, number, "misbehaviour")
        assert not [each for each in events(net, number, "peer_blamed") if each["points"] >= LIE]
    failed = sum(net.metrics(number, "consensus")["rounds_failed"] for number in range(4))
    end(net, *range(4))
    times_ms = block_times_ms(net, 0)
    steps_ms = [later - earlier for earlier, later in pairwise(times_ms)]
    assert min(steps_ms) > 0, "times must grow"
    assert times_ms[-1] <= time.time() * 1000 + MAX_AHEAD_MS
    if skew_s * 1000 > MAX_AHEAD_MS:
        assert failed > 0  # nobody believes that clock
    else:
        assert 1 in steps_ms  # its block's time, or that of the one above, is the least possible


def test_two_protocol_versions_in_one_network(net: Devnet) -> None:
    newer = {2, 3}
    net.launch(0, 1)
    with site("later_site"):
        net.launch(*newer)
    for node in net.nodes:
        wait_until(node.ready, what="ready")
    for number in range(4):
        net.send(50, number)
    net.wait_blocks(5)
    spoken = {number: versions(net, number) for number in range(4)}
    for number in newer:
        assert spoken[number] == [VERSION_MAX, VERSION_MAX, VERSION_MAX + 1]
        assert net.metrics(number, "sign")["signatures"] > 0
    for number in (0, 1):
        assert spoken[number] == [VERSION_MAX] * 3
    end(net, *range(4))


def versions(net: Devnet, number: int) -> list[int]:
    """Of the protocol: what a node speaks with each of its peers."""
    spoken = {each["node"]: each["version"] for each in events(net, number, "peer_connected")}
    return sorted(spoken.values())


# -- hostile peers ---------------------------------------------------------------------------------

# What processes may need more than before, whatever peers do. The one with the sockets: the queues
# for trays (18 MiB); for each of MAX_INBOUND peers a frame of 2 MiB that has not arrived whole; for
# those that read nothing what they are owed, 12 MiB at the very most and here of one; frames on
# their way to consensus, and what the interpreter keeps. The one that decides: announced blocks
# (32 MiB), orphans and the pool (little, in so short a time), and frames on their way to it.
MAX_GROWTH_BYTES = {
    "net": (18 + MAX_INBOUND * 2 + 12 + 64) * MIB,
    "consensus": (32 + 32 + 64) * MIB,
}

# Each kind of harm, and what must have been done of it at least: an attack that never happened
# proves nothing.
LEAST = {
    "compacts": {"frames": 20},
    "crowd": {"connections": CROWD, "welcomes": MAX_INBOUND},
    "dribble": {"bytes": 500, "welcomes": 2},
    "flood": {"frames": 5_000, "peers": 2},
    "lengths": {"frames": 3},
    "phantoms": {"payments": 1_000},
    "replay": {"recorded": 10, "frames": 100},
}


SHORT = ("crowd", "phantoms")


def rss(net: Devnet, number: int, stage: str) -> int:
    """Resident bytes of a node's process."""
    supervisor = psutil.Process(net.nodes[number].pid)
    (process,) = (each for each in supervisor.children() if each.name() == f"timed-{stage}"[:15])
    return int(process.memory_info().rss)


@pytest.mark.parametrize("attack", [*SHORT, *long(*sorted(LEAST.keys() - set(SHORT)))])
def test_hostile_peers_harm_no_honest_one(net: Devnet, attack: str) -> None:
    net.start()
    net.send(200)
    wait_until(lambda: all(net.metrics(n, "net")["peers"] == 3 for n in range(4)), what="a mesh")
    dropped = [net.metrics(number, "net")["peers_dropped"] for number in range(4)]
    before = {stage: rss(net, VICTIM, stage) for stage in MAX_GROWTH_BYTES}
    heights = [net.height(number) for number in range(4)]
    target = net.places[VICTIM].peer
    most = dict(before)
    with Attack(attack, target, genesis_id(net.genesis), seconds=8) as villain:
        with net.load(400, rate_per_s=50) as load:
            while not villain.done():
                metrics = net.metrics(VICTIM, "net")
                assert 3 <= metrics["peers"] <= 3 + MAX_INBOUND
                for number in range(1, 4):
                    assert net.metrics(number, "net")["peers"] == 3
                for stage in most:
                    most[stage] = max(most[stage], rss(net, VICTIM, stage))
                time.sleep(0.2)
            for report in load.reports(60):
                assert report.document is not None, report.line()
                assert not report.wrong, report.line()
        counts = villain.counts()
    for what, least in LEAST[attack].items():
        assert counts.get(what, 0) >= least, counts
    for stage, limit in MAX_GROWTH_BYTES.items():
        growth = most[stage] - before[stage]
        assert growth <= limit, f"{growth / MIB:.0f} MiB more in {stage}"
    assert all(net.height(number) >= heights[number] + 5 for number in range(4))
    for number in range(1, 4):
        assert net.metrics(number, "net")["peers_dropped"] == dropped[number]
    for event in events(net, VICTIM, "address_banned"):
        assert not event["address"].startswith("127.0.0.1"), event
    for number in range(4):
        assert not events(net, number, "static_peer_misbehaves")
    wait_until(lambda: net.metrics(VICTIM, "net")["peers"] == 3, what="the villains are gone")
    end(net, *range(4))


def test_questions_of_strangers_do_not_keep_honest_answers_out(net: Devnet) -> None:
    net.start()
    net.send(100)
    wait_until(lambda: all(net.metrics(n, "net")["peers"] == 3 for n in range(4)), what="a mesh")
    target = net.places[VICTIM].peer
    with (
        Attack("flood", target, genesis_id(net.genesis), seconds=12) as villain,
        net.load(300, rate_per_s=25) as load,
    ):
        wait_until(villain.done, what="the flood is over")
        assert villain.counts()["peers"] > 1
        for report in load.reports(60):
            assert report.document is not None, report.line()
            assert not report.wrong, report.line()
    # Whoever is honest has sent every block that the victim asked for.
    assert not events(net, VICTIM, "peer_blamed")
    assert net.metrics(VICTIM, "net")["peers_blamed"] == 0
    end(net, *range(4))


# -- a validator that nobody lists -----------------------------------------------------------------

UNLISTED = 3
# Where no static peer is, so that it could be banned, and no attacker. Were it not protected, it
# would be the first to lose its slot: the youngest of the network with most peers.
ITS_ADDRESS = "127.1.1.1"


def shown(net: Devnet, number: int) -> dict[int, dict[str, Any]]:
    """What `timed peers` tells of a node's peers that have proven themselves, by validator."""
    command = [sys.executable, "-m", "node", "peers", "--json"]
    command += ["--datadir", str(net.places[number].datadir)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 0, done.stderr
    return {each["validator"]: each for each in json.loads(done.stdout)
            if each["validator"] is not None}  # fmt: skip


@pytest.mark.parametrize("attack", ["crowd", *long("flood", "phantoms")])
def test_a_validator_that_nobody_lists_keeps_its_place_in_a_crowd(
    tmp_path: Path, attack: str
) -> None:
    network = {"max_inbound": MAX_INBOUND, "max_outbound": 0}
    strangers = {UNLISTED: ITS_ADDRESS}
    with (
        Devnet(
            tmp_path, 4, transactions=1_000, strangers=strangers, block=BLOCKS, network=network
        ) as net,
        ExitStack() as stack,
    ):
        net.start(*HONEST)
        victim = net.places[VICTIM].peer
        stack.enter_context(Attack("squat", victim, genesis_id(net.genesis), 240))
        wait_until(
            lambda: net.metrics(VICTIM, "net")["peers"] == 2 + SQUATTERS, what="the squatters"
        )
        net.start(UNLISTED)
        wait_until(lambda: UNLISTED in shown(net, VICTIM), what="it has proven itself")
        before = shown(net, VICTIM)[UNLISTED]
        assert before["protected"]
        assert before["direction"] == "in"
        assert before["address"].startswith(f"{ITS_ADDRESS}:")
        with Attack("settle", victim, genesis_id(net.genesis), 240):
            wait_until(
                lambda: net.metrics(VICTIM, "net")["peers_dropped"] >= SQUATTERS - 1,
                what="the networks share the slots",
            )
            assert shown(net, VICTIM).get(UNLISTED, {}).get("number") == before["number"]
        signatures = net.metrics(UNLISTED, "sign")["signatures"]
        heights = [net.height(number) for number in range(4)]
        with (
            Attack(attack, victim, genesis_id(net.genesis), seconds=8) as villain,
            net.load(300, rate_per_s=40) as load,
        ):
            while not villain.done():
                seen = read_peers(net.places[VICTIM].datadir / "run")
                assert seen is not None
                (now,) = (each for each in seen.peers if each.validator == UNLISTED)
                assert now.number == before["number"], "it was connected anew"
                assert now.protected
                time.sleep(0.2)
            counts = villain.counts()
            for report in load.reports(60):
                assert report.document is not None, report.line()
                assert not report.wrong, report.line()
        for what, least in LEAST[attack].items():
            assert counts.get(what, 0) >= least, counts
        assert shown(net, VICTIM)[UNLISTED]["number"] == before["number"]
        for number in range(3):
            for event in events(net, number, "address_banned"):
                assert event["address"] != ITS_ADDRESS, event
        assert net.metrics(UNLISTED, "net")["peers_dropped"] == 0
        assert net.metrics(UNLISTED, "sign")["signatures"] > signatures
        assert all(net.height(number) >= heights[number] + 5 for number in range(4))
        end(net, *range(4))
