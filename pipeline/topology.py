"""The topology: one table of stages and links, what is wrong with it, and what it looks like.

The program that owns a pipeline writes the table (a ``Topology`` value); the supervisor validates
it before it spawns anything, derives processes and core placement from it, and passes it to every
child. The module owns nothing and performs nothing: values in, values out. Nothing kills it; a
table that cannot run is a ``TopologyError`` that names every problem and what to change.

Which links can block: a stage that sends on a full BLOCK link stops until the receiver reads.
Stages that wait for each other in a circle through such links would wait for ever, so cycles of
them are refused. A DROP link never waits. A BLOCK link whose capacity is at least the number of
trays never waits either, because no more descriptors than trays exist at any time: that is how the
circle which the trays travel closes, and such a link does not count as blocking.
"""

from __future__ import annotations

import re
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum

from pipeline.errors import TopologyError

# Bounds of the table. They stop slips of the keyboard, not uses that anyone has measured.
MAX_STAGES = 64
MAX_LINKS = 256
MAX_INSTANCES = 256  # one process each; more than any machine that this runs on has cores for
MAX_NICE = 19  # Linux, nice(2)
MIN_STALL_MS = 100  # below, a busy machine's scheduler alone would look like a hang
MAX_STALL_MS = 3_600_000
MAX_LINK_CAPACITY = 1_000_000
MAX_TRAYS = 65_536
MAX_TRAY_BYTES = 1 << 30
MAX_CORE = 4_095

CORES_AUTO = "auto"
CORES_OFF = "off"

_NAME = re.compile(r"[a-z][a-z0-9_]{0,31}")
_BUILD = re.compile(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)*:[A-Za-z_]\w*")


class Role(StrEnum):
    """What a stage does with trays; SIDE stages have nothing to do with them."""

    INTAKE = "intake"  # fills trays and owns the tray table
    WORKER = "worker"  # reads trays and writes verdicts beside them; the only role with instances
    SINK = "sink"  # reads both and decides
    SIDE = "side"


class LinkPolicy(StrEnum):
    """What a sender does when the receiver is full."""

    BLOCK = "block"
    DROP = "drop"


@dataclass(frozen=True, slots=True)
class StageSpec:
    """One stage: what runs, how often, and how it is watched.

    ``build`` is ``package.module:function``, imported and called in the child. ``nice`` is added to
    the child's niceness (0..19). ``stall_ms`` without progress of its loop means that it hangs. The
    death of an ``expendable`` stage never stops the pipeline. Stages that name the same ``process``
    share it; without one, every instance has a process of its own.
    """

    name: str
    build: str
    role: Role
    count: int = 1
    nice: int = 0
    stall_ms: int = 10_000
    expendable: bool = False
    process: str | None = None


@dataclass(frozen=True, slots=True)
class LinkSpec:
    """One direction of messages between two stages.

    ``capacity`` is in messages (ZeroMQ's high-water mark), ``carries`` one phrase for the diagram.
    """

    name: str
    source: str
    target: str
    policy: LinkPolicy
    capacity: int
    carries: str


@dataclass(frozen=True, slots=True)
class TrayDims:
    """Number and sizes of the trays.

    ``verdict_bytes`` is the size of one tray's verdict slot, ``reserved`` the trays kept for
    priority classes 0 and 1. A tray is filled up to ``fill_bytes`` of payload, which bounds the
    work in it; only an item that is larger, of up to ``tray_bytes``, travels alone in a fuller one.
    """

    trays: int
    tray_bytes: int
    fill_bytes: int
    max_items: int
    verdict_bytes: int
    reserved: tuple[int, int] = (2, 2)


@dataclass(frozen=True, slots=True)
class Topology:
    """The whole table; the order of ``stages`` is the order of an orderly stop.

    ``cores`` is "auto", "off" or a list such as "net=0,verify=1-3+6,consensus=0".
    """

    stages: tuple[StageSpec, ...]
    links: tuple[LinkSpec, ...]
    trays: TrayDims
    cores: str = CORES_AUTO

    def stage(self, name: str) -> StageSpec:
        """The stage of that name; KeyError if there is none."""
        for stage in self.stages:
            if stage.name == name:
                return stage
        raise KeyError(name)


