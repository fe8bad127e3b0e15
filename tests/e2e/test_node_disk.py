"""A disk that fills while the node runs: it stops with one clear line, and goes on later."""

from __future__ import annotations

import resource
from pathlib import Path

import pytest
from funded import Funds
from running_node import DEADLINE_S, IngestClient, RunningNode

from node.verdict import Verdict


@pytest.fixture(scope="module")
def funds(tmp_path_factory: pytest.TempPathFactory) -> Funds:
    return Funds(tmp_path_factory.mktemp("disk") / "funds", 300)


def test_a_disk_that_fills_stops_the_node_with_one_line_and_loses_nothing(
    tmp_path: Path, funds: Funds
) -> None:
    node = RunningNode(tmp_path, funds.directory).start()
    client = IngestClient(node.ingest)
    try:
        first = funds.pay(0)
        assert client.ask(first) == bytes([Verdict.ADMITTED])
        node.wait_until(lambda: client.ask(first) == bytes([Verdict.FINAL]))
        height = node.metrics("consensus")["height"]

        consensus = node.pid("consensus")
        assert consensus is not None
        assert node.process is not None
        resource.prlimit(consensus, resource.RLIMIT_FSIZE, (8_192, 8_192))  # as a full disk does
        client.send([funds.pay(n) for n in range(1, 200)])
        status = node.process.wait(DEADLINE_S)
        node.process = None
        last = node.log.read_text().splitlines()[-1]
        assert status == 2, last
        assert last.startswith("timed: ")
        assert "blocks" in last or "store" in last
        assert "free" in last

        node.start()
        client.close()
        client = IngestClient(node.ingest)
        assert node.metrics("consensus")["height"] >= height
        assert client.ask(first) == bytes([Verdict.FINAL])
        assert node.stop() == 0
        assert node.check("--replay").returncode == 0
    finally:
        client.close()
        node.end()
