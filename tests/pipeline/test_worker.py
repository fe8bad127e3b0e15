"""A worker judges the most urgent tray in its hands, whenever it came, and tells its neighbours."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import pytest
import zmq

from pipeline.control import Attach
from pipeline.custody import WORKER_CREDIT
from pipeline.descriptor import Descriptor, Kind, pack_descriptor, unpack_descriptor
from pipeline.layout import TrayLayout
from pipeline.link import Outbox, link_named, open_inbox
from pipeline.topology import LinkPolicy, LinkSpec, Role, StageSpec, Topology, TrayDims
from pipeline.tray import U32, InputSlots, Label, VerdictSlots
from pipeline.worker import TrayWorker

URGENT, REQUESTED, BULK = range(3)
EPOCH, INCARNATION = 5, 2
PATIENCE_MS = 20_000
DIMS = TrayDims(8, 1024, 512, 8, 64)


def link(name: str, source: str, target: str) -> LinkSpec:
    return LinkSpec(name, source, target, LinkPolicy.BLOCK, DIMS.trays, "a test")


TOPOLOGY = Topology(
    stages=(
        StageSpec("in", "x:y", Role.INTAKE),
        StageSpec("work", "x:y", Role.WORKER),
        StageSpec("out", "x:y", Role.SINK),
    ),
    links=(link("work", "in", "work"), link("done", "work", "in"), link("judged", "work", "out")),
    trays=DIMS,
)


@dataclass
class Segment:
    view: memoryview


@dataclass
class Context:
    """The part of a stage's context that a worker uses."""

    segments: dict[str, Segment]
    topology: Topology = TOPOLOGY
    dims: TrayDims = DIMS
    index: int = 0
    epoch: int = EPOCH
    incarnation: int = INCARNATION


class Worker(TrayWorker):
    """Notes the label and items of what it judges; every verdict is the item's first byte."""

    def __init__(self, context: Context, sockets: zmq.Context[zmq.Socket[bytes]]) -> None:
        self.judged: list[tuple[Label, list[bytes]]] = []
        self.times_ns: list[tuple[int, int]] = []
        self.gives_way = False
        super().__init__(context, sockets)  # type: ignore[arg-type]

    def judge(self, label: Label, payload: memoryview, offsets: U32, verdicts: memoryview) -> None:
        at = offsets.tolist()
        items = [bytes(payload[a:b]) for a, b in pairwise(at)]
        if self.gives_way:
            self.give_way()
        self.judged.append((label, items))
        verdicts[: len(items)] = bytes(item[0] for item in items)

    def judged_in(self, waited_ns: int, took_ns: int) -> None:
        self.times_ns.append((waited_ns, took_ns))


class Bench:
    """A worker and its neighbours."""

    def __init__(self) -> None:
        layout = TrayLayout(DIMS)
        segments = {
            name: Segment(memoryview(bytearray(layout.segment_bytes(name))))
            for name in ("input", "verdict-0")
        }
        self.sockets: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
        self.done = open_inbox(self.sockets, link_named(TOPOLOGY, "done"))
        self.out = open_inbox(self.sockets, link_named(TOPOLOGY, "judged"))
        self.worker = Worker(Context(segments), self.sockets)
        self.work = Outbox(self.sockets, link_named(TOPOLOGY, "work"))
        self.input = InputSlots(segments["input"].view, DIMS)
        self.verdicts = VerdictSlots(segments["verdict-0"].view, DIMS)
        self.generations = 0

    def close(self) -> None:
        self.worker.close()
        self.work.close()
        self.done.close()
        self.out.close()
        self.sockets.destroy(linger=0)

    def fill(
        self, tray: int, priority: int, *items: bytes, label: Label | None = None
    ) -> Descriptor:
        """A tray of these items; who should judge it is told by `send`."""
        self.generations += 1
        self.input.headers[tray][0] = self.generations
        at = 0
        for number, item in enumerate(items):
            self.input.payloads[tray][at : at + len(item)] = item
            at += len(item)
            self.input.offsets[tray][number + 1] = at
        self.input.set_label(tray, label or Label(priority))
        return Descriptor(
            Kind.WORK,
            priority=priority,
            tray=tray,
            epoch=EPOCH,
            incarnation=INCARNATION,
            attempt=1,
            items=len(items),
            generation=self.generations,
        )

    def send(self, *work: Descriptor) -> None:
        for each in work:
            self.work.send(pack_descriptor(*each))

    def handle(self) -> int:
        """A turn of the loop, once something is there."""
        return self.worker.inputs[0].handle()

    def until_judged(self, count: int) -> None:
        socket = self.worker.inputs[0].socket
        assert isinstance(socket, zmq.Socket)
        while len(self.worker.judged) < count:
            assert socket.poll(PATIENCE_MS)
            self.handle()

    def take(self, socket: zmq.Socket[bytes]) -> Descriptor:
        assert socket.poll(PATIENCE_MS)
        return unpack_descriptor(socket.recv())

    @property
    def order(self) -> list[bytes]:
        return [item for _, items in self.worker.judged for item in items]


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Bench]:
    before = Path.cwd()
    os.chdir(tmp_path)  # links are sockets in the working directory
    made = Bench()
    try:
        assert made.take(made.done).kind == Kind.READY
        yield made
    finally:
        made.close()
        os.chdir(before)


