"""One committed block on its way from one peer: its header and certificate, then its transactions.

`node.exchange.catchup` makes it, hands in what arrives in answer to its request, and drops it when
it raises `Lie`. That a quorum signed for the header is for others to verify; here everything else
about the certificate is checked, and that the transactions are those that the header names. Parts
may come in any order, and before the header. Pure; it owns the transactions collected so far, no
more than were asked for.
"""

from __future__ import annotations

from collections.abc import Sequence

from node.block import BlockFormatError, BlockHeader, block_id, merkle_root
from node.consensus.certificate import CertificateError, check_certificate
from node.consensus.messages import Certified, VoteType
from node.consensus.validators import ValidatorSet
from node.consensus.wire import WireError, decode
from node.exchange.judging import Rules
from node.exchange.messages import ANSWER_BYTES, BlockHead
from node.exchange.verified import Arrived
from node.params import MAX_TX_BYTES


class Lie(Exception):
    """What no honest peer sends."""


class Download:
    """The block at a height, asked of a peer under a request number."""

    def __init__(self, height: int, peer: int, rules: Rules, now_ns: int) -> None:
        self.height = height
        self.peer = peer
        self.tag = -1
        self.is_open = True  # its request is
        self.header: BlockHeader | None = None
        self.value = b""
        self.certified: Certified | None = None
        self.is_certified = False  # its signatures are known to be good
        self.size_bytes = 0
        self.began_ns = now_ns
        self.progress_ns = now_ns
        self.asked_ns = now_ns
        self.busy_until_ns = 0  # the peer had no time for us until then; 0: it had
        self.first = 0  # of the answer that is under way
        self.end: int | None = None  # of that answer, once it is known to be short
        self._rules = rules
        self._granted_bytes = 0
        self._items: dict[int, Arrived] = {}
        self._gap = 0
        self._txids: list[bytes] = []

    @property
    def is_whole(self) -> bool:
        """Whether header and transactions are here, and belong together."""
        return self.header is not None and len(self._txids) == self.header.n_transactions

    @property
    def is_answered(self) -> bool:
        """Whether all that the answer under way holds is here, and the block is not whole."""
        return self.end is not None and self.gap >= self.end and not self.is_whole

    @property
    def gap(self) -> int:
        """The first transaction that is not here."""
        have = self._items
        while self._gap in have:
            self._gap += 1
        return self._gap

    @property
    def txids(self) -> list[bytes]:
        """The ids, once it is whole."""
        return self._txids

    def raws(self) -> list[bytes]:
        """Return the transactions, once it is whole."""
        return [self._items[position].raw for position in range(len(self._items))]

    def ask(self, first: int, now_ns: int) -> None:
        """Take note that transactions from `first` on were asked for."""
        self.first = first
        self.end = None
        self.busy_until_ns = 0
        self.asked_ns = now_ns
        self._granted_bytes = self.size_bytes + ANSWER_BYTES + MAX_TX_BYTES

    def take_head(self, head: BlockHead, validators: ValidatorSet, now_ns: int) -> Certified:
        """Take a BLOCK; returns its certificate, to be verified. Raises Lie."""
        try:
            header = BlockHeader.decode(head.header)
            message = decode(head.certificate)
            if not isinstance(message, Certified):
                raise Lie("a BLOCK without a certificate")
            certificate = message.certificate
            check_certificate(certificate, validators)
        except (BlockFormatError, WireError, CertificateError) as error:
            raise Lie(f"a bad BLOCK: {error}") from error
        value = block_id(head.header, self._rules.salt)
        proves = (certificate.type, certificate.height, certificate.value)
        if header.height != self.height or proves != (VoteType.PRECOMMIT, self.height, value):
            raise Lie("a certificate of something else")
        if header.n_transactions > self._rules.genesis.max_block_transactions:
            raise Lie(f"a block of {header.n_transactions} transactions")
        self.header = header
        self.value = value
        self.certified = message
        self.progress_ns = now_ns
        self._complete()
        return message

    def take(self, first: int, items: Sequence[Arrived | None], now_ns: int) -> None:
        """Take transactions, from number `first` of the block on. Raises Lie."""
        most = self._rules.genesis.max_block_transactions
        for position, item in enumerate(items, first):
            if item is None:
                raise Lie(f"transaction {position} of block {self.height} is bad")
            if position >= most:
                raise Lie(f"transaction {position} of block {self.height}")
            if position in self._items:
                continue
            self._items[position] = item
            self.size_bytes += len(item.raw)
            self.progress_ns = now_ns
        if self.size_bytes > self._granted_bytes:
            raise Lie("more transactions than were asked for")
        self._complete()

    def _complete(self) -> None:
        """Compare the transactions with the header, if that many are here."""
        header = self.header
        if header is None or self._txids or len(self._items) < header.n_transactions:
            return
        items = self._items
        if len(items) > header.n_transactions or (items and max(items) >= len(items)):
            raise Lie("more transactions than the header names")
        txids = [items[position].txid for position in range(len(items))]
        if merkle_root(txids, self._rules.salt) != header.transaction_root:
            raise Lie("other transactions than the header names")
        self._txids = txids
