"""A seed's story: who takes part, who lies and how, what breaks and when.

Everything is drawn from the world's generator before anything happens, so that a run can be shown
at its head. The power of liars is below a third; against the same bound count validators whose
signer forgot its state (a backup was put back), because they are silent for some heights, and those
whose log was lost, because they forgot what they were locked on.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from random import Random

from sim_liars import Tactic, draw_plot, draw_tactics
from sim_network import CALM, STORMS, Weather
from sim_world import NS_PER_S

from node.consensus.core import Timeouts

TREACHEROUS = tuple(weather for weather in STORMS if weather.treacherous)
HASTY = Timeouts(
    propose_ms=500, propose_step_ms=200, vote_ms=150, vote_step_ms=100, resend_ms=500, pace_ms=50
)
SIZES = (4, 4, 4, 4, 4, 4, 4, 7, 7, 10)
UNEQUAL = (
    *((30, 29, 28, 13), (1, 1, 2, 2), (3, 2, 2, 2)),  # the last two: exactly two thirds can vote
    *((5, 1, 1, 1, 1, 1, 1), (3, 1, 1, 1, 1, 1, 1)),
    *((3, 3, 3, 1, 1, 1, 1, 1, 1, 1), (2, 2, 2, 1, 1, 1, 1, 1, 1, 3)),
)


@dataclass
class Fault:
    """One thing that goes wrong."""

    at_ns: int
    kind: str  # a method of `sim_run.Run`
    arguments: tuple[object, ...] = ()


@dataclass
class Scenario:
    """What a seed stands for."""

    powers: tuple[int, ...]
    timeouts: Timeouts
    traffic_ms: int  # mean time until there is a transaction to put into a block
    twins: dict[int, tuple[int, ...]] = field(
        default_factory=dict
    )  # validator -> side of each node
    liars: dict[int, list[Tactic]] = field(default_factory=dict)
    forgetful: tuple[int, ...] = ()  # their signer loses its state
    unlogged: tuple[int, ...] = ()  # their node loses its log, and with it its locks
    followers: int = 0  # they always ask when they are behind, for they have no votes to show it
    asks_when_behind: bool = False  # so do validators
    liars_go_on: bool = True  # after the healing
    keep_bytes: int = 1024 * 1024  # how large a log may be before it is cut
    weather: Weather = CALM
    faults: list[Fault] = field(default_factory=list)
    length_ns: int = 0
    start_most_ms: int = 2000  # not everybody starts at the same moment

    @property
    def n(self) -> int:
        """How many validators."""
        return len(self.powers)

    @property
    def honest(self) -> list[int]:
        """The validators that do not lie."""
        return [each for each in range(self.n) if each not in self.twins | self.liars]

    @property
    def n_nodes(self) -> int:
        """How many places the network has: twins take two."""
        return self.n + len(self.twins) + self.followers

    def describe(self) -> str:
        """For the head of a trace."""
        liars = {each: [str(tactic) for tactic in how] for each, how in self.liars.items()}
        return (
            f"{self.n} validators, powers {self.powers}, twins {sorted(self.twins)}, "
            f"liars {liars}, forgetful {self.forgetful}, unlogged {self.unlogged}, "
            f"followers {self.followers}, "
            f"weather {self.weather.name}, {len(self.faults)} faults in "
            f"{self.length_ns / NS_PER_S:.1f} s"
        )


def draw(rng: Random) -> Scenario:
    """Draw a scenario: in some nearly everything breaks, others are plots.

    In a plot little breaks, so that many heights are decided; but as many lie as can, and the
    network sees to it that some know what others do not.
    """
    powers = _powers(rng)
    scenario = Scenario(
        powers=powers,
        timeouts=rng.choice((Timeouts(), HASTY)),
        traffic_ms=rng.choice((100, 500, 3000)),
        weather=_weather(rng),
        asks_when_behind=rng.random() < 0.5,
        liars_go_on=rng.random() < 0.8,
        keep_bytes=rng.choice((500, 4000, 1024 * 1024)),
        length_ns=int(rng.uniform(5, 30) * NS_PER_S),
    )
    plot = rng.random() < 0.4
    _draw_liars(rng, scenario, plot)
    if plot:
        scenario.weather = rng.choice(TREACHEROUS)
        scenario.start_most_ms = 0
        scenario.length_ns *= 3
    if (
        scenario.forgetful or scenario.unlogged
    ):  # a node without a signature has nothing to show that it is behind
        scenario.asks_when_behind = True
    if rng.random() < 0.15:
        scenario.followers = 1
    if not plot or scenario.forgetful or scenario.unlogged or rng.random() < 0.3:
        _draw_faults(rng, scenario)
    return scenario


def _weather(rng: Random) -> Weather:
    """Any weather; the treacherous ones, in which nodes know different things, more often."""
    return rng.choice(TREACHEROUS if rng.random() < 0.3 else STORMS)


def _powers(rng: Random) -> tuple[int, ...]:
    n = rng.choice(SIZES)
    luck = rng.random()
    if luck < 0.6:
        return (rng.choice((1, 1, 1000)),) * n
    if luck < 0.75:
        choices = [each for each in UNEQUAL if len(each) == n]
        return rng.choice(choices)
    return tuple(rng.randint(1, 20) for _ in range(n))


def _draw_liars(rng: Random, scenario: Scenario, plot: bool) -> None:
    """Fill what is left below a third with faulty validators, or stop before."""
    powers = scenario.powers
    total = sum(powers)
    bad = 0
    order = list(range(len(powers)))
    rng.shuffle(order)
    keenness = 1.0 if plot else rng.choice((0.0, 0.9, 1.0, 1.0, 1.0))
    forgetful: list[int] = []
    unlogged: list[int] = []
    for validator in order:
        if 3 * (bad + powers[validator]) >= total or rng.random() >= keenness:
            continue
        bad += powers[validator]
        luck = rng.random()
        if luck < 0.35:
            scenario.twins[validator] = ()
        elif luck < 0.86:
            scenario.liars[validator] = draw_plot(rng) if plot else draw_tactics(rng)
        else:
            (forgetful if luck < 0.93 else unlogged).append(validator)
    scenario.forgetful = tuple(sorted(forgetful))
    scenario.unlogged = tuple(sorted(unlogged))
    n_places = scenario.n_nodes
    for validator in scenario.twins:  # for each of the two: which nodes it knows
        if rng.random() < 0.7:
            side = tuple(rng.randint(0, 1) for _ in range(n_places + 1))
            scenario.twins[validator] = side


def _draw_faults(rng: Random, scenario: Scenario) -> None:
    length = scenario.length_ns
    n_nodes = scenario.n_nodes
    faults = scenario.faults

    def at() -> int:
        return int(rng.random() * length)

    def how_long_ns() -> int:
        return int(rng.uniform(0.2, 5) * NS_PER_S)

    for _ in range(rng.randint(0, 3)):
        faults.append(Fault(at(), "change_weather", (_weather(rng),)))
    for _ in range(rng.choice((0, 1, 1, 2, 3))):
        begin, n_sides = at(), rng.choice((2, 2, 2, 3))
        if rng.random() < 0.3:
            alone = rng.randrange(n_nodes)
            sides = [int(index == alone) for index in range(n_nodes)]
        else:
            sides = [rng.randrange(n_sides) for _ in range(n_nodes)]
        faults.append(Fault(begin, "cut_links", (sides, rng.random() < 0.3)))
        faults.append(Fault(begin + how_long_ns(), "heal_links"))
    for _ in range(rng.choice((0, 1, 2, 4, 8))):
        node, power = rng.randrange(scenario.n), rng.random() < 0.6
        faults.append(Fault(at(), "crash_node", (node, power)))
    for _ in range(rng.choice((0, 1, 2, 4, 8))):
        node, ahead, kill = rng.randrange(scenario.n), rng.randrange(60), rng.random() < 0.3
        faults.append(Fault(at(), "crash_at_operation", (node, ahead, kill)))
    for _ in range(rng.choice((0, 0, 1, 3))):
        node, power = rng.randrange(scenario.n), rng.random() < 0.6
        faults.append(Fault(at(), "crash_signer", (node, power)))
    for _ in range(rng.choice((0, 0, 1, 3))):
        node, ahead, kill = rng.randrange(scenario.n), rng.randrange(20), rng.random() < 0.3
        faults.append(Fault(at(), "crash_signer_at_operation", (node, ahead, kill)))
    for _ in range(rng.choice((0, 0, 0, 1, 2))):
        faults.append(Fault(at(), "lose_all_power"))
    for node in scenario.forgetful:
        faults.append(Fault(at(), "lose_signer_state", (node,)))
    for node in scenario.unlogged * 3:
        faults.append(Fault(at(), "lose_log", (node,)))
    faults.sort(key=lambda fault: fault.at_ns)
