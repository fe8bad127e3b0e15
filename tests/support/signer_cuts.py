"""Cuts the signer's power, or kills it, at every durable operation, and watches what it releases.

A script of requests runs on a simulated disk until the cut; then the signer starts again on what
survived and is asked for what contradicts, what was asked before, and what comes next, twice over.
The `Witness` sees every signature that left, in all lives, and raises `Contradiction` if two of
them conflict or one goes back. `count_cut_points` counts the places of the first cut.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from hashlib import blake2b
from pathlib import Path
from random import Random

from node.consensus.messages import Proposal, Vote, VoteType
from node.consensus.signed_bytes import signed_bytes
from node.durable import Files
from node.signer import Refusal, Signer, SigningRefused, closed_up_to, write_state

sys.path.insert(0, str(Path(__file__).parents[1] / "sim"))

from sim_disk import PowerCut, SimDisk, When

SALT = b"salt of a chain."
PUBLIC_KEY = bytes(range(32))
ME = 3
LOSSES = 3  # ways in which the disk may come back from one cut
N_RANDOM_SCRIPTS = 84
SCRIPT_REQUESTS = 8

Message = Proposal | Vote
Place = tuple[int, int, int]
Script = Sequence[Message]
Wrap = Callable[[SimDisk], Files]


class Contradiction(AssertionError):
    """What a validator must never be caught at."""


class Killed(BaseException):
    """The process died; its files are as it left them."""


def fake_sign(content: bytes) -> bytes:
    return blake2b(content, digest_size=64, key=b"the key").digest()


@cache
def value(number: int) -> bytes:
    return blake2b(b"%d" % number, digest_size=32).digest()


@cache
def message_at(place: Place, number: int, *, validator: int = ME) -> Message:
    """The message of this height, round and step (0..2) for value `number`; of votes, 0 is nil."""
    height, round_, step = place
    if step == 0:
        return Proposal(height, round_, value(number), -1, validator)
    kind = VoteType.PREVOTE if step == 1 else VoteType.PRECOMMIT
    return Vote(kind, height, round_, value(number) if number else None, validator)


def place_of(message: Message) -> Place:
    step = 0 if isinstance(message, Proposal) else int(message.type)
    return message.height, message.round, step


class Witness:
    """Remembers every signature that was released."""

    def __init__(self) -> None:
        self.released: dict[Place, bytes] = {}
        self.last: Place = (0, 0, 0)

    def see(self, message: Message, signature: bytes) -> None:
        place, content = place_of(message), signed_bytes(message, SALT)
        if signature != fake_sign(content):
            raise Contradiction(f"a signature of something else than {message}")
        if self.released.setdefault(place, content) != content:
            raise Contradiction(f"two signatures at {place}")
        if place < self.last:
            raise Contradiction(f"{place} was signed after {self.last}")
        self.last = place


@dataclass
class Machine:
    """A disk, the signer on it, and the witness of all its lives."""

    disk: SimDisk
    witness: Witness
    wrap: Wrap
    signer: Signer | None = None

    def start(self) -> None:
        self.signer = Signer(self.wrap(self.disk), fake_sign, SALT, PUBLIC_KEY, ME)

    def ask(self, message: Message) -> bool:
        """Whether it was signed."""
        assert self.signer is not None
        try:
            signature = self.signer.sign(message)
        except SigningRefused as refusal:
            if refusal.reason in (Refusal.BACK, Refusal.CONFLICT, Refusal.SILENT):
                return False
            raise
        self.witness.see(message, signature)
        return True

    def run(self, requests: Script) -> bool:
        """Start and ask; False if it did not live to the end."""
        try:
            self.start()
            for message in requests:
                self.ask(message)
        except (PowerCut, Killed):
            return False
        return True

    def reboot(self, rng: Random) -> None:
        self.disk = self.disk.crash(rng)

    def kill_at(self, number: int) -> None:
        """Have the process die before this operation of the disk."""

        def die(at: int, name: str) -> None:
            if at == number:
                raise Killed

        self.disk.on_operation = die


def as_it_is(disk: SimDisk) -> Files:
    return disk


def fresh_disk(*, initialised: bool = True) -> SimDisk:
    disk = SimDisk()
    if initialised:
        write_state(disk, closed_up_to(0), SALT, PUBLIC_KEY)
    return disk


SCRIPTS: tuple[Script, ...] = (
    [message_at((height, 0, step), 1) for height in (1, 2, 3) for step in (0, 1, 2)],
    [message_at((1, round_, step), round_) for round_ in (0, 1, 2, 7) for step in (1, 2)],
    [message_at((1, 0, 2), 0), message_at((1, 0, 2), 1), message_at((1, 0, 2), 0)] * 2,
    [message_at((9, 3, 0), 1), message_at((1, 0, 0), 1), message_at((9, 3, 1), 1)],
)


def random_script(rng: Random) -> Script:
    """Mostly forward, sometimes the same again, something else there, or back."""
    script: list[Message] = []
    place: Place = (rng.randint(1, 3), 0, rng.randrange(3))
    for _ in range(SCRIPT_REQUESTS):
        script.append(message_at(place, rng.randrange(3)))
        luck = rng.random()
        height, round_, step = place
        if luck < 0.5:
            place = (height, round_, step + 1) if step < 2 else (height + 1, 0, 0)
        elif luck < 0.65:
            place = (height, round_ + rng.randint(1, 2), rng.randrange(3))
        elif luck < 0.75:
            place = (height + rng.randint(1, 2), 0, rng.randrange(3))
        elif luck < 0.85:
            place = (max(1, height - 1), round_, rng.randrange(3))
    return script


def scripts(seed: int) -> list[tuple[Script, bool]]:
    """(requests, whether the node was initialised), the same for the same seed."""
    rng = Random(seed)
    given = [(script, True) for script in SCRIPTS]
    unrecorded = [message_at((height, 0, step), 1) for height in (5, 6, 7, 8) for step in (1, 2)]
    made = [(random_script(rng), True) for _ in range(N_RANDOM_SCRIPTS)]
    return [*given, (unrecorded, False), *made]


def operations(script: Script, initialised: bool, wrap: Wrap = as_it_is) -> range:
    """The numbers of the disk's operations while a script runs undisturbed."""
    disk = fresh_disk(initialised=initialised)
    first = disk.operations
    assert Machine(disk, Witness(), wrap).run(script)
    return range(first, disk.operations)


