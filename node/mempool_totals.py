"""The mempool's totals where they outlive the process: in the metrics of its stage.

Totals go out to shared memory whenever they changed, before anybody is told of an admission; the
next life of the stage finds them there and goes on from them. What they show as pending then is
lost at restart, unless mempool.dat brought it back, with the same totals. They live as long as the
supervisor. A stage that is killed between two words of a change leaves too many entries as pending,
never too few, because admissions are written first and no total ever falls.
"""

from __future__ import annotations

from operator import attrgetter

from node.mempool import TOTALS, Counters, Mempool
from pipeline.metrics import Kind, Metric, MetricWriter

TOTALS_METRICS = (
    Metric("mempool_items", Kind.GAUGE, "items", "Transactions in the mempool"),
    *(
        Metric(
            f"mempool_{name}", Kind.COUNTER, "items", f"Mempool entries {name.replace('_', ' ')}"
        )
        for name in TOTALS
    ),
)

_totals_of = attrgetter(*TOTALS)

assert TOTALS[0] == "admitted"  # written first


class MempoolTotals:
    """The totals of one mempool in one region of metrics, whose declaration has
    ``TOTALS_METRICS``.
    """

    __slots__ = ("_handles", "_items", "_mempool", "_published", "_writer")

    def __init__(self, writer: MetricWriter, mempool: Mempool) -> None:
        self._writer = writer
        self._mempool = mempool
        self._items = writer["mempool_items"]
        self._handles = [writer[f"mempool_{name}"] for name in TOTALS]
        self._published = tuple(writer.value(f"mempool_{name}") for name in TOTALS)

    def resume(self) -> None:
        """Go on from the last life's totals, if mempool.dat brought none, and publish; call before
        anything is admitted.
        """
        if self._mempool.counters == Counters():
            self._mempool.resume(Counters(*self._published))
        self._write(_totals_of(self._mempool.counters))

    def publish(self) -> None:
        """Write the totals if they changed."""
        totals = _totals_of(self._mempool.counters)
        if totals != self._published:
            self._write(totals)

    def _write(self, totals: tuple[int, ...]) -> None:
        for handle, total, before in zip(self._handles, totals, self._published, strict=True):
            self._writer.add(handle, total - before)
        self._writer.set(self._items, len(self._mempool))
        self._published = totals
