"""How long trays wait for a stage and how long it works on them, as two histograms of its metrics.

A stage that handles trays declares ``tray_times`` among its metrics and tells ``TrayTimes`` of each
tray. Monitors know the two by their names: ``wait_us`` and ``service_us`` mean the same wherever
they are declared.
"""

from __future__ import annotations

from pipeline.metrics import Kind, Metric, MetricWriter

WAIT = "wait_us"
SERVICE = "service_us"
US_BUCKETS = (
    *(50, 100, 200, 300, 500, 700, 1_000, 1_500, 2_000, 3_000, 5_000, 7_000),
    *(10_000, 15_000, 20_000, 30_000, 50_000, 100_000, 300_000, 1_000_000),
)
NS_PER_US = 1_000


def tray_times(work: str) -> tuple[Metric, Metric]:
    """The two metrics; ``work`` says what the stage does with a tray: "judging it"."""
    return (
        Metric(WAIT, Kind.HISTOGRAM, "us", "A tray's wait for this stage", US_BUCKETS),
        Metric(SERVICE, Kind.HISTOGRAM, "us", f"Work on a tray: {work}", US_BUCKETS),
    )


class TrayTimes:
    """Counts them for one stage, whose metrics hold ``tray_times``; KeyError if they do not."""

    __slots__ = ("_metrics", "_service", "_wait")

    def __init__(self, metrics: MetricWriter) -> None:
        self._metrics = metrics
        self._wait = metrics[WAIT]
        self._service = metrics[SERVICE]

    def observe(self, waited_ns: int, took_ns: int) -> None:
        """Take one tray's times; a clock that went back counts as 0."""
        self._metrics.observe(self._wait, max(0, waited_ns) // NS_PER_US)
        self._metrics.observe(self._service, max(0, took_ns) // NS_PER_US)
