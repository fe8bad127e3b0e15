"""The ownership rules of trays, driven through many orders of events by a seeded model of the
world.

The model has what the real pipeline has: queues that survive a receiver and queues that die with
their owner, workers and sinks that die at any point and lose what they had not sent yet.
"""

from __future__ import annotations

import random
from collections import Counter, deque
from dataclasses import dataclass, field

import pytest

from pipeline.custody import PRIORITIES, WORKER_CREDIT, Custody, CustodyError, TrayState
from pipeline.descriptor import Descriptor, Kind
from pipeline.order import Order
from pipeline.topology import TrayDims

DIMS = TrayDims(
    trays=8, tray_bytes=1024, fill_bytes=1024, max_items=8, verdict_bytes=64, reserved=(1, 1)
)
EPOCH = 3


@dataclass
class Worker:
    index: int
    incarnation: int = 0
    alive: bool = False
    queue: deque[Descriptor] = field(default_factory=deque)  # survives the worker
    to_sink: deque[Descriptor] = field(default_factory=deque)  # dies with the worker
    to_intake: deque[Descriptor] = field(default_factory=deque)  # dies with the worker


@dataclass
class Sink:
    incarnation: int = 0
    alive: bool = False
    inbox: deque[Descriptor] = field(default_factory=deque)  # dies with the sink
    to_intake: deque[Descriptor] = field(default_factory=deque)
    accepted: dict[int, int] = field(default_factory=dict)
    orders: list[Order] = field(default_factory=lambda: [Order(gap_ms=0) for _ in range(3)])


