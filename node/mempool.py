"""The mempool: verified transactions that wait for a block (interface first; bodies follow)."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, fields
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from node.policy import PolicyLimits

__all__ = ["Counters", "Mempool", "OutputView", "PolicyLimits", "Selection", "TransactionPosition"]


class TransactionPosition(Protocol):
    @property
    def height(self) -> int: ...
    @property
    def position(self) -> int: ...
    @property
    def n_outputs(self) -> int: ...


class OutputView(Protocol):
    """Chain state as the mempool reads it. ``find_transaction`` must also know genesis allocation ids
    and reward ids, or a spent one of their outputs looks like a missing parent."""

    def get_outputs(self, outpoints: list[bytes], /) -> list[bytes | None]: ...
    def find_transaction(self, txid: bytes, /) -> TransactionPosition | None: ...


@dataclass(frozen=True, slots=True)
class Selection:
    txids: list[bytes]
    transactions: list[bytes]
    fees: int


@dataclass(slots=True)
class Counters:
    """admitted = finalised + evicted + replaced + expired + conflicted + lost_at_restart + pending."""

    admitted: int = 0
    finalised: int = 0
    evicted: int = 0
    replaced: int = 0
    expired: int = 0
    conflicted: int = 0
    lost_at_restart: int = 0
    # orphans: orphaned = adopted + orphans_evicted + orphans_expired + orphans_rejected + orphans held
    orphaned: int = 0
    adopted: int = 0
    orphans_evicted: int = 0
    orphans_expired: int = 0
    orphans_rejected: int = 0


class Mempool:
    counters: Counters
    verdict_counts: list[int]  # 256: answers given by admit(), by code; they sum to the items

    def __init__(self, view: OutputView, limits: PolicyLimits, min_fee: int) -> None: ...
    def __len__(self) -> int: ...
    def __contains__(self, txid: object) -> bool: ...
    @property
    def size_bytes(self) -> int: ...
    @property
    def fees(self) -> int: ...
    def transactions(self, txids: Sequence[bytes]) -> list[bytes | None]: ...
    def admit(self, columns, n_items: int, payload: memoryview, offsets, now_ms: int, codes_out) -> None: ...
    def select(self, max_bytes: int, max_count: int) -> Selection: ...
    def committed(self, block_txids: Sequence[bytes], transactions: Sequence[bytes], now_ms: int) -> None: ...
    def pin(self, txids: Iterable[bytes]) -> None: ...
    def unpin(self, txids: Iterable[bytes]) -> None: ...
    def expire(self, now_ms: int) -> None: ...