@dataclass(frozen=True, slots=True)
class ProcessSpec:
    """One OS process: its (stage name, index) members and how the supervisor treats it.

    ``cores`` empty means not pinned. ``stall_ms`` is the most patient member's, because all members
    share one loop. ``expendable`` only if all members are.
    """

    name: str
    members: tuple[tuple[str, int], ...]
    nice: int = 0
    cores: tuple[int, ...] = ()
    stall_ms: int = 10_000
    expendable: bool = False


def processes(topology: Topology, available_cores: Sequence[int] = ()) -> list[ProcessSpec]:
    """The processes of a valid topology, in table order of their first member.

    A stage of role WORKER gives "name-0", "name-1" ...; others give their own name; a named process
    holds all instances of all stages that name it. Without ``available_cores``, "auto" pins
    nothing.
    """
    cores = place_cores(topology, available_cores)
    return [
        ProcessSpec(
            name=name,
            members=tuple(members),
            nice=max(topology.stage(stage).nice for stage, _ in members),
            cores=cores[name],
            stall_ms=max(topology.stage(stage).stall_ms for stage, _ in members),
            expendable=all(topology.stage(stage).expendable for stage, _ in members),
        )
        for name, members in _members(topology).items()
    ]


def place_cores(topology: Topology, available: Sequence[int]) -> dict[str, tuple[int, ...]]:
    """Process name -> cores to pin it to; empty means not pinned.

    "auto" pins only when every process but those of SIDE stages can have a core, with one to spare:
    the lowest core stays free for the supervisor, the kernel and the side stages, every process
    without workers gets one core in table order, the workers share out the rest. A list pins what
    it names and nothing else; a stage's cores are dealt out to its processes in turn. Raises
    TopologyError if the list cannot be read.
    """
    members = _members(topology)
    unpinned: dict[str, tuple[int, ...]] = dict.fromkeys(members, ())
    if topology.cores == CORES_OFF:
        return unpinned
    if topology.cores == CORES_AUTO:
        return unpinned | _place_automatically(topology, members, sorted(set(available)))
    problems: list[str] = []
    entries = _parse_cores(topology.cores, problems)
    placed = _place_listed(entries, members, problems)
    if problems:
        raise TopologyError(_report(problems))
    return unpinned | placed


def validate(topology: Topology, available_cores: Sequence[int]) -> None:
    """Raise TopologyError naming every problem of the table, each with what to change.

    ``available_cores`` are the cores that this process may run on (os.sched_getaffinity).
    """
    problems = list(_problems(topology, available_cores))
    if problems:
        raise TopologyError(_report(problems))


def diagram(topology: Topology) -> str:
    """The topology as ASCII art: boxes in table order, links beside them, their table below."""
    return "\n".join(_Drawing(topology).lines())


def _members(topology: Topology) -> dict[str, list[tuple[str, int]]]:
    """Process name -> its (stage, index) members, in table order."""
    members: dict[str, list[tuple[str, int]]] = {}
    for stage in topology.stages:
        for index in range(stage.count):
            members.setdefault(_process_name(stage, index), []).append((stage.name, index))
    return members


def _process_name(stage: StageSpec, index: int) -> str:
    if stage.process is not None:
        return stage.process
    return f"{stage.name}-{index}" if stage.role is Role.WORKER else stage.name


def _place_automatically(
    topology: Topology, members: Mapping[str, list[tuple[str, int]]], available: list[int]
) -> dict[str, tuple[int, ...]]:
    def has_only(process: str, role: Role) -> bool:
        return all(topology.stage(stage).role is role for stage, _ in members[process])

    sides = [process for process in members if has_only(process, Role.SIDE)]
    if len(available) < len(members) - len(sides) + 1:
        return {}
    workers = [process for process in members if has_only(process, Role.WORKER)]
    singles = [process for process in members if process not in (*workers, *sides)]
    lowest, *free = available
    rest = free[len(singles) :]
    return (
        dict.fromkeys(sides, (lowest,))
        | {process: (core,) for process, core in zip(singles, free, strict=False)}
        | {process: tuple(rest[at :: len(workers)]) for at, process in enumerate(workers)}
    )


