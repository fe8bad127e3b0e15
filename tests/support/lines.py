"""A small pipeline that is not a coin: lines of text are judged by workers and collected by a sink.

`python lines.py RUN_DIR WORKERS` runs it. Clients are ZeroMQ DEALERs on RUN_DIR/lines.sock that
send [id, line, line, ...] and get [id, one code per line]. The sink appends every line that it
accepts to RUN_DIR/accepted, one write per tray. A line that contains b"SEGV" kills the worker that
judges it, with exactly that signal; b"slow" makes it take 20 ms.
"""

from __future__ import annotations

import os
import signal
import sys
import time
from pathlib import Path

import numpy as np
import structlog
import zmq

from pipeline.child import StageContext
from pipeline.control import PeerDied
from pipeline.custody import PRIORITIES
from pipeline.fair import FairQueue
from pipeline.intake import Intake
from pipeline.metrics import STAGE_METRICS, Kind, Metric, MetricSet, MetricWriter
from pipeline.sink import TraySink
from pipeline.stage import Input, Stage
from pipeline.supervisor import Supervisor
from pipeline.topology import LinkPolicy, LinkSpec, Role, StageSpec, Topology, TrayDims
from pipeline.tray import U8, U32, Label
from pipeline.worker import TrayWorker

ACCEPTED, BAD, QUARANTINED, BUSY = 0, 1, 2, 3
ADDRESS = "ipc://lines.sock"

SOURCE_METRICS = MetricSet.of(
    STAGE_METRICS,
    MetricSet(
        "source",
        (
            Metric("redispatched", Kind.GAUGE, "trays", "Trays dispatched again"),
            Metric("quarantined", Kind.GAUGE, "items", "Lines that kill workers"),
        ),
    ),
)


def topology(workers: int, trays: int = 12) -> Topology:
    return Topology(
        stages=(
            StageSpec("source", "lines:build_source", Role.INTAKE),
            StageSpec("judge", "lines:build_judge", Role.WORKER, count=workers, nice=3),
            StageSpec("collect", "lines:build_collect", Role.SINK),
        ),
        links=(
            LinkSpec("work", "source", "judge", LinkPolicy.BLOCK, trays, "lines to judge"),
            LinkSpec("done", "judge", "source", LinkPolicy.BLOCK, trays, "room for more"),
            LinkSpec("judged", "judge", "collect", LinkPolicy.BLOCK, trays, "judged lines"),
            LinkSpec("returns", "collect", "source", LinkPolicy.BLOCK, trays, "what became of it"),
            LinkSpec("resend", "source", "collect", LinkPolicy.BLOCK, trays, "judged before"),
        ),
        trays=TrayDims(trays, tray_bytes=4096, fill_bytes=1024, max_items=16, verdict_bytes=64),
        cores="off",
    )


class Request:
    def __init__(self, source: Source, client: bytes, id_: bytes, lines: int) -> None:
        self.source = source
        self.client = client
        self.id = id_
        self.codes = bytearray(lines)
        self.missing = lines

    def answer(self, first: int, codes: bytes) -> None:
        self.codes[first : first + len(codes)] = codes
        self.missing -= len(codes)
        if not self.missing:
            self.source.clients.send_multipart((self.client, self.id, bytes(self.codes)))


class Source(Stage):
    def __init__(self, context: StageContext) -> None:
        self.metrics = MetricWriter(
            context.metrics.view, SOURCE_METRICS, incarnation=context.incarnation
        )
        self.sockets: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
        self.clients = self.sockets.socket(zmq.ROUTER)
        self.clients.linger = 200
        self.clients.bind(ADDRESS)
        queues = [FairQueue(8192, 8192) for _ in range(PRIORITIES)]
        self.intake = Intake(
            context,
            self.sockets,
            queues,
            worker_stage="judge",
            quarantine_code=QUARANTINED,
            on_quarantine=lambda line: None,
        )
        self.inputs = (*self.intake.inputs, Input(self.clients, self.read, bulk=True))
        self.closing = False

    def read(self) -> int:
        try:
            client, id_, *lines = self.clients.recv_multipart(zmq.NOBLOCK)
        except zmq.Again:
            return 0
        ends = np.cumsum([len(line) for line in lines], dtype=np.uint32)
        request = Request(self, client, id_, len(lines))
        if not self.intake.offer(client, request, memoryview(b"".join(lines)), ends):
            self.clients.send_multipart((client, id_, bytes([BUSY])))
        return 1

    def accepts_bulk(self) -> bool:
        return self.intake.accepts_bulk and not self.closing

    def after_inputs(self, now_ns: int) -> None:
        self.intake.pump(now_ns)

    def peer_died(self, message: PeerDied) -> None:
        self.intake.peer_died(message)

    def housekeeping(self, now_ns: int) -> None:
        self.metrics.set(self.metrics["redispatched"], self.intake.trays_redispatched)
        self.metrics.set(self.metrics["quarantined"], self.intake.items_quarantined)

    def stop(self) -> None:
        self.closing = True

    def finished(self) -> bool:
        return self.intake.idle

    def close(self) -> None:
        self.intake.close()
        self.clients.close()
        self.sockets.term()


class Judge(TrayWorker):
    def __init__(self, context: StageContext) -> None:
        self.metrics = MetricWriter(
            context.metrics.view, STAGE_METRICS, incarnation=context.incarnation
        )
        super().__init__(context, zmq.Context())

    def judge(self, label: Label, payload: memoryview, offsets: U32, verdicts: memoryview) -> None:
        for number in range(len(offsets) - 1):
            line = bytes(payload[int(offsets[number]) : int(offsets[number + 1])])
            if b"SEGV" in line:
                os.kill(os.getpid(), signal.SIGSEGV)
            if b"slow" in line:
                time.sleep(0.02)
            verdicts[number] = BAD if b"bad" in line else ACCEPTED


class Collect(TraySink):
    def __init__(self, context: StageContext) -> None:
        self.metrics = MetricWriter(
            context.metrics.view, STAGE_METRICS, incarnation=context.incarnation
        )
        self.file = os.open("accepted", os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        super().__init__(context, zmq.Context())

    def after_inputs(self, now_ns: int) -> None:
        self.admit_ready(now_ns)

    def admit(
        self,
        label: Label,
        payload: memoryview,
        offsets: U32,
        verdicts: memoryview,
        codes: U8,
    ) -> None:
        accepted = []
        for number in range(len(codes)):
            codes[number] = verdicts[number]
            if verdicts[number] == ACCEPTED:
                accepted.append(bytes(payload[int(offsets[number]) : int(offsets[number + 1])]))
        os.write(self.file, b"".join(line + b"\n" for line in accepted))


def build_source(context: StageContext) -> Stage:
    return Source(context)


def build_judge(context: StageContext) -> Stage:
    return Judge(context)


def build_collect(context: StageContext) -> Stage:
    return Collect(context)


def main() -> int:
    run_dir = Path(sys.argv[1])
    workers = int(sys.argv[2])

    def ready() -> None:
        print("ready", flush=True)

    log = structlog.get_logger()
    return Supervisor(topology(workers), None, run_dir, log=log, on_ready=ready).run()


if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).parent))
    sys.exit(main())
