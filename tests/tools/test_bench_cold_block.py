"""The cost of a cold block: a real store, real payments, and what is not believed."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from itertools import count
from pathlib import Path

import numpy as np
import pytest

from node.datadir import layout
from node.storage.chain import ChainStore
from tools.bench.cold_block import PAYMENTS, Judge, Received, validate_ms
from tools.bench.devnet import DevnetBench, cold
from tools.bench.devnet_plan import DevnetScale
from tools.bench.errors import BenchFailed
from tools.loadgen.workload_file import Workload

BLOCKS = 2
SOME = 300  # more than a tray


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory) -> DevnetBench:
    scale = DevnetScale(1, 1, 0.5, least=BLOCKS * PAYMENTS // 4, cold_blocks=BLOCKS, quick=True)
    bench = DevnetBench(tmp_path_factory.mktemp("cold"), scale, "nacl", keep=False)
    bench.prepare(1, lambda line: None)
    return bench


@pytest.fixture
def datadir(bench: DevnetBench) -> Iterator[Path]:
    with bench.datadir(1) as datadir:
        yield datadir


@pytest.fixture
def judge(bench: DevnetBench, datadir: Path) -> Iterator[Judge]:
    workload = Workload.open(bench.chain(1))
    store = ChainStore(layout(datadir).store, workload.genesis_id)
    yield Judge(workload, store, "nacl")
    store.close()


def test_only_what_a_node_does_is_timed(bench: DevnetBench, datadir: Path) -> None:
    ticks = count(0, 5_000_000)  # nanoseconds: one tick a block
    took_ms = validate_ms(bench.chain(1), datadir, "nacl", BLOCKS, lambda: next(ticks))
    assert took_ms == [5.0] * BLOCKS


def test_a_block_is_judged_whole_and_in_order(bench: DevnetBench, judge: Judge) -> None:
    workload = Workload.open(bench.chain(1))
    block = judge.judge(judge.received(PAYMENTS, SOME))
    assert block.transactions == [workload.transaction(PAYMENTS + at) for at in range(SOME)]
    assert b"".join(block.txids) == workload.columns.txids[PAYMENTS:][:SOME].tobytes()
    assert block.header.height == 1


def test_blocks_hold_different_payments(judge: Judge) -> None:
    first, second = judge.received(0, SOME), judge.received(SOME, SOME)
    assert set(judge.judge(first).txids).isdisjoint(judge.judge(second).txids)


def test_a_bad_signature_or_header_is_no_figure(judge: Judge) -> None:
    good = judge.received(0, SOME)
    body = bytearray(good.body)
    body[-1] ^= 1  # in the last witness
    with pytest.raises(BenchFailed, match="1 good payments were rejected"):
        judge.judge(dataclasses.replace(good, body=bytes(body)))
    with pytest.raises(BenchFailed, match="found invalid"):
        judge.judge(Received(judge.received(SOME, SOME).header, good.body, good.lengths))


def test_payments_of_another_chain_are_no_figure(judge: Judge) -> None:
    good = judge.received(0, SOME)
    twice = np.concatenate((good.lengths, good.lengths))
    with pytest.raises(BenchFailed, match="found invalid"):
        judge.judge(Received(good.header, good.body * 2, twice))


def test_a_workload_too_small_is_said(bench: DevnetBench, datadir: Path) -> None:
    with pytest.raises(BenchFailed, match="do not make 99 blocks"):
        validate_ms(bench.chain(1), datadir, "nacl", 99)


def test_the_subject_gives_the_median_and_removes_its_copy(bench: DevnetBench) -> None:
    (median_ms,), detail = cold(bench)
    assert min(detail["ms"]) <= median_ms <= max(detail["ms"])
    assert len(detail["ms"]) == BLOCKS
    assert list((bench.work / "runs").iterdir()) == []