def cut_points(seed: int, wrap: Wrap = as_it_is) -> Iterator[tuple[Script, bool, int, When]]:
    """Every operation of every script, before, in the middle and after."""
    for script, initialised in scripts(seed):
        for number in operations(script, initialised, wrap):
            for when in When:
                yield script, initialised, number, when


def count_cut_points(seed: int = 0) -> int:
    """How many places there are at which `hunt` cuts the power."""
    return sum(1 for _ in cut_points(seed))


def contrary(machine: Machine, script: Script, rng: Random) -> Script:
    """What to ask after a restart: around the last release, something else and the same; then the
    end of the script again.
    """
    height, round_, step = machine.witness.last
    around = [place_of(message) for message in script]
    around = [place for place in around if place > (height, round_, step)][:1]
    if height:
        around.append((height, round_, step))
        around.append((height, round_, step - 1) if step else (height - 1, round_, 2))
    requests = [
        message_at(place, n) for place in around if place[0] for n in rng.sample(range(3), 2)
    ]
    rng.shuffle(requests)
    return [*requests, *script[-2:]]


def hunt(seed: int = 0, wrap: Wrap = as_it_is) -> int:
    """Cut the power once at each cut point, with several losses each, and once or twice more at
    random afterwards; instead of the first cut the process may have died alone. Returns how many
    cut points there were; raises Contradiction.
    """
    count = 0
    rng = Random(seed)
    for script, initialised, number, when in cut_points(seed, wrap):
        count += 1
        for _ in range(LOSSES):
            machine = Machine(fresh_disk(initialised=initialised), Witness(), wrap)
            machine.disk.cut_at(number, when)
            assert not machine.run(script), "the cut is on the way"
            machine.reboot(rng)
            _go_on(machine, script, rng)
        machine = Machine(fresh_disk(initialised=initialised), Witness(), wrap)
        machine.kill_at(number)
        assert not machine.run(script)
        machine.disk.on_operation = None
        if rng.random() < 0.5:  # the same again, and at once the power fails
            machine.run(script)
            machine.reboot(rng)
        _go_on(machine, script, rng)
    return count


def _go_on(machine: Machine, script: Script, rng: Random) -> None:
    """Two more lives, of which the first may end early; and the validator can still sign."""
    disk = machine.disk
    disk.cut_at(disk.operations + rng.randrange(24), rng.choice(list(When)))
    machine.run(contrary(machine, script, rng))
    machine.reboot(rng)
    assert machine.run(contrary(machine, script, rng))
    height = max(machine.witness.last[0], max(message.height for message in script))
    machine.ask(message_at((height + 1, 0, 0), 1))
    assert machine.ask(message_at((height + 3, 0, 1), 2)), "not even without a record is it mute"
    machine.reboot(rng)
    machine.run(contrary(machine, script, rng))
