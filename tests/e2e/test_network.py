"""Networks of four real validators on loopback, while they are killed, frozen and cut off."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from devnet import Devnet, wait_until

pytestmark = pytest.mark.timeout(240)
ALL = range(4)
BLOCKS = {"pace_ms": 100, "empty_pace_s": 1}


@pytest.fixture
def net(tmp_path: Path) -> Iterator[Devnet]:
    with Devnet(tmp_path, 4, transactions=4_000, block=BLOCKS) as devnet:
        devnet.start()
        yield devnet


@pytest.fixture
def proxied(tmp_path: Path) -> Iterator[Devnet]:
    with Devnet(tmp_path, 4, transactions=2_000, proxied=True, block=BLOCKS) as devnet:
        devnet.start()
        yield devnet


def final_on(net: Devnet, *numbers: int) -> set[int]:
    """How many payments are final, on each of these nodes."""
    return {net.metrics(number, "consensus")["items_out"] for number in numbers}


def figures(net: Devnet, name: str) -> list[int]:
    """A metric of agreement on every node."""
    return [int(net.metrics(number, "consensus")[name]) for number in ALL]


def repetitions(net: Devnet, *numbers: int) -> None:
    """Wait until these nodes have heard the same votes again and again."""

    def heard(number: int) -> int:
        metrics = net.metrics(number, "net")
        return int(metrics["peer_messages"] + metrics["peer_messages_old"])

    for number in numbers:
        before = heard(number)
        wait_until(lambda number=number, goal=before + 12: heard(number) >= goal, what="repeated")


def end(net: Devnet, least: int = 0) -> None:
    """Stop what runs; the chains must be one, whole, and worth what they should be."""
    net.stop()
    assert net.compare_chains() >= least
    net.check_value()


def test_a_payment_sent_to_any_node_is_final_on_all(net: Devnet) -> None:
    for number in ALL:
        net.send(100, number)
    wait_until(lambda: final_on(net, *ALL) == {400}, what="everything is final everywhere")
    assert {net.metrics(number, "net")["peers"] for number in ALL} == {3}
    wait_until(lambda: figures(net, "validators_voting") == [4] * 4, what="all are heard of")
    assert figures(net, "behind") == [0] * 4
    wait_until(lambda: min(figures(net, "peers_height")) >= 4, what="peers tell their heights")
    end(net, least=4)
    net.check(0)


def test_a_killed_node_catches_up_and_votes_again(net: Devnet) -> None:
    net.send(200, 0, 1, 2)
    net.kill(3)
    net.send(600, 0, 1, 2, rate_per_s=300)  # the others go on
    net.wait_blocks(5, 0, 1, 2)
    net.start(3)
    goal = net.height(0)
    net.wait_height(goal, 3)
    before = net.metrics(3, "sign")["signatures"]
    wait_until(lambda: net.metrics(3, "sign")["signatures"] > before, what="it votes")
    net.send(100, 3)
    wait_until(lambda: net.height(3) >= net.height(0), what="it is up to date")
    end(net, least=goal)
    net.check(3)


def test_nodes_that_are_killed_in_turn_lose_nothing(net: Devnet) -> None:
    with net.load(1_600, 0, rate_per_s=150) as load:
        for victim in (1, 2, 3, 1):
            net.wait_blocks(2, 0)
            net.kill(victim)
            net.start(victim)
            net.wait_height(net.height(0), victim)
        (report,) = load.reports(120)
    assert report.document is not None
    assert not report.wrong, report.line()
    wait_until(lambda: len({net.height(number) for number in ALL}) == 1, what="all are level")
    end(net, least=8)


def test_a_frozen_node_thaws_and_goes_on(net: Devnet) -> None:
    net.freeze(2)
    net.wait_blocks(15, 0, 1, 3)  # longer than every timeout
    net.thaw(2)
    net.wait_height(net.height(0), 2)
    net.wait_blocks(3)
    end(net, least=15)


def test_two_of_four_are_no_quorum_and_three_are(net: Devnet) -> None:
    net.send(100, 0)
    net.kill(2, 3)
    stuck = max(net.height(0), net.height(1)) + 1  # what was certain may still be committed
    repetitions(net, 0, 1)
    assert max(net.height(0), net.height(1)) <= stuck
    net.start(3)
    net.wait_blocks(3, 0, 1, 3)
    net.start(2)
    net.wait_blocks(3)
    end(net)


def test_all_at_once_without_power(net: Devnet) -> None:
    with net.load(1_000, 0, rate_per_s=500) as load:
        net.wait_blocks(3)
        net.kill(*ALL)
        load.reports(60)
    net.start()
    net.wait_blocks(3)
    end(net, least=6)
    net.check(0, 3)


def test_halves_decide_nothing_and_three_quarters_do(proxied: Devnet) -> None:
    net = proxied
    net.part((0, 1), (2, 3))
    stuck = max(net.height(number) for number in ALL) + 1
    repetitions(net, *ALL)
    assert max(net.height(number) for number in ALL) <= stuck
    net.heal()
    net.wait_blocks(3)
    net.swallow((0, 1, 2), (3,))
    net.wait_blocks(5, 0, 1, 2)
    net.heal()
    net.wait_height(net.height(0), 3)
    net.wait_blocks(3)
    end(net)
