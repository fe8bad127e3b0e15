"""What figures depend on: the machine, its system, the libraries, and where the node's disk is."""

from __future__ import annotations

import importlib.metadata
import os
from pathlib import Path
from typing import Any, Final

from tools.loadgen.report import machine as load_machine

_PACKAGES: Final = (
    "timed", "PyNaCl", "pyzmq", "rocksdict", "numpy", "msgspec", "multiprocess", "ipp-crypto",
)  # fmt: skip


def describe(work: Path) -> dict[str, Any]:
    """The machine as JSON-able values; ``work`` is where data directories will lie."""
    return {
        **load_machine(),
        "memory_mb": os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") // 1_000_000,
        "avx512_ifma": "avx512ifma" in _processor_flags(),
        "packages": {name: version for name in _PACKAGES if (version := _version(name))},
        "file_system": file_system(work),
        "load_average_before": list(os.getloadavg()),
    }


def file_system(path: Path) -> str:
    """Type of the file system that holds ``path``, as mount says it."""
    path = path.resolve()
    best, kind = -1, "unknown"
    for line in Path("/proc/self/mounts").read_text().splitlines():
        _, where, found, *_ = line.split()
        mount = Path(where.encode().decode("unicode_escape"))
        if path.is_relative_to(mount) and len(mount.parts) >= best:
            best, kind = len(mount.parts), found
    return kind


def _processor_flags() -> list[str]:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("flags"):
            return line.partition(":")[2].split()
    return []


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None
