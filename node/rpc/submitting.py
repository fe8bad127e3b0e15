"""Transactions of wallets on their way through ingest, like everybody's.

Methods await `Submitter.submit` one by one; what is submitted within one turn leaves together as
one message of ingest (`node.stages.net`), which is what makes batches of calls cheap. A message
that a killed ``net`` has taken along is sent again to its successor: admission knows what it has.
It owns the messages that are not answered yet; the socket is the stage's.
"""

from __future__ import annotations

import asyncio
import struct
from collections import deque
from collections.abc import Callable
from typing import Final

from node.params import INGEST_MAX_BYTES, INGEST_MAX_TRANSACTIONS
from node.rpc.jsonrpc import Code, RpcError
from node.verdict import Verdict

MAX_MESSAGES: Final = 32  # that are not answered: half of what net lets a client have
MAX_WAITING_BYTES: Final = 16 * 1024 * 1024  # of transactions that wait for room among those
ANSWER_S: Final = 20.0  # verifiers may be busy with others' transactions

_Item = tuple[bytes, "asyncio.Future[int]"]


class Submitter:
    """Sends messages of frames by ``send``, which must not wait; False means not now."""

    def __init__(self, send: Callable[[list[bytes]], bool]) -> None:
        self._send = send
        self._queue: deque[_Item] = deque()
        self._queued_bytes = 0
        self._under_way: dict[bytes, tuple[list[bytes], list[_Item]]] = {}
        self._number = 0
        self._flushing = False

    async def submit(self, raw: bytes) -> Verdict:
        """Return the node's verdict on a transaction; raises `RpcError` if there is none in time,
        or too many wait already.
        """
        if self._queued_bytes + len(raw) > MAX_WAITING_BYTES:
            raise RpcError(Code.VERIFY_ERROR, "Too many transactions wait: send fewer at once")
        loop = asyncio.get_running_loop()
        future: asyncio.Future[int] = loop.create_future()
        self._queue.append((raw, future))
        self._queued_bytes += len(raw)
        if not self._flushing:  # together with all that is submitted in this turn
            self._flushing = True
            loop.call_soon(self._flush)
        try:
            return Verdict(await asyncio.wait_for(future, ANSWER_S))
        except TimeoutError:
            self._forget()
            raise RpcError(
                Code.IN_WARMUP, "No verdict in time: the node is starting, or busy"
            ) from None

    def take(self, frames: list[bytes]) -> None:
        """Hand out the verdicts of one message."""
        if len(frames) != 2:
            return
        number, codes = frames
        _, items = self._under_way.pop(number, ([], []))
        if len(codes) != len(items):  # refused as a whole, with one code
            codes = codes[:1] * len(items)
        for (_, future), code in zip(items, codes, strict=True):
            if not future.done():
                future.set_result(code)
        self._flush()

    def send_again(self) -> None:
        """A new ``net``: it has none of the messages that are not answered."""
        for frames, _ in self._under_way.values():
            self._send(frames)

    def _forget(self) -> None:
        """Let go of messages that nobody waits for any more, to make room for others."""
        for number, (_, items) in list(self._under_way.items()):
            if all(future.done() for _, future in items):
                del self._under_way[number]
        self._flush()

    def _flush(self) -> None:
        self._flushing = False
        while self._queue and len(self._under_way) < MAX_MESSAGES:
            items = self._next_items()
            if not items:
                return
            self._number += 1
            number = self._number.to_bytes(8, "little")
            raws = [raw for raw, _ in items]
            frames = [number, struct.pack(f"<{len(raws)}H", *map(len, raws)), b"".join(raws)]
            if not self._send(frames):
                self._queue.extendleft(reversed(items))
                self._queued_bytes += sum(map(len, raws))
                return
            self._under_way[number] = frames, items

    def _next_items(self) -> list[_Item]:
        items: list[_Item] = []
        size = 0
        while self._queue and len(items) < INGEST_MAX_TRANSACTIONS:
            raw, future = self._queue[0]
            if size + len(raw) > INGEST_MAX_BYTES:
                break
            self._queue.popleft()
            self._queued_bytes -= len(raw)
            if not future.done():  # nobody waits for it any more
                items.append((raw, future))
                size += len(raw)
        return items
