"""The simulated world: one seeded generator, one heap of events, one clock that jumps.

An event is (time, sequence, function, arguments); the sequence makes the order total, so a seed is
a run. Nothing sleeps and nothing reads a clock. Whatever happens in the world may say so: `seen`
counts kinds of things (the coverage), `say` writes a line of the trace if one is wanted. Neither
draws from the generator: a run with its trace is the run without it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from hashlib import blake2b
from heapq import heappop, heappush
from random import Random
from typing import Any

from node.consensus.certificate import CertificateError, check_certificate, check_signatures
from node.consensus.messages import Certificate, Certified, Proposal, Vote
from node.consensus.signed_bytes import signed_bytes
from node.consensus.validators import ValidatorSet

NS_PER_MS = 1_000_000
NS_PER_S = 1_000_000_000
SALT = b"a simulated net."  # 16 bytes, as BLAKE2b wants them; the chain's in a real node
MAX_REMEMBERED = 1024  # certificates and messages whose check is not done again
GENESIS_ID = blake2b(b"the simulated chain", digest_size=32).digest()


class World:
    """Time, chance and the order of things."""

    def __init__(self, seed: int, trace: Callable[[str], None] | None = None) -> None:
        self.seed = seed
        self.rng = Random(seed)
        self.now_ns = 0
        self.steps = 0
        self.seen: Counter[str] = Counter()
        self.trace = trace
        self.all_is_well = False  # healed: nobody is slow any more either
        self._heap: list[tuple[int, int, Callable[..., None], tuple[Any, ...]]] = []
        self._sequence = 0
        self._serial = 0

    def at(self, time_ns: int, do: Callable[..., None], *arguments: Any) -> None:
        """Have something done at a time; among equals first come, first served."""
        self._sequence = sequence = self._sequence + 1
        heappush(self._heap, (time_ns, sequence, do, arguments))

    def after(self, delay_ns: int, do: Callable[..., None], *arguments: Any) -> None:
        """Have something done after a delay."""
        self._sequence = sequence = self._sequence + 1
        heappush(self._heap, (self.now_ns + delay_ns, sequence, do, arguments))

    def run(self, until_ns: int, most_steps: int, done: Callable[[], bool] | None = None) -> bool:
        """Let events happen until the time, the number of steps, or until `done` (asked after each
        event); return whether it was `done`.
        """
        heap = self._heap
        last_step = self.steps + most_steps
        while heap and heap[0][0] <= until_ns and self.steps < last_step:
            self.now_ns, _, do, arguments = heappop(heap)
            self.steps += 1
            do(*arguments)
            if done is not None and done():
                return True
        if not heap or heap[0][0] > until_ns:
            self.now_ns = until_ns
        return False

    def serial(self) -> int:
        """A number that nobody had before."""
        self._serial += 1
        return self._serial

    def ms(self, low: int, high: int) -> int:
        """A random time in nanoseconds, given between two numbers of milliseconds."""
        return int((low + (high - low) * self.rng.random()) * NS_PER_MS)

    def say(self, who: str, what: str) -> None:
        """Write a line of the trace; callers ask `trace` first, so that no text is made in vain."""
        if self.trace is not None:
            self.trace(f"{self.now_ns / NS_PER_S:11.6f} {who:<9} {what}")


class Keys:
    """The validators' keys and their signatures, by a keyed hash instead of a curve: as hard to
    guess for anybody here, and fifty times as fast.
    """

    def __init__(self, seed: int, powers: tuple[int, ...]) -> None:
        self.public = tuple(
            blake2b(b"%d of %d" % (index, seed), digest_size=32).digest()
            for index in range(len(powers))
        )
        self.validators = ValidatorSet(powers, self.public)
        self._certified: dict[Certificate, bool] = {}

    def sign(self, validator: int, message: Proposal | Vote) -> bytes:
        """A validator's signature of a message."""
        return keyed(self.public[validator], signed_bytes(message, SALT))

    def signer_of(self, validator: int) -> Callable[[bytes], bytes]:
        """What a signer process signs with."""
        key = self.public[validator]
        return lambda data: keyed(key, data)

    def are_good(self, message: Proposal | Vote | Certified) -> bool:
        """What the verifiers say of a message from the network; certificates in it included."""
        if isinstance(message, Certified):
            return self.certifies(message.certificate)
        if not 0 <= message.validator < len(self.public):
            return False
        if self.sign(message.validator, message) != message.signature:
            return False
        polka = message.polka if isinstance(message, Proposal) else None
        return polka is None or self.certifies(polka)

    def certifies(self, certificate: Certificate) -> bool:
        """Whether a certificate has a quorum and all its signatures are genuine."""
        known = self._certified.get(certificate)
        if known is None:
            if len(self._certified) >= MAX_REMEMBERED:
                self._certified.clear()
            known = self._certified[certificate] = self._check(certificate)
        return known

    def _check(self, certificate: Certificate) -> bool:
        try:
            check_certificate(certificate, self.validators)
            check_signatures(certificate, self.validators, SALT, verify)
        except CertificateError:
            return False
        return True


def keyed(key: bytes, data: bytes) -> bytes:
    return blake2b(data, key=key, digest_size=64).digest()


def verify(key: bytes, data: bytes, signature: bytes) -> bool:
    return keyed(key, data) == signature


def short(value: bytes | None) -> str:
    """A value in a trace."""
    return "nil" if value is None else value[:3].hex()


def told(message: Proposal | Vote | Certified) -> str:
    """A message in a trace."""
    if isinstance(message, Vote):
        name = message.type.name.lower()
        return f"{name} {message.height}/{message.round} {short(message.value)}"
    if isinstance(message, Proposal):
        again = f" valid in {message.valid_round}" if message.valid_round >= 0 else ""
        polka = " +polka" if message.polka is not None else ""
        return f"proposal {message.height}/{message.round} {short(message.value)}{again}{polka}"
    certificate = message.certificate
    of = ",".join(str(validator) for validator, _ in certificate.signatures)
    name = certificate.type.name.lower()
    return f"{name}s {certificate.height}/{certificate.round} {short(certificate.value)} of {of}"
