"""What can be seen of a node from outside, and the line that people read about it.

Statuses as supervisors give them come in, ``Sight`` values and lines go out. Pure.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

NS_PER_S = 1_000_000_000


@dataclass(frozen=True, slots=True)
class Sight:
    """One look at a node; counters are of the present life of the stage that keeps them.

    ``at_s`` is the node's uptime, so that rates do not depend on when the answer arrived. ``peers``
    is None of a node that does not count them.
    """

    at_s: float
    state: str
    height: int
    round: int
    peers: int | None
    mempool: int
    finalised: int
    blocks: int
    rounds_failed: int

    def per_s(self, before: Sight | None) -> float | None:
        """Transactions finalised per second since ``before``; None if that cannot be said."""
        if before is None or self.at_s <= before.at_s or self.finalised < before.finalised:
            return None  # a first look, the same answer again, or a stage that was restarted
        return (self.finalised - before.finalised) / (self.at_s - before.at_s)


def sight(status: Mapping[str, Any]) -> Sight:
    """Return what a status shows; stages that have said nothing yet count as zeros."""
    stages: dict[str, Mapping[str, Any]] = {
        one["stage"]: one["values"]
        for snapshots in status["metrics"].values()
        for one in snapshots
        if one["index"] == 0
    }
    net, consensus = stages.get("net", {}), stages.get("consensus", {})
    return Sight(
        at_s=float(status["uptime_s"]),
        state=str(status["state"]),
        height=int(consensus.get("height", 0)),
        round=int(consensus.get("round", 0)),
        peers=int(net["peers"]) if "peers" in net else None,
        mempool=int(consensus.get("mempool_items", 0)),
        finalised=int(consensus.get("items_out", 0)),
        blocks=int(consensus.get("blocks", 0)),
        rounds_failed=int(consensus.get("rounds_failed", 0)),
    )


def line(now: Sight, before: Sight | None, final_ms: float | None) -> str:
    """Return a node's line; ``final_ms`` is the median finality of its probes, if known."""
    rate = now.per_s(before)
    state = "" if now.state == "running" else f"  {now.state}"
    return (
        f"height {now.height:>6,}  round {now.round}  "
        f"peers {'-' if now.peers is None else now.peers}  mempool {now.mempool:>7,}  "
        f"{'-' if rate is None else f'{rate:,.0f}':>7} tx/s  "
        f"final {'-' if final_ms is None else f'{final_ms:,.0f}':>5} ms{state}"
    )
