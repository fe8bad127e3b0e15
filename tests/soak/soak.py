"""A network under load that is killed, frozen and cut apart for as long as one likes.

    python tests/soak/soak.py --minutes 10 [--seed N] [--rate PAYMENTS_PER_S]

Four validators behind links of their own (`tests/support/devnet.py`), each with a load generator
that repeats what is not answered; 100 payments a second, all together, for 10 minutes or
longer. First all nodes are killed at once, one is frozen until the others give it up, and one has a
wrong clock; then every few seconds one fault: SIGKILL to one node, two or all but one, SIGSTOP,
links cut, swallowed or slow, a clock set wrong; which, whom and when, the seed decides, and which
node is not killed again after the beginning, so that its life is long.

It passes if after each fault the network decides a block within a minute, and in the end every
answer was right; every payment is final on every node; the chains are one, and `timed check` has
nothing to say; worth is conserved; nobody's signatures contradict each other and nobody is accused
of a lie; of every stage a life was judged, for 90 seconds or more after it was warm, and none of
those judged had grown in memory or descriptors. One line tells the result; what failed makes the
exit status 1 and leaves the directory.
"""

from __future__ import annotations

import argparse
import math
import shutil
import statistics
import sys
import tempfile
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass, field
from itertools import combinations
from pathlib import Path
from random import Random
from typing import NamedTuple

HERE = Path(__file__).resolve().parent
for place in (HERE.parent / "support", HERE.parent.parent):
    if str(place) not in sys.path:
        sys.path.insert(0, str(place))

import psutil  # noqa: E402
from devnet import Devnet  # noqa: E402
from sites import site  # noqa: E402

NODES = 4
PATIENCE_S = 60.0  # for a block after a fault, and for all to be level in the end
DRAIN_S = 120.0  # for the load, which was cut off for as long as the last fault
SAMPLE_S = 2.0
FAULT_S = (0.5, 6.0)  # how long most faults last
GONE_S = (28.0, 32.0)  # longer than a silent peer is kept (`HubSettings.gone_after_ns`)
SKEWED_S = (10.0, 20.0)  # what it takes to start, to propose and to be believed or not
SKEWS_S = (-10, 10, 60)  # by which a clock is wrong
# In less, no life is judged that is past its first growth: consensus grew by 30 MiB in its first
# two minutes, and by 4 MiB a minute still in its fourth.
MIN_MINUTES = 10.0
MIB = 1 << 20

# A life that is judged: its first third and WARM_S at least are left out, in which caches, tables
# and pools fill; of the rest a robust slope is taken.
WARM_S = 60.0
JUDGED_S = 90.0
# The blocks that consensus keeps for peers have a bound that takes longer to reach: at 100 payments
# a second they grow by 2.2 MiB a minute. Its descriptors are tables of the database, until merged.
MOST_RSS_PER_MIN = {"consensus": 4 * MIB, "net": 2 * MIB}
MOST_RSS_PER_MIN_ELSE = MIB // 2
MOST_DESCRIPTORS_PER_MIN = {"consensus": 3.0}
MOST_DESCRIPTORS_PER_MIN_ELSE = 1.0

STAGES = ("net", "verify", "consensus", "sign", "rpc")
BLOCKS = {"pace_ms": 100, "empty_pace_s": 1}
STORE = {"cache_mb": 8, "write_buffer_mb": 4}  # soon full: what grows then is no cache
LOAD = ("--resubmit", "--allow-shedding", "--answer-timeout", "3", "--drain-timeout", f"{DRAIN_S}")


class Failed(Exception):
    """What a soak is there to find."""


class Sample(NamedTuple):
    """One look at a process."""

    at_s: float
    rss: int
    descriptors: int


class Life(NamedTuple):
    """One process in one life of its node."""

    node: int
    name: str
    pid: int


