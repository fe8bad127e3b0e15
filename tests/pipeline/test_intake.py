"""The intake's conveyor with the test as workers and sink: labels, priorities, splits, answers.

Real sockets and memory, in one process; what the workers would read is read here.
"""

from __future__ import annotations

import os
import random
import signal
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from itertools import accumulate, pairwise
from pathlib import Path

import numpy as np
import pytest
import zmq

from pipeline.control import PeerDied
from pipeline.custody import PRIORITIES, URGENT_CREDIT, WORKER_CREDIT
from pipeline.descriptor import Descriptor, Kind, pack_descriptor, unpack_descriptor
from pipeline.fair import FairQueue
from pipeline.intake import SPLIT_WAYS, Intake
from pipeline.layout import TrayLayout
from pipeline.link import Outbox, drain, link_named, open_inbox
from pipeline.topology import LinkPolicy, LinkSpec, Role, StageSpec, Topology, TrayDims
from pipeline.tray import AdmissionSlots, InputSlots, Label

URGENT, REQUESTED, BULK = range(PRIORITIES)
EPOCH = 5
QUARANTINED = 99
MAX_ITEMS = 8
FILL_BYTES = 512
PATIENCE_MS = 20_000
MS = 1_000_000


def dims(trays: int) -> TrayDims:
    return TrayDims(trays, 1024, FILL_BYTES, MAX_ITEMS, 64, reserved=(1, 1))


def topology(workers: int, trays: int) -> Topology:
    def link(name: str, source: str, target: str) -> LinkSpec:
        return LinkSpec(name, source, target, LinkPolicy.BLOCK, trays, "a test")

    return Topology(
        stages=(
            StageSpec("in", "x:y", Role.INTAKE),
            StageSpec("work", "x:y", Role.WORKER, count=workers),
            StageSpec("out", "x:y", Role.SINK),
        ),
        links=(
            link("work", "in", "work"),
            link("done", "work", "in"),
            link("judged", "work", "out"),
            link("returns", "out", "in"),
            link("resend", "in", "out"),
        ),
        trays=dims(trays),
    )


@dataclass
class Segment:
    view: memoryview


@dataclass
class Context:
    """The part of a stage's context that the intake uses."""

    topology: Topology
    segments: dict[str, Segment]
    epoch: int = EPOCH

    @property
    def dims(self) -> TrayDims:
        return self.topology.trays

    def stage_count(self, name: str) -> int:
        return self.topology.stage(name).count


@dataclass
class Request:
    """Whoever waits: each item is answered once."""

    codes: dict[int, int] = field(default_factory=dict)

    def answer(self, first: int, codes: bytes) -> None:
        for number, code in enumerate(codes, first):
            assert number not in self.codes
            self.codes[number] = code


@dataclass
class Tray:
    """A tray as a worker sees it."""

    work: Descriptor
    label: Label
    items: list[bytes]


