"""What is kept of blocks that may become the next one, over a restart."""

from __future__ import annotations

from pathlib import Path

from chains import SmallChain, make_genesis

from node.candidates import MAX_READ_BACK, Candidates
from node.mempool import Mempool, PolicyLimits
from node.storage.blockfile import BlockFiles
from node.storage.chain import ChainStore


def test_bodies_on_disk_are_read_back_the_newest_of_them(tmp_path: Path) -> None:
    chain = SmallChain(*make_genesis())
    (tmp_path / "allocations").write_bytes(chain.allocations)
    ChainStore.create(tmp_path / "store", chain.genesis, tmp_path / "allocations")
    store = ChainStore(tmp_path / "store", chain.id)
    mempool = Mempool(store, PolicyLimits(), chain.genesis.min_fee)

    def start() -> Candidates:
        bodies = BlockFiles(tmp_path / "blocks", chain.id)
        return Candidates(store, bodies, mempool, chain.genesis, chain.salt)

    before = start()
    proposer = chain.genesis.validators[0].key_bytes
    built = [
        before.build(chain.genesis.time_ms + 9 + number, proposer, 10)
        for number in range(MAX_READ_BACK + 2)
    ]
    assert before.durable() == []
    for value in built[:-1]:
        assert before.persist(value)
    before.close()
    after = start()
    found = after.durable()
    assert [value for value, _ in found] == built[1:-1]
    assert [block.id(chain.salt) for _, block in found] == built[1:-1]
    after.close()
    store.close()
