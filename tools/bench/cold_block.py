"""How long a block of unseen payments takes from its bytes to its judgement: the worst case, cold.

Payments of a chain's workload become blocks that nobody has seen; each is taken apart, verified in
trays and judged on a chain store, by the same code as in a node but in one process, tray after
tray. A node verifies them in several processes at once, so what is measured here is its upper
bound (without what the trays take between the processes). Milliseconds go to the benchmark's
report. Owns the store that it opens, which should be a copy; caches are left as they come.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Protocol

import numpy as np
import numpy.typing as npt

from node.block import Block, BlockHeader, build_block
from node.datadir import layout
from node.exchange.judging import Rules, Trial
from node.exchange.verified import Arrived, from_columns
from node.ledger import BlockBelow, BlockInvalid, LedgerView
from node.storage.chain import ChainStore
from node.verification.batch import BatchVerifier
from node.verification.columns import VerdictColumns
from node.verification.select import Preference, select_backend
from node.wiring import MAX_ITEMS, TRAY_BYTES
from tools.bench.errors import BenchFailed
from tools.loadgen.workload import FEE_PER_BYTE
from tools.loadgen.workload_file import Workload

PAYMENTS: Final = 1_000
"""In a block, of one input each."""

NS_PER_MS: Final = 1_000_000


class Store(LedgerView, Protocol):
    """What a block is judged on, with the block below."""

    @property
    def tip(self) -> BlockBelow: ...


@dataclass(frozen=True, slots=True)
class Received:
    """A block as its bytes came: header[128], the transactions back to back, u32 lengths."""

    header: bytes
    body: bytes
    lengths: npt.NDArray[np.uint32]


class Judge:
    """The ways of a node with a block of a chain, on a store that it does not own."""

    def __init__(self, workload: Workload, store: Store, backend: Preference) -> None:
        self._workload = workload
        self._store = store
        self._rules = Rules(workload.genesis)
        self._verifier = BatchVerifier(
            select_backend(backend),
            self._rules.salt,
            workload.genesis.dust_limit,
            MAX_ITEMS,
            TRAY_BYTES,
        )
        slot = bytearray(VerdictColumns.layout_bytes(MAX_ITEMS, TRAY_BYTES))
        self._columns = VerdictColumns(memoryview(slot), MAX_ITEMS, TRAY_BYTES)

    def received(self, first: int, payments: int = PAYMENTS) -> Received:
        """The block above the tip with so many payments of the workload, from ``first`` on."""
        workload = self._workload
        begin, end = (int(workload.offsets[at]) for at in (first, first + payments))
        below = self._store.tip
        block = build_block(
            height=below.height + 1,
            previous=below.block_id,
            time_ms=below.time_ms + 1,
            proposer=min(self._rules.proposers),
            transactions=[workload.transaction(at) for at in range(first, first + payments)],
            txids=[each.tobytes() for each in workload.columns.txids[first : first + payments]],
            fees=FEE_PER_BYTE * (end - begin),
            salt=self._rules.salt,
        )
        lengths = workload.columns.lengths[first : first + payments].astype(np.uint32)
        return Received(block.header.encode(), bytes(workload.data[begin:end]), lengths)

    def judge(self, received: Received) -> Block:
        """Verify and judge a block; raises BenchFailed if it is found to be a bad one."""
        arrived = self._verified(memoryview(received.body), received.lengths)
        txids, raws = [each.txid for each in arrived], [each.raw for each in arrived]
        try:
            header = BlockHeader.decode(received.header)
            trial = Trial(self._rules, header, txids, raws, self._store.tip, self._store)
            while (block := trial.advance()) is None:
                pass
        except BlockInvalid as error:
            raise BenchFailed(f"a good block was found invalid: {error}") from None
        return block

    def _verified(self, payload: memoryview, lengths: npt.NDArray[np.uint32]) -> list[Arrived]:
        found: list[Arrived | None] = []
        offsets = np.zeros(len(lengths) + 1, np.uint32)
        np.cumsum(lengths, out=offsets[1:])
        for first in range(0, len(lengths), MAX_ITEMS):
            bounds = offsets[first : first + MAX_ITEMS + 1]
            self._verifier.verify(payload, bounds, self._columns)
            found += from_columns(self._columns, len(bounds) - 1, payload, bounds)
        arrived = [each for each in found if each is not None]
        if len(arrived) < len(found):
            raise BenchFailed(f"{len(found) - len(arrived)} good payments were rejected")
        return arrived


def validate_ms(
    chain: Path,
    datadir: Path,
    backend: Preference,
    blocks: int,
    clock: Callable[[], int] = time.perf_counter_ns,
) -> list[float]:
    """Milliseconds for each of so many blocks, all of different payments.

    ``chain`` is the workload, ``datadir`` a data directory of its chain at genesis, not in use;
    ``clock`` returns nanoseconds. Raises BenchFailed if the workload is too small, or a good block
    is found to be bad.
    """
    workload = Workload.open(chain)
    if workload.count < blocks * PAYMENTS:
        raise BenchFailed(f"{workload.count:,} payments do not make {blocks} blocks")
    took_ms = []
    store = ChainStore(layout(datadir).store, workload.genesis_id)
    try:
        judge = Judge(workload, store, backend)
        for number in range(blocks):
            received = judge.received(number * PAYMENTS)
            began_ns = clock()
            block = judge.judge(received)
            took_ms.append((clock() - began_ns) / NS_PER_MS)
            if block.header.encode() != received.header:
                raise BenchFailed("another block was judged")
    finally:
        store.close()
    return took_ms
