"""Methods about transactions: found, made, signed, tried and sent."""

from __future__ import annotations

from typing import Any, Final

from node.block import Block
from node.genesis import reward_at
from node.params import MAX_INPUTS, MAX_OUTPUTS, MAX_TX_BYTES, OUTPUT_BYTES
from node.query import (
    Find,
    Found,
    Outputs,
    OutputsAre,
    Tried,
    TryOut,
)
from node.rpc import shapes, signing
from node.rpc.jsonrpc import Code, RpcError, amount, units_of
from node.rpc.method import Method, Param, hash_of, integer
from node.rpc.services import Services
from node.transaction import TransactionError, txid
from node.transaction import decode as decode_strictly
from node.verdict import Verdict

MAX_TRIED: Final = 25  # transactions in one testmempoolaccept
MAX_KEYS: Final = 256

TXID: Final = Param("txid", "string", "The transaction's id.")
HEX: Final = Param("hexstring", "string", "The transaction in hexadecimal.")
HELD: Final = (Verdict.ADMITTED, Verdict.KNOWN)
MISSING: Final = (Verdict.ORPHANED, Verdict.SPENT_INPUT, Verdict.NO_SUCH_OUTPUT)


async def getrawtransaction(
    services: Services, wanted: str, verbosity: Any, blockhash: str | None
) -> Any:
    """See METHODS."""
    level = integer(int(verbosity), "verbosity", 0, 2)
    identity = hash_of(wanted, "txid")
    found = await services.asking.ask(Find(identity), Found)
    block = None if found.block is None else services.read(found.block)
    if blockhash is not None:
        block_id = hash_of(blockhash, "blockhash")
        if found.block is None or found.block.block_id != block_id:
            raise RpcError(
                Code.INVALID_ADDRESS_OR_KEY,
                "No such transaction found in the provided block",
            )
    raw = _bytes_of(found, block)
    if level == 0:
        return raw.hex()
    shown = shapes.transaction(raw, identity, services.prefix) | {"hex": raw.hex()}
    return shown | _where(found, block)


async def gettransaction(services: Services, wanted: str) -> dict[str, Any]:
    """See METHODS."""
    identity = hash_of(wanted, "txid")
    found = await services.asking.ask(Find(identity), Found)
    block = None if found.block is None else services.read(found.block)
    shown: dict[str, Any] = {"txid": wanted.lower()} | _where(found, block)
    if found.height == 0:
        return shown | {"confirmations": found.tip + 1, "category": "allocation"}
    if block is not None and found.position == len(block.txids):
        genesis = services.settings.genesis
        units = block.header.fees + reward_at(genesis, block.header.height)
        script = shapes.script(block.header.proposer, services.prefix)
        output = {"value": amount(units), "n": 0, "scriptPubKey": script}
        return shown | {"category": "reward", "vout": [output]}
    raw = _bytes_of(found, block)
    return shown | {
        "category": "payment",
        "hex": raw.hex(),
        "decoded": shapes.transaction(raw, identity, services.prefix),
    }


async def decoderawtransaction(services: Services, hexstring: str) -> dict[str, Any]:
    """See METHODS."""
    raw = _raw(hexstring)
    identity = txid(raw, services.settings.salt)
    shown = shapes.transaction(raw, identity, services.prefix)
    return shown | {"complete": signing.is_complete(raw)}


