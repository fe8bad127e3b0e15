"""Stages for the supervisor's tests: they write down what they are told, and misbehave on demand.

Runs in the children. A file ``do-<stage>-<index>`` or ``do-<stage>`` in the settings' directory
holds an order; ``record-<stage>-<index>`` there gets one JSON line for each thing that happens.
"""

import json
import mmap
import os
import select
import signal
import sys
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from pipeline import processlog
from pipeline.control import Attach, Info, PeerDied, PeerStarted, Ready, SetLogLevel, Stop
from pipeline.errors import ChannelClosed, ChannelFull, OperatorError
from pipeline.metrics import STAGE_METRICS, MetricWriter


@dataclass(frozen=True)
class Settings:
    directory: str
    blob: bytes = b""


class Stage:
    def __init__(self, context):
        self.context = context
        self.directory = Path(context.settings.directory)
        self.hoard = []
        self.last_order = ""
        self.metrics = MetricWriter(
            context.metrics.view, STAGE_METRICS, incarnation=context.incarnation
        )
        self.record(
            "built",
            pid=os.getpid(),
            comm=Path("/proc/self/comm").read_text().strip(),
            nice=os.nice(0),
            umask=os.umask(0o077),
            cwd=os.getcwd(),
            blob=len(context.settings.blob),
            modules=[m for m in ("dill", "numpy", "supervise", "prog") if m in sys.modules],
            main=getattr(sys.modules["__main__"], "__file__", None),
            blocked=len(signal.pthread_sigmask(signal.SIG_BLOCK, [])),
        )
        processlog.register(self)
        self.attached()
        if self.order() == "crash in build":
            raise RuntimeError("crash in build, on demand")
        if self.order() == "fatal":
            raise OperatorError("the disk is full; free some space")
        if self.order() == "slow":
            time.sleep(3600)

    def record(self, event, **values):
        line = json.dumps({"event": event, "incarnation": self.context.incarnation} | values)
        path = self.directory / f"record-{self.context.name}-{self.context.index}"
        with path.open("a") as file:
            file.write(line + "\n")

    def set_level(self, level):
        """As the log of this process."""
        self.record("log level", level=level)

    def attached(self):
        segments = self.context.segments
        self.record(
            "attached",
            epoch=self.context.epoch,
            segments={
                name: {
                    "inode": inode_of(name),
                    "readonly": segment.view.readonly,
                    "size": segment.view.nbytes,
                }
                for name, segment in segments.items()
            },
        )

    def order(self):
        for name in (f"do-{self.context.name}-{self.context.index}", f"do-{self.context.name}"):
            path = self.directory / name
            if path.exists():
                return path.read_text()
        return ""

    def close(self):
        """As the log of this process."""


def inode_of(name):
    """Of the newest mapped segment of that name."""
    found = [
        line.split()[4]
        for line in Path("/proc/self/maps").read_text().splitlines()
        if line.endswith(f"/memfd:{name} (deleted)")
    ]
    return sorted(set(found))


def build(context):
    return Stage(context)


def build_without_metrics(context):
    class Quiet:
        pass

    return Quiet()


def run(stages, contexts):
    """A run loop like the real one, but with 20 ms turns and orders from files."""
    channel = contexts[0].channel
    channel.send(Ready())
    stages[0].record("running")
    while True:
        for stage in stages:
            stage.metrics.set(stage.metrics["heartbeat_ns"], time.monotonic_ns())
            status = obey_order(stage)
            if status is not None:
                return status
        select.select([channel], [], [], 0.02)
        try:
            while (received := channel.receive()) is not None:
                message, fds = received
                if obey_supervisor(stages, message, fds):
                    return 0
        except ChannelClosed:
            stages[0].record("orphaned")
            return 1


def obey_supervisor(stages, message, fds):
    match message:
        case Attach():
            for stage in stages:
                stage.context.attach(message, fds)
                stage.attached()
            for grant, fd in zip(message.segments, fds, strict=True):
                if not grant.writable:
                    try:
                        mmap.mmap(fd, grant.size_bytes, prot=mmap.PROT_READ | mmap.PROT_WRITE)
                        stages[0].record("intruded", segment=grant.name)
                    except PermissionError:
                        stages[0].record("kept out", segment=grant.name)
                os.close(fd)
        case PeerDied():
            reaped = not Path(f"/proc/{pid_of(stages[0], message)}").exists()
            stages[0].record(
                "peer died",
                stage=message.stage,
                index=message.index,
                of=message.incarnation,
                signal=message.signal,
                status=message.exit_status,
                reaped=reaped,
            )
        case PeerStarted():
            stages[0].record(
                "peer started", stage=message.stage, index=message.index, of=message.incarnation
            )
        case SetLogLevel():
            processlog.set_level(message.level)
        case Stop():
            if stages[0].order() == "never stop":
                return False
            stages[0].record("stopped", at_ns=time.monotonic_ns(), deadline=message.deadline_ms)
            return True
    return False


def pid_of(stage, message):
    lines = (stage.directory / f"record-{message.stage}-{message.index}").read_text().splitlines()
    built = [event for line in lines if (event := json.loads(line))["event"] == "built"]
    return next(event["pid"] for event in built if event["incarnation"] == message.incarnation)


def obey_order(stage):
    order = stage.order()
    if order == stage.last_order:
        return None
    stage.last_order = order
    match order.split():
        case ["hang"]:
            stage.record("hanging")
            time.sleep(3600)
        case ["exit", status]:
            return int(status)
        case ["hoard"]:
            stage.hoard.append(b"x" * (200 << 20))
        case ["flood"]:
            while True:
                with suppress(ChannelFull):
                    stage.context.channel.send(Info("again"))
        case ["fork"]:
            if os.fork() == 0:
                os.execvp("sleep", ["sleep", "3600"])
        case ["mute"]:
            (stage.directory / "do-side").unlink()
            stage.context.channel.close()
            time.sleep(3600)
        case ["nonsense"]:
            stage.context.channel._socket.send(b"\xc1\xc1")
        case ["say", text]:
            stage.context.channel.send(Info(text))
            stage.record("said", text=text)
    return None
