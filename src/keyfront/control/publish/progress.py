"""Deployment progress at the edges, which makes a distribution Deployed and an invalidation Completed."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable
from typing import Protocol

from keyfront.control.store.contract import Snapshots


class Report(Protocol):
    """The report of a live edge."""

    @property
    def name(self) -> str: ...

    @property
    def number(self) -> int: ...


class DeploymentProgress:
    """The snapshot that the live edges use. Safe to use from several threads.

    :param reports: returns the reports of this control plane's live edges.
    :param name: this control plane's name in a shared store; edges that other control planes have reported there
        count as well.
    """

    def __init__(self, reports: Callable[[], Iterable[Report]], name: str) -> None:
        self._reports = reports
        self._name = name
        self._lock = threading.Lock()
        self.highest = 0
        """The highest number that all live edges were seen to use at the same time. It never decreases: an edge that
        starts later begins with the snapshot that the others have."""

    def deployed(self, transaction: Snapshots) -> int:
        """The number of the newest snapshot that every live edge uses or has used; -1 if no edge is live."""
        numbers = [report.number for report in self._reports()]
        numbers += [edge.number for edge in transaction.edges() if edge.replica != self._name]
        deployed = min(numbers, default=-1)
        with self._lock:
            self.highest = max(self.highest, deployed)
        return deployed
