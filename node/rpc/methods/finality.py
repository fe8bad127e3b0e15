"""Methods about how final a transaction is: asked now, or waited for.

``consensus`` says where a transaction is, the certificate of its block who has decided it.
"""

from __future__ import annotations

from typing import Any, Final

from node.consensus.messages import Certified
from node.consensus.wire import WireError, decode
from node.genesis import validator_set
from node.query import Decision, DecisionIs, Find, Found
from node.rpc.method import Method, Param, hash_of, integer
from node.rpc.services import Services

MAX_WAIT_MS: Final = 600_000
TXID: Final = Param("txid", "string", "The transaction's id.")


async def gettransactionfinality(services: Services, wanted: str) -> dict[str, Any]:
    """See METHODS."""
    identity = hash_of(wanted, "txid")
    found = await services.asking.ask(Find(identity), Found)
    shown: dict[str, Any] = {"txid": identity.hex(), "final": found.height is not None}
    if found.height is None:
        status = "unknown"
        if found.raw:
            status = "pending" if found.pinned else "admitted"
        return shown | {"status": status, "confirmations": 0}
    shown |= {"status": "finalised", "confirmations": found.tip - found.height + 1}
    shown |= {"blockheight": found.height}
    if found.block is None:  # the genesis says so
        return shown | {"blockhash": services.settings.genesis_id.hex()}
    decision = await services.asking.ask(Decision(found.height), DecisionIs)
    shown |= {"blockhash": found.block.block_id.hex()}
    return shown | _certificate(services, decision.certificate)


async def waittransactionfinality(services: Services, wanted: str, timeout: Any) -> dict[str, Any]:
    """See METHODS."""
    identity = hash_of(wanted, "txid")
    timeout_ms = integer(timeout, "timeout", 0, MAX_WAIT_MS)
    await services.finalities.wait(identity, timeout_ms / 1_000)
    return await gettransactionfinality(services, wanted)


def _certificate(services: Services, data: bytes) -> dict[str, Any]:
    try:
        certified = decode(data)
    except WireError:
        return {}
    assert isinstance(certified, Certified)
    validators = validator_set(services.settings.genesis)
    signers = [validator for validator, _ in certified.certificate.signatures]
    return {
        "round": certified.certificate.round,
        "signers": signers,
        "power": sum(validators.power(each) for each in signers),
        "total_power": validators.total,
    }


METHODS = (
    Method(
        "gettransactionfinality",
        "Rawtransactions",
        "Return how final a transaction is.",
        gettransactionfinality,
        (TXID,),
        "status is unknown, admitted (in the mempool), pending (in a proposed block) or finalised, "
        "which is for ever; signers are the validators whose votes prove it.",
    ),
    Method(
        "waittransactionfinality",
        "Rawtransactions",
        "Wait until a transaction is final, then return what gettransactionfinality does. Not in "
        "batches.",
        waittransactionfinality,
        (TXID, Param("timeout", "number", "Milliseconds to wait at most.", 30_000)),
        waits=True,
    ),
)
