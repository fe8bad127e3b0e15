"""The run loop that every stage shares, and the interface of a stage.

One turn of the loop: wait for an input or the next deadline; handle ready inputs in priority order,
each up to its burst; give the stage its `after_inputs`; do housekeeping when due. Nothing in a turn
may wait.

A loaded stage may rest in each turn (`Stage.rest_us`), so that work gathers: the loop waits until
something moves, rests, and then asks every input whether it has something. The wait looks at the
descriptors alone, for a tenth of what it costs to ask all sockets. What a socket has taken from its
descriptor and not handed out yet does not show there, so the wait after a turn in which something
was handled is a short one.

Time accounting: every nanosecond of the loop is charged to exactly one of *busy* (handling),
*housekeeping*, *backpressure* (waiting while the stage refuses input because something downstream
is full) or *idle* (waiting and resting otherwise); the four counters sum to the time since the loop
started. They are published every `PUBLISH_MS`.

Lag: while a stage is active the loop keeps a probe due every `PROBE_MS`; how late the loop notices
it is what a message that arrived at that moment would have waited for the loop, scheduling delay of
the operating system included. It goes into the histogram `loop_gap` and the gauge `lag_max_ns`.

The loop takes orders from the supervisor through the stage's channel: attach, a peer died or
started, log more or less, stop. It ends when each stage says that it is finished after a stop, or
when the supervisor is gone.
"""

from __future__ import annotations

import gc
import os
import select
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import zmq

from pipeline import processlog
from pipeline.control import Attach, PeerDied, PeerStarted, Ready, SetLogLevel, Stop
from pipeline.link import has_input
from pipeline.metrics import MetricWriter

if TYPE_CHECKING:
    from pipeline.child import StageContext
    from pipeline.link import Socket

HOUSEKEEPING_MS = 500  # an idle node does little else, and twice as often costs nearly double
PROBE_MS = 10
PUBLISH_MS = 10
HIDDEN_WAIT_MS = 2  # at most, while a socket may hold what its descriptor does not show
NS_PER_MS = 1_000_000


@dataclass(slots=True)
class Input:
    """One source of messages of a stage: a ZeroMQ socket, or a descriptor that can be polled.

    `handle()` receives and handles a bounded burst without waiting and returns how many items that
    was, 0 when nothing had arrived. A `bulk` input is polled only while the stage accepts bulk.
    """

    socket: Socket | int
    handle: Callable[[], int]
    bulk: bool = False


class Stage:
    """What the loop calls. Every method returns promptly; the defaults do nothing.

    `inputs` is in priority order and fixed after construction. `metrics` begins with
    `pipeline.metrics.STAGE_METRICS`.
    """

    inputs: Sequence[Input] = ()
    metrics: MetricWriter

    def accepts_bulk(self) -> bool:
        """Whether bulk inputs are polled; False charges waiting to backpressure."""
        return True

    def rest_us(self) -> int:
        """How long the loop may let work gather when something moves, 0 for not at all."""
        return 0

    def deadline_ns(self) -> int | None:
        """When the loop must call `after_inputs` at the latest (CLOCK_MONOTONIC), or None."""
        return None

    def attached(self, message: Attach) -> None:
        """The context's segments are those of a new epoch."""

    def peer_died(self, message: PeerDied) -> None:
        """Another process was reaped."""

    def peer_started(self, message: PeerStarted) -> None:
        """Another process was started."""

    def after_inputs(self, now_ns: int) -> None:
        """All ready inputs were handled: act on them."""

    def housekeeping(self, now_ns: int) -> None:
        """Called every `HOUSEKEEPING_MS`, for what has no hurry."""

    def stop(self) -> None:
        """Begin to finish: take nothing new in (`accepts_bulk`)."""

    def finished(self) -> bool:
        """After `stop`: whether everything in hand is done."""
        return True

    def close(self) -> None:
        """Release sockets and files; called once, at an orderly end."""


