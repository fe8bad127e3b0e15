"""``timed run``: everything that can be checked is checked, then the supervisor takes over.

Holds the data directory's lock for as long as the node lives. Signatures and keys are never
touched in this process: what has to be known about them is found out by a child that ends before
the node starts (``node.commands.preflight``). SIGHUP reloads the configuration, unless it is that
of a terminal that was closed.
"""

from __future__ import annotations

import faulthandler
import os
import platform
import shutil
import sys
import time
from collections.abc import Mapping
from typing import Any, Final

import msgspec

from node import __version__, datadir, logs
from node.commands import preflight
from node.commands.addresses import check_addresses
from node.commands.loading import load
from node.commands.reload import Reloading
from node.datadir import Layout
from node.settings import NodeSettings
from node.wiring import wire
from pipeline.errors import OPERATOR_EXIT_STATUS, OperatorError
from pipeline.layout import TrayLayout
from pipeline.placement import processes
from pipeline.service import from_environment
from pipeline.supervisor import Supervisor
from pipeline.topology import Topology

_WORDS: Final = {"peers": "peers", "mempool_items": "transactions wait"}
_SHOWN: Final = {"height", *_WORDS}


def run(where: Layout) -> int:
    """Run the node; returns when it has stopped, with the process's exit status."""
    os.umask(0o077)
    faulthandler.enable()  # a watchdog's SIGABRT then says where this process stood
    service = from_environment(os.environ, os.getpid())
    on_terminal = sys.stderr.isatty()
    loaded = load(where, terminal=on_terminal)
    with datadir.locked(where):
        datadir.check_writable(where)
        config = loaded.config
        check_addresses(config)
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
        about = {
            "version": __version__,
            "network": settings.network,
            "chain": settings.genesis.chain,
            "backend": settings.backend,
        }

        def hung_up() -> bool:
            if on_terminal and not sys.stderr.isatty():
                return False  # the terminal was closed, and the node stops with it
            service.reloading(time.monotonic())
            reloading.reload()
            service.reloaded()
            return True

        supervisor = Supervisor(
            topology,
            settings,
            where.run,
            log=log,
            log_level=settings.log_level,
            on_hangup=hung_up,
            service=service,
            service_status=service_status,
            status_extra=lambda: about,
            rss_limit_mb=_memory_limits(settings, topology),
            program="timed",
        )
        reloading = Reloading(where, loaded.genesis, loaded.config, log, supervisor.set_log_levels)
        status = supervisor.run()
    if status == OPERATOR_EXIT_STATUS and supervisor.failure:
        raise OperatorError(supervisor.failure)
    return status


def service_status(status: Mapping[str, Any]) -> str:
    """A status as the line that the service manager shows."""
    values: dict[str, int] = {}
    for process in status["metrics"].values():
        for stage in process:
            values |= {name: stage["values"].get(name) for name in _SHOWN & stage["values"].keys()}
    told = [f"height {values['height']:,}"] if "height" in values else []
    told += [f"{values[name]:,} {word}" for name, word in _WORDS.items() if name in values]
    return ", ".join([status["state"], *told])


def _memory_limits(settings: NodeSettings, topology: Topology) -> dict[str, int]:
    """Resident MiB per stage: the slots that it touches, and what it may use beside them."""
    limits = {"rpc": settings.rpc.memory_mb} if settings.rpc.memory_mb else {}
    if settings.net_memory_mb is None:
        return limits
    layout = TrayLayout(topology.trays)
    slots_bytes = layout.segment_bytes("input") + layout.segment_bytes("admission")
    return limits | {"net": (slots_bytes >> 20) + settings.net_memory_mb}
