"""Addresses of peers: "host:port" as operators write them, IP and port as sockets have them.

Text comes from configuration, peers and files; nothing is looked up here, so a name stays a name.
"""

from __future__ import annotations

from functools import lru_cache
from ipaddress import IPv4Address, IPv6Address, IPv6Network, ip_address
from typing import Final, NamedTuple

from node.network.handshake import ADDRESS_MAX_CHARACTERS

MAX_PORT: Final = 65_535
IPV6_SITE_BITS: Final = 64  # what one customer gets, so what one ban is for
_CACHED: Final = 1_024


class AddressError(ValueError):
    """Text that is no "host:port"."""


class Address(NamedTuple):
    """Where a node listens; `host` is an IP in its shortest form, or a name."""

    host: str
    port: int

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


def parse_address(text: str) -> Address:
    """Read "host:port" or "[host]:port"; raises AddressError. Port 0 is allowed."""
    if len(text) > ADDRESS_MAX_CHARACTERS:
        raise AddressError("too long for an address")
    host, colon, port = text.rpartition(":")
    bracketed = host.startswith("[") and host.endswith("]")
    if bracketed:
        host = host[1:-1]
    if not colon or not host or (":" in host) != bracketed:
        raise AddressError(f"{text!r} is not host:port (or [host]:port)")
    if not (port.isascii() and port.isdecimal() and len(port) <= 5 and int(port) <= MAX_PORT):
        raise AddressError(f"{text!r} has no port from 0 to {MAX_PORT}")
    ip = _ip(host)
    if ip is None and not _is_name(host):
        raise AddressError(f"{text!r} names no host")
    return Address(host if ip is None else str(ip), int(port))


def is_numeric(host: str) -> bool:
    """Whether a host is an IP and no name."""
    return _ip(host) is not None


def plain_ip(host: str) -> str:
    """The shortest form of an IP that a socket told, an IPv4 one as such; a name stays one."""
    ip = _ip(host.partition("%")[0])
    return host if ip is None else str(ip)


def is_loopback(host: str) -> bool:
    """Whether an IP never leaves this machine."""
    ip = _ip(host)
    return ip is not None and ip.is_loopback


@lru_cache(_CACHED)
def site_of(host: str) -> str:
    """What a ban of an IP is for: the IPv4 address, or the /64 of an IPv6 one."""
    ip = _ip(host)
    if isinstance(ip, IPv6Address) and not ip.is_loopback:
        return str(IPv6Network((ip, IPV6_SITE_BITS), strict=False))
    return host


@lru_cache(_CACHED)
def group_of(host: str) -> str:
    """A neighbourhood that one owner is likely to control: /16 of IPv4, /32 of IPv6."""
    ip = _ip(host)
    if isinstance(ip, IPv4Address):
        return ".".join(str(ip).split(".")[:2])
    if isinstance(ip, IPv6Address):
        return str(IPv6Network((ip, 32), strict=False))
    return host


def worth_dialling(address: Address, heard_from: str) -> bool:
    """Whether an address that a peer told may be dialled at all.

    Inside addresses are believed only from inside: nobody out there makes this node knock at
    doors of its own network.
    """
    ip = _ip(address.host)
    if ip is None or address.port == 0:
        return False
    if ip.is_unspecified or ip.is_multicast or ip.is_reserved or ip.is_link_local:
        return False
    source = _ip(heard_from)
    if ip.is_loopback:
        return source is not None and source.is_loopback
    if ip.is_private:
        return source is not None and source.is_private
    return True


@lru_cache(_CACHED)
def _ip(host: str) -> IPv4Address | IPv6Address | None:
    try:
        ip = ip_address(host)
    except ValueError:
        return None
    if isinstance(ip, IPv6Address):
        return ip.ipv4_mapped or ip
    return ip


def _is_name(host: str) -> bool:
    return host.isascii() and all(
        label and label.replace("-", "").replace("_", "").isalnum() for label in host.split(".")
    )
