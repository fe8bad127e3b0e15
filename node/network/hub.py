"""The hub: all peers of this node behind one descriptor, for the stage that owns the sockets.

The stage polls `fileno()`, calls `poll` when it is readable or `deadline_ns()` has come, and is
told through `HubEvents`, from within `poll` only. What it sends is queued and leaves with the poll
that it was called from, with the next one, or with `flush`. It owns the sockets, the files of bans
and addresses, and all of the package's state. What kills it: an exception of the stage's own
callbacks; nothing that a peer sends.
"""

from __future__ import annotations

import socket
from random import Random
from typing import Final

from node.errors import ListenError
from node.network.address import AddressError, is_numeric, parse_address, plain_ip
from node.network.answering import Answering
from node.network.bans import BAN_MS
from node.network.bans_file import BansFile
from node.network.calling import Calling
from node.network.dialler import Dialler
from node.network.dispatch import Dispatch
from node.network.doorstep import Doorstep
from node.network.frames import FRAME_TYPES, FrameType, Lane, encode_frame
from node.network.peers import PeerInfo
from node.network.persisted import read_json, write_json
from node.network.reactor import Reactor
from node.network.settings import NS_PER_S, HubSettings
from node.network.switchboard import HubEvents, Switchboard
from node.network.upkeep import Upkeep
from pipeline.eventlog import Log

__all__ = ["FrameType", "Hub", "HubEvents", "HubSettings", "Lane", "PeerInfo"]

SAVE_EVERY_NS: Final = 5 * NS_PER_S
BANS_EVERY_NS: Final = 2 * NS_PER_S  # an operator who lifts a ban is promised 5 s


