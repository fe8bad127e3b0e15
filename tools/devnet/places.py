"""Where each node of a network lies and listens, and what its config.toml says.

Options come in, ``Place`` values and the text of a configuration go out. Pure, but for asking the
system for ports. A node has ten ports to itself; those in use lie as on the public networks: peers,
(queries,) transactions, notifications.
"""

from __future__ import annotations

import json
import re
import socket
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from node.config import example
from tools.devnet.errors import DevnetError
from tools.ports import HOST, free_ports

DEFAULT_BASE_PORT: Final = 24_400
PORTS_PER_NODE: Final = 10
MAX_NODES: Final = 32
"""Five processes each, and every node talks to every other."""

_PEER, _RPC, _INGEST, _NOTIFY = 0, 1, 2, 3  # from a node's first port

Value = str | int | Sequence[str]
Sections = Mapping[str, Mapping[str, Value]]


@dataclass(frozen=True, slots=True)
class Place:
    """One node: its number, its directory (data and log below it), its four ports."""

    number: int
    root: Path
    peer_port: int
    rpc_port: int
    ingest_port: int
    notify_port: int

    @property
    def name(self) -> str:
        """What people read: "node-0"."""
        return f"node-{self.number}"

    @property
    def datadir(self) -> Path:
        """Its data directory."""
        return self.root / "data"

    @property
    def log(self) -> Path:
        """What it writes to standard error."""
        return self.root / "node.log"

    @property
    def peer(self) -> str:
        """Where others connect, host:port."""
        return f"{HOST}:{self.peer_port}"

    @property
    def rpc(self) -> str:
        """Where it answers JSON-RPC, host:port."""
        return f"{HOST}:{self.rpc_port}"

    @property
    def ingest(self) -> str:
        """Where clients send transactions."""
        return f"tcp://{HOST}:{self.ingest_port}"

    @property
    def notify(self) -> str:
        """Where it announces what is final."""
        return f"tcp://{HOST}:{self.notify_port}"


def places(directory: Path, nodes: int, base_port: int) -> tuple[Place, ...]:
    """Return the places of so many nodes; ``base_port`` 0 takes ports that are free now.

    Raises DevnetError: an impossible number of nodes or port, or a port in use.
    """
    if not 1 <= nodes <= MAX_NODES:
        raise DevnetError(
            f"a network of {nodes} nodes is impossible here", f"give --nodes 1 to {MAX_NODES}"
        )
    if base_port == 0:
        ports = free_ports(4 * nodes)
        own = [tuple(ports[4 * n : 4 * n + 4]) for n in range(nodes)]
    else:
        last = base_port + PORTS_PER_NODE * nodes - 1
        if not (base_port >= 1_024 and last <= 65_535):
            raise DevnetError(
                f"{nodes} nodes do not fit into ports {base_port} to {last}",
                "give a --base-port from 1024, with ten ports for each node up to 65535",
            )
        first = [base_port + PORTS_PER_NODE * n for n in range(nodes)]
        own = [(port + _PEER, port + _RPC, port + _INGEST, port + _NOTIFY) for port in first]
        _check_free([port for four in own for port in four])
    return tuple(
        Place(number, directory / f"node-{number}", *four) for number, four in enumerate(own)
    )


def _check_free(ports: Sequence[int]) -> None:
    for port in ports:
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind((HOST, port))
            except OSError as error:
                raise DevnetError(
                    f"port {port} cannot be had ({error.strerror})",
                    "give another --base-port, or stop what listens there",
                ) from None


def shared_machine(nodes: int, cores: int) -> Sections:
    """Return what nodes that share a machine are configured with: none takes cores for itself."""
    if nodes == 1:
        return {}
    return {"pipeline": {"cores": "off"}, "verify": {"workers": max(1, cores // nodes)}}


def configuration(place: Place, peers: Sequence[str], sections: Sections, network: str) -> str:
    """Return config.toml of a node: the explained example with this node's values filled in.

    ``peers`` are the addresses (host:port) that it dials, ``sections`` whatever else is to differ
    from the defaults of ``network``. Raises KeyError for a key that the example does not have.
    """
    own: dict[str, Value] = {
        "listen": place.ingest,
        "notify": place.notify,
        "peer_listen": place.peer,
        "peers": list(peers),
    }
    wanted = {(section, key): value for section, keys in sections.items()
              for key, value in keys.items()}  # fmt: skip
    wanted |= {("network", key): value for key, value in own.items()}
    wanted.setdefault(("rpc", "listen"), place.rpc)
    lines = []
    section = ""
    for line in example(network).splitlines():
        if heading := re.fullmatch(r"\[(\w+)\]", line):
            section = heading[1]
        shown = re.fullmatch(r"#(\w+) = .*", line)
        if shown is not None and (section, shown[1]) in wanted:
            line = f"{shown[1]} = {json.dumps(wanted.pop((section, shown[1])))}"
        lines.append(line)
    if wanted:
        raise KeyError(f"config.toml has no {sorted(wanted)}")
    return "\n".join(lines) + "\n"
