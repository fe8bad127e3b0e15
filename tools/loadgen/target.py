"""Where a node listens, read from its data directory for whoever does not type endpoints."""

from __future__ import annotations

from pathlib import Path

from node.config import parse
from node.datadir import layout
from node.errors import NodeError
from node.genesis import GenesisError, read_genesis
from tools.loadgen.errors import LoadError

_EVERYWHERE = ("*", "0.0.0.0", "[::]")


def endpoints(datadir: Path) -> tuple[str, str]:
    """Return the ingest and the notification endpoint of the node with this data directory.

    Raises LoadError when the directory is none, or its configuration is not valid.
    """
    where = layout(datadir)
    try:
        genesis = read_genesis(where.genesis)
        config = parse(where.config.read_bytes(), str(where.config), genesis.chain)
    except OSError as error:
        raise LoadError(
            f"cannot read {error.filename}: {error.strerror}", "give the node's --datadir"
        ) from None
    except GenesisError as error:
        raise LoadError(error.message, "give the node's --datadir") from None
    except NodeError as error:
        raise LoadError(error.cause, error.remedy) from None
    return reachable(config.network.listen), reachable(config.network.notify)


def reachable(endpoint: str) -> str:
    """Return where to connect to a listener on this endpoint: loopback if it listens everywhere."""
    scheme, _, rest = endpoint.partition("://")
    host, _, port = rest.rpartition(":")
    return f"{scheme}://127.0.0.1:{port}" if host in _EVERYWHERE else endpoint
