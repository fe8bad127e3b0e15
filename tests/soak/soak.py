"""A network under load that is killed, frozen and cut apart for as long as one likes.

    python tests/soak/soak.py --minutes 10 [--seed N] [--rate PAYMENTS_PER_S]

Four validators behind links of their own (`tests/support/devnet.py`), each with a load generator
that repeats what is not answered. Every few seconds one fault: SIGKILL to a random node, SIGSTOP,
links cut, swallowed or slow; which and when, the seed decides. After each fault the network must
decide a block, and in the end: every payment is final on every node, the chains are one, worth is
conserved, nobody's signatures contradict each other, and in the long lives of nodes neither memory
nor descriptors have grown. One line tells the result; what failed makes the exit status 1 and
leaves the directory.
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
from contextlib import ExitStack, contextmanager
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

NODES = 4
WITNESS = 0  # is never killed, so that one life is as long as the soak; frozen and cut off it is
PATIENCE_S = 60.0  # for a block after a fault, and for all to be level in the end
DRAIN_S = 120.0  # for the load, which was cut off for as long as the last fault
SAMPLE_S = 2.0
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
    began_s: float = field(default_factory=time.monotonic)
    faults: Counter[str] = field(default_factory=Counter)
    samples: dict[Life, list[Sample]] = field(default_factory=lambda: defaultdict(list))
    sampled_s: float = 0.0
    say: Callable[[str], None] = lambda _: None

    # -- faults ----------------------------------------------------------------------------------

    def harm(self) -> None:
        """Do something bad for a while, undo it, and see that blocks are decided."""
        rng = self.rng
        fault = rng.choices(
            (self.kill, self.kill_two, self.freeze, self.part, self.swallow, self.slow),
            (6, 1, 3, 2, 2, 1),
        )[0]
        name = fault.__name__
        self.faults[name] += 1
        with fault() as whom:
            self.say(f"{name} {whom}")
            self.rest(rng.uniform(0.5, 6.0))
        goal = max(self.heights()) + 1
        self.until(lambda: max(self.heights()) >= goal, f"a block after {name} {whom}")
        self.rest(rng.uniform(0.5, 4.0))

    @contextmanager
    def kill(self) -> Iterator[object]:
        victim = self.rng.choice([n for n in range(NODES) if n != WITNESS])
        self.net.kill(victim)
        yield victim
        self.net.launch(victim)

    @contextmanager
    def kill_two(self) -> Iterator[object]:
        victims = self.rng.sample([n for n in range(NODES) if n != WITNESS], 2)
        self.net.kill(*victims)
        yield victims
        self.net.launch(*victims)

    @contextmanager
    def freeze(self) -> Iterator[object]:
        victim = self.rng.randrange(NODES)
        self.until(self.net.nodes[victim].ready, f"node {victim} is ready")
        self.net.freeze(victim)
        yield victim
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
        """Check the long lives; returns by how many bytes a minute each has grown."""
        grown = []
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
            if rss > most:
                raise Failed(f"memory grows by {rss / MIB:.1f} MiB a minute: {what}")
            descriptors = slope_per_min([(each.at_s, each.descriptors) for each in rest])
            if descriptors > MOST_DESCRIPTORS_PER_MIN.get(life.name, MOST_DESCRIPTORS_PER_MIN_ELSE):
                raise Failed(f"descriptors grow by {descriptors:.1f} a minute: {what}")
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
        run = Soak(net, Random(seed), say=say)
        net.start()
        load = stack.enter_context(net.load(count, rate_per_s=rate, options=LOAD))
        for number in range(NODES):  # a load generator does not wait long for a node that is dead
            run.until(lambda n=number: net.metrics(n, "net")["requests"], f"load on node {number}")
        end_s = time.monotonic() + minutes * 60
        while time.monotonic() < end_s:
            run.harm()
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
        net.check(WITNESS)
    done = ", ".join(f"{number} x {name}" for name, number in sorted(run.faults.items()))
    return (
        f"{height:,} blocks, {count:,} payments final on {NODES} nodes, {signatures:,} signatures "
        f"without contradiction, {len(grown)} long lives, of which none grew by more than "
        f"{max(grown, default=0) / MIB:.1f} MiB a minute; {done}"
    )


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--minutes", type=float, default=10.0)
    parser.add_argument("--seed", type=int, default=None, help="default: another one each time")
    parser.add_argument("--rate", type=float, default=100.0, help="payments a second, all together")
    parser.add_argument("--verbose", action="store_true", help="tell each fault on standard error")
    asked = parser.parse_args()
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
