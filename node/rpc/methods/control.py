"""Methods about the node as a program: help, uptime, levels of the log, the end."""

from __future__ import annotations

import time
from typing import Any

from node.rpc.jsonrpc import Code, RpcError
from node.rpc.method import Method, Param, listing
from node.rpc.services import Services
from pipeline.errors import NoNodeError
from pipeline.status import ask_logging


async def help_(services: Services, command: str) -> str:
    """See METHODS."""
    from node.rpc.methods import METHODS as everything

    if not command:
        return listing(everything).rstrip("\n")
    for method in everything:
        if method.name == command:
            return method.help.rstrip("\n")
    return f"help: unknown command: {command[:64]}"


async def uptime(services: Services) -> int:
    """See METHODS."""
    return (time.monotonic_ns() - services.started_ns) // 1_000_000_000


async def getrpcinfo(services: Services) -> dict[str, Any]:
    """See METHODS."""
    now_ns = time.monotonic_ns()
    return {
        "active_commands": [
            {"method": name, "duration": (now_ns - since_ns) // 1_000}
            for name, since_ns in services.running.values()
        ],
        "logpath": "",
    }


async def stop(services: Services) -> str:
    """See METHODS."""
    services.log.info("stop_asked", by="rpc")
    services.stop_node()
    return "timed stopping"


async def logging(services: Services, levels: dict[str, Any]) -> Any:
    """See METHODS."""
    for stage, level in levels.items():
        if not isinstance(level, str):
            raise RpcError(Code.TYPE_ERROR, f"The level of {stage[:64]} is not a string")
    try:
        return await services.apart(lambda: ask_logging(services.settings.run_path, levels))
    except NoNodeError as error:
        raise RpcError(Code.INVALID_PARAMETER, str(error)) from None


METHODS = (
    Method(
        "help",
        "Control",
        "List all methods, or explain one.",
        help_,
        (Param("command", "string", "Which.", ""),),
    ),
    Method("uptime", "Control", "Return for how many seconds this stage has run.", uptime),
    Method("getrpcinfo", "Control", "Return the calls that are being worked on.", getrpcinfo),
    Method(
        "logging",
        "Control",
        "Return what the node's processes log, after changing it.",
        logging,
        (Param("levels", "object", 'Levels by stage, as {"net": "debug"}.', {}),),
    ),
    Method("stop", "Control", "Stop the node, in order.", stop),
)
