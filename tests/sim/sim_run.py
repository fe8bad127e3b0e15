"""One seed: a world, its nodes, what befalls them, and what must come of it.

First the safety phase, in which everything of the scenario goes wrong. Then the healing: links are
mended, everybody honest runs, the weather is calm; liars may go on. From then on every honest node
must gain `GAIN` heights, each decided within a bound of rounds (`Bounds`). All the while
`sim_checks` looks on.
"""

from __future__ import annotations

import traceback
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from hashlib import blake2b

import sim_scenario
from sim_checks import WAL, Checks, Violation
from sim_disk import SimDisk
from sim_liars import Liar
from sim_network import CALM, Network, Weather
from sim_node import Post, SignerProcess, SimNode, fail_at_operation
from sim_scenario import Scenario
from sim_world import NS_PER_MS, NS_PER_S, Keys, World

GAIN = 10  # heights that every honest node must gain once everything is well
STORM_STEPS = (1800, 120)  # most events of the safety phase, and for each validator
STORM_HEIGHTS = 40  # and most heights, from when on it has nothing new to tell
LIVELY_STEPS = 400_000  # most events after it: far more than are ever needed
SLACK_MS = 250  # of delays and clocks, see Bounds


class Bounds:
    """How many rounds a height may need, and how long that may take, after the healing.

    All honest nodes run, no message is lost and each takes at most `CALM.most_ms`; blocks are built
    and messages signed without delay. Let R be the highest round that any honest node is in (0 in
    a height that begins later).

    * Within a resend interval those that are behind are let into R (line 55 or 65 with what is
      resent), and it cannot be left while they are not: R + 1 is the first round in which all of
      them take part from its beginning.
    * A round fails although its proposer is honest only if some honest node is locked on another
      value than proposed, with a polka that the proposer does not know: a liar's late prevote for
      one friend can bring that about, once per round. The friend says its polka again within
      `resend_ms`; from the round S on that lasts longer than this (prevote and precommit timeouts:
      2 * (vote_ms + S * vote_step_ms) >= resend_ms + SLACK_MS; S = 3 with the usual timeouts)
      every honest proposer of the next round knows it in time, and proposes what everybody
      prevotes.

    So a height is decided at the latest in the first round with an honest proposer from
    max(R + 2, S + 1) on; how far away that is follows from the powers. One round more is
    granted: a proposer that was at work on a block when the world healed may be late with it.
    """

    def __init__(self, scenario: Scenario, keys: Keys, checks: Checks) -> None:
        self._scenario = scenario
        self._proposer = keys.validators.proposer
        self._slow = frozenset((*scenario.forgetful, *scenario.unlogged))
        self._checks = checks
        self._reached: dict[int, int] = {}  # height -> highest round at the healing
        self._most: dict[int, int] = {}
        times = scenario.timeouts
        self._settled = 0
        while 2 * (times.vote_ms + self._settled * times.vote_step_ms) < times.resend_ms + SLACK_MS:
            self._settled += 1

    def note(self, height: int, round_: int) -> None:
        """Where somebody honest was at the healing."""
        self._reached[height] = max(self._reached.get(height, 0), round_)

    def most_rounds(self, height: int) -> int:
        """The highest round in which this height may still be decided."""
        most = self._most.get(height)
        if most is None:
            most = self._most[height] = self._find(height)
        return most

    def _find(self, height: int) -> int:
        round_ = max(self._reached.get(height, 0) + 2, self._settled + 1)
        while not self._is_good(self._proposer(height, round_)):
            round_ += 1
        round_ += 1
        while not self._is_good(self._proposer(height, round_)):
            round_ += 1
        return round_

    def _is_good(self, validator: int) -> bool:
        return validator in self._checks.honest and validator not in self._slow

    def most_ns(self, height: int) -> int:
        """The longest time that a height may take."""
        times = self._scenario.timeouts
        first = max(self._reached.get(height, 0) - 1, 0)
        total = times.empty_pace_ms + 4 * times.resend_ms
        for round_ in range(first, self.most_rounds(height) + 1):
            total += times.propose_ms + round_ * times.propose_step_ms
            total += 2 * (times.vote_ms + round_ * times.vote_step_ms) + 500
        return total * NS_PER_MS


@dataclass
class Outcome:
    """What came of a seed."""

    seed: int
    violation: str | None
    seen: Counter[str]
    steps: int
    heights: int
    most_rounds: int  # the highest round that decided after the healing
    spare_rounds: int  # the least distance of a decision to its bound
    trace_hash: str = ""


