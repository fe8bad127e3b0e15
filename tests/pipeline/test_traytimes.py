"""Waiting and working on trays: counted in microseconds, and passed by worker and sink."""

from __future__ import annotations

from pipeline.metrics import MetricReader, MetricSet, MetricWriter, region_bytes
from pipeline.traytimes import TrayTimes, tray_times


def test_times_are_counted_in_microseconds() -> None:
    metrics = MetricSet("stage", tray_times("testing it"))
    region = memoryview(bytearray(region_bytes(metrics)))
    times = TrayTimes(MetricWriter(region, metrics))
    times.observe(1_999_999, 40_000)
    times.observe(-5, 0)  # a clock that went back
    values = MetricReader(region).snapshot()
    assert (values["wait_us"]["count"], values["wait_us"]["sum"]) == (2, 1_999)
    assert (values["service_us"]["count"], values["service_us"]["sum"]) == (2, 40)
