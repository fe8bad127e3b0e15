"""Metrics: declarations, the shared region under restarts and half-written, and the pages."""

from __future__ import annotations

import json
import math
import mmap
import re
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from zlib import adler32, crc32

import pytest
from damage import damaged, damaged_json
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from pipeline.errors import MetricsError
from pipeline.exposition import markdown_table, prometheus_text
from pipeline.metrics import (
    HEADER_BYTES,
    REGION_BYTES,
    STAGE_METRICS,
    Kind,
    Metric,
    MetricReader,
    MetricSet,
    MetricWriter,
    ProcessMetricsLayout,
    ProcessMetricsReader,
    StageSnapshot,
    percentile,
    region_bytes,
)

SEEN = Metric("seen", Kind.COUNTER, "items", "Items seen")
DEPTH = Metric("depth", Kind.GAUGE, "items", "Items waiting")
WAIT = Metric("wait", Kind.HISTOGRAM, "ns", "Time waited", (10, 100, 1000))
DEMO = MetricSet("demo", (SEEN, DEPTH, WAIT))
OTHER = MetricSet("other", (DEPTH, SEEN))

# A busy machine is no failure.
RELAXED = settings(deadline=None, max_examples=60, suppress_health_check=[HealthCheck.too_slow])


@pytest.fixture
def region() -> Iterator[memoryview]:
    with mmap.mmap(-1, REGION_BYTES) as mapping:
        view = memoryview(mapping)
        yield view
        view.release()


def words(view: memoryview) -> memoryview:
    return view[:HEADER_BYTES].cast("Q")


def written(view: memoryview) -> MetricWriter:
    """A writer of DEMO that has seen 7 items, has 3 waiting, and recorded three waits."""
    writer = MetricWriter(view, DEMO)
    writer.add(writer["seen"], 5)
    writer.add(writer["seen"], 2)
    writer.set(writer["depth"], 3)
    for wait_ns in (10, 11, 5000):
        writer.observe(writer["wait"], wait_ns)
    return writer


WRITTEN = {
    "seen": 7,
    "depth": 3,
    "wait": {"bounds": [10, 100, 1000], "buckets": [1, 1, 0, 1], "count": 3, "sum": 5021},
}


# Declarations


@pytest.mark.parametrize(
    ("name", "unit", "help_text", "words_of_error"),
    [
        ("Seen", "items", "Items", "use a-z"),
        ("seen_total", "items", "Items", "leave out _total"),
        ("seen", "Items!", "Items", "unit 'Items!'"),
        ("seen", "items", " ", "must be one line"),
        ("seen", "items", "Items\nseen", "must be one line"),
    ],
)
def test_a_bad_declaration_is_refused(
    name: str, unit: str, help_text: str, words_of_error: str
) -> None:
    with pytest.raises(MetricsError, match=words_of_error):
        Metric(name, Kind.COUNTER, unit, help_text)


@pytest.mark.parametrize("buckets", [(), (2, 1), (1, 1), (-1, 1), (1, 1 << 64), tuple(range(65))])
def test_buckets_ascend_within_bounds(buckets: tuple[int, ...]) -> None:
    with pytest.raises(MetricsError, match="bucket bounds"):
        Metric("wait", Kind.HISTOGRAM, "ns", "Time waited", buckets)


def test_only_histograms_have_buckets() -> None:
    with pytest.raises(MetricsError, match="a gauge has no buckets"):
        Metric("depth", Kind.GAUGE, "items", "Items waiting", (1,))


@pytest.mark.parametrize(
    "clash",
    [
        SEEN,
        Metric("wait_ns_sum", Kind.GAUGE, "", "Would look like part of the histogram"),
        Metric("restarts", Kind.COUNTER, "", "The page has its own"),
    ],
)
def test_names_are_unique_on_the_page_too(clash: Metric) -> None:
    with pytest.raises(MetricsError, match="declared twice or is a name in use"):
        MetricSet("demo", (*DEMO.metrics, clash))


def test_sets_are_joined_in_order_under_the_last_name() -> None:
    joined = MetricSet.of(STAGE_METRICS, DEMO)
    assert joined.name == "demo"
    assert joined.metrics == STAGE_METRICS.metrics + DEMO.metrics
    assert joined.offsets["heartbeat_ns"] == 0
    assert joined.offsets["depth"] == STAGE_METRICS.words + 1
    assert joined.words == STAGE_METRICS.words + 1 + 1 + 5


