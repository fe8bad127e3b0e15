"""The simulated network: what is sent arrives late, twice, out of order, or not at all.

Every pair of nodes has a link in each direction, which can be cut by itself (so partitions can be
one-sided). The weather, one for all links, says how many messages are lost and doubled, how long
they take, and how many take very long. Messages that cross a cut are lost, or kept until it heals,
as the weather has it. `veil` hides nodes from each other for good: what keeps twins apart.
"""

from __future__ import annotations

from typing import Any, NamedTuple, Protocol

from sim_world import NS_PER_MS, World

from node.consensus.messages import Certified, Proposal, Vote, VoteType


class Weather(NamedTuple):
    """How the network behaves; times in milliseconds, chances from 0 to 1."""

    name: str
    loss: float = 0.0
    doubled: float = 0.0
    least_ms: float = 1.0
    most_ms: float = 20.0
    late: float = 0.0  # this part of the messages takes up to `late_ms`
    late_ms: float = 0.0
    holds: bool = False  # a cut delays what crosses it instead of losing it
    blind: float = 0.0  # this part of (receiver, height, round, kind of message) is hardly heard
    # blind spots are chosen so that one node decides without the others, which is then cut off
    treacherous: bool = False


CALM = Weather("calm")
STORMS = (
    CALM,
    Weather("steady", 0.01, 0.01, 5, 80, 0.02, 1500),
    Weather("lossy", 0.15, 0.05, 5, 120, 0.05, 2500),
    Weather("half lost", 0.5, 0.1, 5, 200, 0.1, 3000),
    Weather("slow", 0.0, 0.02, 50, 900, 0.1, 4000, holds=True),
    Weather("jumbled", 0.05, 0.3, 1, 700, 0.2, 6000, holds=True),
    Weather("edge of time", 0.02, 0.0, 200, 500, 0.3, 1500),
    Weather("blind spots", 0.0, 0.02, 1, 60, blind=0.3),
    Weather("half blind", 0.02, 0.02, 1, 150, 0.05, 3000, blind=0.6),
    Weather("treacherous", 0.0, 0.0, 1, 60, blind=0.5, treacherous=True),
    Weather("treacherous storm", 0.03, 0.05, 1, 200, 0.1, 2500, blind=0.8, treacherous=True),
)
NOBODY, ANYBODY = -1, -2
BLIND_NS = 2500 * NS_PER_MS
SPOTS = 2**64
BLIND_LOSS = 0.9


class Receiver(Protocol):
    """Who has a place in the network."""

    def receive(self, source: int, kind: str, content: Any) -> None:
        """Take what arrived from a node."""


