"""All that methods of JSON-RPC speak to, in one process: real store, mempool, block files, loop.

Questions are answered at once by the real `Answering`; what is submitted is judged by the real
mempool, signatures not looked at. No sockets, no processes.
"""

from __future__ import annotations

import json
import time
from concurrent.futures import ThreadPoolExecutor
from decimal import Decimal
from pathlib import Path
from typing import Any, cast

from chains import PUBLIC, SmallChain, make_genesis

from node.address import encode_address
from node.answering import Answering
from node.block import reward_txid
from node.config import defaults
from node.consensus.messages import Certificate, Certified, VoteType
from node.consensus.wire import encode as encode_message
from node.datadir import layout
from node.host import NodeHost, Standing
from node.mempool import Mempool, PolicyLimits
from node.newcomers import parse
from node.query import NEWS, NewBlock, Status, Statuses, StatusesAre, Told, encode
from node.rpc.asking import Asking
from node.rpc.calls import Calls
from node.rpc.gauges import Gauges
from node.rpc.jsonrpc import parse_body
from node.rpc.methods import METHODS
from node.rpc.services import Services
from node.rpc.submitting import Submitter
from node.rpc.turns import Turns
from node.rpc.waiting import Finalities
from node.settings import resolve
from node.stages.rpc import METRICS
from node.storage.blockfile import BlockFiles
from node.storage.chain import ChainStore
from pipeline.metrics import REGION_BYTES, MetricWriter

PREFIX = "dtime"
DEADLINE_S = 30.0


def address(owner: bytes) -> str:
    return encode_address(owner, PREFIX)


class QuietLog:
    """Keeps what is logged."""

    def __init__(self) -> None:
        self.events: list[tuple[str, dict[str, Any]]] = []

    def _log(self, event: str, **facts: Any) -> None:
        self.events.append((event, facts))

    debug = info = warning = error = critical = _log


class _Host:
    """What the answers need of the host."""

    def __init__(self, chain: SmallChain, store: ChainStore) -> None:
        self.genesis_id = chain.id
        self._chain = chain
        self._store = store

    def standing(self) -> Standing:
        height = self._store.tip.height
        return Standing(3, height, False, 0, height + 1, 0, "propose")

    def reward_id(self, height: int) -> bytes:
        below = self._store.block_id(height - 1) if height > 1 else self.genesis_id
        return reward_txid(height, below, self._chain.salt)