class Conveyor:
    """An intake, and the ends of its links."""

    def __init__(self, workers: int, trays: int, weight: int) -> None:
        table = topology(workers, trays)
        self.sockets: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
        self.work = [open_inbox(self.sockets, link_named(table, "work"), n) for n in range(workers)]
        self.resend = open_inbox(self.sockets, link_named(table, "resend"))
        layout = TrayLayout(table.trays)
        segments = {
            name: Segment(memoryview(bytearray(layout.segment_bytes(name))))
            for name in ("input", "admission")
        }
        context = Context(table, segments)
        self.killers: list[bytes] = []
        self.queues = [FairQueue(weight, weight, quantum=FILL_BYTES) for _ in range(PRIORITIES)]
        self.intake = Intake(
            context,  # type: ignore[arg-type]
            self.sockets,
            self.queues,
            worker_stage="work",
            quarantine_code=QUARANTINED,
            on_quarantine=self.killers.append,
        )
        self.done = Outbox(self.sockets, link_named(table, "done"))
        self.returns = Outbox(self.sockets, link_named(table, "returns"))
        self.input = InputSlots(segments["input"].view, table.trays)
        self.admission = AdmissionSlots(segments["admission"].view, table.trays)
        self.incarnations = [0] * workers
        self.now_ns = 10**12

    def close(self) -> None:
        self.intake.close()
        self.done.close()
        self.returns.close()
        for socket in (*self.work, self.resend):
            socket.close()
        self.sockets.destroy(linger=0)

    def offer(
        self,
        items: list[bytes],
        priority: int = BULK,
        label: Label = Label(),  # noqa: B008
        source: bytes = b"me",
    ) -> Request:
        request = Request()
        ends = np.array(list(accumulate(map(len, items))), np.uint32)
        payload = memoryview(b"".join(items))
        assert self.intake.offer(source, request, payload, ends, priority=priority, label=label)
        return request

    def pump(self, gather_ms: int = 0) -> None:
        self.intake.pump(self.now_ns, gather_ns=gather_ms * MS)

    def ready(self, worker: int = 0) -> None:
        """A worker starts, and the intake hears of it."""
        self.incarnations[worker] += 1
        word = Descriptor(
            Kind.READY,
            worker=worker,
            epoch=EPOCH,
            incarnation=self.incarnations[worker],
            items=WORKER_CREDIT,
        )
        self.done.send(pack_descriptor(*word))
        self.hear(self.intake.inputs[1].handle)

    def hear(self, handle: Callable[[], int]) -> None:
        """Have the intake read one message that was just sent."""
        for each in self.intake.inputs:
            assert isinstance(each.socket, zmq.Socket)
            if each.handle == handle:
                assert each.socket.poll(PATIENCE_MS)
        handle()

    def take(self, count: int, worker: int = 0) -> list[Tray]:
        """The next trays that this worker gets, exactly so many, in order."""
        trays = []
        for _ in range(count):
            assert self.work[worker].poll(PATIENCE_MS), "no tray comes"
            trays.append(self.take_one(worker))
        assert drain(self.work[worker], 1) == []
        return trays

    def answer(self, tray: Tray, codes: bytes | None = None) -> None:
        """The worker is done with a tray, and so is the sink."""
        answer = bytes(len(tray.items)) if codes is None else codes
        self.admission.headers[tray.work.tray][0] = tray.work.generation
        self.admission.codes[tray.work.tray][: len(answer)] = np.frombuffer(answer, np.uint8)
        self.done.send(pack_descriptor(*tray.work._replace(kind=Kind.DONE)))
        self.hear(self.intake.inputs[1].handle)
        back = tray.work._replace(kind=Kind.RETURN, items=1)
        self.returns.send(pack_descriptor(*back))
        self.hear(self.intake.inputs[0].handle)

    def crash(self, worker: int = 0) -> None:
        """A worker dies of what it has in hand, and another one starts."""
        died = PeerDied(
            stage="work",
            index=worker,
            incarnation=self.incarnations[worker],
            signal=signal.SIGSEGV,
            exit_status=0,
        )
        self.intake.peer_died(died)
        self.ready(worker)

    def run_until_idle(self) -> list[Tray]:
        """Judge whatever there is, all of it good; the trays in the order of their coming."""
        came: list[Tray] = []
        self.pump()
        while not self.intake.idle:
            assert self.work[0].poll(PATIENCE_MS)
            came.append(self.take_one())
            self.answer(came[-1])
            self.pump()
        return came

    def take_one(self, worker: int = 0) -> Tray:
        """The next tray that this worker gets."""
        work = unpack_descriptor(self.work[worker].recv())
        assert self.input.generation(work.tray) == work.generation
        offsets = self.input.offsets[work.tray][: work.items + 1].tolist()
        payload = self.input.payloads[work.tray]
        items = [bytes(payload[a:b]) for a, b in pairwise(offsets)]
        return Tray(work, self.input.label(work.tray), items)


Make = Callable[..., Conveyor]


