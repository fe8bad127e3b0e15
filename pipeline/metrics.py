"""Metrics: declared once, kept in shared memory, read by anyone.

Every stage declares its metrics as a ``MetricSet`` and writes them through a ``MetricWriter`` into
its region of its process's metrics segment (one region for each stage, one writer for each region).
The declaration itself lies in the region, so the supervisor, the monitor and the metrics page
decode a region without importing the program that wrote it. The same declarations give the
Prometheus page and the table in ARCHITECTURE.md. The segment outlives the process that writes it: a
restarted stage with the same declaration continues its counters.

Region, in 8-byte words (all accesses are whole aligned words; packing with ``struct`` tears):

====  ==============================================================================
word  content
====  ==============================================================================
0     magic
1     ready word: hash of the declaration, written last; 0 while there is none
2     declaration length in bytes
3     process id of the writer
4     incarnation of the writer
5     attachments: how many writers this region has had
6     layouts: how many times the values were laid out anew
7..   declaration (JSON, zero-padded to a word), then the value words in order
====  ==============================================================================

A counter or gauge is one word; a histogram is one word for each bucket (the last one counts what is
above every bound), then the sum of the values.
"""

from __future__ import annotations

import math
import os
import re
from bisect import bisect_left
from dataclasses import dataclass, field
from enum import StrEnum
from itertools import pairwise
from typing import Any
from zlib import adler32, crc32

import orjson

from pipeline.errors import MetricsError

WORD_BYTES = 8
WORD_LIMIT = 1 << 64
HEADER_WORDS = 7
HEADER_BYTES = HEADER_WORDS * WORD_BYTES
MAX_DECLARATION_BYTES = 32 * 1024
MAX_BUCKETS = 64
# One region holds about 200 metrics with their help; pages that nobody writes cost no memory.
REGION_BYTES = 64 * 1024

MAGIC = int.from_bytes(b"metrics1", "little")

_MAGIC, _READY, _DECLARATION_BYTES, _PID, _INCARNATION, _ATTACHMENTS, _LAYOUTS = range(HEADER_WORDS)
# A snapshot is taken again when the region was laid out anew meanwhile: once in a writer's life.
_READ_ATTEMPTS = 4

_NAME = re.compile(r"[a-z][a-z0-9_]{0,63}")
_UNIT = re.compile(r"[a-z0-9_]{0,16}")
# Units that Prometheus wants at the end of the name; "items" and the like only say what is counted.
_SUFFIX_UNITS = frozenset({"ns", "us", "ms", "s", "bytes"})
_RESERVED_SAMPLES = frozenset({"restarts_total"})


class Kind(StrEnum):
    """How a metric behaves: counters only grow, gauges move, histograms count into buckets."""

    COUNTER = "counter"
    GAUGE = "gauge"
    HISTOGRAM = "histogram"


@dataclass(frozen=True, slots=True)
class Metric:
    """One declared metric.

    ``name`` ends in its unit where that is a measure (``busy_ns``), ``help`` is one line,
    ``buckets`` are the ascending upper bounds (inclusive) of a histogram and empty for the other
    kinds. Raises MetricsError for a declaration that no reader could show.
    """

    name: str
    kind: Kind
    unit: str
    help: str
    buckets: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        if not _NAME.fullmatch(self.name) or self.name.endswith("_total"):
            raise MetricsError(
                f"metric name {self.name!r}: use a-z, 0-9 and _, at most 64, and leave out _total"
            )
        if not _UNIT.fullmatch(self.unit):
            raise MetricsError(
                f"metric {self.name}: unit {self.unit!r}: use at most 16 of a-z 0-9 _"
            )
        if not self.help.strip() or "\n" in self.help:
            raise MetricsError(f"metric {self.name}: help must be one line that is not empty")
        if self.kind is not Kind.HISTOGRAM:
            if self.buckets:
                raise MetricsError(f"metric {self.name}: a {self.kind} has no buckets; remove them")
            return
        if not 1 <= len(self.buckets) <= MAX_BUCKETS:
            raise MetricsError(f"metric {self.name}: give 1 to {MAX_BUCKETS} bucket bounds")
        ascending = all(a < b for a, b in pairwise(self.buckets))
        if not ascending or self.buckets[0] < 0 or self.buckets[-1] >= WORD_LIMIT:
            raise MetricsError(f"metric {self.name}: bucket bounds must ascend and fit 64 bits")

    @property
    def words(self) -> int:
        """Value words that the metric takes."""
        return len(self.buckets) + 2 if self.kind is Kind.HISTOGRAM else 1

    @property
    def family(self) -> str:
        """The metric's name on the Prometheus page, without the namespace."""
        name = self.name
        if self.unit in _SUFFIX_UNITS and not name.endswith(f"_{self.unit}"):
            name += f"_{self.unit}"
        return f"{name}_total" if self.kind is Kind.COUNTER else name

    @property
    def sample_names(self) -> frozenset[str]:
        """Every name that the metric takes on the Prometheus page, without the namespace."""
        suffixes = ("_bucket", "_sum", "_count") if self.kind is Kind.HISTOGRAM else ()
        return frozenset({self.family, *(self.family + suffix for suffix in suffixes)})


