"""The table of the node: valid on every machine, and sized for its backend."""

from __future__ import annotations

import importlib
from typing import Literal

import msgspec
import pytest

from node.config import defaults
from node.params import MAX_TX_BYTES
from node.wiring import MAX_ITEMS, TRAY_BYTES, wire, workers
from pipeline.placement import processes
from pipeline.topology import LinkPolicy

CONFIG = defaults("dev")
Backend = Literal["avx512", "nacl"]


@pytest.mark.parametrize("backend", ["avx512", "nacl"])
@pytest.mark.parametrize("cores", [1, 2, 3, 4, 8, 64, 256])
@pytest.mark.parametrize("fuse", [(), ("net", "verify"), ("net", "verify", "consensus")])
def test_the_table_is_valid_on_every_machine(
    backend: Backend, cores: int, fuse: tuple[Literal["net", "verify", "consensus"], ...]
) -> None:
    pipeline = msgspec.structs.replace(CONFIG.pipeline, fuse=fuse)
    topology = wire(msgspec.structs.replace(CONFIG, pipeline=pipeline), backend, range(cores))
    expected = 4 + topology.stage("verify").count - max(0, len(fuse) - 1)
    assert len(processes(topology, range(cores))) == expected


def test_verifiers_follow_cores_and_backend() -> None:
    assert [workers(CONFIG, "nacl", cores) for cores in (1, 2, 4, 8, 200)] == [1, 2, 4, 6, 64]
    assert [workers(CONFIG, "avx512", cores) for cores in (1, 2, 3, 4, 5, 64)] == [1, 2, 2, 2, 3, 4]


def test_no_link_can_block() -> None:
    """Descriptors find room for every tray; words for and from peers may get lost instead."""
    topology = wire(CONFIG, "avx512", range(2))
    for link in topology.links:
        if link.name in ("say", "heard", "ask", "told", "order"):
            assert link.policy is LinkPolicy.DROP
        else:
            assert link.policy is LinkPolicy.BLOCK
            assert link.capacity >= topology.trays.trays


def test_consensus_and_net_speak_both_ways() -> None:
    links = {link.name: link for link in wire(CONFIG, "nacl", range(2)).links}
    assert (links["say"].source, links["say"].target) == ("consensus", "net")
    assert (links["heard"].source, links["heard"].target) == ("net", "consensus")


def test_a_node_without_rpc_has_nothing_of_it() -> None:
    """Nobody would read those links."""
    rpc = msgspec.structs.replace(CONFIG.rpc, listen="")
    without = wire(msgspec.structs.replace(CONFIG, rpc=rpc), "nacl", range(2))
    assert "rpc" not in {stage.name for stage in without.stages}
    assert not {"ask", "told", "order"} & {link.name for link in without.links}
    stage = wire(CONFIG, "nacl", range(2)).stage("rpc")
    assert stage.expendable
    assert stage.nice > 0


def test_a_tray_holds_any_transaction_and_is_filled_with_as_many_payments() -> None:
    assert TRAY_BYTES >= MAX_TX_BYTES
    payment_bytes = 214
    assert wire(CONFIG, "nacl", range(2)).trays.fill_bytes == MAX_ITEMS * payment_bytes
    assert wire(CONFIG, "nacl", range(2)).trays.max_items == MAX_ITEMS
    assert sum(wire(CONFIG, "nacl", range(2)).trays.reserved) < CONFIG.pipeline.trays


def test_every_stage_can_be_built() -> None:
    for stage in wire(CONFIG, "nacl", range(2)).stages:
        module, _, function = stage.build.partition(":")
        assert callable(getattr(importlib.import_module(module), function))
