"""The delivery of standard logs, as Prometheus and alarms read it: from the status file that the delivery writes."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path

from prometheus_client.core import Metric
from prometheus_client.registry import Collector

from keyfront.edge.logs.delivery import read_status
from keyfront.monitoring.delivery_metrics import delivery_families
from keyfront.monitoring.metric_series import Measurement


class DeliveryCollector(Collector):
    """Metrics of the delivery of this machine.

    :param data: the data folder.
    """

    def __init__(self, data: Path) -> None:
        self._data = data

    def collect(self) -> Iterable[Metric]:
        return delivery_families(read_status(self._data))


class DeliveryMeasurements:
    """Measurements of the delivery of this machine, for alarms; none if nothing was ever delivered.

    :param data: the data folder.
    """

    def __init__(self, data: Path) -> None:
        self._data = data

    def measurements(self, now: float) -> Iterator[Measurement]:
        """See `MeasurementSource`."""
        status = read_status(self._data)
        if status is None:
            return
        yield Measurement("LogFilesWaiting", status.waiting_files)
        yield Measurement(
            "LogDeliveryLag", max(0.0, now - status.waiting_since) if status.waiting_since else 0.0
        )
        yield Measurement("LogDeliveryFailing", bool(status.problem))