@dataclass(frozen=True, slots=True)
class MetricSet:
    """The metrics of one stage in the order of their words.

    ``offsets`` maps a name to its first value word, ``words`` counts them all. Raises MetricsError
    if two metrics would share a name, here or on the Prometheus page.
    """

    name: str
    metrics: tuple[Metric, ...]
    offsets: dict[str, int] = field(init=False, repr=False, compare=False)
    words: int = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        offsets: dict[str, int] = {}
        samples: set[str] = set(_RESERVED_SAMPLES)
        words = 0
        for metric in self.metrics:
            new = metric.sample_names
            if metric.name in offsets or not samples.isdisjoint(new):
                raise MetricsError(
                    f"metric set {self.name}: {metric.name} is declared twice or is a name in use; "
                    f"rename one"
                )
            samples |= new
            offsets[metric.name] = words
            words += metric.words
        object.__setattr__(self, "offsets", offsets)
        object.__setattr__(self, "words", words)

    @staticmethod
    def of(*sets: MetricSet) -> MetricSet:
        """The sets one after the other, under the name of the last."""
        return MetricSet(sets[-1].name, tuple(metric for one in sets for metric in one.metrics))

    def declaration(self) -> bytes:
        """The set as JSON, zero-padded to whole words; raises MetricsError if that is too long."""
        rows = [[m.name, m.kind, m.unit, m.help, m.buckets] for m in self.metrics]
        text = orjson.dumps([self.name, rows])
        if len(text) > MAX_DECLARATION_BYTES:
            raise MetricsError(
                f"metric set {self.name}: its declaration takes {len(text)} bytes of at most "
                f"{MAX_DECLARATION_BYTES}; shorten help texts or declare fewer metrics"
            )
        return text + bytes(-len(text) % WORD_BYTES)

    @staticmethod
    def from_declaration(declaration: bytes) -> MetricSet:
        """The inverse of ``declaration``; raises MetricsError if the bytes are not one."""
        try:
            name, rows = orjson.loads(declaration.rstrip(b"\0"))
            return MetricSet(
                name,
                tuple(Metric(n, Kind(k), u, h, tuple(buckets)) for n, k, u, h, buckets in rows),
            )
        except (ValueError, TypeError, AttributeError) as error:
            raise MetricsError(
                f"metrics region: unreadable declaration ({error}); was the segment overwritten?"
            ) from error


# 100 us to 1 s, a loop's gaps from unnoticeable to broken; bounds lie within half of the last.
NANOSECONDS_BUCKETS = (
    *(
        mantissa * scale
        for scale in (10_000, 100_000, 1_000_000, 10_000_000)
        for mantissa in (10, 15, 20, 30, 40, 50, 60, 80)
    ),
    1_000_000_000,
)

# What every stage has, in front of its own metrics; the run loop of ``pipeline.stage`` writes them.
STAGE_METRICS = MetricSet(
    "stage",
    (
        Metric(
            "heartbeat_ns",
            Kind.GAUGE,
            "ns",
            "CLOCK_MONOTONIC at the last turn of the loop; 0 before the first",
        ),
        Metric("loops", Kind.COUNTER, "", "Turns of the run loop"),
        Metric("busy_ns", Kind.COUNTER, "ns", "Time spent on input that had arrived"),
        Metric("idle_ns", Kind.COUNTER, "ns", "Time spent waiting for input"),
        Metric("backpressure_ns", Kind.COUNTER, "ns", "Time spent waiting for room at a receiver"),
        Metric("housekeeping_ns", Kind.COUNTER, "ns", "Time spent on timers, control and metrics"),
        Metric("items_in", Kind.COUNTER, "items", "Items taken in"),
        Metric("items_out", Kind.COUNTER, "items", "Items passed on"),
        Metric("lag_max_ns", Kind.GAUGE, "ns", "Worst loop_gap since the process started"),
        Metric(
            "loop_gap",
            Kind.HISTOGRAM,
            "ns",
            "How late the loop turned to what was due, while it was active",
            NANOSECONDS_BUCKETS,
        ),
    ),
)


