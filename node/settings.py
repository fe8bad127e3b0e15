"""What the stages need to know, resolved once in the parent and handed to every child.

Comes from config.toml, the genesis and the data directory's layout; travels pickled, through the
supervisor, to each stage as ``StageContext.settings``. Holds no secret: the validator's key stays
in its file, and whoever signs reads it there. Units are the stages' (bytes, milliseconds), not the
operator's.
"""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import msgspec

from node.config import Config, RpcSection, network_of
from node.datadir import Layout
from node.genesis import Genesis, genesis_id, salt_of
from node.policy import PolicyLimits

BYTES_PER_MB = 1 << 20


class NodeSettings(msgspec.Struct, frozen=True, kw_only=True):
    """Everything that a stage of this node may know; frozen, picklable."""

    network: str  # "main", "test" or "dev"
    genesis: Genesis
    genesis_id: bytes  # 32 bytes
    salt: bytes  # genesis_id[:16], of every id of this chain

    # absolute paths
    datadir: str
    allocations_path: str
    validator_key_path: str
    store_path: str
    blocks_path: str
    wal_path: str
    signer_path: str
    mempool_path: str
    network_path: str
    evidence_path: str
    run_path: str

    ingest_address: str  # ZeroMQ endpoint, tcp://
    notify_address: str
    peer_listen: str  # host:port, "" for nowhere
    peers: tuple[str, ...]  # host:port
    max_inbound: int
    max_outbound: int
    backend: Literal["auto", "avx512", "nacl"]
    policy: PolicyLimits
    pace_ms: int
    empty_pace_ms: int
    cache_mb: int  # MiB
    write_buffer_mb: int  # MiB
    net_memory_mb: int | None  # MiB, resident, of net without the trays; the supervisor sees to it
    rpc: RpcSection
    address_index: bool
    log_level: str
    log_format: (
        str  # "human" or "json": auto is resolved in the parent, whose stderr the children share
    )


def resolve(
    config: Config,
    genesis: Genesis,
    layout: Layout,
    *,
    terminal: bool,
    validator_key: Path | None = None,
) -> NodeSettings:
    """Bring configuration, genesis and paths together.

    ``terminal``: whether standard error is one, which decides log.format = "auto".
    ``validator_key``: where the key is, if not in the data directory.
    """
    identity = genesis_id(genesis)
    mempool = config.mempool
    log_format = config.log.format
    if log_format == "auto":
        log_format = "human" if terminal else "json"
    return NodeSettings(
        network=network_of(genesis.chain),
        genesis=genesis,
        genesis_id=identity,
        salt=salt_of(identity),
        datadir=str(layout.root),
        allocations_path=str(layout.allocations),
        validator_key_path=str(validator_key or layout.validator_key),
        store_path=str(layout.store),
        blocks_path=str(layout.blocks),
        wal_path=str(layout.wal),
        signer_path=str(layout.signer),
        mempool_path=str(layout.mempool),
        network_path=str(layout.network),
        evidence_path=str(layout.evidence),
        run_path=str(layout.run),
        ingest_address=config.network.listen,
        notify_address=config.network.notify,
        peer_listen=config.network.peer_listen,
        peers=config.network.peers,
        max_inbound=config.network.max_inbound,
        max_outbound=config.network.max_outbound,
        backend=config.verify.backend,
        policy=PolicyLimits(
            max_count=mempool.max_transactions,
            max_bytes=mempool.max_mb * BYTES_PER_MB,
            relay_fee_per_kb=mempool.relay_fee_per_kb,
            max_ancestors=mempool.max_ancestors,
            replacement_increment=mempool.replacement_increment,
            expiry_ms=mempool.expiry_s * 1_000,
            max_orphans=mempool.max_orphans,
            max_orphan_bytes=mempool.max_orphan_mb * BYTES_PER_MB,
        ),
        pace_ms=config.block.pace_ms,
        empty_pace_ms=config.block.empty_pace_s * 1_000,
        cache_mb=config.store.cache_mb,
        write_buffer_mb=config.store.write_buffer_mb,
        net_memory_mb=config.pipeline.net_memory_mb or None,
        rpc=config.rpc,
        address_index=config.store.address_index,
        log_level=config.log.level,
        log_format=log_format,
    )