def _parse_cores(text: str, problems: list[str]) -> list[tuple[str, list[int]]]:
    """The entries of a core list, in order; what cannot be read is added to ``problems``."""
    entries: list[tuple[str, list[int]]] = []
    for entry in text.split(","):
        match = re.fullmatch(r"\s*([a-z][a-z0-9_-]*)\s*=\s*(\d+(?:[-+]\d+)*)\s*", entry, re.ASCII)
        parts = [part.split("-") for part in match[2].split("+")] if match else []
        if match is None or any(len(part) > 2 for part in parts):
            problems.append(
                f"cores: cannot read {entry.strip()!r}; write 'auto', 'off' or entries such as "
                f"net=0,verify=1-3+6"
            )
            continue
        cores: list[int] = []
        for part in parts:
            first, last = int(part[0]), int(part[-1])
            if first > last or last > MAX_CORE:
                problems.append(
                    f"cores: {entry.strip()}: range {'-'.join(part)} is impossible; write the "
                    f"lower core first and none above {MAX_CORE}"
                )
                continue
            cores.extend(range(first, last + 1))
        entries.append((match[1], cores))
    return entries


def _place_listed(
    entries: Sequence[tuple[str, list[int]]],
    members: Mapping[str, list[tuple[str, int]]],
    problems: list[str],
) -> dict[str, tuple[int, ...]]:
    """Process name -> cores of a parsed list; an entry names a process or a stage."""
    placed: dict[str, tuple[int, ...]] = {}
    for name, cores in entries:
        named = [name] if name in members else []
        named = named or [p for p, inside in members.items() if any(s == name for s, _ in inside)]
        if not named:
            problems.append(
                f"cores: no stage or process is called {name!r}; use one of {', '.join(members)}"
            )
        for position, process in enumerate(named):
            share = cores[position :: len(named)] or cores[position % max(1, len(cores)) :][:1]
            if process in placed:
                problems.append(
                    f"cores: process {process} is placed twice; name it, or one of its stages, once"
                )
            placed[process] = tuple(sorted(set(share)))
    return placed


def _report(problems: Sequence[str]) -> str:
    if len(problems) == 1:
        return problems[0]
    return f"{len(problems)} problems in the topology:\n" + "\n".join(f"- {p}" for p in problems)


def _problems(topology: Topology, available_cores: Sequence[int]) -> Iterator[str]:
    yield from _stage_problems(topology)
    yield from _role_problems(topology.stages)
    yield from _process_problems(topology)
    yield from _link_problems(topology)
    yield from _cycle_problems(topology)
    yield from _tray_problems(topology.trays)
    if all(not _outside(stage.count, 1, MAX_INSTANCES) for stage in topology.stages):
        yield from _core_problems(topology, available_cores)


def _outside(value: int, low: int, high: int) -> bool:
    return isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high


def _duplicates(names: Sequence[str]) -> list[str]:
    return [name for name in dict.fromkeys(names) if names.count(name) > 1]


def _stage_problems(topology: Topology) -> Iterator[str]:
    stages = topology.stages
    if not 1 <= len(stages) <= MAX_STAGES:
        yield f"the table has {len(stages)} stages; declare 1 to {MAX_STAGES}"
    for name in _duplicates([stage.name for stage in stages]):
        yield f"two stages are called {name}; rename one"
    for stage in stages:
        where = f"stage {stage.name}"
        if not _NAME.fullmatch(stage.name):
            yield (
                f"stage name {stage.name!r}: use a-z, 0-9 and _, a letter first, at most 32 "
                f"characters"
            )
        if not _BUILD.fullmatch(stage.build):
            yield (
                f"{where}: build {stage.build!r} is no import path; write 'package.module:function'"
            )
        if _outside(stage.count, 1, MAX_INSTANCES):
            yield f"{where}: count {stage.count}; use 1 to {MAX_INSTANCES}"
        elif stage.count > 1 and stage.role is not Role.WORKER:
            yield f"{where}: count {stage.count}, but only a worker has instances; use 1"
        if _outside(stage.nice, 0, MAX_NICE):
            yield f"{where}: nice {stage.nice}; use 0 to {MAX_NICE} (lowering it takes privileges)"
        if _outside(stage.stall_ms, MIN_STALL_MS, MAX_STALL_MS):
            yield f"{where}: stall_ms {stage.stall_ms}; use {MIN_STALL_MS} to {MAX_STALL_MS}"


