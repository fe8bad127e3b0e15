"""Transactions of wallets on their way through ingest, like everybody's.

Methods await `Submitter.submit` one by one; what is submitted within one turn leaves together as
one message of ingest (`node.stages.net`), which is what makes batches of calls cheap. A message
that a killed ``net`` has taken along is sent again to its successor: admission knows what it has,
and what became final in between is no error of whoever sent it.
It owns the messages that are not answered yet; the socket is the stage's.
"""

from __future__ import annotations

import asyncio
import struct
from collections import deque
from collections.abc import Callable
from typing import Final, NamedTuple

from node.params import INGEST_MAX_BYTES, INGEST_MAX_TRANSACTIONS
from node.rpc.jsonrpc import Code, RpcError
from node.verdict import Verdict

MAX_MESSAGES: Final = 32  # that are not answered: half of what net lets a client have
MAX_WAITING_BYTES: Final = 16 * 1024 * 1024  # of transactions that wait for room among those
ANSWER_S: Final = 20.0  # verifiers may be busy with others' transactions

RETRY_S: Final = 0.05
NONE_IN_TIME: Final = -1  # instead of a verdict

_FINAL: Final = bytes((Verdict.FINAL,))
_KNOWN: Final = bytes((Verdict.KNOWN,))

_Item = tuple[bytes, "asyncio.Future[int]"]


class _Message(NamedTuple):
    """One message of ingest that is not answered; a timer of its own costs less than one a call."""

    frames: list[bytes]
    items: list[_Item]
    timer: asyncio.TimerHandle
    again: bool = False  # sent to more than one ``net``


class Submitter:
    """Sends messages of frames by ``send``, which must not wait; False means not now."""

    def __init__(self, send: Callable[[list[bytes]], bool]) -> None:
        self._send = send
        self._queue: deque[_Item] = deque()
        self._queued_bytes = 0
        self._under_way: dict[bytes, _Message] = {}
        self._again: deque[bytes] = deque()  # numbers of those to be sent again
        self._loop: asyncio.AbstractEventLoop | None = None
        self._number = 0
        self._flushing = False
        self._retry: asyncio.TimerHandle | None = None

    async def submit(self, raw: bytes) -> Verdict:
        """Return the node's verdict on a transaction; raises `RpcError` if there is none in time,
        or too many wait already.
        """
        if self._queued_bytes + len(raw) > MAX_WAITING_BYTES:
            raise RpcError(Code.VERIFY_ERROR, "Too many transactions wait: send fewer at once")
        loop = self._loop = asyncio.get_running_loop()
        future: asyncio.Future[int] = loop.create_future()
        self._queue.append((raw, future))
        self._queued_bytes += len(raw)
        if not self._flushing:  # together with all that is submitted in this turn
            self._flushing = True
            loop.call_soon(self._flush)
        code = await future
        if code == NONE_IN_TIME:
            raise RpcError(Code.IN_WARMUP, "No verdict in time: the node is starting, or busy")
        return Verdict(code)

    def take(self, frames: list[bytes]) -> None:
        """Hand out the verdicts of one message."""
        if len(frames) != 2:
            return
        number, codes = frames
        message = self._under_way.pop(number, None)
        if message is None:
            return
        message.timer.cancel()
        items = message.items
        if len(codes) != len(items):  # refused as a whole, with one code
            codes = codes[:1] * len(items)
        if message.again:
            codes = codes.replace(_FINAL, _KNOWN)
        for (_, future), code in zip(items, codes, strict=True):
            if not future.done():
                future.set_result(code)
        self._flush()

    def send_again(self) -> None:
        """A new ``net``: it has none of the messages that are not answered."""
        for number, message in self._under_way.items():
            self._under_way[number] = message._replace(again=True)
        self._again = deque(self._under_way)
        if self._again:
            self._flush()

    def _give_up(self, number: bytes) -> None:
        """No answer in time: tell those who wait, and make room for others."""
        for _, future in self._under_way.pop(number).items:
            if not future.done():
                future.set_result(NONE_IN_TIME)
        self._flush()

    def _flush(self) -> None:
        self._flushing = False
        if self._retry is not None:
            self._retry.cancel()
            self._retry = None
        assert self._loop is not None, "something was submitted"
        loop = self._loop
        while self._again:
            message = self._under_way.get(self._again[0])  # None: answered, or given up
            if message is not None and not self._send(message.frames):
                self._retry = loop.call_later(RETRY_S, self._flush)
                return
            self._again.popleft()
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
                self._retry = loop.call_later(RETRY_S, self._flush)
                return
            timer = loop.call_later(ANSWER_S, self._give_up, number)
            self._under_way[number] = _Message(frames, items, timer)

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
