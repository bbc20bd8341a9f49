"""How many times the supervisor has restarted each process of the machine, as Prometheus reads it."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from prometheus_client.core import CounterMetricFamily, Metric
from prometheus_client.registry import Collector

from keyfront.fleet.heartbeat import Board


class Restarts(Collector):
    """:param names: the processes, in the order of their slots; empty for a slot that none has."""

    def __init__(self, board: Board, names: Sequence[str]) -> None:
        self._board = board
        self._names = names

    def collect(self) -> Iterable[Metric]:
        family = restarts_family()
        for slot, name in enumerate(self._names):
            if name:
                restarts, killed = self._board.restarts(slot)
                family.add_metric([name, "ended"], restarts - killed)
                family.add_metric([name, "stuck"], killed)
        yield family


def restarts_family() -> CounterMetricFamily:
    """The metric family, without samples."""
    return CounterMetricFamily(
        "keyfront_process_restarts",
        "Restarts of a process: it ended by itself, or was killed because it was stuck.",
        labels=["process", "reason"],
    )