@pytest.fixture
def make(tmp_path: Path) -> Iterator[Make]:
    made: list[Conveyor] = []
    before = Path.cwd()
    os.chdir(tmp_path)  # links are sockets in the working directory

    def conveyor(workers: int = 1, trays: int = 16, weight: int = 100_000) -> Conveyor:
        made.append(Conveyor(workers, trays, weight))
        return made[-1]

    yield conveyor
    for each in made:
        each.close()
    os.chdir(before)


def lines(name: str, count: int) -> list[bytes]:
    return [b"%s-%d" % (name.encode(), number) for number in range(count)]


# -- labels -----------------------------------------------------------------------------------


def test_items_of_one_label_share_a_tray(make: Make) -> None:
    belt = make()
    belt.offer(lines("a", 2), label=Label(3))
    belt.offer(lines("b", 2), label=Label(3))
    belt.ready()
    belt.pump()
    (tray,) = belt.take(1)
    assert tray.items == lines("a", 2) + lines("b", 2)
    assert tray.label == Label(3, 0, 0)


def test_another_label_begins_another_tray(make: Make) -> None:
    belt = make()
    labels = [Label(3), Label(4), Label(4, 7), Label(4, 8), Label(3)]
    for number, label in enumerate(labels):
        belt.offer(lines(str(number), 1), label=label)
    belt.ready()
    trays = belt.run_until_idle()
    assert [tray.label for tray in trays] == labels
    assert [tray.items for tray in trays] == [lines(str(number), 1) for number in range(5)]


def test_first_counts_on_over_trays(make: Make) -> None:
    belt = make()
    items = lines("a", 2 * MAX_ITEMS + 3)
    belt.offer(items, label=Label(2, 9, 100))
    belt.ready()
    trays = belt.run_until_idle()
    assert [tray.label for tray in trays] == [
        Label(2, 9, 100),
        Label(2, 9, 100 + MAX_ITEMS),
        Label(2, 9, 100 + 2 * MAX_ITEMS),
    ]
    assert [each for tray in trays for each in tray.items] == items


def test_without_a_tag_nothing_is_counted(make: Make) -> None:
    belt = make()
    belt.offer(lines("a", MAX_ITEMS + 1), label=Label(2))
    belt.ready()
    assert [tray.label for tray in belt.run_until_idle()] == [Label(2), Label(2)]


def test_parts_of_a_request_that_follow_each_other_share_a_tray_others_do_not(make: Make) -> None:
    belt = make()
    belt.offer(lines("a", 2), label=Label(1, 5, 10))
    belt.offer(lines("b", 2), label=Label(1, 5, 12))  # goes on where the first ended
    belt.offer(lines("c", 2), label=Label(1, 5, 15))  # one is missing
    belt.offer(lines("d", 2), label=Label(1, 6, 17))  # another request
    belt.ready()
    trays = belt.run_until_idle()
    assert [(tray.label, tray.items) for tray in trays] == [
        (Label(1, 5, 10), lines("a", 2) + lines("b", 2)),
        (Label(1, 5, 15), lines("c", 2)),
        (Label(1, 6, 17), lines("d", 2)),
    ]


def test_split_parts_keep_the_label_and_count_on(make: Make) -> None:
    belt = make()
    items = lines("a", MAX_ITEMS)
    request = belt.offer(items, label=Label(1, 5, 10))
    belt.ready()
    belt.pump()
    (tray,) = belt.take(1)
    belt.crash()
    belt.pump()
    (again,) = belt.take(1)
    assert again.work.attempt == tray.work.attempt + 1
    belt.crash()
    parts = belt.run_until_idle()
    assert len(parts) == min(SPLIT_WAYS, MAX_ITEMS)
    found = {}
    for part in parts:
        assert part.label[:2] == (1, 5)
        found.update(enumerate(part.items, part.label.first))
    assert found == dict(enumerate(items, 10))
    assert request.codes == dict.fromkeys(range(MAX_ITEMS), 0)


def test_split_parts_without_a_tag_have_none(make: Make) -> None:
    belt = make()
    belt.offer(lines("a", 4), label=Label(2))
    belt.ready()
    for _ in range(2):
        belt.pump()
        belt.take(1)
        belt.crash()
    assert {part.label for part in belt.run_until_idle()} == {Label(2)}


