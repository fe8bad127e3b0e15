"""Provisional: first version so that the whole path runs; replaced by the full one."""
from __future__ import annotations
from collections import deque
from typing import Any
class FairQueue:
    def __init__(self, max_weight_total: int, max_weight_per_source: int) -> None:
        self.max_weight_total = max_weight_total
        self._q: deque[tuple[bytes, int, Any]] = deque()
        self.pending_weight = 0
    def offer(self, source: bytes, weight: int, item: Any) -> bool:
        if self.pending_weight + weight > self.max_weight_total: return False
        self._q.append((source, weight, item)); self.pending_weight += weight
        return True
    def take(self, budget: int) -> list[tuple[bytes, int, Any]]:
        out = []
        while self._q and budget > 0:
            e = self._q.popleft(); self.pending_weight -= e[1]; budget -= e[1]; out.append(e)
        return out