async def createrawtransaction(
    services: Services, inputs: list[Any], outputs: Any, locktime: Any, replaceable: bool
) -> str:
    """See METHODS."""
    integer(locktime, "locktime", 0, 0)
    outpoints = [_outpoint(each) for each in inputs]
    if not 1 <= len(outpoints) <= MAX_INPUTS:
        raise RpcError(Code.INVALID_PARAMETER, f"Invalid parameter, give 1 to {MAX_INPUTS} inputs")
    if len(set(outpoints)) != len(outpoints):
        raise RpcError(Code.INVALID_PARAMETER, "Invalid parameter, an input is there twice")
    pairs = _pairs(outputs)
    paid = [(_value(value), services.owner(address)) for address, value in pairs]
    if not 1 <= len(paid) <= MAX_OUTPUTS:
        raise RpcError(
            Code.INVALID_PARAMETER, f"Invalid parameter, give 1 to {MAX_OUTPUTS} outputs"
        )
    if len({owner for _, owner in paid}) != len(paid):
        raise RpcError(Code.INVALID_PARAMETER, "Invalid parameter, duplicated address")
    return signing.unsigned(outpoints, paid).hex()


async def signrawtransactionwithkey(
    services: Services, hexstring: str, privkeys: list[Any], prevtxs: list[Any]
) -> dict[str, Any]:
    """See METHODS."""
    raw = _raw(hexstring)
    if len(privkeys) > MAX_KEYS:
        raise RpcError(Code.INVALID_PARAMETER, f"More than {MAX_KEYS} keys")
    if len(prevtxs) > MAX_INPUTS:
        raise RpcError(Code.INVALID_PARAMETER, f"More than {MAX_INPUTS} outputs in prevtxs")
    try:
        keys = {bytes(key.verify_key): key for key in map(signing.key_of, privkeys)}
    except (ValueError, TypeError):
        raise RpcError(Code.INVALID_ADDRESS_OR_KEY, "Invalid private key") from None
    owners = dict(_previous(services, each) for each in prevtxs)
    spent = [outpoint for outpoint, _ in shapes.take_apart(raw).inputs]
    asked = tuple(outpoint for outpoint in spent if outpoint not in owners)
    if asked:
        found = await services.asking.ask(Outputs(asked), OutputsAre)
        for outpoint, row in zip(asked, found.rows, strict=True):
            if row is not None:
                owners[outpoint] = row.output[8:OUTPUT_BYTES]
    salt = services.settings.salt
    signed = await services.apart(lambda: signing.sign(raw, owners, keys, salt))
    shown: dict[str, Any] = {"hex": signed.raw.hex(), "complete": not signed.missing}
    if signed.missing:
        sorted_inputs = sorted(spent)
        shown["errors"] = [
            {
                "txid": sorted_inputs[at][:-1].hex(),
                "vout": sorted_inputs[at][-1],
                "error": why,
            }
            for at, why in signed.missing
        ]
    return shown


async def sendrawtransaction(services: Services, hexstring: str, maxfeerate: Any) -> str:
    """See METHODS."""
    raw = _raw(hexstring)
    identity = txid(raw, services.settings.salt)
    if maxfeerate is not None and (most := units_of(maxfeerate)):
        tried = await services.asking.ask(TryOut(identity, raw), Tried)
        if tried.fee * 1_000 > most * len(raw):
            raise RpcError(Code.VERIFY_ERROR, "Fee exceeds maximum configured by user (maxfeerate)")
    verdict = await services.submitter.submit(raw)
    if verdict not in HELD:
        raise _refusal(verdict)
    return identity.hex()


async def testmempoolaccept(services: Services, rawtxs: list[Any]) -> list[dict[str, Any]]:
    """See METHODS."""
    if not 1 <= len(rawtxs) <= MAX_TRIED:
        raise RpcError(
            Code.INVALID_PARAMETER, f"Array must contain between 1 and {MAX_TRIED} transactions."
        )
    if not all(isinstance(each, str) for each in rawtxs):
        raise RpcError(Code.TYPE_ERROR, "A transaction is a string")
    return [await _try_out(services, _raw(each)) for each in rawtxs]


