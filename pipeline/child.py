"""The first and last thing that runs in a child process.

``child_main`` is what the supervisor spawns. From the supervisor come, as descriptors, the plan
(pickled once, the same for all), the metrics segment and the channel with the first ``Attach``
already in it; from here they go to the stages' ``build`` functions as a ``StageContext``, and
control goes to the run loop. The process dies with its supervisor (PDEATHSIG), whatever state it is
in; it ignores SIGINT and SIGTERM, because a stop is the supervisor's to order; an ``OperatorError``
ends the node, any other exception only this process.
"""

from __future__ import annotations

import ctypes
import importlib
import os
import pickle
import select
import signal
import socket
import sys
import time
import traceback
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

from pipeline import processlog
from pipeline.control import MAX_TEXT_CHARACTERS, Attach, Channel, Fatal
from pipeline.errors import ControlError, OperatorError
from pipeline.metrics import ProcessMetricsLayout
from pipeline.placement import ProcessSpec
from pipeline.segment import MappedSegment, map_segment
from pipeline.signals import STOP_SIGNALS
from pipeline.streams import let_go_of_lost_streams
from pipeline.topology import Topology, TrayDims

DEFAULT_RUNNER = "pipeline.stage:run"
FAILED_EXIT_STATUS = 1
ATTACH_WAIT_MS = (
    10_000  # the message lies there before the process exists; only a bug makes it wait
)

# Linux, prctl(2).
_PR_SET_PDEATHSIG = 1
_PR_SET_NAME = 15

# A process for each core: libraries that start a thread for each core only add memory and noise.
_THREAD_LIMITS = ("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS")


class PassedFd:
    """A descriptor that survives being pickled into a spawned process, and nothing else."""

    def __init__(self, fd: int) -> None:
        self.fd = fd

    def __reduce__(self) -> tuple[Any, ...]:
        from multiprocess import reduction  # only where it spawns; whoever builds stages needs none

        return _receive_fd, (reduction.DupFd(self.fd),)


def _receive_fd(passed: Any) -> PassedFd:
    fd = int(passed.detach())
    os.set_inheritable(fd, False)
    return PassedFd(fd)


@dataclass(frozen=True, slots=True)
class Plan:
    """What all processes of a pipeline are told; pickled once into a segment."""

    topology: Topology
    settings: object
    run_dir: str
    runner: str
    program: str


@dataclass(frozen=True, slots=True)
class Launch:
    """What one incarnation of one process is told."""

    process: ProcessSpec
    incarnation: int
    parent_pid: int
    plan: PassedFd
    metrics: PassedFd
    channel: PassedFd
    crew: PassedFd
    log_level: str | None  # set while the pipeline runs, and kept


@dataclass
class StageContext:
    """What a stage is built from; ``segments`` and ``epoch`` change with every ``Attach``.

    ``metrics.view`` is the stage's own region of shared memory, for one ``MetricWriter``.
    ``settings`` is the application's, opaque here. Stages of one process share ``channel``, which
    the run loop reads.
    """

    name: str
    index: int
    incarnation: int
    topology: Topology
    settings: object
    channel: Channel
    metrics: MappedSegment
    segments: dict[str, MappedSegment] = field(default_factory=dict)
    epoch: int = 0

    @property
    def dims(self) -> TrayDims:
        """Number and sizes of the trays."""
        return self.topology.trays

    def stage_count(self, name: str) -> int:
        """How many instances a stage has; KeyError if there is none of that name."""
        return self.topology.stage(name).count

    def attach(self, message: Attach, fds: Sequence[int]) -> None:
        """Map the segments of a new epoch, in place of the old ones; ``fds`` stay the caller's.

        The old mappings end when nothing looks at them any more.
        """
        self.segments = {
            grant.name: map_segment(fd, grant.writable)
            for grant, fd in zip(message.segments, fds, strict=True)
        }
        self.epoch = message.epoch


def import_path(path: str) -> Any:
    """What ``package.module:name`` names."""
    module, _, name = path.partition(":")
    return getattr(importlib.import_module(module), name)


