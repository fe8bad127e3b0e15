"""The topology table: what is refused and how, processes, core placement, the diagram."""

from __future__ import annotations

import pickle
from dataclasses import replace
from itertools import pairwise

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pipeline.diagram import diagram
from pipeline.errors import OperatorError, TopologyError
from pipeline.placement import ProcessSpec, place_cores, processes
from pipeline.topology import LinkPolicy, LinkSpec, Role, StageSpec, Topology, TrayDims
from pipeline.topology_rules import validate

BLOCK, DROP = LinkPolicy.BLOCK, LinkPolicy.DROP

# A busy machine is no failure.
RELAXED = settings(deadline=None, max_examples=60, suppress_health_check=[HealthCheck.too_slow])
TRAYS = TrayDims(trays=32, tray_bytes=65_536, fill_bytes=32_768, max_items=256, verdict_bytes=4_096)

READ = StageSpec("read", "demo.stages:read", Role.INTAKE)
COUNT = StageSpec("count", "demo.stages:count", Role.WORKER, count=2, nice=5)
STORE = StageSpec("store", "demo.stages:store", Role.SINK)
WATCH = StageSpec("watch", "demo.stages:watch", Role.SIDE, expendable=True)
WORK = LinkSpec("work", "read", "count", BLOCK, 8, "trays to count")
JUDGED = LinkSpec("judged", "count", "store", BLOCK, 8, "counted trays")
RETURNS = LinkSpec("returns", "store", "read", BLOCK, 32, "trays that are done")
NEWS = LinkSpec("news", "store", "watch", DROP, 4, "what was stored")

TABLE = Topology((READ, COUNT, STORE, WATCH), (WORK, JUDGED, RETURNS, NEWS), TRAYS)


def with_stage(old: StageSpec, **changes: object) -> Topology:
    stages = tuple(replace(s, **changes) if s is old else s for s in TABLE.stages)  # type: ignore[arg-type]
    return replace(TABLE, stages=stages)


def with_link(old: LinkSpec, **changes: object) -> Topology:
    links = tuple(replace(x, **changes) if x is old else x for x in TABLE.links)  # type: ignore[arg-type]
    return replace(TABLE, links=links)


def with_trays(**changes: object) -> Topology:
    return replace(TABLE, trays=replace(TRAYS, **changes))  # type: ignore[arg-type]


def test_a_sound_table_passes() -> None:
    validate(TABLE, range(2))


def test_the_table_travels_to_a_child() -> None:
    assert pickle.loads(pickle.dumps(TABLE)) == TABLE


