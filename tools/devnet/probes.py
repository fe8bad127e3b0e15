"""Probes: single payments, one after the other at each node, that tell how long finality takes.

A thread of its own sends a payment to a node, waits until that node announces it as final, notes
the time between, and goes on with the next. What it needs are payments that nobody else sends.
Owns its sockets. A node that is away costs nothing: its probe is given up after a while.
"""

from __future__ import annotations

import statistics
import threading
import time
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final

import zmq

from node.notify import FINALISED
from node.params import ID_BYTES
from tools.devnet.places import Place
from tools.loadgen.workload_file import Workload

PAUSE_S: Final = 0.5
GIVE_UP_S: Final = 10.0
REMEMBERED: Final = 9
"""Latest latencies of a node that its median is of."""

_TURN_MS: Final = 50
_MS_PER_S: Final = 1_000.0


@dataclass
class _Probe:
    """One node's probing: payments ``next`` to ``stop`` are its own; ``out`` is under way."""

    place: Place
    next: int
    stop: int
    client: zmq.Socket[bytes]
    news: zmq.Socket[bytes]
    out: bytes | None = None
    since_s: float = 0.0
    due_s: float = 0.0
    latencies_s: deque[float] = field(default_factory=lambda: deque(maxlen=REMEMBERED))


class Probes:
    """Probes of some nodes, with the payments ``first`` .. ``first + each * len(places)`` - 1."""

    def __init__(self, places: Sequence[Place], workload: Workload, first: int, each: int) -> None:
        self._workload = workload
        self._context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
        self._poller = zmq.Poller()
        self._probes = [
            self._probe(place, first + number * each, each) for number, place in enumerate(places)
        ]
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="probes", daemon=True)

    def start(self) -> None:
        """Begin."""
        self._thread.start()

    def final_ms(self, place: Place) -> float | None:
        """The median of a node's latest latencies; None before the first."""
        for probe in self._probes:
            if probe.place == place and (known := list(probe.latencies_s)):
                return statistics.median(known) * _MS_PER_S
        return None

    def close(self) -> None:
        """End the thread and close the sockets."""
        self._stopping.set()
        if self._thread.is_alive():
            self._thread.join()
        for probe in self._probes:
            probe.client.close(0)
            probe.news.close(0)
        self._context.term()

    def _probe(self, place: Place, first: int, each: int) -> _Probe:
        client, news = self._context.socket(zmq.DEALER), self._context.socket(zmq.SUB)
        client.setsockopt(zmq.LINGER, 0)
        client.setsockopt(zmq.SNDHWM, 4)
        client.connect(place.ingest)
        news.setsockopt(zmq.SUBSCRIBE, FINALISED)
        news.connect(place.notify)
        for sock in (client, news):
            self._poller.register(sock, zmq.POLLIN)
        return _Probe(place, first, first + each, client, news)

    def _run(self) -> None:
        while not self._stopping.is_set():
            self._poller.poll(_TURN_MS)
            now_s = time.monotonic()
            for probe in self._probes:
                self._listen(probe, now_s)
                self._send(probe, now_s)

    def _listen(self, probe: _Probe, now_s: float) -> None:
        while probe.client.poll(0):
            probe.client.recv_multipart()  # the verdict; what counts is the announcement
        while probe.news.poll(0):
            frames = probe.news.recv_multipart()
            if len(frames) == 3 and probe.out is not None and _holds(frames[1], probe.out):
                probe.latencies_s.append(now_s - probe.since_s)
                probe.out, probe.due_s = None, now_s + PAUSE_S

    def _send(self, probe: _Probe, now_s: float) -> None:
        if probe.out is not None and now_s - probe.since_s > GIVE_UP_S:
            probe.out = None
        if probe.out is not None or now_s < probe.due_s or probe.next >= probe.stop:
            return
        raw = self._workload.transaction(probe.next)
        frames = (probe.next.to_bytes(8, "little"), len(raw).to_bytes(2, "little"), raw)
        try:
            probe.client.send_multipart(frames, zmq.NOBLOCK)
        except zmq.Again:
            probe.due_s = now_s + PAUSE_S
            return
        probe.out = self._workload.columns.txids[probe.next].tobytes()
        probe.since_s = now_s
        probe.next += 1


def _holds(body: bytes, txid: bytes) -> bool:
    """Whether an announcement names this transaction (block id and header come first)."""
    at = body.find(txid)
    while at >= 0:
        if at % ID_BYTES == 0:
            return True
        at = body.find(txid, at + 1)
    return False
