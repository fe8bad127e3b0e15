"""The supervisor: the parent of all processes of a pipeline, and the only one who may start or stop
them.

From the topology it derives the processes, makes their segments, spawns them and watches: for their
death (pidfd), for what they say (channel), for a loop that stands still and for memory that grows
(once a second). It owns the run directory, all segments' descriptors and the control socket. It
touches no tray and reads no item.

What it promises: ``PeerDied`` is sent only after the process was reaped, so it writes nothing any
more. A dead process is started again (``pipeline.restart`` says when); a new intake gets a new
epoch of segments, which everybody else has in its queue before that intake exists. SIGTERM, SIGINT
and a SIGHUP that the application does not want for itself stop the stages one after the other in
table order, each with a deadline; a second signal kills. Whoever started it as a service hears how
it is (``pipeline.service``). It ends with a status other than 0 when restarting does not help, when
a stage says that only a person can help, or when a stop was not orderly. However it ends, its
children end.
"""

from __future__ import annotations

import os
import pickle
import selectors
import signal
import socket
import threading
import time
from collections.abc import Callable, Mapping
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any

from pipeline import processlog
from pipeline.answers import Answers
from pipeline.child import DEFAULT_RUNNER, FAILED_EXIT_STATUS, Launch, PassedFd, Plan
from pipeline.control import (
    Channel,
    ControlServer,
    Fatal,
    Info,
    Message,
    PeerDied,
    PeerStarted,
    Ready,
    Reply,
    SetLogLevel,
    Stop,
    bind_control_socket,
)
from pipeline.crew import Child, State
from pipeline.epoch import TraySegments
from pipeline.errors import ChannelClosed, ControlError, SegmentError
from pipeline.eventlog import Log, QuietLog
from pipeline.loglevels import SUPERVISOR, LogLevels
from pipeline.metrics import ProcessMetricsLayout
from pipeline.placement import processes
from pipeline.restart import GiveUp
from pipeline.rundir import RunDirectory
from pipeline.segment import Segment
from pipeline.service import ServiceManager, nobody
from pipeline.signals import StopSignals
from pipeline.spawn import start_process
from pipeline.topology import Role, Topology
from pipeline.topology_rules import validate

TICK_S = 1.0  # of the checks; the supervisor's only regular wake-up
STOP_DEADLINE_MS = 10_000
START_DEADLINE_S = 120.0  # until Ready: a store may have to recover first
KILL_GRACE_S = 1.0  # beyond a deadline that the child knows
IMPATIENT_S = 1.0  # signals closer together are one request (a terminal and a service manager)
MAX_MESSAGES_PER_TICK = 500  # of one child: beyond, it is broken
MAX_INFOS_PER_TICK = 20