REFUSED = {
    "no stages": (replace(TABLE, stages=(), links=()), "0 stages; declare 1 to"),
    "stage twice": (with_stage(STORE, name="read"), "two stages are called read; rename one"),
    "stage name": (with_stage(WATCH, name="Watch-1"), "stage name 'Watch-1': use a-z"),
    "build path": (with_stage(READ, build="demo.stages"), "write 'package.module:function'"),
    "count zero": (with_stage(COUNT, count=0), "stage count: count 0; use 1 to"),
    "count of a sink": (with_stage(STORE, count=2), "only a worker has instances; use 1"),
    "niceness below": (with_stage(READ, nice=-1), "stage read: nice -1; use 0 to 19"),
    "niceness above": (with_stage(READ, nice=20), "stage read: nice 20; use 0 to 19"),
    "stall": (with_stage(READ, stall_ms=5), "stage read: stall_ms 5; use 1000 to"),
    "no sink": (with_stage(STORE, role=Role.SIDE), "role sink: none; trays need exactly one"),
    "two intakes": (with_stage(STORE, role=Role.INTAKE), "role intake: read, store; trays need"),
    "two workers": (with_stage(WATCH, role=Role.WORKER), "declare one and raise its count"),
    "process name": (with_stage(READ, process="a b"), "stage read: process name 'a b': use a-z"),
    "process of a worker": (
        with_stage(STORE, process="count"),
        "named like worker count, whose processes are count-0 ...; set process='count' there too",
    ),
    "process of a stage elsewhere": (
        replace(
            TABLE,
            stages=(replace(READ, process="main"), COUNT, replace(STORE, process="read"), WATCH),
        ),
        "named like stage read, which runs in main; name that one, or another",
    ),
    "niceness in one process": (
        with_stage(COUNT, process="read"),
        "process read: its stages read, count differ in nice; give them one value",
    ),
    "expendable in one process": (
        with_stage(WATCH, process="store"),
        "only some of store, watch are expendable, but they die together",
    ),
    "link twice": (with_link(NEWS, name="work"), "two links are called work; rename one"),
    "link name": (with_link(NEWS, name=""), "link name '': use a-z"),
    "unknown source": (
        with_link(WORK, source="raed"),
        "source 'raed' is no stage; use one",
    ),
    "unknown target": (with_link(WORK, target="x"), "target 'x' is no stage; use one of read"),
    "capacity": (with_link(WORK, capacity=0), "link work: capacity 0; use 1 to"),
    "carries": (with_link(WORK, carries=" "), "link work: say in one line what it carries"),
    "blocks on expendable": (
        with_link(NEWS, policy=BLOCK),
        "blocks on watch, which is expendable; make the link drop",
    ),
    "trays": (with_trays(trays=0, reserved=(0, 0)), "trays: trays is 0; use 1 to"),
    "tray bytes": (with_trays(tray_bytes=0), "trays: tray_bytes is 0; use 1 to"),
    "items": (with_trays(max_items=0), "trays: max_items is 0; use 1 to"),
    "verdict bytes": (with_trays(verdict_bytes=0), "trays: verdict_bytes is 0; use 1 to"),
    "fill": (with_trays(fill_bytes=0), "trays: fill_bytes is 0; use 1 to"),
    "overfull": (with_trays(fill_bytes=1 << 20), "trays: fill_bytes is 1048576; use 1 to"),
    "reserved": (with_trays(reserved=(16, 16)), "32 of 32 are reserved"),
    "reserved below": (with_trays(reserved=(-1, 2)), "give two counts of 0 or more"),
    "core list": (replace(TABLE, cores="read:0"), "cores: cannot read 'read:0'; write 'auto'"),
    "core range": (replace(TABLE, cores="read=1-0"), "range 1-0 is impossible; write the lower"),
    "core name": (replace(TABLE, cores="raed=0"), "no stage or process is called 'raed'; use one"),
    "core absent": (
        replace(TABLE, cores="read=7"),
        "core 7 is not available here; choose from",
    ),
    "core twice": (replace(TABLE, cores="count=0,count-1=1"), "process count-1 is placed twice"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_a_table_that_cannot_run_is_refused_with_a_remedy(case: str) -> None:
    topology, words = REFUSED[case]
    with pytest.raises(TopologyError) as refusal:
        validate(topology, range(2))
    assert words in str(refusal.value)


def test_every_problem_is_listed_and_it_is_the_operators() -> None:
    topology = replace(with_stage(READ, nice=77, count=3), cores="read=9")
    with pytest.raises(OperatorError) as refusal:
        validate(topology, range(2))
    lines = refusal.value.message.splitlines()
    assert lines[0] == "3 problems in the topology:"
    assert ["count 3" in lines[1], "nice 77" in lines[2], "core 9" in lines[3]] == [True] * 3


def test_a_cycle_of_blocking_links_is_named() -> None:
    with pytest.raises(TopologyError) as refusal:
        validate(with_link(RETURNS, capacity=31), range(2))
    assert str(refusal.value) == (
        "links that block form a cycle: read -work-> count -judged-> store -returns-> read; make "
        "one of them drop, or give one a capacity of at least the 32 trays so that it never fills"
    )


def test_a_cycle_is_closed_by_a_link_that_drops_or_never_fills() -> None:
    validate(with_link(RETURNS, capacity=32), range(2))
    validate(with_link(RETURNS, capacity=1, policy=DROP), range(2))


def test_a_link_to_itself_is_a_cycle() -> None:
    loop = LinkSpec("again", "store", "store", BLOCK, 1, "what it was late for")
    with pytest.raises(TopologyError, match="store -again-> store"):
        validate(replace(TABLE, links=(*TABLE.links, loop)), range(2))


@RELAXED
@given(st.lists(st.tuples(st.integers(0, 5), st.integers(0, 5), st.booleans()), max_size=12))
def test_cycles_are_found_exactly_where_there_are_some(ends: list[tuple[int, int, bool]]) -> None:
    stages = tuple(StageSpec(f"s{i}", "demo:stage", Role.SIDE) for i in range(6))
    links = tuple(
        LinkSpec(f"l{n}", f"s{a}", f"s{b}", BLOCK if blocks else DROP, 1, "things")
        for n, (a, b, blocks) in enumerate(ends)
    )
    left = {(a, b) for a, b, blocks in ends if blocks}
    while removable := {edge for edge in left if edge[1] not in {a for a, _ in left}}:
        left -= removable  # edges into stages that wait for nobody
    try:
        validate(Topology(stages, links, TRAYS), [0])
        refused = ""
    except TopologyError as error:
        refused = str(error)
    assert ("form a cycle" in refused) == bool(left)


def test_a_pipeline_without_trays_needs_no_roles() -> None:
    validate(Topology((WATCH,), (), TRAYS), [0])


def test_each_instance_has_a_process_of_its_own() -> None:
    assert processes(replace(TABLE, cores="off")) == [
        ProcessSpec("read", (("read", 0),)),
        ProcessSpec("count-0", (("count", 0),), nice=5),
        ProcessSpec("count-1", (("count", 1),), nice=5),
        ProcessSpec("store", (("store", 0),)),
        ProcessSpec("watch", (("watch", 0),), expendable=True),
    ]


def test_a_worker_alone_is_numbered_too() -> None:
    names = [process.name for process in processes(with_stage(COUNT, count=1))]
    assert names == ["read", "count-0", "store", "watch"]


def test_stages_that_name_one_process_share_it() -> None:
    fused = replace(
        TABLE, stages=(replace(READ, stall_ms=5_000), replace(COUNT, process="read", nice=0), STORE)
    )
    fused = replace(fused, links=(WORK, JUDGED, RETURNS))
    validate(fused, range(2))
    assert processes(fused) == [
        ProcessSpec("read", (("read", 0), ("count", 0), ("count", 1)), stall_ms=10_000),
        ProcessSpec("store", (("store", 0),)),
    ]


def test_auto_pins_only_with_a_core_to_spare() -> None:
    assert set(place_cores(TABLE, range(4)).values()) == {()}
    assert place_cores(TABLE, range(5)) == {
        "read": (1,),
        "store": (2,),
        "watch": (0,),
        "count-0": (3,),
        "count-1": (4,),
    }
    assert place_cores(TABLE, [2, 3, 5, 7, 11, 13, 17])["count-0"] == (7, 13)


@RELAXED
@given(st.integers(1, 12), st.sets(st.integers(0, 63)))
def test_auto_never_shares_a_core_but_the_lowest(count: int, available: set[int]) -> None:
    topology = with_stage(COUNT, count=count)
    validate(topology, sorted(available))
    placed = place_cores(topology, sorted(available))
    watch = placed.pop("watch")
    used = [core for cores in placed.values() for core in cores]
    assert len(used) == len(set(used))
    assert set(used) <= available
    if len(available) >= count + 3:
        assert all(placed.values())
        assert min(available) not in used
        assert watch == (min(available),)
    else:
        assert not used
        assert not watch


def test_a_core_list_is_dealt_out_to_the_instances() -> None:
    def placed(cores: str) -> dict[str, tuple[int, ...]]:
        topology = replace(TABLE, cores=cores)
        validate(topology, range(8))
        return {name: at for name, at in place_cores(topology, range(8)).items() if at}

    assert placed("read=0,count=1-3,store=0") == {
        "read": (0,),
        "count-0": (1, 3),
        "count-1": (2,),
        "store": (0,),
    }
    assert placed("count=4+6-7") == {"count-0": (4, 7), "count-1": (6,)}
    assert placed("count=4") == {"count-0": (4,), "count-1": (4,)}
    assert placed("count-1=2, watch=7") == {"count-1": (2,), "watch": (7,)}
    assert placed("off") == {}
    assert processes(replace(TABLE, cores="read=3"))[0].cores == (3,)


def test_a_core_list_that_cannot_be_read_is_not_guessed() -> None:
    with pytest.raises(TopologyError, match="cannot read 'read'"):
        place_cores(replace(TABLE, cores="read"), range(8))


DRAWN = """\
+----------------------------+
| read                       |--work-------+
| intake                     |<------------|-------+
| process read               |             |       |
+----------------------------+             |       |
                                           |       |
+----------------------------+             |       |
| count x2                   |<------------+       |
| worker, nice 5             |--judged---------+   |
| process count-0 .. count-1 |                 |   |
+----------------------------+                 |   |
                                               |   |
+----------------------------+                 |   |
| store                      |--returns--------|---+
| sink                       |<----------------+
| process store              |..news.......+
+----------------------------+             :
                                           :
+----------------------------+             :
| watch                      |<............+
| side, expendable           |
| process watch              |
+----------------------------+

--- blocks when the receiver is full    ... drops

link     from   to     when full  capacity  carries
work     read   count  block      8         trays to count
judged   count  store  block      8         counted trays
returns  store  read   block      32        trays that are done
news     store  watch  drop       4         what was stored"""


def test_the_diagram() -> None:
    assert diagram(TABLE) == DRAWN


def follow(picture: list[str], row: int) -> int:
    """The row at which the wire that leaves a box in ``row`` arrives."""
    column = picture[row].rindex("+")

    def at(r: int) -> str:
        line = picture[r] if 0 <= r < len(picture) else ""
        return line[column] if column < len(line) else " "

    steps = [step for step in (-1, 1) if at(row + step) in "|:+"]
    assert len(steps) == 1, "the wire forks"
    row += steps[0]
    while at(row) != "+":
        assert at(row) in "|:"
        row += steps[0]
    return row


@RELAXED
@given(st.lists(st.tuples(st.integers(0, 4), st.integers(0, 4), st.booleans()), max_size=12))
def test_every_wire_of_a_diagram_leads_to_its_target(ends: list[tuple[int, int, bool]]) -> None:
    stages = tuple(StageSpec(f"s{i}", "demo:stage", Role.SIDE) for i in range(5))
    links = tuple(
        LinkSpec(f"link{n}x", f"s{a}", f"s{b}", BLOCK if blocks else DROP, 1, "things")
        for n, (a, b, blocks) in enumerate(ends)
    )
    lines = diagram(Topology(stages, links, TRAYS)).splitlines()
    picture = lines[: lines.index("--- blocks when the receiver is full    ... drops") - 1]
    edges = [row for row, line in enumerate(picture) if line.startswith("+---")]
    boxes = [range(top, bottom) for top, bottom in list(pairwise(edges))[::2]]
    assert len(boxes) == len(stages)
    for link, (source, target, _) in zip(links, ends, strict=True):
        (row,) = [r for r, line in enumerate(picture) if link.name in line]
        assert row in boxes[source]
        arrival = follow(picture, row)
        assert arrival in boxes[target]
        assert picture[arrival].split("|")[2].startswith("<")
