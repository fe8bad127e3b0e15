"""Questions to ``consensus`` and the wait for their answers, in the process that serves wallets.

Methods await `Asking.ask`; frames leave over the link ``ask`` and come back over ``told``
(`node.query`). Both links lose what finds no room, and a killed consensus process loses what it had
read: a question is sent again when a new one has started and given up after some seconds, with the
error that tells clients to come back. It owns nothing but the table of questions under way.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any, Final, TypeVar, cast

from node import query
from node.query import NEWS, Answer, Question
from node.rpc.jsonrpc import Code, RpcError

MAX_UNDER_WAY: Final = 128  # half of what a link holds
ANSWER_S: Final = 5.0  # a commit on a busy disk may keep consensus that long
NUMBERS: Final = 1 << 40  # of questions of one life of this process

A = TypeVar("A", bound=Answer)


class Asking:
    """Asks through ``send``; ``incarnation`` tells this life's numbers from an earlier one's."""

    def __init__(self, send: Callable[[bytes], None], incarnation: int) -> None:
        self._send = send
        self._next = incarnation * NUMBERS + NEWS + 1
        self._waiting: dict[int, tuple[bytes, asyncio.Future[Answer]]] = {}
        self._room = asyncio.Semaphore(MAX_UNDER_WAY)
        self.on_block: Callable[[query.NewBlock], None] = lambda news: None

    async def ask(self, question: Question, kind: type[A]) -> A:
        """Return the answer, which is of this kind; raises `RpcError` (IN_WARMUP) without one."""
        async with self._room:
            number = self._next
            self._next += 1
            frame = query.encode(query.Ask(number, question))
            future: asyncio.Future[Answer] = asyncio.get_running_loop().create_future()
            self._waiting[number] = frame, future
            try:
                self._send(frame)
                answer = await asyncio.wait_for(future, ANSWER_S)
            except TimeoutError:
                raise RpcError(
                    Code.IN_WARMUP, "The ledger does not answer: the node is starting, or busy"
                ) from None
            finally:
                del self._waiting[number]
        assert isinstance(answer, kind), f"{type(question).__name__} is answered otherwise"
        return cast(A, answer)

    def take(self, frame: bytes) -> None:
        """Hand out an answer; one that nobody waits for any more is dropped."""
        try:
            told = query.decode_told(frame)
        except query.QueryError:
            return
        if isinstance(told.answer, query.NewBlock):
            self.on_block(told.answer)
            return
        waiting: Any = self._waiting.get(told.number)
        if waiting is not None and not waiting[1].done():
            waiting[1].set_result(told.answer)

    def ask_again(self) -> None:
        """A new consensus process: it may not have what the last one was asked."""
        for frame, _ in list(self._waiting.values()):
            self._send(frame)