class Supervisor:
    """Runs a topology until it is stopped or cannot go on.

    ``settings`` is pickled for the children, so its classes must be importable there. ``log`` gets
    structured events at ``log_level`` and above (of ``processlog.LEVELS``), ``on_ready`` is called
    once, when every stage that is not expendable was ready, ``on_hangup`` at SIGHUP: if it returns
    False, or is not there, the pipeline stops. ``status_extra`` gives what the application adds to
    the status, ``service_status`` makes of a status the line that ``service`` gets.
    ``rss_limit_mb`` (MiB,
    resident, for every process or by stage name) bounds a process that a hostile peer inflates: it
    is killed and started again. ``program`` begins the process names, ``runner`` names the
    children's run loop. ``clock`` must be the clock of the heartbeats (CLOCK_MONOTONIC). Raises
    TopologyError.
    """

    def __init__(
        self,
        topology: Topology,
        settings: object,
        run_dir: Path,
        *,
        log: Log,
        log_level: str = "info",
        on_ready: Callable[[], None] | None = None,
        on_hangup: Callable[[], bool] | None = None,
        service: ServiceManager | None = None,
        service_status: Callable[[Mapping[str, Any]], str] | None = None,
        status_extra: Callable[[], Mapping[str, Any]] | None = None,
        clock: Callable[[], float] = time.monotonic,
        rss_limit_mb: int | Mapping[str, int] | None = None,
        stop_deadline_ms: int = STOP_DEADLINE_MS,
        start_deadline_s: float = START_DEADLINE_S,
        program: str = "pipeline",
        runner: str = DEFAULT_RUNNER,
    ) -> None:
        cores = sorted(os.sched_getaffinity(0))
        validate(topology, cores)
        self._topology = topology
        self._specs = processes(topology, cores)
        self._trays = TraySegments(topology)
        self._run_dir = Path(os.path.abspath(run_dir))
        self._plan = pickle.dumps(Plan(topology, settings, str(self._run_dir), runner, program))
        self._log = QuietLog(log, time.time)
        self._log_levels = LogLevels(self._specs, log_level)
        self._on_ready = on_ready
        self._on_hangup = on_hangup
        self._service = ServiceManager(nobody) if service is None else service
        self._service_status = service_status
        self._status_extra = status_extra
        self._clock = clock
        self._rss_limit_mb = rss_limit_mb
        self._stop_deadline_ms = stop_deadline_ms
        self._start_deadline_s = start_deadline_s
        self._tick_s = min(TICK_S, max(0.25, min(s.stall_ms for s in self._specs) / 4000))

        self._children: list[Child] = []
        self._status = 0
        self._was_ready = False
        # Groups of processes that still have to stop, in order; None while nobody wants it.
        self._stop_order: list[list[Child]] | None = None
        self._stop_signal_s: float | None = None
        self._began_s = 0.0
        self._tick_at_s = 0.0
        self._ticked_s = 0.0
        self._awake_since_s = 0.0
        self.failure: str | None = None
        """Why ``run`` returned something other than 0: one line for the person who started it."""

    def run(self) -> int:
        """Start everything, watch it, and return the exit status when everything has ended.

        Call it once, in the main thread (signals, and children that die with the thread that
        started them). The working directory is the run directory meanwhile. Raises
        RunDirectoryError.
        """
        if threading.current_thread() is not threading.main_thread():
            raise RuntimeError("run the supervisor in the main thread")
        with ExitStack() as stack:
            self._directory = RunDirectory.open(self._run_dir)
            stack.callback(self._directory.close)
            stack.callback(self._directory.remove_sockets)
            stack.enter_context(self._directory.entered())
            self._selector = stack.enter_context(selectors.DefaultSelector())
            self._signals = stack.enter_context(StopSignals())
            self._selector.register(self._signals, selectors.EVENT_READ, self._signalled)
            self._control = ControlServer(
                bind_control_socket(self._directory.fd), self._selector, self._answer
            )
            self._began_s = self._clock()
            self._answers = Answers(
                self, self._topology, self._children, self._status_extra, self._began_s
            )
            stack.callback(self._control.close)
            self._plan_segment = Segment.create("plan", len(self._plan))
            os.pwrite(self._plan_segment.fd, self._plan, 0)
            stack.callback(self._release_segments)
            stack.callback(self._kill_all)
            self._prepare()
            while not self._ended():
                self._turn()
        self._log.info("stopped", status=self._status, reason=self.failure)
        processlog.close()
        return self._status

    @property
    def state(self) -> str:
        """Of the whole pipeline: starting, running, degraded or stopping."""
        if self._stopping:
            return "stopping"
        if all(c.state is State.READY or c.spec.expendable for c in self._children):
            return "running"
        return "degraded" if self._was_ready else "starting"

    @property
    def epoch(self) -> int:
        """Of the trays' segments."""
        return self._trays.epoch

    def recent_events(self) -> list[dict[str, Any]]:
        """The last events of this log, oldest first (``QuietLog.recent``)."""
        return self._log.recent()

    def log_levels(self) -> dict[str, str]:
        """Process, or "supervisor", -> level of its log."""
        return self._log_levels.as_dict()

    def set_log_levels(self, wanted: Mapping[str, str]) -> None:
        """Change the levels of logs while everything runs, and for processes that start later.

        By name of process or stage, "supervisor" or "all". Raises UnknownLevel, and then nothing
        has changed.
        """
        concerned = set(self._log_levels.change(wanted))
        if SUPERVISOR in concerned:
            processlog.set_level(self._log_levels[SUPERVISOR])
        for child in self._children:
            if child.alive and child.name in concerned:
                self._send(child, SetLogLevel(self._log_levels[child.name]))
        self._log.info("log_levels_set", levels=dict(wanted))

    # The loop ------------------------------------------------------------------------------------

    def _prepare(self) -> None:
        now = self._clock()
        self._ticked_s = self._awake_since_s = now
        self._tick_at_s = now + self._tick_s
        for spec in self._specs:
            layout = ProcessMetricsLayout(spec.members)
            segment = Segment.create(f"metrics-{spec.name}", layout.size_bytes)
            self._children.append(Child(spec, segment))
        self._log.info("supervising", processes=[spec.name for spec in self._specs])
        for child in self._children:
            child.start_at_s = now

    def _turn(self) -> None:
        now = self._clock()
        for key, _ in self._selector.select(max(0.0, self._next_due_s() - now)):
            key.data(self._clock())
        now = self._clock()
        self._control.tick(now)
        if now >= self._tick_at_s:
            self._tick(now)
        for child in self._children:
            if child.kill_at_s is not None and now >= child.kill_at_s:
                self._kill(child, "it did not end in time")
            if child.state is State.WAITING and now >= child.start_at_s and not self._stopping:
                self._start(child, now)
        if self._stopping:
            self._go_on_stopping(now)
        self._service.turn(now, self._progressed, self._service_line)

    def _next_due_s(self) -> float:
        due = [self._tick_at_s]
        due += [c.start_at_s for c in self._children if c.state is State.WAITING]
        due += [c.kill_at_s for c in self._children if c.kill_at_s is not None]
        due += [
            other
            for other in (self._control.next_due_s(), self._service.next_due_s())
            if other is not None
        ]
        return min(due)

    def _ended(self) -> bool:
        return self._stopping and not any(child.alive for child in self._children)

    # Birth ---------------------------------------------------------------------------------------

    def _start(self, child: Child, now_s: float) -> None:
        child.incarnation += 1
        child.started_s = now_s
        child.ready_s = child.killed_because = child.fatal = None
        theirs: socket.socket | None = None
        try:
            if not self._trays.epoch or (child.incarnation > 1 and self._holds_intake(child)):
                self._begin_epoch()
            channel, theirs = Channel.pair()
            child.channel = channel
            self._attach(child)
            launch = Launch(
                process=child.spec,
                incarnation=child.incarnation,
                parent_pid=os.getpid(),
                plan=PassedFd(self._plan_segment.fd),
                metrics=PassedFd(child.metrics.fd),
                channel=PassedFd(theirs.fileno()),
                crew=PassedFd(self._directory.crew_fd),
                log_level=self._log_levels.chosen(child.name),
            )
            child.process = start_process(launch)
            child.pid = child.process.pid
            child.pidfd = os.pidfd_open(child.process.pid)
        except (OSError, SegmentError, ControlError) as error:
            self._not_started(child, now_s, error)
            return
        finally:
            if theirs is not None:
                theirs.close()
        child.state = State.STARTING
        self._selector.register(
            child.pidfd, selectors.EVENT_READ, lambda now: self._exited(child, now)
        )
        self._selector.register(channel, selectors.EVENT_READ, lambda now: self._hear(child, now))
        for peer in self._children:
            if peer is not child and peer.state is State.READY:
                for stage, index in peer.spec.members:
                    self._send(child, PeerStarted(stage, index, peer.incarnation))
        self._log.info(
            "process_started", process=child.name, pid=child.pid, incarnation=child.incarnation
        )

    def _not_started(self, child: Child, now_s: float, error: Exception) -> None:
        if child.process is not None:  # it exists, but there was no descriptor left to watch it
            child.process.kill()
            child.process.join()
            child.process.close()
            child.process = None
        if child.channel is not None:
            child.channel.close()
            child.channel = None
        child.last_death = {"cause": f"could not be started: {error}", "signal": None}
        self._log.error("process_not_started", process=child.name, error=str(error))
        self._judge(child, now_s)

    def _begin_epoch(self) -> None:
        """Make new segments and grant them to everybody alive."""
        self._trays.begin()
        for child in self._children:
            if child.alive:
                self._attach(child)

    def _attach(self, child: Child) -> None:
        with self._trays.grant(child.spec.members) as (message, fds):
            self._send(child, message, fds)

    def _holds_intake(self, child: Child) -> bool:
        return any(self._topology.stage(s).role is Role.INTAKE for s, _ in child.spec.members)

    # Life ----------------------------------------------------------------------------------------

    def _send(self, child: Child, message: Message, fds: list[int] | None = None) -> None:
        if child.channel is None:  # it is dying
            return
        try:
            child.channel.send(message, fds or ())
        except ChannelClosed:
            pass  # it is dying: its pidfd will say so
        except ControlError as error:
            self._kill(child, f"it cannot be told anything: {error}")

    def _hear(self, child: Child, now_s: float) -> None:
        """Take in what a child says, as far as it has said it."""
        while child.channel is not None:
            try:
                received = child.channel.receive()
            except ChannelClosed:
                self._selector.unregister(child.channel)
                child.channel.close()
                child.channel = None
                self._must_end(child, now_s)  # it is dying already, or it is broken
                return
            except ControlError as error:
                self._kill(child, f"it speaks nonsense: {error}")
                return
            if received is None:
                return
            child.messages += 1
            if child.messages > MAX_MESSAGES_PER_TICK:
                self._kill(child, "it floods its channel")
                return
            self._heard(child, received[0], now_s)

    def _heard(self, child: Child, message: Message, now_s: float) -> None:
        match message:
            case Ready():
                self._ready(child, now_s)
            case Fatal():
                child.fatal = message
                self._must_end(child, now_s)
            case Info():
                child.infos += 1
                wanted = self._log_levels.writes(child.name, "info")
                if wanted and child.infos <= MAX_INFOS_PER_TICK:
                    self._log.info("stage_says", process=child.name, text=message.text)
            case _:
                self._kill(child, f"it speaks nonsense: a {type(message).__name__}")

    def _ready(self, child: Child, now_s: float) -> None:
        if child.state is not State.STARTING:
            return
        child.state = State.READY
        child.ready_s = now_s
        self._log.info(
            "process_ready",
            process=child.name,
            pid=child.pid,
            took_ms=round((now_s - child.started_s) * 1000),
        )
        for stage, index in child.spec.members:
            self._tell_others(child, PeerStarted(stage, index, child.incarnation))
        if not self._was_ready and all(
            c.state is State.READY or c.spec.expendable for c in self._children
        ):
            self._was_ready = True
            self._log.info("ready", took_ms=round((now_s - self._began_s) * 1000))
            self._service.ready(now_s)
            if self._on_ready is not None:
                self._on_ready()

    def _tell_others(self, child: Child, message: Message) -> None:
        for other in self._children:
            if other is not child and other.alive:
                self._send(other, message)

    def _tick(self, now_s: float) -> None:
        """Look after what says nothing: loops that stand still, memory that grows, slow starts."""
        if now_s - self._ticked_s > 2 * self._tick_s + 1.0:
            # This process was not running either (a suspended machine): nobody is to blame.
            self._awake_since_s = now_s
            self._log.warning("supervisor_was_away", seconds=round(now_s - self._ticked_s, 1))
        self._ticked_s = now_s
        self._tick_at_s = now_s + self._tick_s
        processlog.housekeeping(now_s)
        for child in self._children:
            if child.infos > MAX_INFOS_PER_TICK:
                self._log.warning(
                    "stage_says_too_much",
                    process=child.name,
                    dropped=child.infos - MAX_INFOS_PER_TICK,
                )
            child.messages = child.infos = 0
            if child.alive:
                self._check_progress(child, now_s)
                self._check_memory(child)

    def _check_progress(self, child: Child, now_s: float) -> None:
        if child.ready_s is None:
            started_s = max(child.started_s, self._awake_since_s)
            if now_s - started_s > self._start_deadline_s:
                self._kill(child, f"it was not ready after {self._start_deadline_s:g} s")
            return
        still_s = now_s - max(child.ready_s, child.heartbeat_s(), self._awake_since_s)
        if still_s * 1000 > child.spec.stall_ms:
            self._kill(child, f"its loop stood still for {still_s:.1f} s")

    def _progressed(self, within_s: float) -> bool:
        """Whether all loops that the pipeline cannot do without have turned within so long.

        While it stops they end one after the other, each with a deadline: that is progress.
        """
        now_s = self._clock()
        still = [
            child.name
            for child in self._children
            if not (child.spec.expendable or child.turned_within(now_s, within_s))
        ]
        if not still or self._stopping:
            return True
        if not self._service.stopped_feeding:
            self._log.warning("watchdog_not_fed", waits_for=still)
        return False

    def _service_line(self) -> str:
        if self._service_status is None:
            return self.state
        return self._service_status(
            self._answers.status(self._clock(), clients_dropped=self._control.dropped)
        )

    def _check_memory(self, child: Child) -> None:
        limit_mb = self._memory_limit_mb(child)
        if limit_mb is None:
            return
        rss_mb = child.rss_bytes() >> 20
        if rss_mb > limit_mb:
            self._kill(child, f"it uses {rss_mb} MiB of memory, more than its limit of {limit_mb}")

    def _memory_limit_mb(self, child: Child) -> int | None:
        if not isinstance(self._rss_limit_mb, Mapping):
            return self._rss_limit_mb
        limits = [self._rss_limit_mb.get(stage) for stage, _ in child.spec.members]
        given = [limit for limit in limits if limit is not None]
        return max(given) if len(given) == len(limits) else None

    # Death ---------------------------------------------------------------------------------------

    def _kill(self, child: Child, because: str) -> None:
        """SIGKILL, once; what follows happens when it was reaped."""
        child.kill_at_s = None
        if not child.alive or child.killed_because is not None:
            return
        child.killed_because = because
        self._log.error("process_killed", process=child.name, pid=child.pid, because=because)
        with suppress(ProcessLookupError):
            signal.pidfd_send_signal(child.pidfd, signal.SIGKILL)

    def _must_end(self, child: Child, now_s: float) -> None:
        """It should be about to exit; help it if it does not."""
        soon_s = now_s + KILL_GRACE_S
        child.kill_at_s = soon_s if child.kill_at_s is None else min(child.kill_at_s, soon_s)

    def _exited(self, child: Child, now_s: float) -> None:
        """Reap a dead child, tell the others, and decide what comes next."""
        code = child.process.exitcode
        if code is None:
            raise RuntimeError(f"somebody else reaped {child.name}; nobody may wait for any child")
        self._hear(child, now_s)  # its last words may say why
        self._bury(child)
        number, status = (-code, None) if code < 0 else (None, code)
        cause = signal.Signals(number).name if number is not None else f"exit status {status}"
        child.last_death = {
            "cause": child.killed_because or cause,
            "signal": number,
            "exit_status": status,
            "incarnation": child.incarnation,
            "uptime_s": round(now_s - child.started_s, 3),
            "at_s": now_s,
        }
        for stage, index in child.spec.members:
            self._tell_others(child, PeerDied(stage, index, child.incarnation, number, status))
        if self._stopping:
            child.state = State.ENDED
            if code != 0:
                self._log.error("process_ended_badly", process=child.name, cause=cause)
                self._fail(FAILED_EXIT_STATUS, f"{child.name} did not stop in order: {cause}")
            else:
                self._log.info("process_ended", process=child.name)
        elif child.fatal is not None:
            self._needs_help(child, child.fatal, now_s)
        else:
            self._judge(child, now_s)

    def _bury(self, child: Child) -> None:
        self._selector.unregister(child.pidfd)
        os.close(child.pidfd)
        child.pidfd = -1
        if child.channel is not None:
            self._selector.unregister(child.channel)
            child.channel.close()
            child.channel = None
        with suppress(ValueError):  # it was not us who reaped it: see _exited
            child.process.close()
        child.process = child.pid = child.kill_at_s = None

    def _judge(self, child: Child, now_s: float) -> None:
        assert child.last_death is not None
        cause = child.last_death["cause"]
        verdict = child.policy.died(now_s, child.ready_s)
        child.ready_s = None
        if isinstance(verdict, GiveUp):
            child.state = State.ENDED
            self._log.error("process_given_up", process=child.name, cause=cause, why=verdict.reason)
            self._stop(
                FAILED_EXIT_STATUS,
                f"{child.name} {verdict.reason} (last: {cause}); the log above says why",
                now_s,
            )
            return
        child.state = State.WAITING
        child.start_at_s = now_s + verdict.pause_s
        self._log.warning(
            "process_died",
            process=child.name,
            incarnation=child.incarnation,
            cause=cause,
            restart_in_ms=round(verdict.pause_s * 1000),
        )

    def _needs_help(self, child: Child, fatal: Fatal, now_s: float) -> None:
        child.state = State.ENDED
        self._log.error("stage_fatal", process=child.name, message=fatal.message)
        if not child.spec.expendable:
            self._stop(fatal.exit_status or FAILED_EXIT_STATUS, fatal.message, now_s)

    # The end -------------------------------------------------------------------------------------

    @property
    def _stopping(self) -> bool:
        return self._stop_order is not None

    def _fail(self, status: int, why: str) -> None:
        """The first failure is the one that counts."""
        if self.failure is None:
            self._status = status
            self.failure = why

    def _stop(self, status: int, why: str | None, now_s: float) -> None:
        if why is not None:
            self._fail(status, why)
        if self._stop_order is not None:
            return
        self._log.info("stopping", reason=why or "asked to")
        self._service.stopping()
        groups: dict[str, list[Child]] = {}
        for child in self._children:
            groups.setdefault(child.spec.members[0][0], []).append(child)
            if not child.alive:
                child.state = State.ENDED
        self._stop_order = list(groups.values())
        self._tell_to_stop(now_s)

    def _go_on_stopping(self, now_s: float) -> None:
        assert self._stop_order is not None
        while self._stop_order and not any(child.alive for child in self._stop_order[0]):
            self._stop_order.pop(0)
            self._tell_to_stop(now_s)

    def _tell_to_stop(self, now_s: float) -> None:
        """Ask the first group that is left to finish."""
        if not self._stop_order:
            return
        for child in self._stop_order[0]:
            if child.alive:
                child.kill_at_s = now_s + self._stop_deadline_ms / 1000 + KILL_GRACE_S
                self._send(child, Stop(self._stop_deadline_ms))

    def _signalled(self, now_s: float) -> None:
        for number in dict.fromkeys(self._signals.take()):
            name = signal.Signals(number).name
            if number == signal.SIGHUP and self._hung_up():
                continue
            if self._stop_signal_s is None:
                self._stop_signal_s = now_s
                self._log.info("signal", name=name)
                self._stop(0, None, now_s)
            elif now_s - self._stop_signal_s >= IMPATIENT_S:
                self._log.warning("signal_again", name=name)
                for child in self._children:
                    self._kill(child, f"a second {name} came")

    def _hung_up(self) -> bool:
        """Whether a SIGHUP is no stop signal: the application takes it, or is stopping already."""
        return self._on_hangup is not None and (self._stopping or self._on_hangup())

    def _answer(self, request: Mapping[str, Any]) -> Reply:
        return self._answers.answer(request, self._clock(), self._control.dropped)

    def _kill_all(self) -> None:
        """Whatever happened: no child is left. Nothing to do after an orderly end."""
        for child in self._children:
            self._kill(child, "the supervisor ends")
        for child in self._children:
            if child.alive:
                child.process.join()
                self._bury(child)

    def _release_segments(self) -> None:
        self._trays.close()
        for child in self._children:
            child.reader.close()
            child.metrics_map.close()
            child.metrics.close()
        self._plan_segment.close()
