"""The delivery of standard logs, as Prometheus reads it: from the status file that the delivery writes."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from prometheus_client.core import Metric
from prometheus_client.registry import Collector

from keyfront.edge.logs.delivery import read_status
from keyfront.monitoring.delivery_metrics import delivery_families


class DeliveryCollector(Collector):
    """Metrics of the delivery of this machine.

    :param data: the data folder.
    """

    def __init__(self, data: Path) -> None:
        self._data = data

    def collect(self) -> Iterable[Metric]:
        return delivery_families(read_status(self._data))