def test_it_says_that_it_is_ready_and_for_how_many(tmp_path: Path) -> None:
    before = Path.cwd()
    os.chdir(tmp_path)
    bench = Bench()
    try:
        word = bench.take(bench.done)
    finally:
        bench.close()
        os.chdir(before)
    assert (word.kind, word.epoch, word.incarnation) == (Kind.READY, EPOCH, INCARNATION)
    assert word.items == WORKER_CREDIT


def test_a_tray_is_judged_as_its_label_says_and_handed_on(bench: Bench) -> None:
    label = Label(3, 9, 40)
    work = bench.fill(2, BULK, b"one", b"two", label=label)
    bench.send(work)
    bench.until_judged(1)
    assert bench.worker.judged == [(label, [b"one", b"two"])]
    judged, done = bench.take(bench.out), bench.take(bench.done)
    assert judged == work._replace(kind=Kind.JUDGED)
    assert done == work._replace(kind=Kind.DONE)
    body = bench.verdicts.body(judged)
    assert body is not None
    assert bytes(body[:2]) == b"ot"


def test_it_tells_how_long_a_tray_waited_and_took(bench: Bench) -> None:
    work = bench.fill(2, BULK, b"one")
    sealed_ns = time.monotonic_ns()
    bench.input.set_sealed_ns(2, sealed_ns)
    bench.send(work)
    bench.until_judged(1)
    ((waited_ns, took_ns),) = bench.worker.times_ns
    judged_ns = bench.verdicts.judged_ns(bench.take(bench.out))
    assert waited_ns > 0
    assert took_ns > 0
    assert sealed_ns + waited_ns + took_ns == judged_ns <= time.monotonic_ns()


