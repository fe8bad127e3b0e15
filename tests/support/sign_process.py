"""The stage that signs, alone in a process of its own: ``sign_process.py DATADIR CHANNEL_FD``.

The supervisor's part is played by whoever started it. At the end a line of JSON says what became
of it.
"""

from __future__ import annotations

import ctypes
import json
import os
import resource
import socket
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

from node.commands.loading import load
from node.datadir import layout
from node.stages import sign
from pipeline.child import StageContext
from pipeline.control import Channel
from pipeline.errors import OperatorError
from pipeline.metrics import MetricReader, region_bytes
from pipeline.stage import run
from pipeline.topology import LinkPolicy, LinkSpec, Role, StageSpec, Topology, TrayDims

TOPOLOGY = Topology(
    stages=(
        StageSpec("consensus", "nobody:builds", Role.SINK),
        StageSpec("sign", "node.stages.sign:build", Role.SIDE),
    ),
    links=(
        LinkSpec("sign", "consensus", "sign", LinkPolicy.BLOCK, 8, "own messages"),
        LinkSpec("signed", "sign", "consensus", LinkPolicy.BLOCK, 8, "their signatures"),
    ),
    trays=TrayDims(trays=8, tray_bytes=4096, fill_bytes=4096, max_items=16, verdict_bytes=1024),
)


def main(root: str, channel_fd: int) -> int:
    where = layout(Path(root))
    settings = load(where, terminal=False).settings
    region = memoryview(bytearray(region_bytes(sign.METRICS)))
    context = StageContext(
        name="sign",
        index=0,
        incarnation=1,
        topology=TOPOLOGY,
        settings=settings,
        channel=Channel(socket.socket(fileno=channel_fd)),
        metrics=cast(Any, SimpleNamespace(view=region)),
    )
    os.chdir(where.run)
    try:
        status = run([sign.build(context)], [context])
    except OperatorError as error:
        print(json.dumps({"refused": error.message}))
        return error.exit_status
    values = MetricReader(region).snapshot()
    found = {
        "values": {name: values[name] for name in ("signatures", "refused", "items_in")},
        "core_limit": resource.getrlimit(resource.RLIMIT_CORE),
        "dumpable": ctypes.CDLL(None).prctl(3, 0, 0, 0, 0),  # PR_GET_DUMPABLE
        "modules": len(sys.modules),
        "heavy": sorted({"numpy", "structlog", "rocksdict", "asyncio", "typer"} & set(sys.modules)),
    }
    print(json.dumps(found))
    return status


if __name__ == "__main__":
    sys.exit(main(sys.argv[1], int(sys.argv[2])))