def run(stages: Sequence[Stage], contexts: Sequence[StageContext]) -> int:
    """Run the stages of one process until they are stopped; returns the process's exit status."""
    loop = _Loop(stages, contexts)
    gc.freeze()  # what start-up made stays: the collector need not look at it again
    contexts[0].channel.send(Ready())
    try:
        while loop.turn():
            pass
    finally:
        loop.close()
    return 0


def _descriptor(source: Input) -> int:
    socket = source.socket
    return socket if isinstance(socket, int) else socket.fileno()


class _Account:
    """Where the time of one stage goes; nanoseconds, counted here and published in one go."""

    def __init__(self, metrics: MetricWriter) -> None:
        self.busy = self.idle = self.backpressure = self.housekeeping = 0
        self.loops = 0
        self._writer = metrics
        self._counters = [
            metrics[name]
            for name in ("busy_ns", "idle_ns", "backpressure_ns", "housekeeping_ns", "loops")
        ]
        self._heartbeat = metrics["heartbeat_ns"]
        self._lag_max = metrics["lag_max_ns"]
        self._loop_gap = metrics["loop_gap"]
        self._lag_max_ns = 0
        metrics.set(self._lag_max, 0)

    def observe_lag(self, late_ns: int) -> None:
        """Count how late the loop was."""
        self._writer.observe(self._loop_gap, late_ns)
        if late_ns > self._lag_max_ns:
            self._lag_max_ns = late_ns
            self._writer.set(self._lag_max, late_ns)

    def publish(self, now_ns: int) -> None:
        """Add what was counted to the shared counters."""
        add = self._writer.add
        counted = self.busy, self.idle, self.backpressure, self.housekeeping, self.loops
        for counter, n in zip(self._counters, counted, strict=True):
            add(counter, n)
        self.busy = self.idle = self.backpressure = self.housekeeping = self.loops = 0
        self._writer.set(self._heartbeat, now_ns)


