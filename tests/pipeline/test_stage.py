"""The run loop: where time is charged, what is polled, and how it ends."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import pytest
import zmq

from pipeline.control import Channel, Ready, Stop
from pipeline.link import has_input
from pipeline.metrics import STAGE_METRICS, MetricReader, MetricWriter, region_bytes
from pipeline.stage import HOUSEKEEPING_MS, Input, Stage, run
from pipeline.topology_rules import MIN_STALL_MS

CHARGED = ("busy_ns", "idle_ns", "backpressure_ns", "housekeeping_ns")


@dataclass
class Context:
    """The part of a stage's context that the loop uses."""

    channel: Channel


class Counting(Stage):
    """Takes numbers from a socket; wants to end after some."""

    def __init__(self, socket: zmq.Socket[bytes], supervisor: Channel, messages: int) -> None:
        self.region = bytearray(region_bytes(STAGE_METRICS))
        self.metrics = MetricWriter(memoryview(self.region), STAGE_METRICS)
        self.inputs = (Input(socket, self.take, bulk=True),)
        self.socket = socket
        self.supervisor = supervisor
        self.left = messages
        self.open = True
        self.taken: list[bytes] = []
        self.turns = 0
        self.houses_kept = 0
        self.closed = False

    def take(self) -> int:
        self.taken.append(self.socket.recv(zmq.NOBLOCK))
        self.left -= 1
        if self.left == 0:
            self.supervisor.send(Stop(deadline_ms=5_000))
        return 1

    def accepts_bulk(self) -> bool:
        return self.open

    def after_inputs(self, now_ns: int) -> None:
        self.turns += 1

    def housekeeping(self, now_ns: int) -> None:
        self.houses_kept += 1
        if self.houses_kept == 3:
            self.open = True  # a gate that was shut opens here

    def close(self) -> None:
        self.closed = True

    def snapshot(self) -> dict[str, Any]:
        return MetricReader(memoryview(self.region), STAGE_METRICS).snapshot()


@pytest.fixture
def sockets() -> Iterator[tuple[zmq.Socket[bytes], zmq.Socket[bytes]]]:
    with (
        zmq.Context() as context,
        context.socket(zmq.PULL) as pull,
        context.socket(zmq.PUSH) as push,
    ):
        pull.bind("inproc://numbers")
        push.connect("inproc://numbers")
        yield pull, push


@pytest.fixture
def channels() -> Iterator[tuple[Channel, Channel]]:
    supervisor, other = Channel.pair()
    child = Channel(other)
    yield supervisor, child
    supervisor.close()
    child.close()


Sockets = tuple[Any, Any]
Channels = tuple[Channel, Channel]


def test_every_nanosecond_is_charged_once(sockets: Sockets, channels: Channels) -> None:
    pull, push = sockets
    supervisor, child = channels
    stage = Counting(pull, supervisor, 50)
    for number in range(50):
        push.send(b"%d" % number)
    began = time.monotonic_ns()
    assert run([stage], [Context(child)]) == 0  # type: ignore[list-item]
    elapsed = time.monotonic_ns() - began
    values = stage.snapshot()
    charged = sum(values[name] for name in CHARGED)
    assert 0 < values["busy_ns"] <= charged <= elapsed
    assert elapsed - charged < 20_000_000  # before the first turn and after the last
    assert stage.taken == [b"%d" % number for number in range(50)]
    assert stage.closed
    assert values["loops"] == stage.turns
    received = supervisor.receive()
    assert received is not None
    assert received[0] == Ready()


def test_a_shut_gate_stops_bulk_and_is_charged_to_backpressure(
    sockets: Sockets, channels: Channels
) -> None:
    pull, push = sockets
    supervisor, child = channels
    stage = Counting(pull, supervisor, 1)
    stage.open = False
    began = time.monotonic_ns()
    push.send(b"waits")  # the socket is ready, and must not be read
    assert run([stage], [Context(child)]) == 0  # type: ignore[list-item]
    assert stage.taken == [b"waits"]
    values = stage.snapshot()
    assert values["backpressure_ns"] > 2 * HOUSEKEEPING_MS * 900_000 > values["idle_ns"]
    assert time.monotonic_ns() - began >= values["backpressure_ns"]


def test_a_loaded_stage_rests_and_waits_when_nothing_has_come(
    sockets: Sockets, channels: Channels
) -> None:
    pull, push = sockets
    supervisor, child = channels
    stage = Counting(pull, supervisor, 2)
    stage.rest_us = lambda: 100  # type: ignore[method-assign]
    stage.take = take_if_any(stage)  # type: ignore[method-assign]
    stage.inputs = (Input(pull, stage.take, bulk=True),)
    push.send(b"first")
    keep_house = stage.housekeeping

    def housekeeping(now_ns: int) -> None:
        keep_house(now_ns)
        if stage.houses_kept == 2:
            push.send(b"second")

    stage.housekeeping = housekeeping  # type: ignore[method-assign]
    assert run([stage], [Context(child)]) == 0  # type: ignore[list-item]
    assert stage.taken == [b"first", b"second"]
    assert stage.turns < 20  # two rounds of housekeeping apart, in turns of 100 us


def take_if_any(stage: Counting) -> Callable[[], int]:
    """What `Counting.take` does, also after a rest, when nobody has said that something came."""
    take = stage.take
    return lambda: take() if has_input(stage.socket) else 0


def test_the_loop_ends_when_the_supervisor_is_gone(sockets: Sockets, channels: Channels) -> None:
    pull, _ = sockets
    supervisor, child = channels
    stage = Counting(pull, supervisor, 1)
    stage.after_inputs = lambda now_ns: supervisor.close()  # type: ignore[method-assign]
    assert run([stage], [Context(child)]) == 0  # type: ignore[list-item]
    assert stage.closed


def test_a_stage_that_does_not_finish_is_ended_at_the_deadline(
    sockets: Sockets, channels: Channels
) -> None:
    pull, _ = sockets
    supervisor, child = channels
    stage = Counting(pull, supervisor, 1)
    stage.finished = lambda: False  # type: ignore[method-assign]
    supervisor.send(Stop(deadline_ms=30))
    assert run([stage], [Context(child)]) == 0  # type: ignore[list-item]
    assert stage.closed


def test_an_idle_loop_shows_its_progress_before_anybody_can_call_it_stuck() -> None:
    assert 2 * HOUSEKEEPING_MS <= MIN_STALL_MS
