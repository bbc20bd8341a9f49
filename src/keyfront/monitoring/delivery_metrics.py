"""Prometheus metrics of the delivery of standard logs."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Protocol

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric

PREFIX = "keyfront_log_delivery_"


class DeliveryStatus(Protocol):
    """What the delivery has done, and what waits: `edge.logs.delivery.Status`."""

    @property
    def delivered_files(self) -> int: ...

    @property
    def delivered_records(self) -> int: ...

    @property
    def dropped(self) -> int: ...

    @property
    def unreadable(self) -> int: ...

    @property
    def waiting_files(self) -> int: ...

    @property
    def waiting_bytes(self) -> int: ...

    @property
    def waiting_since(self) -> float: ...

    @property
    def last_delivery(self) -> float: ...

    @property
    def problem(self) -> str: ...


def delivery_families(status: DeliveryStatus | None) -> Iterable[Metric]:
    """Metric families of the delivery; without samples if nothing was ever delivered."""
    counters = {
        "files": "Log files that were delivered.",
        "records": "Records in them.",
        "records_dropped": "Records that were dropped because too much waited for delivery.",
        "lines_unreadable": "Lines that were not records.",
    }
    gauges = {
        "waiting_files": "Log files that wait for delivery.",
        "waiting_bytes": "Bytes of log files that wait for delivery.",
        "failing": "1 if the last delivery failed.",
        "oldest_waiting_timestamp_seconds": "The earliest record that waits; the lag is `time()` minus that.",
        "last_timestamp_seconds": "When a file was last delivered.",
    }
    families: dict[str, CounterMetricFamily | GaugeMetricFamily] = {
        name: CounterMetricFamily(PREFIX + name, text) for name, text in counters.items()
    }
    families |= {name: GaugeMetricFamily(PREFIX + name, text) for name, text in gauges.items()}
    if status is not None:
        values = {
            "files": status.delivered_files,
            "records": status.delivered_records,
            "records_dropped": status.dropped,
            "lines_unreadable": status.unreadable,
            "waiting_files": status.waiting_files,
            "waiting_bytes": status.waiting_bytes,
            "failing": bool(status.problem),
            "oldest_waiting_timestamp_seconds": status.waiting_since,
            "last_timestamp_seconds": status.last_delivery,
        }
        for name, value in values.items():
            if value or not name.endswith("_timestamp_seconds"):
                families[name].add_metric([], value)
    return families.values()
