"""The mempool's totals across lives of its process: nothing is forgotten, nothing counted twice."""

from __future__ import annotations

from pathlib import Path

import pytest
from payments import ALICE, BOB, Chain, Payment, admit, commit, pay

from node.mempool import TOTALS, Counters, Mempool, PolicyLimits
from node.mempool_file import load, save
from node.mempool_totals import TOTALS_METRICS, MempoolTotals
from pipeline.metrics import MetricSet, MetricWriter, region_bytes

GENESIS = bytes(range(32))
LIMITS = PolicyLimits(expiry_ms=10_000)
METRICS = MetricSet("stage", TOTALS_METRICS)


class Memory:
    """The region of metrics, which outlives the writers that attach to it."""

    def __init__(self) -> None:
        self.view = memoryview(bytearray(region_bytes(METRICS)))
        self.writer: MetricWriter | None = None

    def new_life(self, pool: Mempool) -> MempoolTotals:
        if self.writer is not None:
            self.writer.close()
        self.writer = MetricWriter(self.view, METRICS)
        return MempoolTotals(self.writer, pool)

    def shown(self) -> Counters:
        assert self.writer is not None
        return Counters(*(self.writer.value(f"mempool_{name}") for name in TOTALS))

    @property
    def items(self) -> int:
        assert self.writer is not None
        return self.writer.value("mempool_items")


@pytest.fixture
def memory() -> Memory:
    return Memory()


@pytest.fixture
def chain() -> Chain:
    return Chain()


@pytest.fixture
def payments(chain: Chain) -> list[Payment]:
    coins = chain.fund(*[(100_000, ALICE)] * 10)
    return [pay([(coins.out(index), ALICE)], [(90_000, BOB)]) for index in range(10)]


def test_what_a_killed_life_shows_as_pending_is_lost(
    memory: Memory, chain: Chain, payments: list[Payment]
) -> None:
    for life in range(3):
        pool = Mempool(chain, LIMITS, 0)
        totals = memory.new_life(pool)
        totals.resume()
        assert memory.shown() == Counters(
            admitted=3 * life, finalised=life, lost_at_restart=2 * life
        )
        assert memory.items == 0
        mine = payments[3 * life : 3 * life + 3]
        admit(pool, *mine)
        totals.publish()
        assert memory.items == memory.shown().pending == 3
        commit(pool, chain, mine[0])
        totals.publish()
        assert memory.items == memory.shown().pending == 2
        assert memory.shown() == pool.counters


def test_a_life_that_ends_before_it_admits_counts_nothing_twice(
    memory: Memory, chain: Chain, payments: list[Payment]
) -> None:
    pool = Mempool(chain, LIMITS, 0)
    totals = memory.new_life(pool)
    totals.resume()
    admit(pool, *payments)
    totals.publish()
    for _ in range(2):
        memory.new_life(Mempool(chain, LIMITS, 0)).resume()
        assert memory.shown() == Counters(admitted=10, lost_at_restart=10)


def test_totals_that_a_file_brings_are_not_counted_twice(
    memory: Memory, chain: Chain, payments: list[Payment], tmp_path: Path
) -> None:
    path = tmp_path / "mempool.dat"
    pool = Mempool(chain, LIMITS, 0)
    totals = memory.new_life(pool)
    totals.resume()
    admit(pool, *payments)
    commit(pool, chain, *payments[:4])
    totals.publish()
    save(pool, path, GENESIS)
    for region in (memory, Memory()):  # of the same supervisor, and of its successor
        again = Mempool(chain, LIMITS, 0)
        totals = region.new_life(again)
        assert load(again, path, GENESIS, 0).ignored is None
        totals.resume()
        assert region.shown() == Counters(admitted=10, finalised=4)
        assert region.items == 6
    path.write_bytes(b"")  # of no use: then what is in memory counts
    again = Mempool(chain, LIMITS, 0)
    totals = memory.new_life(again)
    assert load(again, path, GENESIS, 0).ignored is not None
    totals.resume()
    assert memory.shown() == Counters(admitted=10, finalised=4, lost_at_restart=6)


def test_a_life_cut_off_between_two_words_shows_too_many_as_pending(
    memory: Memory, chain: Chain, payments: list[Payment], monkeypatch: pytest.MonkeyPatch
) -> None:
    pool = Mempool(chain, LIMITS, 0)
    totals = memory.new_life(pool)
    totals.resume()
    admit(pool, *payments)
    commit(pool, chain, *payments)  # admitted and final between two writings
    add = MetricWriter.add
    written: list[int] = []

    def dies(writer: MetricWriter, handle: int, n: int = 1) -> None:
        if written:
            raise InterruptedError
        written.append(handle)
        add(writer, handle, n)

    with monkeypatch.context() as patch:
        patch.setattr(MetricWriter, "add", dies)
        with pytest.raises(InterruptedError):
            totals.publish()
    memory.new_life(Mempool(chain, LIMITS, 0)).resume()
    assert memory.shown() == Counters(admitted=10, lost_at_restart=10)