def region_bytes(metrics: MetricSet) -> int:
    """Bytes that a region of this set takes; a larger region is fine, a smaller one is refused."""
    return HEADER_BYTES + len(metrics.declaration()) + metrics.words * WORD_BYTES


@dataclass(frozen=True, slots=True)
class ProcessMetricsLayout:
    """Where the members of one process keep their regions in its metrics segment.

    ``members`` as in ``ProcessSpec``. The size depends on their number only, so a supervisor can
    make the segment without importing what runs in the process.
    """

    members: tuple[tuple[str, int], ...]
    region_bytes: int = REGION_BYTES

    def __post_init__(self) -> None:
        if self.region_bytes < HEADER_BYTES or self.region_bytes % WORD_BYTES:
            raise MetricsError(
                f"metrics region of {self.region_bytes} bytes: use a multiple of {WORD_BYTES}, "
                f"at least {HEADER_BYTES}"
            )

    @property
    def size_bytes(self) -> int:
        """Size of the segment."""
        return len(self.members) * self.region_bytes

    def region(self, view: memoryview, stage: str, index: int) -> memoryview:
        """The member's part of the segment's ``view``; raises MetricsError if there is none."""
        if (stage, index) not in self.members:
            raise MetricsError(
                f"no metrics region for {stage}-{index}: its process holds {self.members}; "
                f"build the layout from the same topology"
            )
        if view.nbytes < self.size_bytes:
            raise MetricsError(
                f"metrics segment of {view.nbytes} bytes is too small for {len(self.members)} "
                f"regions; make it {self.size_bytes} bytes"
            )
        start = self.members.index((stage, index)) * self.region_bytes
        return view[start : start + self.region_bytes]


class MetricWriter:
    """The one writer of a region.

    Attaching to a region that holds the same declaration continues its counters and histograms and
    zeroes its gauges, which describe the writer and not the region; any other content is laid out
    anew. ``view``: a writable, 8-byte aligned region. Raises MetricsError if it is too small or
    read-only.

    The values are mirrored in a list: a region has one writer, so it never needs to read the shared
    words back, and an ``add`` costs one store (about 80 ns; 120 with the read).
    """

    __slots__ = ("_bounds", "_handles", "_values", "_words")

    def __init__(
        self, view: memoryview, metrics: MetricSet, *, incarnation: int = 0, pid: int | None = None
    ) -> None:
        declaration = metrics.declaration()
        need_bytes = region_bytes(metrics)
        if view.nbytes < need_bytes:
            raise MetricsError(
                f"metric set {metrics.name} needs a region of {need_bytes} bytes, got "
                f"{view.nbytes}; declare fewer metrics or make the region larger"
            )
        if view.readonly:
            raise MetricsError(
                f"metric set {metrics.name}: the region is read-only; map it writable"
            )
        header = view[:HEADER_BYTES].cast("Q")
        words_start = HEADER_BYTES + len(declaration)
        stored = view[HEADER_BYTES:words_start]
        self._words = view[words_start:need_bytes].cast("Q")
        self._handles = dict(metrics.offsets)
        self._bounds = {
            metrics.offsets[m.name]: m.buckets for m in metrics.metrics if m.kind is Kind.HISTOGRAM
        }
        ready = _declaration_hash(declaration)
        if header[_MAGIC] != MAGIC:
            header[_READY] = 0
            header[_ATTACHMENTS] = header[_LAYOUTS] = 0
        if header[_READY] == ready and stored == declaration:
            for metric in metrics.metrics:
                if metric.kind is Kind.GAUGE:
                    self._words[metrics.offsets[metric.name]] = 0
        else:
            # A reader believes nothing while the ready word is 0, and a writer that dies between
            # these lines leaves it so.
            header[_READY] = 0
            header[_MAGIC] = MAGIC
            header[_DECLARATION_BYTES] = len(declaration)
            header[_LAYOUTS] += 1
            stored[:] = declaration
            for word in range(metrics.words):
                self._words[word] = 0
        header[_PID] = os.getpid() if pid is None else pid
        header[_INCARNATION] = incarnation
        header[_ATTACHMENTS] += 1
        header[_READY] = ready
        self._values = self._words.tolist()

    def __getitem__(self, name: str) -> int:
        """Handle of a metric, to be resolved once at start; KeyError for a name not declared."""
        return self._handles[name]

    def add(self, handle: int, n: int = 1) -> None:
        """Add to a counter or gauge; ValueError if it leaves 0 .. 2^64 - 1."""
        values = self._values
        values[handle] = value = values[handle] + n
        self._words[handle] = value

    def set(self, handle: int, value: int) -> None:
        """Set a gauge; ValueError outside 0 .. 2^64 - 1."""
        self._words[handle] = self._values[handle] = value

    def observe(self, handle: int, value: int) -> None:
        """Count a value in a histogram; KeyError if the handle is none, ValueError below 0."""
        bounds = self._bounds[handle]
        values = self._values
        words = self._words
        at = handle + len(bounds) + 1
        values[at] = total = values[at] + value
        words[at] = total
        at = handle + bisect_left(bounds, value)
        values[at] = count = values[at] + 1
        words[at] = count

    def value(self, name: str) -> int:
        """What a counter or gauge stands at."""
        return self._values[self._handles[name]]

    def close(self) -> None:
        """Let go of the region, so that its mapping can be closed; no other call may follow."""
        self._words.release()


