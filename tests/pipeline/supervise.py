"""Runs a supervisor for the tests: ``supervise.py <run directory> <directory> <options>``."""

import json
import os
import sys
import time
from pathlib import Path

import supervised_stages

from pipeline.service import from_environment
from pipeline.supervisor import Supervisor
from pipeline.topology import LinkPolicy, LinkSpec, Role, StageSpec, Topology, TrayDims


class JsonLog:
    """One JSON line an event, on standard output."""

    def __getattr__(self, level):
        def write(event, **values):
            line = json.dumps({"level": level, "event": event} | values, default=str)
            print(line, flush=True)

        return write


def topology(options):
    build = "supervised_stages:build"

    def stage(name, role, **more):
        return StageSpec(
            name, build, role, **({"stall_ms": options.get("stall_ms", 20_000)} | more)
        )

    fused = "both" if options.get("fused") else None
    workers = {"process": fused} if fused else {"count": 2, "nice": 3}
    return Topology(
        stages=(
            stage("intake", Role.INTAKE, process=fused),
            stage("work", Role.WORKER, **workers),
            stage("sink", Role.SINK),
            stage("side", Role.SIDE, expendable=True),
        ),
        links=(
            LinkSpec("todo", "intake", "work", LinkPolicy.BLOCK, 8, "trays"),
            LinkSpec("done", "work", "sink", LinkPolicy.BLOCK, 8, "trays"),
        ),
        trays=TrayDims(trays=8, tray_bytes=4096, fill_bytes=4096, max_items=16, verdict_bytes=1024),
        cores="off",
    )


def main():
    run_dir, directory, options = sys.argv[1], sys.argv[2], json.loads(sys.argv[3])

    def ready():
        print(json.dumps({"level": "test", "event": "on_ready"}), flush=True)
        if options.get("fail_when_ready"):
            raise RuntimeError("fails when ready, on demand")

    def extra():
        if options.get("fail_status"):
            raise RuntimeError("no status, on demand")
        return {"height": 7}

    service = from_environment(os.environ, os.getpid())

    def hang_up():
        if not options.get("reloads"):
            return False
        service.reloading(time.monotonic())
        JsonLog().info("hung_up")
        service.reloaded()
        return True

    supervisor = Supervisor(
        topology(options),
        supervised_stages.Settings(directory, bytes(options.get("blob_bytes", 0))),
        Path(run_dir),
        log=JsonLog(),
        on_ready=ready,
        on_hangup=hang_up,
        service=service,
        service_status=lambda status: f"{status['state']}, {len(status['processes'])} processes",
        status_extra=extra,
        clock=time.monotonic,
        rss_limit_mb=options.get("rss_limit_mb"),
        stop_deadline_ms=options.get("stop_deadline_ms", 5000),
        start_deadline_s=options.get("start_deadline_s", 60.0),
        program="test",
        runner="supervised_stages:run",
    )
    status = supervisor.run()
    print(
        json.dumps(
            {
                "level": "test",
                "event": "returned",
                "status": status,
                "failure": supervisor.failure,
                "modules": [m for m in ("dill", "numpy") if m in sys.modules],
            }
        ),
        flush=True,
    )
    return status


if __name__ == "__main__":
    sys.exit(main())