async def _try_out(services: Services, raw: bytes) -> dict[str, Any]:
    settings = services.settings
    identity = txid(raw, settings.salt)
    shown: dict[str, Any] = {"txid": identity.hex(), "wtxid": identity.hex()}
    fee = 0
    try:
        decode_strictly(raw, settings.genesis.dust_limit)
        verdict = Verdict.ADMITTED
    except TransactionError as error:
        verdict = error.verdict
    if verdict is Verdict.ADMITTED:
        if not await services.apart(lambda: signing.all_signed(raw, identity)):
            verdict = Verdict.BAD_SIGNATURE
        else:
            tried = await services.asking.ask(TryOut(identity, raw), Tried)
            verdict, fee = Verdict(tried.verdict), tried.fee
    if verdict is Verdict.ADMITTED:
        return shown | {"allowed": True, "vsize": len(raw), "fees": {"base": amount(fee)}}
    return shown | {"allowed": False, "reject-reason": _reason(verdict)}


def _raw(hexstring: str) -> bytes:
    """The bytes of a transaction, whose length fits its counts."""
    if len(hexstring) > 2 * MAX_TX_BYTES:
        raise RpcError(Code.DESERIALIZATION_ERROR, "TX decode failed")
    try:
        raw = bytes.fromhex(hexstring)
    except ValueError:
        raise RpcError(Code.DESERIALIZATION_ERROR, "TX decode failed") from None
    shapes.check_length(raw)
    return raw


def _bytes_of(found: Found, block: Block | None) -> bytes:
    if found.raw:
        return found.raw
    if block is not None and found.position < len(block.transactions):
        return block.transactions[found.position]
    if block is not None:
        raise RpcError(
            Code.INVALID_ADDRESS_OR_KEY, "A block's reward has no bytes: see gettransaction"
        )
    if found.height == 0:
        raise RpcError(
            Code.INVALID_ADDRESS_OR_KEY,
            "The genesis block coinbase is not considered an ordinary transaction and cannot be "
            "retrieved",
        )
    raise RpcError(Code.INVALID_ADDRESS_OR_KEY, "No such mempool or blockchain transaction")


def _where(found: Found, block: Block | None) -> dict[str, Any]:
    if found.block is None or block is None:
        return {"confirmations": 0, "pending": found.pinned}
    return {
        "blockhash": found.block.block_id.hex(),
        "blockheight": found.block.height,
        "blockindex": found.position,
        "confirmations": found.tip - found.block.height + 1,
        "time": block.header.time_ms // 1_000,
        "blocktime": block.header.time_ms // 1_000,
    }


def _outpoint(given: Any) -> bytes:
    if not isinstance(given, dict) or not isinstance(given.get("txid"), str):
        raise RpcError(Code.INVALID_PARAMETER, "Invalid parameter, missing txid key")
    if "vout" not in given:
        raise RpcError(Code.INVALID_PARAMETER, "Invalid parameter, missing vout key")
    vout = integer(given["vout"], "vout", 0, MAX_OUTPUTS)
    return hash_of(given["txid"], "txid") + bytes((vout,))


def _pairs(outputs: Any) -> list[tuple[str, Any]]:
    tables = [outputs] if isinstance(outputs, dict) else outputs
    pairs: list[tuple[str, Any]] = []
    for table in tables:
        if not isinstance(table, dict) or (isinstance(outputs, list) and len(table) != 1):
            raise RpcError(
                Code.INVALID_PARAMETER,
                "Invalid parameter, key-value pair must contain exactly one key",
            )
        pairs += table.items()
    return pairs


def _value(given: Any) -> int:
    units = units_of(given)
    if units == 0:
        raise RpcError(Code.TYPE_ERROR, "Invalid amount")
    return units


def _previous(services: Services, given: Any) -> tuple[bytes, bytes]:
    """An outpoint and its owner, as the caller tells them."""
    outpoint = _outpoint(given)
    if isinstance(given.get("address"), str):
        return outpoint, services.owner(given["address"])
    script = given.get("scriptPubKey")
    if not isinstance(script, str):
        raise RpcError(Code.TYPE_ERROR, "Missing scriptPubKey")
    return outpoint, hash_of(script, "scriptPubKey")