class MetricReader:
    """A reader of one region, from any process, at any time.

    Without ``metrics`` it uses the declaration that it finds in the region, and follows it when it
    changes; with ``metrics``, a region that declares anything else is a MetricsError.
    """

    __slots__ = ("_declared", "_expected", "_header", "_seen", "_view", "_words")

    def __init__(self, view: memoryview, metrics: MetricSet | None = None) -> None:
        if view.nbytes < HEADER_BYTES:
            raise MetricsError(
                f"metrics region of {view.nbytes} bytes is shorter than its header; "
                f"map the whole segment"
            )
        self._view = view
        self._header = view[:HEADER_BYTES].cast("Q")
        self._expected = metrics
        self._declared: MetricSet | None = None
        self._seen: tuple[int, int] | None = None
        self._words = view[:0].cast("Q")

    @property
    def metrics(self) -> MetricSet | None:
        """The declaration in the region; None while no writer has attached."""
        return self._declared if self._follow() else None

    @property
    def pid(self) -> int:
        """Process id of the last writer; 0 before the first."""
        return self._header[_PID]

    @property
    def incarnation(self) -> int:
        """What the last writer said that it is."""
        return self._header[_INCARNATION]

    @property
    def restarts(self) -> int:
        """How often a writer has attached after the first one."""
        return max(0, self._header[_ATTACHMENTS] - 1)

    def read(self, name: str) -> int:
        """One counter or gauge, or 0 while there is no writer; KeyError for a name not declared."""
        if not self._follow():
            return 0
        assert self._declared is not None
        return self._words[self._declared.offsets[name]]

    def snapshot(self) -> dict[str, Any]:
        """Every metric by name, JSON-able; empty while no writer has attached.

        A counter or gauge is an int. A histogram is a dict: ``bounds``, ``buckets`` (one count for
        each bound and one for what is above, not cumulative), ``count`` and ``sum``. Each word is
        whole; words of different metrics may be a moment apart.
        """
        for _ in range(_READ_ATTEMPTS):
            if not self._follow():
                return {}
            words = self._words.tolist()
            if self._seen == (self._header[_READY], self._header[_LAYOUTS]):
                assert self._declared is not None
                return _values_by_name(self._declared, words)
        return {}

    def close(self) -> None:
        """Let go of the region, so that its mapping can be closed; no other call may follow."""
        self._words.release()
        self._header.release()

    def _follow(self) -> bool:
        """Take up the region's declaration if it is a new one; False while there is none."""
        header = self._header
        ready = header[_READY]
        if ready == 0 or header[_MAGIC] != MAGIC:
            return False
        layout = (ready, header[_LAYOUTS])
        if layout == self._seen:
            return True
        words_start = HEADER_BYTES + header[_DECLARATION_BYTES]
        if words_start > min(HEADER_BYTES + MAX_DECLARATION_BYTES, self._view.nbytes):
            return False
        declaration = bytes(self._view[HEADER_BYTES:words_start])
        if _declaration_hash(declaration) != ready:
            return False  # half of it is an older or a newer one
        declared = MetricSet.from_declaration(declaration)
        end = words_start + declared.words * WORD_BYTES
        if end > self._view.nbytes:
            raise MetricsError(
                f"metrics region of {self._view.nbytes} bytes declares {end} bytes; "
                f"map the whole region"
            )
        if self._expected is not None and declared != self._expected:
            raise MetricsError(
                f"metrics region declares set {declared.name}, not the {self._expected.name} "
                f"expected here; run reader and writer from one version, or expect no set"
            )
        self._words.release()
        self._words = self._view[words_start:end].cast("Q")
        self._declared = declared
        self._seen = layout
        return True


