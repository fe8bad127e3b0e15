"""``timed run``: everything that can be checked is checked, then the supervisor takes over.

Holds the data directory's lock for as long as the node lives. Signatures and keys are never
touched in this process: what has to be known about them is found out by a child that ends before
the node starts (``node.commands.preflight``).
"""

from __future__ import annotations

import os
import platform
import shutil
import socket
import sys

import msgspec

from node import datadir, logs
from node.commands import __version__, preflight
from node.commands.addresses import check_addresses
from node.commands.loading import load
from node.datadir import Layout
from node.settings import NodeSettings
from node.wiring import wire
from pipeline.errors import OPERATOR_EXIT_STATUS, OperatorError
from pipeline.layout import TrayLayout
from pipeline.supervisor import Supervisor
from pipeline.topology import Topology, processes


def run(where: Layout) -> int:
    """Run the node; returns when it has stopped, with the process's exit status."""
    os.umask(0o077)
    loaded = load(where, terminal=sys.stderr.isatty())
    with datadir.locked(where):
        datadir.check_writable(where)
        config = loaded.config
        check_addresses(config.network.listen, config.network.notify, config.rpc.listen)
        found = preflight.examine(loaded.settings)
        cores = sorted(os.sched_getaffinity(0))
        topology = wire(loaded.config, found.backend, cores)
        settings = msgspec.structs.replace(loaded.settings, backend=found.backend)
        log = logs.configure(settings.log_level, settings.log_format, "timed")
        log.info(
            "starting",
            version=__version__,
            python=platform.python_version(),
            datadir=settings.datadir,
            chain=settings.genesis.chain,
            genesis=settings.genesis_id.hex(),
            ingest=settings.ingest_address,
            notify=settings.notify_address,
            rpc=settings.rpc.listen,
            free_mb=shutil.disk_usage(where.root).free // 1_000_000,
        )
        log.info(
            "verification_backend",
            backend=found.backend,
            per_second_and_core=found.per_second,
            **({"faster": found.advice} if found.advice else {}),
        )
        log.info(
            "processes",
            cores=len(cores),
            placement={p.name: list(p.cores) or "any" for p in processes(topology, cores)},
        )
        supervisor = Supervisor(
            topology,
            settings,
            where.run,
            log=log,
            on_ready=lambda: _tell_systemd("READY=1"),
            rss_limit_mb=_memory_limits(settings, topology),
            program="timed",
        )
        status = supervisor.run()
    if status == OPERATOR_EXIT_STATUS and supervisor.failure:
        raise OperatorError(supervisor.failure)
    return status


def _memory_limits(settings: NodeSettings, topology: Topology) -> dict[str, int]:
    """Resident MiB per stage: the slots that it touches, and what it may use beside them."""
    limits = {"rpc": settings.rpc.memory_mb} if settings.rpc.memory_mb else {}
    if settings.net_memory_mb is None:
        return limits
    layout = TrayLayout(topology.trays)
    slots_bytes = layout.segment_bytes("input") + layout.segment_bytes("admission")
    return limits | {"net": (slots_bytes >> 20) + settings.net_memory_mb}


def _tell_systemd(state: str) -> None:
    """Tell the service manager, if one started us (sd_notify(3): a datagram to NOTIFY_SOCKET)."""
    path = os.environ.get("NOTIFY_SOCKET", "")
    if path[:1] not in ("/", "@"):
        return
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as sock:
        sock.setblocking(False)
        try:
            sock.sendto(state.encode(), "\0" + path[1:] if path[0] == "@" else path)
        except OSError:
            return  # systemd is gone or too busy; that must not stop the node