def test_a_declaration_can_be_read_back() -> None:
    declaration = DEMO.declaration()
    assert len(declaration) % 8 == 0
    assert MetricSet.from_declaration(declaration) == DEMO


@pytest.mark.parametrize("junk", [b"", b"{}", b"[1", b'["x",[["a","dial","","h",[]]]]'])
def test_junk_is_no_declaration(junk: bytes) -> None:
    with pytest.raises(MetricsError):
        MetricSet.from_declaration(junk)


def test_a_declaration_is_bounded() -> None:
    many = MetricSet("many", tuple(Metric(f"m{i}", Kind.GAUGE, "", "x" * 90) for i in range(400)))
    with pytest.raises(MetricsError, match="shorten help texts or declare fewer"):
        many.declaration()


def test_the_stage_metrics_are_those_that_the_run_loop_writes() -> None:
    assert [metric.name for metric in STAGE_METRICS.metrics] == [
        "heartbeat_ns",
        "loops",
        "busy_ns",
        "idle_ns",
        "backpressure_ns",
        "housekeeping_ns",
        "items_in",
        "items_out",
        "lag_max_ns",
        "loop_gap",
    ]
    bounds = STAGE_METRICS.metrics[-1].buckets
    assert (bounds[0], bounds[-1]) == (100_000, 1_000_000_000)
    assert all(1.2 <= above / below <= 1.5 for below, above in pairwise(bounds))


# Writing and reading one region


def test_what_is_written_is_read(region: memoryview) -> None:
    writer = written(region)
    reader = MetricReader(region)
    assert reader.snapshot() == WRITTEN
    assert reader.read("seen") == writer.value("seen") == 7
    assert reader.metrics == DEMO


def test_a_snapshot_is_json(region: memoryview) -> None:
    written(region)
    assert json.loads(json.dumps(MetricReader(region).snapshot())) == WRITTEN


@RELAXED
@given(st.lists(st.integers(0, 2000)))
def test_a_histogram_counts_every_value_once(values: list[int]) -> None:
    view = memoryview(bytearray(REGION_BYTES))
    writer = MetricWriter(view, DEMO)
    for value in values:
        writer.observe(writer["wait"], value)
    found = MetricReader(view).snapshot()["wait"]
    edges = [-1, *WAIT.buckets, math.inf]
    assert found["buckets"] == [sum(a < v <= b for v in values) for a, b in pairwise(edges)]
    assert (found["count"], found["sum"]) == (len(values), sum(values))


def test_values_stay_in_their_words(region: memoryview) -> None:
    writer = written(region)
    with pytest.raises(ValueError, match="invalid value"):
        writer.set(writer["depth"], -1)
    with pytest.raises(ValueError, match="invalid value"):
        writer.set(writer["depth"], 1 << 64)
    writer.set(writer["depth"], (1 << 64) - 1)
    assert MetricReader(region).snapshot() == WRITTEN | {"depth": (1 << 64) - 1}


def test_an_undeclared_name_has_no_handle(region: memoryview) -> None:
    with pytest.raises(KeyError):
        MetricWriter(region, DEMO)["lost"]


def test_a_region_that_is_too_small_is_refused(region: memoryview) -> None:
    need_bytes = region_bytes(DEMO)
    MetricWriter(region[:need_bytes], DEMO)
    with pytest.raises(MetricsError, match=f"needs a region of {need_bytes} bytes"):
        MetricWriter(region[: need_bytes - 8], DEMO)
    with pytest.raises(MetricsError, match="shorter than its header"):
        MetricReader(region[:32])
    with pytest.raises(MetricsError, match="map the whole region"):
        MetricReader(region[: need_bytes - 8]).snapshot()


def test_a_read_only_region_is_for_readers(region: memoryview) -> None:
    written(region)
    assert MetricReader(region.toreadonly()).snapshot() == WRITTEN
    with pytest.raises(MetricsError, match="read-only; map it writable"):
        MetricWriter(region.toreadonly(), DEMO)


def test_mappings_can_be_closed_after_writer_and_reader() -> None:
    mapping = mmap.mmap(-1, REGION_BYTES)
    view = memoryview(mapping)
    writer = written(view)
    reader = MetricReader(view)
    reader.snapshot()
    writer.close()
    reader.close()
    view.release()
    mapping.close()  # BufferError if anything still held it