def test_what_lies_in_the_socket_is_put_in_order(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    work = [
        bench.fill(0, BULK, b"bulk-1"),
        bench.fill(1, BULK, b"bulk-2"),
        bench.fill(2, URGENT, b"now-1"),
        bench.fill(3, REQUESTED, b"asked"),
        bench.fill(4, URGENT, b"now-2"),
    ]
    comes_in_bursts(monkeypatch, [len(work)])
    bench.send(*work)
    assert bench.handle() == len(work)
    assert bench.order == [b"now-1", b"now-2", b"asked", b"bulk-1", b"bulk-2"]


def test_an_urgent_tray_that_comes_meanwhile_is_next(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    comes_in_bursts(monkeypatch, [2, 1])
    bench.send(
        bench.fill(0, BULK, b"bulk-1"),
        bench.fill(1, BULK, b"bulk-2"),
        bench.fill(2, URGENT, b"now"),
    )
    assert bench.handle() == 3
    assert bench.order == [b"bulk-1", b"now", b"bulk-2"]


def test_a_tray_in_work_gives_way_to_urgent_ones_alone(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    work = [
        bench.fill(0, BULK, b"bulk-1"),
        bench.fill(1, BULK, b"bulk-2"),
        bench.fill(2, URGENT, b"now-1"),
        bench.fill(3, REQUESTED, b"asked"),
        bench.fill(4, URGENT, b"now-2"),
    ]
    comes_in_bursts(monkeypatch, [1, 4])
    bench.worker.gives_way = True
    bench.send(*work)
    assert bench.handle() > 0
    bench.until_judged(len(work))
    assert bench.order == [b"now-1", b"now-2", b"bulk-1", b"asked", b"bulk-2"]
    for number in (2, 4, 0, 3, 1):  # each is handed on as soon as it is judged
        assert bench.take(bench.out) == work[number]._replace(kind=Kind.JUDGED)
        assert bench.take(bench.done) == work[number]._replace(kind=Kind.DONE)


def test_a_turn_ends_though_more_comes_whenever_it_gives_way(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The loop turns in between: one that stands still would be taken for stuck."""
    trays = DIMS.trays
    comes_in_bursts(monkeypatch, [1] * trays)
    bench.worker.gives_way = True
    bench.send(*(bench.fill(tray, BULK, b"%d" % tray) for tray in range(trays)))
    assert 0 < bench.handle() < trays
    judged = len(bench.worker.judged)
    while len(bench.worker.judged) < trays:
        assert bench.worker.deadline_ns() == 0
        bench.worker.after_inputs(0)
        assert len(bench.worker.judged) == judged + 1
        judged += 1
    assert bench.worker.deadline_ns() is None
    assert sorted(bench.order) == [b"%d" % tray for tray in range(trays)]


def test_what_is_in_hand_of_another_epoch_is_dropped(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    comes_in_bursts(monkeypatch, [1] * DIMS.trays)
    bench.worker.gives_way = True
    bench.send(*(bench.fill(tray, BULK, b"%d" % tray) for tray in range(DIMS.trays)))
    bench.handle()
    judged = len(bench.worker.judged)
    assert bench.worker.deadline_ns() == 0
    bench.worker.attached(Attach(EPOCH + 1, ()))
    assert bench.worker.deadline_ns() is None
    bench.worker.after_inputs(0)
    assert len(bench.worker.judged) == judged


def test_nothing_urgent_leaves_the_tray_in_work_alone(bench: Bench) -> None:
    bench.worker.gives_way = True
    bench.send(bench.fill(0, BULK, b"bulk"))
    bench.until_judged(1)
    assert bench.order == [b"bulk"]


def test_a_turn_ends_though_more_comes_all_the_time(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What comes while it judges is its own credit's worth; the loop has other things to do."""
    trays = DIMS.trays
    comes_in_bursts(monkeypatch, [1] * trays)
    bench.send(*(bench.fill(tray, URGENT, b"%d" % tray) for tray in range(trays)))
    assert 0 < bench.handle() < trays
    bench.until_judged(trays)
    assert bench.order == [b"%d" % tray for tray in range(trays)]


@pytest.mark.parametrize(
    "stale",
    [{"epoch": EPOCH - 1}, {"incarnation": INCARNATION - 1}, {"generation": 99}],
    ids=str,
)
def test_what_is_meant_for_another_life_is_left_alone(bench: Bench, stale: dict[str, int]) -> None:
    bench.send(bench.fill(0, URGENT, b"stale")._replace(**stale), bench.fill(1, BULK, b"mine"))
    bench.until_judged(1)
    assert bench.order == [b"mine"]
    assert bench.take(bench.done).tray == 1


def comes_in_bursts(monkeypatch: pytest.MonkeyPatch, bursts: list[int]) -> None:
    """Each look at the socket finds exactly so many messages, later ones none."""

    def drain(socket: zmq.Socket[bytes], at_most: int) -> list[bytes]:
        frames = []
        for _ in range(bursts.pop(0) if bursts else 0):
            assert socket.poll(PATIENCE_MS)
            frames.append(socket.recv())
        return frames

    monkeypatch.setattr("pipeline.worker.drain", drain)
    monkeypatch.setattr("pipeline.worker.has_input", lambda _: bool(bursts))