@dataclass
class Soak:
    """One run: the network, what was done to it, and what was seen."""

    net: Devnet
    rng: Random
    witness: int  # is never killed but at the beginning, so that its life is long
    began_s: float = field(default_factory=time.monotonic)
    faults: Counter[str] = field(default_factory=Counter)
    samples: dict[Life, list[Sample]] = field(default_factory=lambda: defaultdict(list))
    sampled_s: float = 0.0
    say: Callable[[str], None] = lambda _: None

    # -- faults ----------------------------------------------------------------------------------

    def begin(self) -> None:
        """Do what each soak must have seen, the witness' death first."""
        for fault in (self.kill_all, self.freeze_long, self.skew):
            self.harm(fault)

    def go_on(self) -> None:
        """Do something that the seed chooses."""
        faults = (
            *((self.kill, 6), (self.kill_two, 1), (self.kill_all_but_one, 1), (self.freeze, 3)),
            *((self.part, 2), (self.swallow, 2), (self.slow, 1), (self.skew, 1)),
        )
        (fault,) = self.rng.choices(*zip(*faults, strict=True))
        self.harm(fault)

    def harm(self, fault: Callable[[], AbstractContextManager[object]]) -> None:
        """Do something bad for a while, undo it, and see that blocks are decided."""
        name = fault.__name__
        self.faults[name] += 1
        lasts_s = {"freeze_long": GONE_S, "skew": SKEWED_S}.get(name, FAULT_S)
        with fault() as whom:
            self.say(f"{name} {whom}")
            self.rest(self.rng.uniform(*lasts_s))
        goal = max(self.heights()) + 1
        self.until(lambda: max(self.heights()) >= goal, f"a block after {name} {whom}")
        self.rest(self.rng.uniform(0.5, 4.0))

    @property
    def victims(self) -> list[int]:
        return [number for number in range(NODES) if number != self.witness]

    @contextmanager
    def kill(self) -> Iterator[object]:
        victim = self.rng.choice(self.victims)
        self.net.kill(victim)
        yield victim
        self.net.launch(victim)

    @contextmanager
    def kill_two(self) -> Iterator[object]:
        victims = self.rng.sample(self.victims, 2)
        self.net.kill(*victims)
        yield victims
        self.net.launch(*victims)

    @contextmanager
    def kill_all_but_one(self) -> Iterator[object]:
        self.net.kill(*self.victims)
        yield self.victims
        self.net.launch(*self.victims)

    @contextmanager
    def kill_all(self) -> Iterator[object]:
        self.net.kill(*range(NODES))
        yield list(range(NODES))
        self.net.launch()

    @contextmanager
    def skew(self) -> Iterator[object]:
        victim, skew_s = self.rng.choice(self.victims), self.rng.choice(SKEWS_S)
        self.net.kill(victim)
        with site("skew_site", TIMED_SKEW_S=str(skew_s)):
            self.net.launch(victim)
        yield f"{victim} by {skew_s} s"
        self.net.kill(victim)
        self.net.launch(victim)

    @contextmanager
    def freeze_long(self) -> Iterator[object]:
        victim = self.rng.choice(self.victims)  # the witness is to become warm meanwhile
        with self.frozen(victim):
            yield victim
            peers = [self.net.metrics(number, "net")["peers"]
                     for number in range(NODES) if number != victim]  # fmt: skip
            if max(peers) == NODES - 1:
                raise Failed(f"node {victim} was frozen, and is kept as a peer: {peers}")

    @contextmanager
    def freeze(self) -> Iterator[object]:
        with self.frozen(victim := self.rng.randrange(NODES)):
            yield victim

    @contextmanager
    def frozen(self, victim: int) -> Iterator[None]:
        self.until(self.net.nodes[victim].ready, f"node {victim} is ready")
        self.net.freeze(victim)
        yield
        self.net.thaw(victim)

    @contextmanager
    def part(self) -> Iterator[object]:
        groups = self.groups()
        self.net.part(*groups)
        yield groups
        self.net.heal()

    @contextmanager
    def swallow(self) -> Iterator[object]:
        groups = self.groups()
        self.net.swallow(*groups)
        yield groups
        self.net.heal()

    @contextmanager
    def slow(self) -> Iterator[object]:
        delay_ms = self.rng.uniform(20, 300)
        self.net.slow(delay_ms)
        yield f"{delay_ms:.0f} ms"
        self.net.heal()

    def groups(self) -> tuple[list[int], list[int]]:
        everybody = self.rng.sample(range(NODES), NODES)
        cut = self.rng.randint(1, NODES - 1)
        return everybody[:cut], everybody[cut:]

    # -- what is seen ----------------------------------------------------------------------------

    def heights(self) -> list[int]:
        """Of nodes that answer, -1 of the others."""
        found = []
        for node in self.net.nodes:
            if (how := node.ended()) is not None:
                raise Failed(f"{node.place.name} {how}")
            found.append(self.net._shown_height(node.place.number) if node.running else -1)
        return found

    def until(self, condition: Callable[[], object], what: str) -> None:
        end_s = time.monotonic() + PATIENCE_S
        while not condition():
            if time.monotonic() > end_s:
                raise Failed(f"not within {PATIENCE_S:.0f} s: {what}; heights {self.heights()}")
            self.rest(0.1)

    def rest(self, seconds: float) -> None:
        """Let time pass, with an eye on the processes."""
        end_s = time.monotonic() + seconds
        while (now_s := time.monotonic()) < end_s:
            if now_s >= self.sampled_s + SAMPLE_S:
                self.sampled_s = now_s
                self.sample(now_s)
            time.sleep(min(0.1, max(0.0, end_s - time.monotonic())))

    def sample(self, now_s: float) -> None:
        for number, node in enumerate(self.net.nodes):
            if not node.running:
                continue
            try:
                supervisor = psutil.Process(node.pid)
                for process in (supervisor, *supervisor.children()):
                    name = process.name().removeprefix("timed-")
                    look = Sample(now_s, process.memory_info().rss, process.num_fds())
                    self.samples[Life(number, name, process.pid)].append(look)
            except psutil.Error:  # it has just ended
                continue

    # -- judgement -------------------------------------------------------------------------------

    def judge_growth(self) -> list[float]:
        """Check the long lives, of which there must be one of every stage; returns by how many
        bytes a minute each has grown.
        """
        grown = []
        unjudged = set(STAGES)
        for life, samples in self.samples.items():
            end_s = samples[-1].at_s
            first_s = samples[0].at_s
            from_s = first_s + max(WARM_S, (end_s - first_s) / 3)
            if end_s - from_s < JUDGED_S:
                continue
            rest = [each for each in samples if each.at_s >= from_s]
            rss = slope_per_min([(each.at_s, each.rss) for each in rest])
            most = MOST_RSS_PER_MIN.get(life.name, MOST_RSS_PER_MIN_ELSE)
            what = f"node {life.node} {life.name} over {end_s - from_s:.0f} s"
            grown.append(rss)
            unjudged.discard(life.name.partition("-")[0])
            if rss > most:
                raise Failed(f"memory grows by {rss / MIB:.1f} MiB a minute: {what}")
            descriptors = slope_per_min([(each.at_s, each.descriptors) for each in rest])
            if descriptors > MOST_DESCRIPTORS_PER_MIN.get(life.name, MOST_DESCRIPTORS_PER_MIN_ELSE):
                raise Failed(f"descriptors grow by {descriptors:.1f} a minute: {what}")
        if unjudged:
            raise Failed(f"no life long enough to be judged: {sorted(unjudged)}")
        return grown


