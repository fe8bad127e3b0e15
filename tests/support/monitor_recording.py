"""Recorded looks at a node, as files: ``python tests/support/monitor_recording.py DATADIR FILE``
records a running node for some seconds.

A file holds each declaration of metrics once and the looks one after the other.
"""

from __future__ import annotations

import sys
import time
from pathlib import Path
from typing import Any

import orjson

from node.datadir import layout
from pipeline.metrics import MetricSet, StageSnapshot
from tools.monitor.observed import Observation
from tools.monitor.watch import Watch

LOOKS = 8
NAME = "~/recorded"


def save(path: Path, looks: list[Observation], datadir: Path) -> None:
    declarations: dict[str, str] = {}
    told = []
    for look in looks:
        snapshots = []
        for snapshot in look.snapshots.values():
            declaration = snapshot.metrics.declaration().rstrip(b"\0").decode()
            declarations[snapshot.stage] = declaration
            snapshots.append(snapshot.as_json())
        told.append(
            {
                "at_s": round(look.at_s - looks[0].at_s, 3),
                "unix_s": round(look.unix_s, 3),
                "absent": look.absent,
                "life": look.life,
                "status": look.status,
                "snapshots": snapshots,
                "last_cores": look.last_cores,
            }
        )
    recorded = orjson.dumps({"declarations": declarations, "looks": told}) + b"\n"
    path.write_bytes(recorded.replace(str(datadir).encode(), NAME.encode()))


def load(path: Path) -> list[Observation]:
    recorded: dict[str, Any] = orjson.loads(path.read_bytes())
    sets = {
        stage: MetricSet.from_declaration(text.encode())
        for stage, text in recorded["declarations"].items()
    }
    looks = []
    for told in recorded["looks"]:
        snapshots = {
            (one["stage"], one["index"]): StageSnapshot(metrics=sets[one["stage"]], **one)
            for one in told.pop("snapshots")
        }
        looks.append(Observation(name=NAME, snapshots=snapshots, **told))
    return looks


def main() -> None:
    datadir, path = map(Path, sys.argv[1:])
    watch = Watch(layout(datadir))
    looks = []
    for _ in range(LOOKS):
        looks.append(watch.look())
        time.sleep(1.0)
    save(path, looks, datadir)


if __name__ == "__main__":
    main()
