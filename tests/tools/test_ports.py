"""Ports that stay free until somebody listens on them."""

from __future__ import annotations

import socket
from contextlib import ExitStack
from pathlib import Path

from tools.ports import FIRST, HOST, LAST, free_ports

OUTGOING = Path("/proc/sys/net/ipv4/ip_local_port_range")


def test_ports_are_free_and_different() -> None:
    ports = free_ports(20)
    assert len(set(ports)) == 20
    with ExitStack() as stack:
        for port in ports:
            stack.enter_context(socket.socket()).bind((HOST, port))
        assert not set(ports) & set(free_ports(20))


def test_no_outgoing_connection_takes_them() -> None:
    first, last = map(int, OUTGOING.read_text().split())
    assert first > LAST or last < FIRST
