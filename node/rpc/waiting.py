"""Calls that wait until a transaction is final.

`waittransactionfinality` waits here; after each new block ``consensus`` is asked once about all of
them, and whoever's state says final is let go. Owns the table of those who wait, which is bounded.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager, suppress
from typing import Final

from node.query import MAX_STATUSES, NewBlock, Status
from node.rpc.jsonrpc import Code, RpcError

LOOK_S: Final = 2.0  # without news of blocks: the link may have lost some


class Finalities:
    """Lets callers wait; ``statuses`` asks how far transactions are, in their order."""

    def __init__(
        self, statuses: Callable[[Sequence[bytes]], Awaitable[Sequence[Status]]], at_most: int
    ) -> None:
        self._statuses = statuses
        self._at_most = at_most
        self._waiting: dict[bytes, list[asyncio.Event]] = {}
        self._count = 0
        self._news = asyncio.Event()
        self._task: asyncio.Task[None] | None = None

    def new_block(self, news: NewBlock) -> None:
        """Something may be final that was not."""
        self._news.set()

    async def wait(self, txid: bytes, timeout_s: float) -> None:
        """Return when the transaction is final, or the time is over.

        Raises `RpcError` if too many wait already.
        """
        if self._count >= self._at_most:
            raise RpcError(Code.MISC_ERROR, "Too many calls wait already: ask again later")
        async with self._entry(txid) as event:
            if self._task is None:
                self._task = asyncio.get_running_loop().create_task(self._look())
            self._news.set()  # it may be final already
            try:
                await asyncio.wait_for(event.wait(), timeout_s)
            except TimeoutError:
                return

    @asynccontextmanager
    async def _entry(self, txid: bytes) -> AsyncIterator[asyncio.Event]:
        event = asyncio.Event()
        self._count += 1
        self._waiting.setdefault(txid, []).append(event)
        try:
            yield event
        finally:
            self._count -= 1
            events = self._waiting[txid]
            events.remove(event)
            if not events:
                del self._waiting[txid]

    async def _look(self) -> None:
        try:
            while self._waiting:
                with suppress(TimeoutError):
                    await asyncio.wait_for(self._news.wait(), LOOK_S)
                self._news.clear()
                txids = list(self._waiting)
                for start in range(0, len(txids), MAX_STATUSES):
                    await self._settle(txids[start : start + MAX_STATUSES])
        finally:  # whatever ended it, who comes next is looked for
            self._task = None

    async def _settle(self, txids: Sequence[bytes]) -> None:
        try:
            statuses = await self._statuses(txids)
        except RpcError:  # consensus is starting: the next look asks again
            return
        for txid, status in zip(txids, statuses, strict=True):
            if status.height is not None:
                for event in self._waiting.get(txid, ()):
                    event.set()
