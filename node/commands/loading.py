"""What a data directory says, read and checked: the start of every command that works in one."""

from __future__ import annotations

from dataclasses import dataclass

from node import config, credentials, datadir, settings
from node.config import Config
from node.datadir import Layout
from node.errors import DatadirError, from_os_error
from node.genesis import Genesis, genesis_id, read_genesis
from node.settings import NodeSettings


@dataclass(frozen=True, slots=True)
class Loaded:
    """Configuration, genesis and settings of one data directory."""

    config: Config
    genesis: Genesis
    settings: NodeSettings


def load_genesis(where: Layout, marked_id: bytes) -> Genesis:
    """The genesis, which must be the one that the directory was made for (``datadir.check``)."""
    genesis = read_genesis(where.genesis)
    if genesis_id(genesis) != marked_id:
        raise DatadirError(
            f"{where.genesis} is not the genesis that this directory was made for "
            f"({marked_id.hex()[:16]}...)",
            "put that genesis back; for another chain make another directory with timed init",
        )
    return genesis


def load_config(where: Layout, genesis: Genesis) -> Config:
    """The configuration, on top of the defaults of the genesis' network."""
    try:
        text = datadir.read_small(where.config, config.MAX_CONFIG_BYTES)
    except OSError as error:
        raise from_os_error(error, str(where.config)) or error from None
    return config.parse(text, str(where.config), config.network_of(genesis.chain))


def load(where: Layout, *, terminal: bool) -> Loaded:
    """Everything at once; raises an ``OperatorError`` for the first that is
    wrong.
    """
    genesis = load_genesis(where, datadir.check(where))
    configured = load_config(where, genesis)
    return Loaded(configured, genesis, resolve(configured, genesis, where, terminal=terminal))


def resolve(config: Config, genesis: Genesis, where: Layout, *, terminal: bool) -> NodeSettings:
    """The settings of a node on this directory; its key may be one of the service's credentials."""
    key = credentials.find(credentials.VALIDATOR_KEY)
    return settings.resolve(config, genesis, where, terminal=terminal, validator_key=key)