class _Loop:
    def __init__(self, stages: Sequence[Stage], contexts: Sequence[StageContext]) -> None:
        self._stages = stages
        self._contexts = contexts
        self._channel = contexts[0].channel
        self._accounts = [_Account(stage.metrics) for stage in stages]
        self._poller = zmq.Poller()
        self._poller.register(self._channel.fileno(), zmq.POLLIN)
        self._descriptors = select.epoll()
        self._descriptors.register(self._channel.fileno(), select.EPOLLIN)
        self._bulk_open = [True] * len(stages)
        for stage in stages:
            for source in stage.inputs:
                self._poller.register(source.socket, zmq.POLLIN)
                self._descriptors.register(_descriptor(source), select.EPOLLIN)
        self._stopping = False
        self._stop_deadline_ns = 0
        for number, stage in enumerate(stages):
            self._gate_bulk(number, stage)
        self._mark_ns = time.monotonic_ns()
        self._housekeeping_ns = self._publish_ns = self._mark_ns
        self._probe_ns = self._mark_ns + PROBE_MS * NS_PER_MS
        self._active = False  # probes tell of a loop that works, not of one that waits
        self._handled = False  # something in the last turn

    def turn(self) -> bool:
        """One turn; False when the process should end."""
        rest_us = min(stage.rest_us() for stage in self._stages)
        timeout_ms = self._timeout_ms(self._mark_ns)
        ready: dict[object, int] | None = None
        rested = False
        if rest_us:
            if self._handled:
                timeout_ms = min(timeout_ms, HIDDEN_WAIT_MS)
            moved = dict(self._descriptors.poll(timeout_ms / 1_000))
            ordered = self._channel.fileno() in moved
            if moved:
                time.sleep(rest_us / 1_000_000)
                rested = True
        else:
            ready = dict(self._poller.poll(timeout_ms))
            ordered = self._channel.fileno() in ready
        now = time.monotonic_ns()
        waited = now - self._mark_ns
        for account, open_ in zip(self._accounts, self._bulk_open, strict=True):
            if open_:
                account.idle += waited
            else:
                account.backpressure += waited
        if now >= self._probe_ns:
            ordered = ordered or has_input(self._channel.fileno())
            self._probe(now)
        if ordered and not self._obey():
            return False
        self._handled = False
        for number, stage in enumerate(self._stages):
            now = self._serve(number, stage, ready, now)
        self._active = self._handled or rested
        if now >= self._housekeeping_ns:
            now = self._keep_house(now)
        if now >= self._publish_ns:
            self._publish(now)
        self._mark_ns = now
        if self._stopping:
            done = all(stage.finished() for stage in self._stages)
            return not (done or now >= self._stop_deadline_ns)
        return True

    def close(self) -> None:
        """Publish the last accounts and close the stages."""
        self._publish(time.monotonic_ns())
        for stage in self._stages:
            stage.close()
        self._descriptors.close()
        processlog.close()

    def _serve(self, number: int, stage: Stage, ready: dict[object, int] | None, now: int) -> int:
        """Handle what is ready, or under load (`ready` None) whatever has arrived."""
        handled = 0
        for source in stage.inputs:
            if ready is None:
                if not source.bulk or self._bulk_open[number]:
                    handled += source.handle()
            elif source.socket in ready:
                handled += source.handle()
        stage.after_inputs(now)
        self._gate_bulk(number, stage)
        if handled:
            self._handled = True
        after = time.monotonic_ns()
        account = self._accounts[number]
        account.busy += after - now
        account.loops += 1
        self._charge_others(account, after - now)
        return after

    def _charge_others(self, account: _Account, spent_ns: int) -> None:
        for other in self._accounts:  # stages in the same process wait while this one works
            if other is not account:
                other.idle += spent_ns

    def _gate_bulk(self, number: int, stage: Stage) -> None:
        open_now = stage.accepts_bulk()
        if open_now != self._bulk_open[number]:
            self._bulk_open[number] = open_now
            for source in stage.inputs:
                if source.bulk:
                    self._poller.modify(source.socket, zmq.POLLIN if open_now else 0)
                    self._descriptors.modify(_descriptor(source), select.EPOLLIN if open_now else 0)

    def _timeout_ms(self, now: int) -> int:
        until = self._housekeeping_ns
        if self._active:
            until = min(until, self._probe_ns)
        for stage in self._stages:
            deadline = stage.deadline_ns()
            if deadline is not None:
                until = min(until, deadline)
        if self._stopping:
            until = min(until, now + PROBE_MS * NS_PER_MS)
        return max(0, -(-(until - now) // NS_PER_MS))

    def _probe(self, now: int) -> None:
        late = now - self._probe_ns
        if self._active:
            for account in self._accounts:
                account.observe_lag(late)
        self._probe_ns = now + PROBE_MS * NS_PER_MS

    def _keep_house(self, now: int) -> int:
        for stage, account in zip(self._stages, self._accounts, strict=True):
            stage.housekeeping(now)
            after = time.monotonic_ns()
            account.housekeeping += after - now
            self._charge_others(account, after - now)
            now = after
        processlog.housekeeping(now / 1e9)
        self._housekeeping_ns = now + HOUSEKEEPING_MS * NS_PER_MS
        return now

    def _publish(self, now: int) -> None:
        for account in self._accounts:
            account.publish(now)
        self._publish_ns = now + PUBLISH_MS * NS_PER_MS

    def _obey(self) -> bool:
        """Follow the supervisor's orders; False when it is gone."""
        while True:
            try:
                received = self._channel.receive()
            except EOFError:
                return False
            if received is None:
                return True
            message, descriptors = received
            match message:
                case Attach():
                    for stage, context in zip(self._stages, self._contexts, strict=True):
                        context.attach(message, descriptors)
                        stage.attached(message)
                    for descriptor in descriptors:
                        os.close(descriptor)
                case PeerDied():
                    for stage in self._stages:
                        stage.peer_died(message)
                case PeerStarted():
                    for stage in self._stages:
                        stage.peer_started(message)
                case SetLogLevel():
                    processlog.set_level(message.level)
                case Stop():
                    self._stopping = True
                    self._stop_deadline_ns = time.monotonic_ns() + message.deadline_ms * NS_PER_MS
                    for stage in self._stages:
                        stage.stop()
                case _:
                    raise TypeError(f"the supervisor sent {type(message).__name__}")
