"""A simulated node: the real agreement, log and signer, with a simulated machine around them.

Messages come from the network and go there; timers, the signer's answers, the disk's syncs and the
mempool's work are events of the world. The node and its signer are two processes with a disk each.
A process is killed (what it wrote stays) or its machine loses power (what was not synced may go),
between two events or in the middle of a disk operation; it starts again from what its disk holds.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from random import Random
from typing import Any

from sim_blocks import BlockStore, body_id, height_of, is_valid, make_body
from sim_checks import Checks, Violation
from sim_disk import PowerCut, SimDisk, When
from sim_network import Network
from sim_world import GENESIS_ID, MAX_REMEMBERED, NS_PER_MS, SALT, Keys, World, short, told

from node.agreement import Agreement
from node.consensus import wire
from node.consensus.core import Core, Timeouts
from node.consensus.effects import Commit, Halt, ReportMisbehaviour
from node.consensus.messages import (
    BlockBuilt,
    BlockJudged,
    BodyDurable,
    Certified,
    Committed,
    Input,
    Proposal,
    Timer,
    TransactionsWaiting,
    Vote,
)
from node.errors import NodeError
from node.signer import Signer, SigningRefused, closed_up_to, write_state
from node.wal import Wal

MAX_DECISIONS = 16  # served at a time, with their bodies
ASK_AGAIN_MS = 200
FETCH_AGAIN_MS = (60, 160)
FETCH_LATER_MS = (400, 800)
FETCH_QUICKLY = 8  # times
Parcel = tuple[Proposal | Vote | Certified | None, bool]  # as decoded, and whether it is genuine


class Killed(BaseException):
    """The process is killed in the middle of something; its disk stays as it is."""


class Clock:
    """A machine's monotonic clock: minutes off, and too fast or too slow by parts per million."""

    def __init__(self, offset_ns: int, drift_ppm: int) -> None:
        self.offset_ns = offset_ns
        self.drift_ppm = drift_ppm

    def read(self, now_ns: int) -> int:
        return self.offset_ns + now_ns + now_ns * self.drift_ppm // 1_000_000

    def when(self, reading_ns: int) -> int:
        """The world's time at which this clock shows at least that."""
        return (reading_ns - self.offset_ns) * 1_000_000 // (1_000_000 + self.drift_ppm) + 2


class Post:
    """What becomes of messages on their way: through the wire format, and judged by the verifiers.

    Every receiver gets the same bytes, so they are decoded and judged once.
    """

    def __init__(self, keys: Keys) -> None:
        self._keys = keys
        self._known: dict[Proposal | Vote | Certified, Parcel] = {}

    def parcel(self, message: Proposal | Vote | Certified) -> Parcel:
        """What arrives of a message."""
        known = self._known.get(message)
        if known is None:
            if len(self._known) >= MAX_REMEMBERED:
                self._known.clear()
            known = self._known[message] = self._pack(message)
        return known

    def _pack(self, message: Proposal | Vote | Certified) -> Parcel:
        try:
            decoded = wire.decode(wire.encode(message))
        except wire.WireError:
            return None, False
        assert isinstance(decoded, Proposal | Vote | Certified)
        return decoded, self._keys.are_good(decoded)


def fail_at_operation(disk: SimDisk, ahead: int, kill: bool, rng: Random) -> None:
    """Have a process die in the disk operation that lies so many ahead."""
    number = disk.operations + ahead
    when = rng.choice((When.BEFORE, When.TORN, When.AFTER))

    def die(at: int, _name: str) -> None:
        if at >= number:
            if kill:
                raise Killed
            raise PowerCut(when)

    disk.on_operation = die


class Link:
    """One direction between a node and its signer: slow at times, never out of order."""

    def __init__(self, world: World) -> None:
        self._world = world
        self._last_ns = 0

    def send(self, do: Callable[..., None], *arguments: Any) -> None:
        world = self._world
        slow = world.rng.random() < 0.02 and not world.all_is_well
        delay = world.ms(10, 800) if slow else world.ms(0, 6)
        self._last_ns = max(self._last_ns, world.now_ns + delay)
        world.at(self._last_ns, do, *arguments)


