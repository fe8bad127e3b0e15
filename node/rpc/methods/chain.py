"""Methods about the chain and its blocks.

What the chain is, ``consensus`` says; what is in a block, its body on disk, which is read here.
"""

from __future__ import annotations

import os
from typing import Any, Final

import orjson

from node.block import Block, BlockHeader, reward_txid
from node.genesis import reward_at
from node.query import BlockRow, Blocks, BlocksAre, Overview, OverviewIs
from node.rpc import shapes
from node.rpc.jsonrpc import Code, RpcError, amount, encode
from node.rpc.method import Method, Param, hash_of, integer
from node.rpc.services import MAX_ANSWER_BYTES, Services

BLOCKHASH: Final = Param("blockhash", "string", "The block's id.")


async def getblockchaininfo(services: Services) -> dict[str, Any]:
    """See METHODS."""
    found = await services.asking.ask(Overview(), OverviewIs)
    highest = max(found.height, found.peer_height)
    progress = 10_000 if highest == found.height else found.height * 10_000 // highest
    genesis = services.settings.genesis
    return {
        "chain": genesis.chain,
        "blocks": found.height,
        "headers": highest,
        "bestblockhash": found.block_id.hex(),
        "time": found.time_ms // 1_000,
        "mediantime": found.time_ms // 1_000,
        "verificationprogress": orjson.Fragment(f"{progress // 10_000}.{progress % 10_000:04}"),
        "initialblockdownload": found.behind,
        "size_on_disk": _size_on_disk(services),
        "pruned": False,
        "supply": amount(found.supply),
        "genesis": services.settings.genesis_id.hex(),
        "min_fee": amount(genesis.min_fee),
        "dust_limit": amount(genesis.dust_limit),
        "reward": amount(genesis.reward),
        "address_index": found.address_index,
        "warnings": "",
    }


async def getblockcount(services: Services) -> int:
    """See METHODS. Read where it lies if it is known: a busy `consensus` need not be asked."""
    height = services.gauges.height()
    return height or (await services.asking.ask(Overview(), OverviewIs)).height


async def getbestblockhash(services: Services) -> str:
    """See METHODS."""
    return (await services.asking.ask(Overview(), OverviewIs)).block_id.hex()


async def getblockhash(services: Services, height: Any) -> str:
    """See METHODS."""
    number = integer(height, "height", -(2**63), 2**63 - 1)
    if number == 0:
        return services.settings.genesis_id.hex()
    if number > 0:
        row, _ = await services.row(number)
        if row is not None:
            return row.block_id.hex()
    raise RpcError(Code.INVALID_PARAMETER, "Block height out of range")


async def getblockheader(services: Services, blockhash: str, verbose: bool) -> Any:
    """See METHODS."""
    height = await services.height_of(hash_of(blockhash, "blockhash"))
    if height == 0:
        return await _genesis(services) if verbose else ""
    row, tip, following = await _placed(services, height)
    header = services.read(row).header
    if not verbose:
        return header.encode().hex()
    return shapes.header(header, row.block_id, tip, following, services.prefix)


async def getblock(services: Services, blockhash: str, verbosity: Any) -> Any:
    """See METHODS."""
    level = integer(int(verbosity), "verbosity", 0, 2)
    height = await services.height_of(hash_of(blockhash, "blockhash"))
    if height == 0:
        return await _genesis(services) | {"tx": []} if level else ""
    row, tip, following = await _placed(services, height)
    block = services.read(row)
    if level == 0:
        return (block.header.encode() + b"".join(block.transactions)).hex()
    shown = shapes.header(block.header, row.block_id, tip, following, services.prefix)
    shown["size"] = len(block.header.encode()) + sum(map(len, block.transactions))
    reward = _reward(services, block.header)
    if reward is not None:
        shown["reward"] = reward
    if level == 1:
        shown["tx"] = [txid.hex() for txid in block.txids]
    else:
        shown["tx"] = _transactions(block, services.prefix)
    return shown


def _transactions(block: Block, prefix: str) -> list[orjson.Fragment]:
    """All transactions of a block, printed one by one: as objects they would fill the memory."""
    printed: list[orjson.Fragment] = []
    size = 0
    for txid, raw in zip(block.txids, block.transactions, strict=True):
        shown = shapes.transaction(raw, txid, prefix)
        text = encode(shown | {"hex": raw.hex()}).rstrip()
        size += len(text)
        if size > MAX_ANSWER_BYTES:
            raise RpcError(
                Code.MISC_ERROR, "The block is too large for verbosity 2: ask for verbosity 0 or 1"
            )
        printed.append(orjson.Fragment(text))
    return printed


async def _placed(services: Services, height: int) -> tuple[BlockRow, int, bytes | None]:
    """Where a committed block lies, the tip, and the id of the block above it."""
    found = await services.asking.ask(Blocks(height, 2), BlocksAre)
    following = found.rows[1].block_id if len(found.rows) > 1 else None
    return found.rows[0], found.tip, following


async def _genesis(services: Services) -> dict[str, Any]:
    """What stands for the block at height 0, which has no body."""
    found = await services.asking.ask(Blocks(1, 1), BlocksAre)
    genesis = services.settings.genesis
    shown = {
        "hash": services.settings.genesis_id.hex(),
        "confirmations": found.tip + 1,
        "height": 0,
        "time": genesis.time_ms // 1_000,
        "mediantime": genesis.time_ms // 1_000,
        "time_ms": genesis.time_ms,
        "nTx": 0,
        "allocated": amount(genesis.allocations.total),
    }
    if found.rows:
        shown["nextblockhash"] = found.rows[0].block_id.hex()
    return shown


def _reward(services: Services, header: BlockHeader) -> dict[str, Any] | None:
    """The output that a block pays to its proposer; None if that is nothing."""
    settings = services.settings
    units = header.fees + reward_at(settings.genesis, header.height)
    if not units:
        return None
    return {
        "txid": reward_txid(header.height, header.previous, settings.salt).hex(),
        "vout": 0,
        "value": amount(units),
        "scriptPubKey": shapes.script(header.proposer, services.prefix),
    }


def _size_on_disk(services: Services) -> int:
    with os.scandir(services.settings.blocks_path) as entries:
        return sum(entry.stat().st_size for entry in entries if entry.is_file())


METHODS = (
    Method(
        "getblockchaininfo",
        "Blockchain",
        "Return where the chain is.",
        getblockchaininfo,
        result="An object; headers is the highest block that a peer has told of, supply counts "
        "everything that was ever issued.",
    ),
    Method("getblockcount", "Blockchain", "Return the height of the last block.", getblockcount),
    Method("getbestblockhash", "Blockchain", "Return the id of the last block.", getbestblockhash),
    Method(
        "getblockhash",
        "Blockchain",
        "Return the id of the block at a height.",
        getblockhash,
        (Param("height", "number", "0 is the genesis."),),
    ),
    Method(
        "getblockheader",
        "Blockchain",
        "Return a block's header.",
        getblockheader,
        (BLOCKHASH, Param("verbose", "boolean", "false for its 128 bytes in hexadecimal.", True)),
    ),
    Method(
        "getblock",
        "Blockchain",
        "Return a block.",
        getblock,
        (
            BLOCKHASH,
            Param(
                "verbosity",
                "number or boolean",
                "0 for its bytes in hexadecimal, 1 with the ids of its transactions, 2 with these.",
                1,
            ),
        ),
        "The reward stands beside the transactions: it has an id and no bytes.",
    ),
)
