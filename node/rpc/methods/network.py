"""Methods about other nodes: who is connected, whom to dial, who is banned.

What is known of peers lies in the file that ``net`` keeps (`node.peers_file`), bans in the file
that it shares with the operator (`node.network.bans_file`); orders to ``net`` go over a link.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final, TypeVar

from node import __version__
from node.network.address import AddressError, is_numeric, parse_address, plain_ip
from node.network.bans import BAN_MAX_MS, BAN_MS
from node.network.bans_file import BansFileError, Busy, clear, lift, put, read_bans
from node.orders import Drop, Forget, Keep, Order, TryOnce, encode_order
from node.peers_file import PeerRow, read_peers
from node.rpc.jsonrpc import Code, RpcError, amount
from node.rpc.method import Method, Param, integer
from node.rpc.services import Services

BUSY_S: Final = 2.0  # the other one needs a millisecond
RETRY_S: Final = 0.02

T = TypeVar("T")


async def getnetworkinfo(services: Services) -> dict[str, Any]:
    """See METHODS."""
    settings = services.settings
    peers = _peers(services)
    release = __version__
    numbers = [int(each) for each in release.split(".")[:3] if each.isdigit()]
    number = sum(each * 100 ** (2 - at) for at, each in enumerate(numbers))
    outbound = sum(each.direction == "out" for each in peers)
    return {
        "version": number,
        "subversion": f"/timed:{release}/",
        "protocolversion": max((each.version for each in peers), default=1),
        "localrelay": True,
        "networkactive": True,
        "connections": len(peers),
        "connections_in": len(peers) - outbound,
        "connections_out": outbound,
        "networks": [],
        "relayfee": amount(settings.policy.relay_fee_per_kb),
        "incrementalfee": amount(settings.policy.replacement_increment),
        "localaddresses": [settings.peer_listen] if settings.peer_listen else [],
        "warnings": "",
    }


async def getpeerinfo(services: Services) -> list[dict[str, Any]]:
    """See METHODS."""
    return [
        {
            "id": each.number,
            "addr": each.address,
            "inbound": each.direction == "in",
            "version": each.version,
            "subver": each.agent,
            "synced_blocks": each.height,
            "synced_headers": each.height,
            "banscore": each.score,
            "node_id": each.node_id,
            "protected": each.protected,
            "validator": each.validator,
        }
        for each in _peers(services)
    ]


async def getconnectioncount(services: Services) -> int:
    """See METHODS."""
    return len(_peers(services))


async def addnode(services: Services, node: str, command: str) -> None:
    """See METHODS."""
    _check_address(node)
    orders: dict[str, Callable[[str], Order]] = {"add": Keep, "remove": Forget, "onetry": TryOnce}
    if command not in orders:
        raise RpcError(Code.MISC_ERROR, "command must be add, remove or onetry")
    if command == "onetry" and not is_numeric(parse_address(node).host):
        raise RpcError(Code.INVALID_PARAMETER, "onetry takes an IP address and a port")
    services.order(encode_order(orders[command](node)))


async def disconnectnode(services: Services, address: str, nodeid: Any) -> None:
    """See METHODS."""
    peers = _peers(services)
    if nodeid is not None:
        if address:
            raise RpcError(
                Code.INVALID_PARAMS, "Only one of address and nodeid should be provided."
            )
        number = integer(nodeid, "nodeid", 0, 2**63 - 1)
        found = [each for each in peers if each.number == number]
    else:
        found = [each for each in peers if each.address == address]
    if not found:
        raise RpcError(Code.CLIENT_NOT_CONNECTED, "Node not found in connected nodes")
    for each in found:
        services.order(encode_order(Drop(each.number)))


async def setban(
    services: Services, subnet: str, command: str, bantime: Any, absolute: bool
) -> None:
    """See METHODS."""
    host = plain_ip(subnet)
    if not is_numeric(host.partition("/")[0]):
        raise RpcError(Code.INVALID_IP_OR_SUBNET, "Error: Invalid IP/Subnet")
    path = _bans_path(services)
    now_ms = _now_ms()
    if command == "add":
        seconds = integer(bantime, "bantime", 0, 2**40)
        for_ms = seconds * 1_000 - (now_ms if absolute else 0) if seconds else BAN_MS
        if for_ms <= 0 or "/" in host:
            raise RpcError(
                Code.INVALID_PARAMETER, "Give an address without a mask, and a time to come"
            )
        for_ms = min(for_ms, BAN_MAX_MS)
        await _in_turn(services, lambda: put(path, host, "manually added", now_ms, for_ms))
    elif command == "remove":
        if await _in_turn(services, lambda: lift(path, host, now_ms)) is None:
            raise RpcError(
                Code.INVALID_IP_OR_SUBNET,
                "Error: Unban failed. Requested address/subnet was not previously manually banned.",
            )
    else:
        raise RpcError(Code.MISC_ERROR, "command must be add or remove")


async def listbanned(services: Services) -> list[dict[str, Any]]:
    """See METHODS."""
    now_ms = _now_ms()
    found = await _in_turn(services, lambda: read_bans(_bans_path(services), now_ms))
    return [
        {
            "address": site,
            "banned_until": until_ms // 1_000,
            "time_remaining": (until_ms - now_ms) // 1_000,
            "ban_reason": reason,
        }
        for site, (until_ms, reason) in sorted(found.items())
    ]


async def clearbanned(services: Services) -> None:
    """See METHODS."""
    await _in_turn(services, lambda: clear(_bans_path(services)))


def _peers(services: Services) -> list[PeerRow]:
    """The peers as ``net`` tells them; none if the file is left of one that was killed."""
    found = read_peers(Path(services.settings.run_path))
    if found is None:
        return []
    try:
        os.kill(found.pid, 0)
    except OSError:
        return []
    return found.peers


async def _in_turn(services: Services, work: Callable[[], T]) -> T:
    """Work on the file of bans, outside of the loop: somebody else may be writing it."""

    def retry() -> T:
        deadline_s = time.monotonic() + BUSY_S
        while True:
            try:
                return work()
            except Busy:
                if time.monotonic() >= deadline_s:
                    raise BansFileError("another process is writing the file of bans") from None
                time.sleep(RETRY_S)

    try:
        return await services.apart(retry)
    except BansFileError as error:
        raise RpcError(Code.MISC_ERROR, str(error)) from None


def _check_address(text: str) -> None:
    try:
        port = parse_address(text).port
    except AddressError as error:
        raise RpcError(Code.INVALID_IP_OR_SUBNET, f"Error: {error}") from None
    if not port:
        raise RpcError(Code.INVALID_IP_OR_SUBNET, "Error: give a port, as in 192.0.2.1:24100")


def _bans_path(services: Services) -> str:
    return str(Path(services.settings.network_path) / "bans.json")


def _now_ms() -> int:
    return time.time_ns() // 1_000_000


METHODS = (
    Method("getnetworkinfo", "Network", "Return facts about this node.", getnetworkinfo),
    Method("getpeerinfo", "Network", "Return the peers.", getpeerinfo),
    Method("getconnectioncount", "Network", "Return how many peers there are.", getconnectioncount),
    Method(
        "addnode",
        "Network",
        "Stay connected with a node until the next start, cease to, or dial it once.",
        addnode,
        (
            Param("node", "string", "Its host:port."),
            Param("command", "string", "add, remove or onetry."),
        ),
    ),
    Method(
        "disconnectnode",
        "Network",
        "Disconnect a peer.",
        disconnectnode,
        (
            Param("address", "string", "As getpeerinfo tells it.", ""),
            Param("nodeid", "number", "Or its id.", None),
        ),
    ),
    Method(
        "setban",
        "Network",
        "Ban an address, or lift its ban; the node follows within seconds.",
        setban,
        (
            Param("subnet", "string", "The IP address; of IPv6 its /64 is meant."),
            Param("command", "string", "add or remove."),
            Param("bantime", "number", "Seconds; 0 is a day.", 0),
            Param("absolute", "boolean", "bantime is a time since 1970.", False),
        ),
    ),
    Method("listbanned", "Network", "Return all bans.", listbanned),
    Method("clearbanned", "Network", "Lift all bans.", clearbanned),
)
