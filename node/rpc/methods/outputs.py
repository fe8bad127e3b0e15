"""Methods about unspent outputs: one by one, by address, and all together."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any, Final

from node.address import AddressFormatError, decode_address
from node.params import OUTPOINT_BYTES
from node.query import (
    MAX_UNSPENT,
    Counted,
    CountOutputs,
    Outputs,
    OutputsAre,
    Unspent,
    UnspentIs,
    UnspentRow,
)
from node.rpc import shapes
from node.rpc.jsonrpc import Code, RpcError, amount
from node.rpc.method import Method, Param, hash_of, integer
from node.rpc.services import Services

MAX_ADDRESSES: Final = 100  # in one call
MAX_LISTED: Final = 50_000  # outputs in one answer: some 15 MB
MAX_COUNTED: Final = 2_000_000  # outputs of one address for its balance: four seconds


async def gettxout(services: Services, txid: str, n: Any, include_mempool: bool) -> Any:
    """See METHODS."""
    index = integer(n, "n", 0, 2**32 - 1)
    transaction = hash_of(txid, "txid")
    if index > 255:
        return None
    found = await services.asking.ask(Outputs((transaction + bytes((index,)),)), OutputsAre)
    row = found.rows[0]
    if row is None or (include_mempool and row.spender):
        return None
    if row.height is None and not include_mempool:
        return None
    return {
        "bestblock": found.block_id.hex(),
        "confirmations": 0 if row.height is None else found.height - row.height + 1,
        "value": amount(int.from_bytes(row.output[:8], "little")),
        "scriptPubKey": shapes.script(row.output[8:], services.prefix),
        "coinbase": row.reward,
    }


async def gettxoutsetinfo(services: Services) -> dict[str, Any]:
    """See METHODS."""
    token = 0
    while True:
        found = await services.asking.ask(CountOutputs(token), Counted)
        if found.token == 0:  # consensus was restarted, or somebody else began another count
            raise RpcError(Code.MISC_ERROR, "The count was interrupted: ask again")
        if found.digest:
            break
        token = found.token
    return {
        "height": found.height,
        "bestblock": found.block_id.hex(),
        "txouts": found.outputs,
        "hash_serialized": found.digest.hex(),
        "total_amount": amount(found.units),
    }


async def listunspent(
    services: Services, minconf: Any, maxconf: Any, addresses: list[Any]
) -> list[dict[str, Any]]:
    """See METHODS."""
    low = integer(minconf, "minconf", 0, 2**31)
    high = integer(maxconf, "maxconf", 0, 2**31)
    listed: list[dict[str, Any]] = []
    for address in _addresses(addresses):
        owner = services.owner(address)
        async for row, tip in _unspent(services, owner):
            confirmations = tip - row.height + 1
            if row.spender or not low <= confirmations <= high:
                continue
            if len(listed) >= MAX_LISTED:
                raise RpcError(
                    Code.MISC_ERROR, f"More than {MAX_LISTED:,} outputs: ask for fewer addresses"
                )
            listed.append(_listed(row, address, owner, confirmations))
    return listed


async def getbalance(services: Services, address: str, minconf: Any) -> Any:
    """See METHODS."""
    low = integer(minconf, "minconf", 0, 2**31)
    units = 0
    async for row, tip in _unspent(services, services.owner(address)):
        if not row.spender and tip - row.height + 1 >= low:
            units += row.value
    return amount(units)


async def validateaddress(services: Services, address: str) -> dict[str, Any]:
    """See METHODS."""
    try:
        owner = decode_address(address, services.prefix)
    except AddressFormatError as error:
        return {"isvalid": False, "error": str(error)}
    return {
        "isvalid": True,
        "address": address.lower(),
        "scriptPubKey": owner.hex(),
        "key": owner.hex(),
        "isscript": False,
        "iswitness": False,
    }


async def _unspent(services: Services, owner: bytes) -> AsyncIterator[tuple[UnspentRow, int]]:
    """Yield the outputs of an owner with the tip's height, page by page."""
    after = b""
    for _ in range(0, MAX_COUNTED, MAX_UNSPENT):
        found = await services.asking.ask(Unspent(owner, after), UnspentIs)
        if not found.on:
            raise RpcError(
                Code.MISC_ERROR,
                "There is no index by address: set store.address_index in config.toml to true",
            )
        for row in found.rows:
            yield row, found.tip
        if not found.more:
            return
        after = found.rows[-1].outpoint
    raise RpcError(Code.MISC_ERROR, f"The address has more than {MAX_COUNTED:,} outputs")


def _addresses(given: list[Any]) -> list[str]:
    if not given or len(given) > MAX_ADDRESSES:
        raise RpcError(Code.INVALID_PARAMETER, f"Give 1 to {MAX_ADDRESSES} addresses")
    for each in given:
        if not isinstance(each, str):
            raise RpcError(Code.TYPE_ERROR, "An address is a string")
    if len(set(given)) != len(given):
        raise RpcError(Code.INVALID_PARAMETER, "Invalid parameter, duplicated address")
    return given


def _listed(row: UnspentRow, address: str, owner: bytes, confirmations: int) -> dict[str, Any]:
    assert len(row.outpoint) == OUTPOINT_BYTES
    return {
        "txid": row.outpoint[:-1].hex(),
        "vout": row.outpoint[-1],
        "address": address,
        "scriptPubKey": owner.hex(),
        "amount": amount(row.value),
        "confirmations": confirmations,
        "coinbase": row.reward,
        "spendable": True,
        "solvable": True,
        "safe": True,
    }


METHODS = (
    Method(
        "gettxout",
        "Blockchain",
        "Return an unspent output, null if it is spent or unknown.",
        gettxout,
        (
            Param("txid", "string", "The transaction's id."),
            Param("n", "number", "The output's number."),
            Param("include_mempool", "boolean", "Whether the mempool counts.", True),
        ),
    ),
    Method(
        "gettxoutsetinfo",
        "Blockchain",
        "Count all unspent outputs, as of one block; takes a while where there are many.",
        gettxoutsetinfo,
        result="hash_serialized is BLAKE2b-256 over all outpoints and outputs in order.",
    ),
    Method(
        "listunspent",
        "Blockchain",
        "Return the unspent outputs of addresses that no transaction in the mempool spends.",
        listunspent,
        (
            Param("minconf", "number", "Fewest confirmations.", 1),
            Param("maxconf", "number", "Most confirmations.", 9_999_999),
            Param("addresses", "array", "Whose outputs.", []),
        ),
    ),
    Method(
        "getbalance",
        "Blockchain",
        "Return the sum of an address' unspent outputs that no transaction in the mempool spends.",
        getbalance,
        (
            Param("address", "string", "Whose outputs."),
            Param("minconf", "number", "Fewest confirmations.", 1),
        ),
    ),
    Method(
        "validateaddress",
        "Util",
        "Return whether text is an address of this network, and if not, why.",
        validateaddress,
        (Param("address", "string", "The text."),),
    ),
)