def child_main(launch: Launch) -> None:
    """Run the stages of one process; leaves by exiting."""
    _die_with_parent(launch.parent_pid)
    for number in STOP_SIGNALS:
        signal.signal(number, signal.SIG_IGN)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, STOP_SIGNALS)
    channel = Channel(socket.socket(fileno=launch.channel.fd))
    try:
        status = _work(launch, channel)
    except OperatorError as error:
        channel.send(Fatal(error.message[:MAX_TEXT_CHARACTERS], error.exit_status))
        _exit_now(error.exit_status)
    except Exception:
        traceback.print_exc()
        _exit_now(FAILED_EXIT_STATUS)
    let_go_of_lost_streams()
    sys.exit(status)


def _work(launch: Launch, channel: Channel) -> int:
    process = launch.process
    if launch.log_level is not None:
        processlog.set_level(launch.log_level)
    for variable in _THREAD_LIMITS:
        os.environ.setdefault(variable, "1")
    os.umask(0o077)
    plan = _read_plan(launch.plan.fd)
    os.chdir(plan.run_dir)
    _name_process(f"{plan.program}-{process.name}")
    if process.nice:
        os.nice(process.nice)
    if process.cores:
        os.sched_setaffinity(0, process.cores)
    contexts = _contexts(launch, plan, channel)
    _attach_first(channel, contexts)
    stages = [import_path(plan.topology.stage(context.name).build)(context) for context in contexts]
    return int(import_path(plan.runner)(stages, contexts))


def _read_plan(fd: int) -> Plan:
    with map_segment(fd, writable=False) as segment:
        plan = pickle.loads(segment.view)
    os.close(fd)
    assert isinstance(plan, Plan)
    return plan


def _contexts(launch: Launch, plan: Plan, channel: Channel) -> list[StageContext]:
    members = launch.process.members
    layout = ProcessMetricsLayout(members)
    contexts = [
        StageContext(
            name=stage,
            index=index,
            incarnation=launch.incarnation,
            topology=plan.topology,
            settings=plan.settings,
            channel=channel,
            metrics=map_segment(
                launch.metrics.fd,
                writable=True,
                offset_bytes=number * layout.region_bytes,
                size_bytes=layout.region_bytes,
            ),
        )
        for number, (stage, index) in enumerate(members)
    ]
    os.close(launch.metrics.fd)
    return contexts


def _attach_first(channel: Channel, contexts: Sequence[StageContext]) -> None:
    poll = select.poll()
    poll.register(channel.fileno(), select.POLLIN)
    deadline_s = time.monotonic() + ATTACH_WAIT_MS / 1000
    while (received := channel.receive()) is None:
        if time.monotonic() >= deadline_s:
            raise ControlError("the supervisor did not say which segments to use")
        poll.poll(ATTACH_WAIT_MS)
    message, fds = received
    if not isinstance(message, Attach):
        raise ControlError(f"the supervisor began with {type(message).__name__}, not with Attach")
    for context in contexts:
        context.attach(message, fds)
    for fd in fds:
        os.close(fd)


def _die_with_parent(parent_pid: int) -> None:
    _prctl(_PR_SET_PDEATHSIG, ctypes.c_ulong(signal.SIGKILL))
    if os.getppid() != parent_pid:  # it died before the line above: no signal will come
        os._exit(FAILED_EXIT_STATUS)


def _name_process(name: str) -> None:
    _prctl(_PR_SET_NAME, ctypes.create_string_buffer(name.encode()[:15]))


def _prctl(option: int, argument: Any) -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(option, argument, *[ctypes.c_ulong(0)] * 3) != 0:
        raise OSError(ctypes.get_errno(), f"prctl({option})")


def _exit_now(status: int) -> None:
    """Exit without clean-up by a stage that is known to be broken: it could wait for ever."""
    processlog.close()
    for stream in (sys.stdout, sys.stderr):
        with suppress(OSError, ValueError, AttributeError):  # nobody reads it, closed, or none
            stream.flush()
    os._exit(status)