class SignerProcess:
    """The only holder of a key, in a process of its own."""

    def __init__(self, world: World, keys: Keys, checks: Checks, validator: int) -> None:
        self._world = world
        self._keys = keys
        self._checks = checks
        self._validator = validator
        self.disk = new_signer_disk(keys, validator)
        self.up = False
        self._signer: Signer | None = None
        self.on_start: list[Callable[[], None]] = []
        self.name = f"signer-{validator}"
        self._links = (Link(world), Link(world))
        self._life = 1
        self._silenced = 0  # the last life whose answers do not arrive any more

    def start(self) -> None:
        """Start, unless it runs, and tell the node."""
        if self.up:
            return
        try:
            self._signer = open_signer(self.disk, self._keys, self._validator)
        except (PowerCut, Killed) as death:
            self._died(isinstance(death, PowerCut))
            return
        except NodeError as error:
            raise Violation(f"{self.name} does not start: {error}") from error
        self.up = True
        if self._world.trace is not None:
            self._world.say(self.name, "starts")
        for told_of_it in self.on_start:
            self._world.after(self._world.ms(0, 5), told_of_it)

    def stop(self, power: bool) -> None:
        """Die between two events."""
        if self.up:
            self._died(power)
        elif power:
            self.disk = self.disk.crash(self._world.rng)

    def ask(self, message: Proposal | Vote, answer: Callable[..., None], life: int) -> None:
        """Send a request; the answer goes back to that life of the node."""
        self._links[0].send(self._take, message, answer, life)

    def _take(self, message: Proposal | Vote, answer: Callable[..., None], life: int) -> None:
        if not self.up:
            return
        assert self._signer is not None
        world = self._world
        try:
            signature = self._signer.sign(message)
        except (PowerCut, Killed) as death:
            self._died(isinstance(death, PowerCut))
            return
        except SigningRefused as refusal:
            world.seen[f"signer refuses, {refusal.reason.value}"] += 1
            self._checks.refused(self._validator, message, refusal)
            if world.trace is not None:
                world.say(self.name, f"refuses {told(message)}: {refusal}")
            self._answer(answer, life, message, None)
            return
        self._checks.released(self._validator, message, self.disk, signature)
        self._answer(answer, life, message, signature)

    def _answer(self, answer: Callable[..., None], *content: Any) -> None:
        self._links[1].send(self._deliver, self._life, answer, content)

    def _deliver(self, life: int, answer: Callable[..., None], content: tuple[Any, ...]) -> None:
        if life > self._silenced:
            answer(*content)

    def _died(self, power: bool) -> None:
        world = self._world
        world.seen["signer lost power" if power else "signer killed"] += 1
        if world.trace is not None:
            world.say(self.name, "loses power" if power else "is killed")
        self.up = False
        self._signer = None
        if world.rng.random() < 0.5:  # what it had said and was still on its way is lost
            self._silenced = self._life
        self._life += 1
        self.disk.on_operation = None
        if power:
            self.disk = self.disk.crash(world.rng)
        world.after(world.ms(20, 1500), self.start)


class DoubleSigner:
    """The signer of a twin: it signs whatever it is asked to."""

    def __init__(self, world: World, keys: Keys, validator: int) -> None:
        self._world = world
        self._keys = keys
        self._validator = validator
        self.up = True

    def start(self) -> None:
        """Nothing to start."""

    def stop(self, power: bool) -> None:
        """Nothing to lose."""

    def ask(self, message: Proposal | Vote, answer: Callable[..., None], life: int) -> None:
        """Sign it."""
        signature = self._keys.sign(self._validator, message)
        self._world.after(self._world.ms(0, 8), answer, life, message, signature)


class WatchedWal(Wal):
    """The real log; what it recovers is kept for the checks, and its cuts are counted."""

    recovered: list[Input]
    seen: Counter[str]

    def recover(self, height: int) -> list[Input]:
        self.recovered = super().recover(height)
        return self.recovered

    def begin_height(self, height: int) -> None:
        before = self._opened().size_bytes
        super().begin_height(height)
        if self._opened().size_bytes < before:
            self.seen["log cut"] += 1


