"""Whom ``net`` is connected to, in a file for whoever wants to look: ``run/peers.json``.

`node.peering` publishes, `timed peers` reads. Written as a whole when something has changed, once a
second at most and never synced, so that the loop with the sockets does not wait for a disk; removed
when ``net`` stops in order. One that a killed ``net`` has left tells by the process' number. What
fails is told once and harms nothing.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Final

import msgspec

from node.network.persisted import write_json

if TYPE_CHECKING:
    from node.network.peers import PeerInfo
    from pipeline.eventlog import Log

PEERS_FILE: Final = "peers.json"
WRITE_EVERY_NS: Final = 1_000_000_000
MAX_FILE_BYTES: Final = 4 * 1024 * 1024  # a thousand peers need a tenth


class PeerRow(msgspec.Struct, frozen=True):
    """One peer, as the file has it."""

    number: int
    node_id: str
    address: str
    direction: str  # out: this node has dialled
    version: int
    height: int  # as it last told
    agent: str
    protected: bool  # its slot is safe
    validator: int | None  # as which it has proven itself
    score: int  # of 100 points that ban it


class PeersSeen(msgspec.Struct, frozen=True):
    """What the file holds, as JSON: the peers of one ``net`` process."""

    pid: int
    peers: list[PeerRow]


class PeersFile:
    """The writing side; `now_ns` is that of CLOCK_MONOTONIC."""

    def __init__(self, run_path: str, log: Log) -> None:
        self._path = str(Path(run_path) / PEERS_FILE)
        self._log = log
        self._written: PeersSeen | None = None
        self._due_ns = 0
        self._wrong: str | None = None

    def publish(
        self,
        peers_now: Callable[[], Sequence[PeerInfo]],
        score_of: Callable[[PeerInfo], int],
        now_ns: int,
    ) -> None:
        """Write the file, if a second is over and it would say something else."""
        if now_ns < self._due_ns:
            return
        self._due_ns = now_ns + WRITE_EVERY_NS
        seen = PeersSeen(os.getpid(), [_row(each, score_of(each)) for each in peers_now()])
        if seen == self._written:
            return
        self._written = seen
        wrong = write_json(self._path, msgspec.to_builtins(seen))
        if wrong is not None and wrong != self._wrong:
            self._log.warning("file_not_written", why=wrong)
        self._wrong = wrong

    def close(self) -> None:
        """Take the file away."""
        with suppress(OSError):
            os.unlink(self._path)


def read_peers(run_path: Path) -> PeersSeen | None:
    """What a ``net`` process has written last; None if there is nothing, or nothing sensible."""
    try:
        with (run_path / PEERS_FILE).open("rb") as file:
            return msgspec.json.decode(file.read(MAX_FILE_BYTES), type=PeersSeen)
    except (OSError, msgspec.MsgspecError, ValueError, RecursionError):
        return None


def _row(peer: PeerInfo, score: int) -> PeerRow:
    return PeerRow(
        peer.number,
        peer.node_id.hex(),
        peer.address,
        "out" if peer.outbound else "in",
        peer.version,
        peer.height,
        peer.agent,
        peer.protected,
        peer.validator,
        score,
    )
