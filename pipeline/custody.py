"""Custody: who holds which tray, decided in one place and without I/O.

The intake owns one `Custody`. Messages from workers, sink and supervisor come in as method calls;
what must be sent comes out as descriptors. Nothing here touches a socket, a clock or shared memory,
so the ownership rules are tested by driving them through millions of orders of events.

The rules:

- A tray is filled by the intake alone; a filling has a *generation*. Its dispatch to a worker is an
  *attempt*; the attempt's holders are that worker (until its DONE, or until it was reaped) and the
  sink (until its RETURN of that attempt).
- A filling is dispatched again only when the worker that held it was reaped, never on a timeout.
- A tray is free again when its filling was answered and no attempt of it has a holder left.
- What a worker finished before it died is sent to the sink once more: its own word may be lost.
- A new sink gets everything that was judged and that no sink returned; what was answered already is
  acknowledged by it, and answered only once.
- A worker that dies of a crash signal twice with the same tray in hand makes the tray *suspect to
  split*: the intake copies its items into other trays, until a tray of one item kills, and that
  item is quarantined. Suspects are dispatched to a worker that holds nothing else, so nobody else
  is blamed.

A call that breaks these rules (an unknown tray, a generation from the future) raises
`CustodyError`: a broken invariant stops the process.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field
from enum import Enum, auto

from pipeline.descriptor import Descriptor, Kind
from pipeline.errors import PipelineError
from pipeline.topology import TrayDims

PRIORITIES = 3  # 0 urgent, 1 requested, 2 bulk
URGENT = 0
WORKER_CREDIT = 2  # trays that one worker may have in hand: one in work, one to go on with
URGENT_CREDIT = 2  # further ones, for the most urgent priority only: they wait for none but those
CRASHES_TO_SPLIT = 2  # a tray is split when so many crashes happened with it in hand


class CustodyError(PipelineError):
    """A tray was handled against the ownership rules: a defect of this program."""


class TrayState(Enum):
    """Where a filling is on its way round."""

    FREE = auto()
    FILLING = auto()
    READY = auto()  # sealed, waiting for a worker
    OUT = auto()  # in some worker's hands
    JUDGED = auto()  # with the sink, or on its way there


@dataclass(slots=True)
class _Tray:
    index: int
    state: TrayState = TrayState.FREE
    generation: int = 0
    priority: int = PRIORITIES - 1
    sequence: int = 0
    items: int = 0
    attempt: int = 0
    crashes: int = 0
    sink_at_dispatch: int = 0  # how many sinks had started when the attempt went out
    answered: bool = False
    worker: tuple[int, int] | None = None  # (index, incarnation) that holds the current attempt
    judged_by: Descriptor | None = None  # the last attempt that a worker finished
    # attempts that a sink has still to return, with the worker's last word of each
    at_sink: dict[int, Descriptor] = field(default_factory=dict)
    returned: set[int] = field(default_factory=set)  # attempts returned before their DONE came


@dataclass(slots=True)
class _Worker:
    incarnation: int = 0
    credit: int = -URGENT_CREDIT  # nothing before it is ready
    holding: set[int] = field(default_factory=set)


@dataclass(frozen=True, slots=True)
class Death:
    """What the death of a worker left.

    `split`: trays whose items must be moved apart; `redispatched`: how many trays go out again;
    `resend`: what it had finished and may not have got out to the sink.
    """

    split: tuple[int, ...]
    redispatched: int
    resend: tuple[Descriptor, ...]


def _least_credit(priority: int) -> int:
    return 0 if priority else -URGENT_CREDIT


class Custody:
    """The table of trays of one epoch (one life of the intake)."""

    def __init__(self, dims: TrayDims, workers: int, epoch: int) -> None:
        self._epoch = epoch
        self._trays = [_Tray(index) for index in range(dims.trays)]
        # the last one freed is the next one filled: it is still in the caches
        self._free = list(reversed(range(dims.trays)))
        self._reserved = (0, dims.reserved[0], dims.reserved[0] + dims.reserved[1])
        self._ready: tuple[deque[int], ...] = tuple(deque() for _ in range(PRIORITIES))
        self._workers = [_Worker() for _ in range(workers)]
        self._next_sequence = [0] * PRIORITIES
        self._outstanding: tuple[dict[int, None], ...] = tuple({} for _ in range(PRIORITIES))
        self._sinks_started = 0
        self.generations = 0

    # -- filling ---------------------------------------------------------------------------------

    def available(self, priority: int) -> bool:
        """Whether `acquire` would get a tray; reserved ones are kept for lower numbers."""
        return len(self._free) > self._reserved[priority]

    def acquire(self, priority: int) -> tuple[int, int] | None:
        """Take a free tray to fill: (tray, new generation), or None when this priority has no
        credit.
        """
        if not self.available(priority):
            return None
        tray = self._trays[self._free.pop()]
        self.generations += 1
        tray.state = TrayState.FILLING
        tray.generation = self.generations
        tray.priority = priority
        tray.attempt = tray.items = tray.crashes = 0
        tray.answered = False
        tray.worker = tray.judged_by = None
        tray.at_sink.clear()
        tray.returned.clear()
        return tray.index, tray.generation

    def release(self, index: int) -> None:
        """Give back a tray that was acquired and not sealed."""
        tray = self._require(index, TrayState.FILLING)
        self._set_free(tray)

    def seal(self, index: int, items: int, crashes: int = 0) -> None:
        """The filling is complete: number it and queue it for dispatch."""
        tray = self._require(index, TrayState.FILLING)
        if items <= 0:
            raise CustodyError(f"tray {index} sealed with {items} items")
        tray.items = items
        tray.crashes = crashes
        tray.sequence = self._next_sequence[tray.priority]
        self._next_sequence[tray.priority] += 1
        self._outstanding[tray.priority][tray.sequence] = None
        tray.state = TrayState.READY
        self._ready[tray.priority].append(index)

    # -- dispatch --------------------------------------------------------------------------------

    def hungry(self, priority: int) -> bool:
        """Whether a worker could take a tray of this priority and nothing sealed goes before it:
        time to seal what there is.
        """
        least = _least_credit(priority)
        return not any(self._ready[: priority + 1]) and any(
            worker.credit > least for worker in self._workers
        )

    def dispatch(self, least: int = PRIORITIES - 1) -> list[Descriptor]:
        """Hand out sealed trays, most urgent first, to the workers with most credit: those of this
        priority and of more urgent ones.
        """
        work: list[Descriptor] = []
        for queue in self._ready[: least + 1]:
            while queue:
                tray = self._trays[queue[0]]
                number = self._worker_for(tray)
                if number is None:
                    break
                queue.popleft()
                work.append(self._hand_over(tray, number))
        return work

    def _worker_for(self, tray: _Tray) -> int | None:
        best: int | None = None
        least = _least_credit(tray.priority)
        for number, worker in enumerate(self._workers):
            if worker.credit <= least or (tray.crashes and worker.holding):
                continue
            if any(self._trays[held].crashes for held in worker.holding):
                continue
            if best is None or worker.credit > self._workers[best].credit:
                best = number
        return best

    def _hand_over(self, tray: _Tray, number: int) -> Descriptor:
        worker = self._workers[number]
        worker.credit -= 1
        worker.holding.add(tray.index)
        tray.attempt += 1
        tray.sink_at_dispatch = self._sinks_started
        tray.worker = (number, worker.incarnation)
        tray.state = TrayState.OUT
        return self._describe(tray, Kind.WORK)

    # -- what workers and sink say ---------------------------------------------------------------

    def worker_ready(self, message: Descriptor) -> None:
        """A worker (re)started. It must have been reaped before if it held anything."""
        worker = self._workers[message.worker]
        if message.epoch != self._epoch or message.incarnation < worker.incarnation:
            return
        if worker.holding:
            raise CustodyError(f"worker {message.worker} says ready while it holds trays")
        worker.incarnation = message.incarnation
        worker.credit = min(message.items, WORKER_CREDIT)

    def done(self, message: Descriptor) -> Descriptor | None:
        """A worker finished an attempt and handed it to the sink.

        Returned is what to send to the sink again: a sink that has died since the dispatch may be
        the one that got it.
        """
        tray = self._current(message)
        if tray is None or tray.worker != (message.worker, message.incarnation):
            return None
        worker = self._workers[message.worker]
        worker.holding.discard(tray.index)
        worker.credit += 1
        tray.worker = None
        tray.judged_by = message
        if tray.state is TrayState.OUT:
            tray.state = TrayState.JUDGED
        if message.attempt in tray.returned:
            tray.returned.discard(message.attempt)
        else:
            tray.at_sink[message.attempt] = message
            if tray.sink_at_dispatch != self._sinks_started:
                return message._replace(kind=Kind.RESEND)
        self._free_if_unheld(tray)
        return None

    def sink_returned(self, message: Descriptor) -> bool:
        """The sink consumed an attempt. True: its codes answer the items now, for the first time.

        The caller reads the admission slot before it calls anything else: the tray may be free.
        """
        tray = self._current(message)
        if tray is None:
            return False
        if message.attempt in tray.at_sink:
            del tray.at_sink[message.attempt]
        else:
            tray.returned.add(message.attempt)
        first = message.items == 1 and not tray.answered
        if first:
            tray.answered = True
            self._outstanding[tray.priority].pop(tray.sequence, None)
            if tray.state is TrayState.READY:  # it waits for another attempt that nobody needs now
                self._ready[tray.priority].remove(tray.index)
                tray.state = TrayState.JUDGED
        self._free_if_unheld(tray)
        return first

    def sink_started(self, epoch: int) -> list[Descriptor]:
        """A new sink: what it must be told and sent again, in order of sequence."""
        if epoch != self._epoch:
            return []
        self._sinks_started += 1
        out = [
            Descriptor(Kind.START, priority, epoch=self._epoch, sequence=self._lowest(priority))
            for priority in range(PRIORITIES)
        ]
        judged = [
            tray
            for tray in self._trays
            if tray.judged_by is not None and (tray.at_sink or tray.state is TrayState.JUDGED)
        ]
        for tray in sorted(judged, key=lambda tray: (tray.priority, tray.sequence)):
            assert tray.judged_by is not None
            tray.at_sink = {tray.judged_by.attempt: tray.judged_by}
            out.append(tray.judged_by._replace(kind=Kind.RESEND))
        return out

    # -- deaths ----------------------------------------------------------------------------------

    def worker_died(self, number: int, incarnation: int, crashed: bool) -> Death:
        """A worker was reaped. `crashed`: by a signal that blames what it was working on.

        Its trays go out again, in front of all others, except those to be split: the caller moves
        their items with `split_done`.
        """
        worker = self._workers[number]
        if incarnation < worker.incarnation:
            return Death((), 0, ())
        worker.credit = -URGENT_CREDIT
        held = sorted(worker.holding, key=lambda index: self._trays[index].sequence, reverse=True)
        worker.holding.clear()
        split: list[int] = []
        again = 0
        for index in held:
            tray = self._trays[index]
            tray.worker = None
            if tray.answered:
                self._free_if_unheld(tray)
                continue
            if crashed:
                tray.crashes += 1
            if tray.crashes >= CRASHES_TO_SPLIT:
                split.append(index)
            else:
                tray.state = TrayState.READY
                self._ready[tray.priority].appendleft(index)
                again += 1
        finished = [
            message._replace(kind=Kind.RESEND)
            for tray in self._trays
            for message in tray.at_sink.values()
            if (message.worker, message.incarnation) == (number, incarnation)
        ]
        return Death(tuple(reversed(split)), again, tuple(finished))

    def to_split(self, index: int, generation: int) -> bool:
        """Whether a tray that `worker_died` named still waits for its split (no sink answered it
        since).
        """
        tray = self._trays[index]
        return tray.generation == generation and tray.state is TrayState.OUT and tray.worker is None

    def split_done(self, index: int) -> Descriptor:
        """The items of a tray to split were copied or quarantined: free it, tell the sink to skip
        it.
        """
        tray = self._require(index, TrayState.OUT)
        skip = self._describe(tray, Kind.SKIP)
        self._outstanding[tray.priority].pop(tray.sequence, None)
        tray.answered = True
        tray.state = TrayState.JUDGED
        self._free_if_unheld(tray)
        return skip

    # -- inspection ------------------------------------------------------------------------------

    @property
    def idle(self) -> bool:
        """Whether every tray is free."""
        return len(self._free) == len(self._trays)

    def states(self) -> dict[TrayState, int]:
        """How many trays are in each state."""
        counts = dict.fromkeys(TrayState, 0)
        for tray in self._trays:
            counts[tray.state] += 1
        return counts

    def generation(self, index: int) -> int:
        """The number of the tray's latest filling."""
        return self._trays[index].generation

    def crashes(self, index: int) -> int:
        """How many crash deaths happened with this filling in hand."""
        return self._trays[index].crashes

    def priority(self, index: int) -> int:
        """The priority of the tray's filling."""
        return self._trays[index].priority

    # -- inside ----------------------------------------------------------------------------------

    def _lowest(self, priority: int) -> int:
        outstanding = self._outstanding[priority]
        return min(outstanding) if outstanding else self._next_sequence[priority]

    def _current(self, message: Descriptor) -> _Tray | None:
        """The tray that the message is about, or None when it is about an earlier filling."""
        if message.epoch != self._epoch:
            return None
        if message.tray >= len(self._trays):
            raise CustodyError(f"there is no tray {message.tray}")
        tray = self._trays[message.tray]
        if message.generation > tray.generation:
            raise CustodyError(
                f"tray {tray.index}: generation {message.generation} was never filled"
            )
        if message.generation < tray.generation or tray.state in (
            TrayState.FREE,
            TrayState.FILLING,
        ):
            return None
        return tray

    def _free_if_unheld(self, tray: _Tray) -> None:
        if tray.answered and tray.worker is None and not tray.at_sink:
            self._set_free(tray)

    def _set_free(self, tray: _Tray) -> None:
        tray.state = TrayState.FREE
        self._free.append(tray.index)

    def _require(self, index: int, state: TrayState) -> _Tray:
        tray = self._trays[index]
        if tray.state is not state:
            raise CustodyError(f"tray {index} is {tray.state.name}, not {state.name}")
        return tray

    def _describe(self, tray: _Tray, kind: Kind) -> Descriptor:
        number, incarnation = tray.worker or (0, 0)
        return Descriptor(
            kind,
            tray.priority,
            tray.index,
            number,
            self._epoch,
            incarnation,
            tray.attempt,
            tray.items,
            tray.generation,
            tray.sequence,
        )