def _reason(verdict: Verdict) -> str:
    if verdict is Verdict.ORPHANED:
        return "missing-inputs"
    if verdict in MISSING:
        return "bad-txns-inputs-missingorspent"
    if verdict is Verdict.KNOWN:
        return "txn-already-in-mempool"
    if verdict is Verdict.FINAL:
        return "txn-already-known"
    return verdict.name.lower().replace("_", "-")


def _refusal(verdict: Verdict) -> RpcError:
    if verdict is Verdict.FINAL:
        return RpcError(Code.ALREADY_IN_CHAIN, "Transaction already in block chain")
    if verdict is Verdict.ORPHANED:
        return RpcError(
            Code.VERIFY_ERROR, "missing-inputs (kept for a while, in case that its parents arrive)"
        )
    if verdict in MISSING:
        return RpcError(Code.VERIFY_ERROR, "bad-txns-inputs-missingorspent")
    if verdict in (Verdict.BAD_LENGTH, Verdict.BAD_VERSION):
        return RpcError(Code.DESERIALIZATION_ERROR, "TX decode failed")
    if verdict is Verdict.BUSY:
        return RpcError(Code.IN_WARMUP, "The node is busy: send fewer at once")
    return RpcError(Code.VERIFY_REJECTED, _reason(verdict))


METHODS = (
    Method(
        "getrawtransaction",
        "Rawtransactions",
        "Return a transaction of the mempool or of a block.",
        getrawtransaction,
        (
            TXID,
            Param("verbosity", "number or boolean", "0 for hexadecimal, 1 for an object.", 0),
            Param("blockhash", "string", "The block that it must be in.", None),
        ),
    ),
    Method(
        "decoderawtransaction",
        "Rawtransactions",
        "Return a transaction as an object; complete tells whether signatures are missing.",
        decoderawtransaction,
        (HEX,),
    ),
    Method(
        "createrawtransaction",
        "Rawtransactions",
        "Return an unsigned transaction in hexadecimal. What inputs bring beyond the outputs is "
        "the fee. Inputs come out sorted; the id is known from the first signing on.",
        createrawtransaction,
        (
            Param("inputs", "array", 'Objects such as {"txid": "id", "vout": n}.'),
            Param(
                "outputs", "array or object", 'Amounts by address, as [{"address": amount}, ...].'
            ),
            Param("locktime", "number", "There is none: 0.", 0),
            Param("replaceable", "boolean", "Every transaction is.", True),
        ),
    ),
    Method(
        "signrawtransactionwithkey",
        "Rawtransactions",
        "Sign a transaction with keys. What they cannot sign is told, and can be signed later.",
        signrawtransactionwithkey,
        (
            HEX,
            Param("privkeys", "array", "Seeds of 64 hexadecimal digits each.", secret=True),
            Param(
                "prevtxs",
                "array",
                'Owners of outputs that the node does not know: {"txid", "vout", "address"}.',
                [],
            ),
        ),
        '{"hex": the transaction, "complete": whether all is signed, "errors": what is not}',
    ),
    Method(
        "sendrawtransaction",
        "Rawtransactions",
        "Submit a transaction; returns its id when it is in the mempool. Neighbours in a batch go "
        "together.",
        sendrawtransaction,
        (
            HEX,
            Param(
                "maxfeerate",
                "number or string",
                "TIME per 1,000 bytes, at most; 0: any.",
                None,
            ),
        ),
        together=True,
    ),
    Method(
        "testmempoolaccept",
        "Rawtransactions",
        "Say whether the mempool would take transactions; each is judged alone.",
        testmempoolaccept,
        (Param("rawtxs", "array", f"Up to {MAX_TRIED} transactions in hexadecimal."),),
    ),
    Method(
        "gettransaction",
        "Rawtransactions",
        "Return a transaction and where it is; of a block's reward, what it pays.",
        gettransaction,
        (TXID,),
    ),
)
