"""Networks of four real validators on loopback, while they are killed, frozen and cut off."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from random import Random

import pytest
from devnet import Devnet, wait_until

from tools.devnet.load import Load

pytestmark = pytest.mark.timeout(240)
ALL = range(4)
PREVOTE = 2  # the metric `step`
BLOCKS = {"pace_ms": 100, "empty_pace_s": 1}
SEED = 5  # of the order in which nodes are killed
# Of a load whose node dies or is cut off meanwhile.
PATIENT = ("--resubmit", "--allow-shedding", "--answer-timeout", "3", "--drain-timeout", "60")


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


def figure(net: Devnet, number: int, name: str) -> int:
    """A metric of agreement on one node."""
    return int(net.metrics(number, "consensus")[name])


def repetitions(net: Devnet, *numbers: int) -> None:
    """Wait until these nodes have heard the same votes again and again."""

    def heard(number: int) -> int:
        metrics = net.metrics(number, "net")
        return int(metrics["peer_messages"] + metrics["peer_messages_old"])

    for number in numbers:
        before = heard(number)
        wait_until(lambda number=number, goal=before + 12: heard(number) >= goal, what="repeated")


def end(net: Devnet, least: int = 0) -> None:
    """Stop what runs; the chains must be one, whole, and worth what they should be, and nobody has
    contradicted himself.
    """
    net.stop()
    assert net.compare_chains() >= least
    net.check_value()
    net.judge_signatures()


def begun(net: Devnet, *numbers: int) -> None:
    """Wait until load has come to these nodes: it does not wait long for one that is dead."""
    for number in numbers:
        wait_until(
            lambda number=number: net.metrics(number, "net")["requests"],
            what=f"load on node {number}",
        )


def believed(load: Load) -> None:
    """Wait for the end of a load, in which every answer must have been right."""
    for report in load.reports(120):
        assert report.document is not None, report.line()
        assert not report.wrong, report.line()


def all_final(net: Devnet, *loads: Load) -> None:
    """Whatever was sent becomes final, and the nodes level; see `Devnet.judge_payments`."""
    for load in loads:
        believed(load)
    wait_until(lambda: len({net.height(number) for number in ALL}) == 1, what="all are level")


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
    with net.load(1_600, rate_per_s=150, options=PATIENT) as load:
        begun(net, *ALL)
        for victim in Random(SEED).sample(ALL, len(ALL)):
            others = [number for number in ALL if number != victim]
            net.wait_blocks(2)
            net.kill(victim)
            net.wait_blocks(2, *others)  # they go on, whoever it was
            net.start(victim)
            net.wait_height(max(net.height(number) for number in others), victim)
        all_final(net, load)
    end(net, least=16)
    net.judge_payments()


def frozen(net: Devnet, victim: int) -> list[int]:
    """Freeze a node until the others have noticed that it says nothing; returns these."""
    others = [number for number in ALL if number != victim]
    wait_until(lambda: figures(net, "validators_voting") == [4] * 4, what="all are heard of")
    failed = sum(figures(net, "rounds_failed"))
    net.freeze(victim)
    for number in others:
        wait_until(
            lambda number=number: net.metrics(number, "consensus")["validators_voting"] == 3,
            what=f"node {number} misses one",
        )
    assert sum(net.metrics(number, "consensus")["rounds_failed"] for number in others) > failed
    return others


def test_a_frozen_node_thaws_and_goes_on(net: Devnet) -> None:
    with net.load(400, 0, 1, 3, rate_per_s=30) as load:
        others = frozen(net, 2)
        net.thaw(2)
        net.wait_height(max(net.height(number) for number in others), 2)
        wait_until(lambda: figures(net, "validators_voting") == [4] * 4, what="it votes again")
        all_final(net, load)
    end(net, least=15)
    net.judge_payments()


@pytest.mark.long
def test_a_node_that_is_frozen_until_it_counts_as_gone_joins_again(net: Devnet) -> None:
    with net.load(1_500, 0, 1, 3, rate_per_s=30) as load:
        others = frozen(net, 2)
        for number in others:
            wait_until(
                lambda number=number: net.metrics(number, "net")["peers"] == 2,
                what=f"node {number} has given it up",
            )
        net.thaw(2)
        for number in ALL:
            wait_until(lambda number=number: net.metrics(number, "net")["peers"] == 3, what="peers")
        net.wait_height(max(net.height(number) for number in others), 2)
        wait_until(lambda: figures(net, "validators_voting") == [4] * 4, what="it votes again")
        all_final(net, load)
    end(net, least=100)
    net.judge_payments()


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


def test_all_killed_at_once(net: Devnet) -> None:
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
    with net.load(300, rate_per_s=40, options=PATIENT) as load:  # to both sides
        begun(net, *ALL)
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
        all_final(net, load)
    end(net)
    net.judge_payments()


def test_what_one_node_was_paid_alone_outlives_it(proxied: Devnet) -> None:
    net = proxied
    assert net.proxies is not None
    net.part(*[(number,) for number in ALL])
    wait_until(lambda: {net.metrics(n, "net")["peers"] for n in ALL} == {0}, what="all are alone")
    with net.load(150, 3):  # and nobody waits until they are final
        wait_until(lambda: figure(net, 3, "mempool_items") == 150, what="they are admitted")
    net.proxies.heal("0>3", "3>0")  # two are no quorum, and nobody proposes what is not heard of
    wait_until(lambda: figure(net, 0, "mempool_items") == 150, what="the other one has heard")
    assert figure(net, 3, "announced_again") >= 150
    net.kill(3)
    net.heal()
    wait_until(lambda: final_on(net, 0, 1, 2) == {150}, what="everything is final everywhere")
    net.start(3)
    wait_until(lambda: net.height(3) >= net.height(0), what="it is up to date")
    end(net)


def test_nothing_is_signed_while_blocks_are_lacking(proxied: Devnet) -> None:
    net = proxied
    assert net.proxies is not None
    net.kill(3)
    net.send(300, 0, 1, 2, rate_per_s=100)
    net.wait_height(18, 0)
    # One peer that takes 1 s to answer and is asked for four blocks at once: many seconds for all.
    net.part((1, 2), (3,))
    for name in ("0>3", "3>0"):
        net.proxies.delay(name, 500)
    net.start(3)
    wait_until(lambda: figure(net, 3, "behind"), what="it knows that it has missed blocks")
    signer = net.metrics(3, "sign")
    net.freeze(0)
    # Of the height above its tip nobody says anything: it wants a round to itself, and a nil vote.
    wait_until(lambda: figure(net, 3, "step") >= PREVOTE, what="it has something to sign")
    loops = net.metrics(3, "sign")["loops"]
    wait_until(lambda: net.metrics(3, "sign")["loops"] > loops + 1, what="a while")
    assert figure(net, 3, "behind") == 1
    assert net.metrics(3, "sign")["signatures"] == signer["signatures"]
    net.thaw(0)
    net.heal()
    wait_until(lambda: net.metrics(3, "sign")["signatures"] > signer["signatures"], what="it votes")
    net.wait_height(18, 3)
    end(net, least=18)
