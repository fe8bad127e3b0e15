"""What can be wrong with a topology.

A table that cannot run is a ``TopologyError`` that names every problem and what to change.

Which links can block: a stage that sends on a full BLOCK link stops until the receiver reads.
Stages that wait for each other in a circle through such links would wait for ever, so cycles of
them are refused. A DROP link never waits. A BLOCK link whose capacity is at least the number of
trays never waits either, because no more descriptors than trays exist at any time: that is how the
circle which the trays travel closes, and such a link does not count as blocking.
"""

from __future__ import annotations

import re
from collections import deque
from collections.abc import Iterator, Sequence

from pipeline.placement import parse_cores, place_listed
from pipeline.topology import (
    CORES_AUTO,
    CORES_OFF,
    LinkPolicy,
    LinkSpec,
    Role,
    StageSpec,
    Topology,
    TrayDims,
    members_of,
    refusal,
)

# Bounds of the table. They stop slips of the keyboard, not uses that anyone has measured.
MAX_STAGES = 64
MAX_LINKS = 256
MAX_INSTANCES = 256  # one process each; more than any machine that this runs on has cores for
MAX_NICE = 19  # Linux, nice(2)
MIN_STALL_MS = 1_000  # twice as long as an idle loop waits, and what a busy scheduler may take
MAX_STALL_MS = 3_600_000
MAX_LINK_CAPACITY = 1_000_000
MAX_TRAYS = 65_536
MAX_TRAY_BYTES = 1 << 30

_NAME = re.compile(r"[a-z][a-z0-9_]{0,31}")
_BUILD = re.compile(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)*:[A-Za-z_]\w*")


def validate(topology: Topology, available_cores: Sequence[int]) -> None:
    """Raise TopologyError naming every problem of the table, each with what to change.

    ``available_cores`` are the cores that this process may run on (os.sched_getaffinity).
    """
    problems = list(_problems(topology, available_cores))
    if problems:
        raise refusal(problems)


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
    entries = parse_cores(topology.cores, problems)
    place_listed(entries, members_of(topology), problems)
    yield from problems
    for name, cores in entries:
        for core in cores:
            if core not in available_cores:
                usable = ", ".join(str(one) for one in sorted(available_cores)) or "none"
                yield (
                    f"cores: {name}={core}: core {core} is not available here; choose from {usable}"
                )