def slope_per_min(points: list[tuple[float, int]]) -> float:
    """The median of the slopes between points that lie half of the time apart (Theil and Sen)."""
    least_s = (points[-1][0] - points[0][0]) / 2
    thinned = points[:: max(1, len(points) // 200)]
    slopes = [
        (later - earlier) / (to_s - from_s)
        for (from_s, earlier), (to_s, later) in combinations(thinned, 2)
        if to_s - from_s >= least_s
    ]
    return 60 * statistics.median(slopes)


def soak(root: Path, minutes: float, seed: int, rate: float, say: Callable[[str], None]) -> str:
    """Run; returns what there is to say about it. Raises Failed, or AssertionError."""
    count = math.ceil(rate * minutes * 60)
    with ExitStack() as stack:
        net = stack.enter_context(
            Devnet(
                *(root, NODES),
                transactions=count,
                seed=f"soak {seed}",
                proxied=True,
                block=BLOCKS,
                store=STORE,
            )
        )
        run = Soak(net, Random(seed), witness=seed % NODES, say=say)
        net.start()
        load = stack.enter_context(net.load(count, rate_per_s=rate, options=LOAD))
        for number in range(NODES):  # a load generator does not wait long for a node that is dead
            run.until(lambda n=number: net.metrics(n, "net")["requests"], f"load on node {number}")
        end_s = time.monotonic() + minutes * 60
        run.begin()
        while time.monotonic() < end_s:
            run.go_on()
        say("no more faults; the rest becomes final")
        for report in load.reports(minutes * 60 + 2 * DRAIN_S):
            if report.document is None or report.wrong:
                raise Failed(f"load on {report.share.place.name}: {report.line()}")
        run.until(lambda: len(set(run.heights())) == 1, "all are level")
        net.stop()
        height = net.compare_chains()
        net.check_value()
        net.judge_payments()
        signatures = net.judge_signatures()
        grown = run.judge_growth()
        net.check(run.witness)
    done = ", ".join(f"{number} x {name}" for name, number in sorted(run.faults.items()))
    return (
        f"{height:,} blocks, {count:,} payments final on {NODES} nodes, {signatures:,} signatures "
        f"without contradiction, {len(grown)} long lives, of which none grew by more than "
        f"{max(grown) / MIB:.1f} MiB a minute; {done}"
    )


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--minutes", type=float, default=10.0)
    parser.add_argument("--seed", type=int, default=None, help="default: another one each time")
    parser.add_argument("--rate", type=float, default=100.0, help="payments a second, all together")
    parser.add_argument("--verbose", action="store_true", help="tell each fault on standard error")
    asked = parser.parse_args()
    if asked.minutes < MIN_MINUTES:
        parser.error(f"--minutes {asked.minutes:g} is too short; give {MIN_MINUTES:g} or more")
    seed = time.time_ns() % 1_000_000 if asked.seed is None else asked.seed
    root = Path(tempfile.mkdtemp(prefix="timed-soak-"))
    began_s = time.monotonic()

    def say(what: str) -> None:
        if asked.verbose:
            print(f"{time.monotonic() - began_s:6.1f} s  {what}", file=sys.stderr, flush=True)

    head = f"soak {asked.minutes:g} min, seed {seed}"
    try:
        result = soak(root / "net", asked.minutes, seed, asked.rate, say)
    except KeyboardInterrupt:
        shutil.rmtree(root, ignore_errors=True)
        print(f"{head}: interrupted")
        return 130
    except (Failed, AssertionError) as failure:
        print(f"{head}: FAILED: {failure} (everything is in {root})", flush=True)
        return 1
    shutil.rmtree(root, ignore_errors=True)
    print(f"{head}: good: {result}", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
