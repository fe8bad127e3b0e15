"""The topology: one table of stages and links.

The program that owns a pipeline writes the table (a ``Topology`` value); the supervisor validates
it before it spawns anything (``pipeline.topology_rules``), derives processes and core placement
from it (``pipeline.placement``), and passes it to every child. ``pipeline.diagram`` draws it. The
module owns nothing and performs nothing: values in, values out. Nothing kills it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum

from pipeline.errors import TopologyError

CORES_AUTO = "auto"
CORES_OFF = "off"


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


def members_of(topology: Topology) -> dict[str, list[tuple[str, int]]]:
    """Process name -> its (stage, index) members, in table order."""
    members: dict[str, list[tuple[str, int]]] = {}
    for stage in topology.stages:
        for index in range(stage.count):
            members.setdefault(process_name(stage, index), []).append((stage.name, index))
    return members


def process_name(stage: StageSpec, index: int) -> str:
    if stage.process is not None:
        return stage.process
    return f"{stage.name}-{index}" if stage.role is Role.WORKER else stage.name


def refusal(problems: Sequence[str]) -> TopologyError:
    """The error that names every problem of a table."""
    if len(problems) == 1:
        return TopologyError(problems[0])
    told = "\n".join(f"- {problem}" for problem in problems)
    return TopologyError(f"{len(problems)} problems in the topology:\n{told}")