class World:
    def __init__(self, seed: int, workers: int) -> None:
        self.random = random.Random(seed)
        self.custody = Custody(DIMS, workers, EPOCH)
        self.workers = [Worker(index) for index in range(workers)]
        self.sink = Sink()
        self.resend: deque[Descriptor] = deque()  # intake -> sink, survives the sink
        self.memory: dict[int, tuple[int, tuple[int, ...]]] = {}  # tray -> generation, items
        self.items = 0
        self.answers: Counter[int] = Counter()
        self.admissions: list[tuple[int, int]] = []  # (sink incarnation, item)
        self.quarantined: list[int] = []
        self.poison: set[int] = set()
        self.split: deque[tuple[int, int]] = deque()

    # -- events ------------------------------------------------------------------------------

    def fill(self) -> None:
        priority = self.random.randrange(PRIORITIES)
        acquired = self.custody.acquire(priority)
        if acquired is None:
            return
        tray, generation = acquired
        self.memory[tray] = (generation, ())
        count = self.random.randint(1, 4)
        items = tuple(range(self.items, self.items + count))
        self.items += count
        self.memory[tray] = (generation, items)
        self.custody.seal(tray, count)

    def dispatch(self) -> None:
        for work in self.custody.dispatch():
            self.workers[work.worker].queue.append(work)

    def work(self) -> None:
        worker = self.random.choice(self.workers)
        if not worker.alive or not worker.queue:
            return
        work = worker.queue.popleft()
        generation, items = self.memory[work.tray]
        if work.incarnation != worker.incarnation or generation != work.generation:
            return
        if self.poison.intersection(items):
            self.kill_worker(worker, crashed=True)
            return
        worker.to_sink.append(work._replace(kind=Kind.JUDGED))
        worker.to_intake.append(work._replace(kind=Kind.DONE))

    def deliver(self) -> None:
        worker = self.random.choice(self.workers)
        if worker.to_sink and self.sink.alive and self.random.random() < 0.5:
            self.sink.inbox.append(worker.to_sink.popleft())
        if worker.to_intake and self.random.random() < 0.5:
            self.tell(worker.to_intake.popleft())
        if self.sink.to_intake and self.random.random() < 0.7:
            self.tell(self.sink.to_intake.popleft())
        if self.resend and self.sink.alive:
            self.sink.inbox.append(self.resend.popleft())

    def tell(self, message: Descriptor) -> None:
        if message.kind == Kind.READY:
            self.custody.worker_ready(message)
        elif message.kind == Kind.DONE:
            again = self.custody.done(message)
            if again is not None:
                self.resend.append(again)
        elif message.kind == Kind.HELLO:
            self.resend.extend(self.custody.sink_started(message.epoch))
        elif self.custody.sink_returned(message):
            generation, items = self.memory[message.tray]
            assert generation == message.generation
            self.answers.update(items)

    def admit(self) -> None:
        sink = self.sink
        if not sink.alive:
            return
        if sink.inbox:
            message = sink.inbox.popleft()
            order = sink.orders[message.priority]
            if message.kind == Kind.START:
                order.start(message.sequence)
            elif message.kind == Kind.SKIP:
                order.skip(message.sequence)
            elif message.generation <= sink.accepted.get(message.tray, 0):
                sink.to_intake.append(message._replace(kind=Kind.RETURN, items=0))
            elif self.memory[message.tray][0] == message.generation:
                waiting = order.find(message.sequence)
                order.put(message)
                if waiting is not None and waiting.attempt != message.attempt:
                    sink.to_intake.append(waiting._replace(kind=Kind.RETURN, items=0))
        for order in sink.orders:
            while (message := order.take(0)) is not None:
                generation, items = self.memory[message.tray]
                assert generation == message.generation, "a tray was reused under the sink's hands"
                sink.accepted[message.tray] = generation
                self.admissions.extend((sink.incarnation, item) for item in items)
                sink.to_intake.append(message._replace(kind=Kind.RETURN, items=1))

    def kill_worker(self, worker: Worker, crashed: bool) -> None:
        worker.alive = False
        for queue in (worker.to_sink, worker.to_intake):
            for _ in range(self.random.randint(0, len(queue))):
                queue.pop()
        if self.sink.alive:
            self.sink.inbox.extend(worker.to_sink)
        for message in worker.to_intake:
            self.tell(message)
        worker.to_sink.clear()
        worker.to_intake.clear()
        death = self.custody.worker_died(worker.index, worker.incarnation, crashed)
        self.resend.extend(death.resend)
        self.split.extend((tray, self.custody.generation(tray)) for tray in death.split)

    def split_one(self) -> None:
        if not self.split:
            return
        tray, generation = self.split.popleft()
        if not self.custody.to_split(tray, generation):
            return
        items = self.memory[tray][1]
        if len(items) == 1:
            self.quarantined.append(items[0])
            self.answers.update(items)
            self.resend.append(self.custody.split_done(tray))
            return
        halves = [self.custody.acquire(0), self.custody.acquire(0)]
        if halves[0] is None or halves[1] is None:
            for half in halves:
                if half is not None:
                    self.custody.release(half[0])
            self.split.append((tray, generation))
            return
        middle = len(items) // 2
        for half, part in zip(halves, (items[:middle], items[middle:]), strict=True):
            assert half is not None
            self.memory[half[0]] = (half[1], part)
            self.custody.seal(half[0], len(part), self.custody.crashes(tray) - 1)
        self.resend.append(self.custody.split_done(tray))

    def start_worker(self, worker: Worker) -> None:
        worker.incarnation += 1
        worker.alive = True
        ready = Descriptor(
            Kind.READY,
            worker=worker.index,
            epoch=EPOCH,
            incarnation=worker.incarnation,
            items=WORKER_CREDIT,
        )
        worker.to_intake.append(ready)

    def kill_sink(self) -> None:
        lost = self.random.randint(0, len(self.sink.to_intake))
        kept = list(self.sink.to_intake)[: len(self.sink.to_intake) - lost]
        for message in kept:
            self.tell(message)
        self.sink.alive = False

    def start_sink(self) -> None:
        self.sink = Sink(self.sink.incarnation + 1, alive=True)
        self.sink.to_intake.append(Descriptor(Kind.HELLO, epoch=EPOCH))

    def revive(self) -> None:
        for worker in self.workers:
            if not worker.alive:
                self.start_worker(worker)
        if not self.sink.alive:
            self.start_sink()

    def step(self, deaths: bool) -> None:
        roll = self.random.random()
        if roll < 0.2:
            self.fill()
        elif roll < 0.4:
            self.dispatch()
        elif roll < 0.6:
            self.work()
        elif roll < 0.8:
            self.deliver()
        elif roll < 0.9:
            self.admit()
        elif roll < 0.94:
            self.split_one()
        elif deaths and roll < 0.96:
            alive = [worker for worker in self.workers if worker.alive]
            if alive:
                self.kill_worker(self.random.choice(alive), self.random.random() < 0.1)
        elif deaths and roll < 0.97:
            if self.sink.alive:
                self.kill_sink()
        else:
            self.revive()

    def drain(self) -> None:
        for _ in range(20_000):
            self.revive()
            self.dispatch()
            self.work()
            self.deliver()
            self.admit()
            self.split_one()
            if self.custody.idle:
                return
        raise AssertionError(f"trays never came back: {self.custody.states()}")