@dataclass(frozen=True, slots=True)
class StageSnapshot:
    """What one stage's region held at one moment; ``values`` as from ``MetricReader.snapshot``."""

    stage: str
    index: int
    pid: int
    incarnation: int
    restarts: int
    metrics: MetricSet
    values: dict[str, Any]

    def as_json(self) -> dict[str, Any]:
        """The snapshot without its declaration, JSON-able."""
        return {
            "stage": self.stage,
            "index": self.index,
            "pid": self.pid,
            "incarnation": self.incarnation,
            "restarts": self.restarts,
            "values": self.values,
        }


class ProcessMetricsReader:
    """Readers of all regions of one process's segment; ``view`` may be a read-only mapping."""

    __slots__ = ("readers",)

    def __init__(self, view: memoryview, layout: ProcessMetricsLayout) -> None:
        self.readers = {
            (stage, index): MetricReader(layout.region(view, stage, index))
            for stage, index in layout.members
        }

    def snapshots(self) -> list[StageSnapshot]:
        """One for each member that has declared its metrics, in layout order."""
        found = []
        for (stage, index), reader in self.readers.items():
            values = reader.snapshot()
            metrics = reader.metrics
            if metrics is None or metrics.offsets.keys() != values.keys():
                continue  # not declared yet, or being declared anew at this moment
            found.append(
                StageSnapshot(
                    stage, index, reader.pid, reader.incarnation, reader.restarts, metrics, values
                )
            )
        return found

    def close(self) -> None:
        """Let go of the segment, so that its mapping can be closed."""
        for reader in self.readers.values():
            reader.close()


def percentile(snapshot: dict[str, Any], q: float) -> float:
    """The smallest bound that at least a share ``q`` (0..1) of a histogram's values do not exceed.

    ``snapshot``: one histogram of ``MetricReader.snapshot``. It never flatters: a value counts as
    its bucket's upper bound, above the last bound the answer is infinity, and NaN when there are no
    values.
    """
    if not 0.0 <= q <= 1.0:
        raise ValueError(f"share {q} is outside 0..1; the 99th percentile is 0.99")
    count: int = snapshot["count"]
    if count == 0:
        return math.nan
    rank = max(1, math.ceil(q * count))
    seen = 0
    for bound, held in zip(snapshot["bounds"], snapshot["buckets"], strict=False):
        seen += held
        if seen >= rank:
            return float(bound)
    return math.inf


def _declaration_hash(declaration: bytes) -> int:
    """The ready word: 64 bits over the declaration, never 0.

    Checksums suffice, the declaration comes from our own processes; and a hash library would bring
    cryptography into every process that counts.
    """
    return crc32(declaration) << 32 | adler32(declaration)


def _values_by_name(metrics: MetricSet, words: list[int]) -> dict[str, Any]:
    values: dict[str, Any] = {}
    for metric in metrics.metrics:
        start = metrics.offsets[metric.name]
        if metric.kind is not Kind.HISTOGRAM:
            values[metric.name] = words[start]
            continue
        total = start + len(metric.buckets) + 1
        buckets = words[start:total]
        values[metric.name] = {
            "bounds": list(metric.buckets),
            "buckets": buckets,
            "count": sum(buckets),
            "sum": words[total],
        }
    return values
