"""Which processes a topology gives, and on which cores they run.

Values in, values out; the supervisor spawns what comes of it.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from pipeline.topology import CORES_AUTO, CORES_OFF, Role, Topology, members_of, refusal

MAX_CORE = 4_095


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
        for name, members in members_of(topology).items()
    ]


def place_cores(topology: Topology, available: Sequence[int]) -> dict[str, tuple[int, ...]]:
    """Process name -> cores to pin it to; empty means not pinned.

    "auto" pins only when every process but those of SIDE stages can have a core, with one to spare:
    the lowest core stays free for the supervisor, the kernel and the side stages, every process
    without workers gets one core in table order, the workers share out the rest. A list pins what
    it names and nothing else; a stage's cores are dealt out to its processes in turn. Raises
    TopologyError if the list cannot be read.
    """
    members = members_of(topology)
    unpinned: dict[str, tuple[int, ...]] = dict.fromkeys(members, ())
    if topology.cores == CORES_OFF:
        return unpinned
    if topology.cores == CORES_AUTO:
        return unpinned | _place_automatically(topology, members, sorted(set(available)))
    problems: list[str] = []
    entries = parse_cores(topology.cores, problems)
    placed = place_listed(entries, members, problems)
    if problems:
        raise refusal(problems)
    return unpinned | placed


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


def parse_cores(text: str, problems: list[str]) -> list[tuple[str, list[int]]]:
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


def place_listed(
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
