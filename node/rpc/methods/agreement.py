"""Methods about agreement and the pipeline: what this node has and Bitcoin has not."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from node.address import encode_address
from node.durable import Directory
from node.evidence import EvidenceError, cases_in, doubt, read_evidence
from node.genesis import validator_set
from node.query import Overview, OverviewIs
from node.rpc.jsonrpc import Code, RpcError
from node.rpc.method import Method
from node.rpc.services import Services
from node.rpc.signing import is_signed
from pipeline.errors import NoNodeError
from pipeline.status import ask_status


async def getconsensusinfo(services: Services) -> dict[str, Any]:
    """See METHODS."""
    found = await services.asking.ask(Overview(), OverviewIs)
    settings = services.settings
    validators = validator_set(settings.genesis)
    proposer = validators.proposer(found.deciding, found.round)
    power = 0 if found.validator is None else validators.power(found.validator)
    return {
        "height": found.height,
        "deciding": found.deciding,
        "round": found.round,
        "step": found.step,
        "proposer": proposer,
        "validator": found.validator,
        "power": power,
        "total_power": validators.total,
        "quorum": 2 * validators.total // 3 + 1,
        "validators": validators.n,
        "catching_up": found.behind,
        "pace_ms": settings.pace_ms,
        "empty_pace_ms": settings.empty_pace_ms,
    }


async def getvalidators(services: Services) -> list[dict[str, Any]]:
    """See METHODS."""
    validators = services.settings.genesis.validators
    total = sum(each.power for each in validators)
    return [
        {
            "validator": number,
            "key": each.key,
            "address": encode_address(each.key_bytes, services.prefix),
            "power": each.power,
            "total_power": total,
        }
        for number, each in enumerate(validators)
    ]


async def getevidence(services: Services) -> list[dict[str, Any]]:
    """See METHODS."""
    return await services.apart(lambda: _cases(services))


def _cases(services: Services) -> list[dict[str, Any]]:
    settings = services.settings
    validators = validator_set(settings.genesis)
    directory = Directory(Path(settings.evidence_path))
    shown = []
    for case in cases_in(directory):
        try:
            found = read_evidence(directory, case, settings.genesis_id)
            why = doubt(found, validators, settings.salt, is_signed)
        except (EvidenceError, OSError) as error:
            why = str(error)
        shown.append({**case._asdict(), "proven": why is None, "doubt": why})
    return shown


async def getpipelineinfo(services: Services) -> dict[str, Any]:
    """See METHODS."""
    try:
        status = await services.apart(lambda: ask_status(services.settings.run_path, timeout_s=2.0))
    except NoNodeError as error:
        raise RpcError(Code.MISC_ERROR, str(error)) from None
    return {
        "state": status["state"],
        "uptime_s": int(status["uptime_s"]),
        "epoch": status["epoch"],
        "processes": status["processes"],
        "metrics": status["metrics"],
    }


METHODS = (
    Method("getconsensusinfo", "Consensus", "Return where agreement is.", getconsensusinfo),
    Method("getvalidators", "Consensus", "Return the validators and their powers.", getvalidators),
    Method(
        "getevidence",
        "Consensus",
        "Return what validators are accused of, and whether their signatures prove it.",
        getevidence,
    ),
    Method(
        "getpipelineinfo",
        "Consensus",
        "Return the node's processes and their metrics.",
        getpipelineinfo,
    ),
)