def _role_problems(stages: Sequence[StageSpec]) -> Iterator[str]:
    found = {role: [stage.name for stage in stages if stage.role is role] for role in Role}
    if not (found[Role.INTAKE] or found[Role.WORKER] or found[Role.SINK]):
        return  # no trays travel, so nobody has to fill or judge them
    for role in (Role.INTAKE, Role.SINK):
        if len(found[role]) != 1:
            names = ", ".join(found[role]) or "none"
            yield f"stages of role {role}: {names}; trays need exactly one"
    if len(found[Role.WORKER]) > 1:
        yield (
            f"stages of role worker: {', '.join(found[Role.WORKER])}; declare one and raise its "
            f"count"
        )


def _process_problems(topology: Topology) -> Iterator[str]:
    stages = topology.stages
    for stage in stages:
        if stage.process is None:
            continue
        if not _NAME.fullmatch(stage.process):
            yield (
                f"stage {stage.name}: process name {stage.process!r}: use a-z, 0-9 and _, a letter "
                f"first, at most 32 characters"
            )
        for other in stages:
            if other.name == stage.process and other.process not in (None, stage.process):
                yield (
                    f"stage {stage.name}: process {stage.process} is named like stage "
                    f"{other.name}, "
                    f"which runs in {other.process}; name that one, or another"
                )
            if other.name == stage.process and other.process is None and other.role is Role.WORKER:
                yield (
                    f"stage {stage.name}: process {stage.process} is named like worker "
                    f"{other.name}, "
                    f"whose processes are {other.name}-0 ...; set process={stage.process!r} there "
                    f"too"
                )
    sharing: dict[str, list[StageSpec]] = {}
    for stage in stages:
        if stage.process is not None or stage.role is not Role.WORKER:
            sharing.setdefault(stage.process or stage.name, []).append(stage)
    for process, inside in sharing.items():
        names = ", ".join(stage.name for stage in inside)
        if len({stage.nice for stage in inside}) > 1:
            yield f"process {process}: its stages {names} differ in nice; give them one value"
        if len({stage.expendable for stage in inside}) > 1:
            yield (
                f"process {process}: only some of {names} are expendable, but they die together; "
                f"separate them or make all the same"
            )


def _link_problems(topology: Topology) -> Iterator[str]:
    links = topology.links
    stages = {stage.name: stage for stage in topology.stages}
    if len(links) > MAX_LINKS:
        yield f"the table has {len(links)} links; declare at most {MAX_LINKS}"
    for name in _duplicates([link.name for link in links]):
        yield f"two links are called {name}; rename one"
    for link in links:
        where = f"link {link.name}"
        if not _NAME.fullmatch(link.name):
            yield (
                f"link name {link.name!r}: use a-z, 0-9 and _, a letter first, at most 32 "
                f"characters"
            )
        for end, stage_name in (("source", link.source), ("target", link.target)):
            if stage_name not in stages:
                yield f"{where}: {end} {stage_name!r} is no stage; use one of {', '.join(stages)}"
        if _outside(link.capacity, 1, MAX_LINK_CAPACITY):
            yield f"{where}: capacity {link.capacity}; use 1 to {MAX_LINK_CAPACITY}"
        if not link.carries.strip() or "\n" in link.carries:
            yield f"{where}: say in one line what it carries"
        target = stages.get(link.target)
        if target is not None and target.expendable and link.policy is LinkPolicy.BLOCK:
            yield (
                f"{where}: blocks on {target.name}, which is expendable; make the link drop or the "
                f"stage not expendable"
            )


