"""Transactions, headers and outputs as JSON, in the shapes that Bitcoin's clients look for.

Bytes come from block files and the mempool, dictionaries for `node.rpc.jsonrpc.encode` go out;
pure. What this chain has and Bitcoin has not (witness numbers, proposers) stands beside under names
of its own. An unsigned transaction has no witnesses: 0 in its header, and nothing behind its
outputs.
"""

from __future__ import annotations

import struct
from typing import Any, Final, NamedTuple

from node.address import encode_address
from node.block import BlockHeader
from node.params import (
    INPUT_BYTES,
    KEY_BYTES,
    MAX_TX_BYTES,
    OUTPOINT_BYTES,
    OUTPUT_BYTES,
    TX_HEADER_BYTES,
    TX_VERSION,
    WITNESS_BYTES,
)
from node.rpc.jsonrpc import Code, RpcError, amount

_U64: Final = struct.Struct("<Q")


class Parts(NamedTuple):
    """A transaction taken apart, whatever it is worth: outpoint[33] and witness number of each
    input, value and owner of each output, key and signature of each witness.
    """

    inputs: list[tuple[bytes, int]]
    outputs: list[tuple[int, bytes]]
    witnesses: list[tuple[bytes, bytes]]


def check_length(raw: bytes) -> None:
    """Raise `RpcError` (DESERIALIZATION_ERROR) for bytes that have no room for what they name."""
    if not TX_HEADER_BYTES <= len(raw) <= MAX_TX_BYTES or raw[0] != TX_VERSION:
        raise RpcError(Code.DESERIALIZATION_ERROR, "TX decode failed")
    length = INPUT_BYTES * raw[1] + OUTPUT_BYTES * raw[2] + WITNESS_BYTES * raw[3]
    if not raw[1] or not raw[2] or len(raw) != TX_HEADER_BYTES + length:
        raise RpcError(Code.DESERIALIZATION_ERROR, "TX decode failed")


def take_apart(raw: bytes) -> Parts:
    """Return the parts of a transaction, signed, half signed or unsigned.

    Only its length is judged, as `check_length` does.
    """
    check_length(raw)
    outputs_at = TX_HEADER_BYTES + INPUT_BYTES * raw[1]
    witnesses_at = outputs_at + OUTPUT_BYTES * raw[2]
    return Parts(
        [
            (raw[at : at + OUTPOINT_BYTES], raw[at + OUTPOINT_BYTES])
            for at in range(TX_HEADER_BYTES, outputs_at, INPUT_BYTES)
        ],
        [
            (_U64.unpack_from(raw, at)[0], raw[at + 8 : at + OUTPUT_BYTES])
            for at in range(outputs_at, witnesses_at, OUTPUT_BYTES)
        ],
        [
            (raw[at : at + KEY_BYTES], raw[at + KEY_BYTES : at + WITNESS_BYTES])
            for at in range(witnesses_at, len(raw), WITNESS_BYTES)
        ],
    )


def transaction(raw: bytes, txid: bytes, prefix: str) -> dict[str, Any]:
    """A transaction, its id given; ``prefix`` is that of the network's addresses."""
    parts = take_apart(raw)
    return {
        "txid": txid.hex(),
        "hash": txid.hex(),
        "version": raw[0],
        "size": len(raw),
        "vsize": len(raw),
        "locktime": 0,
        "vin": [
            {"txid": outpoint[:-1].hex(), "vout": outpoint[-1], "witness": witness}
            for outpoint, witness in parts.inputs
        ],
        "vout": [
            {"value": amount(value), "n": number, "scriptPubKey": script(owner, prefix)}
            for number, (value, owner) in enumerate(parts.outputs)
        ],
        "witnesses": [
            {"key": key.hex(), "signature": signature.hex()} for key, signature in parts.witnesses
        ],
    }


def script(owner: bytes, prefix: str) -> dict[str, str]:
    """An owner where Bitcoin has a script: clients look for the address in it."""
    return {
        "address": encode_address(owner, prefix),
        "type": "pubkey",
        "hex": owner.hex(),
    }


def header(
    found: BlockHeader, block_id: bytes, tip: int, following: bytes | None, prefix: str
) -> dict[str, Any]:
    """A committed block's header; ``following`` is the id of the block above it, if any."""
    shown: dict[str, Any] = {
        "hash": block_id.hex(),
        "confirmations": tip - found.height + 1,
        "height": found.height,
        "version": found.version,
        "versionHex": f"{found.version:08x}",
        "merkleroot": found.transaction_root.hex(),
        "time": found.time_ms // 1_000,
        "mediantime": found.time_ms // 1_000,
        "time_ms": found.time_ms,
        "nTx": found.n_transactions,
        "fees": amount(found.fees),
        "proposer": encode_address(found.proposer, prefix),
        "previousblockhash": found.previous.hex(),
    }
    if following is not None:
        shown["nextblockhash"] = following.hex()
    return shown
