"""Networks of real nodes, as the tests use them: every way of stopping one, every comparison."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import psutil
import pytest
from devnet import Devnet, compare_chains

from node.config import parse
from tools.devnet.nodes import Node


@pytest.fixture
def alone(tmp_path: Path) -> Iterator[Devnet]:
    with Devnet(tmp_path / "net", 1) as net:
        yield net


def everything(node: Node) -> list[psutil.Process]:
    supervisor = psutil.Process(node.pid)
    return [supervisor, *supervisor.children(recursive=True)]


def at_work(processes: list[psutil.Process]) -> list[psutil.Process]:
    """Those that still run; whoever adopted a dead one may not have noticed yet."""
    found = []
    for process in processes:
        with suppress(psutil.NoSuchProcess):
            if process.is_running() and process.status() != psutil.STATUS_ZOMBIE:
                found.append(process)
    return found


def test_a_node_is_loaded_stopped_and_its_value_is_conserved(alone: Devnet) -> None:
    alone.start()
    (report,) = alone.send(300)
    assert report.document is not None
    assert report.document["counts"]["finalised"] == 300
    alone.wait_height(1)
    assert alone.metrics(0, "consensus")["items_out"] == 300
    alone.stop()
    assert alone.compare_chains() >= 1
    alone.check_value()
    alone.check()
    alone.judge_payments()
    alone._sent += 1  # as if one had been sent that is nowhere
    with pytest.raises(AssertionError, match=r"1 payments are not final on node-0: \[300\]"):
        alone.judge_payments()


def test_signatures_are_compared_and_accusations_found(alone: Devnet) -> None:
    alone.start()
    alone.send(50)  # without any, a block is long in coming
    alone.wait_height(1)
    alone.stop()
    assert alone.judge_signatures() >= 1
    with alone.places[0].log.open("a") as log:
        log.write('{"event": "misbehaviour", "validator": 0}\n')
    with pytest.raises(AssertionError, match="node-0 accuses an honest one"):
        alone.judge_signatures()


def test_a_killed_node_is_gone_and_goes_on_when_started_again(alone: Devnet) -> None:
    alone.start()
    alone.send(100)
    height = alone.height(0)
    processes = everything(alone.nodes[0])
    assert len(processes) >= 4
    alone.kill(0)
    assert at_work(processes) == []
    alone.start(0)
    assert alone.height(0) >= height
    alone.send(100)  # the next ones
    alone.stop()
    alone.check_value()


def test_a_frozen_node_does_nothing_until_it_is_thawed(alone: Devnet) -> None:
    alone.start()
    alone.send(50)
    alone.freeze(0)
    assert {each.status() for each in everything(alone.nodes[0])} == {psutil.STATUS_STOPPED}
    assert alone.nodes[0].status() is None
    alone.thaw(0)
    alone.send(50)
    alone.stop()


def test_a_frozen_node_can_be_killed(alone: Devnet) -> None:
    alone.start()
    processes = everything(alone.nodes[0])
    alone.freeze(0)
    alone.kill(0)
    assert at_work(processes) == []


def test_leaving_ends_everything(tmp_path: Path) -> None:
    with Devnet(tmp_path / "net", 2, proxied=True) as net:
        net.start()
        assert net.proxies is not None
        processes = [*everything(net.nodes[0]), *everything(net.nodes[1])]
        processes.append(psutil.Process(net.proxies.process.pid))
        net.freeze(1)
    assert at_work(processes) == []


def test_a_node_that_ended_is_told_of_at_once(alone: Devnet) -> None:
    alone.start()
    psutil.Process(alone.nodes[0].pid).kill()
    began_s = time.monotonic()
    with pytest.raises(AssertionError, match="node-0 ended with status -9"):
        alone.wait_height(10**9)
    assert time.monotonic() - began_s < 30


def test_different_chains_are_told_apart(tmp_path: Path) -> None:
    """Two networks of one genesis: what two nodes have that do not agree."""
    with Devnet(tmp_path / "a", 1) as one, Devnet(tmp_path / "b", 1) as other:
        assert one.genesis == other.genesis
        for net in (one, other):
            net.start()
            net.send(20)
            net.stop()
        assert compare_chains([one.places[0]], one.genesis) >= 1
        with pytest.raises(AssertionError, match="different blocks at height 1"):
            compare_chains([one.places[0], other.places[0]], one.genesis)


def test_proxied_nodes_dial_links(tmp_path: Path) -> None:
    with Devnet(tmp_path / "net", 3, proxied=True, block={"pace_ms": 70}) as net:
        assert net.proxies is not None
        assert sorted(net.proxies.names) == ["0>1", "0>2", "1>0", "1>2", "2>0", "2>1"]
        real = {place.peer for place in net.places}
        dialled = set()
        for place in net.places:
            text = (place.datadir / "config.toml").read_bytes()
            config = parse(text, "config.toml", "dev")
            assert config.network.peer_listen == place.peer
            assert config.network.max_outbound == 0
            assert config.block.pace_ms == 70
            assert len(config.network.peers) == 2
            dialled |= set(config.network.peers)
        assert len(dialled) == 6
        assert not dialled & real
        net.part([0, 1], [2])
        net.swallow([0], [1])
        net.slow(5)
        net.heal()


@pytest.mark.timeout(300)
def test_a_network_loses_a_node_in_every_way_and_has_it_back(tmp_path: Path) -> None:
    with Devnet(tmp_path / "net", 4, proxied=True) as net:
        net.start()
        with net.load(2_000, 0, 1, rate_per_s=40, options=("--drain-timeout", "60")) as load:
            net.wait_blocks(2)

            net.kill(3)
            height = net.wait_blocks(2, 0, 1, 2)
            net.start(3)
            net.wait_height(height, 3)

            net.freeze(2)
            height = net.wait_blocks(2, 0, 1, 3)
            net.thaw(2)
            net.wait_height(height, 2)

            for lose in (net.part, net.swallow):
                lose([0], [1, 2, 3])
                height = net.wait_blocks(2, 1, 2, 3)
                net.heal()
                net.wait_height(height, 0)

            net.part([0, 1], [2, 3])  # neither half decides, and both say the same afterwards
            net.heal()
            net.wait_blocks(2)
            load.stop()
            for report in load.reports(120):
                assert not report.wrong, report.line()
        net.wait_height(max(map(net.height, range(4))))
        net.stop()
        assert net.compare_chains() > 10
        net.check_value()