def _cycle_problems(topology: Topology) -> Iterator[str]:
    """One problem for each cycle of links that can block (the rule is in the module's head)."""
    blocking = [
        link
        for link in topology.links
        if link.policy is LinkPolicy.BLOCK and link.capacity < topology.trays.trays
    ]
    known: set[frozenset[str]] = set()
    for link in blocking:
        cycle = _shortest_cycle(link, blocking)
        names = frozenset(step.name for step in cycle)
        if cycle and names not in known:
            known.add(names)
            drawn = f"{cycle[0].source} " + " ".join(f"-{s.name}-> {s.target}" for s in cycle)
            yield (
                f"links that block form a cycle: {drawn}; make one of them drop, or give one a "
                f"capacity of at least the {topology.trays.trays} trays so that it never fills"
            )


def _shortest_cycle(first: LinkSpec, links: Sequence[LinkSpec]) -> list[LinkSpec]:
    """The shortest cycle through ``first``, beginning with it; empty if there is none."""
    reached: dict[str, list[LinkSpec]] = {first.target: [first]}
    waiting = deque([first.target])
    while waiting and first.source not in reached:
        at = waiting.popleft()
        for link in links:
            if link.source == at and link.target not in reached:
                reached[link.target] = [*reached[at], link]
                waiting.append(link.target)
    return reached.get(first.source, [])


def _tray_problems(trays: TrayDims) -> Iterator[str]:
    bounds = {
        "trays": (trays.trays, 1, MAX_TRAYS),
        "tray_bytes": (trays.tray_bytes, 1, MAX_TRAY_BYTES),
        "fill_bytes": (trays.fill_bytes, 1, max(1, trays.tray_bytes)),
        "max_items": (trays.max_items, 1, MAX_TRAY_BYTES),
        "verdict_bytes": (trays.verdict_bytes, 1, MAX_TRAY_BYTES),
    }
    for name, (value, low, high) in bounds.items():
        if _outside(value, low, high):
            yield f"trays: {name} is {value}; use {low} to {high}"
    if len(trays.reserved) != 2 or any(_outside(kept, 0, MAX_TRAYS) for kept in trays.reserved):
        yield f"trays: reserved is {trays.reserved}; give two counts of 0 or more"
    elif sum(trays.reserved) >= trays.trays:
        yield (
            f"trays: {sum(trays.reserved)} of {trays.trays} are reserved, so ordinary items get "
            f"none; have at least {sum(trays.reserved) + 1}"
        )


def _core_problems(topology: Topology, available_cores: Sequence[int]) -> Iterator[str]:
    if topology.cores in (CORES_AUTO, CORES_OFF):
        return
    problems: list[str] = []
    entries = _parse_cores(topology.cores, problems)
    _place_listed(entries, _members(topology), problems)
    yield from problems
    for name, cores in entries:
        for core in cores:
            if core not in available_cores:
                usable = ", ".join(str(one) for one in sorted(available_cores)) or "none"
                yield (
                    f"cores: {name}={core}: core {core} is not available here; choose from {usable}"
                )


@dataclass(slots=True)
class _Wire:
    """A link on its way from its source's row to its target's row through one vertical lane."""

    link: LinkSpec
    source_row: int = 0
    target_row: int = 0
    lane: int = 0

    @property
    def top(self) -> int:
        return min(self.source_row, self.target_row)

    @property
    def bottom(self) -> int:
        return max(self.source_row, self.target_row)


