"""The blocks that may become the next one: built here or found again, their bodies on disk.

Agreement speaks of blocks by id; this module holds what is behind the ids of the height being
decided. Blocks are built from the mempool's selection (whose transactions are pinned until the
height is committed) or come from peers, judged already; bodies go to the block files before
anything depends on them, and the decided one goes into the chain store. It owns the block files'
appending end; the store and the mempool are the stage's. What kills it: a disk that is full or
fails.
"""

from __future__ import annotations

from node.block import Block, build_block
from node.genesis import Genesis
from node.mempool import Mempool
from node.storage.blockfile import BlockFiles, BodyLocation
from node.storage.chain import ChainStore
from node.storage.errors import DAMAGED_REMEDY, StoreDamaged

MAX_CANDIDATES = 16  # of one height, held and pinned; older ones are read from disk again
MAX_READ_BACK = 4  # of what an earlier life had on disk: the last round's is what others may lack


class Candidates:
    """Blocks of the height above the store's tip.

    Bodies of it that were on disk before a restart are found again. `salt` is the chain's.
    """

    def __init__(
        self,
        store: ChainStore,
        bodies: BlockFiles,
        mempool: Mempool,
        genesis: Genesis,
        salt: bytes,
    ) -> None:
        self._store = store
        self._bodies = bodies
        self._mempool = mempool
        self._genesis = genesis
        self._salt = salt
        self._blocks: dict[bytes, Block] = {}
        self._pinned: dict[bytes, list[bytes]] = {}  # block id -> what was pinned for it
        tip = store.tip
        self._locations: dict[bytes, BodyLocation] = bodies.recover(tip.location, tip.height + 1)

    def build(self, now_ms: int, proposer: bytes, most: int) -> bytes:
        """Build a block on the tip out of the mempool, empty if need be; returns its id.

        `proposer` is the key (32 bytes) that it pays to, `most` how many transactions it may have.
        """
        selection = self._mempool.select(self._genesis.max_block_bytes, most)
        tip = self._store.tip
        block = build_block(
            height=tip.height + 1,
            time_ms=max(now_ms, tip.time_ms + 1),
            previous=tip.block_id,
            proposer=proposer,
            transactions=selection.transactions,
            txids=selection.txids,
            fees=selection.fees,
            salt=self._salt,
        )
        value = block.id(self._salt)
        self._mempool.pin(selection.txids)
        self._pinned[value] = selection.txids
        self.add(value, block)
        return value

    def add(self, value: bytes, block: Block) -> None:
        """Take in a valid block of this height that somebody else has built."""
        if value not in self._blocks and len(self._blocks) >= MAX_CANDIDATES:
            oldest = next(iter(self._blocks))
            del self._blocks[oldest]
            self._mempool.unpin(self._pinned.pop(oldest, ()))
        self._blocks[value] = block

    def get(self, value: bytes) -> Block | None:
        """The valid block with this id, if it is in memory or its body on disk."""
        block = self._blocks.get(value)
        location = self._locations.get(value)
        if block is None and location is not None:
            block = self._bodies.read(location)
        return block

    def persist(self, value: bytes) -> bool:
        """Make a body durable; False when it is not here (its builder crashed before this)."""
        if self.is_durable(value):
            return True
        block = self._blocks.get(value)
        if block is None:
            return False
        location = self._bodies.append(block.header.encode(), block.transactions)
        self._bodies.sync()
        self._locations[value] = location
        return True

    def is_durable(self, value: bytes) -> bool:
        """Whether the body of this valid block is on disk."""
        return value in self._locations

    def durable(self) -> list[tuple[bytes, Block]]:
        """Read the bodies on disk that came last, with their ids."""
        newest = list(self._locations.items())[-MAX_READ_BACK:]
        return [(value, self._bodies.read(location)) for value, location in newest]

    def decided(self, value: bytes) -> Block:
        """The block that was decided, whose body is durable.

        Raises StoreDamaged when the log says that the body is on disk, and it is not.
        """
        location = self._locations.get(value)
        if location is None:
            raise StoreDamaged(
                f"the body of block {value.hex()} was on disk and is not there", DAMAGED_REMEDY
            )
        return self._blocks.get(value) or self._bodies.read(location)

    def commit(self, value: bytes, block: Block, certificate: bytes) -> None:
        """Apply the decided block to the store, in one synced write, and to the mempool."""
        self._store.commit(block, self._locations[value], certificate)
        self._mempool.committed(block.txids, block.transactions)
        self._pinned.pop(value, None)  # taken away with the block's transactions
        for txids in self._pinned.values():
            self._mempool.unpin(txids)
        self._pinned.clear()
        self._blocks.clear()
        self._locations.clear()

    def close(self) -> None:
        """Close the block files."""
        self._bodies.close()