@dataclass
class Run:
    """A seed under way."""

    seed: int
    trace: Callable[[str], None] | None = None
    nodes: list[SimNode] = field(default_factory=list)
    liars: list[Liar] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.world = world = World(self.seed, self.trace)
        self.scenario = scenario = sim_scenario.draw(world.rng)
        self.keys = Keys(self.seed, scenario.powers)
        honest = frozenset(scenario.honest)
        self.post = Post(self.keys)
        self.network = Network(world, scenario.n_nodes)
        self.checks = Checks(world, self.keys, scenario.powers, honest)
        self.checks.forgive(scenario.unlogged)
        self.bounds = Bounds(scenario, self.keys, self.checks)
        self.network.weather = scenario.weather
        self.checks.on_decision = self._decided
        self._people()
        self.honest = [node for node in self.nodes if node.honest]
        self._target = 0
        self._healed = False

    def _people(self) -> None:
        scenario = self.scenario
        places: list[list[int]] = [[] for _ in range(scenario.n)]
        for validator in range(scenario.n):
            if validator in scenario.liars:
                tactics = scenario.liars[validator]
                friends = frozenset(scenario.liars) | frozenset(scenario.twins)
                liar = Liar(
                    self.world, self.network, self.keys, self.post, validator, tactics, friends
                )
                self.liars.append(liar)
                places[validator].append(liar.index)
            else:
                self._add_node(validator, validator not in scenario.twins, places)
        for validator in scenario.twins:
            self._add_node(validator, False, places)
        for _ in range(scenario.followers):
            self._add_node(None, True, places)
        for node in self.nodes:
            node.nodes_of = places
        for validator, sides in scenario.twins.items():
            if sides:
                self._veil(places[validator], sides)

    def _add_node(self, validator: int | None, honest: bool, places: list[list[int]]) -> None:
        node = SimNode(
            self.world,
            self.network,
            self.keys,
            self.post,
            self.checks,
            validator=validator,
            honest=honest,
            timeouts=self.scenario.timeouts,
            traffic_ms=self.scenario.traffic_ms,
            keep_bytes=self.scenario.keep_bytes,
            asks_when_behind=self.scenario.asks_when_behind or validator is None,
        )
        self.nodes.append(node)
        if validator is not None:
            places[validator].append(node.index)

    def _veil(self, twins: list[int], sides: tuple[int, ...]) -> None:
        veiled = self.network.veiled
        for side, twin in enumerate(twins):
            for other in range(self.network.n_nodes):
                if sides[other] != side:
                    veiled[twin][other] = veiled[other][twin] = True

    # -- the two phases --------------------------------------------------------------------------

    def through(self) -> Outcome:
        """Run the seed to its end, or to what must never happen."""
        world = self.world
        violation = None
        try:
            self._storm()
            self._heal()
            self._prosper()
        except Violation as found:
            violation = str(found)
        except Exception as error:
            where = traceback.extract_tb(error.__traceback__)[-1]
            place = f"{where.filename.rpartition('/')[2]}:{where.lineno}"
            violation = f"{type(error).__name__} at {place}: {error}"
            if world.trace is not None:
                for line in traceback.format_exc().splitlines():
                    world.say("world", line)
        if violation is not None and world.trace is not None:
            world.say("VIOLATION", violation)
        checks = self.checks
        return Outcome(
            self.seed,
            violation,
            world.seen,
            world.steps,
            max(checks.decisions, default=0),
            checks.highest_round,
            checks.spare_rounds,
        )

    def _storm(self) -> None:
        world, scenario = self.world, self.scenario
        if world.trace is not None:
            world.say("seed", f"{self.seed}: {scenario.describe()}")
        for node in self.nodes:
            if isinstance(node.signer, SignerProcess):
                node.signer.start()
            delay_ms = scenario.start_most_ms * world.rng.random() ** 2
            world.after(int(delay_ms * NS_PER_MS), node.start)
        for fault in scenario.faults:
            world.at(fault.at_ns, getattr(self, fault.kind), *fault.arguments)
        last_fault_ns = scenario.faults[-1].at_ns if scenario.faults else 0
        length_ns = max(scenario.length_ns, last_fault_ns)
        steps = STORM_STEPS[0] + STORM_STEPS[1] * scenario.n
        decisions = self.checks.decisions
        world.run(length_ns, steps, lambda: len(decisions) >= STORM_HEIGHTS)

    def _heal(self) -> None:
        world = self.world
        if world.trace is not None:
            world.say("world", "heals")
        self._healed = world.all_is_well = True
        self.network.weather = CALM
        self.network.heal()
        for node in self.nodes:
            node.disk.on_operation = None
            if isinstance(node.signer, SignerProcess):
                node.signer.disk.on_operation = None
            world.after(0, node.start)
            if node.signer is not None:
                world.after(0, node.signer.start)
        if not self.scenario.liars_go_on:
            for liar in self.liars:
                liar.up = False
        world.run(world.now_ns + 10 * NS_PER_MS, LIVELY_STEPS)
        for node in self.honest:
            self.bounds.note(node.core.height, node.core.round)
        self._target = max(self.checks.decisions, default=0) + GAIN
        self.checks.most_rounds = self.bounds.most_rounds
        if world.trace is not None:
            world.say("world", f"height {self._target} must be reached by all")

    def _prosper(self) -> None:
        world = self.world
        before = (-1, -1)
        deadline_ns = 0
        last_step = world.steps + LIVELY_STEPS
        while True:
            heights = [node.store.height if node.store else 0 for node in self.honest]
            progress = (min(heights), max(heights))
            if progress[0] >= self._target:
                return
            if progress != before:
                before = progress
                wait_ns = max(self.bounds.most_ns(height + 1) for height in progress)
                deadline_ns = world.now_ns + wait_ns
            elif world.now_ns >= deadline_ns or world.steps >= last_step:
                raise Violation(self._stuck(wait_ns))
            world.run(deadline_ns, 100)

    def _stuck(self, wait_ns: int) -> str:
        where = ", ".join(
            f"{node.name} {node.core.height}/{node.core.round} {node.core.step.name}"
            for node in self.honest
        )
        return f"nobody honest has gained a height for {wait_ns / NS_PER_S:.0f} s: {where}"

    def _decided(self, node: SimNode) -> None:
        """Treachery: who has decided cannot tell anybody."""
        if self.network.weather.treacherous and self.world.rng.random() < 0.8:
            self.world.seen["muted"] += 1
            self.network.mute(node.index, self.world.now_ns + self.world.ms(300, 4000))

    # -- faults, by the names that `sim_scenario` gives them ---------------------------------------

    def change_weather(self, weather: Weather) -> None:
        """The whole network behaves differently from now on."""
        if not self._healed:
            self.network.weather = weather
            if self.world.trace is not None:
                self.world.say("world", f"weather: {weather.name}")

    def cut_links(self, sides: list[int], one_way: bool) -> None:
        """Part the network."""
        if not self._healed:
            self.network.part(sides, one_way)
            self.world.seen["one-way cut" if one_way else "cut"] += 1
            if self.world.trace is not None:
                self.world.say("world", f"cut{' one way' if one_way else ''}: {sides}")

    def heal_links(self) -> None:
        """Mend all cuts."""
        if not self._healed:
            self.network.heal()
            if self.world.trace is not None:
                self.world.say("world", "links are mended")

    def crash_node(self, validator: int, power: bool) -> None:
        """A process dies, or its machine loses power."""
        for node in self._nodes_of(validator):
            node.stop(power)

    def crash_at_operation(self, validator: int, ahead: int, kill: bool) -> None:
        """A process dies in the middle of one of its next disk operations."""
        for node in self._nodes_of(validator):
            fail_at_operation(node.disk, ahead, kill, self.world.rng)

    def crash_signer(self, validator: int, power: bool) -> None:
        """A signer dies, or its machine loses power."""
        for node in self._nodes_of(validator):
            if node.signer is not None:
                node.signer.stop(power)

    def crash_signer_at_operation(self, validator: int, ahead: int, kill: bool) -> None:
        """A signer dies in the middle of one of its next disk operations."""
        for node in self._nodes_of(validator):
            if isinstance(node.signer, SignerProcess):
                fail_at_operation(node.signer.disk, ahead, kill, self.world.rng)

    def lose_all_power(self) -> None:
        """Everybody loses power at once."""
        if not self._healed:
            self.world.seen["all lost power"] += 1
            for node in self.nodes:
                node.stop(True)
                if node.signer is not None:
                    node.signer.stop(True)

    def lose_signer_state(self, validator: int) -> None:
        """A signer's machine is set up again from a backup, in which its state is not."""
        for node in self._nodes_of(validator):
            if isinstance(node.signer, SignerProcess):
                self.world.seen["signer lost its state"] += 1
                node.signer.stop(False)
                node.signer.disk = SimDisk()

    def lose_log(self, validator: int) -> None:
        """A node's machine is set up again from a backup, in which the log is not: what it has
        signed keeps it from signing something else, but its locks are gone.
        """
        for node in self._nodes_of(validator):
            self.world.seen["log lost"] += 1
            node.stop(True)
            if WAL in node.disk.names():
                node.disk.remove(WAL)
                node.disk.sync_directory()
            node.sent.clear()

    def _nodes_of(self, validator: int) -> list[SimNode]:
        if self._healed:
            return []
        return [node for node in self.nodes if node.validator == validator]


def run_seed(seed: int) -> Outcome:
    """Run a seed without a trace."""
    return Run(seed).through()


def run_traced(seed: int, write: Callable[[str], None] | None = None) -> Outcome:
    """Run a seed with its trace, for people (`write` gets every line) and for its hash."""
    digest = blake2b(digest_size=16)

    def line(text: str) -> None:
        digest.update(text.encode() + b"\n")
        if write is not None:
            write(text)

    outcome = Run(seed, line).through()
    outcome.trace_hash = digest.hexdigest()
    return outcome