class Network:
    """All links between `n_nodes` nodes, which `join` one by one."""

    def __init__(self, world: World, n_nodes: int) -> None:
        self._world = world
        self.weather = CALM
        self.nodes: list[Receiver] = []
        self.n_nodes = n_nodes
        self.cut = [[False] * n_nodes for _ in range(n_nodes)]
        self.veiled = [[False] * n_nodes for _ in range(n_nodes)]
        self.muted_until_ns = [0] * n_nodes
        self._disturbed = False  # something is cut or muted
        self._held: list[tuple[int, int, str, Any]] = []

    def join(self, node: Receiver) -> int:
        """Give a node its place."""
        self.nodes.append(node)
        return len(self.nodes) - 1

    def send(self, source: int, target: int, kind: str, content: Any) -> None:
        """Send something, or try to."""
        if self.veiled[source][target]:
            return
        weather = self.weather
        if self.cut[source][target]:
            if weather.holds and len(self._held) < 2000:
                self._held.append((source, target, kind, content))
            return
        world = self._world
        random = world.rng.random
        luck = random()
        if luck < weather.loss:
            return
        if weather.blind and kind == "message" and self._is_blind(source, target, content[0]):
            return
        if self.muted_until_ns[source] > world.now_ns or self.muted_until_ns[target] > world.now_ns:
            return
        copies = 2 if weather.doubled and random() < weather.doubled else 1
        for _ in range(copies):
            delay_ms = weather.least_ms + (weather.most_ms - weather.least_ms) * random()
            if weather.late and random() < weather.late:
                delay_ms += weather.late_ms * random()
            receive = self.nodes[target].receive
            world.after(int(delay_ms * NS_PER_MS), receive, source, kind, content)

    def to_all(self, source: int, kind: str, content: Any) -> None:
        """Send something to every other node."""
        if self.weather is CALM and not self._disturbed:
            self._to_all_in_calm(source, kind, content)
            return
        for target in range(self.n_nodes):
            if target != source:
                self.send(source, target, kind, content)

    def _to_all_in_calm(self, source: int, kind: str, content: Any) -> None:
        """The same with less to ask: half of all that is sent."""
        world = self._world
        random, after = world.rng.random, world.after
        least_ns = int(CALM.least_ms * NS_PER_MS)
        range_ns = int(CALM.most_ms * NS_PER_MS) - least_ns
        veiled = self.veiled[source]
        for target, node in enumerate(self.nodes):
            if target != source and not veiled[target]:
                after(least_ns + int(range_ns * random()), node.receive, source, kind, content)

    def _is_blind(
        self, source: int, target: int, message: Proposal | Vote | Certified | None
    ) -> bool:
        """Whether a message falls into a blind spot: what makes some nodes lock and others not."""
        if message is None:
            return False
        weather = self.weather
        random = self._world.rng.random
        if isinstance(message, Certified):
            return random() < weather.blind
        height, round_ = message.height, message.round
        if not weather.treacherous:
            kind = int(message.type) if isinstance(message, Vote) else 0
            hard_to_hear = self._spot(target, height, round_, kind) < weather.blind * SPOTS
            return hard_to_hear and random() < BLIND_LOSS
        if isinstance(message, Proposal) or message.value is None or random() >= BLIND_LOSS:
            return False
        insider = self.insider(height, round_)
        if source != insider and insider != ANYBODY:
            return False
        if message.type is VoteType.PREVOTE:
            return self.in_the_dark(target, height, round_)
        return insider != ANYBODY or random() < 0.5

    def insider(self, height: int, round_: int) -> int:
        """Treachery: whose precommit in a round nobody hears, so that it may be alone in knowing
        that a block is decided. `ANYBODY`: a polka that some do not hear of, and few precommits.
        """
        spot = self._spot(height, round_)
        kind = spot >> 32 & 3
        return spot % self.n_nodes if kind > 1 else ANYBODY if kind else NOBODY

    def in_the_dark(self, node: int, height: int, round_: int) -> bool:
        """Treachery: whether a node shall not learn of a round's polka."""
        return self._spot(node, height, round_) < 0.4 * SPOTS

    def _spot(self, *place: int) -> int:
        """Bits that belong to a place, for a while; of integers, so the same in every process."""
        while_ = self._world.now_ns // BLIND_NS  # what is said again later can be heard
        return hash((self._world.seed, while_, *place)) * 0x9E3779B97F4A7C15 % SPOTS

    # -- faults ----------------------------------------------------------------------------------

    def part(self, sides: list[int], one_way: bool) -> None:
        """Cut every link between nodes of different sides; `one_way`: only from lower to higher."""
        self._disturbed = True
        for source in range(self.n_nodes):
            for target in range(self.n_nodes):
                here, there = sides[source], sides[target]
                self.cut[source][target] = here < there if one_way else here != there

    def mute(self, node: int, until_ns: int) -> None:
        """Let nothing through from and to a node for a while."""
        self._disturbed = True
        self.muted_until_ns[node] = until_ns

    def heal(self) -> None:
        """Mend every cut; what was held goes on its way."""
        for row in self.cut:
            row[:] = [False] * self.n_nodes
        self.muted_until_ns = [0] * self.n_nodes
        self._disturbed = False
        held, self._held = self._held, []
        for each in held:
            self.send(*each)