def test_one_item_that_kills_is_quarantined(make: Make) -> None:
    belt = make()
    request = belt.offer([b"killer"], priority=URGENT, label=Label(2))
    other = belt.offer([b"other"], label=Label(0))
    belt.ready()
    for _ in range(2):
        belt.pump()
        trays = {tray.items[0]: tray for tray in take_all(belt)}
        if b"other" in trays:
            belt.answer(trays[b"other"])
        belt.crash()
    belt.run_until_idle()
    assert request.codes == {0: QUARANTINED}
    assert belt.killers == [b"killer"]
    assert other.codes == {0: 0}


def take_all(belt: Conveyor) -> list[Tray]:
    """Whatever has come by now, at least one tray."""
    assert belt.work[0].poll(PATIENCE_MS)
    trays = [belt.take_one()]
    while belt.work[0].poll(50):
        trays.append(belt.take_one())
    return trays


# -- priorities -------------------------------------------------------------------------------


def test_urgent_trays_overtake_what_waits(make: Make) -> None:
    belt = make()
    belt.offer(lines("bulk", 3 * MAX_ITEMS), BULK)
    belt.offer(lines("asked", 1), REQUESTED)
    belt.offer(lines("now", 1), URGENT)
    belt.pump()  # nobody has asked for work yet
    belt.ready()
    trays = [tray.work.priority for tray in belt.run_until_idle()]
    assert trays == [URGENT, REQUESTED, BULK, BULK, BULK]


def test_urgent_trays_have_credit_of_their_own(make: Make) -> None:
    belt = make()
    belt.offer(lines("bulk", 5 * MAX_ITEMS), BULK)
    belt.ready()
    belt.pump()
    held = belt.take(WORKER_CREDIT)
    belt.offer(lines("asked", 1), REQUESTED)
    belt.pump()
    assert belt.take(0) == []  # what is not urgent waits for those
    for number in range(URGENT_CREDIT + 1):
        belt.offer(lines(f"now{number}", MAX_ITEMS), URGENT)
    belt.pump()
    urgent = belt.take(URGENT_CREDIT)
    assert {tray.work.priority for tray in urgent} == {URGENT}
    belt.answer(urgent[0])
    belt.pump()
    assert [tray.work.priority for tray in belt.take(1)] == [URGENT]
    belt.answer(held[0])
    belt.pump()
    assert belt.take(0) == []  # its credit of three others is used up


def test_the_most_urgent_credit_is_used_by_nothing_else(make: Make) -> None:
    belt = make()
    belt.offer(lines("asked", 5 * MAX_ITEMS), REQUESTED)
    belt.ready()
    belt.pump()
    assert len(belt.take(WORKER_CREDIT)) == WORKER_CREDIT
    belt.pump()
    assert belt.take(0) == []


def test_urgent_items_find_a_tray_when_bulk_has_taken_all_it_may(make: Make) -> None:
    belt = make(trays=5)
    belt.offer(lines("bulk", 20 * MAX_ITEMS), BULK)
    belt.pump()
    belt.offer(lines("asked", 20 * MAX_ITEMS), REQUESTED)
    belt.pump()
    belt.offer(lines("now", 1), URGENT)
    belt.ready()
    belt.pump()
    trays = [tray.work.priority for tray in take_all(belt)]
    assert trays[0] == URGENT
    assert REQUESTED in trays


def test_every_priority_has_a_queue_of_its_own(make: Make) -> None:
    belt = make(weight=500)
    belt.offer(lines("bulk", 30), BULK)
    ends = np.array([100], np.uint32)
    payload = memoryview(bytes(100))
    assert not belt.intake.accepts_bulk
    assert not belt.intake.offer(b"me", Request(), payload, ends)  # bulk unless told otherwise
    assert belt.intake.offer(b"me", Request(), payload, ends, priority=URGENT)
    assert belt.intake.offer(b"me", Request(), payload, ends, priority=REQUESTED)
    for _ in range(3):
        belt.intake.offer(b"me", Request(), payload, ends, priority=URGENT)
    belt.ready()
    belt.run_until_idle()
    for _ in range(4):
        assert belt.intake.offer(b"me", Request(), payload, ends, priority=URGENT)
    assert belt.intake.accepts_bulk  # which the queues of the others do not decide