class WatchedAgreement(Agreement):
    """The real driver; it tells when a timer was set, so that its deadlines are asked seldom."""

    timers_set = True

    def _set_timer(self, timer: Timer, delay_ms: int) -> None:
        self.timers_set = True
        super()._set_timer(timer, delay_ms)


class SimNode:
    """One node of the network, honest or a twin; `validator` is None for a follower."""

    def __init__(
        self,
        world: World,
        network: Network,
        keys: Keys,
        post: Post,
        checks: Checks,
        *,
        validator: int | None,
        honest: bool,
        timeouts: Timeouts,
        traffic_ms: int,
        keep_bytes: int,
        asks_when_behind: bool,
    ) -> None:
        self._world = world
        self._network = network
        self._keys = keys
        self._post = post
        self.checks = checks
        self.validator = validator
        self.honest = honest
        self._timeouts = timeouts
        self._traffic_ms = traffic_ms
        self._keep_bytes = keep_bytes
        self._asks_when_behind = asks_when_behind
        self.index = network.join(self)
        self.name = f"node-{self.index}" + ("" if honest else "*")
        self.disk = SimDisk()
        self._clock = self._new_clock()
        self.signer: SignerProcess | DoubleSigner | None = None
        if validator is not None:
            if honest:
                self.signer = SignerProcess(world, keys, checks, validator)
                self.signer.on_start.append(self._ask_signer)
            else:
                self.signer = DoubleSigner(world, keys, validator)
        self.nodes_of: Sequence[Sequence[int]] = ()  # validator -> its places in the network
        self.life = 0  # grows with every start and every death
        self.up = False
        self.agreement: WatchedAgreement | None = None
        self.core: Core = Core(keys.validators, validator, timeouts)
        self.store: BlockStore | None = None
        self.sent: dict[tuple[int, int, int], Proposal | Vote] = {}  # of the latest height
        self._forget()

    def _forget(self) -> None:
        """What a process that died had in memory."""
        self._wake_ns: int | None = None
        self._ask_next_ns = 0
        self._bodies: dict[bytes, bytes] = {}
        self._to_judge: dict[bytes, int] = {}
        self._to_persist: dict[bytes, int] = {}
        self._fetching: set[bytes] = set()
        self._hints: dict[bytes, list[int]] = {}
        self._signing: dict[tuple[int, int, int], Proposal | Vote] = {}

    # -- life and death --------------------------------------------------------------------------

    def start(self) -> None:
        """Start from what the disk holds, unless it runs."""
        if self.up:
            return
        self.up = True
        self.life += 1
        self._forget()
        if self._world.trace is not None:
            self._world.say(self.name, "starts")
        self._step(self._start)

    def _start(self) -> None:
        self.store = store = BlockStore(self.disk)
        core = Core(self._keys.validators, self.validator, self._timeouts)
        wal = WatchedWal(self.disk, GENESIS_ID, keep_bytes=self._keep_bytes)
        wal.seen = self._world.seen
        self.core = core
        self.agreement = WatchedAgreement(core, wal, self)
        try:
            self.agreement.start(store.height, self._clock.read(self._world.now_ns))
        except NodeError as error:
            raise Violation(f"{self.name} does not start: {error}") from error
        if wal.recovered:
            self._world.seen["log recovered"] += 1
        if self.honest:
            self.checks.started(self, wal.recovered)
        if self._world.trace is not None:
            state = f"at {core.height}/{core.round} after {len(wal.recovered)} records"
            self._world.say(self.name, state)

    def stop(self, power: bool) -> None:
        """Die between two events."""
        if self.up:
            self._died(power)
        elif power:
            self.disk = self.disk.crash(self._world.rng)

    def _died(self, power: bool) -> None:
        world = self._world
        world.seen["lost power" if power else "killed"] += 1
        if world.trace is not None:
            world.say(self.name, "loses power" if power else "is killed")
        self.up = False
        self.life += 1
        self.agreement = None
        self.store = None
        self.disk.on_operation = None
        if power:
            self.disk = self.disk.crash(world.rng)
            self._clock = self._new_clock()
        world.after(world.ms(20, 4000), self.start)

    def _new_clock(self) -> Clock:
        rng = self._world.rng
        return Clock(int(rng.random() * 600e9), rng.randint(-10_000, 10_000))

    def _step(self, do: Callable[..., None], *arguments: Any) -> None:
        """Run a piece of the process; it can die in it."""
        try:
            do(*arguments)
        except PowerCut:
            self._died(True)
        except Killed:
            self._died(False)
        else:
            if self.honest:
                self.checks.stepped(self)
            agreement = self.agreement
            if agreement is not None and agreement.timers_set:
                agreement.timers_set = False
                deadline = agreement.deadline_ns()
                if deadline is not None:
                    wake = self._clock.when(deadline)
                    if self._wake_ns is None or wake < self._wake_ns:
                        self._wake_ns = wake
                        self._world.at(max(wake, self._world.now_ns), self._wake, self.life, wake)

    def _later(self, delay_ns: int, do: Callable[..., None], *arguments: Any) -> None:
        """Have something done in this life of the process."""
        self._world.after(delay_ns, self._now, self.life, do, arguments)

    def _now(self, life: int, do: Callable[..., None], arguments: tuple[Any, ...]) -> None:
        if self.life == life:
            self._step(do, *arguments)

    def _wake(self, life: int, wake_ns: int) -> None:
        if self.life == life and self._wake_ns == wake_ns:
            self._wake_ns = None
            assert self.agreement is not None
            self.agreement.timers_set = True  # one less
            if self._world.trace is not None:
                self._world.say(self.name, f"wakes at {self.core.height}/{self.core.round}")
            self._step(self._elapse)

    def _elapse(self) -> None:
        assert self.agreement is not None
        self.agreement.elapse(self._clock.read(self._world.now_ns))

    def _tell(self, message: Input) -> None:
        assert self.agreement is not None
        world = self._world
        if world.trace is not None and not isinstance(message, Proposal | Vote | Certified):
            world.say(self.name, f"is told {message}")
        self.agreement.tell(message, self._clock.read(world.now_ns))

    # -- the network -----------------------------------------------------------------------------

    def receive(self, source: int, kind: str, content: Any) -> None:
        """Take what arrived from a node."""
        if not self.up:
            return
        if kind == "message":
            message, good = content
            if self._world.trace is not None:
                self._trace_arrival(source, message, good)
            if good:
                self._step(self._take_message, source, message)
            else:
                self._world.seen["forgery dropped"] += 1
        elif kind == "want":
            self._serve(source, content)
        elif kind == "body":
            self._step(self._take_body, content)
        elif kind == "decisions":
            self._step(self._take_decisions, source, content)
        elif kind == "behind":
            self._step(self._serve_decisions, source, content)

    def _trace_arrival(self, source: int, message: Any, good: bool) -> None:
        what = "an unreadable message" if message is None else told(message)
        by = f" by {message.validator}" if isinstance(message, Proposal | Vote) else ""
        forged = "" if good else " (forged, dropped)"
        self._world.say(self.name, f"gets {what}{by} from {source}{forged}")

    def _take_message(self, source: int, message: Proposal | Vote | Certified) -> None:
        if not isinstance(message, Certified) and message.height == self.core.height:
            value = message.value
            if value is not None and len(self._hints) < 64:
                who = self._hints.setdefault(value, [])
                if source not in who:
                    who.append(source)
        elif self._asks_when_behind:
            self._ask_when_behind(source, message)
        self._tell(message)

    def _ask_when_behind(self, source: int, message: Proposal | Vote | Certified) -> None:
        """Ask whoever is ahead for decisions: what catching up will do for those without a vote."""
        certified = isinstance(message, Certified)
        height = message.certificate.height if certified else message.height
        now_ns = self._world.now_ns
        if height > self.core.height and now_ns >= self._ask_next_ns:
            self._ask_next_ns = now_ns + ASK_AGAIN_MS * NS_PER_MS
            self._network.send(self.index, source, "behind", self.core.height)

    def _serve(self, source: int, value: bytes) -> None:
        body = self._body(value)
        if body is not None:
            self._network.send(self.index, source, "body", body)

    def _body(self, value: bytes) -> bytes | None:
        assert self.store is not None
        return self._bodies.get(value) or self.store.bodies.get(value)

    def _take_body(self, body: bytes) -> None:
        value = body_id(body)
        if value not in self._to_judge and value not in self._to_persist:
            return
        self._bodies[value] = body
        height = self._to_judge.pop(value, None)
        if height is not None:
            self._later(self._world.ms(0, 10), self._judge, height, value)
        height = self._to_persist.pop(value, None)
        if height is not None:
            self.persist_body(height, value)

    def _take_decisions(self, source: int, decisions: list[tuple[Parcel, bytes]]) -> None:
        assert self.store is not None
        for (message, good), body in decisions[:MAX_DECISIONS]:
            if self._world.trace is not None:
                self._trace_arrival(source, message, good)
            if not good or not isinstance(message, Certified):
                continue
            certificate = message.certificate
            if certificate.height <= self.store.height:
                continue
            if body_id(body) == certificate.value:
                self._bodies[certificate.value] = body
                if certificate.value in self._to_judge or certificate.value in self._to_persist:
                    self._take_body(body)
            self._world.seen["decision served"] += 1
            self._tell(message)

    # -- node.agreement.Host ---------------------------------------------------------------------

    def await_transactions(self, height: int) -> None:
        rng = self._world.rng
        busy = rng.random() < 0.5
        delay = 0 if busy else int(rng.expovariate(1 / self._traffic_ms) * NS_PER_MS)
        self._later(delay, self._tell, TransactionsWaiting(height))

    def build(self, height: int, round_: int) -> None:
        world = self._world
        slow = world.rng.random() < 0.1 and not world.all_is_well
        delay = world.ms(20, 3000) if slow else world.ms(1, 20)
        self._later(delay, self._build, height, round_)

    def _build(self, height: int, round_: int) -> None:
        assert self.store is not None
        if height != self.store.height + 1:
            return
        body = make_body(height, self.store.tip, self.index, self._world.serial(), True)
        value = body_id(body)
        self._bodies[value] = body
        self._tell(BlockBuilt(height, round_, value))

    def request_block(self, height: int, value: bytes) -> None:
        if self._body(value) is not None:
            self._later(self._world.ms(0, 10), self._judge, height, value)
        else:
            self._to_judge[value] = height
            self._fetch(height, value)

    def _judge(self, height: int, value: bytes) -> None:
        assert self.store is not None
        body = self._body(value)
        if height == self.store.height + 1 and body is not None:
            valid = is_valid(body, height, self.store.tip)
            if not valid:
                self._world.seen["invalid block judged"] += 1
            self._tell(BlockJudged(height, value, valid))

    def _fetch(self, height: int, value: bytes) -> None:
        if value not in self._fetching:
            self._fetching.add(value)
            self._fetch_again(height, value, 0)

    def _fetch_again(self, height: int, value: bytes, attempt: int) -> None:
        wanted = value in self._to_judge or value in self._to_persist
        if not wanted or height != self.core.height:
            self._fetching.discard(value)
            self._to_judge.pop(value, None)
            self._to_persist.pop(value, None)
            return
        likely = self._hints.get(value, ())
        for turn in (2 * attempt, 2 * attempt + 1):
            if turn < 2 * len(likely):
                target = likely[turn % len(likely)]
            else:
                target = self._world.rng.randrange(self._network.n_nodes)
            if target != self.index:
                self._network.send(self.index, target, "want", value)
        if attempt:
            self._world.seen["body fetched again"] += 1
        again_ms = FETCH_AGAIN_MS if attempt < FETCH_QUICKLY else FETCH_LATER_MS
        self._later(self._world.ms(*again_ms), self._fetch_again, height, value, attempt + 1)

    def persist_body(self, height: int, value: bytes) -> None:
        assert self.store is not None
        body = self._body(value)
        if body is None:  # it was judged in an earlier life, which never wrote it
            self._to_persist[value] = height
            self._fetch(height, value)
            return
        self.store.write_body(body)
        self._later(self._world.ms(0, 25), self._sync_body, height, value)

    def _sync_body(self, height: int, value: bytes) -> None:
        assert self.store is not None
        self.store.sync_body(value)
        self._tell(BodyDurable(height, value))

    def sign(self, message: Proposal | Vote) -> None:
        """Ask the signer, for one thing after the other: it goes forward only, and could not give
        an answer again that got lost if it had signed more since.
        """
        self._signing[slot(message)] = message
        if len(self._signing) == 1:
            self._ask_signer()

    def _ask_signer(self) -> None:
        """Ask for what has waited longest; also when the signer was restarted."""
        if self.up and self._signing:
            assert self.signer is not None
            message = next(iter(self._signing.values()))
            self.signer.ask(message, self._signer_answers, self.life)

    def _signer_answers(self, life: int, message: Proposal | Vote, signature: bytes | None) -> None:
        if life != self.life or self._signing.pop(slot(message), None) is None:
            return
        more = bool(self._signing)
        if signature is not None:
            self._step(self._signed, message, signature)
        if more and life == self.life:
            self._ask_signer()

    def _signed(self, message: Proposal | Vote, signature: bytes) -> None:
        assert self.agreement is not None
        signed: Proposal | Vote
        if isinstance(message, Vote):
            m = message
            signed = Vote(m.type, m.height, m.round, m.value, m.validator, signature)
        else:
            p = message
            signed = Proposal(
                p.height, p.round, p.value, p.valid_round, p.validator, p.polka, signature
            )
        self.agreement.signed(signed, self._clock.read(self._world.now_ns))

    def broadcast(self, message: Proposal | Vote | Certified) -> None:
        world = self._world
        own = not isinstance(message, Certified) and message.validator == self.validator
        if own and self.honest:
            self.checks.sent(self, message)
        if world.trace is not None:
            by = "" if own or isinstance(message, Certified) else f" by {message.validator}"
            world.say(self.name, f"sends {told(message)}{by}")
        self._network.to_all(self.index, "message", self._post.parcel(message))

    def send_decisions(self, validator: int, height: int) -> None:
        for target in self.nodes_of[validator]:
            self._serve_decisions(target, height)

    def _serve_decisions(self, target: int, height: int) -> None:
        assert self.store is not None
        decisions = [
            (self._post.parcel(each), self.store.bodies.get(each.certificate.value, b""))
            for each in self.store.chain[height - 1 : height - 1 + MAX_DECISIONS]
        ]
        if decisions:
            self._network.send(self.index, target, "decisions", decisions)

    def commit(self, decision: Commit) -> None:
        assert self.store is not None
        world = self._world
        if world.trace is not None:
            what = f"decides {short(decision.value)} at {decision.height}/{decision.round}"
            world.say(self.name, what)
        if self.honest:
            self.checks.decided(self, decision)
        record = Certified(decision.certificate)
        self.store.write_decision(record)
        self._later(world.ms(0, 40), self._sync_decision, record)

    def _sync_decision(self, decision: Certified) -> None:
        assert self.store is not None
        self.store.sync_decision(decision)
        self._hints.clear()
        self._signing.clear()
        height = decision.certificate.height
        for value in [each for each, body in self._bodies.items() if height_of(body) <= height]:
            del self._bodies[value]
        self._tell(Committed(height))

    def report(self, misbehaviour: ReportMisbehaviour) -> None:
        self._world.seen["evidence"] += 1
        if self._world.trace is not None:
            first, second = misbehaviour.first, misbehaviour.second
            what = f"{told(first)} and {told(second)}"
            self._world.say(self.name, f"accuses {first.validator}: {what}")
        if self.honest:
            self.checks.accused(self, misbehaviour)

    def halt(self, reason: Halt) -> None:
        if self._world.trace is not None:
            self._world.say(self.name, f"halts: {reason.reason}")
        if self.honest:
            raise Violation(f"{self.name} halts: {reason}")


def slot(message: Proposal | Vote) -> tuple[int, int, int]:
    """What an honest validator signs at most one thing for."""
    kind = 0 if isinstance(message, Proposal) else int(message.type)
    return message.height, message.round, kind


def new_signer_disk(keys: Keys, validator: int) -> SimDisk:
    """What `timed init` leaves: a state in which nothing is closed."""
    disk = SimDisk()
    write_state(disk, closed_up_to(0), SALT, keys.public[validator])
    return disk


def open_signer(disk: SimDisk, keys: Keys, validator: int) -> Signer:
    """The real signer on a simulated disk."""
    return Signer(disk, keys.signer_of(validator), SALT, keys.public[validator], validator)
