"""A new store: there as a whole or not at all."""

from __future__ import annotations

import os
import pickle
import time
from pathlib import Path

import numpy as np
import pytest
from bodies import apart, run_apart
from chains import SmallChain, make_genesis
from stores import ALLOCATIONS, GENESIS, create, digest, opened

from node.genesis import (
    Genesis,
    GenesisError,
    allocation_txid,
    describe_allocations,
    encode_allocations,
    genesis_id,
    supply_at,
)
from node.storage.chain import ChainStore
from node.storage.errors import (
    StoreExists,
    StoreMissing,
)


@pytest.mark.parametrize("count", [0, 1, 255, 256, 600])
def test_a_new_store_is_the_genesis(tmp_path: Path, count: int) -> None:
    genesis, data = make_genesis(count)
    chain = SmallChain(genesis, data)
    store = ChainStore(create(tmp_path, genesis, data), chain.id)
    assert store.tip == (0, chain.id, genesis.time_ms, None)
    assert dict(store.iterate_outputs()) == chain.ledger.outputs
    assert store.output_set_digest() == digest(chain.ledger.outputs)
    assert store.supply() == supply_at(genesis, 0)
    for number in range(-(-count // 255) + 1):
        txid = allocation_txid(number, chain.salt)
        assert store.find_transaction(txid) == chain.ledger.find_transaction(txid)
    assert sorted(os.listdir(tmp_path)) == ["genesis.alloc", "store"]
    store.close()


def test_creation_refuses_what_is_there(tmp_path: Path) -> None:
    path = create(tmp_path)
    with pytest.raises(StoreExists, match=f"{path} exists"):
        create(tmp_path)
    opened(path).close()


def test_creation_refuses_other_allocations(tmp_path: Path) -> None:
    with pytest.raises(GenesisError, match="not the one"):
        create(tmp_path, data=ALLOCATIONS[:-40])
    assert os.listdir(tmp_path) == ["genesis.alloc"]


CREATE = """
import pickle, sys
from pathlib import Path
from node.storage.chain import ChainStore
directory = Path(sys.argv[1])
genesis = pickle.loads((directory / "genesis").read_bytes())
print("begin", flush=True)
ChainStore.create(directory / "store", genesis, directory / "genesis.alloc")
print("end", flush=True)
"""


def test_an_interrupted_creation_begins_again(tmp_path: Path) -> None:
    count = 60_000
    data = encode_allocations(np.ones(count, np.uint64), np.zeros((count, 32), np.uint8))
    genesis = Genesis(
        **{
            field: getattr(GENESIS, field)
            for field in Genesis.__struct_fields__
            if field != "allocations"
        },
        allocations=describe_allocations(data),
    )
    (tmp_path / "genesis").write_bytes(pickle.dumps(genesis))
    (tmp_path / "genesis.alloc").write_bytes(data)
    building = tmp_path / "store.tmp"
    with apart(CREATE, tmp_path) as process:
        deadline = time.monotonic() + 30
        while not (building / "outputs.ingest").exists():  # in the middle of it
            assert time.monotonic() < deadline
            assert process.poll() is None
        process.kill()
    assert building.exists()
    with pytest.raises(StoreMissing, match="interrupted; run `timed init` again"):
        ChainStore(tmp_path / "store", genesis_id(genesis))
    assert run_apart(CREATE, tmp_path) == "begin\nend\n"
    assert not building.exists()
    store = ChainStore(tmp_path / "store", genesis_id(genesis))
    assert store.supply() == count
    store.close()


CREATE_IN_VAIN = """
import pickle, resource, sys
from pathlib import Path
from node.storage.chain import ChainStore
from node.storage.errors import StoreFull
directory = Path(sys.argv[1])
genesis = pickle.loads((directory / "genesis").read_bytes())
resource.setrlimit(resource.RLIMIT_FSIZE, (9000, 9000))
try:
    ChainStore.create(directory / "store", genesis, directory / "genesis.alloc")
except StoreFull as error:
    print(error.message)
"""


def test_creation_without_room(tmp_path: Path) -> None:
    (tmp_path / "genesis").write_bytes(pickle.dumps(GENESIS))
    (tmp_path / "genesis.alloc").write_bytes(ALLOCATIONS)
    told = run_apart(CREATE_IN_VAIN, tmp_path)
    assert told.startswith(f"cannot create {tmp_path / 'store'} (")
    assert "File too large" in told
    with pytest.raises(StoreMissing, match="interrupted"):
        opened(tmp_path / "store")
    opened(create(tmp_path)).close()
