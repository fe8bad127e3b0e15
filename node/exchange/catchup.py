"""Brings a node that has missed blocks up to the others, by several peers at once.

Heights that peers tell come in, and what arrives of the blocks that were asked for; requests go out
through the outbox, and `ready` gives the next block above the tip once its transactions are here
and its certificate is verified. Blocks ahead of it are fetched too, within a window of heights and
bytes. Whoever stalls is replaced, whoever lies is blamed, and either is not believed for a while,
longer each time. The next block, on which all others wait, is asked of a second peer when the first
is slow. Pure; it owns the blocks that are under way.

What a certificate proves keeps this node silent until it has the block. Were it the only one beside
a stalling liar to know of the decision, nobody else could go on without it: so agreement is given
the certificate when the block does not come, and asks those who voted for it.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from node.consensus.messages import Certified
from node.consensus.validators import ValidatorSet
from node.exchange.download import Download, Lie
from node.exchange.judging import Rules
from node.exchange.messages import ANSWER_BYTES, BUSY, decode_block, encode_get_block
from node.exchange.outbox import LIE, Outbox
from node.exchange.verified import Arrived
from node.network.frames import FrameType

WINDOW_HEIGHTS = 16
WINDOW_BYTES = 64 << 20  # of transactions, ahead of the tip; the next block always has room
MAX_OF_A_PEER = 4  # blocks asked of one peer at once
_S = 1_000_000_000
LATE_NS = 1 * _S  # one block behind for so long is behind
HEDGE_NS = 1 * _S  # the next block is asked of a second peer after this
SLOW_BYTES_PER_S = 256 * 1024  # unless it comes faster than this
STALL_NS = 5 * _S  # without anything
RETRY_NS = 1_500_000_000  # without anything, what is lacking is asked for again
LONGEST_NS = 120 * _S  # for one block, however it drips
AGAIN_NS = _S // 2  # after a peer had no time for more of a block
TICK_NS = _S // 10  # how often time is looked at while somebody is ahead
FIRST_DOUBT_NS = 2 * _S
MAX_DOUBT_NS = 60 * _S


@dataclass(slots=True)
class _Source:
    """A peer, as far as it has blocks that are lacking here."""

    height: int
    doubts: int = 0
    doubted_until_ns: int = 0
    open: int = 0  # requests


class CatchUp:
    """The blocks between the tip and the others. `tip_height` is the last committed one."""

    def __init__(
        self, rules: Rules, validators: ValidatorSet, out: Outbox, tip_height: int
    ) -> None:
        self._rules = rules
        self._validators = validators
        self._out = out
        self._tip = tip_height
        self._sources: dict[int, _Source] = {}
        self._downloads: dict[int, Download] = {}  # by request number
        self._verifying: dict[Certified, int] = {}  # and since when
        self._fetching = False
        self._proof: Certified | None = None  # the good certificate of the highest height
        self._proven_ns = 0
        self._next_ns = 0  # since when it may be the next height's
        self._is_told = False  # whether agreement has it
        self._late_since_ns: int | None = None
        self._now_ns = 0

    @property
    def behind(self) -> bool:
        """Whether blocks were missed that others have: a certificate proves it, for a height that
        a peer merely claims shall silence nobody. Ends when they are here, and nobody claims more
        or there was no proof of more for a while.
        """
        if self._proof is None:
            return False
        proven_lately = self._now_ns - self._proven_ns < STALL_NS
        return self._proof.certificate.height > self._tip or (self._fetching and proven_lately)

    def deadline_ns(self) -> int | None:
        """When `elapse` is due."""
        ahead = any(each.height > self._tip for each in self._sources.values())
        active = self._downloads or ahead or self._untold() is not None
        return self._now_ns + TICK_NS if active else None

    # -- inputs ----------------------------------------------------------------------------------

    def told(self, peer: int, height: int) -> None:
        """A peer is connected, or has told that it has committed this height."""
        source = self._sources.setdefault(peer, _Source(height))
        source.height = height

    def gone(self, peer: int) -> None:
        """A peer is no longer there."""
        for download in [each for each in self._downloads.values() if each.peer == peer]:
            self._drop(download)
        self._sources.pop(peer, None)

    def heard_block(self, peer: int, body: bytes, now_ns: int) -> None:
        """Take a BLOCK. Raises ExchangeError."""
        head = decode_block(body)
        download = self._downloads.get(head.request)
        if download is None or download.peer != peer or download.certified is not None:
            return
        try:
            certified = download.take_head(head, self._validators, now_ns)
        except Lie as lie:
            self._accuse(download, str(lie), now_ns)
            return
        if any(each.certified == certified and each.is_certified for each in self._at(download)):
            download.is_certified = True
        elif certified not in self._verifying:
            self._verify(download, now_ns)
        self._settle(download, now_ns)

    def fetched(self, tag: int, first: int, items: Sequence[Arrived | None], now_ns: int) -> None:
        """Take verified transactions of a block, from number `first` on."""
        download = self._downloads[tag]
        try:
            download.take(first, items, now_ns)
        except Lie as lie:
            self._accuse(download, str(lie), now_ns)
            return
        self._settle(download, now_ns)

    def not_found(self, tag: int, first: int, now_ns: int) -> None:
        """Take note that an answer ends before transaction `first`."""
        download = self._downloads[tag]
        if first == BUSY:
            download.busy_until_ns = now_ns + AGAIN_NS
        elif first == download.first == 0:
            self._give_up(download, now_ns)
        elif first > download.first:
            download.end = first
            self._settle(download, now_ns)

    def certificate_verified(self, certified: Certified, good: bool, now_ns: int) -> None:
        """Take what a verifier says about a certificate's signatures."""
        self._verifying.pop(certified, None)
        proof = self._proof
        if good and (proof is None or proof.certificate.height < certified.certificate.height):
            self._proof, self._is_told = certified, False
            self._proven_ns = self._next_ns = now_ns
        for download in list(self._downloads.values()):
            if download.certified == certified and download.tag in self._downloads:
                download.is_certified = good
                if not good:
                    self._accuse(download, "a certificate with bad signatures", now_ns)

    def committed(self, height: int, now_ns: int) -> None:
        """This height is committed now."""
        if height <= self._tip:
            return
        self._tip = height
        self._next_ns = now_ns
        self._late_since_ns = None
        over = [each for each in self._downloads.values() if each.height <= height]
        in_time = {each.height for each in over if each.is_whole}
        for download in over:
            source = self._sources.get(download.peer)
            if source is not None and download.is_whole:
                source.doubts = 0
            elif source is not None and download.height in in_time:
                self._doubt(source, now_ns)  # another one, asked later, was faster
            self._drop(download)

    def elapse(self, now_ns: int) -> None:
        """Replace who is slow, look who is ahead, ask for what is lacking."""
        self._now_ns = now_ns
        for download in list(self._downloads.values()):
            if download.tag in self._downloads:
                self._look_after(download, now_ns)
        self._look_ahead(now_ns)
        if self._fetching:
            self._fill(now_ns)
        untold = self._untold()
        if untold is not None and now_ns - self._next_ns >= STALL_NS:
            self._is_told = True
            self._out.tell(self._out.host.proven, untold)

    def ready(self) -> Download | None:
        """Return the next block above the tip, if it is whole and its certificate is good."""
        for download in self._downloads.values():
            if download.height == self._tip + 1 and download.is_whole and download.is_certified:
                return download
        return None

    # -- who is ahead ----------------------------------------------------------------------------

    def _look_ahead(self, now_ns: int) -> None:
        believed = [
            source.height for source in self._sources.values() if source.doubted_until_ns <= now_ns
        ]
        ahead = max(believed, default=0) - self._tip
        if ahead <= 0:
            self._fetching = False
            self._late_since_ns = None
        elif ahead > 1:
            self._fetching = True
        elif self._late_since_ns is None:
            self._late_since_ns = now_ns
        elif now_ns - self._late_since_ns >= LATE_NS:
            self._fetching = True

    def _untold(self) -> Certified | None:
        """The certificate of the next height, if agreement has not been given it."""
        proof = self._proof
        if proof is None or self._is_told or proof.certificate.height != self._tip + 1:
            return None
        return proof

    # -- asking ----------------------------------------------------------------------------------

    def _fill(self, now_ns: int) -> None:
        """Ask for what is lacking within the window, the lowest first."""
        under_way: dict[int, list[Download]] = {}
        for download in self._downloads.values():
            under_way.setdefault(download.height, []).append(download)
        for height in range(self._tip + 1, self._tip + 1 + WINDOW_HEIGHTS):
            known = under_way.get(height, [])
            is_next = height == self._tip + 1
            if known and not (is_next and self._is_slow(known, now_ns)):
                continue
            if not is_next and not self._has_room():
                return
            peer = self._whom(height, {each.peer for each in known}, now_ns)
            if peer is not None:
                self._begin(height, peer, now_ns)
            elif not known:
                return  # who has a higher one has this one too

    def _is_slow(self, known: list[Download], now_ns: int) -> bool:
        (first, *others) = known
        waited_ns = now_ns - first.began_ns
        due_bytes = waited_ns * SLOW_BYTES_PER_S // _S
        late = waited_ns >= HEDGE_NS and first.size_bytes < due_bytes
        return late and not (others or first.is_whole)

    def _has_room(self) -> bool:
        kept = sum(download.size_bytes for download in self._downloads.values())
        coming = sum(not each.is_whole for each in self._downloads.values()) + 1
        return kept + coming * ANSWER_BYTES <= WINDOW_BYTES

    def _whom(self, height: int, but: set[int], now_ns: int) -> int | None:
        """Who has a height and was not slow lately, the least busy of them."""
        able = [
            (source.doubts, source.open, peer)
            for peer, source in self._sources.items()
            if source.height >= height
            and source.doubted_until_ns <= now_ns
            and source.open < MAX_OF_A_PEER
            and peer not in but
        ]
        return min(able)[-1] if able else None

    def _begin(self, height: int, peer: int, now_ns: int) -> None:
        download = Download(height, peer, self._rules, now_ns)
        most = self._rules.genesis.max_block_transactions
        download.tag = self._out.open_request(peer, most, self)
        self._downloads[download.tag] = download
        self._sources[peer].open += 1
        self._ask(download, 0, now_ns)

    def _ask(self, download: Download, first: int, now_ns: int) -> None:
        download.ask(first, now_ns)
        self._send(download)

    def _send(self, download: Download) -> None:
        body = encode_get_block(download.tag, download.height, download.first)
        self._out.send(download.peer, FrameType.GET_BLOCK, body)

    # -- looking after ---------------------------------------------------------------------------

    def _look_after(self, download: Download, now_ns: int) -> None:
        """Go on with a block, or give its peer up."""
        if download.is_whole:
            since_ns = self._verifying.get(download.certified) if download.certified else None
            if since_ns is not None and now_ns - since_ns >= STALL_NS:
                self._verify(download, now_ns)  # the verifier died with the question
        elif now_ns - download.progress_ns >= STALL_NS or now_ns - download.began_ns >= LONGEST_NS:
            self._give_up(download, now_ns)
        elif 0 < download.busy_until_ns <= now_ns:
            download.busy_until_ns = now_ns + AGAIN_NS
            self._send(download)
        elif now_ns - max(download.progress_ns, download.asked_ns) >= RETRY_NS:
            self._ask(download, download.gap, now_ns)  # something was lost
        else:
            self._settle(download, now_ns)

    def _settle(self, download: Download, now_ns: int) -> None:
        """Ask for the rest of a block when an answer is here, and there is room."""
        if download.is_whole:
            self._close(download)
        elif download.is_answered:
            if download.height == self._tip + 1 or self._has_room():
                self._ask(download, download.gap, now_ns)
            else:
                download.progress_ns = download.began_ns = now_ns  # it is we who wait

    def _at(self, download: Download) -> Iterator[Download]:
        return (each for each in self._downloads.values() if each.height == download.height)

    def _verify(self, download: Download, now_ns: int) -> None:
        assert download.certified is not None
        self._verifying[download.certified] = now_ns
        self._out.tell(self._out.host.verify_certificate, download.peer, download.certified)

    def _accuse(self, download: Download, reason: str, now_ns: int) -> None:
        """Blame a peer for what no honest one sends, and give it up."""
        self._out.blame(download.peer, LIE, reason)
        self._give_up(download, now_ns)

    def _give_up(self, download: Download, now_ns: int) -> None:
        """Ask a peer for nothing for a while."""
        self._doubt(self._sources[download.peer], now_ns)
        for each in list(self._downloads.values()):  # one failure is not several
            if each is download or (each.peer == download.peer and each.is_open):
                self._drop(each)

    def _doubt(self, source: _Source, now_ns: int) -> None:
        doubt_ns = min(FIRST_DOUBT_NS << min(source.doubts, 10), MAX_DOUBT_NS)
        source.doubts += 1
        source.doubted_until_ns = now_ns + doubt_ns

    def _close(self, download: Download) -> None:
        """End a download's request."""
        if download.is_open:
            download.is_open = False
            self._out.close_request(download.tag)
            self._sources[download.peer].open -= 1

    def _drop(self, download: Download) -> None:
        del self._downloads[download.tag]
        self._close(download)
        if not any(each.certified == download.certified for each in self._downloads.values()):
            self._verifying.pop(download.certified, None)  # type: ignore[arg-type]
