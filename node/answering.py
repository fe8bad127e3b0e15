"""Answers of ``consensus`` to questions of ``rpc``: what the chain, the mempool and agreement are.

Called by the consensus stage with the frames of the link ``ask``, a few a turn and within a time
budget, so that whoever asks never delays votes; what does not fit waits in the link, and what finds
no room there is asked again. It reads the store, the mempool and the host and changes nothing. It
owns at most one count of all outputs, an iterator that goes on with every question about it.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Iterator
from itertools import islice
from typing import Final, assert_never

from node import query
from node.block import TxPosition
from node.host import NodeHost
from node.mempool import Mempool
from node.params import ID_BYTES
from node.query import Answer, BlockRow, Question
from node.storage.chain import ChainStore

BUDGET_NS: Final = 1_000_000
"""For all answers of a turn: a tenth of what a turn may be late under load."""

COUNT_ROWS: Final = 512  # of all outputs, for one question: half a millisecond
COUNT_IDLE_NS: Final = 10_000_000_000
"""A count that nobody went on with for so long is let go: whoever began it has hung up, and its
iterator keeps files of the store on the disk.
"""

NOBODY: Final = b""


class Answering:
    """Answers from the state of the process that has it."""

    def __init__(self, store: ChainStore, mempool: Mempool, host: NodeHost) -> None:
        self._store = store
        self._mempool = mempool
        self._host = host
        self._count: _Count | None = None
        self._counts = 0

    def answer(self, frame: bytes) -> bytes | None:
        """The answer to a frame; None if it is no question."""
        try:
            ask = query.decode_ask(frame)
        except query.QueryError:
            return None
        return query.encode(query.Told(ask.number, self._answer(ask.question)))

    def expire(self, now_ns: int) -> None:
        """Let go of a count that nobody goes on with; now and then, CLOCK_MONOTONIC."""
        if self._count is not None and now_ns - self._count.asked_ns > COUNT_IDLE_NS:
            self._count = None

    def _answer(self, question: Question) -> Answer:
        match question:
            case query.Overview():
                return self._overview()
            case query.Blocks(first, count):
                tip = self._store.tip.height
                heights = range(max(first, 1), min(first + count, tip + 1))
                return query.BlocksAre(tip, tuple(self._row(each) for each in heights))
            case query.HeightOf(block_id):
                return query.HeightIs(self._height_of(block_id))
            case query.Find(txid):
                return self._find(txid)
            case query.Statuses(txids):
                statuses = tuple(self._status(each) for each in txids)
                return query.StatusesAre(self._store.tip.height, statuses)
            case query.Outputs(outpoints):
                return self._outputs(outpoints)
            case query.PoolIds(start):
                ids = self._mempool.ids(start, query.MAX_IDS)
                return query.PoolIdsAre(b"".join(ids), len(self._mempool))
            case query.PoolEntries(txids):
                entries = tuple(self._entry(each) for each in txids)
                return query.PoolEntriesAre(self._store.tip.height, entries)
            case query.Unspent(owner, after):
                return self._unspent(owner, after)
            case query.CountOutputs(token):
                return self._count_on(token)
            case query.TryOut(txid, raw):
                verdict, fee = self._mempool.try_out(txid, raw, time.time_ns() // 1_000_000)
                return query.Tried(int(verdict), fee)
            case query.Decision(height):
                return query.DecisionIs(self._store.certificate(height) or b"")
            case _:
                assert_never(question)

    def _overview(self) -> query.OverviewIs:
        tip, mempool = self._store.tip, self._mempool
        agreement = self._host.standing()
        return query.OverviewIs(
            height=tip.height,
            block_id=tip.block_id,
            time_ms=tip.time_ms,
            supply=self._store.issued,
            pool_items=len(mempool),
            pool_bytes=mempool.size_bytes,
            pool_fees=mempool.fees,
            orphans=mempool.orphan_count,
            orphan_bytes=mempool.orphan_bytes,
            behind=agreement.behind,
            peers=agreement.peers,
            peer_height=agreement.peer_height,
            validator=agreement.validator,
            deciding=agreement.height,
            round=agreement.round,
            step=agreement.step,
            address_index=self._store.address_index,
        )

    def _row(self, height: int) -> BlockRow:
        return BlockRow(height, self._store.block_id(height), *self._store.block_location(height))

    def _height_of(self, block_id: bytes) -> int | None:
        if block_id == self._host.genesis_id:
            return 0
        return self._store.height_of(block_id)

    def _find(self, txid: bytes) -> query.Found:
        held = self._mempool.held(txid)
        position = self._store.find_transaction(txid)
        block = None
        if position is not None and position.height:
            block = self._row(position.height)
        return query.Found(
            tip=self._store.tip.height,
            raw=b"" if held is None else held.raw,
            pinned=held is not None and held.pinned,
            height=None if position is None else position.height,
            position=0 if position is None else position.position,
            block=block,
        )

    def _status(self, txid: bytes) -> query.Status:
        held = self._mempool.held(txid)
        if held is not None:
            return query.Status(None, True, held.pinned)
        position = self._store.find_transaction(txid)
        return query.Status(None if position is None else position.height, False, False)

    def _outputs(self, outpoints: tuple[bytes, ...]) -> query.OutputsAre:
        tip = self._store.tip
        found = self._store.get_outputs(list(outpoints))
        rows = tuple(
            self._output(outpoint, output)
            for outpoint, output in zip(outpoints, found, strict=True)
        )
        return query.OutputsAre(tip.height, tip.block_id, rows)

    def _output(self, outpoint: bytes, output: bytes | None) -> query.OutputRow | None:
        spender = self._mempool.spender(outpoint) or NOBODY
        if output is None:
            output = self._mempool.output(outpoint)
            return None if output is None else query.OutputRow(output, None, False, spender)
        height, reward = self._origin(outpoint[:ID_BYTES])
        return query.OutputRow(output, height, reward, spender)

    def _origin(self, txid: bytes) -> tuple[int, bool]:
        """The height of the transaction that made an unspent output, and whether it is a reward.

        No transaction's first output has the id of a reward: ids are of different kinds.
        """
        position = self._store.find_transaction(txid)
        assert position is not None, "the transaction of an unspent output is final"
        return position.height, self._is_reward(txid, position)

    def _is_reward(self, txid: bytes, position: TxPosition) -> bool:
        return bool(position.height) and self._host.reward_id(position.height) == txid

    def _entry(self, txid: bytes) -> query.PoolEntry | None:
        held = self._mempool.held(txid)
        return None if held is None else query.PoolEntry(*held)

    def _unspent(self, owner: bytes, after: bytes) -> query.UnspentIs:
        store = self._store
        found = store.unspent_of(owner, after, query.MAX_UNSPENT + 1)
        more = len(found) > query.MAX_UNSPENT
        rows = []
        for outpoint, value in found[: query.MAX_UNSPENT]:
            height, reward = self._origin(outpoint[:ID_BYTES])
            spender = self._mempool.spender(outpoint) or NOBODY
            rows.append(query.UnspentRow(outpoint, value, height, reward, spender))
        return query.UnspentIs(store.address_index, store.tip.height, tuple(rows), more)

    # -- the count of all outputs ----------------------------------------------------------------

    def _count_on(self, token: int) -> query.Counted:
        if token == 0:
            self._counts += 1
            self._count = _Count(self._counts, self._store)
        count = self._count
        if count is None or (token and count.token != token):
            return query.Counted(0, 0, b"", 0, 0, b"")
        digest = count.go_on()
        if digest:
            self._count = None
        return query.Counted(
            count.token, count.height, count.block_id, count.outputs, count.units, digest
        )


class _Count:
    """All outputs as of one block: how many, how much, and their digest."""

    def __init__(self, token: int, store: ChainStore) -> None:
        self.token = token
        self.height = store.tip.height
        self.block_id = store.tip.block_id
        self.outputs = self.units = 0
        self.asked_ns = 0
        self._rows: Iterator[tuple[bytes, bytes]] = store.iterate_outputs()
        self._state = hashlib.blake2b(digest_size=ID_BYTES)

    def go_on(self) -> bytes:
        """Count some more; returns the digest when there is nothing left."""
        self.asked_ns = time.monotonic_ns()
        rows = list(islice(self._rows, COUNT_ROWS))
        for outpoint, output in rows:
            self._state.update(outpoint + output)
            self.units += int.from_bytes(output[:8], "little")
        self.outputs += len(rows)
        return b"" if len(rows) == COUNT_ROWS else self._state.digest()
