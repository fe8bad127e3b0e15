"""What ``time-bench devnet`` measures: its figures, its subjects, and how much of everything.

Pure. The figures of a network are named for its size; floors and aims are asked of four nodes with
the fastest backend, and of nothing else.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from fnmatch import fnmatchcase
from typing import Final

from tools.bench.errors import BenchError
from tools.bench.figures import BY_KEY, FINALITY_PACE_MS, Better, Figure
from tools.bench.plan import BackendName
from tools.devnet.places import MAX_NODES

ASKED_NODES: Final = 4
"""The least that go on without one of them; what floors and aims are asked of."""

ROOM_PER_S: Final = {"avx512": 20_000, "nacl": 8_000}
"""Payments a second that no network will finalise here, for the size of the workload."""

OVERLOAD: Final = 2.0
"""Of what the network can take, offered to one node."""

HALF_LOAD: Final = 0.5

OVERLOAD_LIVES: Final = 4
"""So many networks are overloaded one after the other in a round until there are blocks enough."""

CATCH_UP_PACE_MS: Final = 100
"""Of the blocks that are caught up with: a thousand of them take two minutes or three."""

CATCH_UP_LOAD_S: Final = 200.0
"""How long the load lasts at the most in which they are made."""

CATCH_UP_ROOM: Final = 1 / 3
"""Of what payments are prepared for each second of the others: about half of what four nodes take,
so that those blocks are no emptier than a network's at half load.
"""

MODEST_LOAD: Final = 0.1
"""Of what the network can take, while hostile peers work on a node: what room is left is theirs."""

FLOOD_TURNS: Final = 2
"""How often the block rate is taken without hostile peers and then with them."""

FLOOD_START_S: Final = 10.0
"""For the hostile peers to begin, each turn, while the load goes on."""

BLOCK_PATIENCE_S: Final = 5.0
"""Longer than that a block is not waited for at either end of a phase; what was counted counts."""

REJOIN_ROOM_S: Final = 30.0
"""For a node to come back, in which the load must not end: more than the floor allows."""


class Subject(StrEnum):
    """What is measured, in this order, each on networks of its own."""

    ALONE = "alone"  # a chain of one validator, flat out: what catching up is compared with
    FLAT_OUT = "flat-out"
    FINALITY = "finality"
    OVERLOAD = "overload"
    REJOIN = "rejoin"
    CATCH_UP = "catch-up"
    COLD = "cold"  # no network: a block of payments that nobody has seen, in one process
    FLOOD = "flood"


_RELATIVE: Final = (
    Subject.FINALITY,
    Subject.OVERLOAD,
    Subject.REJOIN,
    Subject.CATCH_UP,
    Subject.FLOOD,
)
_ASKED_ONE_AWAY: Final = (Subject.REJOIN, Subject.CATCH_UP)


@dataclass(frozen=True, slots=True)
class DevnetScale:
    """How much of everything; ``away_s`` is how long the node that rejoins was gone."""

    nodes: int = ASKED_NODES
    rounds: int = 3
    seconds: float = 10.0
    least: int = 20_000  # transactions of a load
    raw_s: float = 1.5
    settle_s: float = 2.0
    away_s: float = 10.0
    cold_blocks: int = 25
    catch_up_blocks: int = 1_000
    overload_blocks: int = 300  # a round of the benchmark, in which failed rounds are counted
    quick: bool = False

    def __post_init__(self) -> None:
        for name, value, low, high in (
            ("nodes", self.nodes, 1, MAX_NODES),
            ("rounds", self.rounds, 1, 99),
            ("seconds", self.seconds, 0.1, 120),
        ):
            if not low <= value <= high:
                raise BenchError(f"--{name} {value:g} is impossible", f"give {low:g} to {high:g}")

    def room(self, backend: BackendName) -> int:
        """Payments to prepare: what the greatest load could send."""
        if self.quick:
            return 4 * self.least
        per_s = ROOM_PER_S[backend]
        catch_up = CATCH_UP_LOAD_S * CATCH_UP_ROOM * per_s
        return max(4 * self.least, math.ceil(self.seconds * OVERLOAD * per_s), math.ceil(catch_up))

    def guess_per_s(self, subject: Subject, backend: BackendName) -> float:
        """What to expect of a load flat out that was not measured yet."""
        return ROOM_PER_S[backend] * (OVERLOAD if subject is Subject.ALONE else HALF_LOAD)

    def rejoin_per_s(self, half_per_s: float, room: int) -> float:
        """The rate while a node is away and comes back: half load, if there is enough of it."""
        return min(half_per_s, room / (self.settle_s + self.away_s + REJOIN_ROOM_S))

    def catch_up_per_s(self, half_per_s: float, room: int) -> float:
        """The rate while the blocks are made that are caught up with: half load, if there is enough
        of it.
        """
        return min(half_per_s, room / CATCH_UP_LOAD_S)

    def flood_per_s(self, modest_per_s: float, room: int) -> float:
        """The rate while hostile peers come and go: modest load, if there is enough of it."""
        phase_s = self.seconds + 2 * BLOCK_PATIENCE_S
        turn_s = self.settle_s + FLOOD_START_S + 2 * phase_s
        return min(modest_per_s, room / (FLOOD_TURNS * turn_s))

    def count(self, rate_per_s: float, room: int) -> int:
        """Payments that last for the seconds at this rate."""
        return min(max(self.least, math.ceil(rate_per_s * self.seconds)), room)


DEVNET_QUICK: Final = DevnetScale(
    rounds=1,
    seconds=1.0,
    least=1_000,
    raw_s=0.2,
    settle_s=0.5,
    away_s=1.0,
    cold_blocks=3,
    catch_up_blocks=20,
    overload_blocks=1,
    quick=True,
)


def prefix(nodes: int) -> str:
    """The beginning of a network's keys."""
    return f"devnet{nodes}"