# Restarts, and regions in the middle of being written


def test_a_restarted_writer_continues_what_counts(region: memoryview) -> None:
    written(region)
    reader = MetricReader(region)
    before = reader.snapshot()
    writer = MetricWriter(region, DEMO, incarnation=4, pid=77)
    assert reader.snapshot() == before | {"depth": 0}  # a gauge describes the writer that is gone
    writer.add(writer["seen"], 1)
    writer.observe(writer["wait"], 50)
    after = reader.snapshot()
    assert after["seen"] == 8
    assert after["wait"]["buckets"] == [1, 2, 0, 1]
    assert (reader.pid, reader.incarnation, reader.restarts) == (77, 4, 1)


def test_a_changed_declaration_begins_anew(region: memoryview) -> None:
    written(region)
    reader = MetricReader(region)
    assert reader.snapshot() == WRITTEN
    writer = MetricWriter(region, OTHER)
    assert reader.snapshot() == {"depth": 0, "seen": 0}
    writer.add(writer["seen"], 9)
    assert reader.snapshot() == {"depth": 0, "seen": 9}
    assert reader.restarts == 1
    MetricWriter(region, DEMO)
    assert reader.snapshot()["seen"] == 0  # and what lay there before has not come back


def test_the_header_is_as_documented(region: memoryview) -> None:
    assert HEADER_BYTES == 7 * 8
    MetricWriter(region, DEMO, incarnation=1, pid=50)
    _, first_ready, length, *rest = words(region)
    assert bytes(region[:8]) == b"metrics1"
    assert bytes(region[HEADER_BYTES : HEADER_BYTES + length]) == DEMO.declaration()
    assert rest == [50, 1, 1, 1]
    MetricWriter(region, DEMO, incarnation=2, pid=51)
    assert list(words(region))[1:] == [first_ready, length, 51, 2, 2, 1]
    MetricWriter(region, OTHER, incarnation=3, pid=52)
    assert words(region)[1] not in (0, first_ready)
    assert list(words(region))[3:] == [52, 3, 3, 2]


def test_a_reader_that_expects_a_set_refuses_another(region: memoryview) -> None:
    reader = MetricReader(region, DEMO)
    assert reader.snapshot() == {}
    MetricWriter(region, DEMO)
    assert reader.snapshot()["seen"] == 0
    MetricWriter(region, OTHER)
    with pytest.raises(MetricsError, match="declares set other, not the demo expected"):
        reader.snapshot()


def test_an_unwritten_region_is_empty(region: memoryview) -> None:
    reader = MetricReader(region)
    assert reader.snapshot() == {}
    assert reader.read("heartbeat_ns") == 0
    assert reader.metrics is None
    assert (reader.pid, reader.restarts) == (0, 0)


class Interrupted(Exception):
    pass