def test_only_bulk_is_gathered(make: Make) -> None:
    belt = make()
    belt.ready()
    belt.pump(gather_ms=10)
    for number in range(URGENT_CREDIT):
        belt.offer(lines(str(number), 1), number % BULK)
        belt.pump(gather_ms=10)  # no time has passed
        assert belt.take(1)[0].items == lines(str(number), 1)


def test_bulk_that_fills_no_tray_is_gathered(make: Make) -> None:
    belt = make()
    belt.ready()
    belt.offer(lines("a", 1))
    belt.pump(gather_ms=10)  # long after the last one
    (first,) = belt.take(1)
    assert first.items == lines("a", 1)
    assert belt.intake.deadline_ns(10 * MS) is None  # nothing waits
    due_ns = belt.now_ns + 10 * MS
    for name in "bc":
        belt.offer(lines(name, 1))
        belt.now_ns += 4 * MS
        belt.pump(gather_ms=10)
        assert belt.take(0) == []
        assert belt.intake.deadline_ns(10 * MS) == due_ns
    belt.now_ns += 2 * MS
    belt.pump(gather_ms=10)
    assert belt.intake.deadline_ns(10 * MS) is None
    (second,) = belt.take(1)
    assert second.items == lines("b", 1) + lines("c", 1)


def test_full_bulk_is_not_gathered(make: Make) -> None:
    belt = make()
    belt.ready()
    belt.offer(lines("a", 1))
    belt.pump(gather_ms=10)
    belt.take(1)
    belt.offer(lines("b", MAX_ITEMS))
    belt.pump(gather_ms=10)
    assert belt.take(1)[0].items == lines("b", MAX_ITEMS)


def test_bulk_gathers_without_end_while_nobody_could_take_it(make: Make) -> None:
    belt = make()
    for name in "abc":
        belt.offer(lines(name, 1))
        belt.now_ns += 100 * MS
        belt.pump()
        assert belt.intake.deadline_ns(0) is None  # a worker's word will come first
    belt.ready()
    belt.pump()
    assert belt.take(1)[0].items == [b"a-0", b"b-0", b"c-0"]


# -- answers ----------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(20))
def test_every_item_gets_its_own_answer(make: Make, seed: int) -> None:
    """Whatever sizes, priorities and labels: all items come in order, once, where they belong."""
    choice = random.Random(seed)
    belt = make(trays=8)
    offered: list[tuple[Request, list[bytes], int, Label]] = []
    belt.ready()
    for number in range(choice.randint(5, 40)):
        items = [
            b"%d:%d " % (number, each) + bytes(choice.choice((0, 20, 300, 900)))
            for each in range(choice.randint(1, 20))
        ]
        priority = choice.randrange(PRIORITIES)
        label = Label(choice.randrange(3), choice.choice((0, number + 1)), choice.randrange(50))
        label = label if label.tag else label._replace(first=0)
        offered.append((belt.offer(items, priority, label), items, priority, label))
        belt.pump()
    seen: dict[bytes, Label] = {}
    belt.pump()
    while not belt.intake.idle:
        assert belt.work[0].poll(PATIENCE_MS)
        tray = belt.take_one()
        for number, item in enumerate(tray.items):
            label = tray.label
            seen[item] = label._replace(first=label.first + number if label.tag else 0)
        belt.answer(tray, bytes(sum(item) % 251 for item in tray.items))
        belt.pump()
    for request, items, _, label in offered:
        assert request.codes == {n: sum(item) % 251 for n, item in enumerate(items)}
        for number, item in enumerate(items):
            assert seen[item] == label._replace(first=label.first + number if label.tag else 0)