def keys(nodes: int, backend: BackendName) -> dict[Subject, tuple[str, ...]]:
    """The figures that each subject gives."""
    net = prefix(nodes)
    return {
        Subject.ALONE: (f"node.1in.{backend}.tx_per_s",),
        Subject.FLAT_OUT: (f"{net}.1in.{backend}.tx_per_s", f"{net}.1in.{backend}.vs_raw"),
        Subject.FINALITY: (f"{net}.final_p50_ms", f"{net}.final_p99_ms"),
        Subject.OVERLOAD: (f"{net}.rounds_above_0_per_1000", f"{net}.overload_blocks"),
        Subject.REJOIN: (f"{net}.rejoin_s",),
        Subject.CATCH_UP: ("catchup.tx_per_s", "catchup.vs_node"),
        Subject.COLD: ("block.cold_validate_ms",),
        Subject.FLOOD: ("flood.block_rate",),
    }


def figures(
    nodes: int, backend: BackendName, blocks: int = DevnetScale().catch_up_blocks
) -> tuple[Figure, ...]:
    """The figures of a network of so many nodes, with what is asked of them; ``blocks`` are those
    that are caught up with.
    """
    net = prefix(nodes)
    rate = f"{net}.1in.{backend}"
    everything = (
        BY_KEY["raw.nacl_per_s"],
        BY_KEY[f"node.1in.{backend}.tx_per_s"],
        Figure(f"{rate}.tx_per_s", "1-input payments finalised by all", "1/s", Better.HIGHER),
        Figure(
            f"{rate}.vs_raw", "the same ÷ raw PyNaCl on all cores", "ratio", Better.HIGHER,
            0.15, 0.30,
        ),
        Figure(
            f"{net}.final_p50_ms",
            f"finality at half that load, pace {FINALITY_PACE_MS} ms, median of the nodes", "ms",
            Better.LOWER, 600.0, 300.0,
        ),
        Figure(
            f"{net}.final_p99_ms",
            f"99th percentile, pace {FINALITY_PACE_MS} ms, at the node where it is longest", "ms",
            Better.LOWER, 1_500.0, 800.0,
        ),
        Figure(
            f"{net}.rounds_above_0_per_1000",
            "failed rounds in 1,000 blocks, default pace, one node overloaded; all rounds together",
            "rounds", Better.LOWER, 1.0, 0.0,
        ),
        Figure(f"{net}.overload_blocks", "the blocks in which these were counted", "blocks",
               Better.HIGHER),
        Figure(
            f"{net}.rejoin_s", "a killed node, from its start to a vote at the others' height", "s",
            Better.LOWER, 20.0, 5.0,
        ),
        Figure("catchup.tx_per_s", f"payments committed while catching up on {blocks:,} blocks "
               "or more", "1/s", Better.HIGHER),
        Figure(
            "catchup.vs_node", "the same ÷ a node alone, flat out", "ratio", Better.HIGHER,
            0.5, 0.8,
        ),
        Figure(
            "block.cold_validate_ms", "1,000 unseen payments, bytes to judgement, one process",
            "ms", Better.LOWER, 100.0, 40.0,
        ),
        Figure(
            "flood.block_rate", "block rate under 100 hostile connections ÷ without", "ratio",
            Better.HIGHER, 0.9, 0.97,
        ),
    )  # fmt: skip
    if (nodes, backend) == (ASKED_NODES, "avx512"):
        return everything
    return tuple(
        Figure(each.key, each.meaning, each.unit, each.better) for each in everything
    )  # nothing is asked of other networks


def choose(
    only: Sequence[str], nodes: int, backend: BackendName
) -> tuple[list[Subject], dict[str, str]]:
    """The subjects that give a figure, or have a name, that matches one of the patterns ``only``
    (all without any), and those whose rates they are relative to; and the figures that a network
    of this size cannot give, with the reason.

    Raises BenchError if nothing is left.
    """
    given = keys(nodes, backend)
    chosen = {
        subject
        for subject in Subject
        if not only
        or any(fnmatchcase(name, pat) for name in (subject, *given[subject]) for pat in only)
    }
    missing: dict[str, str] = {}
    if nodes == 1 and Subject.FLOOD in chosen:
        chosen.remove(Subject.FLOOD)
        missing |= dict.fromkeys(given[Subject.FLOOD], "a node alone bans loopback")
    for subject in _ASKED_ONE_AWAY:
        if nodes < ASKED_NODES and subject in chosen:
            chosen.remove(subject)
            why = f"fewer than {ASKED_NODES} nodes do not go on without one"
            missing |= dict.fromkeys(given[subject], why)
    if chosen & set(_RELATIVE):
        chosen.add(Subject.FLAT_OUT)
    if Subject.CATCH_UP in chosen:
        chosen.add(Subject.ALONE)
    if not chosen:
        raise BenchError(
            f"nothing to measure in a network of {nodes} matches {' '.join(only)}",
            f"give a figure's key or one of {', '.join(Subject)}, with * for any letters",
        )
    return [subject for subject in Subject if subject in chosen], missing