@pytest.mark.parametrize("workers", [1, 3])
@pytest.mark.parametrize("deaths", [False, True])
def test_every_item_is_answered_once_and_every_tray_comes_back(workers: int, deaths: bool) -> None:
    for seed in range(150):
        world = World(seed, workers)
        world.revive()
        for _ in range(600):
            world.step(deaths)
        world.drain()
        assert world.answers == Counter(range(world.items)), f"seed {seed}"
        admitted = {item for _, item in world.admissions} | set(world.quarantined)
        assert admitted == set(range(world.items)), f"seed {seed}"
        once_each = Counter(world.admissions)
        assert max(once_each.values(), default=1) == 1, f"seed {seed}: one sink admitted twice"


def test_poison_is_quarantined_and_its_neighbours_are_admitted() -> None:
    for seed in range(60):
        world = World(seed, 2)
        world.revive()
        world.poison = {5, 11, 12}
        for _ in range(600):
            world.step(deaths=False)
        world.drain()
        assert sorted(world.quarantined) == sorted(world.poison & set(range(world.items)))
        assert world.answers == Counter(range(world.items)), f"seed {seed}"


def test_reserved_trays_are_kept_for_lower_priorities() -> None:
    custody = Custody(DIMS, 1, EPOCH)
    taken = [0, 0, 0]
    for priority in (2, 1, 0):
        while custody.acquire(priority) is not None:
            taken[priority] += 1
    assert taken == [1, 1, 6]
    assert custody.states()[TrayState.FILLING] == DIMS.trays


def test_urgent_trays_are_dispatched_first() -> None:
    custody = Custody(DIMS, 1, EPOCH)
    for priority in (2, 1, 0):
        tray = custody.acquire(priority)
        assert tray is not None
        custody.seal(tray[0], 1)
    custody.worker_ready(Descriptor(Kind.READY, epoch=EPOCH, incarnation=1, items=WORKER_CREDIT))
    assert [work.priority for work in custody.dispatch()] == [0, 1]


def test_a_message_about_a_filling_that_never_was_stops_the_process() -> None:
    custody = Custody(DIMS, 1, EPOCH)
    forged = Descriptor(Kind.RETURN, epoch=EPOCH, attempt=1, items=1, generation=99)
    with pytest.raises(CustodyError, match="never filled"):
        custody.sink_returned(forged)


def test_messages_of_another_epoch_change_nothing() -> None:
    custody = Custody(DIMS, 1, EPOCH)
    custody.worker_ready(
        Descriptor(Kind.READY, epoch=EPOCH - 1, incarnation=1, items=WORKER_CREDIT)
    )
    assert not custody.hungry(PRIORITIES - 1)
    assert custody.sink_started(EPOCH - 1) == []
