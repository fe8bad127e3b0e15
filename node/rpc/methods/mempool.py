"""Methods about the mempool."""

from __future__ import annotations

from typing import Any, Final

from node.params import ID_BYTES
from node.query import (
    MAX_ENTRIES,
    MAX_IDS,
    Overview,
    OverviewIs,
    PoolEntries,
    PoolEntriesAre,
    PoolEntry,
    PoolIds,
    PoolIdsAre,
)
from node.rpc.jsonrpc import Code, RpcError, amount
from node.rpc.method import Method, Param, hash_of
from node.rpc.services import Services

MAX_VERBOSE: Final = 20_000  # entries in one answer: some 10 MB
MAX_LISTED: Final = 500_000  # ids in one answer: 34 MB


async def getmempoolinfo(services: Services) -> dict[str, Any]:
    """See METHODS."""
    found = await services.asking.ask(Overview(), OverviewIs)
    policy = services.settings.policy
    relay_fee = amount(policy.relay_fee_per_kb)
    return {
        "loaded": True,
        "size": found.pool_items,
        "bytes": found.pool_bytes,
        "usage": found.pool_bytes,
        "total_fee": amount(found.pool_fees),
        "maxmempool": policy.max_bytes,
        "maxtransactions": policy.max_count,
        "mempoolminfee": relay_fee,
        "minrelaytxfee": relay_fee,
        "incrementalrelayfee": amount(policy.replacement_increment),
        "unbroadcastcount": 0,
        "fullrbf": True,
        "orphans": found.orphans,
        "orphan_bytes": found.orphan_bytes,
    }


async def getrawmempool(services: Services, verbose: bool) -> Any:
    """See METHODS."""
    ids = await _all_ids(services)
    if not verbose:
        return [each.hex() for each in ids]
    if len(ids) > MAX_VERBOSE:
        raise RpcError(
            Code.MISC_ERROR,
            f"The mempool has {len(ids):,} transactions, more than {MAX_VERBOSE:,}: "
            "ask for their ids, and for entries one by one",
        )
    entries: dict[str, Any] = {}
    for start in range(0, len(ids), MAX_ENTRIES):
        some = tuple(ids[start : start + MAX_ENTRIES])
        found = await services.asking.ask(PoolEntries(some), PoolEntriesAre)
        for txid, entry in zip(some, found.entries, strict=True):
            if entry is not None:  # it left in between
                entries[txid.hex()] = _shown(entry, found.height)
    return entries


async def getmempoolentry(services: Services, txid: str) -> dict[str, Any]:
    """See METHODS."""
    found = await services.asking.ask(PoolEntries((hash_of(txid, "txid"),)), PoolEntriesAre)
    entry = found.entries[0]
    if entry is None:
        raise RpcError(Code.INVALID_ADDRESS_OR_KEY, "Transaction not in mempool")
    return _shown(entry, found.height)


async def _all_ids(services: Services) -> list[bytes]:
    """The ids in the mempool in order of arrival.

    Of a large one, page by page: what comes and goes in between may be missing.
    """
    ids: dict[bytes, None] = {}
    start = 0
    while start < MAX_LISTED:
        found = await services.asking.ask(PoolIds(start), PoolIdsAre)
        page = found.ids
        ids.update((page[at : at + ID_BYTES], None) for at in range(0, len(page), ID_BYTES))
        start += MAX_IDS
        if start >= found.total:
            return list(ids)
    raise RpcError(Code.MISC_ERROR, f"The mempool has more than {MAX_LISTED:,} transactions")


def _shown(entry: PoolEntry, height: int) -> dict[str, Any]:
    fee = amount(entry.fee)
    return {
        "vsize": len(entry.raw),
        "size": len(entry.raw),
        "time": entry.admitted_ms // 1_000,
        "time_ms": entry.admitted_ms,
        "height": height,
        "ancestorcount": entry.ancestors,
        "fees": {"base": fee, "modified": fee},
        "depends": [each.hex() for each in entry.parents],
        "spentby": [each.hex() for each in entry.children],
        "pending": entry.pinned,
    }


METHODS = (
    Method("getmempoolinfo", "Blockchain", "Return how full the mempool is.", getmempoolinfo),
    Method(
        "getrawmempool",
        "Blockchain",
        "Return the ids in the mempool in order of arrival, or entries by id, as getmempoolentry "
        "has them.",
        getrawmempool,
        (Param("verbose", "boolean", "true for entries.", False),),
    ),
    Method(
        "getmempoolentry",
        "Blockchain",
        "Return what the mempool knows of a transaction.",
        getmempoolentry,
        (Param("txid", "string", "The transaction's id."),),
        "An object; height is that of the chain now, not that of the transaction's arrival; "
        "pending tells that it is in a proposed block.",
    ),
)