class _Drawing:
    """Lays out boxes from top to bottom and wires at their right, the shortest wires innermost."""

    def __init__(self, topology: Topology) -> None:
        self._topology = topology
        self._wires = [_Wire(link) for link in topology.links]
        self._boxes: list[tuple[int, list[str], int]] = []  # first row, text lines, rows inside
        row = 0
        order = {stage.name: position for position, stage in enumerate(topology.stages)}
        for stage in topology.stages:
            text = self._describe(stage)
            ends = [
                (wire, outgoing)
                for wire in self._wires
                for outgoing in (True, False)
                if (wire.link.source if outgoing else wire.link.target) == stage.name
            ]
            # Ends that go up leave the box above those that go down, so that few wires cross.
            here = order[stage.name]
            ends.sort(
                key=lambda end: order[end[0].link.target if end[1] else end[0].link.source] - here
            )
            inside = max(len(text), len(ends))
            for offset, (wire, outgoing) in enumerate(ends):
                if outgoing:
                    wire.source_row = row + 1 + offset
                else:
                    wire.target_row = row + 1 + offset
            self._boxes.append((row, text, inside))
            row += inside + 3
        self._rows = row - 1
        self._assign_lanes()

    def lines(self) -> list[str]:
        """The picture, the key and the table of links."""
        return [
            *self._picture(),
            "",
            "--- blocks when the receiver is full    ... drops",
            "",
            *self._table(),
        ]

    def _describe(self, stage: StageSpec) -> list[str]:
        names = list(dict.fromkeys(_process_name(stage, index) for index in range(stage.count)))
        process = names[0] if len(names) == 1 else f"{names[0]} .. {names[-1]}"
        title = stage.name if stage.count == 1 else f"{stage.name} x{stage.count}"
        notes = [str(stage.role)]
        notes += [f"nice {stage.nice}"] if stage.nice else []
        notes += ["expendable"] if stage.expendable else []
        return [title, ", ".join(notes), f"process {process}"]

    def _assign_lanes(self) -> None:
        """Give each wire the innermost lane that is free over its rows and one more each way."""
        taken: list[list[_Wire]] = []
        for wire in sorted(self._wires, key=lambda w: (w.bottom - w.top, w.top)):
            for lane, others in enumerate(taken):
                if all(wire.top > w.bottom + 1 or wire.bottom + 1 < w.top for w in others):
                    wire.lane = lane
                    others.append(wire)
                    break
            else:
                wire.lane = len(taken)
                taken.append([wire])

    def _picture(self) -> list[str]:
        width = max(len(line) for _, text, _ in self._boxes for line in text) + 4
        label = max((len(wire.link.name) for wire in self._wires), default=0)
        lane_at = width + label + 6  # "--label--" and the corner of lane 0
        columns = lane_at + 4 * (1 + max((wire.lane for wire in self._wires), default=0))
        canvas = [[" "] * columns for _ in range(self._rows)]
        for first, text, inside in self._boxes:
            edge = "+" + "-" * (width - 2) + "+"
            canvas[first][:width] = edge
            canvas[first + inside + 1][:width] = edge
            for offset in range(inside):
                content = text[offset] if offset < len(text) else ""
                canvas[first + 1 + offset][:width] = f"| {content.ljust(width - 4)} |"
        for wire in self._wires:
            solid = wire.link.policy is LinkPolicy.BLOCK
            column = lane_at + 4 * wire.lane
            for row in (wire.source_row, wire.target_row):
                canvas[row][width:column] = ("-" if solid else ".") * (column - width)
        for wire in self._wires:
            solid = wire.link.policy is LinkPolicy.BLOCK
            column = lane_at + 4 * wire.lane
            for row in range(wire.top, wire.bottom + 1):
                canvas[row][column] = "|" if solid else ":"
            canvas[wire.source_row][column] = canvas[wire.target_row][column] = "+"
            canvas[wire.source_row][width + 2 : width + 2 + len(wire.link.name)] = wire.link.name
            canvas[wire.target_row][width] = "<"
        return ["".join(row).rstrip() for row in canvas]

    def _table(self) -> list[str]:
        rows = [("link", "from", "to", "when full", "capacity", "carries")]
        rows += [
            (
                link.name,
                link.source,
                link.target,
                str(link.policy),
                str(link.capacity),
                link.carries,
            )
            for link in self._topology.links
        ]
        widths = [max(len(row[column]) for row in rows) for column in range(6)]
        return [
            "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
            for row in rows
        ]
