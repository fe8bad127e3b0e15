"""What methods work with: the chain's parameters, the ways to other stages, blocks on disk.

Made once by the stage and handed to every method. Blocks are read here, from the files that
``consensus`` writes; where they lie, it is asked. The last block that was read is kept, because
clients ask for one transaction of a block after the other.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import Executor
from dataclasses import dataclass, field
from typing import Any, Final, TypeVar

from node.address import AddressFormatError, decode_address
from node.block import Block
from node.query import BlockRow, Blocks, BlocksAre, HeightIs, HeightOf
from node.rpc.asking import Asking
from node.rpc.gauges import Gauges
from node.rpc.jsonrpc import Code, RpcError
from node.rpc.submitting import Submitter
from node.rpc.waiting import Finalities
from node.settings import NodeSettings
from node.storage.blockfile import BlockFiles, BodyLocation
from node.storage.errors import StoreError
from pipeline.metrics import MetricWriter

MAX_ANSWER_BYTES: Final = 64 * 1024 * 1024  # what a method returns at most, roughly

T = TypeVar("T")


@dataclass(slots=True)
class Services:
    """See the module. ``prefix`` is that of addresses, ``order`` sends a word to ``net``."""

    settings: NodeSettings
    prefix: str
    asking: Asking
    submitter: Submitter
    finalities: Finalities
    bodies: BlockFiles
    metrics: MetricWriter
    gauges: Gauges
    executor: Executor
    order: Callable[[bytes], None]
    log: Any
    started_ns: int
    stop_node: Callable[[], None]
    running: dict[int, tuple[str, int]] = field(default_factory=dict)  # method, since (ns)
    _last: tuple[BodyLocation, Block] | None = None

    async def row(self, height: int) -> tuple[BlockRow | None, int]:
        """Where the block at a height lies, None if there is none, and the tip's height."""
        found = await self.asking.ask(Blocks(height, 1), BlocksAre)
        return (found.rows[0] if found.rows and height else None), found.tip

    async def height_of(self, block_id: bytes) -> int:
        """The height of a block; raises `RpcError` if there is none of that id."""
        found = await self.asking.ask(HeightOf(block_id), HeightIs)
        if found.height is None:
            raise RpcError(Code.INVALID_ADDRESS_OR_KEY, "Block not found")
        return found.height

    def read(self, row: BlockRow) -> Block:
        """Read a committed block; raises `RpcError` if its file is damaged, and logs how."""
        location = BodyLocation(row.file, row.offset, row.length)
        if self._last is not None and self._last[0] == location:
            return self._last[1]
        try:
            block = self.bodies.read(location)
        except StoreError as error:
            self.log.error("block_not_read", height=row.height, reason=error.message)
            raise RpcError(Code.MISC_ERROR, "Can't read block from disk") from None
        self._last = location, block
        return block

    def owner(self, address: str) -> bytes:
        """The owner of an address; raises `RpcError` if it is none of this network."""
        try:
            return decode_address(address, self.prefix)
        except AddressFormatError as error:
            raise RpcError(Code.INVALID_ADDRESS_OR_KEY, f"Invalid address: {error}") from None

    async def apart(self, work: Callable[[], T]) -> T:
        """Do what waits (a socket, a lock) outside of the loop."""
        return await asyncio.get_running_loop().run_in_executor(self.executor, work)
