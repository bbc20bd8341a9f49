"""The reports of the workers of edges, as their control plane knows them, within bounds."""

from __future__ import annotations

import contextlib
import logging
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Generic, TypeVar

import msgspec

from keyfront.errors import SettingsError
from keyfront.fleet.counter_bounds import check_counters
from keyfront.fleet.feed import STALE, Report
from keyfront.fleet.remote import messages
from keyfront.fleet.remote.identity import Identity, Seen

log = logging.getLogger("keyfront.fleet")

MAX_WORKERS = 256
MAX_COUNTERS = 8 << 20
"""Maximum number of workers of one edge, and bytes of counters in their reports."""
MAX_ENDED = 64
"""Maximum number of reports of exited workers that one edge may send before they are stored."""
NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,127}")
"""Names of workers, and ids of reports."""


class ReportingEdge:
    """An edge that reports.

    :param address: where it is; for lists.
    """

    def __init__(self, identity: Identity, address: str, software: str) -> None:
        self.identity = identity
        self.address = address
        self.software = software[:64]
        self.workers: dict[str, messages.WorkerReport] = {}
        self.at = -STALE
        self.ended: dict[str, Report] = {}
        self.ended_size = 0

    def reports(self, counters: bool) -> Iterable[Report]:
        for one in list(self.workers.values()):
            yield self.report(one, self.at, counters)

    def report(self, one: messages.WorkerReport, at: float, counters: bool = True) -> Report:
        found: dict[str, Any] = {}
        if counters:
            with contextlib.suppress(msgspec.MsgspecError):
                found = msgspec.json.decode(one.counters, type=dict[str, Any])
            if isinstance(run := found.get("run"), str) and run:
                found["run"] = f"{self.identity.id}:{run}"  # one edge cannot count for another
        name = f"{self.identity.name}/{one.name}"
        return Report(name, 0, one.number, at, printable(one.refused), found, self.identity.region)

    def update(self, message: messages.Status, now: float) -> None:
        """Take in the reports of its workers, at `now` (epoch seconds).

        :raises SettingsError: if they are more or larger than allowed, or their counters are not an honest edge's.
        """
        alive = set(message.alive)
        if len(alive) > MAX_WORKERS or not all(map(NAME.fullmatch, alive)):
            raise SettingsError("it has too many workers, or their names are not valid")
        known = {name: one for name, one in self.workers.items() if name in alive}
        known.update((one.name, one) for one in message.reports if one.name in alive)
        if sum(len(one.counters) + len(one.refused) for one in known.values()) > MAX_COUNTERS:
            raise SettingsError("its reports are too large")
        for name, one in known.items():
            before = self.workers.get(name)
            if before is None or before.counters != one.counters:
                check_counters(one.counters)
            if one.refused and (before is None or before.refused != one.refused):
                log.warning(
                    "edge %s/%s uses snapshot %s and refused another: %s",
                    self.identity.name,
                    name,
                    one.number,
                    printable(one.refused),
                )
        self.workers, self.at = known, now

    def add_ended(self, message: messages.Ended) -> None:
        """Keep the last report of a worker that has exited, unless there are too many: then it is sent again.

        :raises SettingsError: if its counters are not an honest edge's.
        """
        if not self.ended:
            self.ended_size = 0
        size = len(message.report.counters)
        if len(self.ended) >= MAX_ENDED or self.ended_size + size > MAX_COUNTERS:
            return
        check_counters(message.report.counters)
        self.ended_size += size
        self.ended[message.id] = self.report(message.report, message.at)

    def seen(self) -> Seen:
        """Its state, for the registry."""
        number = min((one.number for one in self.workers.values()), default=0)
        return Seen(self.identity.id, self.address, number, self.software)


EdgeT = TypeVar("EdgeT", bound=ReportingEdge)


class EdgeReports(Generic[EdgeT]):
    """The reports of several edges. The methods can be called from any thread."""

    def __init__(self) -> None:
        self._edges: dict[str, EdgeT] = {}
        """By id."""
        self.trouble = ""
        """Why none of them gets snapshots; empty if that is possible."""

    def reports(self, now: float) -> list[Report]:
        """The reports of the live workers at `now` (epoch seconds), without their counters."""
        return [one for edge in self._live(now) for one in edge.reports(counters=False)]

    def full_reports(self, now: float) -> list[Report]:
        """The reports of the live workers at `now` (epoch seconds), with their counters."""
        return [one for edge in self._live(now) for one in edge.reports(counters=True)]

    def _live(self, now: float) -> list[EdgeT]:
        return [edge for edge in list(self._edges.values()) if abs(now - edge.at) <= STALE]

    def last_reports(self) -> list[Report]:
        """The last reports of all workers, with their counters."""
        return [one for edge in list(self._edges.values()) for one in edge.reports(counters=True)]

    def ended(self) -> list[tuple[Path, Report]]:
        """The last reports of workers that have exited, each with the path to pass to `forget`."""
        return [
            (Path(edge.identity.id) / id_, report)
            for edge in list(self._edges.values())
            for id_, report in list(edge.ended.items())
        ]


def printable(text: str) -> str:
    """Text from an edge for logs and terminals."""
    return "".join(one if one.isprintable() else "?" for one in text[:1000])
