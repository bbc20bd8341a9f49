"""The use of credentials in the last hour, as all edges have reported it, within fixed memory. Pure.

Reports repeat what they have said before, arrive in any order, and may come from an edge that lies. Sets of hashes are
united, and of each worker's counts the highest counts, so a report may be added any number of times. An edge that lies
can make any credential look shared; it cannot hide what others report, nor take more than its part of the memory.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from heapq import nlargest
from typing import Final

from keyfront.fleet.credential_use import MOST_COUNTRIES, PANE, PANES, CredentialUse, Distinct
from keyfront.monitoring.anomalies import Evidence

MOST_CREDENTIALS: Final = 5000
"""Credentials per pane."""
MOST_OF_AN_EDGE: Final = 1000
"""Credentials per pane that are known from one enrolled edge first."""
MOST_COUNTS: Final = 50_000
"""Counts of requests and bytes, one for each credential and worker, per pane and enrolled edge, and for all other
workers. Where they run out, only networks, countries, and user agents are added."""
MOST_NAMES: Final = 4
"""Keys, and distributions, that are named for a credential."""


class _Merged:
    __slots__ = ("agents", "countries", "distributions", "keys", "label", "networks", "runs")

    def __init__(self, label: str) -> None:
        self.label = label
        self.keys: set[str] = set()
        self.distributions: set[str] = set()
        self.networks = Distinct()
        self.agents = Distinct()
        self.countries: set[str] = set()
        self.runs: dict[str, tuple[int, int]] = {}

    def add(self, run: str, use: CredentialUse, may_count: bool) -> bool:
        """Add a worker's use. Returns whether its counts are new here.

        :param may_count: whether there is room for the counts of another worker.
        """
        before = self.runs.get(run)
        if before is not None and use.requests <= before[0]:
            return False  # known already
        if before is not None or may_count:
            self.runs[run] = use.requests, max(use.bytes, before[1] if before else 0)
        for name, names in ((use.key_pair_id, self.keys), (use.distribution, self.distributions)):
            if len(names) < MOST_NAMES:
                names.add(name)
        for number in use.networks:
            self.networks.add(number)
        for number in use.agents:
            self.agents.add(number)
        if len(self.countries) < MOST_COUNTRIES:
            self.countries.update(use.countries[: MOST_COUNTRIES - len(self.countries)])
        return before is None and may_count


class _Pane:
    __slots__ = ("counts", "credentials", "first_from")

    def __init__(self) -> None:
        self.credentials: dict[str, _Merged] = {}
        self.first_from: Counter[str] = Counter()
        self.counts: Counter[str] = Counter()

    def add(self, run: str, use: CredentialUse) -> None:
        # The runs of an enrolled edge are named after it (`fleet.remote.edge_reports`); others are this machine's.
        edge, enrolled, _ = run.rpartition(":")
        merged = self.credentials.get(use.id)
        if merged is None:
            if enrolled:
                if self.first_from[edge] >= MOST_OF_AN_EDGE:
                    return
                self.first_from[edge] += 1
            if len(self.credentials) >= MOST_CREDENTIALS:
                kept = nlargest(
                    MOST_CREDENTIALS // 2, self.credentials.items(), key=lambda each: len(each[1].networks)
                )
                self.credentials = dict(kept)
            merged = self.credentials[use.id] = _Merged(use.label)
        if merged.add(run, use, self.counts[edge] < MOST_COUNTS):
            self.counts[edge] += 1


class WindowUse:
    """A credential's use within the last hour."""

    __slots__ = ("credential", "distributions", "evidence", "keys", "label")

    def __init__(self, credential: str, parts: list[_Merged]) -> None:
        self.credential = credential
        self.label = parts[0].label
        self.keys = sorted(set().union(*(part.keys for part in parts)))[:MOST_NAMES]
        self.distributions = sorted(set().union(*(part.distributions for part in parts)))[:MOST_NAMES]
        counts = [count for part in parts for count in part.runs.values()]
        self.evidence = Evidence(
            len(Distinct(number for part in parts for number in part.networks.hashes)),
            len(set().union(*(part.countries for part in parts))),
            len(Distinct(number for part in parts for number in part.agents.hashes)),
            sum(requests for requests, _ in counts),
            sum(sent for _, sent in counts),
        )


class Panes:
    """The panes of the last hour."""

    def __init__(self) -> None:
        self._panes: dict[int, _Pane] = {}

    def add(self, run: str, uses: Iterable[CredentialUse], now: float) -> None:
        """Add what a worker has reported.

        :param run: identifies the worker's process.
        :param now: epoch seconds. Panes that are over for an hour, or begin later than the next one, are ignored.
        """
        current = int(now) // PANE
        for number in [number for number in self._panes if number <= current - PANES]:
            del self._panes[number]
        for use in uses:
            if not current - PANES < use.pane <= current + 1 or use.requests <= 0:
                continue
            self._panes.setdefault(use.pane, _Pane()).add(run, use)

    def uses(self) -> Iterator[WindowUse]:
        """The use of every credential within the window."""
        panes = [pane.credentials for pane in self._panes.values()]
        for credential in set().union(*panes):
            yield WindowUse(credential, [pane[credential] for pane in panes if credential in pane])