class Hub:
    """See the module. `rng` makes sessions and challenges: `random.SystemRandom()` in a node.

    `now_ns` (CLOCK_MONOTONIC) and `now_ms` (since 1970) are the time of the call. Raises
    ListenError if the address to listen on cannot be had, AddressError (ValueError) for a static
    peer that is no address.
    """

    def __init__(
        self,
        settings: HubSettings,
        events: HubEvents,
        rng: Random,
        log: Log,
        now_ns: int,
        now_ms: int,
    ) -> None:
        board = Switchboard(settings, events, rng, log, now_ns, now_ms)
        listener = _bind(settings.listen)
        self._board = board
        self._upkeep = Upkeep(board)
        self._door = Doorstep(board, self._upkeep)
        answering = Answering(board, self._door, self._upkeep)
        self._calling = calling = Calling(board, self._door, self._upkeep)
        self._dialler = Dialler(board, self._door, calling)
        dispatch = Dispatch(board, self._door, answering, calling, self._upkeep)
        board.reactor = self._reactor = Reactor(dispatch, now_ns)
        if listener is not None:
            self._reactor.listen(listener)
            name = listener.getsockname()
            board.listening = parse_address(settings.listen or "")._replace(port=name[1])
        self._saved_ns = now_ns
        self._bans_ns = now_ns
        self._bans_file = None if settings.bans_path is None else BansFile(settings.bans_path)
        self._load()

    # -- the loop --------------------------------------------------------------------------------

    def fileno(self) -> int:
        """Return the descriptor that is readable when `poll` has work."""
        return self._reactor.fileno()

    def poll(self, now_ns: int, *, chores: bool = True) -> int:
        """Do a bounded part of what there is to do, never wait; the number of frames handled.

        Without ``chores`` only what peers have sent is handled, and not what is due by the clock.
        """
        if not chores and self._reactor.is_quiet():
            return 0
        board = self._board
        board.now_ns = max(now_ns, board.now_ns)
        handled = self._reactor.poll(board.now_ns, self._chores if chores else _no_chores)
        board.farewell()
        return handled

    def _chores(self) -> None:
        now_ns = self._board.now_ns
        self._door.expire(now_ns)
        self._upkeep.tick()
        self._dialler.tick()
        if now_ns - self._bans_ns >= BANS_EVERY_NS:
            self._exchange_bans()
        if now_ns - self._saved_ns >= SAVE_EVERY_NS:
            self._save()

    def deadline_ns(self) -> int | None:
        """When `poll` has something to do even if the descriptor is not readable."""
        deadlines = (
            self._reactor.deadline_ns,
            self._door.deadline_ns(),
            self._upkeep.deadline_ns(),
            self._dialler.deadline_ns(),
            None if self._bans_file is None else self._bans_ns + BANS_EVERY_NS,
        )
        return min((each for each in deadlines if each is not None), default=None)

    def flush(self) -> None:
        """Send what is queued now, rather than with the next `poll`."""
        self._reactor.flush()

    def close(self) -> None:
        """Close all connections and save what is kept; nothing is told."""
        self._exchange_bans()
        self._save()
        self._reactor.close()

    # -- sending ---------------------------------------------------------------------------------

    def send(self, peer: int, kind: int, body: bytes) -> bool:
        """Queue a frame for a peer; False if it is gone, or does not keep up.

        `kind` is a FrameType or its number. Raises ValueError for a body that is too long for its
        type, KeyError for a type that there is not, or that is no business of the stage.
        """
        there = self._board.peers.by_number.get(peer)
        if there is None:
            return False
        buffers = encode_frame(kind, bytes(body))
        return self._board.send(there, FRAME_TYPES[kind], buffers, sum(map(len, buffers)))

    def broadcast(self, kind: int, body: bytes, but: int = 0) -> int:
        """Queue a frame for all peers but one; for how many."""
        buffers = encode_frame(kind, bytes(body))
        size = sum(map(len, buffers))
        send, known = self._board.send, FRAME_TYPES[kind]
        peers = list(self._board.peers.by_number.values())
        return sum(send(each, known, buffers, size) for each in peers if each.number != but)

    def open_bulk(self, bulk_open: bool) -> None:
        """Read bulk lanes, or leave what comes to the kernel until TCP pushes back."""
        self._reactor.open_bulk(bulk_open)

    def set_height(self, height: int) -> None:
        """Tell the peers how high this node is: the last word, at most four times a second."""
        self._upkeep.set_height(height)

    # -- peers -----------------------------------------------------------------------------------

    def peers(self) -> list[PeerInfo]:
        """Return all peers that are connected, in the order in which they came."""
        return [each.info for each in self._board.peers.by_number.values()]

    def challenge(self, peer: int) -> bytes | None:
        """Return what a validator signs to prove itself to this peer (32 bytes)."""
        there = self._board.peers.by_number.get(peer)
        return None if there is None else there.their_challenge

    def points(self, peer: PeerInfo) -> int:
        """Return what is held against a peer's address now, of the 100 points that ban it."""
        there = self._board.peers.by_number.get(peer.number)
        return 0 if there is None else self._board.bans.points(there.ip, self._board.now_ms)

    def protect(self, peer: int) -> None:
        """A peer has proven what its PROOF says: its slot is safe.

        A validator has one safe slot; whoever proved the same before has a common one again.
        """
        there = self._board.peers.by_number.get(peer)
        if there is not None:
            self._board.peers.protect(there)

    def blame(self, peer: int, points: int, reason: str) -> None:
        """Hold an offence against a peer, even one that left; 100 points ban its address 24 h."""
        there = self._board.peers.by_number.get(peer)
        if there is not None:
            self._board.blame(there, points, reason)
        elif peer in self._board.departed:
            self._board.blame_host(self._board.departed[peer], points, reason)

    def disconnect(self, peer: int, reason: str) -> None:
        """Drop a peer; it is told to `HubEvents` in a poll."""
        there = self._board.peers.by_number.get(peer)
        if there is not None:
            self._board.lose(there, reason)

    # -- the operator ----------------------------------------------------------------------------

    def ban(self, host: str, reason: str, for_ms: int = BAN_MS) -> None:
        """Ban an IP address (all of an IPv6 /64) and drop its peers."""
        self._board.ban(plain_ip(host), reason, for_ms)

    def unban(self, host: str) -> bool:
        """Lift a ban; whether there was one."""
        return self._board.bans.unban(plain_ip(host))

    def keep(self, address: str) -> bool:
        """Stay connected with a node, as with those of the configuration, until the next start.

        False if it is one of them already. Raises AddressError.
        """
        return self._board.targets.add(parse_address(address), self._board.now_ns)

    def forget(self, address: str) -> bool:
        """Dial a node no more; who is connected stays. False if it was none to stay with."""
        return self._board.targets.forget(parse_address(address))

    def try_once(self, address: str) -> bool:
        """Dial a node, given by IP and port, once; False for a name. Raises AddressError."""
        parsed = parse_address(address)
        if not is_numeric(parsed.host):
            return False
        target = self._board.targets.passing(parsed, self._board.now_ns)
        self._calling.dial(target, parsed.host)
        return True

    def bans(self) -> dict[str, tuple[int, str]]:
        """Return the bans: address -> until (ms since 1970), reason."""
        return self._board.bans.bans(self._board.now_ms)

    @property
    def stats(self) -> dict[str, int]:
        """Counters since the start, by the names in `node.network.counters`."""
        stats = self._board.stats
        stats["bytes_in"] = self._reactor.bytes_in
        stats["pauses"] = self._reactor.pauses
        stats["accept_failures"] = self._reactor.accept_failures
        return stats

    @property
    def address(self) -> str | None:
        """Where this node listens, the port that it was given included."""
        listening = self._board.listening
        return None if listening is None else str(listening)

    # -- files -----------------------------------------------------------------------------------

    def _load(self) -> None:
        board = self._board
        if self._bans_file is not None:
            wrong = self._bans_file.load(board.bans, board.now_ms)
            if wrong is not None:
                board.log.warning("file_ignored", why=wrong)
        board.book.load(self._read(board.settings.book_path))
        board.book.changed = board.bans.changed = False

    def _read(self, path: str | None) -> object:
        if path is None:
            return None
        content, wrong = read_json(path)
        if wrong is not None:
            self._board.log.warning("file_ignored", why=wrong)
        return content

    def _save(self) -> None:
        board = self._board
        self._saved_ns = board.now_ns
        if board.settings.book_path is not None and board.book.changed:
            self._write(board.settings.book_path, board.book.to_json())
        board.book.changed = False

    def _exchange_bans(self) -> None:
        """Write down what was banned; take over what the operator has done to the file."""
        board = self._board
        self._bans_ns = board.now_ns
        if self._bans_file is None:
            return
        banned, ignored, not_written = self._bans_file.exchange(board.bans, board.now_ms)
        if ignored is not None:
            board.log.once(board.now_ns, ignored, "file_ignored", why=ignored)
        if not_written is not None:
            board.log.once(board.now_ns, not_written, "file_not_written", why=not_written)
        if banned:
            board.drop_banned()

    def _write(self, path: str, content: object) -> None:
        wrong = write_json(path, content)
        if wrong is not None:
            self._board.log.once(self._board.now_ns, path, "file_not_written", why=wrong)


def _bind(listen: str | None) -> socket.socket | None:
    if listen is None:
        return None
    remedy = "stop what uses the port, or change network.peer_listen in config.toml"
    try:
        address = parse_address(listen)
        family = socket.AF_INET6 if ":" in address.host else socket.AF_INET
        sock = socket.socket(family, socket.SOCK_STREAM)
    except (AddressError, OSError) as error:
        raise ListenError(f"cannot listen for peers on {listen} ({error})", remedy) from error
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.bind(address)
    except OSError as error:
        sock.close()
        raise ListenError(
            f"cannot listen for peers on {listen} ({error.strerror})", remedy
        ) from error
    return sock


def _no_chores() -> None:
    """Nothing is due."""