class RpcWorld:
    """A chain of 600 outputs of four owners (`chains.OWNERS`), at height 0; close it."""

    def __init__(self, path: Path, *, address_index: bool = True, max_batch: int = 1_000) -> None:
        genesis, data = make_genesis()
        self.chain = SmallChain(genesis, data)
        where = layout(path)
        for directory in (where.blocks, where.run, where.network, where.evidence):
            directory.mkdir()
        where.allocations.write_bytes(data)
        ChainStore.create(where.store, genesis, where.allocations)
        self.store = ChainStore(
            where.store, self.chain.id, cache_mb=4, write_buffer_mb=4, address_index=address_index
        )
        self.mempool = Mempool(self.store, PolicyLimits(relay_fee_per_kb=1_000), genesis.min_fee)
        self.bodies = BlockFiles(where.blocks, self.chain.id)
        self.answering = Answering(
            self.store, self.mempool, cast(NodeHost, _Host(self.chain, self.store))
        )
        self.log = QuietLog()
        self.turns = Turns()
        self.orders: list[bytes] = []
        self.stopped = 0
        asking = Asking(self._ask, 1)
        self._asking = asking
        self._submitter = Submitter(self._submit)

        async def statuses(txids: Any) -> Any:
            return (await asking.ask(Statuses(tuple(txids)), StatusesAre)).statuses

        finalities = Finalities(statuses, 4)
        asking.on_block = finalities.new_block
        self._executor = ThreadPoolExecutor(1)
        self.services = Services(
            settings=resolve(defaults("dev"), genesis, where, terminal=False),
            prefix=PREFIX,
            asking=asking,
            submitter=self._submitter,
            finalities=finalities,
            bodies=BlockFiles(where.blocks, self.chain.id),
            gauges=Gauges(where.run, self._executor),
            metrics=MetricWriter(memoryview(bytearray(REGION_BYTES)), METRICS),
            executor=self._executor,
            order=self.orders.append,
            log=self.log,
            started_ns=time.monotonic_ns(),
            stop_node=self._stop,
        )
        self.calls = Calls(self.services, {each.name: each for each in METHODS})
        self._max_batch = max_batch

    def post(self, body: bytes) -> tuple[int, Any]:
        """HTTP status and content of the answer to a body."""
        status, data = self.run(self.calls.answer(parse_body(body, self._max_batch)))
        return status, json.loads(data, parse_float=Decimal) if data else None

    def call(self, method: str, *params: Any, **named: Any) -> Any:
        """The result of a call; an error is an AssertionError that holds it."""
        answer = self.answer(method, *params, **named)
        assert answer["error"] is None, answer["error"]
        return answer["result"]

    def code(self, method: str, *params: Any) -> int:
        """The code of the error that a call ends with."""
        code: int = self.answer(method, *params)["error"]["code"]
        return code

    def answer(self, method: str, *params: Any, **named: Any) -> dict[str, Any]:
        body = {"method": method, "params": named or list(params), "id": 1}
        answer: dict[str, Any] = self.post(json.dumps(body, default=float).encode())[1]
        return answer

    def start(self, method: str, *params: Any) -> Any:
        """A call's task, which goes on in `turn`."""
        body = json.dumps({"method": method, "params": list(params), "id": 1}).encode()
        return self.turns.loop.create_task(self.calls.answer(parse_body(body, self._max_batch)))

    def run(self, work: Any) -> Any:
        """The result of a coroutine or a task, turn by turn."""
        task = self.turns.loop.create_task(work) if not hasattr(work, "done") else work
        until_s = time.monotonic() + DEADLINE_S
        while not task.done():
            self.turns.run()
            assert time.monotonic() < until_s
        return task.result()

    def commit(self, transactions: list[bytes] = []) -> bytes:  # noqa: B006
        """A block of these transactions; its id."""
        fees = 0
        spent = dict(self.store.iterate_outputs())
        for raw in transactions:
            newcomer = parse(self.chain.hasher.txid(raw), raw, 0)
            for at, outpoint in enumerate(newcomer.outpoints):
                fees += int.from_bytes(spent[outpoint][:8], "little")
                assert spent[outpoint][8:] == newcomer.owners[at]
            fees -= newcomer.output_sum
        block = self.chain.block(transactions, fees)
        self.chain.ledger.apply(block)
        location = self.bodies.append(block.header.encode(), block.transactions)
        self.bodies.sync()
        value = block.id(self.chain.salt)
        height = block.header.height
        votes = Certificate(VoteType.PRECOMMIT, height, 0, value, ((0, bytes(64)),))
        self.store.commit(block, location, encode_message(Certified(votes)))
        self.mempool.committed(block.txids, block.transactions)
        self._asking.take(encode(Told(NEWS, NewBlock(height, value))))
        return value

    def pay(self, number: int, fee: int = 1_000, to: int = 1) -> bytes:
        """A payment of one allocation, whole."""
        outpoint = self.chain.allotted(number)
        output = self.chain.ledger.outputs[outpoint]
        value = int.from_bytes(output[:8], "little")
        return self.chain.spend([(outpoint, output)], [value - fee], to=to)

    def balance(self, owner: int) -> int:
        """Units of one of the owners, by the reference ledger."""
        outputs = self.chain.ledger.outputs.values()
        return sum(
            int.from_bytes(each[:8], "little") for each in outputs if each[8:] == PUBLIC[owner]
        )

    def close(self) -> None:
        self.turns.close()
        self._executor.shutdown()
        self.services.bodies.close()
        self.bodies.close()
        self.store.close()

    def _ask(self, frame: bytes) -> None:
        answer = self.answering.answer(frame)
        assert answer is not None
        self.turns.loop.call_soon(self._asking.take, answer)

    def _submit(self, frames: list[bytes]) -> bool:
        payload, at, codes = frames[2], 0, bytearray()
        for low, high in zip(frames[1][::2], frames[1][1::2], strict=True):
            raw = payload[at : at + low + 256 * high]
            at += len(raw)
            if not raw[3]:
                codes.append(20)  # as a verifier says of no witnesses
                continue
            newcomer = parse(self.chain.hasher.txid(raw), raw, time.time_ns() // 1_000_000)
            codes += bytes(self.mempool._admission.offer([newcomer]))
        self.turns.loop.call_soon(self._submitter.take, [frames[0], bytes(codes)])
        return True

    def _stop(self) -> None:
        self.stopped += 1


__all__ = ["RpcWorld", "Status", "address"]