class DyingView:
    """A region that lets a number of stores into its header and declaration through, then dies."""

    readonly = False

    def __init__(self, view: memoryview, stores: int) -> None:
        self._view = view
        self.stores = [stores]
        self.nbytes = view.nbytes

    def cast(self, code: str) -> DyingView:
        cast = DyingView(self._view.cast("Q"), 0)
        cast.stores = self.stores
        return cast

    def __getitem__(self, key: int | slice) -> object:
        found = self._view[key]
        if isinstance(found, int):
            return found
        part = DyingView(found, 0)
        part.stores = self.stores
        return part

    def __setitem__(self, key: int | slice, value: object) -> None:
        if self.stores[0] == 0:
            if isinstance(value, bytes):  # a copy that was cut off in its middle
                self._view[: len(value) // 2] = value[: len(value) // 2]
            raise Interrupted
        self.stores[0] -= 1
        self._view[key] = value  # type: ignore[call-overload]

    def __eq__(self, other: object) -> bool:
        return self._view == other

    __hash__ = None  # type: ignore[assignment]

    def tolist(self) -> list[int]:
        return self._view.tolist()


@pytest.mark.parametrize("fresh", [True, False])
def test_a_writer_that_dies_at_any_store_leaves_nothing_half_declared(fresh: bool) -> None:
    outcomes = []
    for stores in range(60):
        view = memoryview(bytearray(REGION_BYTES))
        if not fresh:
            written(view)
        reader = MetricReader(view)
        before = reader.snapshot()
        try:
            MetricWriter(DyingView(view, stores), OTHER)  # type: ignore[arg-type]
        except Interrupted:
            assert reader.snapshot() in (before, {})
            assert MetricReader(view).snapshot() in (before, {})
            outcomes.append("died")
        else:
            outcomes.append("finished")
        writer = MetricWriter(view, OTHER)
        writer.add(writer["seen"], 1)
        assert reader.snapshot() == {"depth": 0, "seen": 1}
    assert outcomes[0] == "died"
    assert outcomes[-1] == "finished"


def test_a_declaration_that_does_not_match_its_hash_is_not_believed(region: memoryview) -> None:
    written(region)
    region[HEADER_BYTES + 3] ^= 1
    assert MetricReader(region).snapshot() == {}


@RELAXED
@given(st.integers(0, 6), st.integers(0, (1 << 64) - 1))
def test_a_header_of_junk_is_not_believed(word: int, junk: int) -> None:
    view = memoryview(bytearray(REGION_BYTES))
    written(view)
    words(view)[word] = junk
    assert MetricReader(view).snapshot() in ({}, WRITTEN)


WRITER = """
import itertools, mmap, sys
from pipeline.metrics import Kind, Metric, MetricSet, MetricWriter
mapping = mmap.mmap(int(sys.argv[1]), 0)
sets = [
    MetricSet(name, tuple(Metric(f"{name}{i}", Kind.GAUGE, "", "x") for i in range(count)))
    for name, count in (("short", 3), ("long", 40))
]
for turn in itertools.count():
    one = sets[turn % 2]
    writer = MetricWriter(memoryview(mapping), one)
    value = len(one.metrics)
    for _ in range(10):
        for handle in range(value):
            writer.set(handle, value)
"""


def test_a_reader_beside_a_writer_that_keeps_redeclaring_sees_only_whole_states(
    tmp_path: Path,
) -> None:
    path = tmp_path / "region"
    path.write_bytes(bytes(REGION_BYTES))
    with path.open("r+b") as file, mmap.mmap(file.fileno(), 0) as mapping:
        view = memoryview(mapping)
        reader = MetricReader(view)

        def look() -> int:
            snapshot = reader.snapshot()
            assert len({name.rstrip("0123456789") for name in snapshot}) <= 1
            assert set(snapshot.values()) <= {0, len(snapshot)}
            return len(snapshot)

        with subprocess.Popen(
            [sys.executable, "-c", WRITER, str(file.fileno())], pass_fds=[file.fileno()]
        ) as child:
            give_up = time.monotonic() + 60
            lengths = Counter[int]()
            try:
                while min(lengths[3], lengths[40]) < 200:
                    lengths[look()] += 1
                    assert child.poll() is None
                    assert time.monotonic() < give_up, lengths
            finally:
                child.kill()
        assert lengths.keys() <= {0, 3, 40}
        look()  # what a kill -9 at any moment has left
        MetricWriter(view, OTHER)
        assert reader.snapshot() == {"depth": 0, "seen": 0}
        reader.close()
        view.release()


# Segments


def test_members_of_a_process_have_regions_of_their_own() -> None:
    layout = ProcessMetricsLayout((("read", 0), ("count", 0), ("count", 1)))
    assert layout.size_bytes == 3 * REGION_BYTES
    segment = memoryview(bytearray(layout.size_bytes))
    reader = ProcessMetricsReader(segment.toreadonly(), layout)
    assert reader.snapshots() == []
    first = MetricWriter(layout.region(segment, "read", 0), DEMO, pid=9)
    last = MetricWriter(layout.region(segment, "count", 1), OTHER, incarnation=2, pid=9)
    first.add(first["seen"], 1)
    last.add(last["seen"], 2)
    assert [(s.stage, s.index, s.values["seen"]) for s in reader.snapshots()] == [
        ("read", 0, 1),
        ("count", 1, 2),
    ]
    assert reader.snapshots()[1].as_json() == {
        "stage": "count",
        "index": 1,
        "pid": 9,
        "incarnation": 2,
        "restarts": 0,
        "values": {"depth": 0, "seen": 2},
    }


def test_a_layout_refuses_strangers_and_short_segments() -> None:
    layout = ProcessMetricsLayout((("read", 0),))
    with pytest.raises(MetricsError, match="no metrics region for read-1"):
        layout.region(memoryview(bytearray(layout.size_bytes)), "read", 1)
    with pytest.raises(MetricsError, match=f"make it {layout.size_bytes} bytes"):
        layout.region(memoryview(bytearray(8)), "read", 0)
    with pytest.raises(MetricsError, match="multiple of 8"):
        ProcessMetricsLayout((("read", 0),), region_bytes=1001)


# Percentiles


@RELAXED
@given(st.lists(st.integers(0, 1000), min_size=1), st.floats(0, 1))
def test_a_percentile_never_flatters(values: list[int], q: float) -> None:
    view = memoryview(bytearray(REGION_BYTES))
    writer = MetricWriter(view, DEMO)
    for value in values:
        writer.observe(writer["wait"], value)
    found = percentile(MetricReader(view).snapshot()["wait"], q)
    exact = sorted(values)[max(0, math.ceil(q * len(values)) - 1)]
    assert found == min(bound for bound in WAIT.buckets if exact <= bound)


def test_percentiles_that_a_histogram_cannot_tell() -> None:
    assert math.isnan(percentile({"bounds": [1], "buckets": [0, 0], "count": 0, "sum": 0}, 0.5))
    above = {"bounds": [1], "buckets": [1, 1], "count": 2, "sum": 9}
    assert percentile(above, 0.5) == 1.0
    assert percentile(above, 0.99) == math.inf
    with pytest.raises(ValueError, match="is 0\\.99"):
        percentile(above, 99)


# Pages

NAME = r"[a-zA-Z_:][a-zA-Z0-9_:]*"
SAMPLE = re.compile(rf"({NAME})\{{((?:{NAME}=\"(?:[^\"\\\n]|\\[\\n\"])*\",?)*)\}} (\d+)")
LABEL = re.compile(rf"({NAME})=\"((?:[^\"\\\n]|\\[\\n\"])*)\"")
ESCAPES = {"\\\\": "\\", "\\n": "\n", '\\"': '"'}
Samples = dict[tuple[str, tuple[tuple[str, str], ...]], int]


def unescape(text: str) -> str:
    return re.sub(r"\\[\\n\"]", lambda match: ESCAPES[match[0]], text)


def parse_exposition(text: str) -> tuple[dict[str, tuple[str, str]], Samples]:
    """Families (name -> type, help) and samples of a page; asserts the rules of format 0.0.4."""
    assert text.endswith("\n")
    families: dict[str, tuple[str, str]] = {}
    samples: Samples = {}
    family = ""
    lines = iter(text[:-1].split("\n"))
    for line in lines:
        if line.startswith("# HELP "):
            family, help_text = line.removeprefix("# HELP ").split(" ", 1)
            assert re.fullmatch(NAME, family)
            assert family not in families, "HELP once, and a family in one piece"
            word, kind = next(lines).removeprefix("# TYPE ").split(" ")
            assert word == family
            assert kind in ("counter", "gauge", "histogram")
            assert (kind == "counter") == family.endswith("_total")
            families[family] = (kind, unescape(help_text))
            continue
        match = SAMPLE.fullmatch(line)
        assert match, line
        name, label_text, value = match[1], match[2], int(match[3])
        suffixes = ("_bucket", "_sum", "_count") if families[family][0] == "histogram" else ("",)
        assert name in [family + suffix for suffix in suffixes], "samples stay below their TYPE"
        labels = tuple((key, unescape(held)) for key, held in LABEL.findall(label_text))
        assert (name, labels) not in samples, "no sample twice"
        samples[name, labels] = value
    return families, samples


def page_of(*members: tuple[str, int, MetricSet]) -> str:
    snapshots = []
    for stage, index, metrics in members:
        view = memoryview(bytearray(REGION_BYTES))
        writer = MetricWriter(view, metrics)
        writer.add(writer["seen"], index + 7)
        if WAIT in metrics.metrics:
            for wait_ns in (10, 11, 5000):
                writer.observe(writer["wait"], wait_ns)
        values = MetricReader(view).snapshot()
        snapshots.append(StageSnapshot(stage, index, 1, 0, 3, metrics, values))
    return prometheus_text(snapshots, "demo")


def test_the_prometheus_page() -> None:
    families, samples = parse_exposition(page_of(("read", 0, DEMO), ("count", 1, OTHER)))
    assert families == {
        "demo_restarts_total": ("counter", "Writers of the stage's metrics after the first one"),
        "demo_seen_total": ("counter", "Items seen"),
        "demo_depth": ("gauge", "Items waiting"),
        "demo_wait_ns": ("histogram", "Time waited"),
    }
    read, count = (("stage", "read"), ("index", "0")), (("stage", "count"), ("index", "1"))
    assert samples == {
        ("demo_restarts_total", read): 3,
        ("demo_restarts_total", count): 3,
        ("demo_seen_total", read): 7,
        ("demo_seen_total", count): 8,
        ("demo_depth", read): 0,
        ("demo_depth", count): 0,
        ("demo_wait_ns_bucket", (*read, ("le", "10"))): 1,
        ("demo_wait_ns_bucket", (*read, ("le", "100"))): 2,
        ("demo_wait_ns_bucket", (*read, ("le", "1000"))): 2,
        ("demo_wait_ns_bucket", (*read, ("le", "+Inf"))): 3,
        ("demo_wait_ns_sum", read): 5021,
        ("demo_wait_ns_count", read): 3,
    }


def test_the_page_escapes_what_it_must() -> None:
    tricky = MetricSet("demo", (Metric("seen", Kind.COUNTER, "", 'A \\ and a "quote"'),))
    families, samples = parse_exposition(page_of(('a"b\\c\nd', 0, tricky)))
    assert families["demo_seen_total"] == ("counter", 'A \\ and a "quote"')
    assert samples["demo_seen_total", (("stage", 'a"b\\c\nd'), ("index", "0"))] == 7


def test_the_page_appends_units_once_and_only_those_of_measures() -> None:
    metrics = MetricSet.of(STAGE_METRICS, MetricSet("demo", (SEEN,)))
    families, _ = parse_exposition(page_of(("read", 0, metrics)))
    assert {"demo_busy_ns_total", "demo_items_in_total", "demo_loop_gap_ns"} <= families.keys()


def test_one_name_of_two_kinds_is_refused() -> None:
    other = MetricSet("other", (SEEN, Metric("wait", Kind.GAUGE, "ns", "Time waited")))
    with pytest.raises(MetricsError, match="wait is a histogram in one stage and a gauge"):
        page_of(("read", 0, DEMO), ("count", 0, other))


def test_an_empty_page() -> None:
    assert prometheus_text([]) == ""


def test_the_markdown_table_lists_each_metric_once() -> None:
    piped = MetricSet("piped", (SEEN, Metric("a_b", Kind.GAUGE, "", "a|b")))
    assert markdown_table(DEMO, piped) == (
        "| metric | kind | unit | set | meaning |\n"
        "|---|---|---|---|---|\n"
        "| `seen` | counter | items | demo | Items seen |\n"
        "| `depth` | gauge | items | demo | Items waiting |\n"
        "| `wait` | histogram, 3 bounds 10..1000 | ns | demo | Time waited |\n"
        "| `a_b` | gauge |  | piped | a\\|b |\n"
    )


# Any bytes


@settings(max_examples=300)
@given(damaged_json(DEMO.declaration().rstrip(b"\0")))
@example(b'["demo",[["seen","counter","",5,[]]]]')
@example(b'["demo",[["wait","histogram","ns","Time",["10"]]]]')
@example(b'["demo",[[[],[],[],[],[]]]]')
def test_any_damaged_declaration_is_one_or_is_refused(data: bytes) -> None:
    try:
        found = MetricSet.from_declaration(data)
    except MetricsError:
        return
    assert MetricSet.from_declaration(found.declaration()) == found


@settings(max_examples=200)
@given(st.data())
def test_any_damaged_region_is_read_or_refused(data: st.DataObject) -> None:
    """Half of the time the declaration is damaged within its hash, which is right then."""
    view = memoryview(bytearray(region_bytes(DEMO)))
    written(view)
    if data.draw(st.booleans()):
        head = data.draw(damaged(bytes(view)))[: len(view)]
        view[: len(head)] = head
    else:
        declaration = data.draw(damaged_json(DEMO.declaration().rstrip(b"\0")))[
            : len(view) - HEADER_BYTES
        ]
        header = words(view)
        header[1] = crc32(declaration) << 32 | adler32(declaration)
        header[2] = len(declaration)
        view[HEADER_BYTES : HEADER_BYTES + len(declaration)] = declaration
    reader = MetricReader(view)
    try:
        found = reader.snapshot()
    except MetricsError:
        return
    assert list(found) == ([each.name for each in reader.metrics.metrics] if found else [])
