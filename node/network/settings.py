"""What a hub needs to know, and its bounds where an operator or a test may want others.

Made by the stage that owns the sockets, read by the modules of this package; frozen.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from node.network.handshake import AGENT_MAX_CHARACTERS, GENESIS_ID_BYTES, NODE_ID_BYTES

NS_PER_S: Final = 1_000_000_000
MIB: Final = 1024 * 1024

MAX_CONNECTIONS: Final = 1_000  # inbound and outbound slots that may be configured, together


@dataclass(frozen=True, slots=True, kw_only=True)
class Rate:
    """A token bucket: what comes in a second in the long run, and at once after a rest."""

    per_s: int
    burst: int

    def __post_init__(self) -> None:
        if self.per_s < 1 or self.burst < 1:
            raise ValueError("a rate and its burst are at least 1")


@dataclass(frozen=True, slots=True, kw_only=True)
class LaneBudget:
    """What one peer may send on one lane before the lane is not read for a while."""

    bytes_rate: Rate
    frames_rate: Rate


@dataclass(frozen=True, slots=True, kw_only=True)
class HubSettings:
    """Settings of a hub; times in nanoseconds, sizes in bytes.

    `listen` and `static` are "host:port" ("[host]:port" for IPv6). `bans_path` and `book_path` are
    files of the hub's own, or None to keep nothing. Raises ValueError for what cannot be.
    """

    genesis_id: bytes
    node_id: bytes
    listen: str | None = None
    static: tuple[str, ...] = ()
    agent: str = ""
    max_inbound: int = 64
    max_outbound: int = 8  # found through the book; static peers come on top
    max_per_ip: int = 4  # inbound peers of one address, loopback excepted
    bans_path: str | None = None
    book_path: str | None = None

    handshake_ns: int = 5 * NS_PER_S  # for each lane
    ping_after_ns: int = 10 * NS_PER_S  # of silence
    gone_after_ns: int = 25 * NS_PER_S
    stall_ns: int = 120 * NS_PER_S  # a peer that takes no byte of what waits for it
    redial_first_ns: int = NS_PER_S // 4
    redial_longest_ns: int = 30 * NS_PER_S
    agreement_queue_bytes: int = 8 * MIB  # outbound, per peer
    bulk_queue_bytes: int = 4 * MIB
    agreement_budget: LaneBudget = LaneBudget(
        bytes_rate=Rate(per_s=8 * MIB, burst=16 * MIB),
        frames_rate=Rate(per_s=4_000, burst=8_000),
    )
    bulk_budget: LaneBudget = LaneBudget(
        bytes_rate=Rate(per_s=32 * MIB, burst=32 * MIB),
        frames_rate=Rate(per_s=4_000, burst=8_000),
    )

    def __post_init__(self) -> None:
        if len(self.genesis_id) != GENESIS_ID_BYTES or len(self.node_id) != NODE_ID_BYTES:
            raise ValueError("the genesis id has 32 bytes, a node id 16")
        if len(self.agent) > AGENT_MAX_CHARACTERS or not self.agent.isprintable():
            raise ValueError(f"an agent has at most {AGENT_MAX_CHARACTERS} printable characters")
        if min(self.max_inbound, self.max_outbound) < 0:
            raise ValueError("numbers of peers are not negative")
        if self.max_inbound + self.max_outbound + len(self.static) > MAX_CONNECTIONS:
            raise ValueError(f"more than {MAX_CONNECTIONS} peers")
        if self.max_per_ip < 1:
            raise ValueError("max_per_ip is at least 1")
        if not 0 < self.ping_after_ns < self.gone_after_ns:
            raise ValueError("a silent peer is pinged before it is given up")
        if not 0 < self.redial_first_ns <= self.redial_longest_ns:
            raise ValueError("the first pause between dials is not longer than the longest")
